//! What metrics say of a router's replica and its bus.

use std::time::Instant;

use dmq::NodeState;
use host::Figures;
use replication::Replication;

/// Reads how well the replica is; the same as `GetReplicationStatus` says.
pub(crate) fn measure(replication: &Replication, now: Instant, figures: &mut Figures) {
    let replica = replication.replica();
    let (dialogs, entries) = (replica.dialogs(), replica.entries());
    let tandem = replication.tandem_status(now);
    let stock = replication.stock_status();
    let differences = stock.nodes.iter();
    for (state, word) in [
        (NodeState::Active, "active"),
        (NodeState::Pending, "pending"),
        (NodeState::NotActive, "not_active"),
        (NodeState::Disabled, "disabled"),
    ] {
        let nodes = replication.nodes().filter(|node| node.state == state);
        figures.gauge_of(
            "bus_nodes",
            "Other nodes of the bus",
            ("state", word.to_owned()),
            nodes.count() as u64,
        );
    }
    measure_events(replication, figures);
    figures.gauge(
        "replica_ready",
        "1 once it has what the others had when it came",
        u64::from(replication.is_ready()),
    );
    figures.gauge(
        "replica_degraded",
        "1 when it became ready for want of time",
        u64::from(tandem.degraded),
    );
    figures.gauge(
        "replica_divergence",
        "Keys that differed from Tandem nodes when they were compared last",
        tandem.divergence,
    );
    figures.gauge(
        "replica_stock_differences",
        "Keys of tables that differed from Kamailio nodes when they were compared last",
        differences.filter_map(|node| node.stock_differences).sum(),
    );
    figures.gauge(
        "replica_stock_unheard",
        "Active Kamailio nodes that have not told yet what they have",
        replication.stock_unheard() as u64,
    );
    figures.seconds(
        "replica_verify_age_seconds",
        "Since the oldest of the last comparisons with each node",
        tandem.verify_age,
    );
    figures.seconds(
        "replica_lag_p50_seconds",
        "From a change to its acknowledgement by a Tandem node, the median",
        tandem.lag.p50(),
    );
    figures.seconds(
        "replica_lag_p99_seconds",
        "The same of 99 in a hundred",
        tandem.lag.p99(),
    );
    figures.seconds(
        "replica_stock_lag_p50_seconds",
        "From a change to the answer of a Kamailio node that was told it, the median",
        stock.lag.p50(),
    );
    figures.seconds(
        "replica_stock_lag_p99_seconds",
        "The same of 99 in a hundred",
        stock.lag.p99(),
    );
    figures.gauge(
        "replica_hash_size_differs",
        "1 when some node's dialog hash has another size",
        u64::from(tandem.hash_size_differs),
    );
    figures.gauge(
        "replica_dialogs_ended",
        "Dialogs that are over and remembered",
        dialogs.ended() as u64,
    );
    figures.counter(
        "replica_dialogs_refused",
        "Dialogs not taken because there were too many",
        dialogs.refused(),
    );
    figures.counter(
        "replica_entries_refused",
        "Entries of other nodes refused for want of room or for their size",
        entries.refused(),
    );
    figures.counter(
        "replica_flipped",
        "Digests that were found wrong and were righted",
        replica.flipped(),
    );
    figures.counter(
        "replica_forgotten_early",
        "What is over, forgotten before every member was known to know",
        replica.forgotten_early(),
    );
    for table in entries.tables().iter() {
        let name = String::from_utf8_lossy(&table.definition().name).into_owned();
        figures.gauge_of(
            "table_entries",
            "Entries of a table",
            ("table", name),
            table.len() as u64,
        );
    }
    for table in entries.tables().iter() {
        let name = String::from_utf8_lossy(&table.definition().name).into_owned();
        figures.counter_of(
            "table_refused",
            "New keys refused because the table was full",
            ("table", name),
            table.refused().full,
        );
    }
}

/// Reads what was counted; docs of [`dmq::Counters`], [`replication::tandem::Counters`] and
/// [`replication::stock::Counters`] say what each event is.
fn measure_events(replication: &Replication, figures: &mut Figures) {
    let bus = replication.bus_counters();
    for (event, count) in [
        ("malformed", bus.malformed),
        ("refused", bus.refused),
        ("nodes_refused", bus.nodes_refused),
        ("notification_not_allowed", bus.notification_not_allowed),
        ("lines_not_allowed", bus.lines_not_allowed),
        ("lines_skipped", bus.lines_skipped),
        ("lines_left_off", bus.lines_left_off),
        ("repeats_received", bus.repeats_received),
        ("replies_forgotten", bus.replies_forgotten),
        ("responses_unmatched", bus.responses_unmatched),
        ("window_full", bus.window_full),
        ("node_unavailable", bus.node_unavailable),
        ("unsendable", bus.unsendable),
    ] {
        figures.counter_of(
            "bus_events",
            "What happened on the bus",
            ("event", event.to_owned()),
            count,
        );
    }
    let tandem = replication.tandem_counters();
    for (event, count) in [
        ("malformed", tandem.malformed),
        ("schema_refused", tandem.schema_refused),
        ("refused", tandem.refused),
        ("hash_size_differs", tandem.hash_size_differs),
        ("nodes_refused", tandem.nodes_refused),
        ("pending_dropped", tandem.pending_dropped),
        ("queue_dropped", tandem.queue_dropped),
        ("oversized", tandem.oversized),
        ("candidates_dropped", tandem.candidates_dropped),
        ("pulls_dropped", tandem.pulls_dropped),
        ("records_received", tandem.records_received),
        ("records_taken", tandem.records_taken),
        ("records_refused", tandem.records_refused),
        ("disowned", tandem.disowned),
        ("taken_back", tandem.taken_back),
        ("united", tandem.united),
        ("rounds", tandem.rounds),
        ("rounds_abandoned", tandem.rounds_abandoned),
        ("divergent", tandem.divergent),
    ] {
        figures.counter_of(
            "replica_tandem_events",
            "What happened between Tandem nodes",
            ("event", event.to_owned()),
            count,
        );
    }
    let stock = replication.stock_counters();
    for (event, count) in [
        ("malformed", stock.malformed),
        ("not_executed", stock.not_executed),
        ("hash_mismatch", stock.hash_mismatch),
        ("collisions", stock.collisions),
        ("held_back", stock.held_back),
        ("held_back_dropped", stock.held_back_dropped),
        ("early_dropped", stock.early_dropped),
        ("late_ignored", stock.late_ignored),
        ("overtaken", stock.overtaken),
        ("adopted", stock.adopted),
        ("removals_not_obeyed", stock.removals_not_obeyed),
        ("cells_skipped", stock.cells_skipped),
        ("unanswered_syncs", stock.unanswered_syncs),
        ("syncs_deferred", stock.syncs_deferred),
        ("not_told", stock.not_told),
        ("too_long", stock.too_long),
        ("refused", stock.refused),
        ("unanswered", stock.unanswered),
        ("withdrawn", stock.withdrawn),
        ("left_unanswered", stock.left_unanswered),
    ] {
        figures.counter_of(
            "replica_stock_events",
            "What happened with Kamailio nodes",
            ("event", event.to_owned()),
            count,
        );
    }
}
