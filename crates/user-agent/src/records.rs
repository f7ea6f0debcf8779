//! What is kept of calls: a table that forgets its oldest entries.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// The Call-ID of a call; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(Arc<str>);

impl CallId {
    /// Wraps the value of a Call-ID header.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// Returns the value of the Call-ID header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One record per call, at most `max`: the oldest makes room for the newest.
#[derive(Debug)]
pub(crate) struct Records<R> {
    max: usize,
    by_call: BTreeMap<CallId, R>,
    oldest_first: VecDeque<CallId>,
    forgotten: u64,
}

impl<R> Records<R> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            by_call: BTreeMap::new(),
            oldest_first: VecDeque::new(),
            forgotten: 0,
        }
    }

    /// Returns the record of the call, made by `new` if there is none.
    pub(crate) fn entry(&mut self, call: &CallId, new: impl FnOnce() -> R) -> &mut R {
        if !self.by_call.contains_key(call) {
            if self.oldest_first.len() >= self.max
                && let Some(oldest) = self.oldest_first.pop_front()
            {
                self.by_call.remove(&oldest);
                self.forgotten += 1;
            }
            self.oldest_first.push_back(call.clone());
        }
        self.by_call.entry(call.clone()).or_insert_with(new)
    }

    pub(crate) fn get(&self, call: &CallId) -> Option<&R> {
        self.by_call.get(call)
    }

    pub(crate) fn get_mut(&mut self, call: &CallId) -> Option<&mut R> {
        self.by_call.get_mut(call)
    }

    /// Returns all records, oldest call first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CallId, &R)> {
        self.oldest_first
            .iter()
            .filter_map(|call| Some((call, self.by_call.get(call)?)))
    }

    /// How many records made room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_record_makes_room() {
        let mut records = Records::new(2);
        for name in ["a", "b", "c"] {
            records.entry(&CallId::new(name), || name);
        }
        let left: Vec<_> = records.iter().map(|(call, _)| call.as_str()).collect();
        assert_eq!((left, records.forgotten()), (vec!["b", "c"], 1));
    }
}
