//! One SIP element as its drivers see it: worker threads over real sockets, or the simulator.
//!
//! An element is a set of shards and one node. A [`Shard`] owns the transactions, dialogs and
//! timers of the calls whose Call-ID hashes to it; the [`Node`] owns what the whole process shares
//! (destination health, membership) and publishes an immutable view of it. [`Sharded`] puts them
//! behind short locks. Nothing here reads a clock, opens a socket or starts a thread.

mod outbox;
mod sharded;
mod slot;
mod tap;

pub use outbox::{Outbox, Transmit};
pub use sharded::{Node, Shard, Sharded};
pub use tap::{Tap, TapPoint};

use std::any::Any;
use std::net::SocketAddr;
use std::time::Instant;

/// Names one listen address of the element: the index in the order in which they were configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u16);

/// One datagram as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The listen address that received it.
    pub flow: FlowId,
    /// Who sent it.
    pub source: SocketAddr,
    /// The payload, at most 65 535 bytes.
    pub bytes: &'a [u8],
}

/// What a driver drives. Every method may be called from any worker thread.
///
/// A driver's turn: `handle_batch` for each batch that the sockets hold, then `handle_timeout` when
/// `poll_timeout` has passed (sockets are drained before timers act), then `flush`.
pub trait Element: Send + Sync + 'static {
    /// Takes a batch of datagrams, in the order of their arrival.
    fn handle_batch(&self, now: Instant, batch: &[Datagram<'_>], turn: &mut Turn);

    /// Takes the news that `destination` cannot be reached (ICMP unreachable on `flow`).
    fn handle_unreachable(
        &self,
        now: Instant,
        flow: FlowId,
        destination: SocketAddr,
        turn: &mut Turn,
    );

    /// Runs the timers that are due in the part of the element that `worker` of `workers` cares for.
    fn handle_timeout(&self, now: Instant, worker: usize, workers: usize, turn: &mut Turn);

    /// Returns when `handle_timeout` is due for `worker` of `workers`.
    fn poll_timeout(&self, worker: usize, workers: usize) -> Option<Instant>;

    /// Sends everything that the shards touched in this turn have queued.
    ///
    /// A shard's output is taken and sent under that shard's sending lock, so that a later batch of
    /// a shard never overtakes an earlier one, whichever workers handled them.
    fn flush(&self, turn: &mut Turn, sender: &mut dyn Sender);
}

/// Puts datagrams on the wire, or into the simulated network.
pub trait Sender {
    /// Sends every datagram of every outbox, outboxes in order and each outbox in order.
    fn send(&mut self, outboxes: &[Outbox]);
}

/// What one driver keeps between the calls of its turns: scratch space, never state of the element.
#[derive(Default)]
pub struct Turn {
    pub(crate) index: sip_types::Index,
    pub(crate) touched: Vec<usize>,
    pub(crate) outboxes: Vec<Outbox>,
    pub(crate) now: Option<Instant>,
    scratch: Option<Box<dyn Any + Send>>,
}

impl Turn {
    /// Creates an empty turn.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes out the scratch value that the last turn of the same kind of element put back.
    pub(crate) fn take_scratch<T: Default + Send + 'static>(&mut self) -> Box<T> {
        self.scratch
            .take()
            .and_then(|scratch| scratch.downcast().ok())
            .unwrap_or_default()
    }

    pub(crate) fn put_scratch<T: Send + 'static>(&mut self, scratch: Box<T>) {
        self.scratch = Some(scratch);
    }
}
