//! An immutable snapshot of sets and health: what shards read, without locks, per request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::algorithm::Algorithm;
use crate::destination::{State, Status};
use crate::health::Health;
use crate::rank::{ClusterKey, Domain, Score};
use crate::set::{DestinationSet, Member};

/// Names a destination within one [`SetView`]; means nothing in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationIndex(pub u32);

/// Destinations in the order in which to try them. Up to eight need no allocation.
pub type Ranking = SmallVec<[DestinationIndex; 8]>;

/// All destination sets at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    sets: BTreeMap<Arc<str>, SetView>,
}

impl View {
    pub(crate) fn new(sets: BTreeMap<Arc<str>, SetView>) -> Self {
        Self { sets }
    }

    /// Returns a set by its id.
    #[must_use]
    pub fn set(&self, id: &str) -> Option<&SetView> {
        self.sets.get(id)
    }

    /// Returns the sets in the order of their ids.
    pub fn sets(&self) -> impl Iterator<Item = &SetView> {
        self.sets.values()
    }
}

#[derive(Clone, Debug)]
struct Entry {
    member: Member,
    state: State,
    accepting_new: bool,
    /// Neither an operator nor the destination itself has declined new calls.
    willing: bool,
    /// It lives and declines by itself: it may not know yet what its cell knows.
    unready: bool,
    /// Position of the cell in `SetView::cells`.
    cell: usize,
}

impl Entry {
    fn new(member: &Member, cell: usize, status: Option<Status>) -> Self {
        let unready = status.as_ref().is_some_and(|status| status.unready);
        let (state, accepting_new, draining) = status.map_or((State::Active, true, false), |s| {
            (s.state, s.accepting_new, s.draining)
        });
        let willing = !draining && state != State::Disabled;
        Self {
            member: member.clone(),
            state,
            accepting_new,
            willing,
            unready,
            cell,
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.state, State::Active | State::Trying)
    }
}

#[derive(Clone, Debug)]
struct Cell {
    name: Arc<str>,
    weight: u32,
}

/// One destination set at one moment.
#[derive(Clone, Debug)]
pub struct SetView {
    id: Arc<str>,
    algorithm: Algorithm,
    key: ClusterKey,
    /// In the order of their ids.
    entries: Vec<Entry>,
    /// In the order of their names.
    cells: Vec<Cell>,
    /// Weights differ somewhere; where they do not, the order is that of the hashes alone.
    is_weighted: bool,
    panic: bool,
    by_address: BTreeMap<SocketAddr, DestinationIndex>,
}

impl SetView {
    pub(crate) fn new(key: ClusterKey, set: &DestinationSet, health: &Health) -> Self {
        let mut weights: BTreeMap<&Arc<str>, u32> = BTreeMap::new();
        for member in &set.members {
            let weight = weights.entry(&member.cell).or_default();
            *weight = weight.saturating_add(member.weight);
        }
        let cells: Vec<_> = weights
            .iter()
            .map(|(name, weight)| Cell {
                name: (*name).clone(),
                weight: *weight,
            })
            .collect();
        let entries: Vec<_> = set
            .members
            .iter()
            .map(|member| {
                let cell = cells.binary_search_by(|cell| cell.name.cmp(&member.cell));
                Entry::new(member, cell.unwrap_or_default(), health.state(&member.id))
            })
            .collect();
        let by_address = (0..).map(DestinationIndex).zip(&entries);
        let by_address = by_address
            .map(|(index, entry)| (entry.member.address, index))
            .collect();
        let enabled = entries
            .iter()
            .filter(|entry| entry.state != State::Disabled)
            .count();
        let alive = entries.iter().filter(|entry| entry.is_alive()).count();
        let is_weighted = entries
            .windows(2)
            .any(|two| two[0].member.weight != two[1].member.weight)
            || cells.windows(2).any(|two| two[0].weight != two[1].weight);
        Self {
            id: set.id.clone(),
            algorithm: set.algorithm,
            key,
            entries,
            cells,
            is_weighted,
            panic: alive * 2 < enabled,
            by_address,
        }
    }

    /// Returns the id of the set.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Returns how the set chooses.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns every destination of the set, in the order of their ids.
    pub fn destinations(&self) -> impl ExactSizeIterator<Item = DestinationIndex> + use<> {
        (0..self.entries.len() as u32).map(DestinationIndex)
    }

    /// Returns a destination as configured.
    ///
    /// # Panics
    /// If `index` is of another view.
    #[must_use]
    pub fn member(&self, index: DestinationIndex) -> &Member {
        &self.entry(index).member
    }

    /// Returns what was believed of a destination when the view was taken.
    ///
    /// # Panics
    /// If `index` is of another view.
    #[must_use]
    pub fn state(&self, index: DestinationIndex) -> State {
        self.entry(index).state
    }

    /// Tells whether requests of established dialogs may go to a destination.
    ///
    /// # Panics
    /// If `index` is of another view.
    #[must_use]
    pub fn is_alive(&self, index: DestinationIndex) -> bool {
        self.entry(index).is_alive()
    }

