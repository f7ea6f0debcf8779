//! One Kamailio node: what it was told, what waits to be told, what it has shown of itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use dmq::{Bus, RequestId, Schedule};
use dmq_bodies::{Numbering, TableDialect};

use super::dialogs_out::{Content, Step, Told};
use super::sync::{Asked, CellsAnswer};
use super::tables_out::{EntryStep, EntryWork};
use super::{Counters, WINDOW};
use crate::clock::Now;
use crate::entries::{EntryKey, Write};
use crate::record::DialogKey;
use crate::replica::SHOWN_AHEAD_MAX;

/// What a request that waits for its answer said.
#[derive(Debug)]
pub(super) enum Sent {
    /// A message about a dialog, and what it told.
    Dialog(DialogKey, Step, Content),
    /// An operation on an entry.
    Entry(EntryKey, EntryStep),
    /// A part of our answer to its request for everything.
    Cells,
    /// Our request for everything.
    Ask(Asked),
}

/// Which dialogs have to be told anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scan {
    /// It came back: those that we look after.
    Own,
    /// It asked: all but those that another Kamailio node looks after.
    All,
}

/// One Kamailio node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) is_up: bool,
    pub(super) requests: BTreeMap<RequestId, Sent>,
    /// Requests that must not be repeated any more.
    pub(super) withdrawn: Vec<RequestId>,
    pub(super) dialogs: BTreeMap<DialogKey, Told>,
    pub(super) dialog_queue: VecDeque<DialogKey>,
    /// What is to be said of dialogs that are over or were refused, and when.
    pub(super) later: BTreeSet<(Instant, DialogKey)>,
    /// The dialogs to be told anew from this partition on.
    pub(super) scan: Option<(Scan, u8)>,
    pub(super) entries: BTreeMap<EntryKey, EntryWork>,
    pub(super) entry_queue: VecDeque<EntryKey>,
    /// Our answer to its request for all cells.
    pub(super) answer: Option<CellsAnswer>,
    /// When that began, or the one before it.
    pub(super) tables_answered: Option<Instant>,
    /// When its request for all dialogs was answered last.
    pub(super) dialogs_answered: Option<Instant>,
    /// When the one is answered that came too soon after that.
    pub(super) dialogs_due: Option<Instant>,
    pub(super) numbering: Numbering,
    /// How far its clock is ahead of ours in dialog messages, in seconds, once it has shown it.
    pub(super) dialogs_ahead: Option<u64>,
    /// The same of table messages, in milliseconds.
    pub(super) tables_ahead: Option<u64>,
    /// Whether it has shown `iflags`: only then it knows them.
    pub(super) iflags_shown: bool,
    /// The last `last_modified` that a table operation to it carried.
    pub(super) last_written: u64,
    /// Tables that it has refused: it has none of that name.
    pub(super) unknown_tables: BTreeSet<Bytes>,
    pub(super) wants_dialogs: bool,
    pub(super) wants_tables: bool,
    /// Before that it is not asked for anything.
    pub(super) ask_at: Option<Instant>,
    /// When it was asked for tables last.
    pub(super) tables_asked: Option<Instant>,
    /// Whether it has told its dialogs since it came up, or will not.
    pub(super) has_told_dialogs: bool,
    /// The same of tables.
    pub(super) has_told_tables: bool,
    /// Comparisons of tables in a row that found something, or nothing.
    pub(super) rounds: u32,
    pub(super) clean_rounds: u32,
    pub(super) differences: Option<u64>,
    pub(super) compared: Option<Instant>,
    pub(super) comparisons: u64,
    pub(super) syncs_asked: u64,
    pub(super) syncs_answered: u64,
    /// Hash sizes that fit every UPDATE whose slot was not ours.
    pub(super) hash_sizes: Option<BTreeSet<u32>>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            is_up: false,
            requests: BTreeMap::new(),
            withdrawn: Vec::new(),
            dialogs: BTreeMap::new(),
            dialog_queue: VecDeque::new(),
            later: BTreeSet::new(),
            scan: None,
            entries: BTreeMap::new(),
            entry_queue: VecDeque::new(),
            answer: None,
            tables_answered: None,
            dialogs_answered: None,
            dialogs_due: None,
            numbering: Numbering::New,
            dialogs_ahead: None,
            tables_ahead: None,
            iflags_shown: false,
            last_written: 0,
            unknown_tables: BTreeSet::new(),
            wants_dialogs: false,
            wants_tables: false,
            ask_at: None,
            tables_asked: None,
            has_told_dialogs: false,
            has_told_tables: false,
            rounds: 0,
            clean_rounds: 0,
            differences: None,
            compared: None,
            comparisons: 0,
            syncs_asked: 0,
            syncs_answered: 0,
            hash_sizes: None,
        }
    }
}

