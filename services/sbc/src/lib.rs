//! The SBC: faces carriers and IPBXs, gives every request to a router, and loses no call when one dies.
//!
//! [`Shard`] and [`Node`] are sans-IO; worker threads and the simulator drive both through
//! [`element::Sharded`]. `routes/` reads like the configuration of a Kamailio SBC.

mod counters;
mod dialogs;
mod grpc;
mod headers;
mod name_book;
mod names;
mod node;
mod pass;
mod role;
mod routes;
mod shard;
mod signs;
mod tap;
mod unreachable;
mod view;

pub use counters::Counters;
pub use name_book::{ABSENT_FOR, FORGOTTEN_AFTER, MARKED_FOR, MARKS_MAX, NAMES_MAX, UNUSED_AFTER};
pub use names::{Known, Names, PATIENCE, WAITING_MAX};
pub use node::{Change, FIRST_SET, Node};
pub use role::Sbc;
pub use routes::next_address::SILENT_AFTER;
pub use shard::{FAILOVER_BURST, FAILOVER_PAUSE, Notice, Shard};
pub use signs::Signs;
pub use unreachable::{NOTICE_INTERVAL, NOTICED_MAX};
pub use view::{Addresses, Owner, View};
