//! The dialogs of a cell as one node holds them: its own and its replicas, one table.
//!
//! Two ways in: [`Dialogs::observe`] for what this router saw, [`Dialogs::merge`] for what another
//! node wrote. Who serves a dialog owns it: a router that sees a request of a dialog that another
//! owns takes it over. Every act of an owner is safe twice, so nothing has to be agreed first.
//!
//! What a router sees becomes a record in `observe`.

mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher24;

use crate::clock::{HybridClock, Now, node_number};
use crate::record::{Cause, DialogKey, DialogRecord, DialogState, End, Ownership, Text};

/// How much later each further member may fire another's deadline.
const BACKUP_STEP: Duration = Duration::from_secs(2);

/// How long after its INVITE was answered through another router a dialog that has not rung is held for given up:
/// whoever lives has told by then what became of it.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// The settings of a dialog table.
#[derive(Clone, Copy, Debug)]
pub struct DialogsConfig {
    /// How long a dialog may last once it is answered, in whole seconds. Default 12 h, that of
    /// `default_timeout` of Kamailio's dialog module. Shorter forgets calls that go on; their requests are
    /// still routed. Longer keeps those of which nobody saw the end.
    pub lifetime: Duration,
    /// How long one may stay unanswered since it last rang or was sent somewhere. Default 200 s: beyond a
    /// router's Timer C, which every provisional response starts anew, too (RFC 3261 section 16.7 step 2).
    pub early_lifetime: Duration,
    /// How many dialogs are kept, those of dead ones included. Beyond it new calls are refused, and
    /// what other nodes tell is not taken and counted.
    pub dialogs_max: usize,
}

impl Default for DialogsConfig {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(12 * 3600),
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
    /// Its INVITE was answered through another router before it rang.
    given_up: Option<GivenUp>,
    /// Its hash, or 0 when it is over.
    pub(crate) hash: u128,
}

/// That an SBC went on to another router with the INVITE of a dialog.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    /// Who served it then: whoever serves it owns it, and then it is not given up any more.
    by: Ownership,
    /// When it is over.
    at: Instant,
}

impl Held {
    /// Returns when it is over because it was given up, unless anything was heard of it since.
    fn given_up(&self) -> Option<Instant> {
        let is_silent = self.record.state == DialogState::Unconfirmed;
        let given_up = self.given_up.filter(|_| is_silent)?;
        (given_up.by == self.record.ownership).then_some(given_up.at)
    }

    /// Returns when it is looked at next where it waits until `due`.
    fn look_at(&self, due: Instant) -> Instant {
        self.given_up().map_or(due, |at| at.min(due))
    }
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

