//! The stock side of a cell: what this node tells Kamailio nodes, and what it believes of them.
//!
//! [`Channel`] speaks `dialog` and `htable` as Kamailio's modules dialog and htable do, only where
//! those lose or repeat, it does not: one request at a time about each dialog and key, always with the
//! newest content, and a comparison of tables after each return of a node. By file: `dialogs_out`,
//! `dialogs_in`, `tables_out`, `tables_in`, `sync` (asking and answering for everything), `repair` (who
//! is right about what differs), `node` (what is known of one), `shown_clock` (what time it is there), `status`
//! (what is shown of all this).
//!
//! Not here: which nodes are Kamailio nodes, who is alive, transmission. Source: Kamailio dialog,
//! dlg_dmq.c, and htable, ht_dmq.c, as seen on the wire; docs/replication.md.

mod dialogs_in;
mod dialogs_out;
mod held_back;
mod node;
mod repair;
mod shown_clock;
mod status;
mod sync;
mod tables_in;
mod tables_out;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmq::{Bus, RequestId};
use dmq_bodies::Did;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::change::{Change, Key, Origin};
use crate::clock::Now;
use crate::entries::EntryKey;
use crate::lag::Lag;
use crate::numbers::Numbers;
use crate::record::DialogKey;
use crate::replica::Replica;
use held_back::HeldBack;
use node::{Line, Node, Sent};
use repair::Differences;
pub use status::{Counters, NodeStatus, Status};
use sync::{ANSWERS_APART, Asked, Asking};
pub use sync::{SYNCS_APART, TABLES_AGAIN_MAX};
use tables_in::EarlyLifetimes;

/// Kamailio's channel for dialogs.
pub const DIALOG_CHANNEL: &str = "dialog";
/// Kamailio's channel for tables.
pub const TABLE_CHANNEL: &str = "htable";

/// Requests to one node that wait for their answers: fewer than a bus takes.
pub const WINDOW: usize = 32;
/// Dialogs of which it is remembered what a node was told; beyond it new ones are not told, counted.
pub const TOLD_MAX: usize = 500_000;
/// Keys that wait to be told a node; beyond it they are left to the next comparison, counted.
pub const ENTRIES_PENDING_MAX: usize = 200_000;
/// Cells of one answer that are compared; beyond it nothing follows from what is missing.
pub const CELLS_MAX: usize = 500_000;
/// STATEs that wait for their UPDATE; beyond it they are dropped, counted.
pub const HELD_BACK_MAX: usize = 4096;
/// Keys that a node was told with a time far ahead; beyond it all are forgotten, and a later write may not count there.
pub const TOLD_AHEAD_MAX: usize = 65_536;
/// Lifetimes that wait for their value; beyond it they are dropped, counted.
pub const EARLY_MAX: usize = 1024;
/// Comparisons in a row without a difference, after which a node is left alone.
const CLEAN_ROUNDS: u32 = 2;
/// Dialogs that wait to be told anew before more are looked for.
const SCAN_QUEUE: usize = 256;
/// Whoever is asked for all dialogs has told everybody within that time, with every repeat.
const ALL_TOLD_WITHIN: Duration = Duration::from_secs(32);
/// Nodes that come up at one time are asked within that time of it.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// What this node says to Kamailio nodes and hears from them.
///
/// After any call: [`Channel::note`] every change of the replica, then [`Channel::run`], then sleep
/// until [`Channel::poll_timeout`]. Only nodes known to be Kamailio nodes are to be brought up.
#[derive(Debug)]
pub struct Channel {
    own: SocketAddr,
    numbers: Numbers,
    nodes: BTreeMap<SocketAddr, Node>,
    held_back: HeldBack,
    early: EarlyLifetimes,
    asking: Option<Asking>,
    /// Until then Kamailio nodes tell each other of dialogs that are not theirs.
    all_told_until: Option<Instant>,
    /// What was taken from a node that was asked, and is to be told the others once that is noted.
    adopted: Vec<(SocketAddr, EntryKey)>,
    lag: Lag,
    counters: Counters,
    rng: SmallRng,
}

