//! What an SBC and a router are as processes: settings, sockets and workers around an element, the
//! membership in the registry, gRPC and HTTP faces, drain and end. A service adds a [`Role`].

mod addresses;
mod config;
pub mod destinations;
mod drain;
mod egress;
mod figures;
mod handle;
mod keys;
mod live;
mod metrics;
mod owners;
pub mod pages;
mod process;
mod records;
mod resolve;
pub mod tap;

pub use addresses::{ADDRESSES_MAX, Addresses, KEPT_FOR, PastMember};
pub use config::{DmqConfig, HostConfig, RoleDefaults};
pub use drain::{Drain, DrainedBy};
pub use egress::Egress;
pub use figures::Figures;
pub use handle::Handle;
pub use keys::keys;
pub use owners::Owners;
pub use process::{Host, Role, command, main, run};
pub use records::RecordFile;
pub use resolve::{Answer, FRESH_MAX, FRESH_MIN, NAME_ADDRESSES_MAX, Name};
