//! What a router saw of dialogs that it does not hold yet: it has just started, or the record is on its way.
//!
//! In-dialog requests are served by their Route alone, so a BYE may pass before anybody has told of its
//! dialog. Without its end the dialog would then go on here, and from here everywhere, until its deadline.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::observation::Observation;
use crate::record::Text;

/// How long it is kept. Whoever can be reached has told everything long before: a Kamailio that is asked for
/// its dialogs repeats each for 27.5 s.
const KEPT: Duration = Duration::from_secs(64);

/// How many are kept; beyond it the oldest is dropped, counted.
pub const UNPLACED_MAX: usize = 16_384;

/// What was seen of dialogs that are not here.
#[derive(Debug, Default)]
pub(crate) struct Unplaced {
    /// By Call-ID and the order in which they came.
    seen: BTreeMap<(Text, u64), Observation>,
    order: VecDeque<(Instant, Text, u64)>,
    count: u64,
    dropped: u64,
}

impl Unplaced {
    /// Keeps something for which [`Observed::is_lasting`] holds.
    pub(crate) fn keep(&mut self, now: Instant, seen: Observation) {
        while self.order.len() >= UNPLACED_MAX {
            self.dropped += u64::from(self.forget_oldest());
        }
        self.count += 1;
        self.order
            .push_back((now, seen.call_id.clone(), self.count));
        self.seen.insert((seen.call_id.clone(), self.count), seen);
    }

    /// Takes out what was seen of a call, in its order.
    pub(crate) fn take(&mut self, call_id: &[u8]) -> Vec<Observation> {
        let at = |count| (Text::from(call_id), count);
        let range = at(0)..=at(u64::MAX);
        let found = self.seen.range(range).map(|(at, _)| at.clone());
        let found: Vec<_> = found.collect();
        let taken = found.iter().filter_map(|at| self.seen.remove(at));
        taken.collect()
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        let is_old =
            |(since, ..): &(Instant, Text, u64)| now.saturating_duration_since(*since) >= KEPT;
        while self.order.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest; tells whether it was still there.
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.order.pop_front();
        oldest.is_some_and(|(_, call_id, count)| self.seen.remove(&(call_id, count)).is_some())
    }

    /// Returns how many were dropped for want of room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Observed;
    use crate::record::Cause;

    fn seen(call_id: &str, what: Observed) -> Observation {
        Observation {
            call_id: call_id.as_bytes().into(),
            h_id: None,
            from_tag: Text::default(),
            to_tag: Text::default(),
            what,
        }
    }

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn what_changes_a_dialog_is_kept_in_its_order_for_its_time() {
        let now = start();
        let mut unplaced = Unplaced::default();
        let bye = || Observed::Ended(Cause::Bye);
        for what in [Observed::Acked, bye()] {
            unplaced.keep(now, seen("one", what));
        }
        unplaced.keep(now + KEPT / 2, seen("two", bye()));
        let one: Vec<_> = unplaced.take(b"one");
        let what: Vec<_> = one.into_iter().map(|seen| seen.what).collect();
        assert_eq!(what, [Observed::Acked, bye()]);
        assert_eq!(unplaced.take(b"one"), [], "once");
        unplaced.expire(now + KEPT);
        assert_eq!(unplaced.seen.len(), 1, "younger");
        unplaced.expire(now + KEPT / 2 + KEPT);
        assert_eq!((unplaced.seen.len(), unplaced.order.len()), (0, 0));
    }

    #[test]
    fn of_too_many_the_oldest_are_dropped() {
        let now = start();
        let mut unplaced = Unplaced::default();
        for i in 0..UNPLACED_MAX + 2 {
            unplaced.keep(now, seen(&i.to_string(), Observed::Acked));
        }
        assert_eq!((unplaced.seen.len(), unplaced.dropped()), (UNPLACED_MAX, 2));
        assert_eq!(unplaced.take(b"1").len(), 0);
        assert_eq!(unplaced.take(b"2").len(), 1);
    }
}
