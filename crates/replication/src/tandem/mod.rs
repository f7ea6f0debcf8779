//! What Tandem nodes say to each other: records as soon as they change, and what repairs the rest.
//!
//! [`Channel`] is this node's end of the bus channel `tandem`, to all nodes. What it says stands in
//! `messages.rs`, what waits for one node in `link.rs`, how two nodes find what they do not both hold
//! in `pair.rs` (what is known of the differences), `repair.rs` (what is said about them) and `groups.rs` (how
//! keys are written there). Who looks at the bus asks [`told`] what a body says.

mod channel;
mod convert;
mod groups;
mod link;
mod messages;
mod pair;
mod repair;
mod status;
mod told;

pub use channel::{Channel, HelloData};
pub use convert::{REMAINING_MAX, RecordError, record_bytes};
pub use groups::GROUPS_MAX;
pub use link::{PENDING_MAX, QUEUE_MAX, WINDOW};
pub use messages::{
    BODY_BYTES_MAX, BODY_BYTES_TARGET, BodyError, NODE_ID_BYTES_MAX, RECORDS_MAX, SCHEMA,
};
pub use pair::CANDIDATES_MAX;
pub use repair::{PULLS_MAX, UNWANTED_MAX};
pub use status::{Counters, Kind, NodeStatus, Sent, Status};
pub use told::{Listed, Told, told};
