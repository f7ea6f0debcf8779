//! Asking Kamailio nodes for everything, one at a time, and answering when they ask.
//!
//! A Kamailio node answers a request for dialogs by telling everybody everything, and two answers
//! about tables at once have put keys into its askers twice (PROTOCOL 9.5): so one node is asked, then
//! the next. It is asked once when it is first heard of and once after each return; for dialogs again when
//! it lists us and did not when it was asked; for tables also after it has not taken an operation, at most
//! once a minute, and ever more seldom while each comparison finds a difference. It is answered alone, one
//! small batch of cells after the other, and not at the same time as others answer it: Kamailio nodes do at
//! once, then one Tandem node after the other. Dialogs are told it as any other news. Whoever asks again and
//! again is answered once in a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dmq_bodies::{BATCH_BYTES_DEFAULT, Cell, DialogDialect, DialogMessage, TableMessage, batches};
use htable::Definition;

use super::node::{Line, Node, Scan, Sending, Sent};
use super::{CELLS_MAX, DIALOG_CHANNEL, TABLE_CHANNEL};
use crate::clock::Now;
use crate::entries::EntryKey;
use crate::replica::Replica;

/// No more comes after so long without anything.
const QUIET: Duration = Duration::from_secs(2);

/// The same after a batch that was full: another follows, perhaps by its last repeat.
const QUIET_AFTER_FULL: Duration = Duration::from_secs(30);

/// A batch of cells is closed at 60 000 bytes as Kamailio estimates them.
const FULL_BATCH_BYTES: usize = 50_000;

/// An answer about tables that has not ended by then is given up.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// An answer about dialogs that has not ended by then is not waited for: what comes later is taken too.
const DIALOGS_MAX: Duration = Duration::from_secs(20);

/// Between the answers of two nodes that are asked at once: two that give a Kamailio the same new key or dialog at
/// one moment have its processes put it there twice.
pub(super) const ANSWERS_APART: Duration = Duration::from_secs(1);

/// Between two requests for tables to one node. Twice as long after each comparison but the first in a row that
/// found a difference: what it never takes is offered ever more seldom. So is a dialog that it refuses.
const TABLES_AGAIN: Duration = Duration::from_secs(60);

/// The longest pause that comes of that.
pub const TABLES_AGAIN_MAX: Duration = Duration::from_secs(900);

/// Between two answers to one node that asks for everything again: what it asks in between is answered then,
/// once.
pub const SYNCS_APART: Duration = Duration::from_secs(10);

/// What a node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// All dialogs.
    Dialogs,
    /// All cells.
    Tables,
}

/// The node that is being asked, and what it has answered.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) node: std::net::SocketAddr,
    pub(super) what: Asked,
    began: Instant,
    quiet: Duration,
    /// When the last of its answer came, or it said that it will answer.
    heard: Option<Instant>,
    /// The cells that it holds.
    pub(super) cells: BTreeMap<EntryKey, Cell>,
    pub(super) has_batch: bool,
    /// Keys that were changed since it was asked.
    pub(super) touched: BTreeSet<EntryKey>,
    /// There were too many to keep them.
    pub(super) is_partial: bool,
}

impl Asking {
    pub(super) fn new(now: Instant, node: std::net::SocketAddr, what: Asked) -> Self {
        Self {
            node,
            what,
            began: now,
            quiet: QUIET,
            heard: None,
            cells: BTreeMap::new(),
            has_batch: false,
            touched: BTreeSet::new(),
            is_partial: false,
        }
    }

    /// The node sent a part of what it was asked for, or took the request.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Takes a batch of cells.
    pub(super) fn take(&mut self, now: Instant, cells: Vec<Cell>, bytes: usize) {
        self.hear(now);
        self.has_batch = true;
        self.quiet = match bytes >= FULL_BATCH_BYTES {
            true => QUIET_AFTER_FULL,
            false => QUIET,
        };
        for cell in cells {
            if self.cells.len() >= CELLS_MAX {
                self.is_partial = true;
                return;
            }
            let key = EntryKey {
                table: cell.table.clone(),
                key: cell.key.clone(),
            };
            self.cells.insert(key, cell);
        }
    }

    pub(super) fn touch(&mut self, key: &EntryKey) {
        if self.what == Asked::Tables && self.touched.len() < CELLS_MAX {
            self.touched.insert(key.clone());
        }
    }

    /// Returns when the answer is taken for complete.
    pub(super) fn poll_timeout(&self) -> Instant {
        // The answer to a request for tables has one batch at least.
        let waits = self.what == Asked::Tables && !self.has_batch;
        let quiet = if waits { QUIET_AFTER_FULL } else { self.quiet };
        let longest = match self.what {
            Asked::Dialogs => DIALOGS_MAX,
            Asked::Tables => ANSWER_MAX,
        };
        let last = self.began + longest;
        self.heard.map_or(last, |heard| (heard + quiet).min(last))
    }
}

