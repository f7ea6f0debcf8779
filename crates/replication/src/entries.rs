//! The tables of a cell as one node holds them, and what it remembers of keys that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use htable::{
    By, Definition, Entry, Expired, KEY_BYTES_MAX, Merged, Pattern, Tables, Value, WriteError,
};
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher128};

use crate::clock::{HybridClock, Now, Stamp, node_number};

/// Names an entry in its cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The table.
    pub table: Bytes,
    /// The key in it.
    pub key: Bytes,
}

/// One write of an entry: the later counts, whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// When.
    pub stamp: Stamp,
    /// Which decision about its end this was: two nodes with one mark let the entry end at one time.
    ///
    /// A wall clock of the writer, which nobody's timer goes by; 0 when the table's lifetime counts.
    pub mark: u64,
    /// The greatest `last_modified` that Kamailio nodes have shown with this entry, milliseconds since 1970 by
    /// their clocks; 0: none. Among themselves they go by it (6.2), so what they say goes by it here.
    pub shown: u64,
}

/// An entry, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    /// Its value; `None`: deleted.
    pub value: Option<Value>,
    /// Who wrote that.
    pub write: Write,
    /// How long it lasts from now; `None`: it does not end by itself.
    pub remaining: Option<Duration>,
    /// Of a key that is gone: the hash of the value that went, to know it again at a Kamailio node that was
    /// away; 0 when nobody knows it.
    pub gone_hash: u64,
}

/// A key that is gone: what was written before does not come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) write: Write,
    pub(crate) since: Instant,
    /// The hash of the value that went, to know it again at a Kamailio node.
    pub(crate) value_hash: u64,
}

/// Why an operation on a table was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// There is no such table.
    #[error("there is no such table")]
    NoTable,
    /// It was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What a change did to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChanged {
    /// Which.
    pub key: EntryKey,
    pub(crate) hash_before: u128,
    pub(crate) hash: u128,
}

/// How many keys that are gone are remembered; at the limit the longest gone are forgotten early.
pub const GONE_MAX: usize = 200_000;

/// The tables of one node.
#[derive(Debug)]
pub struct Entries {
    cell_key: [u8; 16],
    tables: Tables<Write>,
    /// What is stored in replicated tables, by partition.
    stored: BTreeSet<(u8, EntryKey)>,
    gone: BTreeMap<(u8, EntryKey), Gone>,
    /// The keys of `gone` by since when.
    buried: BTreeSet<(Instant, EntryKey)>,
    refused: u64,
}

impl Entries {
    /// Creates no tables.
    #[must_use]
    pub fn new(cell_key: [u8; 16]) -> Self {
        Self {
            cell_key,
            tables: Tables::new(),
            stored: BTreeSet::new(),
            gone: BTreeMap::new(),
            buried: BTreeSet::new(),
            refused: 0,
        }
    }

    /// Returns the tables.
    #[must_use]
    pub fn tables(&self) -> &Tables<Write> {
        &self.tables
    }

    /// Makes or changes a table; returns its entries, if they are replicated now and were not, or the
    /// other way round.
    ///
    /// # Errors
    ///
    /// Those of [`Tables::define`].
    pub(crate) fn define(
        &mut self,
        definition: Definition,
    ) -> Result<Vec<EntryChanged>, htable::DefineError> {
        let former = self.tables.table(&definition.name);
        let turns = former.is_some_and(|it| it.definition().replicate != definition.replicate);
        // Every view of the registry defines every table again: what stays as it was costs nothing.
        if !turns {
            self.tables.define(definition)?;
            return Ok(Vec::new());
        }
        let keys = self.keys_of(&definition.name);
        let before: Vec<u128> = keys.iter().map(|key| self.hash(key)).collect();
        self.tables.define(definition)?;
        let changes = keys.into_iter().zip(before);
        Ok(changes
            .map(|(key, hash_before)| self.changed(&key, hash_before))
            .collect())
    }