    /// Tells whether new calls may go to a destination.
    ///
    /// # Panics
    /// If `index` is of another view.
    #[must_use]
    pub fn accepts_new(&self, index: DestinationIndex) -> bool {
        self.entry(index).accepting_new
    }

    /// Returns the destination of an id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<DestinationIndex> {
        let found = self
            .entries
            .binary_search_by(|entry| entry.member.id.as_ref().cmp(id))
            .ok()?;
        Some(DestinationIndex(found as u32))
    }

    /// Returns the destination at an address.
    #[must_use]
    pub fn by_address(&self, address: SocketAddr) -> Option<DestinationIndex> {
        self.by_address.get(&address).copied()
    }

    /// Tells whether fewer than half of the destinations that are not disabled are alive.
    #[must_use]
    pub fn is_panicking(&self) -> bool {
        self.panic
    }

    /// Returns where to try a new request, best first; empty when nobody may be tried.
    ///
    /// Those that take new calls, in the order of the algorithm; without any, those that decline by
    /// themselves, since a router that is not ready serves what comes all the same. In a panic the
    /// silent ones come after them. Whom an operator drains or disables is never in it. `turn` is the caller's
    /// counter of requests, read by [`Algorithm::RoundRobin`] only.
    #[must_use]
    pub fn rank(&self, call_id: &[u8], turn: usize) -> Ranking {
        let mut ranking = self.in_order(call_id, turn, |entry| entry.accepting_new);
        if ranking.is_empty() {
            ranking = self.in_order(call_id, turn, |entry| entry.unready && entry.is_alive());
        }
        if self.panic {
            let silent = |entry: &Entry| entry.willing && entry.state == State::Inactive;
            ranking.extend(self.in_order(call_id, turn, silent));
        }
        ranking
    }

    /// Returns who serves the dialogs of a dead router of `cell` for this Call-ID: the next active
    /// destination of that cell in the ranking of the Call-ID, whatever the algorithm of the set;
    /// of another cell when that one has nobody left.
    ///
    /// Computed from those that live now, so it is as good for the n-th death as for the first. One
    /// that takes new calls is preferred to one that drains, and anybody to [`Member::last_heir`];
    /// `excluded` are never chosen.
    #[must_use]
    pub fn heir(
        &self,
        call_id: &[u8],
        cell: &str,
        excluded: &[SocketAddr],
    ) -> Option<DestinationIndex> {
        (0..)
            .map(DestinationIndex)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.is_alive() && !excluded.contains(&entry.member.address))
            .max_by_key(|(_, entry)| {
                let at_home = *entry.member.cell == *cell;
                let first = !entry.member.last_heir;
                (
                    at_home,
                    first,
                    entry.accepting_new,
                    self.score(call_id, entry),
                )
            })
            .map(|(index, _)| index)
    }

    fn in_order(&self, call_id: &[u8], turn: usize, admit: impl Fn(&Entry) -> bool) -> Ranking {
        let admitted = (0..).map(DestinationIndex).zip(&self.entries);
        let admitted = admitted.filter(|(_, entry)| admit(entry));
        match self.algorithm {
            Algorithm::CallIdHash => self.by_score(call_id, admitted),
            Algorithm::RoundRobin => {
                let mut ranking: Ranking = admitted.map(|(index, _)| index).collect();
                if !ranking.is_empty() {
                    let first = turn % ranking.len();
                    ranking.rotate_left(first);
                }
                ranking
            }
            Algorithm::Priority => {
                let mut ranking: Ranking = admitted.map(|(index, _)| index).collect();
                ranking.sort_unstable_by_key(|i| (Reverse(self.entry(*i).member.priority), *i));
                ranking
            }
        }
    }

    /// Cells by their draw, and within each its destinations by theirs.
    fn by_score<'a>(
        &self,
        call_id: &[u8],
        admitted: impl Iterator<Item = (DestinationIndex, &'a Entry)>,
    ) -> Ranking {
        let one_cell = self.cells.len() == 1;
        let mut scored: SmallVec<[_; 8]> = admitted
            .map(|(index, entry)| {
                let cell = (!one_cell).then(|| self.cell_score(call_id, entry.cell));
                (cell, self.score(call_id, entry), index)
            })
            .collect();
        scored.sort_unstable_by(|a, b| b.cmp(a));
        scored.into_iter().map(|(_, _, index)| index).collect()
    }

    fn score(&self, call_id: &[u8], entry: &Entry) -> Score {
        let hash = self
            .key
            .draw(call_id, Domain::Destination, &entry.member.id);
        self.weigh(hash, entry.member.weight)
    }

    fn cell_score(&self, call_id: &[u8], cell: usize) -> Score {
        let cell = &self.cells[cell];
        self.weigh(
            self.key.draw(call_id, Domain::Cell, &cell.name),
            cell.weight,
        )
    }

    fn weigh(&self, hash: u64, weight: u32) -> Score {
        match self.is_weighted {
            true => Score::new(hash, weight),
            false => Score::unweighted(hash),
        }
    }

    fn entry(&self, index: DestinationIndex) -> &Entry {
        &self.entries[index.0 as usize]
    }
}
