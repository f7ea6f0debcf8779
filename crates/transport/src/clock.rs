//! A clock that counts this process's running time.
//!
//! A process that was stopped, or starved of its processor, finds on its return that all deadlines
//! have passed although nobody had a chance to answer. So time here runs only while *every* worker
//! turns: one that is held up holds answers in its sockets, whatever the others do.
//!
//! Each worker says how long it means to wait; if it comes back over 20 ms later than that, the
//! excess is a pause. [`RunningClock::now`] never runs past the point at which some worker would be
//! that late, and once it is back the pause is subtracted for good. Pauses of several workers overlap
//! (they usually have one cause); what was subtracted up to some moment is not subtracted again.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::WORKERS_MAX;

/// How late a worker may come back before the time it was away counts as a pause.
const LATE_MAX: Duration = Duration::from_millis(20);

/// Tells the time to workers, and to whoever else calls into their element.
///
/// Time starts as that of the system and runs like it until the first pause. `now` never goes
/// backwards; after a pause it may stand still for up to 20 ms.
#[derive(Debug)]
pub struct RunningClock {
    base: Instant,
    /// Until when each worker counts as running, if it says nothing more.
    running_until: [Until; WORKERS_MAX],
    workers: AtomicUsize,
    /// Sum of all pauses, nanoseconds; only written with `accounted` locked.
    paused: AtomicU64,
    pauses: AtomicU64,
    /// Up to where pauses have been subtracted, nanoseconds from `base`.
    accounted: Mutex<u64>,
    /// The latest time that was told.
    told: AtomicU64,
}

/// Nanoseconds from the clock's base, on a cache line of its own: its worker writes it twice a turn.
#[derive(Debug)]
#[repr(align(64))]
struct Until(AtomicU64);

impl Until {
    /// Of a worker that does not run (yet, or any more) and holds up nobody.
    const FOREVER: u64 = u64::MAX;
}

impl Default for RunningClock {
    fn default() -> Self {
        Self::new()
    }
}