    /// Removes a table and returns what was in it, if it was replicated.
    pub(crate) fn undefine(&mut self, name: &[u8]) -> Vec<EntryChanged> {
        let is_replicated = self.is_replicated(name);
        let keys = self.keys_of(name);
        let before: Vec<u128> = keys.iter().map(|key| self.hash(key)).collect();
        self.tables.undefine(name);
        if !is_replicated {
            return Vec::new();
        }
        let changes = keys.into_iter().zip(before);
        changes
            .map(|(key, hash_before)| self.changed(&key, hash_before))
            .collect()
    }

    fn keys_of(&self, table: &[u8]) -> Vec<EntryKey> {
        let found = self.tables.table(table).into_iter();
        let keys = found.flat_map(|table| {
            table.stored_iter().map(|(key, _)| EntryKey {
                table: table.definition().name.clone(),
                key: key.clone(),
            })
        });
        keys.collect()
    }

    /// Returns how many writes of others were refused for want of room or size.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns how many keys are remembered as gone.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.gone.len()
    }

    /// Tells whether a table is replicated.
    #[must_use]
    pub fn is_replicated(&self, table: &[u8]) -> bool {
        self.tables
            .table(table)
            .is_some_and(|table| table.definition().replicate)
    }

    /// Returns the partition of a key, the same on every node of the cell.
    #[must_use]
    pub fn partition(&self, key: &EntryKey) -> u8 {
        let mut hasher = SipHasher24::new_with_key(&self.cell_key);
        hasher.write(&key.table);
        hasher.write_u8(0);
        hasher.write(&key.key);
        hasher.finish() as u8
    }

    /// Returns the replicated entries of a partition that are stored, with their hashes.
    pub fn partition_iter(&self, partition: u8) -> impl Iterator<Item = (&EntryKey, u128)> {
        let from = (partition, EntryKey::default());
        let keys = self.stored.range(from..).map(|(at, key)| (*at, key));
        keys.take_while(move |(at, _)| *at == partition)
            .map(|(_, key)| (key, self.hash(key)))
    }

    /// Changes a number behind the back of the sums, as a flipped bit would.
    pub(crate) fn flip(&mut self, key: &EntryKey) {
        let Some(table) = self.tables.table_mut(&key.table) else {
            return;
        };
        if let Some(mut entry) = table.delete(&key.key)
            && let Value::Int(number) = &mut entry.value
        {
            *number ^= 1;
            // It was there a moment ago.
            let _ = table.merge(&key.key, entry);
        }
    }

    /// Returns the keys of a partition that are gone.
    pub fn partition_gone(&self, partition: u8) -> impl Iterator<Item = &EntryKey> {
        let from = (partition, EntryKey::default());
        let keys = self.gone.range(from..).map(|((at, key), _)| (*at, key));
        keys.take_while(move |(at, _)| *at == partition)
            .map(|(_, key)| key)
    }

    /// Returns an entry, or that it is gone; `None` when nothing is known of it.
    #[must_use]
    pub fn record(&self, now: Instant, key: &EntryKey) -> Option<EntryRecord> {
        let entry = self
            .tables
            .table(&key.table)
            .and_then(|table| table.entry(now, &key.key));
        if let Some(entry) = entry {
            return Some(EntryRecord {
                value: Some(entry.value.clone()),
                write: entry.stamp,
                remaining: entry.expires.map(|at| at.saturating_duration_since(now)),
                gone_hash: 0,
            });
        }
        let gone = self.gone_of(key)?;
        Some(EntryRecord {
            value: None,
            write: gone.write,
            remaining: None,
            gone_hash: gone.value_hash,
        })
    }

    /// Tells whether a write of a Kamailio node is older than what is stored, by the clocks that such nodes
    /// show. Equal is older: they keep what they have, too.
    #[must_use]
    pub fn is_overtaken(&self, key: &EntryKey, shown: Option<u64>) -> bool {
        shown.is_some_and(|shown| shown <= self.shown(key))
    }

    fn gone_of(&self, key: &EntryKey) -> Option<&Gone> {
        self.gone.get(&(self.partition(key), key.clone()))
    }

    fn unbury(&mut self, key: &EntryKey) {
        let slot = (self.partition(key), key.clone());
        if let Some(gone) = self.gone.remove(&slot) {
            self.buried.remove(&(gone.since, slot.1));
        }
    }

    /// Sets a value for us, or for the Kamailio node `stock`, which may have shown `last_modified` with it; in a
    /// table that expires its lifetime starts again.
    ///
    /// # Errors
    ///
    /// When there is no such table, it is full, or key or value are too long.
    pub fn set(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        key: &EntryKey,
        value: Value,
        stock: Option<SocketAddr>,
        shown: Option<u64>,
    ) -> Result<EntryChanged, EntryError> {
        let hash_before = self.hash(key);
        let stamp = self.stamp(now, clock, key, stock);
        let shown = shown.unwrap_or(0).max(self.shown(key));
        let table = self
            .tables
            .table_mut(&key.table)
            .ok_or(EntryError::NoTable)?;
        // Every node lets a Kamailio node's write last for the table's lifetime from its receipt.
        let mark = match (stock, table.definition().autoexpire) {
            (None, Some(lifetime)) => now.wall.saturating_add(lifetime.as_millis() as u64),
            _ => 0,
        };
        let write = Write { stamp, mark, shown };
        table.set(now.monotonic, &key.key, value, write)?;
        self.unbury(key);
        Ok(self.changed(key, hash_before))
    }

    /// Sets when an entry ends, in seconds from now; 0 or less: never. `None` when there is no such
    /// entry, or its table does not expire.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn set_expire(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        key: &EntryKey,
        seconds: i64,
        stock: Option<SocketAddr>,
    ) -> Result<Option<EntryChanged>, EntryError> {
        let hash_before = self.hash(key);
        let stamp = self.stamp(now, clock, key, stock);
        let shown = self.shown(key);
        let table = self
            .tables
            .table_mut(&key.table)
            .ok_or(EntryError::NoTable)?;
        let mark = match stock {
            None => now.wall.saturating_add_signed(seconds.saturating_mul(1000)),
            Some(_) => seconds.unsigned_abs() | 1 << 63,
        };
        let write = Write { stamp, mark, shown };
        if !table.set_expire(now.monotonic, &key.key, seconds, write) {
            return Ok(None);
        }
        Ok(Some(self.changed(key, hash_before)))
    }

    /// Deletes a key. That is remembered also when there was none.
    ///
    /// # Errors
    ///
    /// When there is no such table, or the key is too long to be in one.
    pub fn delete(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        key: &EntryKey,
    ) -> Result<Option<EntryChanged>, EntryError> {
        if self.tables.table(&key.table).is_none() {
            return Err(EntryError::NoTable);
        }
        if key.key.len() > KEY_BYTES_MAX {
            return Err(WriteError::Key.into());
        }
        let stamp = clock.stamp(now, self.written(key));
        let write = Write {
            stamp,
            ..Write::default()
        };
        Ok(self.bury(now.monotonic, key, write, 0))
    }

    /// Deletes the keys that match, or all of a table.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn delete_matching(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        table: &[u8],
        pattern: Option<(By, &Pattern)>,
    ) -> Result<Vec<EntryChanged>, EntryError> {
        let found = self.tables.table(table).ok_or(EntryError::NoTable)?;
        let keys: Vec<Bytes> = found
            .iter(now.monotonic)
            .filter(|(key, entry)| {
                pattern.is_none_or(|(by, pattern)| pattern.matches(by, key, &entry.value))
            })
            .map(|(key, _)| key.clone())
            .collect();
        let table = Bytes::copy_from_slice(table);
        let mut changes = Vec::new();
        for key in keys {
            let key = EntryKey {
                table: table.clone(),
                key,
            };
            changes.extend(self.delete(now, clock, &key)?);
        }
        Ok(changes)
    }

    /// Merges what another node wrote.
    ///
    /// # Errors
    ///
    /// When there is no such table, it is full, or key or value are too long.
    pub fn merge(
        &mut self,
        now: Instant,
        key: &EntryKey,
        record: EntryRecord,
    ) -> Result<Option<EntryChanged>, EntryError> {
        if self.tables.table(&key.table).is_none() {
            return Err(EntryError::NoTable);
        }
        if self
            .gone_of(key)
            .is_some_and(|gone| gone.write >= record.write)
        {
            return Ok(None);
        }
        let Some(value) = record.value else {
            // Of one write the end counts more than the value: it has expired there.
            let written = self.written(key);
            return Ok(match written <= record.write.stamp {
                true => self.bury(now, key, record.write, record.gone_hash),
                false => None,
            });
        };
        let hash_before = self.hash(key);
        let rival = self.stored(key).filter(|own| own.stamp == record.write);
        let loses = rival.is_some_and(|own| self.value_hash(&own.value) < self.value_hash(&value));
        let entry = Entry {
            value,
            expires: record.remaining.map(|remaining| now + remaining),
            stamp: record.write,
        };
        let table = self
            .tables
            .table_mut(&key.table)
            .ok_or(EntryError::NoTable)?;
        if loses {
            table.delete(&key.key);
        }
        match table.merge(&key.key, entry) {
            Ok(Merged::Taken) => {
                self.unbury(key);
                Ok(Some(self.changed(key, hash_before)))
            }
            Ok(Merged::Kept) => Ok(None),
            Err(error) => {
                self.refused += 1;
                Err(error.into())
            }
        }
    }

    /// Removes the entries whose time has come. What ended cannot come back by its old write.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<EntryChanged> {
        let mut changes = Vec::new();
        for Expired { table, key, entry } in self.tables.handle_timeout(now) {
            let key = EntryKey { table, key };
            let hash_before = match self.is_replicated(&key.table) {
                true => self.hash_of(&key, &entry),
                false => 0,
            };
            if self.is_replicated(&key.table) {
                let hash = self.value_hash(&entry.value);
                self.remember(now, &key, entry.stamp, hash);
            }
            changes.push(self.changed(&key, hash_before));
        }
        changes
    }

    /// Returns when an entry ends next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tables.poll_timeout()
    }

    /// Forgets keys that are gone, the longest gone first, as long as `may_forget` says so of the
    /// moment since when; returns how many had to go although it did not.
    pub(crate) fn forget(&mut self, may_forget: impl Fn(Instant) -> bool) -> u64 {
        let mut early = 0;
        while let Some((since, key)) = self.buried.first() {
            let may = may_forget(*since);
            if !may && self.buried.len() <= GONE_MAX {
                break;
            }
            early += u64::from(!may);
            let key = key.clone();
            self.unbury(&key);
        }
        early
    }

    /// Puts the memory of a key in its place. What value the writer saw go counts more than what was here.
    fn bury(
        &mut self,
        now: Instant,
        key: &EntryKey,
        write: Write,
        told_hash: u64,
    ) -> Option<EntryChanged> {
        let hash_before = self.hash(key);
        let removed = self.tables.table_mut(&key.table)?.delete(&key.key);
        let value_hash = match (told_hash, removed) {
            (0, Some(removed)) => self.value_hash(&removed.value),
            (told, _) => told,
        };
        self.remember(now, key, write, value_hash);
        Some(self.changed(key, hash_before))
    }

    fn remember(&mut self, now: Instant, key: &EntryKey, write: Write, value_hash: u64) {
        self.unbury(key);
        let gone = Gone {
            write,
            since: now,
            value_hash,
        };
        self.buried.insert((now, key.clone()));
        self.gone.insert((self.partition(key), key.clone()), gone);
    }

    fn stored(&self, key: &EntryKey) -> Option<&Entry<Write>> {
        self.tables.table(&key.table)?.stored(&key.key)
    }

    fn shown(&self, key: &EntryKey) -> u64 {
        self.stored(key).map_or(0, |own| own.stamp.shown)
    }

    /// Returns the stamp of what is known of a key.
    fn written(&self, key: &EntryKey) -> Stamp {
        let gone = self.gone_of(key).map(|gone| gone.write.stamp);
        gone.max(self.stored(key).map(|entry| entry.stamp.stamp))
            .unwrap_or_default()
    }

    /// Returns a stamp for a write by us, or by a Kamailio node, under whose number it is kept.
    fn stamp(
        &self,
        now: Now,
        clock: &mut HybridClock,
        key: &EntryKey,
        stock: Option<SocketAddr>,
    ) -> Stamp {
        let stamp = clock.stamp(now, self.written(key));
        Stamp {
            node: stock.map_or(stamp.node, node_number),
            ..stamp
        }
    }

    /// Takes note of what is stored now under a key.
    fn changed(&mut self, key: &EntryKey, hash_before: u128) -> EntryChanged {
        let hash = self.hash(key);
        let slot = (self.partition(key), key.clone());
        match hash {
            0 => self.stored.remove(&slot),
            _ => self.stored.insert(slot),
        };
        EntryChanged {
            key: key.clone(),
            hash_before,
            hash,
        }
    }

    /// Returns the hash that names a key in comparisons.
    pub(crate) fn key_hash(&self, key: &EntryKey) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.cell_key);
        for text in [&key.table, &key.key] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text);
        }
        hasher.finish()
    }

    /// Returns the hash of what is stored under a key, expired or not, or 0.
    pub(crate) fn hash(&self, key: &EntryKey) -> u128 {
        match self.tables.table(&key.table) {
            Some(table) if table.definition().replicate => table
                .stored(&key.key)
                .map_or(0, |entry| self.hash_of(key, entry)),
            _ => 0,
        }
    }

    fn hash_of(&self, key: &EntryKey, entry: &Entry<Write>) -> u128 {
        let mut hasher = SipHasher128::new_with_key(&self.cell_key);
        for text in [&key.table, &key.key] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text);
        }
        write_value(&mut hasher, &entry.value);
        hasher.write(&entry.stamp.mark.to_le_bytes());
        hasher.finish128().as_u128()
    }

    /// Returns a hash of a value alone.
    #[must_use]
    pub fn value_hash(&self, value: &Value) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.cell_key);
        write_value(&mut hasher, value);
        hasher.finish()
    }
}

