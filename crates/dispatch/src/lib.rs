//! Destination sets, selection and who is alive: the dispatcher, sans-IO.
//!
//! Two halves that meet in a [`View`]. [`Health`] judges destinations from what the node sees of
//! them and asks for OPTIONS to be sent; there is one per node. [`Sets`] is the configuration;
//! [`Sets::view`] joins both into an immutable snapshot that shards read without locks: where does
//! this Call-ID go, in which order, and who inherits the dialogs of a router that died.
//!
//! Not here: SIP messages, sockets, the resolution of names, and where a configuration comes from.

mod algorithm;
mod destination;
mod health;
mod rank;
mod set;
mod view;

pub use algorithm::{Algorithm, AlgorithmError};
pub use destination::{Administrative, DestinationConfig, Reason, State, Status};
pub use health::{
    ConfigureError, DESTINATIONS_MAX, Health, HealthConfig, HealthEvent, Probe, ProbeSeq,
    UnknownDestination,
};
pub use rank::{ClusterKey, Score, score};
pub use set::{DestinationSet, MEMBERS_MAX, Member, SETS_MAX, Sets, SetsError};
pub use view::{DestinationIndex, Ranking, SetView, View};