impl Channel {
    /// Creates the stock side of the node whose DMQ address is `own`; `hash_size` is the cell's.
    #[must_use]
    pub fn new(own: SocketAddr, hash_size: u32, seed: u64) -> Self {
        Self {
            own,
            numbers: Numbers::new(hash_size),
            nodes: BTreeMap::new(),
            held_back: HeldBack::default(),
            early: EarlyLifetimes::default(),
            asking: None,
            all_told_until: None,
            adopted: Vec::new(),
            lag: Lag::default(),
            counters: Counters::default(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Takes the news that a Kamailio node takes messages; without effect on one that does already.
    pub fn node_up(&mut self, now: Now, replica: &Replica, node: SocketAddr) {
        let turn = self.turn(now.monotonic, replica, node);
        let node = self.nodes.entry(node).or_default();
        if !node.is_up {
            let wait = self.rng.random_range(Duration::ZERO..=ASK_WITHIN);
            node.come_up(now.monotonic, turn, now.monotonic + wait);
        }
    }

    /// Returns when it is our turn to tell a node everything, which others do, too: Kamailios do at once, then
    /// Tandem nodes in the order of their addresses.
    fn turn(&self, now: Instant, replica: &Replica, node: SocketAddr) -> Instant {
        let is_other = |(address, other): (&SocketAddr, &Node)| *address != node && other.is_up;
        let stock = self.nodes.iter().any(is_other);
        let tandem = replica.members().filter(|member| *member < self.own);
        now + ANSWERS_APART * (u32::from(stock) + tandem.count() as u32)
    }

    /// Takes the news that a node lists us again. If it was asked for dialogs before, it has told everybody
    /// but us.
    pub fn node_lists_us(&mut self, now: Now, node: SocketAddr) {
        let is_asked = self.asking.as_ref().is_some_and(|it| it.node == node);
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.is_up) {
            node.wants_dialogs |= is_asked || node.has_told_dialogs;
            node.ask_at = node.ask_at.max(Some(now.monotonic));
        }
    }

    /// Has the tables of every node that takes messages, or of `only` that one, compared and put right once more, as
    /// after its return and no sooner than a minute after the last time.
    ///
    /// Returns these nodes, each with what its [`NodeStatus::comparisons`] are when that has been done.
    pub fn repair(&mut self, only: Option<SocketAddr>) -> Vec<(SocketAddr, u64)> {
        let asking = self.asking.as_ref();
        let is_asked =
            |node: SocketAddr| asking.is_some_and(|it| it.node == node && it.what == Asked::Tables);
        let up = self.nodes.iter_mut().filter(|(_, node)| node.is_up);
        let wanted = up.filter(|(address, _)| only.is_none_or(|only| only == **address));
        let asked = wanted.map(|(address, node)| {
            node.wants_tables = true;
            (node.rounds, node.clean_rounds) = (0, 0);
            // One that is under way does not count: it may have seen what was there before.
            let under_way = u64::from(is_asked(*address));
            (*address, node.comparisons + under_way + 1)
        });
        asked.collect()
    }

    /// Takes the news that a node takes no messages any more, or is no Kamailio node any more.
    pub fn node_down(&mut self, _now: Now, node: SocketAddr) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.go_down();
        }
        if self
            .asking
            .as_ref()
            .is_some_and(|asking| asking.node == node)
        {
            self.asking = None;
        }
    }

    /// Takes the news that a node is gone for good: all that is known of it is forgotten.
    pub fn node_removed(&mut self, now: Now, node: SocketAddr) {
        self.node_down(now, node);
        self.nodes.remove(&node);
    }

