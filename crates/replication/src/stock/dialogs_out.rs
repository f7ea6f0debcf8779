//! What a Kamailio node is told of dialogs: one message at a time about each, always the newest.
//!
//! A dialog that the node does not know is told whole in the state it has; then its state when that
//! rises, all of it when variables or profiles change, and STATE(4) again when a leg of a confirmed
//! dialog has moved. A node that was away or asked for everything may have started anew or not: a STATE
//! for a dialog that it does not know makes it log an ERROR, so it is told whole of every dialog. One that it
//! refuses it is told again, ever more seldom, while it goes on. What it is told of ends is in `ends`, in which
//! words in `words`. Source: PROTOCOL 5.

mod ends;
mod words;

use std::net::SocketAddr;
use std::time::Instant;

use dmq_bodies::DialogState as WireState;

use super::node::{Line, Node, Scan, Sending, Sent};
use super::sync::again_after;
use super::{Counters, DIALOG_CHANNEL, SCAN_QUEUE, TOLD_MAX};
use crate::clock::Now;
use crate::numbers::Numbers;
use crate::record::{DialogKey, DialogRecord, DialogState, Ownership, STOCK_EPOCH};
use crate::replica::Replica;
use ends::Ending;
use words::{body_of, extras_hash, legs_hash, shown_state};

/// One message about a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All of it.
    Update,
    /// STATE(2) or STATE(4).
    State,
    /// STATE(5).
    End,
    /// UPDATE(5): the same to a node that may not know the dialog.
    EndWhole,
    /// RM.
    Remove,
}

/// What a node knows of a dialog that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// The state as a node is told it.
    state: WireState,
    /// The legs, as a hash.
    legs: u64,
    /// Variables and profiles, as a hash.
    extras: u64,
}

impl Content {
    fn of(record: &DialogRecord) -> Self {
        Self {
            state: shown_state(record.state),
            legs: legs_hash(record),
            extras: extras_hash(record),
        }
    }
}

/// What a node was told of a dialog, by whomever.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// `None`: nothing.
    content: Option<Content>,
    /// It has taken something of it, ever.
    was_taken: bool,
    /// It may have lost or missed something since.
    is_stale: bool,
    /// It will not have it, not before `again_at` if that is known.
    is_refused: bool,
    again_at: Option<Instant>,
    /// How often in a row.
    refusals: u32,
    /// An UPDATE or STATE may still be under way although nobody waits for its answer.
    is_in_doubt: bool,
    in_flight: Option<(dmq::RequestId, Step)>,
    /// When it was told something last.
    sent: Option<Instant>,
    /// Another node told it something while ours waited or was on its way: which came last is unknown.
    is_crossed: bool,
    is_queued: bool,
    /// When the first change was made here that it has not been told.
    noted: Option<Instant>,
    ending: Option<Ending>,
    ended_at: Option<Instant>,
    /// The greatest `last_modified` that the node has shown with it, in seconds by its clock, and the last that it
    /// was told.
    heard: u64,
    dated: u64,
}

impl Told {
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    fn is_unsaid(&self) -> bool {
        self.ending == Some(Ending::Unsaid)
    }

    /// The node went away; tells whether there is anything left to remember.
    pub(super) fn lose(&mut self) -> bool {
        self.withdraw();
        self.is_queued = false;
        self.noted = None;
        self.refusals = 0;
        self.mistrust();
        self.content.is_some() || self.is_in_doubt || self.ending.is_some()
    }

    /// Returns the request that nobody is to wait for any more.
    fn withdraw(&mut self) -> Option<dmq::RequestId> {
        let (request, step) = self.in_flight.take()?;
        self.is_in_doubt |= may_revive(step);
        Some(request)
    }

    /// The node may have started anew: what it knew of the dialog, its end included, it may not know.
    fn mistrust(&mut self) {
        self.is_stale |= self.content.is_some() || self.is_ending();
        self.ending = self.ending.map(Ending::mistrusted);
    }

