//! What this node knows of the differences between itself and one other.
//!
//! Of two nodes the one with the lower address drives: it begins a round every second, and hears what
//! the other holds where they differ. The other follows and draws its own conclusions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::digest::PARTITIONS;

/// Differences with one node that are remembered; those beyond are found by a later round.
pub const CANDIDATES_MAX: usize = 131_072;

/// What differs so soon after two nodes met does not have to differ twice before it is repaired.
const FRESH: Duration = Duration::from_secs(3);

/// A key that differs so long without having changed is divergent.
const SUSPECTED: Duration = Duration::from_secs(1);

/// A round that takes longer is given up.
const ROUND_PATIENCE: Duration = Duration::from_secs(4);

/// A partition that differs in so many rounds is looked into although it always changes.
const RESTLESS_ROUNDS: u8 = 3;

/// A key that is held differently on two nodes, by what one of them knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    since: Instant,
    /// Hash of its content here; 0: it does not live here.
    pub(crate) own: u64,
    /// And there.
    pub(crate) theirs: u64,
    /// When it was asked for or offered.
    pub(crate) asked: Option<Instant>,
}

/// A round that we drive.
#[derive(Clone, Copy, Debug)]
struct Open {
    number: u64,
    began: Instant,
    /// Whether the sums of the partitions have been sent.
    is_detailed: bool,
    compared: usize,
    differing: usize,
    /// Announced and not yet received; those may overtake their announcement.
    lists: i64,
}

/// A round that the other drives.
#[derive(Clone, Copy, Debug)]
struct Followed {
    number: u64,
    compared: usize,
    differing: usize,
}

/// What is known of the differences with one node.
#[derive(Debug)]
pub(crate) struct Pair {
    connected: Option<Instant>,
    round_at: Option<Instant>,
    rounds: u64,
    open: Option<Open>,
    followed: Option<Followed>,
    finished: u64,
    finished_at: Option<Instant>,
    /// Whether a round was finished after what was missing at first had been asked for.
    pub(crate) is_synced: bool,
    /// Divergent keys in the last finished round.
    pub(crate) divergence: u64,
    /// When each partition was last found equal, and in how many rounds since it was not.
    equal_at: Box<[Option<Instant>; PARTITIONS]>,
    differed: Box<[u8; PARTITIONS]>,
    candidates: BTreeMap<(u8, u64), Candidate>,
}

impl Default for Pair {
    fn default() -> Self {
        Self {
            connected: None,
            round_at: None,
            rounds: 0,
            open: None,
            followed: None,
            finished: 0,
            finished_at: None,
            is_synced: false,
            divergence: 0,
            equal_at: Box::new([None; PARTITIONS]),
            differed: Box::new([0; PARTITIONS]),
            candidates: BTreeMap::new(),
        }
    }
}

impl Pair {
    /// The other has turned out to be a Tandem node; without effect when that is known.
    pub(crate) fn connect(&mut self, now: Instant) {
        if self.connected.is_none() {
            self.connected = Some(now);
            self.round_at = Some(now);
        }
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.connected.is_none_or(|at| now < at + FRESH)
    }

    pub(crate) fn round_at(&self) -> Option<Instant> {
        self.round_at
    }

    pub(crate) fn finished_at(&self) -> Option<Instant> {
        self.finished_at
    }

    /// Sets when to come back, and returns the round that is under way. One that takes too long is given
    /// up, which is counted.
    pub(crate) fn under_way(
        &mut self,
        now: Instant,
        next: Instant,
        abandoned: &mut u64,
    ) -> Option<u64> {
        self.round_at = Some(next);
        let is_over = |open: &mut Open| now >= open.began + ROUND_PATIENCE;
        *abandoned += u64::from(self.open.take_if(is_over).is_some());
        self.open.map(|open| open.number)
    }

    /// Begins a round and returns its number.
    pub(crate) fn begin(&mut self, now: Instant) -> u64 {
        self.rounds += 1;
        self.open = Some(Open {
            number: self.rounds,
            began: now,
            is_detailed: false,
            compared: 0,
            differing: 0,
            lists: 0,
        });
        self.rounds
    }

    pub(crate) fn is_open(&self, number: u64) -> bool {
        self.open.is_some_and(|open| open.number == number)
    }

    /// The roots of the round differ; tells whether that is news.
    pub(crate) fn go_into_detail(&mut self) -> bool {
        let open = self.open.as_mut();
        open.is_some_and(|open| !std::mem::replace(&mut open.is_detailed, true))
    }

    /// Everything was found equal, whatever had been found before in the round that we drive.
    pub(crate) fn note_all_driven(&mut self) {
        if let Some(open) = &mut self.open {
            (open.compared, open.differing, open.lists) = (PARTITIONS, 0, 0);
            let began = open.began;
            self.note_all(began);
        }
    }

    /// The same in a round that the other drives.
    pub(crate) fn note_all_followed(&mut self, now: Instant, round: u64) {
        self.followed = Some(Followed {
            number: round,
            compared: PARTITIONS,
            differing: 0,
        });
        self.divergence = 0;
        self.note_all(now);
    }

    /// The round came to nothing.
    pub(crate) fn abandon(&mut self) {
        self.open = None;
    }