impl Node {
    /// It takes messages from now on: what is looked after here is told it anew.
    pub(super) fn come_up(&mut self, ask_at: Instant) {
        self.is_up = true;
        self.unknown_tables.clear();
        self.scan_from_start(Scan::Own);
        self.wants_dialogs = true;
        self.wants_tables = true;
        self.has_told_dialogs = false;
        self.has_told_tables = false;
        self.rounds = 0;
        self.clean_rounds = 0;
        self.ask_at = Some(ask_at);
        let ending = self.dialogs.iter().filter(|(_, told)| told.is_ending());
        let ending: Vec<_> = ending.map(|(key, _)| key.clone()).collect();
        for key in ending {
            self.queue_dialog(&key);
        }
    }

    /// It takes no messages any more, or is no Kamailio node any more: what is on its way to it is repeated no
    /// more. What it was told of dialogs is remembered, what waits for tables is not: comparing finds it.
    pub(super) fn go_down(&mut self) {
        self.is_up = false;
        let requests = std::mem::take(&mut self.requests);
        self.withdrawn.extend(requests.into_keys());
        self.dialog_queue.clear();
        self.scan = None;
        self.entries.clear();
        self.entry_queue.clear();
        self.answer = None;
        self.dialogs.retain(|_, told| told.lose());
        self.later.retain(|(_, key)| self.dialogs.contains_key(key));
    }

    pub(super) fn scan_from_start(&mut self, scan: Scan) {
        let scan = self.scan.map_or(scan, |(former, _)| former.max(scan));
        self.scan = Some((scan, 0));
    }

    pub(super) fn has_room(&self) -> bool {
        self.requests.len() < WINDOW
    }

    pub(super) fn table_dialect(&self) -> TableDialect {
        TableDialect {
            numbering: self.numbering,
            last_modified: self.tables_ahead.is_some(),
        }
    }

    /// Takes note of a `last_modified` in a dialog message, in seconds.
    pub(super) fn see_dialog_clock(&mut self, now: Now, shown: Option<u64>) {
        let ahead = shown.map(|shown| shown.saturating_sub(now.wall_seconds()));
        self.dialogs_ahead = self.dialogs_ahead.max(ahead);
    }

    /// Takes note of a `last_modified` in a table message, in milliseconds.
    pub(super) fn see_table_clock(&mut self, now: Now, shown: Option<u64>) {
        let ahead = shown.map(|shown| shown.saturating_sub(now.wall));
        self.tables_ahead = self.tables_ahead.max(ahead);
    }

    /// Returns `last_modified` of a dialog message: by its own clock if that is ahead, or it would
    /// ignore us (PROTOCOL 9.11), but never beyond what we believe of clocks.
    pub(super) fn dialog_clock(&self, now: Now) -> Option<u64> {
        let ahead = self.dialogs_ahead?.min(SHOWN_AHEAD_MAX.as_secs());
        Some(now.wall_seconds() + ahead)
    }

    /// Returns `last_modified` of a table operation: grows with each, as equal ones are ignored.
    pub(super) fn table_clock(&mut self, now: Now, write: Write) -> Option<u64> {
        let ahead = self.tables_ahead?.min(SHOWN_AHEAD_MAX.as_millis() as u64);
        let written = match write.stamp {
            // It was adopted: nobody knows when it was written.
            stamp if stamp.clock == 0 => now.wall,
            stamp => stamp.wall(),
        };
        let written = written.saturating_add(ahead).max(write.shown);
        self.last_written = written.max(self.last_written.saturating_add(1));
        Some(self.last_written)
    }
}

/// The way to one node.
pub(super) struct Line<'a> {
    pub(super) now: Now,
    pub(super) address: std::net::SocketAddr,
    pub(super) bus: &'a mut Bus,
    pub(super) counters: &'a mut Counters,
}

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// It is on its way.
    Sent(RequestId),
    /// Not now.
    Full,
    /// Never: it is too long.
    TooLong,
}

impl Line<'_> {
    pub(super) fn send(&mut self, channel: &str, body: Option<Bytes>) -> Sending {
        let Some(body) = body.filter(|body| body.len() <= dmq::BODY_BYTES_MAX) else {
            self.counters.too_long += 1;
            return Sending::TooLong;
        };
        let now = self.now.monotonic;
        match self
            .bus
            .send(now, self.address, channel, &body, Schedule::Stock)
        {
            Some(request) => Sending::Sent(request),
            None => Sending::Full,
        }
    }
}