/// Cells that are still to be sent to who asked for them.
#[derive(Debug, Default)]
pub(super) struct CellsAnswer {
    /// The only table that is wanted.
    table: Option<Bytes>,
    /// The last key that was looked at: what comes after it is still to be sent.
    after: Option<EntryKey>,
    /// Everything was looked at.
    is_walked: bool,
    bodies: VecDeque<Bytes>,
    /// Nothing is sent before that.
    begins: Option<Instant>,
    is_begun: bool,
    is_in_flight: bool,
}

impl CellsAnswer {
    /// Returns the next body; an answer has one at least.
    fn next(&mut self, now: Now, replica: &Replica, last_modified: bool) -> Option<&Bytes> {
        if self.bodies.is_empty() && !self.is_walked {
            let cells = self.walk(now, replica);
            if !cells.is_empty() || !self.is_begun {
                let made = batches(&cells, last_modified, BATCH_BYTES_DEFAULT);
                self.bodies.extend(made.bodies);
            }
            self.is_begun = true;
        }
        self.bodies.front()
    }

    /// Returns the next cells, as many as fill a body.
    fn walk(&mut self, now: Now, replica: &Replica) -> Vec<Cell> {
        let (mut cells, mut bytes) = (Vec::new(), 0);
        for table in replica.entries().tables().iter() {
            let Definition {
                name, replicate, ..
            } = table.definition();
            let is_wanted = *replicate && self.table.as_ref().is_none_or(|table| table == name);
            let after = self.after.as_ref();
            if !is_wanted || after.is_some_and(|after| *name < after.table) {
                continue;
            }
            let after = after.filter(|after| after.table == name);
            let after = after.map(|after| after.key.clone());
            for (key, _) in table.iter_after(now.monotonic, after.as_deref()) {
                if bytes >= BATCH_BYTES_DEFAULT {
                    return cells;
                }
                let key = EntryKey {
                    table: name.clone(),
                    key: key.clone(),
                };
                let cell = cell(now, replica, &key);
                bytes += cell.as_ref().map_or(0, estimate);
                cells.extend(cell);
                self.after = Some(key);
            }
        }
        self.is_walked = true;
        cells
    }

    fn is_done(&self) -> bool {
        self.is_walked && self.bodies.is_empty() && !self.is_in_flight
    }
}

/// Returns the pause after a node has lacked or refused something for so many times in a row.
pub(super) fn again_after(times: u32) -> Duration {
    let pause = TABLES_AGAIN.saturating_mul(1 << times.saturating_sub(1).min(8));
    pause.min(TABLES_AGAIN_MAX)
}

/// Returns an entry as a cell; `None` for what is gone, and for what does not end in a table where
/// things do: a cell cannot say that, and Kamailio leaves it out too.
fn cell(now: Now, replica: &Replica, key: &EntryKey) -> Option<Cell> {
    let record = replica.entries().record(now.monotonic, key)?;
    let table = replica.entries().tables().table(&key.table)?;
    let expire = record.remaining.map(|remaining| {
        let at = now.wall.saturating_add(remaining.as_millis() as u64);
        at.div_ceil(1000)
    });
    if expire.is_none() && table.definition().autoexpire.is_some() {
        return None;
    }
    Some(Cell {
        table: key.table.clone(),
        key: key.key.clone(),
        value: record.value?,
        expire,
        last_modified: Some(record.write.stamp.wall().max(record.write.shown)).filter(|at| *at > 0),
    })
}

/// Guesses the length of a cell, its field names included.
fn estimate(cell: &Cell) -> usize {
    let value = match &cell.value {
        htable::Value::Int(_) => 11,
        htable::Value::Text(text) => text.len(),
    };
    100 + cell.table.len() + cell.key.len() + value
}

impl Node {
    /// It asked for dialogs, and our turn to answer is then; tells whether it is answered by then.
    pub(super) fn asks_for_dialogs(&mut self, now: Instant, turn: Instant) -> bool {
        let is_asked = self.scan_due.is_some_and(|(_, scan)| scan == Scan::All);
        if !is_asked {
            // It may have started anew: until then it is told whole of what changes.
            self.forget_told();
        }
        self.anew_since = Some(now);
        let again = self.dialogs_answered.map(|at| at + SYNCS_APART);
        let at = again.map_or(turn, |again| again.max(turn));
        self.scan_at(now, at, Scan::All);
        at == turn
    }

    /// Has it told anew of these dialogs at a time, or when others are if that is sooner.
    pub(super) fn scan_at(&mut self, now: Instant, at: Instant, scan: Scan) {
        let due = self
            .scan_due
            .map_or((at, scan), |(due, former)| (due.min(at), former.max(scan)));
        self.scan_due = Some(due);
        self.wake_scan(now);
    }

    /// Begins to tell it anew of dialogs whose time has come.
    pub(super) fn wake_scan(&mut self, now: Instant) {
        let is_due = |(at, _): &mut (Instant, Scan)| self.is_up && *at <= now;
        let Some((_, scan)) = self.scan_due.take_if(is_due) else {
            return;
        };
        self.scan_from_start(scan);
        if scan == Scan::All {
            self.dialogs_answered = Some(now);
            self.syncs_answered += 1;
        }
    }

