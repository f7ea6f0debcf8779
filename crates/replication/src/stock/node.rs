//! One Kamailio node: what it was told, what waits to be told, what it has shown of itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use dmq::{Bus, RequestId, Schedule};
use dmq_bodies::{Numbering, TableDialect};

use super::dialogs_out::{Content, Step, Told};
use super::shown_clock::ShownClock;
use super::sync::{Asked, CellsAnswer};
use super::tables_out::{EntryStep, EntryWork};
use super::{Counters, TOLD_AHEAD_MAX, WINDOW};
use crate::clock::{AHEAD_MAX, Now};
use crate::entries::{EntryKey, Write};
use crate::record::DialogKey;
use crate::replica::SHOWN_AHEAD_MAX;

/// What a request that waits for its answer said.
#[derive(Debug)]
pub(super) enum Sent {
    /// A message about a dialog, what it told, and since when that was news that nobody had told the node.
    Dialog(DialogKey, Step, Content, Option<Instant>),
    /// An operation on an entry, and the same.
    Entry(EntryKey, EntryStep, Option<Instant>),
    /// A part of our answer to its request for everything.
    Cells,
    /// Our request for everything.
    Ask(Asked),
}

/// Which dialogs have to be told anew: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scan {
    /// A router was lost: those of its dialogs whose heir we are.
    Orphans,
    /// It came back: those that we look after.
    Ours,
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
    /// The routers that were lost before it was told anew of theirs; they may be back.
    pub(super) orphaned_by: BTreeSet<SocketAddr>,
    pub(super) entries: BTreeMap<EntryKey, EntryWork>,
    pub(super) entry_queue: VecDeque<EntryKey>,
    /// Our answer to its request for all cells.
    pub(super) answer: Option<CellsAnswer>,
    /// When that began, or the one before it.
    pub(super) tables_answered: Option<Instant>,
    /// When its request for all dialogs was answered last.
    pub(super) dialogs_answered: Option<Instant>,
    /// When it is told anew of these dialogs.
    pub(super) scan_due: Option<(Instant, Scan)>,
    /// When it came back or asked, so that this is due: what it was told after that it need not be told again.
    pub(super) anew_since: Option<Instant>,
    pub(super) numbering: Numbering,
    /// Its clock in dialog messages.
    dialog_clock: ShownClock,
    /// Its clock in what it writes into tables.
    table_clock: ShownClock,
    /// Whether it has shown `last_modified` of an entry.
    pub(super) is_table_dated: bool,
    /// Whether it has shown `iflags`: only then it knows them.
    pub(super) iflags_shown: bool,
    /// The last `last_modified` that a table operation to it carried, and those of the keys that are far ahead of
    /// what it may carry now.
    last_written: u64,
    told_ahead: BTreeMap<EntryKey, u64>,
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
            orphaned_by: BTreeSet::new(),
            entries: BTreeMap::new(),
            entry_queue: VecDeque::new(),
            answer: None,
            tables_answered: None,
            dialogs_answered: None,
            scan_due: None,
            anew_since: None,
            numbering: Numbering::New,
            dialog_clock: ShownClock::default(),
            table_clock: ShownClock::default(),
            is_table_dated: false,
            iflags_shown: false,
            last_written: 0,
            told_ahead: BTreeMap::new(),
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
    /// It takes messages from now on: what is looked after here is told it anew in our turn.
    pub(super) fn come_up(&mut self, now: Instant, turn: Instant, ask_at: Instant) {
        self.is_up = true;
        self.unknown_tables.clear();
        self.anew_since = Some(now);
        self.scan_at(now, turn, Scan::Ours);
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
        self.orphaned_by.clear();
        self.entries.clear();
        self.entry_queue.clear();
        self.answer = None;
        (self.dialog_clock, self.table_clock) = Default::default();
        self.is_table_dated = false;
        self.dialogs.retain(|_, told| told.lose());
        self.later.retain(|(_, key)| self.dialogs.contains_key(key));
    }

    pub(super) fn scan_from_start(&mut self, scan: Scan) {
        let scan = self.scan.map_or(scan, |(former, _)| former.max(scan));
        self.scan = Some((scan, 0));
    }

    /// A router is lost.
    pub(super) fn scan_orphans(&mut self, lost: SocketAddr) {
        self.orphaned_by.insert(lost);
        self.scan_from_start(Scan::Orphans);
    }

    pub(super) fn has_room(&self) -> bool {
        self.requests.len() < WINDOW
    }

    pub(super) fn table_dialect(&self) -> TableDialect {
        TableDialect {
            numbering: self.numbering,
            last_modified: self.is_table_dated,
        }
    }

    /// Tells whether it has shown `last_modified` since it came up.
    pub(super) fn is_dated(&self) -> bool {
        self.is_table_dated || self.dialog_clock.is_seen()
    }

    /// Takes note of a `last_modified` in a dialog message, in seconds.
    pub(super) fn see_dialog_clock(&mut self, now: Now, shown: Option<u64>) {
        if let Some(shown) = shown {
            let shown = shown.saturating_mul(1000);
            self.dialog_clock.see(now.monotonic, shown);
        }
    }

    /// Takes note of a `last_modified` with which it wrote an entry, in milliseconds. One that `follows` what the
    /// entry had before shows that and not its clock (PROTOCOL 4.4).
    pub(super) fn see_written(
        &mut self,
        now: Now,
        key: &EntryKey,
        shown: Option<u64>,
        follows: bool,
    ) {
        let Some(shown) = shown else { return };
        self.is_table_dated = true;
        let told = self.told_ahead.get(key);
        if !follows && told.is_none_or(|told| shown > told + 1) {
            self.table_clock.see(now.monotonic, shown);
        }
    }

    /// Returns `last_modified` of a dialog message: by its own clock if that is ahead, and not before what it has
    /// `seen` with the dialog, or it would ignore us (PROTOCOL 9.11), but never beyond what we believe of clocks.
    pub(super) fn dialog_time(&self, now: Now, seen: u64) -> Option<u64> {
        let theirs = self.dialog_clock.read(now.monotonic)?.div_ceil(1000);
        let most = now.wall_seconds() + SHOWN_AHEAD_MAX.as_secs();
        Some(theirs.max(seen).min(most).max(now.wall_seconds()))
    }

    /// Returns `last_modified` of a table operation: grows with each, as equal ones are ignored. What a wrong clock
    /// has told of one key has to be exceeded there, and nowhere else.
    pub(super) fn table_time(&mut self, now: Now, key: &EntryKey, write: Write) -> Option<u64> {
        if !self.is_table_dated {
            return None;
        }
        let theirs = self.table_clock.read(now.monotonic).unwrap_or(0);
        let most = SHOWN_AHEAD_MAX.as_millis() as u64;
        let ahead = theirs.saturating_sub(now.wall).min(most);
        let written = match write.stamp {
            // It was adopted: nobody knows when it was written.
            stamp if stamp.clock == 0 => now.wall,
            stamp => stamp.wall(),
        };
        let told = self.told_ahead.get(key).copied().unwrap_or(0);
        let over = write.shown.max(told).saturating_add(1);
        let time = written.saturating_add(ahead).max(over);
        let far = now.wall.saturating_add(AHEAD_MAX.as_millis() as u64);
        if time > far {
            if self.told_ahead.len() >= TOLD_AHEAD_MAX {
                self.told_ahead.clear();
            }
            self.told_ahead.insert(key.clone(), time);
            return Some(time);
        }
        let last = Some(self.last_written).filter(|last| *last <= far);
        self.last_written = time.max(last.unwrap_or(0) + 1);
        Some(self.last_written)
    }
}

/// The way to one node.
pub(super) struct Line<'a> {
    pub(super) now: Now,
    pub(super) address: SocketAddr,
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
