//! Call flows through a whole fabric.
//!
//! [`text`] runs the scripts beside this file; [`deaths`] lets a router die at every point in every
//! way; [`forged`] has a carrier that lies.

mod deaths;
mod forged;
mod text;
