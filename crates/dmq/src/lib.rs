//! Kamailio's DMQ bus, sans-IO: KDMQ requests between nodes, who is on the bus, and who answers.
//!
//! [`Bus`] joins through the notification addresses it is given, trades lists of nodes with Kamailio
//! and with its own kind, judges who is alive, and carries the bodies of channels to one node at a
//! time: own client transactions ([`Schedule`]), own detector of failures ([`Kind`]). Bodies are
//! opaque, but for what is known to crash a stock node.
//!
//! Not here: what channels say, to whom, and who is right; SIP transactions of calls; transports
//! other than UDP; the resolution of names.
//!
//! Source: Kamailio modules `dmq` (`notification_peer.c`, `dmqnode.c`, `message.c`), and captures of
//! it in `testdata/dmq`.

mod address;
mod bus;
pub mod list;
mod node;
mod replies;
mod request;
mod wire;

pub use address::Network;
pub use bus::{Bus, BusConfig, Counters, Delivery, Event};
pub use node::{Kind, NodeState, NodeStatus};
pub use request::{RequestId, Schedule};

/// The channel on which nodes tell each other who is on the bus.
pub const NOTIFICATION_CHANNEL: &str = "notification_peer";
/// The channel that only Tandem nodes know; a stock node answers 404 on it.
pub const TANDEM_CHANNEL: &str = "tandem";
/// Other nodes on a bus: with this one 28, because a stock node falls silent for ever when its list
/// no longer fits its buffer.
pub const NODES_MAX: usize = 27;
/// Channel requests to one node that wait for their answer.
pub const WINDOW: usize = 64;
/// Bytes of all channel requests of a bus that wait for their answers.
pub const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// Bytes in a body that is sent: with its headers it still fits a datagram.
pub const BODY_BYTES_MAX: usize = 60_000;
/// Bytes in the name of a channel that is sent on.
pub const CHANNEL_BYTES_MAX: usize = 64;
/// Requests whose replies are remembered for their retransmissions.
pub const REPLIES_MAX: usize = 16_384;
