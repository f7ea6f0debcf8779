//! The dialogs that are over, as one node remembers them: for how long, and what of them is its own to finish.
//!
//! Not here: their records, which stay among the dialogs until they are forgotten here, and whose heir is who.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::record::DialogKey;

/// The least time that the dead are remembered: a Kamailio node's last retransmission comes 27.5 s
/// after the first, and our own word to it is repeated after 32 s.
pub const TOMBSTONE_MIN: Duration = Duration::from_secs(64);

/// The most time, when a member of the cell cannot be asked whether it knows.
pub const TOMBSTONE_MAX: Duration = Duration::from_secs(3600);

/// How many of the dead are remembered; at the limit the longest dead are forgotten early, counted.
pub const TOMBSTONES_MAX: usize = 200_000;

/// How many call records wait to be taken; at the limit the oldest is dropped, counted.
pub const RECORDS_DUE_MAX: usize = 65_536;

/// How long before its owner was found to be lost a dialog may have ended and the rest not be done: a
/// call record is written a moment later, a Kamailio is told to forget the dialog 5 s later, and the owner
/// is missed 7 s after its last word at the latest: a ping and the patience with a Kamailio. An heir may be
/// lost before it has missed the owner, and is missed as late.
const END_IN_DOUBT: Duration = Duration::from_secs(20);

/// A dialog that is over and remembered.
#[derive(Debug)]
struct Tombstone {
    /// When this node saw or heard of its end.
    since: Instant,
    key: DialogKey,
    /// It was known here before.
    was_going_on: bool,
}

/// What is left to do of a dialog that ended at a lost node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// To tell Kamailio nodes of its end.
    End,
    /// To write its call record.
    Record,
    /// Both.
    EndAndRecord,
}

/// What one node remembers of the dialogs that are over.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// In the order of their end here.
    tombstones: VecDeque<Tombstone>,
    /// Those whose call records are ours to write.
    records_due: VecDeque<DialogKey>,
    /// Those that ended at a lost node and whose rest is ours to do: all, and those not taken yet.
    heir_of: BTreeSet<DialogKey>,
    inherited: VecDeque<DialogKey>,
    records_dropped: u64,
    forgotten_early: u64,
}

impl Ended {
    /// Remembers a dialog that is over from now on; `was_going_on` tells that it was known here before. One that
    /// was not has been finished by who ended it.
    pub(crate) fn remember(&mut self, now: Instant, key: DialogKey, was_going_on: bool) {
        self.tombstones.push_back(Tombstone {
            since: now,
            key,
            was_going_on,
        });
    }

    /// Lets a dialog wait for [`Ended::poll_call_record`]; it is remembered for much longer.
    pub(crate) fn note_call_record(&mut self, key: DialogKey) {
        if self.records_due.len() >= RECORDS_DUE_MAX {
            self.records_due.pop_front();
            self.records_dropped += 1;
        }
        self.records_due.push_back(key);
    }

    /// Takes over what had just ended at a node that is found to be lost now and may not have finished it:
    /// what `ours` says of each.
    pub(crate) fn inherit_recent(
        &mut self,
        now: Instant,
        ours: impl Fn(&DialogKey) -> Option<Rest>,
    ) {
        let recent = |since: Instant| now.saturating_duration_since(since) <= END_IN_DOUBT;
        let ended = self.tombstones.iter().rev();
        let ended = ended.take_while(|ended| recent(ended.since));
        let inherited = ended.filter(|ended| ended.was_going_on);
        let inherited = inherited.filter_map(|ended| Some((ended.key.clone(), ours(&ended.key)?)));
        let inherited: Vec<_> = inherited.take(RECORDS_DUE_MAX).collect();
        for (key, rest) in inherited.into_iter().rev() {
            self.inherit(key, rest);
        }
    }

    /// Takes over a dialog that has ended at a lost node; once.
    pub(crate) fn inherit(&mut self, key: DialogKey, rest: Rest) {
        if !self.heir_of.insert(key.clone()) {
            return;
        }
        if matches!(rest, Rest::Record | Rest::EndAndRecord) {
            self.note_call_record(key.clone());
        }
        if matches!(rest, Rest::End | Rest::EndAndRecord) {
            self.inherited.push_back(key);
        }
    }

    /// Tells whether a dialog was inherited, taken or not.
    pub(crate) fn is_inherited(&self, key: &DialogKey) -> bool {
        self.heir_of.contains(key)
    }

    /// Returns the next dialog that was inherited.
    pub(crate) fn poll_inherited(&mut self) -> Option<DialogKey> {
        self.inherited.pop_front()
    }