impl RunningClock {
    /// Starts a clock at the system's time.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Instant::now())
    }

    fn starting_at(base: Instant) -> Self {
        Self {
            base,
            running_until: std::array::from_fn(|_| Until(AtomicU64::new(Until::FOREVER))),
            workers: AtomicUsize::new(0),
            paused: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            accounted: Mutex::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Returns the running time, as an `Instant` from which all pauses so far are subtracted.
    pub fn now(&self) -> Instant {
        self.at(Instant::now())
    }

    /// Returns how many pauses there were and how long they took together.
    pub fn pauses(&self) -> (u64, Duration) {
        (
            self.pauses.load(Ordering::Relaxed),
            Duration::from_nanos(self.paused.load(Ordering::Relaxed)),
        )
    }

    /// Makes room for one more worker, at most [`WORKERS_MAX`] at a time.
    pub(crate) fn add_worker(self: &std::sync::Arc<Self>) -> Beat {
        let worker = self.workers.fetch_add(1, Ordering::AcqRel);
        assert!(worker < WORKERS_MAX, "Sockets::bind allows no more workers");
        Beat {
            clock: self.clone(),
            worker,
        }
    }

    fn at(&self, raw: Instant) -> Instant {
        let workers = self.workers.load(Ordering::Acquire).min(WORKERS_MAX);
        // Limits first, pauses second: a worker subtracts its pause before it moves its limit.
        let limit = self.running_until[..workers]
            .iter()
            .map(|until| until.0.load(Ordering::Acquire))
            .min();
        let elapsed = self.nanos(raw).min(limit.unwrap_or(Until::FOREVER));
        let running = elapsed.saturating_sub(self.paused.load(Ordering::Acquire));
        let told = self.told.fetch_max(running, Ordering::AcqRel);
        self.base + Duration::from_nanos(running.max(told))
    }

    /// Notes that `worker` runs at `raw` and will be back after `wait`.
    fn beat(&self, worker: usize, raw: Instant, wait: Duration) {
        let raw = self.nanos(raw);
        let until = &self.running_until[worker].0;
        let limit = until.load(Ordering::Acquire);
        if raw > limit {
            self.account(limit - nanos(LATE_MAX), raw);
        }
        until.store(raw + nanos(wait + LATE_MAX), Ordering::Release);
    }

    /// Subtracts the time between `from` and `to`, but nothing twice.
    ///
    /// Two workers report one pause one after the other, the first to report maybe the later to have
    /// been held up: what the other lost before that, a few milliseconds, is not counted.
    fn account(&self, from: u64, to: u64) {
        let mut accounted = self.accounted.lock();
        let from = from.max(*accounted);
        if to > from {
            self.paused.fetch_add(to - from, Ordering::AcqRel);
            self.pauses.fetch_add(1, Ordering::Relaxed);
            *accounted = to;
        }
    }

    fn nanos(&self, raw: Instant) -> u64 {
        nanos(raw.saturating_duration_since(self.base))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One worker's sign that it runs. When it is dropped, the worker no longer holds up time.
#[derive(Debug)]
pub(crate) struct Beat {
    clock: std::sync::Arc<RunningClock>,
    worker: usize,
}

impl Beat {
    /// To be called before a wait of at most `wait`, and after it with zero.
    pub(crate) fn beat(&self, wait: Duration) {
        self.clock.beat(self.worker, Instant::now(), wait);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.clock.running_until[self.worker]
            .0
            .store(Until::FOREVER, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A clock and its workers at raw times in milliseconds from its start.
    struct Bench {
        base: Instant,
        clock: Arc<RunningClock>,
        beats: Vec<Beat>,
    }

    impl Bench {
        fn new(workers: usize) -> Self {
            let base = Instant::now();
            let clock = Arc::new(RunningClock::starting_at(base));
            let beats = (0..workers).map(|_| clock.add_worker()).collect();
            Self { base, clock, beats }
        }

        fn beat(&self, worker: usize, raw: u64, wait: u64) {
            self.clock.beat(
                worker,
                self.base + Duration::from_millis(raw),
                Duration::from_millis(wait),
            );
        }

        fn now(&self, raw: u64) -> u64 {
            let now = self.clock.at(self.base + Duration::from_millis(raw));
            u64::try_from((now - self.base).as_millis()).unwrap()
        }
    }

    #[test]
    fn without_workers_time_is_that_of_the_system() {
        let bench = Bench::new(0);
        assert_eq!([bench.now(3), bench.now(5_000)], [3, 5_000]);
    }

    #[test]
    fn a_wait_that_was_asked_for_and_a_small_delay_are_no_pause() {
        let bench = Bench::new(1);
        bench.beat(0, 0, 10);
        bench.beat(0, 10 + 19, 0);
        assert_eq!(bench.now(29), 29);
        bench.beat(0, 29 + 15, 10);
        assert_eq!(bench.now(44), 44);
        assert_eq!(bench.clock.pauses(), (0, Duration::ZERO));
    }

    #[test]
    fn a_pause_is_subtracted_whoever_reads_the_clock_first() {
        let bench = Bench::new(1);
        bench.beat(0, 100, 10);
        // Stopped from 105 to 1105. Somebody else reads first: time has run to the limit, no further.
        assert_eq!(bench.now(1105), 130);
        bench.beat(0, 1105, 0);
        assert_eq!(bench.clock.pauses(), (1, Duration::from_millis(995)));
        // It stands still until it has made up for the 20 ms that it went too far, then runs on.
        assert_eq!(
            [bench.now(1105), bench.now(1120), bench.now(1125)],
            [130, 130, 130]
        );
        bench.beat(0, 1125, 0);
        assert_eq!(bench.now(1140), 145);
    }

    #[test]
    fn a_turn_that_takes_too_long_is_a_pause_too() {
        let bench = Bench::new(1);
        bench.beat(0, 0, 0);
        bench.beat(0, 300, 10);
        assert_eq!(bench.now(300), 0);
        assert_eq!(bench.now(305), 5);
    }

    #[test]
    fn one_pause_of_all_workers_counts_once() {
        let bench = Bench::new(3);
        for worker in 0..3 {
            bench.beat(worker, 100 + worker as u64, 10);
        }
        // Stopped for a second.
        for worker in [1, 0, 2] {
            bench.beat(worker, 1110 + worker as u64, 0);
        }
        let (_, paused) = bench.clock.pauses();
        assert!((1000..=1002).contains(&paused.as_millis()), "{paused:?}");
        assert_eq!(
            bench.now(1120),
            1120 - u64::try_from(paused.as_millis()).unwrap()
        );
    }

    #[test]
    fn one_held_up_worker_stops_time_for_all_and_one_that_left_does_not() {
        let mut bench = Bench::new(2);
        bench.beat(0, 0, 10);
        bench.beat(1, 0, 10);
        for raw in (10..=500).step_by(10) {
            bench.beat(0, raw, 10);
        }
        assert_eq!(bench.now(500), 30);
        bench.beat(1, 500, 10);
        assert_eq!(bench.now(530), 40);
        bench.beats.pop();
        bench.beat(0, 530, 0);
        bench.beat(0, 540, 600);
        assert_eq!(bench.now(1100), 1100 - 490);
    }

    #[test]
    fn time_never_goes_backwards_over_any_pauses() {
        let bench = Bench::new(2);
        let (mut raw, mut last, mut random) = (0, 0, 12345_u64);
        for _ in 0..10_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let draw = random >> 33;
            raw += if draw.is_multiple_of(50) {
                draw % 400
            } else {
                draw % 12
            };
            bench.beat((draw % 2) as usize, raw, 10);
            let now = bench.now(raw);
            assert!(now >= last && now <= raw, "{last} {now} {raw}");
            last = now;
        }
        assert!(bench.clock.pauses().0 > 50);
    }
}