    /// Returns when it is told anew of dialogs.
    pub(super) fn scan_due(&self) -> Option<Instant> {
        let due = self.scan_due.filter(|_| self.is_up);
        due.map(|(at, _)| at)
    }

    /// It asked for cells, and our turn to answer is then; tells whether it is answered by then.
    pub(super) fn asks_for_tables(
        &mut self,
        now: Instant,
        table: Option<Bytes>,
        own_turn: Instant,
    ) -> bool {
        let former = self.answer.take().unwrap_or_default();
        if former.begins.is_some() {
            // One answer for both, all of it if they want different things.
            let table = table.filter(|table| former.table.as_ref() == Some(table));
            self.answer = Some(CellsAnswer { table, ..former });
            return false;
        }
        let again = self.tables_answered.map(|at| at + SYNCS_APART);
        let begins = again.map_or(own_turn, |again| again.max(own_turn));
        self.tables_answered = Some(begins);
        self.answer = Some(CellsAnswer {
            table,
            begins: (begins > now).then_some(begins),
            is_in_flight: former.is_in_flight,
            ..CellsAnswer::default()
        });
        self.syncs_answered += 1;
        begins == own_turn
    }

    /// Sends the next batch of cells, if the last one was answered.
    pub(super) fn send_cells(&mut self, line: &mut Line<'_>, replica: &Replica) {
        if !self.has_room() {
            return;
        }
        let last_modified = self.table_dialect().last_modified;
        let Some(answer) = &mut self.answer else {
            return;
        };
        if answer.is_in_flight || answer.begins.is_some_and(|at| at > line.now.monotonic) {
            return;
        }
        answer.begins = None;
        let Some(body) = answer.next(line.now, replica, last_modified) else {
            self.answer = None;
            return;
        };
        let body = body.clone();
        match line.send(TABLE_CHANNEL, Some(body)) {
            Sending::Full => return,
            Sending::TooLong => {}
            Sending::Sent(request) => {
                answer.is_in_flight = true;
                self.requests.insert(request, Sent::Cells);
            }
        }
        answer.bodies.pop_front();
    }

    /// Returns when the answer begins that waits for those of others.
    pub(super) fn answer_at(&self) -> Option<Instant> {
        self.answer.as_ref().filter(|_| self.is_up)?.begins
    }

    /// A batch of cells was answered; without an answer the rest is not sent.
    pub(super) fn cells_answered(&mut self, status: u16) {
        if let Some(answer) = &mut self.answer {
            answer.is_in_flight = false;
            if status == 408 || answer.is_done() {
                self.answer = None;
            }
        }
    }

    /// Returns what it is to be asked for now.
    pub(super) fn wanted(&self, now: Instant) -> Option<Asked> {
        if !self.is_up || self.ask_at.is_some_and(|at| at > now) {
            return None;
        }
        if self.wants_dialogs {
            return Some(Asked::Dialogs);
        }
        let may_ask = self.tables_again().is_none_or(|at| at <= now);
        (self.wants_tables && may_ask).then_some(Asked::Tables)
    }

    /// Returns when it may be asked for tables again.
    fn tables_again(&self) -> Option<Instant> {
        Some(self.tables_asked? + again_after(self.rounds))
    }

    /// Returns when it may be asked for what it is to be asked for.
    pub(super) fn wanted_at(&self) -> Option<Instant> {
        let first = self.ask_at.filter(|_| self.is_up)?;
        if self.wants_dialogs {
            return Some(first);
        }
        let again = self.tables_again().unwrap_or(first);
        self.wants_tables.then_some(again.max(first))
    }

    /// It has told what it was asked for, or will not.
    pub(super) fn note_told(&mut self, what: Asked) {
        match what {
            Asked::Dialogs => self.has_told_dialogs = true,
            Asked::Tables => self.has_told_tables = true,
        }
    }

    /// Tells whether it is still to tell what it has.
    pub(super) fn is_unheard(&self) -> bool {
        self.is_up && !(self.has_told_dialogs && self.has_told_tables)
    }

    /// Asks for everything; `false` when that cannot be sent now.
    pub(super) fn ask(&mut self, line: &mut Line<'_>, what: Asked) -> bool {
        if !self.has_room() {
            return false;
        }
        let sending = match what {
            Asked::Dialogs => {
                let dialect = DialogDialect {
                    last_modified: false,
                };
                let body = DialogMessage::Sync.encode(dialect).ok();
                line.send(DIALOG_CHANNEL, body)
            }
            Asked::Tables => {
                let body = TableMessage::Sync { table: None };
                line.send(TABLE_CHANNEL, body.encode(self.table_dialect()).ok())
            }
        };
        let Sending::Sent(request) = sending else {
            return false;
        };
        match what {
            Asked::Dialogs => self.wants_dialogs = false,
            Asked::Tables => {
                self.wants_tables = false;
                self.tables_asked = Some(line.now.monotonic);
            }
        }
        self.syncs_asked += 1;
        self.requests.insert(request, Sent::Ask(what));
        true
    }
}
