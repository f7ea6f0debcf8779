//! What is told of dialogs that nobody has heard of yet: a datagram has overtaken another, or was lost
//! and comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmq_bodies::{Change as StateTold, Did};

use super::HELD_BACK_MAX;

/// How long a STATE waits for its UPDATE.
const HELD_BACK: Duration = Duration::from_secs(2);

/// How long it is remembered that a dialog nobody had heard of is over: until its UPDATE can arrive no
/// longer.
const END_HELD_BACK: Duration = Duration::from_secs(32);

/// STATEs of dialogs that nobody has heard of.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// Until when they wait, in the order in which they came.
    states: BTreeMap<Did, Vec<(Instant, SocketAddr, StateTold)>>,
    due: BTreeSet<(Instant, Did)>,
    count: usize,
    ends: usize,
}

impl HeldBack {
    /// Keeps one; false when there is no room. Ends have half of it: a node that has just come hears the
    /// ends of all that began before it, and nothing will come of those.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        node: SocketAddr,
        did: Did,
        told: StateTold,
    ) -> bool {
        let is_end = told == StateTold::Deleted;
        let held = self.states.get(&did);
        let is_known = |held: &Vec<_>| held.iter().any(|(_, _, held)| *held == told);
        // STATE(5) and RM say the same.
        if held.is_some_and(is_known) {
            return true;
        }
        if self.count >= HELD_BACK_MAX || is_end && self.ends >= HELD_BACK_MAX / 2 {
            return false;
        }
        let wait = if is_end { END_HELD_BACK } else { HELD_BACK };
        self.count += 1;
        self.ends += usize::from(is_end);
        self.due.insert((now + wait, did));
        let held = self.states.entry(did).or_default();
        held.push((now + wait, node, told));
        true
    }

    /// Returns what waited for a dialog, in order.
    pub(super) fn take(&mut self, did: Did) -> Vec<(SocketAddr, StateTold)> {
        let found = self.states.remove(&did).unwrap_or_default();
        for (until, _, told) in &found {
            self.due.remove(&(*until, did));
            self.count -= 1;
            self.ends -= usize::from(*told == StateTold::Deleted);
        }
        let found = found.into_iter();
        found.map(|(_, node, told)| (node, told)).collect()
    }

    /// Drops what has waited in vain; returns how many states that were news.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut lost = 0;
        while let Some((until, did)) = self.due.first().copied()
            && until <= now
        {
            self.due.pop_first();
            let mut waiting = self.states.remove(&did).unwrap_or_default();
            waiting.retain(|(until, _, told)| {
                let is_over = *until <= now;
                let is_end = *told == StateTold::Deleted;
                self.count -= usize::from(is_over);
                self.ends -= usize::from(is_over && is_end);
                lost += u64::from(is_over && !is_end);
                !is_over
            });
            if !waiting.is_empty() {
                self.states.insert(did, waiting);
            }
        }
        lost
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use dmq_bodies::Timing;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn did(h_id: u32) -> Did {
        Did { h_entry: 1, h_id }
    }

    fn early() -> StateTold {
        StateTold::Early {
            timing: Timing::default(),
            caller: None,
        }
    }

    #[test]
    fn what_waited_comes_in_order_and_once() {
        let node = SocketAddr::from(([10, 0, 0, 1], 5060));
        let mut held = HeldBack::default();
        for told in [early(), StateTold::Deleted, StateTold::Deleted] {
            assert!(held.keep(start(), node, did(7), told));
        }
        assert_eq!(held.len(), 2, "STATE(5) and RM are one");
        assert!(held.take(did(8)).is_empty());
        let told = [(node, early()), (node, StateTold::Deleted)];
        assert_eq!(held.take(did(7)), told);
        assert_eq!((held.len(), held.poll_timeout()), (0, None));
    }

    #[test]
    fn ends_leave_room_for_states_and_all_of_it_goes() {
        let now = start();
        let node = SocketAddr::from(([10, 0, 0, 1], 5060));
        let mut held = HeldBack::default();
        let max = HELD_BACK_MAX as u32;
        let ends = (0..max).filter(|h_id| held.keep(now, node, did(*h_id), StateTold::Deleted));
        assert_eq!(ends.count(), HELD_BACK_MAX / 2);
        let states = (0..max).filter(|h_id| held.keep(now, node, did(max + h_id), early()));
        assert_eq!(states.count(), HELD_BACK_MAX / 2);
        assert_eq!(held.len(), HELD_BACK_MAX);
        assert_eq!(held.expire(now + HELD_BACK), u64::from(max / 2));
        assert_eq!(held.len(), HELD_BACK_MAX / 2);
        assert_eq!(held.poll_timeout(), Some(now + END_HELD_BACK));
        assert_eq!(held.expire(now + END_HELD_BACK), 0, "ends are no loss");
        assert_eq!((held.len(), held.poll_timeout()), (0, None));
    }
}