    /// Returns what to tell next, if anything and now.
    ///
    /// `may_be_ahead`: others tell it everything these days.
    fn next(
        &self,
        now: Instant,
        record: Option<&DialogRecord>,
        may_be_ahead: bool,
    ) -> Option<Step> {
        if let Some(ending) = self.ending {
            return ending.next(now, self.is_stale);
        }
        let record = record.filter(|record| !record.is_ended() && !self.is_refused)?;
        let Some(told) = self.content.filter(|_| !self.is_stale) else {
            return Some(Step::Update);
        };
        let is = Content::of(record);
        let moved = is.state == WireState::Confirmed && is.legs != told.legs;
        let is_ahead = is.state > told.state;
        // A node that has heard of the state already takes an UPDATE, and complains of another STATE(4).
        if is.extras != told.extras || is_ahead && (self.is_crossed || may_be_ahead) {
            Some(Step::Update)
        } else if is_ahead || moved {
            Some(Step::State)
        } else {
            None
        }
    }

    /// The node refuses what it was told; returns when it is told again.
    fn refuse(&mut self, now: Instant) -> Instant {
        self.is_refused = true;
        self.noted = None;
        self.refusals = self.refusals.saturating_add(1);
        now + again_after(self.refusals)
    }

    /// The node has taken what it was told.
    fn take(&mut self, step: Step, sent: Content) {
        let known = self.content;
        let mut content = sent;
        if let Some(known) = known {
            // An UPDATE without news of the state leaves the legs alone.
            if step == Step::Update && known.state == sent.state {
                content.legs = known.legs;
            }
            content.state = sent.state.max(known.state);
            if step == Step::State {
                content.extras = known.extras;
            }
        }
        self.content = Some(content);
        self.was_taken = true;
        self.is_stale &= step != Step::Update;
        self.refusals = 0;
    }
}

fn may_revive(step: Step) -> bool {
    matches!(step, Step::Update | Step::State | Step::EndWhole)
}

impl Node {
    pub(super) fn queue_dialog(&mut self, key: &DialogKey) {
        if let Some(told) = self.dialogs.get_mut(key)
            && self.is_up
            && !told.is_queued
            && told.in_flight.is_none()
        {
            told.is_queued = true;
            self.dialog_queue.push_back(key.clone());
        }
    }

    fn told_of(&mut self, key: &DialogKey, counters: &mut Counters) -> Option<&mut Told> {
        if self.dialogs.len() >= TOLD_MAX && !self.dialogs.contains_key(key) {
            counters.not_told += 1;
            return None;
        }
        Some(self.dialogs.entry(key.clone()).or_default())
    }

    /// A dialog that goes on was changed here.
    pub(super) fn note_dialog(&mut self, now: Instant, key: &DialogKey, counters: &mut Counters) {
        // A node that is away is told everything when it returns.
        if self.is_up
            && let Some(told) = self.told_of(key, counters)
        {
            told.noted.get_or_insert(now);
            self.queue_dialog(key);
        }
    }

    /// A dialog that goes on was changed by another node, which tells everybody itself. `by_it` tells that this
    /// node did: it has said what variables and profiles it holds.
    pub(super) fn note_dialog_told(
        &mut self,
        key: &DialogKey,
        record: &DialogRecord,
        by_it: bool,
        counters: &mut Counters,
    ) {
        if self.is_up
            && let Some(told) = self.told_of(key, counters)
        {
            told.is_crossed |= told.in_flight.is_some() || told.is_queued;
            if told.in_flight.is_some() || told.is_queued {
                return;
            }
            let mut content = Content::of(record);
            if let Some(known) = told.content.filter(|_| by_it) {
                content.extras = known.extras;
            }
            told.content = Some(content);
            (told.is_stale, told.is_crossed) = (false, false);
        }
    }

    /// It showed when it wrote what it says of a dialog; tells whether it has shown something later before, so
    /// that this was lost then and comes again.
    pub(super) fn is_late(&mut self, key: &DialogKey, shown: Option<u64>) -> bool {
        let (Some(told), Some(shown)) = (self.dialogs.get_mut(key), shown) else {
            return false;
        };
        told.heard = told.heard.max(shown);
        shown < told.heard
    }