    /// Sets how long dialogs last that are answered from now on; the others keep what they have.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        self.config.lifetime = lifetime;
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
    /// directions. Until the call is answered the callee's tag fits all (PROTOCOL 6.4): a call that is
    /// forked, or goes on to somebody else, rings with one tag and is answered with another.
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
            let is_open = callee.is_empty() || record.state < DialogState::Answered;
            let fit = |one: &[u8], other: &[u8]| {
                one == caller && (is_open || other.is_empty() || other == callee)
            };
            match (fit(from_tag, to_tag), fit(to_tag, from_tag)) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            }
        };
        // The one that is numbered, else one that goes on.
        self.of_call(call_id)
            .filter_map(|(key, held)| Some((key, fits(&held.record)?, held.record.is_ended())))
            .min_by_key(|(key, _, ended)| (Some(key.h_id) != h_id, *ended))
            .map(|(key, from_caller, _)| (key.clone(), from_caller))
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
        let due = held.look_at(held.at);
        self.arm(slot.1, (!is_ended).then_some(due));
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
            return self.insert(now.monotonic, key, record, at);
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
        self.note_given_up(now.monotonic, &changed);
        Some(changed)
    }

    /// Puts in a dialog that was not there; `None` when there is no room.
    fn insert(
        &mut self,
        now: Instant,
        key: DialogKey,
        record: DialogRecord,
        at: Instant,
    ) -> Option<Changed> {
        if !self.has_room() {
            self.refused += 1;
            return None;
        }
        let held = Held {
            record,
            at,
            armed: None,
            given_up: None,
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
        self.note_given_up(now, &changed);
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

    /// Notes which dialog of an INVITE was given up, when one begins and when one is answered: an INVITE is answered
    /// once, so an SBC that has the answer gave up whoever has not let the call ring.
    fn note_given_up(&mut self, now: Instant, changed: &Changed) {
        if changed.before >= Some(DialogState::Answered) {
            return;
        }
        let Some(Held { record, .. }) = self.dialog(&changed.key) else {
            return;
        };
        let is_new = changed.before.is_none() && record.state == DialogState::Unconfirmed;
        if !is_new && record.answered == 0 {
            return;
        }
        let all = self.of_call(&changed.key.call_id);
        let others = all
            .filter(|(key, other)| **key != changed.key && is_same_invite(&other.record, record));
        let given_up: Vec<DialogKey> = if is_new {
            let answered = others.filter(|(_, other)| other.record.answered != 0);
            answered.map(|_| changed.key.clone()).take(1).collect()
        } else {
            let silent = others.filter(|(_, other)| other.record.state == DialogState::Unconfirmed);
            silent.map(|(key, _)| key.clone()).collect()
        };
        for key in given_up {
            // Its owner comes last: one that lives knows better, and one that was started anew knows nothing.
            let is_own = |held: &Held| held.record.ownership.owner == self.own;
            let place = match self.dialog(&key).is_some_and(is_own) {
                true => self.members.len() as u32,
                false => self.place(&key, |_| true),
            };
            let at = now + GIVEN_UP_AFTER + BACKUP_STEP * place;
            if let Some(held) = self.dialog_mut(&key) {
                let by = held.record.ownership;
                held.given_up = Some(GivenUp { by, at });
                let due = held.look_at(held.armed.unwrap_or(held.at));
                self.arm(key, Some(due));
            }
        }
    }

    /// Ends the next dialog whose deadline has passed: as its owner, or in its owner's stead some
    /// seconds later, by our place among the members; and one that was given up. `None` when nothing is due.
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
                false => held.at + BACKUP_STEP * (self.place(&changed.key, |_| true) + 1),
            };
            let look_at = held.look_at(due);
            if look_at > now.monotonic {
                self.arm(changed.key, Some(look_at));
                continue;
            }
            let own = self.own;
            let held = self.dialog_mut(&changed.key)?;
            let record = &mut held.record;
            let cause = match record.answered {
                0 if is_own && due <= now.monotonic => Cause::Failed,
                0 => Cause::OwnerLost,
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

    /// Tells whether this node comes first for a dialog, of itself and these others.
    pub(crate) fn is_first(&self, key: &DialogKey, others: &BTreeSet<SocketAddr>) -> bool {
        self.place(key, |member| member == self.own || others.contains(&member)) == 0
    }

    /// Returns our place for a Call-ID among those members that do not own it: 0 is first.
    pub(crate) fn place(&self, key: &DialogKey, among: impl Fn(SocketAddr) -> bool) -> u32 {
        let owner = self.dialog(key).map(|held| held.record.ownership.owner);
        let score = |member: &SocketAddr| {
            let mut hasher = SipHasher24::new_with_key(&self.cell_key);
            hasher.write(&key.call_id);
            hasher.write_u64(node_number(*member));
            (hasher.finish(), *member)
        };
        let own = score(&self.own);
        let others = self.members.iter().filter(|member| Some(**member) != owner);
        let others = others.filter(|member| among(**member));
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

/// Tells whether two dialogs are of one INVITE on the same way. A call that takes the same way twice has more Routes
/// the second time, or another Contact; one that was forked has other Request-URIs; and a client that names its calls
/// as it did before begins the second when the first is over.
fn is_same_invite(one: &DialogRecord, other: &DialogRecord) -> bool {
    let is_before = |one: &DialogRecord, other: &DialogRecord| {
        one.end.is_some_and(|end| end.at < other.created)
    };
    let is_same = one.request_uri == other.request_uri;
    let (a, b) = (&one.caller, &other.caller);
    let is_same = is_same && a.tag == b.tag && a.contact == b.contact && a.route_set == b.route_set;
    is_same && !is_before(one, other) && !is_before(other, one)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{LegSeen, Observation, Observed};

    const WALL: u64 = 1_800_000_000_000;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> Now {
        Now {
            monotonic: Instant::now(),
            wall: WALL,
        }
    }

    fn after(now: Now, seconds: u64) -> Now {
        Now {
            monotonic: now.monotonic + Duration::from_secs(seconds),
            wall: now.wall + seconds * 1000,
        }
    }

    fn address(i: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, i], 5060))
    }

    /// A table of node `i` among three, and its clock.
    fn table(i: u8) -> (Dialogs, HybridClock) {
        let config = DialogsConfig {
            lifetime: Duration::from_secs(60),
            early_lifetime: Duration::from_secs(20),
            dialogs_max: 3,
        };
        let mut dialogs = Dialogs::new(address(i), [7; 16], config);
        dialogs.set_members((1..=3).map(address).collect());
        (dialogs, HybridClock::new(node_number(address(i))))
    }

    fn key(h_id: u32) -> DialogKey {
        DialogKey {
            call_id: (*b"call").into(),
            h_id,
        }
    }

    fn leg(cseq: u32, contact: &[u8]) -> LegSeen {
        LegSeen {
            cseq,
            contact: contact.into(),
            route_set: Text::default(),
        }
    }

    fn seen(h_id: u32, from: &[u8], to: &[u8], what: Observed) -> Observation {
        Observation {
            call_id: (*b"call").into(),
            h_id: Some(h_id),
            from_tag: from.into(),
            to_tag: to.into(),
            what,
        }
    }

    fn invite(h_id: u32, tag: &[u8]) -> Observation {
        let what = Observed::Invited {
            from_uri: (*b"sip:a").into(),
            to_uri: (*b"sip:b").into(),
            request_uri: (*b"sip:b").into(),
            caller: leg(1, b"sip:a@1"),
        };
        seen(h_id, tag, b"", what)
    }

    fn confirmed(now: Now, h_id: u32, (dialogs, clock): &mut (Dialogs, HybridClock)) {
        let answered = Observed::Answered(leg(0, b"sip:b@1"));
        for seen in [
            invite(h_id, b"a"),
            seen(h_id, b"a", b"b", answered),
            seen(h_id, b"a", b"b", Observed::Acked),
        ] {
            assert!(dialogs.observe(now, clock, seen).is_some());
        }
    }

    fn record(dialogs: &Dialogs, h_id: u32) -> &DialogRecord {
        &dialogs.dialog(&key(h_id)).unwrap().record
    }

    #[test]
    fn a_call_passes_through_its_states() {
        let now = start();
        let (mut dialogs, mut clock) = table(1);
        let steps = [
            (invite(7, b"a"), DialogState::Unconfirmed),
            (
                seen(7, b"a", b"b", Observed::Rang(leg(0, b"sip:b@1"))),
                DialogState::Early,
            ),
            (
                seen(7, b"a", b"c", Observed::Answered(leg(0, b"sip:c@1"))),
                DialogState::Answered,
            ),
            (
                seen(7, b"a", b"b", Observed::Answered(leg(0, b"sip:b@1"))),
                DialogState::Answered,
            ),
            (seen(7, b"a", b"c", Observed::Acked), DialogState::Confirmed),
            (
                seen(7, b"c", b"a", Observed::Refreshed(leg(5, b"sip:c@3"))),
                DialogState::Confirmed,
            ),
            (
                seen(7, b"a", b"c", Observed::Ended(Cause::Cancelled)),
                DialogState::Confirmed,
            ),
            (
                seen(7, b"b", b"a", Observed::Ended(Cause::Bye)),
                DialogState::Confirmed,
            ),
            (
                seen(7, b"c", b"a", Observed::Ended(Cause::Bye)),
                DialogState::Ended,
            ),
        ];
        for (step, state) in steps {
            dialogs.observe(now, &mut clock, step);
            assert_eq!(record(&dialogs, 7).state, state);
        }
        let record = record(&dialogs, 7);
        assert_eq!(
            (record.created, record.answered),
            (WALL / 1000, WALL / 1000)
        );
        assert_eq!((&*record.callee.tag, record.callee.cseq), (&b"c"[..], 5));
        assert_eq!(&*record.callee.contact, b"sip:c@3");
        assert_eq!(record.end.map(|end| end.cause), Some(Cause::Bye));
        assert_eq!((dialogs.len(), dialogs.ended()), (0, 1));
        assert_eq!(dialogs.poll_timeout(), None);
    }

    #[test]
    fn an_ack_tells_who_never_saw_the_answer() {
        let now = start();
        for rang in [None, Some(b"b")] {
            let mut owner = table(1);
            owner.0.observe(now, &mut owner.1, invite(7, b"a"));
            if let Some(tag) = rang {
                let rang = seen(7, b"a", tag, Observed::Rang(leg(0, b"sip:b@1")));
                owner.0.observe(now, &mut owner.1, rang);
            }
            let told = record(&owner.0, 7).clone();
            let (mut heir, mut clock) = table(2);
            heir.merge(now, key(7), told, Duration::from_secs(20));
            let later = after(now, 5);
            let ack = seen(7, b"a", b"c", Observed::Acked);
            assert!(heir.observe(later, &mut clock, ack).is_some());
            let held = heir.dialog(&key(7)).unwrap();
            assert_eq!(held.record.state, DialogState::Confirmed);
            assert_eq!(&*held.record.callee.tag, b"c");
            assert_eq!(held.record.answered, later.wall_seconds());
            assert_eq!(held.at, later.monotonic + Duration::from_secs(60));
            let bye = seen(7, b"c", b"a", Observed::Ended(Cause::Bye));
            assert!(heir.observe(later, &mut clock, bye).is_some());
        }
    }

    #[test]
    fn a_call_that_goes_on_ringing_or_is_tried_elsewhere_lasts() {
        let begin = start();
        let mut owner = table(1);
        owner.0.observe(begin, &mut owner.1, invite(7, b"a"));
        let early = owner.0.config().early_lifetime;
        let rang = || seen(7, b"a", b"b", Observed::Rang(leg(0, b"sip:b@1")));
        let seconds = early.as_secs();
        // Three times as long as it may stay silent.
        for (i, step) in (0..seconds * 3).step_by(seconds as usize - 1).enumerate() {
            let now = after(begin, step);
            assert_eq!(owner.0.handle_timeout(now, &mut owner.1), None, "{step}");
            let what = match i % 2 {
                0 => rang(),
                _ => seen(7, b"a", b"", Observed::Tried),
            };
            let told = owner.0.observe(now, &mut owner.1, what);
            assert!(told.is_some(), "the others have to know");
            assert_eq!(owner.0.observe(after(now, 1), &mut owner.1, rang()), None);
        }
        let answer = seen(7, b"a", b"b", Observed::Answered(leg(0, b"sip:b@1")));
        let late = after(begin, seconds * 3);
        assert!(owner.0.observe(late, &mut owner.1, answer).is_some());
        assert_eq!(record(&owner.0, 7).state, DialogState::Answered);
    }

    #[test]
    fn what_says_nothing_new_is_no_change() {
        let now = start();
        let mut own = table(1);
        confirmed(now, 7, &mut own);
        let (mut dialogs, mut clock) = own;
        for repeat in [
            invite(7, b"a"),
            seen(7, b"a", b"b", Observed::Rang(leg(0, b"sip:b@1"))),
            seen(7, b"a", b"b", Observed::Answered(leg(0, b"sip:b@1"))),
            seen(7, b"a", b"b", Observed::Acked),
            seen(7, b"a", b"b", Observed::Requested { cseq: 1 }),
            seen(7, b"a", b"b", Observed::Refreshed(leg(1, b"sip:a@1"))),
            seen(7, b"b", b"a", Observed::Refreshed(leg(0, b"sip:b@1"))),
        ] {
            let before = record(&dialogs, 7).clone();
            assert_eq!(dialogs.observe(now, &mut clock, repeat), None);
            assert_eq!(*record(&dialogs, 7), before);
        }
    }

    #[test]
    fn who_serves_a_request_takes_the_dialog_over() {
        let now = start();
        let mut first = table(1);
        confirmed(now, 7, &mut first);
        let (mut dialogs, mut clock) = table(2);
        let told = record(&first.0, 7).clone();
        dialogs.merge(now, key(7), told, Duration::from_secs(60));
        let repeat = Observed::Answered(leg(0, b"sip:b@1"));
        dialogs.observe(now, &mut clock, seen(7, b"a", b"b", repeat));
        assert_eq!(record(&dialogs, 7).ownership.owner, address(1));
        let request = Observed::Requested { cseq: 1 };
        let changed = dialogs.observe(now, &mut clock, seen(7, b"a", b"b", request));
        assert!(changed.is_some());
        let ownership = record(&dialogs, 7).ownership;
        assert_eq!((ownership.epoch, ownership.owner), (2, address(2)));
        let back = record(&dialogs, 7).clone();
        assert!(first.0.merge(now, key(7), back, Duration::ZERO).is_some());
        assert_eq!(record(&first.0, 7).ownership, ownership);
        let at = first.0.dialog(&key(7)).unwrap().at;
        assert_eq!(
            at,
            now.monotonic + Duration::from_secs(60),
            "lasts as before"
        );
    }

    #[test]
    fn an_owner_keeps_the_deadline_and_the_others_stand_in_by_rank() {
        let now = start();
        let mut own = table(1);
        confirmed(now, 7, &mut own);
        let told = record(&own.0, 7).clone();
        let (mut dialogs, mut clock) = own;
        assert_eq!(dialogs.handle_timeout(after(now, 59), &mut clock), None);
        assert!(dialogs.handle_timeout(after(now, 60), &mut clock).is_some());
        let ended = record(&dialogs, 7);
        assert_eq!(ended.end.map(|end| end.cause), Some(Cause::Expired));
        assert_eq!(ended.ownership.epoch, 1);

        let mut fired = Vec::new();
        for i in [2, 3] {
            let (mut dialogs, mut clock) = table(i);
            dialogs.merge(now, key(7), told.clone(), Duration::from_secs(60));
            let mut second = 60;
            while dialogs
                .handle_timeout(after(now, second), &mut clock)
                .is_none()
            {
                let due = dialogs.poll_timeout().unwrap();
                assert!(
                    due > after(now, second).monotonic,
                    "it asks for a later call"
                );
                second += 1;
            }
            let ownership = record(&dialogs, 7).ownership;
            assert_eq!((ownership.epoch, ownership.owner), (2, address(i)));
            fired.push(second);
        }
        fired.sort_unstable();
        assert_eq!(fired, [62, 64]);
    }

    #[test]
    fn an_unanswered_dialog_of_a_dead_owner_ends_as_such() {
        let now = start();
        let (mut owner, mut clock) = table(1);
        owner.observe(now, &mut clock, invite(7, b"a"));
        let told = record(&owner, 7).clone();
        assert!(owner.handle_timeout(after(now, 20), &mut clock).is_some());
        let cause = |dialogs: &Dialogs| record(dialogs, 7).end.map(|end| end.cause);
        assert_eq!(cause(&owner), Some(Cause::Failed));
        let (mut other, mut clock) = table(2);
        other.merge(now, key(7), told, Duration::from_secs(20));
        // Its first deadline only tells it to wait for its turn.
        other.handle_timeout(after(now, 20), &mut clock);
        assert!(other.handle_timeout(after(now, 30), &mut clock).is_some());
        assert_eq!(cause(&other), Some(Cause::OwnerLost));
    }

    #[test]
    fn what_an_sbc_gave_up_ends_when_the_invite_was_answered_through_another() {
        let now = start();
        let rang = || seen(7, b"a", b"b", Observed::Rang(leg(0, b"sip:b@1")));
        let taken = || seen(7, b"a", b"", Observed::Requested { cseq: 2 });
        let sent_on = |record: &mut DialogRecord| record.caller.route_set = (*b"<sip:p;lr>").into();
        let moved = |record: &mut DialogRecord| record.caller.contact = (*b"sip:x").into();
        let forked = |record: &mut DialogRecord| record.request_uri = (*b"sip:c").into();
        let over = |at: u64| {
            move |record: &mut DialogRecord| {
                let cause = Cause::Bye;
                record.end = Some(End { at, cause });
                record.state = DialogState::Ended;
            }
        };
        let (before, since) = (over(WALL / 1000 - 1), over(WALL / 1000));
        let other_call = |record: &mut DialogRecord| record.caller.tag = (*b"x").into();
        let same = |_: &mut DialogRecord| ();
        type Differs<'a> = &'a dyn Fn(&mut DialogRecord);
        type Case<'a> = (u64, u64, Option<Observation>, Differs<'a>, [u64; 2]);
        // In seconds: when it is heard of, when the answer of the other is, what is seen of it in the third one, in
        // what the other differs, when it ends.
        let cases: [Case<'_>; 11] = [
            (0, 2, None, &same, [7, 9]),
            (0, 9, None, &same, [14, 16]),
            (4, 2, None, &same, [9, 11]),
            (0, 2, Some(rang()), &same, [22, 24]),
            (0, 2, Some(taken()), &same, [20, 20]),
            (0, 2, None, &sent_on, [22, 24]),
            (0, 2, None, &moved, [22, 24]),
            (0, 2, None, &other_call, [22, 24]),
            (0, 2, None, &forked, [22, 24]),
            (0, 2, None, &before, [22, 24]),
            (0, 2, None, &since, [7, 9]),
        ];
        for (number, (heard, answered, news, differs, ends)) in cases.into_iter().enumerate() {
            let (mut owner, mut clock) = table(1);
            owner.observe(now, &mut clock, invite(7, b"a"));
            let told = record(&owner, 7).clone();
            let mut other = table(1);
            confirmed(now, 8, &mut other);
            let mut other = record(&other.0, 8).clone();
            differs(&mut other);
            let mut ended = Vec::new();
            for i in [2, 3] {
                let (mut heir, mut clock) = table(i);
                let over = (0..30).find(|second| {
                    let at = after(now, *second);
                    if *second == heard {
                        let remaining = Duration::from_secs(20 - heard);
                        heir.merge(at, key(7), told.clone(), remaining);
                    }
                    if *second == answered {
                        heir.merge(at, key(8), other.clone(), Duration::from_secs(60));
                    }
                    if let Some(news) = news.clone().filter(|_| *second == 3) {
                        assert!(heir.observe(at, &mut clock, news).is_some());
                    }
                    heir.handle_timeout(at, &mut clock);
                    let held = heir.dialog(&key(7));
                    held.is_some_and(|held| held.record.is_ended())
                });
                ended.extend(over);
            }
            ended.sort_unstable();
            assert_eq!(ended, ends, "case {number}");
        }
    }

    #[test]
    fn what_an_sbc_gave_up_is_ended_by_its_owner_last_of_all() {
        let now = start();
        let (mut owner, mut clock) = table(1);
        owner.observe(now, &mut clock, invite(7, b"a"));
        let mut other = table(2);
        confirmed(now, 8, &mut other);
        let other = record(&other.0, 8).clone();
        owner.merge(now, key(8), other, Duration::from_secs(60));
        assert_eq!(owner.handle_timeout(after(now, 10), &mut clock), None);
        assert!(owner.handle_timeout(after(now, 11), &mut clock).is_some());
        let end = record(&owner, 7).end.unwrap();
        assert_eq!(end.cause, Cause::OwnerLost);
    }

    #[test]
    fn what_this_router_sees_answered_gives_up_what_another_had_begun() {
        let now = start();
        let (mut owner, mut clock) = table(1);
        owner.observe(now, &mut clock, invite(7, b"a"));
        let told = record(&owner, 7).clone();
        let mut own = table(2);
        own.0.merge(now, key(7), told, Duration::from_secs(20));
        confirmed(now, 8, &mut own);
        let (mut dialogs, mut clock) = own;
        let over = (0..30).find(|second| {
            let changed = dialogs.handle_timeout(after(now, *second), &mut clock);
            changed.is_some_and(|changed| changed.key == key(7))
        });
        assert!(matches!(over, Some(5..=9)), "{over:?}");
        assert!(!record(&dialogs, 8).is_ended(), "the answered one goes on");
    }

    #[test]
    fn the_dead_are_remembered_until_they_are_forgotten() {
        let now = start();
        let mut own = table(1);
        confirmed(now, 7, &mut own);
        let living = record(&own.0, 7).clone();
        let (mut dialogs, mut clock) = own;
        dialogs.forget(&key(7));
        assert_eq!(dialogs.len(), 1, "only the dead are");
        dialogs.observe(
            now,
            &mut clock,
            seen(7, b"a", b"b", Observed::Ended(Cause::Bye)),
        );
        let hour = Duration::from_secs(3600);
        assert_eq!(dialogs.merge(now, key(7), living.clone(), hour), None);
        assert_eq!(dialogs.observe(now, &mut clock, invite(7, b"a")), None);
        dialogs.forget(&key(7));
        assert_eq!((dialogs.len(), dialogs.ended()), (0, 0));
        assert!(dialogs.merge(now, key(7), living, hour).is_some());
    }

    #[test]
    fn messages_find_their_dialog_by_number_then_by_tags() {
        let now = start();
        let (mut dialogs, mut clock) = table(1);
        for (h_id, tag) in [(7, b"a"), (8, b"x"), (9, b"a")] {
            dialogs.observe(now, &mut clock, invite(h_id, tag));
        }
        let answered = Observed::Answered(leg(0, b"sip:b"));
        dialogs.observe(now, &mut clock, seen(9, b"a", b"b", answered));
        let find = |h_id, from: &[u8], to: &[u8]| {
            let found = dialogs.find(b"call", h_id, from, to);
            found.map(|(key, from_caller)| (key.h_id, from_caller))
        };
        assert_eq!(find(Some(7), b"a", b"b"), Some((7, true)));
        assert_eq!(find(Some(9), b"b", b"a"), Some((9, false)));
        assert_eq!(
            find(Some(1), b"x", b""),
            Some((8, true)),
            "an unknown number"
        );
        assert_eq!(find(None, b"x", b"y"), Some((8, true)));
        assert_eq!(find(Some(9), b"a", b"c"), Some((7, true)), "another callee");
        assert_eq!(find(None, b"q", b"r"), None);
        assert_eq!(dialogs.find(b"other", None, b"a", b"b"), None);
    }

    #[test]
    fn a_full_table_refuses_and_counts() {
        let now = start();
        let (mut dialogs, mut clock) = table(1);
        for h_id in 1..=3 {
            assert!(dialogs.has_room());
            dialogs.observe(now, &mut clock, invite(h_id, b"a"));
        }
        assert!(!dialogs.has_room());
        assert_eq!(dialogs.observe(now, &mut clock, invite(4, b"a")), None);
        assert_eq!((dialogs.len(), dialogs.refused()), (3, 1));
    }

    #[test]
    fn variables_are_set_deleted_and_not_of_the_dead() {
        let now = start();
        let mut own = table(1);
        confirmed(now, 7, &mut own);
        let (mut dialogs, mut clock) = own;
        let mut set = |dialogs: &mut Dialogs, value: Option<&[u8]>| {
            let value = value.map(Into::into);
            dialogs
                .set_variable(now, &mut clock, &key(7), b"v", value)
                .is_some()
        };
        assert!(set(&mut dialogs, Some(b"1")));
        let first = record(&dialogs, 7).variables[&b"v"[..]].clone();
        assert!(set(&mut dialogs, None));
        let second = &record(&dialogs, 7).variables[&b"v"[..]];
        assert!(second.value.is_none() && second.stamp > first.stamp);
        let bye = seen(7, b"a", b"b", Observed::Ended(Cause::Bye));
        let mut other = HybridClock::new(9);
        dialogs.observe(now, &mut other, bye);
        assert!(!set(&mut dialogs, Some(b"2")));
    }
}
