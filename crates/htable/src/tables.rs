//! All tables of a node, by name.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::definition::NAME_BYTES_MAX;
use crate::{DefineError, Definition, Entry, Table, VALUE_BYTES_MAX};

/// How many tables there can be.
pub const TABLES_MAX: usize = 256;

/// A key that has ended by itself. Other nodes let it end by their own clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired<S> {
    /// The name of the table.
    pub table: Bytes,
    /// The key.
    pub key: Bytes,
    /// What it was.
    pub entry: Entry<S>,
}

/// The tables of a node.
///
/// `S` is the stamp of writes: the greater is the newer. After [`Tables::handle_timeout`] and every
/// change, sleep until [`Tables::poll_timeout`].
#[derive(Clone, Debug)]
pub struct Tables<S> {
    tables: BTreeMap<Bytes, Table<S>>,
}

impl<S: Copy + Ord> Tables<S> {
    /// Creates no tables.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tables: BTreeMap::new(),
        }
    }

    /// Adds a table, or changes the definition of the one of that name: its entries stay.
    ///
    /// # Errors
    ///
    /// There are too many tables, or the definition breaks a limit.
    pub fn define(&mut self, definition: Definition) -> Result<(), DefineError> {
        check(&definition)?;
        if let Some(table) = self.tables.get_mut(&definition.name) {
            table.redefine(definition);
            return Ok(());
        }
        if self.tables.len() >= TABLES_MAX {
            return Err(DefineError::TooManyTables);
        }
        self.tables
            .insert(definition.name.clone(), Table::new(definition));
        Ok(())
    }

    /// Removes a table with its entries and returns it.
    pub fn undefine(&mut self, name: &[u8]) -> Option<Table<S>> {
        self.tables.remove(name)
    }

    /// Returns the table of a name.
    #[must_use]
    pub fn table(&self, name: &[u8]) -> Option<&Table<S>> {
        self.tables.get(name)
    }

    /// Returns the table of a name, to change it.
    pub fn table_mut(&mut self, name: &[u8]) -> Option<&mut Table<S>> {
        self.tables.get_mut(name)
    }

    /// Iterates over the tables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Table<S>> {
        self.tables.values()
    }

    /// Removes what has ended at `now` and returns it: by table, then by deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Expired<S>> {
        let mut expired = Vec::new();
        for (name, table) in &mut self.tables {
            while let Some((key, entry)) = table.expire(now) {
                let table = name.clone();
                expired.push(Expired { table, key, entry });
            }
        }
        expired
    }

    /// Returns when the next entry of any table ends.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tables.values().filter_map(Table::poll_timeout).min()
    }
}

impl<S: Copy + Ord> Default for Tables<S> {
    fn default() -> Self {
        Self::new()
    }
}

fn check(definition: &Definition) -> Result<(), DefineError> {
    if !(1..=NAME_BYTES_MAX).contains(&definition.name.len()) {
        return Err(DefineError::Name);
    }
    let initial = definition.initial.as_ref();
    if initial.is_some_and(|value| value.text_len() > VALUE_BYTES_MAX) {
        return Err(DefineError::Initial);
    }
    Ok(())
}
