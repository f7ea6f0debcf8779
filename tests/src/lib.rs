//! A whole fabric in one simulated world: carriers, an SBC, its routers, IPBXs, and what befalls them.
//!
//! `scenarios` and `sim` are built on it. The SBC and the routers are the elements that the services'
//! worker threads drive; the registry is a view that is handed to them, at once or late.

mod fabric;
mod faults;
mod ladder;

pub use fabric::{Fabric, FabricConfig, RouterHandle};
pub use faults::Death;
pub use ladder::{draw, draw_call};
