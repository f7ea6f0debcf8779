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
    let stock = replication.stock_status().nodes.into_iter();
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
        stock.filter_map(|node| node.stock_differences).sum(),
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
