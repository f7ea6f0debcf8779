//! Everything that one node holds of its cell: dialogs, tables, the sums over both, the tombstones.
//!
//! Every change passes `note_dialog` or `note_entry`, so that the sums are right after every step and whoever has
//! to tell others hears of each change once.

mod scrub;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use htable::{By, Definition, Pattern, Value};

use crate::change::{Change, Key, Origin, Record};
use crate::clock::{HybridClock, Now, node_number};
use crate::dialogs::{Changed, Dialogs, DialogsConfig};
use crate::digest::{Digests, PARTITIONS};
use crate::ended::{Ended, Rest, may_forget};
use crate::entries::{Entries, EntryChanged, EntryError, EntryKey};
use crate::members::Members;
use crate::observation::Observation;
use crate::record::{DialogKey, DialogRecord, DialogState, Ownership, STOCK_EPOCH, Text};
use crate::unplaced::Unplaced;

/// How far ahead of our wall clock a `last_modified` of a Kamailio may be to count.
pub(crate) const SHOWN_AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// How often tombstones are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What one node holds of its cell.
#[derive(Debug)]
pub struct Replica {
    own: SocketAddr,
    clock: HybridClock,
    dialogs: Dialogs,
    entries: Entries,
    digests: Digests,
    changes: VecDeque<Change>,
    ended: Ended,
    unplaced: Unplaced,
    members: Members,
    /// Routers of whose loss nobody has been told yet.
    lost: VecDeque<SocketAddr>,
    /// When something in a partition changed last.
    changed_at: Box<[Option<Instant>; PARTITIONS]>,
    sweep_at: Option<Instant>,
    scrub: usize,
    flipped: u64,
    entries_forgotten_early: u64,
}

impl Replica {
    /// Creates an empty replica for the node whose DMQ address is `own`.
    #[must_use]
    pub fn new(own: SocketAddr, cell_key: [u8; 16], config: DialogsConfig) -> Self {
        Self {
            own,
            clock: HybridClock::new(node_number(own)),
            dialogs: Dialogs::new(own, cell_key, config),
            entries: Entries::new(cell_key),
            digests: Digests::default(),
            changes: VecDeque::new(),
            ended: Ended::default(),
            unplaced: Unplaced::default(),
            members: Members::new(own),
            lost: VecDeque::new(),
            changed_at: Box::new([None; PARTITIONS]),
            sweep_at: None,
            scrub: 0,
            flipped: 0,
            entries_forgotten_early: 0,
        }
    }

    /// Sets the Tandem members of the cell, this node not among them.
    pub fn set_members(&mut self, others: &BTreeSet<SocketAddr>) {
        self.members.set(others);
        let all = others.iter().copied().chain([self.own]);
        self.dialogs.set_members(all.collect());
    }

    /// Sets how long dialogs last that are answered from now on.
    pub fn set_dialog_lifetime(&mut self, lifetime: Duration) {
        self.dialogs.set_lifetime(lifetime);
    }

    /// Returns the Tandem members of the cell, this node not among them.
    pub fn members(&self) -> impl Iterator<Item = SocketAddr> {
        self.members.iter()
    }

    /// Returns this node's DMQ address.
    #[must_use]
    pub fn own(&self) -> SocketAddr {
        self.own
    }

    /// Returns the dialogs.
    #[must_use]
    pub fn dialogs(&self) -> &Dialogs {
        &self.dialogs
    }

    /// Returns the tables.
    #[must_use]
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Returns the sums over both.
    #[must_use]
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// Returns how many partitions were found whose sum was not that of their records.
    #[must_use]
    pub fn flipped(&self) -> u64 {
        self.flipped
    }

    /// Returns how many tombstones were forgotten before every member was known to know.
    #[must_use]
    pub fn forgotten_early(&self) -> u64 {
        self.ended.forgotten_early() + self.entries_forgotten_early
    }

