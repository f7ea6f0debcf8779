//! One table: its entries in key order, and when they end.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{By, Definition, Pattern, Value};

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// The longest text of a value, in bytes.
///
/// With name, key and text at their limits and every byte escaped, an entry still fits one datagram
/// of Kamailio's JSON.
pub const VALUE_BYTES_MAX: usize = 8192;

/// What a table holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<S> {
    /// The value.
    pub value: Value,
    /// When the entry ends; `None`: never.
    pub expires: Option<Instant>,
    /// When and by whom it was written, as the caller orders writes.
    pub stamp: S,
}

impl<S> Entry<S> {
    fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|at| at > now)
    }
}

/// Why a write was refused; each refusal is counted in [`Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The table holds [`Definition::entries_max`] entries and the key is new.
    #[error("the table is full")]
    Full,
    /// The key is longer than [`KEY_BYTES_MAX`].
    #[error("the key is longer than {KEY_BYTES_MAX} bytes")]
    Key,
    /// The text is longer than [`VALUE_BYTES_MAX`].
    #[error("the value is longer than {VALUE_BYTES_MAX} bytes")]
    Value,
}

/// How many writes a table has refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// New keys at the limit of entries.
    pub full: u64,
    /// Keys too long.
    pub key: u64,
    /// Values too long.
    pub value: u64,
}

/// Which of two entries a merge left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The one given: there was none, or an older one.
    Taken,
    /// The one there: it is as new or newer.
    Kept,
}

/// One named table.
///
/// `S` is the stamp of writes: the greater is the newer.
#[derive(Clone, Debug)]
pub struct Table<S> {
    definition: Definition,
    entries: BTreeMap<Bytes, Entry<S>>,
    deadlines: BTreeSet<(Instant, Bytes)>,
    refused: Refused,
}

impl<S: Copy + Ord> Table<S> {
    pub(crate) fn new(definition: Definition) -> Self {
        Self {
            definition,
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            refused: Refused::default(),
        }
    }

    /// Takes a changed definition; entries and their deadlines stay as they are.
    pub(crate) fn redefine(&mut self, definition: Definition) {
        self.definition = definition;
    }

    /// Returns what the operator says about the table.
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Returns how many writes were refused.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Returns the number of entries, with those that have ended but were not yet swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether the table has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what a key reads as: its value, else the table's initial value.
    #[must_use]
    pub fn value(&self, now: Instant, key: &[u8]) -> Option<&Value> {
        self.entry(now, key)
            .map(|entry| &entry.value)
            .or(self.definition.initial.as_ref())
    }

    /// Returns the entry of a key, unless it has ended.
    #[must_use]
    pub fn entry(&self, now: Instant, key: &[u8]) -> Option<&Entry<S>> {
        self.entries.get(key).filter(|entry| entry.is_live(now))
    }

    /// Returns all entries in key order, also those whose time has come and that were not removed yet.
    pub fn stored_iter(&self) -> impl Iterator<Item = (&Bytes, &Entry<S>)> {
        self.entries.iter()
    }

    /// Returns an entry also when its time has come and it was not removed yet.
    #[must_use]
    pub fn stored(&self, key: &[u8]) -> Option<&Entry<S>> {
        self.entries.get(key)
    }

