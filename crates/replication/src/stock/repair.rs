//! What differs between our tables and those of a Kamailio node, and who is right.
//!
//! Only differences are told, as operations: cells would take the place of what the node has written
//! meanwhile. A value whose last writer was the node is right there, any other here; where Kamailio nodes
//! have shown when it was written, that decides. A key that only the node has is deleted there if the same
//! value was deleted here, else adopted: with the lowest stamp when nothing is known of it here, so that
//! whoever in the cell knows better is right. One that it lacks is told it. Lifetimes that differ by less than
//! clocks may are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use dmq_bodies::Cell;

use super::tables_out::whole_seconds;
use crate::change::{Key, Origin, Record};
use crate::clock::{Now, Stamp, node_number};
use crate::entries::{EntryKey, EntryRecord, Write};
use crate::replica::Replica;

/// Ends that differ by less are the same: a cell tells them by the wall clock of its node.
const DEADLINE_TOLERANCE: Duration = Duration::from_secs(60);

/// What ends within so long may have ended there already.
const ENDING: Duration = Duration::from_secs(5);

/// What to do about the differences; what was adopted has been.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// To be told the node.
    pub(super) tell: Vec<EntryKey>,
    /// Of these only the lifetime.
    pub(super) tell_lifetime: Vec<EntryKey>,
    /// Taken from the node: its other neighbours may lack them too.
    pub(super) adopted: Vec<EntryKey>,
    /// How many of these nobody had known of here.
    pub(super) unknown: u64,
    /// How many keys differed.
    pub(super) count: u64,
    /// Cells of tables that are none of ours, that have ended, or for which there was no room.
    pub(super) skipped: u64,
}

/// Who is right about a key that the node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// Nothing is known of it here.
    Unknown,
    Theirs,
    TheirLifetime,
    Ours,
    OurLifetime,
}

impl Differences {
    /// Compares the cells of a node with what is held here, key by key; `is_busy` keys are left alone.
    pub(super) fn of_cells(
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        cells: &BTreeMap<EntryKey, Cell>,
        is_busy: impl Fn(&EntryKey) -> bool,
    ) -> Self {
        let mut found = Self::default();
        let tandem = replica.members().chain([replica.own()]);
        let tandem: BTreeSet<u64> = tandem.map(node_number).collect();
        for (key, cell) in cells.iter().filter(|(key, _)| !is_busy(key)) {
            let is_over = remaining(now, cell) == Some(Duration::ZERO);
            if is_over || !replica.entries().is_replicated(&key.table) {
                found.skipped += 1;
                continue;
            }
            let verdict = judge(now, replica, node, &tandem, key, cell);
            found.count += u64::from(verdict != Verdict::Same);
            match verdict {
                Verdict::Same => {}
                Verdict::Ours => found.tell.push(key.clone()),
                Verdict::OurLifetime => found.tell_lifetime.push(key.clone()),
                Verdict::Unknown => match adopt(now, replica, node, key, cell) {
                    true => {
                        found.unknown += 1;
                        found.adopted.push(key.clone());
                    }
                    false => found.skipped += 1,
                },
                Verdict::Theirs | Verdict::TheirLifetime => {
                    let with_value = verdict == Verdict::Theirs;
                    match take(now, replica, node, key, cell, with_value) {
                        true => found.adopted.push(key.clone()),
                        false => found.skipped += 1,
                    }
                }
            }
        }
        found
    }

    /// Adds what is held here and not there.
    pub(super) fn add_lacking(
        &mut self,
        now: Now,
        replica: &Replica,
        cells: &BTreeMap<EntryKey, Cell>,
        is_busy: impl Fn(&EntryKey) -> bool,
    ) {
        for table in replica.entries().tables().iter() {
            let definition = table.definition();
            if !definition.replicate {
                continue;
            }
            for (name, entry) in table.iter(now.monotonic) {
                let key = EntryKey {
                    table: definition.name.clone(),
                    key: name.clone(),
                };
                // Kamailio leaves what does not end out of the cells of a table where things do.
                let may_lack = match (entry.expires, definition.autoexpire) {
                    (None, usual) => usual.is_some(),
                    (Some(at), _) => at < now.monotonic + ENDING,
                };
                if !may_lack && !cells.contains_key(&key) && !is_busy(&key) {
                    self.count += 1;
                    self.tell.push(key);
                }
            }
        }
    }
}

