//! Timer values of RFC 3261 (table 4) and RFC 6026, and the queue of what is due when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// The timers of one element. RFC 3261 section 17.1.1.1 and table 4.
#[derive(Clone, Copy, Debug)]
pub struct TimerConfig {
    /// Estimate of the round trip. Default 500 ms. Smaller floods a slow peer with repeats.
    pub t1: Duration,
    /// The longest interval between repeats of a non-INVITE request or an INVITE response. Default 4 s.
    pub t2: Duration,
    /// How long a message may live in the network. Default 5 s.
    pub t4: Duration,
}

impl Default for TimerConfig {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl TimerConfig {
    /// Returns 64 * T1: Timers B, D, F, H, J, L and M over an unreliable transport.
    #[must_use]
    pub fn transaction(&self) -> Duration {
        self.t1 * 64
    }

    /// Returns how long a non-INVITE server stays silent before it says 100: until the client's
    /// Timer E has reached T2 (RFC 4320 section 4.1).
    #[must_use]
    pub fn non_invite_trying(&self) -> Duration {
        self.t1 * 7
    }
}

/// When the next thing is due, for anything that has at most one deadline.
///
/// Owners re-check on waking: an entry that has moved later is simply armed again, so that the usual
/// case, a deadline that is cancelled or pushed back, costs nothing.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    pub(crate) fn arm(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

/// Returns the earlier of two deadlines.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, None) => a,
        (None, b) => b,
    }
}

/// Returns a moment for tests to start from; no test depends on which.
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
pub(crate) fn origin() -> Instant {
    Instant::now()
}
