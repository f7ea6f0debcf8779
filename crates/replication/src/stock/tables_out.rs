//! What a Kamailio node is told of tables: one operation at a time on each key, always the newest.
//!
//! A value goes as SET, and as SET_EXPIRE after that was answered if it does not last as long as the
//! table says; a key that is gone as DELETE. What a pattern or a flush deleted goes as one DELETE for
//! each key: the same keys go everywhere, whatever a node makes of the expression. Source: PROTOCOL 4.

use std::time::{Duration, Instant};

use dmq::RequestId;
use dmq_bodies::TableMessage;

use super::node::{Line, Node, Sending, Sent};
use super::{Counters, ENTRIES_PENDING_MAX, TABLE_CHANNEL};
use crate::entries::EntryKey;
use crate::replica::Replica;

/// How much a lifetime may differ from that of the table and still be the table's.
const LIFETIME_TOLERANCE: Duration = Duration::from_secs(1);

/// One operation on an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EntryStep {
    /// SET or DELETE.
    #[default]
    Value,
    /// SET_EXPIRE.
    Lifetime,
}

/// What waits to be told of an entry.
#[derive(Debug, Default)]
pub(super) struct EntryWork {
    /// `None`: nothing any more, and its place in the queue is the last that is left of it.
    next: Option<EntryStep>,
    /// What goes after it was answered.
    then: Option<EntryStep>,
    in_flight: Option<RequestId>,
    /// When the first change was made here that the node has not been told.
    noted: Option<Instant>,
    /// Whether it has its place in the queue: one at most, and none while it is on its way.
    is_queued: bool,
}

impl Node {
    /// An entry is to be told the node: it was changed here, `noted` tells when, or the node lacks it.
    pub(super) fn note_entry(
        &mut self,
        key: &EntryKey,
        noted: Option<Instant>,
        counters: &mut Counters,
    ) {
        if !self.is_up || self.unknown_tables.contains(&key.table) {
            return;
        }
        if self.entries.len() >= ENTRIES_PENDING_MAX && !self.entries.contains_key(key) {
            // Comparing finds it.
            counters.not_told += 1;
            self.wants_tables = true;
            return;
        }
        let work = self.entries.entry(key.clone()).or_default();
        work.noted = work.noted.or(noted);
        match work.in_flight {
            Some(_) => work.then = Some(EntryStep::Value),
            None => {
                work.next = Some(EntryStep::Value);
                self.queue_entry(key);
            }
        }
    }

    /// The node wants only the lifetime of an entry.
    pub(super) fn note_lifetime(&mut self, key: &EntryKey) {
        if self.is_up && !self.entries.contains_key(key) && self.entries.len() < ENTRIES_PENDING_MAX
        {
            let work = EntryWork {
                next: Some(EntryStep::Lifetime),
                ..EntryWork::default()
            };
            self.entries.insert(key.clone(), work);
            self.queue_entry(key);
        }
    }

    /// An entry was changed by another node, which tells everybody itself. If ours is on its way, the
    /// order of the two is unknown: the newest goes after it.
    pub(super) fn note_entry_told(&mut self, key: &EntryKey) {
        if let Some(work) = self.entries.get_mut(key) {
            match work.in_flight {
                Some(_) => work.then = Some(EntryStep::Value),
                None => (work.next, work.noted) = (None, None),
            }
        }
    }

    fn queue_entry(&mut self, key: &EntryKey) {
        if let Some(work) = self.entries.get_mut(key)
            && !work.is_queued
        {
            work.is_queued = true;
            self.entry_queue.push_back(key.clone());
        }
    }

    /// Tells what there is to tell; `false` when no more can be sent now.
    pub(super) fn send_entries(&mut self, line: &mut Line<'_>, replica: &Replica) -> bool {
        while let Some(key) = self.entry_queue.front() {
            if !self.has_room() {
                return false;
            }
            let key = key.clone();
            let next = self.entries.get(&key).and_then(|work| work.next);
            let message = next.and_then(|step| self.operation(line, replica, &key, step));
            let Some((message, step, then)) = message else {
                self.entry_queue.pop_front();
                self.entries.remove(&key);
                continue;
            };
            let body = message.encode(self.table_dialect()).ok();
            match line.send(TABLE_CHANNEL, body) {
                Sending::Full => return false,
                Sending::TooLong => {
                    self.entry_queue.pop_front();
                    self.entries.remove(&key);
                }
                Sending::Sent(request) => {
                    self.entry_queue.pop_front();
                    let mut since = None;
                    if let Some(work) = self.entries.get_mut(&key) {
                        work.is_queued = false;
                        work.in_flight = Some(request);
                        work.then = then;
                        since = work.noted.take();
                    }
                    self.requests.insert(request, Sent::Entry(key, step, since));
                }
            }
        }
        true
    }