fn write_value(hasher: &mut impl Hasher, value: &Value) {
    match value {
        Value::Int(number) => {
            hasher.write(&[0]);
            hasher.write(&number.to_le_bytes());
        }
        Value::Text(text) => {
            hasher.write(&[2]);
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: u64 = 1_800_000_000_000;

    fn definition(replicate: bool) -> Definition {
        Definition {
            replicate,
            autoexpire: Some(Duration::from_secs(60)),
            ..Definition::new("t")
        }
    }

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn start() -> (Now, Entries, HybridClock) {
        let now = Now {
            monotonic: Instant::now(),
            wall: WALL,
        };
        let mut entries = Entries::new([7; 16]);
        entries.define(definition(true)).unwrap();
        (now, entries, HybridClock::new(1))
    }

    fn key(name: &'static str) -> EntryKey {
        EntryKey {
            table: "t".into(),
            key: name.into(),
        }
    }

    fn written(clock: u64, value: Option<i32>) -> EntryRecord {
        EntryRecord {
            value: value.map(Value::Int),
            write: Write {
                stamp: Stamp { clock, node: 2 },
                ..Write::default()
            },
            remaining: None,
            gone_hash: 0,
        }
    }

    fn held(now: Now, entries: &Entries, name: &'static str) -> Option<i32> {
        match entries.record(now.monotonic, &key(name))?.value? {
            Value::Int(number) => Some(number),
            Value::Text(_) => None,
        }
    }

    #[test]
    fn of_two_writes_the_later_counts_in_either_order() {
        let writes = [
            written(1, Some(1)),
            written(2, Some(2)),
            written(2, Some(3)),
            written(2, None),
            written(3, None),
            written(4, Some(4)),
        ];
        for one in &writes {
            for other in &writes {
                let mut ends = Vec::new();
                for order in [[one, other], [other, one]] {
                    let (now, mut entries, _) = start();
                    for record in order {
                        entries
                            .merge(now.monotonic, &key("k"), record.clone())
                            .unwrap();
                    }
                    // What value went is known to whoever had it.
                    let end = entries.record(now.monotonic, &key("k"));
                    ends.push(end.map(|end| EntryRecord {
                        gone_hash: 0,
                        ..end
                    }));
                }
                assert_eq!(ends[0], ends[1], "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_deleted_key_comes_back_by_a_later_write_only() {
        let (now, mut entries, mut clock) = start();
        let value = |number| Value::Int(number);
        entries
            .set(now, &mut clock, &key("k"), value(1), None, None)
            .unwrap();
        let old = entries.record(now.monotonic, &key("k")).unwrap();
        entries.delete(now, &mut clock, &key("k")).unwrap();
        assert_eq!(entries.gone(), 1);
        let gone = entries.record(now.monotonic, &key("k")).unwrap();
        assert_eq!(gone.gone_hash, entries.value_hash(&value(1)));
        assert_eq!(entries.merge(now.monotonic, &key("k"), old), Ok(None));
        assert_eq!(held(now, &entries, "k"), None);
        entries
            .set(now, &mut clock, &key("k"), value(2), None, None)
            .unwrap();
        assert_eq!((held(now, &entries, "k"), entries.gone()), (Some(2), 0));
    }

    #[test]
    fn what_expired_does_not_come_back_from_a_slower_clock() {
        let (now, mut entries, mut clock) = start();
        entries
            .set(now, &mut clock, &key("k"), Value::Int(1), None, None)
            .unwrap();
        let old = entries.record(now.monotonic, &key("k")).unwrap();
        let later = now.monotonic + Duration::from_secs(60);
        assert_eq!(entries.handle_timeout(later).len(), 1);
        assert_eq!(entries.merge(later, &key("k"), old.clone()), Ok(None));
        // And the slower one learns from the faster.
        let gone = entries.record(later, &key("k")).unwrap();
        assert_eq!((gone.value.clone(), gone.write), (None, old.write));
        let (now, mut slower, _) = start();
        slower.merge(now.monotonic, &key("k"), old).unwrap();
        assert!(
            slower
                .merge(now.monotonic, &key("k"), gone)
                .unwrap()
                .is_some()
        );
        assert_eq!(held(now, &slower, "k"), None);
    }

    #[test]
    fn keys_are_found_by_partition_alive_and_gone() {
        let (now, mut entries, mut clock) = start();
        let names = ["a", "b", "c", "d"];
        for name in names {
            entries
                .set(now, &mut clock, &key(name), Value::Int(1), None, None)
                .unwrap();
        }
        entries.delete(now, &mut clock, &key("b")).unwrap();
        for name in names {
            let partition = entries.partition(&key(name));
            let mut alive = entries.partition_iter(partition);
            let alive = alive.any(|(found, hash)| *found == key(name) && hash != 0);
            let mut gone = entries.partition_gone(partition);
            let gone = gone.any(|found| *found == key(name));
            assert_eq!((alive, gone), (name != "b", name == "b"));
        }
        let all = |entries: &Entries| (0..=255).flat_map(|n| entries.partition_iter(n)).count();
        assert_eq!(all(&entries), 3);
        let changes = entries.define(definition(false)).unwrap();
        assert_eq!((changes.len(), all(&entries)), (3, 0));
        assert!(
            changes
                .iter()
                .all(|changed| changed.hash_before != 0 && changed.hash == 0)
        );
        assert_eq!(entries.define(definition(true)).unwrap().len(), 3);
        assert_eq!((entries.undefine(b"t").len(), all(&entries)), (3, 0));
    }

    #[test]
    fn the_longest_gone_are_forgotten_first() {
        let (now, mut entries, mut clock) = start();
        let second = |n| Now {
            monotonic: now.monotonic + Duration::from_secs(n),
            ..now
        };
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            entries
                .delete(second(n as u64), &mut clock, &key(name))
                .unwrap();
        }
        // Deleted again: younger than it was.
        entries.delete(second(3), &mut clock, &key("a")).unwrap();
        let before = second(2).monotonic;
        assert_eq!(entries.forget(|since| since < before), 0);
        let known = |name| entries.record(now.monotonic, &key(name)).is_some();
        assert_eq!([known("a"), known("b"), known("c")], [true, false, true]);
    }

    #[test]
    fn a_key_that_no_table_takes_is_not_remembered_either() {
        let (now, mut entries, mut clock) = start();
        let long = EntryKey {
            table: "t".into(),
            key: vec![b'k'; KEY_BYTES_MAX + 1].into(),
        };
        let refused = entries.delete(now, &mut clock, &long);
        assert_eq!(refused, Err(EntryError::Write(WriteError::Key)));
        let nowhere = EntryKey {
            table: "u".into(),
            ..key("k")
        };
        let refused = entries.delete(now, &mut clock, &nowhere);
        assert_eq!(refused, Err(EntryError::NoTable));
        assert_eq!(entries.gone(), 0);
    }
}