/// Returns how long a cell lasts, nothing for one that has ended; `None`: it does not say.
fn remaining(now: Now, cell: &Cell) -> Option<Duration> {
    let at = cell.expire?.saturating_mul(1000);
    Some(Duration::from_millis(at.saturating_sub(now.wall)))
}

fn judge(
    now: Now,
    replica: &Replica,
    node: SocketAddr,
    tandem: &BTreeSet<u64>,
    key: &EntryKey,
    cell: &Cell,
) -> Verdict {
    let entries = replica.entries();
    let Some(own) = entries.record(now.monotonic, key) else {
        return Verdict::Unknown;
    };
    let Some(value) = &own.value else {
        return match own.gone_hash == entries.value_hash(&cell.value) {
            true => Verdict::Ours,
            false => Verdict::Theirs,
        };
    };
    let writer = own.write.stamp.node;
    let is_shown = own.write.shown > 0 && !tandem.contains(&writer);
    let is_theirs = match cell.last_modified.filter(|_| is_shown) {
        Some(at) if at != own.write.shown => at > own.write.shown,
        Some(_) | None => writer == node_number(node),
    };
    let table = entries.tables().table(&key.table);
    let expires = table.is_some_and(|table| table.definition().autoexpire.is_some());
    match (*value == cell.value, is_theirs) {
        (false, true) => Verdict::Theirs,
        (false, false) => Verdict::Ours,
        (true, _) if !expires || lasts_as_long(&own, remaining(now, cell)) => Verdict::Same,
        (true, true) => Verdict::TheirLifetime,
        (true, false) => Verdict::OurLifetime,
    }
}

fn lasts_as_long(own: &EntryRecord, remaining: Option<Duration>) -> bool {
    match (own.remaining, remaining) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(own), Some(theirs)) => own.abs_diff(theirs) <= DEADLINE_TOLERANCE,
    }
}

/// Takes a cell of which nothing is known here. Its age is not known either: every write, and every deletion,
/// that any Tandem node of the cell knows of is greater. All that take it write the same.
fn adopt(now: Now, replica: &mut Replica, node: SocketAddr, key: &EntryKey, cell: &Cell) -> bool {
    let Some(table) = replica.entries().tables().table(&key.table) else {
        return false;
    };
    let usual = table.definition().autoexpire;
    let stamp = Stamp {
        clock: 0,
        node: node_number(node),
    };
    let record = EntryRecord {
        value: Some(cell.value.clone()),
        write: Write {
            stamp,
            mark: cell.expire.filter(|_| usual.is_some()).unwrap_or(0),
            shown: cell.last_modified.unwrap_or(0),
        },
        remaining: usual.map(|usual| remaining(now, cell).unwrap_or(usual)),
        gone_hash: 0,
    };
    let (key, record) = (Key::Entry(key.clone()), Record::Entry(record));
    replica
        .merge(now, &key, record, Origin::Stock(node))
        .is_ok()
}

/// Takes what the node has written, or how long it lets it last, over what is held.
fn take(
    now: Now,
    replica: &mut Replica,
    node: SocketAddr,
    key: &EntryKey,
    cell: &Cell,
    with_value: bool,
) -> bool {
    let origin = Origin::Stock(node);
    // Of two writes within a millisecond the node may hold the one and we the other.
    let newer = |shown: &u64| !replica.entries().is_overtaken(key, Some(*shown));
    let (value, shown) = (cell.value.clone(), cell.last_modified.filter(newer));
    if with_value && replica.set_shown(now, key, value, origin, shown).is_err() {
        return false;
    }
    let seconds = remaining(now, cell).map(|remaining| i64::from(whole_seconds(remaining)));
    // A table where nothing expires takes no lifetime, and says so.
    seconds.is_none_or(|seconds| replica.set_expire(now, key, seconds, origin).is_ok())
}