    /// Returns what to say of an entry, and what goes after it.
    fn operation(
        &mut self,
        line: &Line<'_>,
        replica: &Replica,
        key: &EntryKey,
        step: EntryStep,
    ) -> Option<(TableMessage, EntryStep, Option<EntryStep>)> {
        let record = replica.entries().record(line.now.monotonic, key)?;
        let EntryKey { table, key: name } = key.clone();
        let Some(value) = record.value else {
            let message = TableMessage::Delete { table, key: name };
            return Some((message, EntryStep::Value, None));
        };
        if step == EntryStep::Lifetime {
            let message = TableMessage::SetExpire {
                table,
                key: name,
                seconds: record.remaining.map_or(0, whole_seconds),
            };
            return Some((message, step, None));
        }
        let usual = replica.entries().tables().table(&table)?;
        let usual = usual.definition().autoexpire;
        let then = differs(usual, record.remaining).then_some(EntryStep::Lifetime);
        let message = TableMessage::Set {
            table,
            key: name,
            value,
            last_modified: self.table_time(line.now, key, record.write),
        };
        Some((message, step, then))
    }

    /// An operation was answered, or was not (408). Returns since when all that it told was news: what is told in two
    /// parts, the node has with the second.
    pub(super) fn entry_answered(
        &mut self,
        key: &EntryKey,
        step: EntryStep,
        since: Option<Instant>,
        status: u16,
    ) -> Option<Instant> {
        let is_taken = (200..=299).contains(&status);
        self.wants_tables |= !is_taken;
        match (step, status) {
            // An older Kamailio has come in place of one that knew the field.
            (EntryStep::Value, 400) => self.is_table_dated = false,
            (EntryStep::Value, 500) => {
                self.unknown_tables.insert(key.table.clone());
            }
            _ => {}
        }
        let Some(work) = self.entries.get_mut(key) else {
            return since;
        };
        work.in_flight = None;
        let next = match status {
            408 => Some(EntryStep::Value),
            _ if is_taken || work.then == Some(EntryStep::Value) => work.then.take(),
            _ => None,
        };
        match next.filter(|_| !self.unknown_tables.contains(&key.table)) {
            Some(next) => {
                work.next = Some(next);
                work.then = None;
                let is_half = next == EntryStep::Lifetime;
                if is_half {
                    work.noted = since;
                }
                self.queue_entry(key);
                since.filter(|_| !is_half)
            }
            None => {
                self.entries.remove(key);
                since
            }
        }
    }
}

/// Tells whether an entry does not end when its table would have it end. Where nothing expires,
/// nobody can be told of a lifetime.
fn differs(usual: Option<Duration>, remaining: Option<Duration>) -> bool {
    match (usual, remaining) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(usual), Some(remaining)) => usual.abs_diff(remaining) > LIFETIME_TOLERANCE,
    }
}

/// Returns a lifetime in seconds, at least one: 0 would be for ever.
pub(super) fn whole_seconds(remaining: Duration) -> i32 {
    let seconds = remaining.as_millis().div_ceil(1000).max(1);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_told_only_where_it_is_not_the_tables() {
        let seconds = Duration::from_secs;
        assert!(!differs(None, Some(seconds(9))));
        assert!(!differs(Some(seconds(60)), Some(seconds(59))));
        assert!(differs(Some(seconds(60)), Some(seconds(58))));
        assert!(differs(Some(seconds(60)), Some(seconds(62))));
        assert!(differs(Some(seconds(60)), None));
    }

    #[test]
    fn what_is_about_to_end_is_not_told_to_stay_for_ever() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
        assert_eq!(whole_seconds(Duration::MAX), i32::MAX);
    }
}