    /// Returns the next dialog whose call record is ours to write; it may be forgotten by now.
    pub(crate) fn poll_call_record(&mut self) -> Option<DialogKey> {
        self.records_due.pop_front()
    }

    /// Returns how many call records were dropped because nobody took them in time.
    pub(crate) fn records_dropped(&self) -> u64 {
        self.records_dropped
    }

    /// Forgets the longest dead, if its time has come or there are too many; `everybody_knows` tells whether
    /// every member knows of what ended at a time.
    pub(crate) fn forget(
        &mut self,
        now: Instant,
        everybody_knows: impl Fn(Instant) -> bool,
    ) -> Option<DialogKey> {
        let is_crowded = self.tombstones.len() > TOMBSTONES_MAX;
        let since = self.tombstones.front()?.since;
        let is_known = everybody_knows(since);
        if !is_crowded && !may_forget(now, since, is_known) {
            return None;
        }
        self.forgotten_early += u64::from(!is_known);
        let Tombstone { key, .. } = self.tombstones.pop_front()?;
        self.heir_of.remove(&key);
        Some(key)
    }

    /// Returns how many were forgotten before every member was known to know.
    pub(crate) fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }
}

/// Tells whether what died at `since` has been remembered for long enough; `is_known` tells whether every member
/// knows of it.
pub(crate) fn may_forget(now: Instant, since: Instant, is_known: bool) -> bool {
    let age = now.saturating_duration_since(since);
    is_known && age >= TOMBSTONE_MIN || age >= TOMBSTONE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    fn key(h_id: usize) -> DialogKey {
        DialogKey {
            call_id: (*b"call").into(),
            h_id: h_id as u32,
        }
    }

    #[test]
    fn what_everybody_knows_is_remembered_for_its_least_time_and_the_rest_for_an_hour() {
        let now = start();
        for (is_known, lasts, early) in [(true, 64, 0), (false, 3600, 1)] {
            let mut ended = Ended::default();
            ended.remember(now, key(1), true);
            ended.remember(after(now, 1), key(2), true);
            let knows = |_| is_known;
            assert_eq!(ended.forget(after(now, lasts - 1), knows), None);
            assert_eq!(ended.forget(after(now, lasts), knows), Some(key(1)));
            assert_eq!(ended.forget(after(now, lasts), knows), None, "younger");
            assert_eq!(ended.forgotten_early(), early);
        }
    }

    #[test]
    fn of_too_many_the_longest_dead_are_forgotten_early() {
        let now = start();
        let mut ended = Ended::default();
        for i in 0..TOMBSTONES_MAX + 2 {
            ended.remember(now, key(i), true);
        }
        let forgotten = std::iter::from_fn(|| ended.forget(now, |_| false));
        assert_eq!(forgotten.collect::<Vec<_>>(), [key(0), key(1)]);
        assert_eq!(ended.forgotten_early(), 2);
    }

    #[test]
    fn of_too_many_call_records_the_oldest_are_dropped() {
        let mut ended = Ended::default();
        for i in 0..RECORDS_DUE_MAX + 2 {
            ended.note_call_record(key(i));
        }
        assert_eq!(ended.records_dropped(), 2);
        assert_eq!(ended.poll_call_record(), Some(key(2)));
    }

    #[test]
    fn what_went_on_before_it_ended_shortly_ago_is_inherited_in_its_order() {
        let now = start();
        let mut ended = Ended::default();
        for (i, since) in [0, 1, 2, 3, 4].into_iter().enumerate() {
            ended.remember(after(now, since), key(i), i != 3);
        }
        let ours = |found: &DialogKey| match found.h_id {
            1 => Some(Rest::End),
            2 => None,
            _ => Some(Rest::EndAndRecord),
        };
        ended.inherit_recent(after(now, 21), ours);
        assert_eq!(ended.poll_call_record(), Some(key(4)));
        for inherited in [key(1), key(4)] {
            assert_eq!(ended.poll_inherited().as_ref(), Some(&inherited));
            assert!(ended.is_inherited(&inherited), "taken, too");
        }
        assert_eq!(ended.poll_inherited(), None);
        assert_eq!(ended.poll_call_record(), None);
        assert!(![0, 2, 3].iter().any(|i| ended.is_inherited(&key(*i))));

        let forgotten = std::iter::from_fn(|| ended.forget(after(now, 99), |_| true));
        assert_eq!(forgotten.count(), 5);
        assert!(!ended.is_inherited(&key(1)));
    }
}