    /// Returns the next change.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Returns the next dialog whose call record is ours to write: one that ended here, or shortly before
    /// its owner was lost. That one may have written it, too.
    pub fn poll_call_record(&mut self) -> Option<(DialogKey, &DialogRecord)> {
        let mut due = std::iter::from_fn(|| self.ended.poll_call_record());
        let key = due.find(|key| self.dialogs.dialog(key).is_some())?;
        let record = &self.dialogs.dialog(&key)?.record;
        Some((key, record))
    }

    /// Returns how many call records were dropped because nobody took them in time.
    #[must_use]
    pub fn records_dropped(&self) -> u64 {
        self.ended.records_dropped()
    }

    /// Returns how many things were forgotten that were seen of dialogs which were not here yet.
    #[must_use]
    pub fn unplaced_dropped(&self) -> u64 {
        self.unplaced.dropped()
    }

    /// Takes the news that a Tandem node is heard.
    pub fn handle_up(&mut self, node: SocketAddr) {
        self.members.handle_up(node);
    }

    /// Takes the news that every Tandem node that can be is heard: one that is not is lost.
    pub fn handle_all_up(&mut self) {
        self.members.handle_all_up();
    }

    /// Takes the news that a node is lost: silent, or back under a new incarnation. What had just ended there
    /// may not have been finished, so an heir does that: see [`Replica::poll_call_record`],
    /// [`Replica::poll_inherited`].
    pub fn handle_lost(&mut self, now: Instant, node: SocketAddr) {
        if self.members.hears(node) {
            self.lost.push_back(node);
        }
        let (dialogs, loss) = (&self.dialogs, self.members.handle_lost(node));
        self.ended
            .inherit_recent(now, |key| loss.rest(dialogs, key));
    }

    /// Tells whether it is ours to tell others that a dialog is over: it ended here, or we are its heir. For
    /// one that ended at a Kamailio the first by rank of those that are heard does.
    #[must_use]
    pub fn tells_end_of(&self, key: &DialogKey) -> bool {
        let held = self.dialogs.dialog(key);
        let Some(held) = held.filter(|held| held.record.is_ended()) else {
            return false;
        };
        let ownership = held.record.ownership;
        ownership.owner == self.own
            || self.ended.is_inherited(key)
            || self.members.is_heir(&self.dialogs, key, ownership)
            || ownership.epoch == STOCK_EPOCH && self.members.is_first(&self.dialogs, key)
    }

    /// Returns the next router that was lost: what it had written a moment before, Kamailio nodes may not have
    /// been told.
    pub fn poll_lost(&mut self) -> Option<SocketAddr> {
        self.lost.pop_front()
    }

    /// Tells whether it is ours to see that others know of a dialog that goes on: it is our own, or its router is
    /// lost and we are its heir.
    pub(crate) fn looks_after(&self, key: &DialogKey, ownership: Ownership) -> bool {
        ownership.owner == self.own || self.members.is_heir(&self.dialogs, key, ownership)
    }

    /// Tells whether this node comes first for a dialog, of itself and the routers that are heard.
    pub(crate) fn is_first(&self, key: &DialogKey) -> bool {
        self.members.is_first(&self.dialogs, key)
    }

    /// Tells whether this node is the one of all routers that are heard to do what one has to.
    pub(crate) fn is_lowest(&self) -> bool {
        self.members.is_lowest()
    }

    /// Returns the next dialog that ended at a node which was lost before it can have told all Kamailio
    /// nodes that this is so.
    pub fn poll_inherited(&mut self) -> Option<DialogKey> {
        self.ended.poll_inherited()
    }

    /// Makes a record of what this router saw, now or as soon as it holds the dialog.
    pub fn observe(&mut self, now: Now, seen: Observation) {
        if seen.what.is_lasting() && !self.is_here(&seen) {
            self.unplaced.keep(now.monotonic, seen);
            return;
        }
        let changed = self.dialogs.observe(now, &mut self.clock, seen);
        self.note_dialog(now, changed, Origin::Local);
    }

    /// Tells whether the dialog that a message names is here, and not only another one of its Call-ID.
    fn is_here(&self, seen: &Observation) -> bool {
        let found = self.dialogs.find_seen(seen);
        found.is_some_and(|(key, _)| seen.h_id.is_none_or(|h_id| h_id == key.h_id))
    }

