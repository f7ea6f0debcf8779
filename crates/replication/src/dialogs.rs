//! The dialogs of a cell as one node holds them: its own and its replicas, one table.
//!
//! Two ways in: [`Dialogs::observe`] for what this router saw, [`Dialogs::merge`] for what another
//! node wrote. Who serves a dialog owns it: a router that sees a request of a dialog that another
//! owns takes it over. Every act of an owner is safe twice, so nothing has to be agreed first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher24;

use crate::clock::{HybridClock, Now, Stamp, node_number};
use crate::observation::{LegSeen, Observation, Observed};
use crate::record::{
    Cause, DialogKey, DialogRecord, DialogState, End, Leg, Lifetime, Ownership, Text,
};

/// How much later each further member may fire another's deadline.
const BACKUP_STEP: Duration = Duration::from_secs(2);

/// The settings of a dialog table.
#[derive(Clone, Copy, Debug)]
pub struct DialogsConfig {
    /// How long a confirmed dialog may last. Default 3 h (`default_timeout` of Kamailio's dialog
    /// module in our arrangement). Shorter forgets calls that go on; their requests are still routed.
    pub lifetime: Duration,
    /// How long one may stay unanswered. Default 200 s: beyond a router's Timer C.
    pub early_lifetime: Duration,
    /// How many dialogs are kept, those of dead ones included. Beyond it new calls are refused, and
    /// what other nodes tell is not taken and counted.
    pub dialogs_max: usize,
}

impl Default for DialogsConfig {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(3 * 3600),
            early_lifetime: Duration::from_secs(200),
            dialogs_max: 500_000,
        }
    }
}

/// One dialog, and what only this node knows of it.
#[derive(Clone, Debug)]
pub struct Held {
    /// What the cell knows.
    pub record: DialogRecord,
    /// When it ends by itself; once it has ended, when that was.
    pub at: Instant,
    /// Its hash, or 0 when it is over.
    pub(crate) hash: u128,
}

/// What a change did to a dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: DialogKey,
    /// Its state before; `None` when it is new.
    pub before: Option<DialogState>,
    /// Its hash before, 0 when it was not there or over.
    pub(crate) hash_before: u128,
}

/// The dialogs of one node.
#[derive(Debug)]
pub struct Dialogs {
    own: SocketAddr,
    cell_key: [u8; 16],
    config: DialogsConfig,
    members: Vec<SocketAddr>,
    held: BTreeMap<(u8, DialogKey), Held>,
    deadlines: BinaryHeap<Reverse<(Instant, DialogKey)>>,
    ended: usize,
    refused: u64,
}

impl Dialogs {
    /// Creates an empty table for the node whose DMQ address is `own`.
    #[must_use]
    pub fn new(own: SocketAddr, cell_key: [u8; 16], config: DialogsConfig) -> Self {
        Self {
            own,
            cell_key,
            config,
            members: vec![own],
            held: BTreeMap::new(),
            deadlines: BinaryHeap::new(),
            ended: 0,
            refused: 0,
        }
    }

    /// Sets who may have to fire a dead owner's deadline: the Tandem members of the cell.
    pub fn set_members(&mut self, members: Vec<SocketAddr>) {
        self.members = members;
    }

