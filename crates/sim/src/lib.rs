//! A simulated clock, network and hosts. Only ever a dev-dependency.
//!
//! A [`World`] holds hosts: [`element::Element`]s, the very ones that worker threads drive, and
//! [`Agent`]s such as `user_agent::Carrier`. Everything that happens comes out of one queue ordered by
//! time and sequence, everything random out of one seed: the same seed gives the same [`Trace`],
//! byte by byte. No wall clock, no socket, no thread.

mod agent;
mod host;
mod trace;
mod world;

pub use agent::Agent;
pub use host::{HostId, SOCKET_DATAGRAMS_MAX};
pub use trace::{Fate, RECORDS_MAX, Record, Trace};
pub use world::{Arrival, Link, World};
