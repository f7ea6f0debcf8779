//! What tests of one service need, whichever it is: a node and a shard without a network ([`Bench`]), a
//! registry and a node in the process of the test ([`process`]), and resources of a view to start from.
//! Only ever a dev-dependency.

#![allow(clippy::unwrap_used, reason = "for tests: panics are their verdict")]

mod bench;
pub mod process;
mod resources;

pub use bench::{Bench, Sent, answer};
pub use resources::{destination, destination_set, member};
