//! The dialogs of a cell as one node holds them: its own and its replicas, one table.
//!
//! Two ways in: [`Dialogs::observe`] for what this router saw, [`Dialogs::merge`] for what another
//! node wrote. Who serves a dialog owns it: a router that sees a request of a dialog that another
//! owns takes it over. Every act of an owner is safe twice, so nothing has to be agreed first.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher24;

use crate::clock::{HybridClock, Now, Stamp, node_number};
use crate::observation::{LegSeen, Observation, Observed};
use crate::record::{
    Cause, DialogKey, DialogRecord, DialogState, End, Leg, Lifetime, Ownership, Text, raise,
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
    /// Where it stands among the deadlines.
    armed: Option<Instant>,
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
    deadlines: BTreeSet<(Instant, DialogKey)>,
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
            deadlines: BTreeSet::new(),
            ended: 0,
            refused: 0,
        }
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &DialogsConfig {
        &self.config
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

    /// Returns the hash that names a dialog in comparisons.
    pub(crate) fn key_hash(&self, key: &DialogKey) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.cell_key);
        hasher.write(&key.call_id);
        hasher.write(&key.h_id.to_le_bytes());
        hasher.finish()
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
        let changed = self.begin(key)?;
        let held = self.dialog_mut(&changed.key)?;
        let (record, at) = (&mut held.record, &mut held.at);
        let stamp = clock.stamp(now, record.stamp());
        let is_request = !matches!(what, Observed::Rang(_) | Observed::Answered(_));
        let mut is_changed = match what {
            Observed::Invited { .. } => false,
            Observed::Rang(leg) => {
                raise(&mut record.state, DialogState::Early)
                    | answered_leg(&mut record.callee, stamp, to_tag, leg)
            }
            Observed::Answered(leg) => {
                let is_first = record.answered == 0;
                if is_first {
                    record.answered = now.wall_seconds();
                    record.lifetime = Lifetime {
                        stamp,
                        seconds: config.lifetime.as_secs() as u32,
                    };
                    *at = now.monotonic + config.lifetime;
                }
                is_first
                    | raise(&mut record.state, DialogState::Answered)
                    | answered_leg(&mut record.callee, stamp, to_tag, leg)
            }
            Observed::Acked => raise(&mut record.state, DialogState::Confirmed),
            Observed::Refreshed(seen) => {
                let leg = side(record, from_caller);
                let is_newer = seen.cseq > leg.cseq;
                if is_newer && !seen.contact.is_empty() {
                    leg.contact = seen.contact;
                }
                note_tag(leg, &from_tag) | count(leg, stamp, seen.cseq)
            }
            Observed::Requested { cseq } => {
                let leg = side(record, from_caller);
                note_tag(leg, &from_tag) | count(leg, stamp, cseq)
            }
            Observed::Ended(cause) => {
                if cause != Cause::Bye && record.answered != 0 {
                    return None;
                }
                end(record, now, cause);
                *at = now.monotonic;
                true
            }
        };
        if is_request && record.ownership.owner != own {
            record.ownership = taken_over(record.ownership, own);
            is_changed = true;
        }
        is_changed.then(|| {
            self.finish(&changed);
            changed
        })
    }

    /// Notes how a dialog that goes on is, before it is changed in place.
    fn begin(&self, key: DialogKey) -> Option<Changed> {
        let held = self.dialog(&key)?;
        let before = held.record.state;
        (before != DialogState::Ended).then_some(Changed {
            key,
            before: Some(before),
            hash_before: held.hash,
        })
    }

    /// Brings hash and deadline of a dialog up to date after a change.
    fn finish(&mut self, changed: &Changed) {
        let cell_key = self.cell_key;
        let slot = (self.partition(&changed.key.call_id), changed.key.clone());
        let Some(held) = self.held.get_mut(&slot) else {
            return;
        };
        let is_ended = held.record.is_ended();
        held.hash = match is_ended {
            true => 0,
            false => held.record.hash(&changed.key, &cell_key),
        };
        self.ended += usize::from(is_ended && changed.before != Some(DialogState::Ended));
        let due = (!is_ended).then_some(held.at);
        self.arm(slot.1, due);
    }

    /// Sets when a dialog is looked at next.
    fn arm(&mut self, key: DialogKey, due: Option<Instant>) {
        let slot = (self.partition(&key.call_id), key);
        let Some(held) = self.held.get_mut(&slot) else {
            return;
        };
        let former = std::mem::replace(&mut held.armed, due);
        if former == due {
            return;
        }
        let mut entry = (held.at, slot.1);
        if let Some(former) = former {
            entry.0 = former;
            self.deadlines.remove(&entry);
        }
        if let Some(due) = due {
            entry.0 = due;
            self.deadlines.insert(entry);
        }
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
        self.insert(key, record, now.monotonic + self.config.early_lifetime)
    }

    /// Merges what another node wrote; `remaining` is how long its copy still lasts.
    pub fn merge(
        &mut self,
        now: Now,
        key: DialogKey,
        record: DialogRecord,
        remaining: Duration,
    ) -> Option<Changed> {
        if self.dialog(&key).is_none() {
            let at = match record.is_ended() {
                true => now.monotonic,
                false => now.monotonic + remaining,
            };
            return self.insert(key, record, at);
        }
        let changed = self.begin(key)?;
        let held = self.dialog_mut(&changed.key)?;
        let lasts_anew = record.lifetime > held.record.lifetime;
        if !held.record.merge(record) {
            return None;
        }
        if held.record.is_ended() {
            held.at = now.monotonic;
        } else if lasts_anew {
            held.at = now.monotonic + remaining;
        }
        self.finish(&changed);
        Some(changed)
    }

    /// Puts in a dialog that was not there; `None` when there is no room.
    fn insert(&mut self, key: DialogKey, record: DialogRecord, at: Instant) -> Option<Changed> {
        if !self.has_room() {
            self.refused += 1;
            return None;
        }
        let held = Held {
            record,
            at,
            armed: None,
            hash: 0,
        };
        let slot = (self.partition(&key.call_id), key.clone());
        self.held.insert(slot, held);
        let changed = Changed {
            key,
            before: None,
            hash_before: 0,
        };
        self.finish(&changed);
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

    /// Changes a record behind the back of its hash, as a flipped bit would.
    pub(crate) fn flip(&mut self, key: &DialogKey) {
        if let Some(held) = self.dialog_mut(key) {
            held.record.created ^= 1;
        }
    }

    /// Returns when the next deadline may be due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends the next dialog whose deadline has passed: as its owner, or in its owner's stead some
    /// seconds later, by our place among the members. `None` when nothing is due.
    pub fn handle_timeout(&mut self, now: Now, clock: &mut HybridClock) -> Option<Changed> {
        loop {
            let (at, key) = self.deadlines.first()?;
            if *at > now.monotonic {
                return None;
            }
            let changed = self.begin(key.clone())?;
            let held = self.dialog(&changed.key)?;
            let is_own = held.record.ownership.owner == self.own;
            let due = match is_own {
                true => held.at,
                false => held.at + BACKUP_STEP * (self.place(&changed.key) + 1),
            };
            if due > now.monotonic {
                self.arm(changed.key, Some(due));
                continue;
            }
            let own = self.own;
            let held = self.dialog_mut(&changed.key)?;
            let record = &mut held.record;
            let cause = match (record.answered, is_own) {
                (0, true) => Cause::Failed,
                (0, false) => Cause::OwnerLost,
                _ => Cause::Expired,
            };
            if !is_own {
                record.ownership = taken_over(record.ownership, own);
            }
            record.lifetime.stamp = clock.stamp(now, record.stamp());
            end(record, now, cause);
            held.at = now.monotonic;
            self.finish(&changed);
            return Some(changed);
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
        let changed = self.begin(key.clone())?;
        let held = self.dialog_mut(key)?;
        let variable = held.record.variables.entry(name.into()).or_default();
        variable.stamp = clock.stamp(now, variable.stamp);
        variable.value = value;
        self.finish(&changed);
        Some(changed)
    }
}

fn side(record: &mut DialogRecord, caller: bool) -> &mut Leg {
    match caller {
        true => &mut record.caller,
        false => &mut record.callee,
    }
}

/// Learns a tag from the first request that carries it; tells whether that was news.
fn note_tag(leg: &mut Leg, tag: &[u8]) -> bool {
    let is_new = leg.tag.is_empty() && !tag.is_empty();
    if is_new {
        leg.tag = tag.into();
    }
    is_new
}

/// Takes note of a request's CSeq; tells whether it was news.
fn count(leg: &mut Leg, stamp: Stamp, cseq: u32) -> bool {
    let is_newer = cseq > leg.cseq;
    if is_newer {
        leg.cseq = cseq;
        leg.stamp = stamp;
    }
    is_newer
}

/// Takes the callee's leg from a response that made or confirmed the dialog; tells whether it changed.
fn answered_leg(leg: &mut Leg, stamp: Stamp, tag: Text, seen: LegSeen) -> bool {
    let is_same = leg.tag == tag && leg.contact == seen.contact && leg.route_set == seen.route_set;
    if !is_same {
        *leg = Leg {
            cseq: leg.cseq,
            stamp,
            tag,
            contact: seen.contact,
            route_set: seen.route_set,
        };
    }
    !is_same
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