    /// It said what variables and profiles a dialog has; tells whether it must have changed them: they are not
    /// those that it was known to hold.
    pub(super) fn has_changed(&mut self, key: &DialogKey, said: &DialogRecord) -> bool {
        let Some(told) = self.dialogs.get_mut(key) else {
            return false;
        };
        // What is on its way to it, it may hold or not.
        let is_known = told.in_flight.is_none();
        let Some(content) = &mut told.content else {
            return false;
        };
        let former = std::mem::replace(&mut content.extras, extras_hash(said));
        is_known && former != content.extras
    }

    /// The node has freed a dialog, or may have.
    pub(super) fn note_freed(&mut self, key: &DialogKey, is_ours: bool) {
        let Some(told) = self.dialogs.get_mut(key).filter(|told| !told.is_ending()) else {
            return;
        };
        told.content = None;
        told.is_stale = false;
        if is_ours {
            self.queue_dialog(key);
        }
    }

    /// It asks for everything: it has started anew, or had nobody left on its list. Ends are told once
    /// more, too: another node may answer it with a dialog that is over and never freed then
    /// (PROTOCOL 9.6).
    pub(super) fn forget_told(&mut self) {
        let mut ending = Vec::new();
        for (key, told) in &mut self.dialogs {
            // What tells a dialog whole may arrive at any time.
            let is_of_known =
                |(_, step): &(_, Step)| !matches!(step, Step::Update | Step::EndWhole);
            if told.in_flight.as_ref().is_some_and(is_of_known)
                && let Some(request) = told.withdraw()
            {
                self.requests.remove(&request);
                self.withdrawn.push(request);
            }
            told.mistrust();
            told.content = None;
            told.is_refused = false;
            if told.ending.is_some_and(Ending::is_due) {
                ending.push(key.clone());
            }
        }
        for key in ending {
            self.queue_dialog(&key);
        }
    }

    /// Finds the dialogs that are to be told anew, a few partitions at a time.
    pub(super) fn scan_dialogs(
        &mut self,
        others: impl Fn(SocketAddr) -> bool,
        replica: &Replica,
        counters: &mut Counters,
    ) {
        let anew_since = self.anew_since;
        while let Some((scan, partition)) = self.scan
            && self.dialog_queue.len() < SCAN_QUEUE
        {
            for (key, held) in replica.dialogs().partition_iter(partition) {
                let ownership = held.record.ownership;
                let owner = ownership.owner;
                let is_orphan = ownership.epoch != STOCK_EPOCH
                    && self.orphaned_by.contains(&owner)
                    && replica.is_first(key);
                let is_wanted = match scan {
                    _ if held.record.is_ended() => false,
                    Scan::Orphans => is_orphan,
                    Scan::Ours => is_orphan || replica.looks_after(key, ownership),
                    Scan::All => !others(owner),
                };
                if !is_wanted {
                    continue;
                }
                if let Some(told) = self.told_of(key, counters) {
                    // What a lost router has written since, it need not have been told.
                    let is_told = told.content.is_some() && !told.is_stale && !is_orphan;
                    if is_told && told.sent > anew_since {
                        continue;
                    }
                    told.is_stale = true;
                    told.is_refused = false;
                    self.queue_dialog(key);
                }
            }
            self.scan = partition.checked_add(1).map(|next| (scan, next));
            if self.scan.is_none() {
                self.orphaned_by.clear();
            }
        }
    }

