//! What is shown of the nodes of the bus: what the bus knows of them, and what replication does.

use std::time::Duration;

use control::mirror::v1::node::About;
use control::mirror::v1::{BusCounters, Node, NodeKind, NodeState, StockNode, TandemNode};
use replication::{Replication, stock, tandem};

use super::cell::Clock;

/// Returns every other node, in the order of their addresses.
pub(super) fn list(replication: &Replication, clock: Clock) -> Vec<Node> {
    let tandem = replication.tandem_status(clock.now);
    let stock = replication.stock_status();
    let shown = |status: &dmq::NodeStatus| {
        let node = shown(status, clock);
        let is_it = |node: &&tandem::NodeStatus| node.address == status.address;
        let of_tandem = tandem.nodes.iter().find(is_it);
        let is_it = |node: &&stock::NodeStatus| node.address == status.address;
        let of_stock = stock.nodes.iter().find(is_it);
        match replication.kind(status.address) {
            tandem::Kind::Unknown => node,
            tandem::Kind::Tandem => Node {
                kind: NodeKind::Tandem.into(),
                dirty: of_tandem.map_or(0, |node| node.dirty as u64),
                about: of_tandem.map(|node| About::Tandem(tandem_node(node))),
                ..node
            },
            tandem::Kind::Stock => Node {
                kind: NodeKind::Stock.into(),
                dirty: of_stock.map_or(0, |node| node.dirty as u64),
                about: of_stock.map(|node| About::Stock(stock_node(node, clock))),
                ..node
            },
        }
    };
    replication.nodes().map(shown).collect()
}

fn shown(status: &dmq::NodeStatus, clock: Clock) -> Node {
    let state = match status.state {
        dmq::NodeState::Pending => NodeState::Pending,
        dmq::NodeState::Active => NodeState::Active,
        dmq::NodeState::NotActive => NodeState::NotActive,
        dmq::NodeState::Disabled => NodeState::Disabled,
    };
    Node {
        address: status.address.to_string(),
        kind: NodeKind::Unspecified.into(),
        state: state.into(),
        since: Some(clock.past(status.since)),
        last_heard: status.last_heard.map(|at| clock.past(at)),
        smoothed_rtt: status.smoothed_rtt.and_then(duration),
        in_flight: status.in_flight as u32,
        sent: status.sent,
        repeats: status.repeated,
        answered: status.answered,
        unanswered: status.unanswered,
        received: status.received,
        dirty: 0,
        about: None,
    }
}

fn tandem_node(status: &tandem::NodeStatus) -> TandemNode {
    TandemNode {
        node: status.node_id.clone(),
        incarnation: status.incarnation,
        divergence: status.divergence,
        verify_age: status.verify_age.and_then(duration),
        hash_size_differs: status.hash_size_differs,
        change_bytes: status.sent.changes,
        digest_bytes: status.sent.digests,
        repair_bytes: status.sent.repair,
    }
}

fn stock_node(status: &stock::NodeStatus, clock: Clock) -> StockNode {
    let tables = status.unknown_tables.iter();
    let tables = tables.map(|table| String::from_utf8_lossy(table).into_owned());
    StockNode {
        differences: status.stock_differences,
        compare_time: status.compared.map(|at| clock.past(at)),
        dialogs_told: status.dialogs_told as u64,
        old_numbering: status.old_numbering,
        last_modified_shown: status.last_modified_shown,
        syncs_asked: status.syncs_asked,
        syncs_answered: status.syncs_answered,
        hash_size_differs: status.hash_size_candidates.is_some(),
        hash_size_candidates: status.hash_size_candidates.clone().unwrap_or_default(),
        unknown_tables: tables.collect(),
        comparisons: status.comparisons,
    }
}

/// Returns a duration as it travels; none that ever occurs is too long.
pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

pub(super) fn counters(counters: &dmq::Counters) -> BusCounters {
    BusCounters {
        malformed: counters.malformed,
        refused: counters.refused,
        nodes_refused: counters.nodes_refused,
        notification_not_allowed: counters.notification_not_allowed,
        lines_not_allowed: counters.lines_not_allowed,
        lines_skipped: counters.lines_skipped,
        lines_left_off: counters.lines_left_off,
        repeats_received: counters.repeats_received,
        replies_forgotten: counters.replies_forgotten,
        responses_unmatched: counters.responses_unmatched,
        window_full: counters.window_full,
        node_unavailable: counters.node_unavailable,
        unsendable: counters.unsendable,
    }
}
