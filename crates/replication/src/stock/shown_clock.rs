//! The clock of a Kamailio node, as `last_modified` shows it (6.2).
//!
//! Much of what a node says comes late, so the greatest look counts; but a clock that was wrong for a moment is
//! not so for ever, so only of the last minute or two in which it was seen. Our own wall clock plays no part.

use std::time::{Duration, Instant};

/// How long the greatest look counts at least, and half of how long at most.
const COUNTS: Duration = Duration::from_secs(60);

/// What the clock showed, in milliseconds since 1970, and when that was.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    shown: u64,
}

impl Look {
    fn reading(self, now: Instant) -> u64 {
        let run = now.saturating_duration_since(self.at).as_millis() as u64;
        self.shown.saturating_add(run)
    }
}

/// The clock of one node on one channel.
#[derive(Debug, Default)]
pub(super) struct ShownClock {
    since: Option<Instant>,
    /// The greatest look since then.
    latest: Option<Look>,
    /// The greatest of the minute before, if it was seen in that.
    former: Option<Look>,
}

impl ShownClock {
    pub(super) fn see(&mut self, now: Instant, shown: u64) {
        let age = self.since.map(|since| now.saturating_duration_since(since));
        if age.is_none_or(|age| age >= COUNTS) {
            let counts = age.is_some_and(|age| age < 2 * COUNTS);
            self.former = self.latest.take().filter(|_| counts);
            self.since = Some(now);
        }
        if self.latest.is_none_or(|look| look.reading(now) < shown) {
            self.latest = Some(Look { at: now, shown });
        }
    }

    pub(super) fn is_seen(&self) -> bool {
        self.latest.is_some()
    }

    /// Returns what it shows now, in milliseconds since 1970; `None` when it was not seen.
    pub(super) fn read(&self, now: Instant) -> Option<u64> {
        let looks = [self.former, self.latest].into_iter().flatten();
        looks.map(|look| look.reading(now)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOON: u64 = 12 * HOUR;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> Instant {
        Instant::now()
    }

    /// What a clock is ahead at the end that was seen at these seconds, so far ahead.
    fn ahead(looks: &[(u64, u64)], seconds: u64) -> Option<u64> {
        let start = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = ShownClock::default();
        for (seconds, ahead) in looks {
            clock.see(at(*seconds), NOON + seconds * 1000 + ahead);
        }
        let reading = clock.read(at(seconds))?;
        Some(reading - NOON - seconds * 1000)
    }

    #[test]
    fn it_runs_on_by_itself_and_what_comes_late_sets_nothing_back() {
        assert_eq!(ahead(&[], 0), None);
        assert_eq!(ahead(&[(0, 500)], 5000), Some(500));
        assert_eq!(ahead(&[(0, 500), (1, 0), (61, 0)], 61), Some(500));
    }

    #[test]
    fn what_was_wrong_for_a_moment_counts_for_two_minutes_of_looks() {
        let looks = [(0, HOUR), (10, 7), (71, 7), (132, 7)];
        assert_eq!(ahead(&looks[..3], 131), Some(HOUR));
        assert_eq!(ahead(&looks, 132), Some(7));
        assert_eq!(ahead(&[(0, HOUR), (120, 7)], 120), Some(7));
    }
}