    /// Begins to follow a round, if it is new, with what the last one came to.
    pub(crate) fn follow(&mut self, number: u64, divergence: u64) {
        self.divergence = divergence;
        if self
            .followed
            .is_some_and(|followed| followed.number == number)
        {
            return;
        }
        self.followed = Some(Followed {
            number,
            compared: 0,
            differing: 0,
        });
    }

    /// Takes note of how a partition compared when that round began, as its driver.
    pub(crate) fn note_driven(&mut self, partition: u8, is_equal: bool) {
        let Some(open) = &mut self.open else { return };
        open.compared += 1;
        open.differing += usize::from(!is_equal);
        let began = open.began;
        self.note(began, partition, is_equal);
    }

    /// Takes note of how a partition compares now, as the other.
    pub(crate) fn note_followed(
        &mut self,
        now: Instant,
        round: u64,
        partition: u8,
        is_equal: bool,
    ) {
        let followed = self.followed.as_mut();
        if let Some(followed) = followed.filter(|followed| followed.number == round) {
            followed.compared += 1;
            followed.differing += usize::from(!is_equal);
        }
        self.note(now, partition, is_equal);
    }

    fn note(&mut self, at: Instant, partition: u8, is_equal: bool) {
        let index = usize::from(partition);
        match is_equal {
            true => {
                self.equal_at[index] = Some(at);
                self.differed[index] = 0;
                self.forget_range(partition, 0, u64::MAX);
            }
            false => self.differed[index] = self.differed[index].saturating_add(1),
        }
    }

    fn note_all(&mut self, at: Instant) {
        self.equal_at.fill(Some(at));
        self.differed.fill(0);
        self.candidates.clear();
    }

    /// Lists were announced, or received.
    pub(crate) fn note_lists(&mut self, announced: u32, received: usize) {
        if let Some(open) = &mut self.open {
            open.lists += i64::from(announced) - received as i64;
        }
    }

    /// Finishes the round that is complete; returns when everything was last found equal.
    pub(crate) fn finish(&mut self, now: Instant, is_pulling: bool) -> Option<Instant> {
        let all = PARTITIONS;
        let differing = if let Some(open) = self.open
            && open.compared >= all
            && open.lists <= 0
        {
            self.open = None;
            let asked = self.candidates.values().filter(|key| key.asked.is_some());
            self.divergence = asked.count() as u64;
            open.differing
        } else if let Some(followed) = self.followed
            && followed.compared >= all
        {
            self.followed = None;
            if followed.differing == 0 {
                self.divergence = 0;
            }
            followed.differing
        } else {
            return None;
        };
        self.finished += 1;
        self.finished_at = Some(now);
        self.is_synced |= differing == 0 || self.finished > 1 && !is_pulling;
        let equal = self.equal_at.iter().copied().min().flatten();
        equal.filter(|_| self.equal_at.iter().all(Option::is_some))
    }

    /// Tells whether a partition is restless: it differs round after round, and always changes.
    pub(crate) fn is_restless(&self, partition: u8) -> bool {
        self.differed[usize::from(partition)] >= RESTLESS_ROUNDS
    }

    /// Returns the partitions with differences that are under way.
    pub(crate) fn suspected(&self) -> Vec<u8> {
        let mut partitions: Vec<u8> = self.candidates.keys().map(|(at, _)| *at).collect();
        partitions.dedup();
        partitions
    }

    /// Returns the differences in a partition.
    pub(crate) fn candidates(&self, partition: u8) -> Vec<(u64, Candidate)> {
        let range = self
            .candidates
            .range((partition, 0)..=(partition, u64::MAX));
        range.map(|((_, hash), key)| (*hash, *key)).collect()
    }

    /// Notes a difference, which may be known; tells whether there was room.
    pub(crate) fn suspect(&mut self, now: Instant, slot: (u8, u64), own: u64, theirs: u64) -> bool {
        let known = self.candidates.get(&slot);
        if known.is_some_and(|known| known.own == own && known.theirs == theirs) {
            return true;
        }
        if known.is_none() && self.candidates.len() >= CANDIDATES_MAX {
            return false;
        }
        let candidate = Candidate {
            since: now,
            own,
            theirs,
            asked: None,
        };
        self.candidates.insert(slot, candidate);
        true
    }

    /// Tells whether a difference has stood long enough.
    pub(crate) fn is_divergent(&self, now: Instant, candidate: &Candidate) -> bool {
        self.is_fresh(now) || now >= candidate.since + SUSPECTED
    }

    /// A difference is being repaired.
    pub(crate) fn mark_asked(&mut self, now: Instant, slot: (u8, u64)) {
        if let Some(candidate) = self.candidates.get_mut(&slot) {
            candidate.asked = Some(now);
        }
    }

    pub(crate) fn forget(&mut self, slot: (u8, u64)) {
        self.candidates.remove(&slot);
    }

    fn forget_range(&mut self, partition: u8, lower: u64, upper: u64) {
        let range = self
            .candidates
            .range((partition, lower)..=(partition, upper));
        let slots: Vec<_> = range.map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.candidates.remove(&slot);
        }
    }
}