    /// Takes note of a change of the replica, whoever made it: what was changed here is told.
    pub fn note(&mut self, now: Now, replica: &Replica, change: &Change) {
        match &change.key {
            Key::Dialog(key) => {
                let Some(held) = replica.dialogs().dialog(key) else {
                    return;
                };
                if change.before.is_none() {
                    self.numbers.insert(key);
                }
                let is_local = change.origin == Origin::Local;
                if !held.record.is_ended() {
                    for (address, node) in &mut self.nodes {
                        match is_local {
                            true => node.note_dialog(now.monotonic, key, &mut self.counters),
                            false => {
                                let by_it = change.origin == Origin::Stock(*address);
                                let counters = &mut self.counters;
                                node.note_dialog_told(key, &held.record, by_it, counters);
                            }
                        }
                    }
                    return;
                }
                self.numbers.note_ended(key);
                for node in self.nodes.values_mut() {
                    node.note_end(now, key, is_local, change.before);
                }
            }
            Key::Entry(key) => {
                if let Some(asking) = &mut self.asking {
                    asking.touch(key);
                }
                for node in self.nodes.values_mut() {
                    match change.origin {
                        Origin::Local => {
                            node.note_entry(key, Some(now.monotonic), &mut self.counters);
                        }
                        Origin::Tandem(_) | Origin::Stock(_) => node.note_entry_told(key),
                    }
                }
            }
        }
    }

    /// Takes the news that a dialog ended at a node which was lost before it can have told this to the end.
    pub fn note_inherited(&mut self, now: Now, key: &DialogKey) {
        for node in self.nodes.values_mut() {
            node.note_inherited(now.monotonic, key);
        }
    }

    /// Takes the news that a router is lost: what it was about to tell Kamailio nodes, its heirs tell them, and one
    /// of all compares the tables.
    pub fn note_router_lost(&mut self, replica: &Replica, lost: SocketAddr) {
        for node in self.nodes.values_mut().filter(|node| node.is_up) {
            node.scan_orphans(lost);
        }
        if replica.is_lowest() {
            self.repair(None);
        }
    }

    /// A node has told everybody of a dialog that is over, as one does that is asked for all of its dialogs:
    /// those that have freed it already have it again.
    fn note_revived(&mut self, now: Now, key: &DialogKey) {
        for node in self.nodes.values_mut() {
            node.note_revived(now.monotonic, key);
        }
    }

    /// Tells whether a node that takes messages is still to be told of an end, repeats left out.
    #[must_use]
    pub fn owes_ends(&self) -> bool {
        let mut up = self.nodes.values().filter(|node| node.is_up);
        up.any(Node::is_owed_an_end)
    }

    /// Returns the dialogs with these numbers that the replica holds, or held a moment ago.
    pub fn named(&self, did: Did) -> impl Iterator<Item = DialogKey> {
        self.numbers.find(did)
    }

    /// Takes note of a message that is not executed: what sent it may be no Kamailio node.
    pub(crate) fn note_left_unanswered(&mut self) {
        self.counters.left_unanswered += 1;
    }

    /// Executes a message of channel `dialog` or `htable`; returns the status to answer.
    pub fn handle(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        channel: &str,
        body: &[u8],
    ) -> u16 {
        match channel {
            DIALOG_CHANNEL => self.handle_dialog(now, replica, node, body),
            TABLE_CHANNEL => self.handle_table(now, replica, node, body),
            _ => 404,
        }
    }

    /// Takes the news of how a request ended; those of others are passed over.
    pub fn answered(
        &mut self,
        now: Now,
        _replica: &mut Replica,
        node: SocketAddr,
        request: RequestId,
        status: u16,
    ) {
        let Some(to) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some(sent) = to.requests.remove(&request) else {
            return;
        };
        match status {
            200..=299 => {}
            408 => self.counters.unanswered += 1,
            _ => self.counters.refused += 1,
        }
        let told = match sent {
            Sent::Dialog(key, step, content, since) => {
                to.dialog_answered(now.monotonic, &key, step, content, status);
                since
            }
            Sent::Entry(key, step, since) => to.entry_answered(&key, step, since, status),
            Sent::Cells => {
                to.cells_answered(status);
                None
            }
            Sent::Ask(what) => {
                self.ask_answered(now, node, what, status);
                None
            }
        };
        if let (Some(since), 200..=299) = (told, status) {
            let took = now.monotonic.saturating_duration_since(since);
            self.lag.note(took);
        }
    }

