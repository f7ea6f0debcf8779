//! How the services reach the router's part in its cell: never long, and never for what is not there.

use std::time::{Instant, SystemTime};

use prost_types::Timestamp;
use replication::{Now, Replication};
use tonic::Status;

use crate::node::Node;
use crate::shard::Shard;

/// The router's part in its cell, behind the node's lock. SIP waits meanwhile: whoever has much to
/// look at comes several times.
#[derive(Clone)]
pub(super) struct Cell(host::Handle<Shard, Node>);

impl Cell {
    pub(super) fn new(handle: host::Handle<Shard, Node>) -> Self {
        Self(handle)
    }

    /// Looks at it.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Replication) -> R) -> Result<R, Status> {
        let element = self.0.element();
        let found = element.inspect_node(|node| node.replication().map(look));
        found.ok_or_else(on_no_bus)
    }

    /// Changes it; the bus is told before this returns.
    pub(super) fn change<R>(
        &self,
        change: impl FnOnce(&mut Replication, Now) -> R,
    ) -> Result<R, Status> {
        let changed = self
            .0
            .with_node(|now, node| node.with_replication(now, change));
        changed.ok_or_else(on_no_bus)
    }

    /// Returns the time by which it runs.
    pub(super) fn now(&self) -> Instant {
        self.0.now()
    }

    /// Returns how to tell its moments to others.
    pub(super) fn clock(&self) -> Clock {
        Clock {
            now: self.now(),
            wall: SystemTime::now(),
        }
    }
}

fn on_no_bus() -> Status {
    Status::unavailable(
        "this router is on no bus yet, because it has not heard of a registry: check its setting \
         registry, and /readyz",
    )
}

/// One moment on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Returns a moment that has passed as others read it.
    pub(super) fn past(&self, moment: Instant) -> Timestamp {
        (self.wall - self.now.saturating_duration_since(moment)).into()
    }
}

/// Returns seconds since 1970 as a timestamp; 0 is none.
pub(super) fn seconds(since_1970: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(since_1970).ok().filter(|at| *at > 0)?;
    Some(Timestamp { seconds, nanos: 0 })
}
