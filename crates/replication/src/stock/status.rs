//! What operators and tests see of the stock side.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use dmq_bodies::Numbering;

use super::node::Node;
use crate::lag::Lag;

/// What the stock side counts; all of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bodies that are no messages.
    pub malformed: u64,
    /// Operations on tables and dialogs for which there was no table, or no room.
    pub not_executed: u64,
    /// UPDATEs whose slot is not ours: the node has another hash size.
    pub hash_mismatch: u64,
    /// Dialogs that bear the numbers of another.
    pub collisions: u64,
    /// STATEs that came before their UPDATE.
    pub held_back: u64,
    /// Those whose UPDATE did not come, or for which there was no room.
    pub held_back_dropped: u64,
    /// Lifetimes that came before their value and for which there was no room.
    pub early_dropped: u64,
    /// Messages about dialogs that are over, or below their state.
    pub late_ignored: u64,
    /// SETs, and messages about dialogs, that are older than what is held, as the clocks of Kamailio nodes show.
    pub overtaken: u64,
    /// Keys taken from a Kamailio node of which nothing was known here: new ones, or deleted so long ago that
    /// nobody remembers.
    pub adopted: u64,
    /// RMs for answered dialogs of another owner, before their time.
    pub removals_not_obeyed: u64,
    /// Cells that were left out of a comparison: no table of ours, ended, or no room.
    pub cells_skipped: u64,
    /// Requests for everything that were not answered in time.
    pub unanswered_syncs: u64,
    /// Requests for everything that came too soon after one before and were answered later.
    pub syncs_deferred: u64,
    /// Dialogs and keys that were not told because too much waits.
    pub not_told: u64,
    /// Messages that were too long to be told.
    pub too_long: u64,
    /// Requests that a node refused.
    pub refused: u64,
    /// Requests that nobody answered.
    pub unanswered: u64,
    /// Requests that were withdrawn because the dialog had ended, or the node is no Kamailio node any more.
    pub withdrawn: u64,
    /// Messages that were left unanswered because their node is none, or it is not known yet whether it is.
    pub left_unanswered: u64,
}

/// What is shown of one Kamailio node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it is told anything.
    pub is_up: bool,
    /// Dialogs and keys that wait to be told.
    pub dirty: usize,
    /// Requests that wait for their answers.
    pub in_flight: usize,
    /// Dialogs of which it is remembered what it was told.
    pub dialogs_told: usize,
    /// Keys that differed when tables were compared last.
    pub stock_differences: Option<u64>,
    /// When that was.
    pub compared: Option<Instant>,
    /// How many such comparisons have been finished.
    pub comparisons: u64,
    /// Whether it numbers table operations as Kamailio up to 5.4 did.
    pub old_numbering: bool,
    /// Whether it has shown `last_modified` on either channel (6.2) since it takes messages.
    pub last_modified_shown: bool,
    /// How often it was asked for everything.
    pub syncs_asked: u64,
    /// How often it asked for everything.
    pub syncs_answered: u64,
    /// The hash sizes that explain its slots, when they are not ours; empty when none does.
    pub hash_size_candidates: Option<Vec<u32>>,
    /// Tables that it does not have.
    pub unknown_tables: Vec<Bytes>,
}

impl NodeStatus {
    pub(super) fn of(address: SocketAddr, node: &Node) -> Self {
        let sizes = node.hash_sizes.as_ref();
        Self {
            address,
            is_up: node.is_up,
            dirty: node.dialog_queue.len() + node.entry_queue.len(),
            in_flight: node.requests.len(),
            dialogs_told: node.dialogs.len(),
            stock_differences: node.differences,
            compared: node.compared,
            comparisons: node.comparisons,
            old_numbering: node.numbering == Numbering::Old,
            last_modified_shown: node.is_dated(),
            syncs_asked: node.syncs_asked,
            syncs_answered: node.syncs_answered,
            hash_size_candidates: sizes.map(|sizes| sizes.iter().copied().collect()),
            unknown_tables: node.unknown_tables.iter().cloned().collect(),
        }
    }
}

/// What is shown of the stock side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Every Kamailio node that has been heard of.
    pub nodes: Vec<NodeStatus>,
    /// STATEs that wait for their UPDATE.
    pub held_back: usize,
    /// From a change here to the answer of a node that was told it.
    pub lag: Lag,
}