    fn ask_answered(&mut self, now: Now, node: SocketAddr, what: Asked, status: u16) {
        let asking = self.asking.as_mut();
        let asking = asking.filter(|asking| asking.node == node && asking.what == what);
        let Some(asking) = asking else { return };
        if (200..=299).contains(&status) {
            asking.hear(now.monotonic);
        } else {
            self.counters.unanswered_syncs += 1;
            self.asking = None;
            self.node(node).note_told(what);
        }
    }

    /// Hands to the bus what may be sent now.
    pub fn run(&mut self, now: Now, replica: &mut Replica, bus: &mut Bus) {
        self.pass_on();
        let stock = self.needed_by_scans();
        for (address, node) in &mut self.nodes {
            for request in node.withdrawn.drain(..) {
                let was_waiting = bus.cancel(now.monotonic, *address, request);
                self.counters.withdrawn += u64::from(was_waiting);
            }
            if !node.is_up {
                continue;
            }
            let mut line = Line {
                now,
                address: *address,
                bus,
                counters: &mut self.counters,
            };
            let may_be_ahead = self
                .all_told_until
                .is_some_and(|until| now.monotonic < until);
            let is_other = |owner| owner != *address && stock.contains(&owner);
            loop {
                node.scan_dialogs(is_other, replica, line.counters);
                let is_open = node.send_dialogs(&mut line, may_be_ahead, replica, &self.numbers);
                if !is_open || node.scan.is_none() {
                    break;
                }
            }
            node.send_entries(&mut line, replica);
            node.send_cells(&mut line, replica);
        }
        self.ask_next(now, bus);
    }

    /// Returns the Kamailio nodes that are up, if somebody is to be told anew of dialogs.
    fn needed_by_scans(&self) -> BTreeSet<SocketAddr> {
        if self.nodes.values().all(|node| node.scan.is_none()) {
            return BTreeSet::new();
        }
        let up = self.nodes.iter().filter(|(_, node)| node.is_up);
        up.map(|(address, _)| *address).collect()
    }

    /// Asks the next node for everything, unless one is being asked.
    fn ask_next(&mut self, now: Now, bus: &mut Bus) {
        if self.asking.is_some() {
            return;
        }
        for (address, node) in &mut self.nodes {
            let Some(what) = node.wanted(now.monotonic) else {
                continue;
            };
            let mut line = Line {
                now,
                address: *address,
                bus,
                counters: &mut self.counters,
            };
            if node.ask(&mut line, what) {
                if what == Asked::Dialogs {
                    self.all_told_until = Some(now.monotonic + ALL_TOLD_WITHIN);
                }
                self.asking = Some(Asking::new(now.monotonic, *address, what));
                return;
            }
            node.ask_at = Some(now.monotonic + ASK_WITHIN);
        }
    }

    /// Runs what is due: what was to be said later, what has waited in vain, comparing tables.
    pub fn handle_timeout(&mut self, now: Now, replica: &mut Replica) {
        for node in self.nodes.values_mut() {
            node.wake_dialogs(now.monotonic);
            node.wake_scan(now.monotonic);
        }
        self.counters.held_back_dropped += self.held_back.expire(now.monotonic);
        self.early.expire(now.monotonic);
        self.numbers.forget(replica);
        if let Some(asking) = self.asking.take() {
            match asking.poll_timeout() <= now.monotonic {
                true => self.finish(now, replica, asking),
                false => self.asking = Some(asking),
            }
        }
    }