    /// Returns how many are not over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len() - self.ended
    }

    /// Tells whether there are none that are not over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many that are over are remembered.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Returns how many dialogs were not taken because there were too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Tells whether there is room for a new call.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.held.len() < self.config.dialogs_max
    }

    /// Returns the partition of a Call-ID, the same on every node of the cell.
    #[must_use]
    pub fn partition(&self, call_id: &[u8]) -> u8 {
        let mut hasher = SipHasher24::new_with_key(&self.cell_key);
        hasher.write(call_id);
        hasher.finish() as u8
    }

    /// Returns a dialog, also one that is over and still remembered.
    #[must_use]
    pub fn dialog(&self, key: &DialogKey) -> Option<&Held> {
        self.held.get(&(self.partition(&key.call_id), key.clone()))
    }

    fn dialog_mut(&mut self, key: &DialogKey) -> Option<&mut Held> {
        let partition = self.partition(&key.call_id);
        self.held.get_mut(&(partition, key.clone()))
    }

    /// Returns all dialogs, those that are over included, in an order that only the cell's key tells.
    pub fn iter(&self) -> impl Iterator<Item = (&DialogKey, &Held)> {
        self.held.iter().map(|((_, key), held)| (key, held))
    }

    /// Returns the dialogs of one partition, those that are over included.
    pub fn partition_iter(&self, partition: u8) -> impl Iterator<Item = (&DialogKey, &Held)> {
        let first = DialogKey {
            call_id: Arc::from([]),
            h_id: 0,
        };
        self.held
            .range((partition, first)..)
            .take_while(move |((at, _), _)| *at == partition)
            .map(|((_, key), held)| (key, held))
    }

    /// Returns the dialogs of one Call-ID.
    pub fn of_call(&self, call_id: &[u8]) -> impl Iterator<Item = (&DialogKey, &Held)> {
        let partition = self.partition(call_id);
        let call_id: Arc<[u8]> = call_id.into();
        let key = |h_id| DialogKey {
            call_id: call_id.clone(),
            h_id,
        };
        let range = (partition, key(0))..=(partition, key(u32::MAX));
        self.held.range(range).map(|((_, key), held)| (key, held))
    }

    /// Returns the dialog that a message belongs to, and whether the caller sent the message.
    ///
    /// With a number it must be that one, else any of the Call-ID; the tags must fit in one of the two
    /// directions, where a callee's tag that is not known yet fits all (PROTOCOL 6.4).
    #[must_use]
    pub fn find(
        &self,
        call_id: &[u8],
        h_id: Option<u32>,
        from_tag: &[u8],
        to_tag: &[u8],
    ) -> Option<(DialogKey, bool)> {
        let fits = |record: &DialogRecord| {
            let (caller, callee) = (&*record.caller.tag, &*record.callee.tag);
            let fit = |one: &[u8], other: &[u8]| {
                one == caller && (callee.is_empty() || other.is_empty() || other == callee)
            };
            match (fit(from_tag, to_tag), fit(to_tag, from_tag)) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            }
        };
        let mut found: Vec<_> = self
            .of_call(call_id)
            .filter_map(|(key, held)| {
                let from_caller = fits(&held.record)?;
                Some((key.clone(), from_caller, held.record.is_ended()))
            })
            .collect();
        // The one that is numbered, else one that goes on.
        found.sort_by_key(|(key, _, ended)| (Some(key.h_id) != h_id, *ended));
        found
            .into_iter()
            .next()
            .map(|(key, from_caller, _)| (key, from_caller))
    }

    /// Makes a record of what this router saw; `None` when it says nothing new.
    pub fn observe(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        seen: Observation,
    ) -> Option<Changed> {
        let Observation {
            call_id,
            h_id,
            from_tag,
            to_tag,
            what,
        } = seen;
        if let Observed::Invited { .. } = what {
            return self.invited(now, clock, &call_id, h_id?, from_tag, what);
        }
        let (key, from_caller) = self.find(&call_id, h_id, &from_tag, &to_tag)?;
        let (own, config) = (self.own, self.config);
        let held = self.dialog(&key)?;
        if held.record.is_ended() {
            return None;
        }
        let mut record = held.record.clone();
        let mut at = held.at;
        let stamp = clock.stamp(now, record.stamp());
        let is_request = !matches!(what, Observed::Rang(_) | Observed::Answered(_));
        match what {
            Observed::Invited { .. } => {}
            Observed::Rang(leg) => {
                record.state = record.state.max(DialogState::Early);
                record.callee = answered_leg(&record.callee, stamp, to_tag, leg);
            }
            Observed::Answered(leg) => {
                if record.answered == 0 {
                    record.answered = now.wall_seconds();
                    record.lifetime = Lifetime {
                        stamp,
                        seconds: config.lifetime.as_secs() as u32,
                    };
                    at = now.monotonic + config.lifetime;
                }
                record.state = record.state.max(DialogState::Answered);
                record.callee = answered_leg(&record.callee, stamp, to_tag, leg);
            }
            Observed::Acked => record.state = record.state.max(DialogState::Confirmed),
            Observed::Refreshed(seen) => {
                let leg = side(&mut record, from_caller);
                note_tag(leg, &from_tag);
                if seen.cseq > leg.cseq {
                    leg.cseq = seen.cseq;
                    leg.stamp = stamp;
                    if !seen.contact.is_empty() {
                        leg.contact = seen.contact;
                    }
                }
            }
            Observed::Requested { cseq } => {
                let leg = side(&mut record, from_caller);
                note_tag(leg, &from_tag);
                if cseq > leg.cseq {
                    leg.cseq = cseq;
                    leg.stamp = stamp;
                }
            }
            Observed::Ended(cause) => {
                let unanswered = record.answered == 0;
                if cause != Cause::Bye && !unanswered {
                    return None;
                }
                end(&mut record, now, cause);
                at = now.monotonic;
            }
        }
        if is_request && record.ownership.owner != own {
            record.ownership = taken_over(record.ownership, own);
        }
        self.put(key, record, at)
    }

    fn invited(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        call_id: &[u8],
        h_id: u32,
        from_tag: Text,
        what: Observed,
    ) -> Option<Changed> {
        let Observed::Invited {
            from_uri,
            to_uri,
            request_uri,
            caller,
        } = what
        else {
            return None;
        };
        let key = DialogKey {
            call_id: call_id.into(),
            h_id,
        };
        if self.dialog(&key).is_some() {
            return None;
        }
        let stamp = clock.stamp(now, Stamp::default());
        let ownership = Ownership {
            epoch: 1,
            owner: self.own,
        };
        let record = DialogRecord {
            created: now.wall_seconds(),
            from_uri,
            to_uri,
            request_uri,
            caller: Leg {
                cseq: caller.cseq,
                stamp,
                tag: from_tag,
                contact: caller.contact,
                route_set: caller.route_set,
            },
            lifetime: Lifetime {
                stamp,
                seconds: self.config.early_lifetime.as_secs() as u32,
            },
            ..DialogRecord::new(ownership)
        };
        self.put(key, record, now.monotonic + self.config.early_lifetime)
    }

    /// Merges what another node wrote; `remaining` is how long its copy still lasts.
    pub fn merge(
        &mut self,
        now: Now,
        key: DialogKey,
        record: DialogRecord,
        remaining: Duration,
    ) -> Option<Changed> {
        let Some(held) = self.dialog(&key) else {
            let at = match record.is_ended() {
                true => now.monotonic,
                false => now.monotonic + remaining,
            };
            return self.put(key, record, at);
        };
        if held.record.is_ended() {
            return None;
        }
        let mut merged = held.record.clone();
        let mut at = held.at;
        if record.lifetime > merged.lifetime {
            at = now.monotonic + remaining;
        }
        if !merged.merge(record) {
            return None;
        }
        if merged.is_ended() {
            at = now.monotonic;
        }
        self.put(key, merged, at)
    }

    /// Puts a record in; `None` when that changes nothing, or there is no room.
    fn put(&mut self, key: DialogKey, record: DialogRecord, at: Instant) -> Option<Changed> {
        let slot = (self.partition(&key.call_id), key.clone());
        let former = self.held.get(&slot);
        if former.is_none() && !self.has_room() {
            self.refused += 1;
            return None;
        }
        if former.is_some_and(|held| held.record == record && held.at == at) {
            return None;
        }
        let before = former.map(|held| held.record.state);
        let changed = Changed {
            key,
            before,
            hash_before: former.map_or(0, |held| held.hash),
        };
        if former.is_none_or(|held| held.at != at) && !record.is_ended() {
            self.deadlines.push(Reverse((at, changed.key.clone())));
        }
        let hash = match record.is_ended() {
            true => 0,
            false => record.hash(&changed.key, &self.cell_key),
        };
        if record.is_ended() {
            self.ended += usize::from(before != Some(DialogState::Ended));
        }
        self.held.insert(slot, Held { record, at, hash });
        Some(changed)
    }

    /// Forgets a dialog that is over.
    pub(crate) fn forget(&mut self, key: &DialogKey) {
        let slot = (self.partition(&key.call_id), key.clone());
        if self
            .held
            .get(&slot)
            .is_some_and(|held| held.record.is_ended())
        {
            self.held.remove(&slot);
            self.ended -= 1;
        }
    }

    /// Recomputes the hashes of a partition; tells whether one was wrong, and rights it.
    pub(crate) fn rehash(&mut self, partition: u8) -> bool {
        let first = DialogKey {
            call_id: Arc::from([]),
            h_id: 0,
        };
        let mut wrong = false;
        for ((_, key), held) in self
            .held
            .range_mut((partition, first)..)
            .take_while(|((at, _), _)| *at == partition)
        {
            let hash = match held.record.is_ended() {
                true => 0,
                false => held.record.hash(key, &self.cell_key),
            };
            wrong |= hash != held.hash;
            held.hash = hash;
        }
        wrong
    }

    /// Returns when the next deadline may be due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// Ends the next dialog whose deadline has passed: as its owner, or in its owner's stead some
    /// seconds later, by our place among the members. `None` when nothing is due.
    pub fn handle_timeout(&mut self, now: Now, clock: &mut HybridClock) -> Option<Changed> {
        loop {
            let Reverse((at, _)) = self.deadlines.peek()?;
            if *at > now.monotonic {
                return None;
            }
            let Reverse((_, key)) = self.deadlines.pop()?;
            let Some(held) = self.dialog(&key) else {
                continue;
            };
            if held.record.is_ended() {
                continue;
            }
            let is_own = held.record.ownership.owner == self.own;
            let due = match is_own {
                true => held.at,
                false => held.at + BACKUP_STEP * (self.place(&key) + 1),
            };
            if due > now.monotonic {
                self.deadlines.push(Reverse((due, key)));
                continue;
            }
            let mut record = held.record.clone();
            let cause = match (record.answered, is_own) {
                (0, true) => Cause::Failed,
                (0, false) => Cause::OwnerLost,
                _ => Cause::Expired,
            };
            if !is_own {
                record.ownership = taken_over(record.ownership, self.own);
            }
            record.lifetime.stamp = clock.stamp(now, record.stamp());
            end(&mut record, now, cause);
            return self.put(key, record, now.monotonic);
        }
    }

    /// Returns our place for a Call-ID among the members that do not own it: 0 is first.
    fn place(&self, key: &DialogKey) -> u32 {
        let owner = self.dialog(key).map(|held| held.record.ownership.owner);
        let score = |member: &SocketAddr| {
            let mut hasher = SipHasher24::new_with_key(&self.cell_key);
            hasher.write(&key.call_id);
            hasher.write_u64(node_number(*member));
            (hasher.finish(), *member)
        };
        let own = score(&self.own);
        let others = self.members.iter().filter(|member| Some(**member) != owner);
        others.filter(|member| score(member) > own).count() as u32
    }

    /// Sets or deletes a variable.
    pub fn set_variable(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        key: &DialogKey,
        name: &[u8],
        value: Option<Text>,
    ) -> Option<Changed> {
        let held = self.dialog_mut(key)?;
        if held.record.is_ended() {
            return None;
        }
        let mut record = held.record.clone();
        let at = held.at;
        let variable = record.variables.entry(name.into()).or_default();
        variable.stamp = clock.stamp(now, variable.stamp);
        variable.value = value;
        self.put(key.clone(), record, at)
    }
}

fn side(record: &mut DialogRecord, caller: bool) -> &mut Leg {
    match caller {
        true => &mut record.caller,
        false => &mut record.callee,
    }
}

/// Learns a tag from the first request that carries it.
fn note_tag(leg: &mut Leg, tag: &[u8]) {
    if leg.tag.is_empty() {
        leg.tag = tag.into();
    }
}

/// Returns the callee's leg after a response that made or confirmed the dialog.
fn answered_leg(former: &Leg, stamp: Stamp, tag: Text, seen: LegSeen) -> Leg {
    let leg = Leg {
        cseq: former.cseq,
        stamp: former.stamp,
        tag,
        contact: seen.contact,
        route_set: seen.route_set,
    };
    match leg == *former {
        true => leg,
        false => Leg { stamp, ..leg },
    }
}

fn taken_over(former: Ownership, by: SocketAddr) -> Ownership {
    Ownership {
        epoch: former.epoch.saturating_add(1),
        owner: by,
    }
}

fn end(record: &mut DialogRecord, now: Now, cause: Cause) {
    record.state = DialogState::Ended;
    let at = now.wall_seconds();
    record.end = Some(End { at, cause });
}