    /// Tells what there is to tell; `false` when no more can be sent now. `may_be_ahead`: others tell it everything
    /// these days.
    pub(super) fn send_dialogs(
        &mut self,
        line: &mut Line<'_>,
        may_be_ahead: bool,
        replica: &Replica,
        numbers: &Numbers,
    ) -> bool {
        while let Some(key) = self.dialog_queue.front() {
            if !self.has_room() {
                return false;
            }
            let key = key.clone();
            let held = replica.dialogs().dialog(&key);
            let record = held.map(|held| &held.record);
            let told = self.dialogs.get(&key);
            let step = told.and_then(|told| told.next(line.now.monotonic, record, may_be_ahead));
            let Some(step) = step else {
                if told.is_some_and(Told::is_unsaid) {
                    self.dialogs.remove(&key);
                }
                self.unqueue_dialog(&key);
                continue;
            };
            let seen = told.map_or(0, |told| told.heard.max(told.dated));
            let at = self.dialog_time(line.now, seen);
            let is_forgotten = step == Step::EndWhole && record.is_none();
            let forgotten = is_forgotten.then(|| forgotten(line.now, line.address));
            let record = record.or(forgotten.as_ref());
            let body = body_of(step, &key, record, numbers.did(&key), at, self.iflags_shown);
            let content = record.map_or(ENDED, Content::of);
            match line.send(DIALOG_CHANNEL, body) {
                Sending::Full => return false,
                Sending::TooLong => {
                    self.unqueue_dialog(&key);
                    if let Some(told) = self.dialogs.get_mut(&key) {
                        told.is_refused = true;
                    }
                }
                Sending::Sent(request) => {
                    let since = self.unqueue_dialog(&key);
                    if let Some(told) = self.dialogs.get_mut(&key) {
                        told.in_flight = Some((request, step));
                        told.sent = Some(line.now.monotonic);
                        told.is_crossed &= step != Step::Update;
                        told.dated = at.unwrap_or(told.dated);
                    }
                    self.requests
                        .insert(request, Sent::Dialog(key, step, content, since));
                }
            }
        }
        true
    }

    /// Takes the first dialog from the queue; returns since when it has waited there with news.
    fn unqueue_dialog(&mut self, key: &DialogKey) -> Option<Instant> {
        self.dialog_queue.pop_front();
        let told = self.dialogs.get_mut(key)?;
        told.is_queued = false;
        told.noted.take()
    }

    /// A message about a dialog was answered, or was not (408).
    pub(super) fn dialog_answered(
        &mut self,
        now: Instant,
        key: &DialogKey,
        step: Step,
        sent: Content,
        status: u16,
    ) {
        let Some(told) = self.dialogs.get_mut(key) else {
            return;
        };
        told.in_flight = None;
        let goes_on = match (step, status) {
            (Step::Update | Step::State, 408) => {
                told.is_in_doubt = true;
                told.is_stale |= step == Step::Update;
                Some(now)
            }
            (Step::End | Step::EndWhole | Step::Remove, 408) => {
                told.is_in_doubt |= may_revive(step);
                Some(now)
            }
            (Step::Update | Step::State, 200..=299) => {
                told.take(step, sent);
                Some(now)
            }
            // It does not know the dialog: it may have started anew.
            (Step::State, 500) => {
                told.content = None;
                Some(now)
            }
            (Step::Update | Step::State, _) => {
                let at = told.refuse(now);
                if let Some(former) = told.again_at.replace(at) {
                    self.later.remove(&(former, key.clone()));
                }
                Some(at)
            }
            (Step::End | Step::EndWhole, _) => {
                told.take_end(now, step, (200..=299).contains(&status))
            }
            (Step::Remove, _) => told.take_end(now, step, true),
        };
        let is_over = told.is_ending() && goes_on.is_none();
        match goes_on {
            Some(at) if at > now => {
                self.later.insert((at, key.clone()));
            }
            Some(_) => self.queue_dialog(key),
            None if is_over => {
                self.dialogs.remove(key);
            }
            None => {}
        }
    }
}

/// What a message about an end tells of a dialog that goes on: nothing.
const ENDED: Content = Content {
    state: WireState::Deleted,
    legs: 0,
    extras: 0,
};

/// Returns all that a node needs to be told of a dialog that is over and forgotten here: it ends what it
/// has, or takes this for a dialog until RM (PROTOCOL 5.4).
fn forgotten(now: Now, node: SocketAddr) -> DialogRecord {
    let ownership = Ownership {
        epoch: STOCK_EPOCH,
        owner: node,
    };
    DialogRecord {
        state: DialogState::Ended,
        created: now.wall_seconds(),
        ..DialogRecord::new(ownership)
    }
}