    /// Sets or deletes a variable of a dialog; tells whether that changed something.
    pub fn set_variable(
        &mut self,
        now: Now,
        key: &DialogKey,
        name: &[u8],
        value: Option<Text>,
    ) -> bool {
        let changed = self
            .dialogs
            .set_variable(now, &mut self.clock, key, name, value);
        let is_changed = changed.is_some();
        self.note_dialog(now, changed, Origin::Local);
        is_changed
    }

    /// Returns a new stamp for what a Kamailio node wrote over `over`, at its receipt.
    pub fn stamp(&mut self, now: Now, over: crate::Stamp) -> crate::Stamp {
        self.clock.stamp(now, over)
    }

    /// Merges what another node wrote of a dialog; tells whether that changed something.
    pub fn merge_dialog(
        &mut self,
        now: Now,
        key: DialogKey,
        record: DialogRecord,
        remaining: Duration,
        origin: Origin,
    ) -> bool {
        self.clock.observe(now, record.stamp());
        let changed = self.dialogs.merge(now, key, record, remaining);
        let is_changed = changed.is_some();
        let is_new = changed.as_ref().filter(|changed| changed.before.is_none());
        let call_id = is_new.map(|changed| changed.key.call_id.clone());
        self.note_dialog(now, changed, origin);
        let unplaced = call_id.map(|call_id| self.unplaced.take(&call_id));
        for seen in unplaced.into_iter().flatten() {
            self.observe(now, seen);
        }
        is_changed
    }

    /// Makes or changes a table.
    ///
    /// # Errors
    ///
    /// Those of [`htable::Tables::define`].
    pub fn define(&mut self, definition: Definition) -> Result<(), htable::DefineError> {
        for changed in self.entries.define(definition)? {
            self.sum(None, &changed);
        }
        Ok(())
    }

    /// Removes a table with everything in it; no other node is told.
    pub fn undefine(&mut self, name: &[u8]) {
        for changed in self.entries.undefine(name) {
            self.sum(None, &changed);
        }
    }

    /// Sets a value.
    ///
    /// # Errors
    ///
    /// When there is no such table, it is full, or key or value are too long.
    pub fn set(
        &mut self,
        now: Now,
        key: &EntryKey,
        value: Value,
        origin: Origin,
    ) -> Result<(), EntryError> {
        self.set_shown(now, key, value, origin, None)
    }

    /// Sets a value with which a Kamailio node has shown `last_modified`, unless what is stored was shown to be
    /// newer.
    ///
    /// # Errors
    ///
    /// Those of [`Replica::set`].
    pub fn set_shown(
        &mut self,
        now: Now,
        key: &EntryKey,
        value: Value,
        origin: Origin,
        shown: Option<u64>,
    ) -> Result<(), EntryError> {
        if self.entries.is_overtaken(key, shown) {
            return Ok(());
        }
        let shown = shown.filter(|at| is_believed(now, *at));
        let (clock, stock) = (&mut self.clock, origin.stock());
        let changed = self.entries.set(now, clock, key, value, stock, shown)?;
        self.note_entry(now, changed, origin);
        Ok(())
    }

