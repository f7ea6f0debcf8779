//! What Kamailio nodes say of tables: executed in the order in which it comes (PROTOCOL 4).
//!
//! SET and SET_EXPIRE are sent back to back and may come in the other order: a lifetime for a key that
//! is not there waits a second for its value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dmq_bodies::{Cell, PatternKind, TableMessage};
use htable::{By, Pattern};

use super::repair::Differences;
use super::sync::Asked;
use super::{Channel, EARLY_MAX};
use crate::change::Origin;
use crate::clock::Now;
use crate::entries::EntryKey;
use crate::replica::Replica;

/// How long a lifetime waits for its value.
const EARLY: Duration = Duration::from_secs(1);

/// Lifetimes that came before their values.
#[derive(Debug, Default)]
pub(super) struct EarlyLifetimes {
    waiting: BTreeMap<EntryKey, (i64, Instant)>,
}

impl EarlyLifetimes {
    /// Keeps a lifetime; `false` when there are too many.
    fn keep(&mut self, now: Instant, key: EntryKey, seconds: i64) -> bool {
        self.expire(now);
        if self.waiting.len() >= EARLY_MAX && !self.waiting.contains_key(&key) {
            return false;
        }
        self.waiting.insert(key, (seconds, now + EARLY));
        true
    }

    fn take(&mut self, now: Instant, key: &EntryKey) -> Option<i64> {
        let (seconds, until) = self.waiting.remove(key)?;
        (until > now).then_some(seconds)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.waiting.retain(|_, (_, until)| *until > now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|(_, until)| *until).min()
    }
}

impl Channel {
    pub(super) fn handle_table(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        body: &[u8],
    ) -> u16 {
        let (message, numbering) = match TableMessage::decode(body) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.counters.malformed += 1;
                return error.status();
            }
        };
        if let Some(numbering) = numbering {
            self.node(node).numbering = numbering;
        }
        match message {
            TableMessage::Sync { table } => {
                let turn = self.turn(now.monotonic, replica, node);
                let asker = self.node(node);
                let is_in_turn = asker.asks_for_tables(now.monotonic, table, turn);
                self.counters.syncs_deferred += u64::from(!is_in_turn);
                200
            }
            TableMessage::Set {
                table,
                key,
                value,
                last_modified,
            } => {
                let key = EntryKey { table, key };
                let before = last_modified.map(|at| at.saturating_sub(1));
                let follows = replica.entries().is_overtaken(&key, before);
                let writer = self.node(node);
                writer.see_written(now, &key, last_modified, follows);
                writer.unknown_tables.remove(&key.table);
                let is_overtaken = replica.entries().is_overtaken(&key, last_modified);
                self.counters.overtaken += u64::from(is_overtaken);
                let origin = Origin::Stock(node);
                let done = replica.set_shown(now, &key, value, origin, last_modified);
                if done.is_ok()
                    && let Some(seconds) = self.early.take(now.monotonic, &key)
                {
                    // The table is there: its value has just been set.
                    let _ = replica.set_expire(now, &key, seconds, Origin::Stock(node));
                }
                self.executed(done.is_ok())
            }
            TableMessage::SetExpire {
                table,
                key,
                seconds,
            } => self.handle_lifetime(now, replica, node, EntryKey { table, key }, seconds),
            TableMessage::Delete { table, key } => {
                let key = EntryKey { table, key };
                let done = replica.delete(now, &key, Origin::Stock(node));
                self.executed(done.is_ok())
            }
            TableMessage::RemoveMatching {
                table,
                by,
                pattern,
                operand,
            } => {
                let is_done = remove(now, replica, node, &table, (by, pattern), &operand);
                self.executed(is_done)
            }
            TableMessage::Cells(cells) => {
                self.handle_cells(now, replica, node, cells, body.len());
                200
            }
        }
    }

    fn executed(&mut self, is_done: bool) -> u16 {
        if is_done {
            return 200;
        }
        self.counters.not_executed += 1;
        500
    }

    fn handle_lifetime(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        key: EntryKey,
        seconds: i32,
    ) -> u16 {
        let seconds = i64::from(seconds);
        let origin = Origin::Stock(node);
        let Ok(is_done) = replica.set_expire(now, &key, seconds, origin) else {
            return self.executed(false);
        };
        let table = replica.entries().tables().table(&key.table);
        let expires = table.is_some_and(|table| table.definition().autoexpire.is_some());
        if !is_done && expires && !self.early.keep(now.monotonic, key, seconds) {
            self.counters.early_dropped += 1;
        }
        200
    }

    fn handle_cells(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        cells: Vec<Cell>,
        bytes: usize,
    ) {
        // They show when they were written, by whatever clock, and so nothing of the time it is there.
        let mut dates = cells.iter().map(|cell| cell.last_modified);
        self.node(node).is_table_dated |= dates.any(|date| date.is_some());
        let asking = self.asking.as_mut();
        let asked = asking.filter(|asking| asking.node == node && asking.what == Asked::Tables);
        if let Some(asking) = asked {
            asking.take(now.monotonic, cells, bytes);
            return;
        }
        // Told everybody because the asker was not known: nothing follows from what is not in it.
        let cells = cells.into_iter().map(|cell| {
            let (table, key) = (cell.table.clone(), cell.key.clone());
            (EntryKey { table, key }, cell)
        });
        let cells = cells.collect();
        let pending = &self.node(node).entries;
        let is_busy = |key: &EntryKey| pending.contains_key(key);
        let found = Differences::of_cells(now, replica, node, &cells, is_busy);
        self.follow(node, found);
    }
}

fn remove(
    now: Now,
    replica: &mut Replica,
    node: SocketAddr,
    table: &Bytes,
    (by, kind): (By, PatternKind),
    operand: &Bytes,
) -> bool {
    let pattern = match kind {
        PatternKind::Regex => Pattern::regex(operand),
        PatternKind::Prefix => Pattern::prefix(operand),
    };
    let Ok(pattern) = pattern else { return false };
    let origin = Origin::Stock(node);
    replica
        .delete_matching(now, table, Some((by, &pattern)), origin)
        .is_ok()
}
