//! Sockets, batches, worker threads and the clock they keep: what drives an [`element::Element`].
//!
//! [`Sockets::bind`] takes the listen addresses, [`Workers::start`] puts one thread with its own
//! sockets on each share of the traffic, [`RunningClock`] tells them the time. No async runtime is on
//! the packet path. This crate is the one home of unsafe code: the system calls in `sys`.

mod clock;
mod counters;
mod holder;
mod sockets;
mod sys;
mod transmitter;
mod workers;

pub use clock::RunningClock;
pub use counters::{Counters, SendErrorKind};
pub use holder::Holder;
pub use sockets::{BindError, Sockets};
pub use sys::{BATCH_DATAGRAMS, ReceiveBatch, send_batch};
pub use transmitter::Transmitter;
pub use workers::{WORKERS_MAX, Workers};