    /// Sets when an entry ends, in seconds from now, 0 or less for never; tells whether there is such
    /// an entry in a table that expires.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn set_expire(
        &mut self,
        now: Now,
        key: &EntryKey,
        seconds: i64,
        origin: Origin,
    ) -> Result<bool, EntryError> {
        let changed =
            self.entries
                .set_expire(now, &mut self.clock, key, seconds, origin.stock())?;
        let is_changed = changed.is_some();
        changed
            .into_iter()
            .for_each(|changed| self.note_entry(now, changed, origin));
        Ok(is_changed)
    }

    /// Deletes a key.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn delete(&mut self, now: Now, key: &EntryKey, origin: Origin) -> Result<(), EntryError> {
        let changed = self.entries.delete(now, &mut self.clock, key)?;
        changed
            .into_iter()
            .for_each(|changed| self.note_entry(now, changed, origin));
        Ok(())
    }

    /// Deletes the keys of a table that match, or all of them; returns how many.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn delete_matching(
        &mut self,
        now: Now,
        table: &[u8],
        pattern: Option<(By, &Pattern)>,
        origin: Origin,
    ) -> Result<usize, EntryError> {
        let changes = self
            .entries
            .delete_matching(now, &mut self.clock, table, pattern)?;
        let count = changes.len();
        changes
            .into_iter()
            .for_each(|changed| self.note_entry(now, changed, origin));
        Ok(count)
    }

    /// Merges what another node wrote; tells whether that changed something.
    ///
    /// # Errors
    ///
    /// When there is no such table here, or no room.
    pub fn merge(
        &mut self,
        now: Now,
        key: &Key,
        record: Record,
        origin: Origin,
    ) -> Result<bool, EntryError> {
        match (key, record) {
            (Key::Dialog(key), Record::Dialog(record, remaining)) => {
                Ok(self.merge_dialog(now, key.clone(), *record, remaining, origin))
            }
            (Key::Entry(key), Record::Entry(mut record)) => {
                self.clock.observe(now, record.write.stamp);
                if !is_believed(now, record.write.shown) {
                    record.write.shown = 0;
                }
                let changed = self.entries.merge(now.monotonic, key, record)?;
                let is_changed = changed.is_some();
                changed
                    .into_iter()
                    .for_each(|changed| self.note_entry(now, changed, origin));
                Ok(is_changed)
            }
            _ => Ok(false),
        }
    }

    /// Returns what is known of a key, also that it is over or gone; `None` when nothing is.
    #[must_use]
    pub fn record(&self, now: Instant, key: &Key) -> Option<Record> {
        match key {
            Key::Dialog(key) => {
                let held = self.dialogs.dialog(key)?;
                let remaining = held.at.saturating_duration_since(now);
                Some(Record::Dialog(Box::new(held.record.clone()), remaining))
            }
            Key::Entry(key) => self.entries.record(now, key).map(Record::Entry),
        }
    }

    /// Returns the partition of a key, the same on every node of the cell.
    #[must_use]
    pub fn partition(&self, key: &Key) -> u8 {
        match key {
            Key::Dialog(key) => self.dialogs.partition(&key.call_id),
            Key::Entry(key) => self.entries.partition(key),
        }
    }

    /// Returns the hash that names a key in comparisons, the same on every node of the cell.
    #[must_use]
    pub fn key_hash(&self, key: &Key) -> u64 {
        match key {
            Key::Dialog(key) => self.dialogs.key_hash(key),
            Key::Entry(key) => self.entries.key_hash(key),
        }
    }

    /// Returns the living keys of a partition with their hashes.
    pub fn living(&self, partition: u8) -> impl Iterator<Item = (Key, u128)> {
        let dialogs = self.dialogs.partition_iter(partition);
        let dialogs = dialogs
            .filter(|(_, held)| !held.record.is_ended())
            .map(|(key, held)| (Key::Dialog(key.clone()), held.hash));
        let entries = self.entries.partition_iter(partition);
        dialogs.chain(entries.map(|(key, hash)| (Key::Entry(key.clone()), hash)))
    }

    /// Returns the keys of a partition that are over or gone and still remembered.
    pub fn dead(&self, partition: u8) -> impl Iterator<Item = Key> {
        let dialogs = self.dialogs.partition_iter(partition);
        let dialogs = dialogs
            .filter(|(_, held)| held.record.is_ended())
            .map(|(key, _)| Key::Dialog(key.clone()));
        let entries = self.entries.partition_gone(partition);
        dialogs.chain(entries.map(|key| Key::Entry(key.clone())))
    }

    /// Returns the hash of what lives under a key, or 0.
    #[must_use]
    pub fn hash(&self, key: &Key) -> u128 {
        match key {
            Key::Dialog(key) => self.dialogs.dialog(key).map_or(0, |held| held.hash),
            Key::Entry(key) => self.entries.hash(key),
        }
    }

    /// Returns when something in a partition changed last.
    #[must_use]
    pub fn changed_at(&self, partition: u8) -> Option<Instant> {
        self.changed_at[usize::from(partition)]
    }

    /// Takes note that a round of comparing with a member, begun at `began`, found no difference: it
    /// knows of everything that had ended by then.
    pub fn compared_clean(&mut self, member: SocketAddr, began: Instant) {
        self.members.compared_clean(member, began);
    }

    /// Ends what has reached its deadline, forgets tombstones, recomputes some sums.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(changed) = self.dialogs.handle_timeout(now, &mut self.clock) {
            self.note_dialog(now, Some(changed), Origin::Local);
        }
        for expired in self.entries.handle_timeout(now.monotonic) {
            self.sum(Some(now.monotonic), &expired);
        }
        self.unplaced.expire(now.monotonic);
        let due = self.sweep_at.is_none_or(|at| at <= now.monotonic);
        if due {
            self.sweep(now.monotonic);
            self.scrub();
            self.sweep_at = Some(now.monotonic + SWEEP);
        }
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let parts = [
            self.dialogs.poll_timeout(),
            self.entries.poll_timeout(),
            self.sweep_at,
        ];
        parts.into_iter().flatten().min()
    }

    /// Forgets the dead of whom every member knows.
    fn sweep(&mut self, now: Instant) {
        let everybody_knows = |since| self.members.know_of(since);
        while let Some(key) = self.ended.forget(now, everybody_knows) {
            self.dialogs.forget(&key);
        }
        let may_forget = |since| may_forget(now, since, everybody_knows(since));
        self.entries_forgotten_early += self.entries.forget(may_forget);
    }

    fn note_dialog(&mut self, now: Now, changed: Option<Changed>, origin: Origin) {
        let Some(changed) = changed else { return };
        let Some(held) = self.dialogs.dialog(&changed.key) else {
            return;
        };
        let partition = self.dialogs.partition(&changed.key.call_id);
        self.digests
            .replace(partition, changed.hash_before, held.hash);
        self.changed_at[usize::from(partition)] = Some(now.monotonic);
        let ownership = held.record.ownership;
        if held.record.is_ended() && changed.before != Some(DialogState::Ended) {
            self.note_end(now.monotonic, &changed, ownership, origin);
        }
        self.changes.push_back(Change {
            key: Key::Dialog(changed.key),
            origin,
            before: changed.before,
        });
    }

    /// A dialog has ended, or is over where it is first heard of: then who ended it has finished it.
    fn note_end(&mut self, now: Instant, changed: &Changed, ownership: Ownership, origin: Origin) {
        let key = &changed.key;
        let was_going_on = changed.before.is_some();
        self.ended.remember(now, key.clone(), was_going_on);
        if !was_going_on {
            return;
        }
        if ownership.owner == self.own {
            self.ended.note_call_record(key.clone());
        } else if self.members.is_heir(&self.dialogs, key, ownership) {
            let rest = match origin {
                // A Kamailio ended it, and frees it everywhere.
                Origin::Stock(_) => Rest::Record,
                Origin::Local | Origin::Tandem(_) => Rest::EndAndRecord,
            };
            self.ended.inherit(key.clone(), rest);
        }
    }

    fn note_entry(&mut self, now: Now, changed: EntryChanged, origin: Origin) {
        self.sum(Some(now.monotonic), &changed);
        if self.entries.is_replicated(&changed.key.table) {
            self.changes.push_back(Change {
                key: Key::Entry(changed.key),
                origin,
                before: None,
            });
        }
    }

    fn sum(&mut self, now: Option<Instant>, changed: &EntryChanged) {
        let partition = self.entries.partition(&changed.key);
        self.digests
            .replace(partition, changed.hash_before, changed.hash);
        let at = &mut self.changed_at[usize::from(partition)];
        *at = now.or(*at);
    }
}

