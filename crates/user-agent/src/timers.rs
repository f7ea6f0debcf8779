//! Times at which something is due, in order.

use std::collections::BTreeMap;
use std::time::Instant;

/// A queue of things by the time at which they are due, equal times in the order of scheduling.
///
/// Nothing is ever taken back: whoever is woken checks whether he still cares. It is bounded by the
/// tables of its owner, each entry of which has a bounded number of timers.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    due: BTreeMap<(Instant, u64), T>,
    scheduled: u64,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            scheduled: 0,
        }
    }

    pub(crate) fn schedule(&mut self, at: Instant, what: T) {
        self.scheduled += 1;
        self.due.insert((at, self.scheduled), what);
    }

    /// Takes the next thing that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<T> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}