    /// A node has told everything.
    fn finish(&mut self, now: Now, replica: &mut Replica, asking: Asking) {
        self.node(asking.node).note_told(asking.what);
        if asking.what == Asked::Dialogs {
            return;
        }
        if !asking.has_batch {
            self.counters.unanswered_syncs += 1;
            return;
        }
        let Some(node) = self.nodes.get_mut(&asking.node) else {
            return;
        };
        // What it has it does know, whatever it refused once: it may have been out of memory.
        for key in asking.cells.keys() {
            node.unknown_tables.remove(&key.table);
        }
        let node = &*node;
        let is_busy = |key: &EntryKey| {
            asking.touched.contains(key)
                || node.entries.contains_key(key)
                || node.unknown_tables.contains(&key.table)
        };
        let cells = &asking.cells;
        let mut found = Differences::of_cells(now, replica, asking.node, cells, is_busy);
        if !asking.is_partial {
            found.add_lacking(now, replica, cells, is_busy);
        }
        let count = found.count;
        self.follow(asking.node, found);
        let node = self.node(asking.node);
        node.differences = Some(count);
        node.compared = Some(now.monotonic);
        node.comparisons += 1;
        match count {
            0 => (node.clean_rounds, node.rounds) = (node.clean_rounds + 1, 0),
            _ => (node.clean_rounds, node.rounds) = (0, node.rounds + 1),
        }
        // A repeat of something old may still have come after the first clean one.
        node.wants_tables |= node.clean_rounds < CLEAN_ROUNDS;
    }

    /// Tells what a comparison found.
    fn follow(&mut self, with: SocketAddr, found: Differences) {
        self.counters.cells_skipped += found.skipped;
        self.counters.adopted += found.unknown;
        let adopted = found.adopted.into_iter().map(|key| (with, key));
        self.adopted.extend(adopted);
        let node = self.nodes.entry(with).or_default();
        for key in &found.tell {
            node.note_entry(key, None, &mut self.counters);
        }
        for key in &found.tell_lifetime {
            node.note_lifetime(key);
        }
    }

    /// Tells the other nodes what one had and they may lack: it does not say it again. If another Tandem node
    /// knows that it is gone, comparing finds that they have it.
    fn pass_on(&mut self) {
        for (from, key) in std::mem::take(&mut self.adopted) {
            let others = self.nodes.iter_mut().filter(|(node, _)| **node != from);
            for (_, node) in others {
                node.note_entry(&key, None, &mut self.counters);
                (node.wants_tables, node.clean_rounds) = (true, 0);
            }
        }
    }

    /// Returns when `handle_timeout` and then `run` are due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let nodes = self.nodes.values();
        let later = nodes.filter_map(|node| node.later.first().map(|(at, _)| *at));
        let asking = self.asking.as_ref().map(Asking::poll_timeout);
        let wanted = || self.nodes.values().filter_map(Node::wanted_at).min();
        let answers = self.nodes.values().filter_map(Node::answer_at);
        let dialogs = self.nodes.values().filter_map(Node::scan_due);
        later
            .chain(answers)
            .chain(dialogs)
            .chain(asking.or_else(wanted))
            .chain(self.held_back.poll_timeout())
            .chain(self.early.poll_timeout())
            .min()
    }

    /// Returns what is shown of the stock side.
    #[must_use]
    pub fn status(&self) -> Status {
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|(address, node)| NodeStatus::of(*address, node));
        Status {
            nodes: nodes.collect(),
            held_back: self.held_back.len(),
            lag: self.lag.clone(),
        }
    }

    /// Returns how many nodes are still to tell what they have: dialogs and tables.
    #[must_use]
    pub fn unheard(&self) -> usize {
        self.nodes.values().filter(|node| node.is_unheard()).count()
    }

    /// Returns what was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn node(&mut self, node: SocketAddr) -> &mut Node {
        self.nodes.entry(node).or_default()
    }
}