/// Tells whether a Kamailio's `last_modified` is one: a day ahead of our clock its own may be, and what is
/// beyond that would let nothing come after it.
fn is_believed(now: Now, shown: u64) -> bool {
    shown <= now.wall.saturating_add(SHOWN_AHEAD_MAX.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{LegSeen, Observed};
    use crate::record::Cause;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> Now {
        Now {
            monotonic: Instant::now(),
            wall: 1_800_000_000_000,
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

    fn key() -> DialogKey {
        DialogKey {
            call_id: (*b"call").into(),
            h_id: 7,
        }
    }

    /// A replica with one dialog that has ended.
    fn with_a_tombstone(now: Now) -> Replica {
        let mut replica = Replica::new(address(1), [7; 16], DialogsConfig::default());
        let invited = Observed::Invited {
            from_uri: Text::default(),
            to_uri: Text::default(),
            request_uri: Text::default(),
            caller: LegSeen::default(),
        };
        for what in [invited, Observed::Ended(Cause::Failed)] {
            let seen = Observation {
                call_id: (*b"call").into(),
                h_id: Some(7),
                from_tag: (*b"a").into(),
                to_tag: Text::default(),
                what,
            };
            replica.observe(now, seen);
        }
        assert!(replica.dialogs().dialog(&key()).is_some());
        replica
    }

    fn is_remembered(replica: &mut Replica, now: Now) -> bool {
        replica.handle_timeout(now);
        replica.dialogs().dialog(&key()).is_some()
    }

    #[test]
    fn the_dead_are_remembered_until_every_member_knows() {
        let now = start();
        let mut replica = with_a_tombstone(now);
        replica.set_members(&[address(2), address(3)].into());
        replica.compared_clean(address(2), after(now, 10).monotonic);
        replica.compared_clean(address(3), now.monotonic);
        assert!(
            is_remembered(&mut replica, after(now, 100)),
            "began before the end"
        );
        replica.compared_clean(address(3), after(now, 101).monotonic);
        replica.compared_clean(address(3), now.monotonic);
        assert!(!is_remembered(&mut replica, after(now, 102)));
        assert_eq!(replica.forgotten_early(), 0);
    }

    #[test]
    fn a_member_that_cannot_be_asked_is_waited_for_an_hour() {
        let now = start();
        let mut replica = with_a_tombstone(now);
        replica.set_members(&[address(2)].into());
        assert!(is_remembered(&mut replica, after(now, 3599)));
        assert!(!is_remembered(&mut replica, after(now, 3600)));
        assert_eq!(replica.forgotten_early(), 1);

        let mut replica = with_a_tombstone(now);
        replica.set_members(&[address(2)].into());
        replica.set_members(&BTreeSet::new());
        assert!(
            !is_remembered(&mut replica, after(now, 64)),
            "no member any more"
        );
    }

    /// The replica of a member, beside the owner's, that has heard of the dialog; and how that ends.
    fn told_of(own: u8, began: Now) -> (Replica, DialogRecord) {
        let mut owner = with_a_tombstone(began);
        let told = Key::Dialog(key());
        let Some(Record::Dialog(over, _)) = owner.record(began.monotonic, &told) else {
            panic!("it was there");
        };
        assert_eq!(owner.poll_call_record().map(|(key, _)| key), Some(key()));
        assert_eq!(owner.poll_call_record(), None, "once");
        let going_on = DialogRecord {
            state: DialogState::Confirmed,
            end: None,
            ..(*over).clone()
        };
        let mut other = Replica::new(address(own), [7; 16], DialogsConfig::default());
        let others = (1..=3).filter(|member| *member != own).map(address);
        let others: BTreeSet<_> = others.collect();
        other.set_members(&others);
        others
            .into_iter()
            .for_each(|member| other.handle_up(member));
        other.handle_all_up();
        let lasts = Duration::from_secs(60);
        other.merge_dialog(began, key(), going_on, lasts, Origin::Tandem(address(1)));
        (other, *over)
    }

    /// The same, and it has heard of the end.
    fn told_of_the_end(own: u8, began: Now, ended: Now) -> Replica {
        let (mut other, over) = told_of(own, began);
        let origin = Origin::Tandem(address(1));
        other.merge_dialog(ended, key(), over, Duration::ZERO, origin);
        assert_eq!(other.poll_call_record(), None, "its owner does");
        other
    }

    /// Whether this replica finishes what ended at a lost node.
    fn inherits(replica: &mut Replica) -> bool {
        let inherited = replica.poll_inherited();
        let recorded = replica.poll_call_record().map(|(key, _)| key);
        assert_eq!(inherited, recorded);
        assert_eq!(replica.poll_inherited(), None, "once");
        inherited.is_some()
    }

    #[test]
    fn what_ended_just_before_its_owner_was_lost_is_finished_by_one_heir() {
        let (began, ended) = (start(), after(start(), 10));
        let lost = after(ended, 2).monotonic;
        let mut heirs = [2, 3].map(|own| told_of_the_end(own, began, ended));
        for heir in &mut heirs {
            heir.handle_lost(lost, address(4));
            assert!(!inherits(heir), "no member");
            heir.handle_lost(lost, address(1));
        }
        let finished = heirs.each_mut().map(inherits);
        assert_eq!(finished.into_iter().filter(|it| *it).count(), 1);

        // The heir is lost, too.
        let [first, second] = match finished {
            [true, _] => [2, 3],
            [false, _] => [3, 2],
        };
        let mut second = told_of_the_end(second, began, ended);
        second.handle_lost(lost, address(1));
        assert!(!inherits(&mut second));
        second.handle_lost(lost, address(first));
        assert!(inherits(&mut second));

        // The next death changes nothing of who the heir is.
        let mut first = told_of_the_end(first, began, ended);
        first.handle_lost(lost, address(1));
        assert!(inherits(&mut first));
        let other = if first.own() == address(2) { 3 } else { 2 };
        first.handle_lost(lost, address(other));
        assert!(!inherits(&mut first), "it has been finished");
    }

    #[test]
    fn what_a_kamailio_ends_for_a_lost_owner_has_one_record() {
        let (began, ended) = (start(), after(start(), 100));
        for (lost, records) in [(1, 1), (4, 0)] {
            let recorded = [2, 3].map(|own| {
                let (mut other, over) = told_of(own, began);
                other.handle_lost(after(began, 50).monotonic, address(lost));
                let origin = Origin::Stock(address(9));
                other.merge_dialog(ended, key(), over, Duration::ZERO, origin);
                assert_eq!(other.poll_inherited(), None, "the Kamailio tells all of it");
                other.poll_call_record().is_some()
            });
            assert_eq!(recorded.into_iter().filter(|it| *it).count(), records);
        }
    }

    #[test]
    fn what_is_heard_to_have_ended_at_an_owner_that_is_lost_is_finished_by_one_heir() {
        let (began, ended) = (start(), after(start(), 100));
        let finished = [2, 3].map(|own| {
            let (mut other, over) = told_of(own, began);
            other.handle_lost(after(began, 50).monotonic, address(1));
            let from = address(if own == 2 { 3 } else { 2 });
            other.merge_dialog(ended, key(), over, Duration::ZERO, Origin::Tandem(from));
            inherits(&mut other)
        });
        assert_eq!(finished.into_iter().filter(|it| *it).count(), 1);
    }

    #[test]
    fn a_bye_that_comes_before_its_dialog_ends_it() {
        let now = start();
        let (other, over) = told_of(2, now);
        let Some(Record::Dialog(record, _)) = other.record(now.monotonic, &Key::Dialog(key()))
        else {
            panic!("it was told");
        };
        let mut late = Replica::new(address(3), [7; 16], DialogsConfig::default());
        late.set_members(&[address(1), address(2)].into());
        let bye = |from_tag: &[u8]| Observation {
            call_id: (*b"call").into(),
            h_id: Some(7),
            from_tag: from_tag.into(),
            to_tag: over.callee.tag.clone(),
            what: Observed::Ended(Cause::Bye),
        };
        late.observe(now, bye(b"a"));
        late.observe(now, bye(b"of another"));
        let lasts = Duration::from_secs(60);
        let origin = Origin::Tandem(address(2));
        late.merge_dialog(after(now, 1), key(), *record, lasts, origin);
        let (key, record) = late.poll_call_record().unwrap();
        assert_eq!((key.h_id, record.ownership.owner), (7, address(3)));
        assert_eq!(record.end.map(|end| end.cause), Some(Cause::Bye));
        let changes = std::iter::from_fn(|| late.poll_change());
        let told: Vec<_> = changes.map(|change| change.origin).collect();
        assert_eq!(told, [origin, Origin::Local]);
    }

    #[test]
    fn of_two_dialogs_of_a_call_each_bye_ends_its_own_in_whatever_order_they_come() {
        for order in [[7, 9], [9, 7]] {
            let now = start();
            let (_, over) = told_of(2, now);
            let going_on = DialogRecord {
                state: DialogState::Confirmed,
                end: None,
                ..over
            };
            let mut late = Replica::new(address(3), [7; 16], DialogsConfig::default());
            for h_id in [7, 9] {
                late.observe(
                    now,
                    Observation {
                        call_id: (*b"call").into(),
                        h_id: Some(h_id),
                        from_tag: (*b"a").into(),
                        to_tag: going_on.callee.tag.clone(),
                        what: Observed::Ended(Cause::Bye),
                    },
                );
            }
            for h_id in order {
                let key = DialogKey { h_id, ..key() };
                let lasts = Duration::from_secs(60);
                let origin = Origin::Tandem(address(2));
                late.merge_dialog(now, key.clone(), going_on.clone(), lasts, origin);
                let due = late.poll_call_record().map(|(key, _)| key);
                assert_eq!(due, Some(key));
            }
        }
    }

    #[test]
    fn whoever_has_not_asked_the_others_yet_is_nobodys_heir() {
        let (began, ended) = (start(), after(start(), 100));
        let (other, over) = told_of(2, began);
        let Some(Record::Dialog(record, _)) = other.record(began.monotonic, &Key::Dialog(key()))
        else {
            panic!("it was told");
        };
        for is_settled in [false, true] {
            let mut late = Replica::new(address(2), [7; 16], DialogsConfig::default());
            late.set_members(&[address(1)].into());
            if is_settled {
                late.handle_all_up();
            }
            let lasts = Duration::from_secs(60);
            let origin = Origin::Stock(address(9));
            late.merge_dialog(began, key(), (*record).clone(), lasts, origin);
            late.merge_dialog(ended, key(), over.clone(), Duration::ZERO, origin);
            assert_eq!(late.poll_call_record().is_some(), is_settled);
        }
    }

    #[test]
    fn every_change_is_told_once_with_its_origin() {
        let now = start();
        let mut replica = with_a_tombstone(now);
        let changes: Vec<_> = std::iter::from_fn(|| replica.poll_change()).collect();
        let before: Vec<_> = changes.iter().map(|change| change.before).collect();
        assert_eq!(before, [None, Some(DialogState::Unconfirmed)]);
        assert!(changes.iter().all(|change| change.origin == Origin::Local));

        let told = Key::Dialog(key());
        let record = replica.record(now.monotonic, &told).unwrap();
        let mut other = Replica::new(address(2), [7; 16], DialogsConfig::default());
        let origin = Origin::Tandem(address(1));
        assert_eq!(other.merge(now, &told, record.clone(), origin), Ok(true));
        assert_eq!(
            other.poll_change().map(|change| change.origin),
            Some(origin)
        );
        assert_eq!(other.merge(now, &told, record, origin), Ok(false));
        assert_eq!(other.poll_change(), None);
        let partition = other.partition(&told);
        assert_eq!(other.changed_at(partition), Some(now.monotonic));
        assert_eq!(other.dead(partition).collect::<Vec<_>>(), [told]);
        assert_eq!(other.living(partition).count(), 0);
    }
}
