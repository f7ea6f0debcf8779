//! A queue with a bound, for those who forget to drain.

use std::collections::VecDeque;

/// The most entries of a queue: more than any one call of `handle_*` can make.
pub(crate) const QUEUE_MAX: usize = 65_536;

/// At most [`QUEUE_MAX`] entries; what comes after is dropped and counted.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    entries: VecDeque<T>,
    dropped: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            dropped: 0,
        }
    }

    pub(crate) fn push(&mut self, entry: T) {
        match self.entries.len() < QUEUE_MAX {
            true => self.entries.push_back(entry),
            false => self.dropped += 1,
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.entries.pop_front()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}
