//! One part of an element behind its locks: a shard, or the node.

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

/// A part, the lock of its state, the lock of its sending, and its deadline beside them.
///
/// The order in which locks are taken, by everyone: the node's sending lock, those of the shards by
/// rising index, then the node's state, then one shard's state at a time.
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
    /// Held from taking the output out of the state until it is on the wire.
    pub(crate) sending: Mutex<()>,
    deadline: Deadline,
}

struct State<T> {
    part: T,
    latest: Option<Instant>,
}

impl<T> Slot<T> {
    pub(crate) fn new(part: T, timeout: Option<Instant>, epoch: &OnceLock<Instant>) -> Self {
        let slot = Self {
            state: Mutex::new(State { part, latest: None }),
            sending: Mutex::new(()),
            deadline: Deadline(AtomicI64::new(Deadline::NONE)),
        };
        slot.set_deadline(timeout, epoch);
        slot
    }

    /// Locks the part for a turn at `now`.
    ///
    /// Workers read the clock before they get here, so the one that waited comes with the older
    /// time: [`Locked::now`] is the later of its own and of what the part has already seen.
    pub(crate) fn lock(&self, now: Instant) -> Locked<'_, T> {
        let mut state = self.state.lock();
        let now = state.latest.map_or(now, |latest| latest.max(now));
        state.latest = Some(now);
        Locked { state, now }
    }

    /// Locks the part to look at it, or to take its output.
    pub(crate) fn lock_untimed<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.state.lock().part)
    }

    /// Writes down when the part wants its timers run; to be called while the part is locked.
    pub(crate) fn set_deadline(&self, timeout: Option<Instant>, epoch: &OnceLock<Instant>) {
        self.deadline.set(timeout, epoch);
    }

    /// Returns when the part wants its timers run, without a lock.
    pub(crate) fn deadline(&self, epoch: &OnceLock<Instant>) -> Option<Instant> {
        self.deadline.get(epoch)
    }
}

/// A locked part, and the time that holds for it.
pub(crate) struct Locked<'a, T> {
    state: MutexGuard<'a, State<T>>,
    pub(crate) now: Instant,
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state.part
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state.part
    }
}

/// An `Option<Instant>` in one atomic word: nanoseconds from the element's epoch, either way.
struct Deadline(AtomicI64);

impl Deadline {
    const NONE: i64 = i64::MAX;

    fn set(&self, timeout: Option<Instant>, epoch: &OnceLock<Instant>) {
        let nanos = timeout.map_or(Self::NONE, |timeout| {
            let epoch = *epoch.get_or_init(|| timeout);
            match timeout.checked_duration_since(epoch) {
                Some(after) => i64::try_from(after.as_nanos()).unwrap_or(Self::NONE),
                None => {
                    i64::try_from((epoch - timeout).as_nanos()).map_or(i64::MIN, |before| -before)
                }
            }
        });
        self.0.store(nanos, Ordering::Release);
    }

    fn get(&self, epoch: &OnceLock<Instant>) -> Option<Instant> {
        let nanos = self.0.load(Ordering::Acquire);
        if nanos == Self::NONE {
            return None;
        }
        let distance = std::time::Duration::from_nanos(nanos.unsigned_abs());
        epoch.get().map(|epoch| {
            if nanos < 0 {
                *epoch - distance
            } else {
                *epoch + distance
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an Instant can be had from nowhere else
    fn a_deadline_comes_back_whether_before_or_after_the_epoch() {
        let base = Instant::now() + Duration::from_secs(10);
        let epoch = OnceLock::new();
        let slot = Slot::new((), Some(base), &epoch);
        for timeout in [
            Some(base),
            Some(base - Duration::from_secs(3)),
            None,
            Some(base + Duration::from_nanos(7)),
        ] {
            slot.set_deadline(timeout, &epoch);
            assert_eq!(slot.deadline(&epoch), timeout);
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // an Instant can be had from nowhere else
    fn time_never_goes_backwards_for_a_part() {
        let base = Instant::now();
        let slot = Slot::new((), None, &OnceLock::new());
        assert_eq!(
            slot.lock(base + Duration::from_millis(5)).now,
            base + Duration::from_millis(5)
        );
        assert_eq!(slot.lock(base).now, base + Duration::from_millis(5));
    }
}
