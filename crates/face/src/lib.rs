//! The gRPC face that registry, SBC and router share: one listener with TLS, health and reflection,
//! and before every service the same gate: who calls, what that role may do, how much is taken on at
//! a time, and for how long.
//!
//! Not here: what the services do. Clients are in `control::channel`.

mod accept;
mod access;
pub mod audit;
mod config;
mod deadline;
pub mod errors;
mod gate;
mod health;
mod identity;
mod load;
mod messages;
mod methods;
mod peer;
mod roles;
mod server;
mod tls;

pub use config::{FaceConfig, KEYS, Limits, MESSAGE_BYTES_MAX};
pub use health::Health;
pub use identity::Identity;
pub use methods::{Need, needs};
pub use roles::{Pattern, Role, Roles};
pub use server::{ServeError, Server};
pub use tls::{TlsError, TlsFiles};