    /// Iterates over the entries that have not ended, in the order of their keys.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&Bytes, &Entry<S>)> {
        self.iter_after(now, None)
    }

    /// Iterates over the entries that have not ended and whose keys come after `key`, in the order of
    /// their keys.
    pub fn iter_after(
        &self,
        now: Instant,
        key: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, &Entry<S>)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .filter(move |(_, entry)| entry.is_live(now))
    }

    /// Sets a key, whatever its stamp was, and returns the entry as it now is.
    ///
    /// The lifetime of the table starts anew, unless the key exists and the definition says not to
    /// (`updateexpire=0`).
    ///
    /// # Errors
    ///
    /// A limit is met; nothing has changed and the refusal is counted.
    pub fn set(
        &mut self,
        now: Instant,
        key: &[u8],
        value: Value,
        stamp: S,
    ) -> Result<&Entry<S>, WriteError> {
        let kept = match self.entry(now, key) {
            Some(entry) if !self.definition.update_expire => Some(entry.expires),
            _ => None,
        };
        let expires = kept.unwrap_or_else(|| self.lifetime_from(now));
        let entry = Entry {
            value,
            expires,
            stamp,
        };
        self.write(key, entry)
    }

    /// Takes an entry from another node if its stamp is greater than the one here.
    ///
    /// Its deadline is taken as it is, also in a table without lifetime.
    ///
    /// # Errors
    ///
    /// A limit is met; nothing has changed and the refusal is counted.
    pub fn merge(&mut self, key: &[u8], entry: Entry<S>) -> Result<Merged, WriteError> {
        let is_newer = |own: &Entry<S>| entry.stamp > own.stamp;
        if !self.entries.get(key).is_none_or(is_newer) {
            return Ok(Merged::Kept);
        }
        self.write(key, entry)?;
        Ok(Merged::Taken)
    }

    /// Lets a key end `seconds` from `now`; zero or less: never. Returns whether it did.
    ///
    /// Unknown keys and tables without lifetime are left alone, as by Kamailio.
    pub fn set_expire(&mut self, now: Instant, key: &[u8], seconds: i64, stamp: S) -> bool {
        if self.definition.autoexpire.is_none() || self.entry(now, key).is_none() {
            return false;
        }
        let expires = u64::try_from(seconds)
            .ok()
            .filter(|&seconds| seconds > 0)
            .and_then(|seconds| now.checked_add(Duration::from_secs(seconds)));
        self.set_deadline(key, expires, stamp)
    }

    /// Lets a key end at `expires`, whatever the definition says. Returns whether there is the key.
    pub fn set_deadline(&mut self, key: &[u8], expires: Option<Instant>, stamp: S) -> bool {
        let Some((key, own)) = self.entries.get_key_value(key) else {
            return false;
        };
        let (key, value) = (key.clone(), own.value.clone());
        let entry = Entry {
            value,
            expires,
            stamp,
        };
        self.put(key, entry);
        true
    }

    /// Deletes a key and returns what was there.
    pub fn delete(&mut self, key: &[u8]) -> Option<Entry<S>> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.disarm(&key, entry.expires);
        Some(entry)
    }

    /// Deletes all entries that match and returns their keys in order.
    pub fn delete_matching(&mut self, by: By, pattern: &Pattern) -> Vec<Bytes> {
        let keys: Vec<Bytes> = self
            .entries
            .iter()
            .filter(|(key, entry)| pattern.matches(by, key, &entry.value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            self.delete(key);
        }
        keys
    }

    /// Deletes everything and returns the keys in order.
    pub fn flush(&mut self) -> Vec<Bytes> {
        self.deadlines.clear();
        std::mem::take(&mut self.entries).into_keys().collect()
    }

    /// Returns when the next entry ends.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Removes the next entry that has ended at `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(Bytes, Entry<S>)> {
        if self.poll_timeout()? > now {
            return None;
        }
        let (_, key) = self.deadlines.pop_first()?;
        self.entries.remove_entry(&key)
    }

    fn lifetime_from(&self, now: Instant) -> Option<Instant> {
        let lifetime = self.definition.autoexpire?;
        now.checked_add(lifetime)
    }

    fn write(&mut self, key: &[u8], entry: Entry<S>) -> Result<&Entry<S>, WriteError> {
        self.check(key, &entry.value)?;
        Ok(self.put(Bytes::copy_from_slice(key), entry))
    }

    fn check(&mut self, key: &[u8], value: &Value) -> Result<(), WriteError> {
        if key.len() > KEY_BYTES_MAX {
            self.refused.key += 1;
            return Err(WriteError::Key);
        }
        if value.text_len() > VALUE_BYTES_MAX {
            self.refused.value += 1;
            return Err(WriteError::Value);
        }
        if self.entries.len() >= self.definition.entries_max && !self.entries.contains_key(key) {
            self.refused.full += 1;
            return Err(WriteError::Full);
        }
        Ok(())
    }

    fn put(&mut self, key: Bytes, entry: Entry<S>) -> &Entry<S> {
        let former = self.entries.get(&key).and_then(|own| own.expires);
        self.disarm(&key, former);
        if let Some(at) = entry.expires {
            self.deadlines.insert((at, key.clone()));
        }
        match self.entries.entry(key) {
            Slot::Occupied(mut slot) => {
                slot.insert(entry);
                slot.into_mut()
            }
            Slot::Vacant(slot) => slot.insert(entry),
        }
    }

    fn disarm(&mut self, key: &Bytes, expires: Option<Instant>) {
        if let Some(at) = expires {
            self.deadlines.remove(&(at, key.clone()));
        }
    }
}
