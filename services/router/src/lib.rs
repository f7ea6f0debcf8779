//! The router: decides where calls go and sends them back through the SBC they came from.
//!
//! [`Shard`] and [`Node`] are sans-IO; worker threads and the simulator drive both through
//! [`element::Sharded`]. `routes/` reads like the configuration of a Kamailio router.

mod cell;
mod decision;
mod grpc;
mod metrics;
mod node;
mod record;
mod role;
mod routes;
mod seen;
mod shard;
mod view;

pub use host::Egress;

pub use cell::BusIdentity;
pub use decision::{Hop, Rules};
pub use node::Node;
pub use record::{CallRecord, RECORDS_MAX};
pub use role::Router;
pub use shard::{Counters, Shard};
pub use view::{Addresses, View};
