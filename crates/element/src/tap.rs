//! A tap: somebody who looks at every datagram that an element takes and gives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use crate::FlowId;

/// Where a datagram was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapPoint {
    /// As it came, before anything read it.
    In,
    /// As it leaves, in the order of leaving.
    Out,
}

/// Sees every datagram of an element while it is set.
pub trait Tap: Send + Sync {
    /// Sees one datagram from (`In`) or to (`Out`) `remote`; must neither block nor fail.
    fn message(
        &self,
        now: Instant,
        point: TapPoint,
        flow: FlowId,
        remote: SocketAddr,
        bytes: &[u8],
    );
}

/// The place for a tap: one relaxed load on the packet path while there is none.
#[derive(Default)]
pub(crate) struct TapSlot {
    set: AtomicBool,
    tap: RwLock<Option<Arc<dyn Tap>>>,
}

impl TapSlot {
    pub(crate) fn set(&self, tap: Option<Arc<dyn Tap>>) {
        let mut place = self.tap.write();
        self.set.store(tap.is_some(), Ordering::Relaxed);
        *place = tap;
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    pub(crate) fn message(
        &self,
        now: Instant,
        point: TapPoint,
        flow: FlowId,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        if self.is_set()
            && let Some(tap) = &*self.tap.read()
        {
            tap.message(now, point, flow, remote, bytes);
        }
    }
}
