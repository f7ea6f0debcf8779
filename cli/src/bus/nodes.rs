//! `tandem bus nodes`.

use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::node::About;
use control::mirror::v1::{ListNodesRequest, Node, NodeKind, NodeState};
use control::router::v1::GetReplicationStatusRequest;
use control::router::v1::replication_service_client::ReplicationServiceClient;
use tonic::transport::Channel;

use super::{Output, print_json, refusal};
use crate::lines;

const HEADS: [&str; 9] = [
    "NODE", "KIND", "STATE", "SINCE", "HEARD", "RTT", "WAITING", "DIFFERS", "ABOUT",
];

pub(super) async fn show(router: Channel, output: Output) -> anyhow::Result<()> {
    let answer = MirrorServiceClient::new(router.clone())
        .list_nodes(ListNodesRequest {})
        .await
        .map_err(refusal)?
        .into_inner();
    if output == Output::Json {
        print_json(&answer)?;
        return Ok(());
    }
    let status = ReplicationServiceClient::new(router)
        .get_replication_status(GetReplicationStatusRequest {})
        .await
        .map_err(refusal)?
        .into_inner();
    let rows: Vec<_> = answer.nodes.iter().map(row).collect();
    lines::print(HEADS, &rows)?;
    let readiness = match (status.ready, status.degraded) {
        (true, false) => "ready",
        (true, true) => "ready, degraded: it could not ask everybody",
        (false, _) => "not ready: it takes no new calls yet",
    };
    lines::say(format_args!(
        "\nthis is {}, {readiness}; {} dialogs, {} ended and remembered",
        answer.own_address, status.dialogs, status.dialogs_ended
    ))?;
    lines::say(format_args!(
        "differs from Tandem nodes in {} keys (compared {} ago), from Kamailio nodes in {}",
        status.divergence,
        lines::took(status.verify_age),
        status.stock_differences
    ))?;
    if status.stock_unheard > 0 {
        lines::say(format_args!(
            "{} Kamailio nodes have not told yet what they have: stop none of them before they did",
            status.stock_unheard
        ))?;
    }
    for (nodes, p50, p99) in [
        ("Tandem", status.lag_p50, status.lag_p99),
        ("Kamailio", status.stock_lag_p50, status.stock_lag_p99),
    ] {
        if p50.is_some() {
            lines::say(format_args!(
                "{nodes} nodes acknowledge half of all changes within {}, 99 in a hundred within {}",
                lines::took(p50),
                lines::took(p99)
            ))?;
        }
    }
    Ok(())
}

fn row(node: &Node) -> [String; 9] {
    let kind = match node.kind() {
        NodeKind::Unspecified => "unknown",
        NodeKind::Stock => "stock",
        NodeKind::Tandem => "tandem",
    };
    let state = match node.state() {
        NodeState::Unspecified => "-",
        NodeState::Active => "active",
        NodeState::NotActive => "not_active",
        NodeState::Pending => "pending",
        NodeState::Disabled => "disabled",
    };
    let (differs, about) = match &node.about {
        Some(About::Tandem(tandem)) => (
            tandem.divergence.to_string(),
            format!("{}, start {}", tandem.node, tandem.incarnation),
        ),
        Some(About::Stock(stock)) => (
            stock
                .differences
                .map_or_else(|| "-".to_owned(), |differences| differences.to_string()),
            match stock.hash_size_differs {
                true => format!(
                    "its hash_size is {:?}, not this cell's",
                    stock.hash_size_candidates
                ),
                false => String::new(),
            },
        ),
        None => ("-".to_owned(), String::new()),
    };
    [
        node.address.clone(),
        kind.to_owned(),
        state.to_owned(),
        lines::ago(node.since),
        lines::ago(node.last_heard),
        lines::took(node.smoothed_rtt),
        (u64::from(node.in_flight) + node.dirty).to_string(),
        differs,
        about,
    ]
}
