//! Call flows through a whole fabric.
//!
//! [`text`] runs the scripts beside this file; [`deaths`] lets a router die at every point in every
//! way, [`crowd`] amid many calls; [`forged`] has a carrier that lies; [`places`] is about where routers
//! send requests.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test shows what it saw, and a failed unwrap is a failed test"
)]

mod crowd;
mod deaths;
mod forged;
mod places;
mod text;
