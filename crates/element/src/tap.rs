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
        if !self.is_set() {
            return;
        }
        // Not under the lock: a tap has locks of its own, and who takes it off may hold them.
        let tap = self.tap.read().clone();
        if let Some(tap) = tap {
            tap.message(now, point, flow, remote, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Takes itself off while it looks at a message.
    struct Leaving(Arc<TapSlot>, mpsc::Sender<()>);

    impl Tap for Leaving {
        fn message(&self, _: Instant, _: TapPoint, _: FlowId, _: SocketAddr, _: &[u8]) {
            self.0.set(None);
            self.1.send(()).unwrap();
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // threads stand in for the drivers
    fn a_tap_may_be_taken_off_while_it_looks() {
        let slot = Arc::new(TapSlot::default());
        let (left, leaving) = mpsc::channel();
        slot.set(Some(Arc::new(Leaving(slot.clone(), left))));
        let remote = SocketAddr::from(([127, 0, 0, 1], 5060));
        let seen = slot.clone();
        std::thread::spawn(move || {
            seen.message(Instant::now(), TapPoint::In, FlowId(0), remote, b"x");
        });
        leaving.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(!slot.is_set());
    }
}
