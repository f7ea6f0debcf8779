//! `tandem bus repair`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::node::About;
use control::mirror::v1::{ListNodesRequest, Node, StockNode};
use control::router::v1::replication_service_client::ReplicationServiceClient;
use control::router::v1::{RepairStockNodesRequest, StockRepair};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::{Output, print_json, refusal};
use crate::lines;

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The only Kamailio to be asked, by its address on the bus [default: all of them]
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// Longest wait: a Kamailio is asked at most once a minute, one after the other
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Has the tables of every Kamailio compared and put right, and says of each how many keys differed; an
/// error when one of them has not told its tables in time.
pub(super) async fn run(router: Channel, options: &Options, output: Output) -> anyhow::Result<()> {
    let answer = ReplicationServiceClient::new(router.clone())
        .repair_stock_nodes(RepairStockNodesRequest {
            node: options.node.clone().unwrap_or_default(),
        })
        .await
        .map_err(refusal)?
        .into_inner();
    let mut waiting: BTreeMap<_, _> = answer.repairs.into_iter().map(goal).collect();
    if waiting.is_empty() {
        eprintln!("no Kamailio is active on the bus of this router: nothing to repair");
        return Ok(());
    }
    eprintln!(
        "compares with {} Kamailio nodes, each at most once a minute",
        waiting.len()
    );
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let mut mirror = MirrorServiceClient::new(router);
    loop {
        let listed = mirror.list_nodes(ListNodesRequest {}).await;
        for node in listed.map_err(refusal)?.into_inner().nodes {
            let goal = waiting.get(&node.address).copied();
            if let Some(stock) = about(&node)
                && goal.is_some_and(|goal| stock.comparisons >= goal)
            {
                waiting.remove(&node.address);
                tell(&node, stock, output)?;
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let left: Vec<_> = waiting.into_keys().collect();
            return Err(anyhow!(
                "not told within {} s what is in the tables of {}: see STATE in tandem bus nodes, and \
                 whether its htable has enable_dmq",
                options.timeout,
                left.join(", ")
            ));
        }
        sleep(ASK_EVERY).await;
    }
}

fn goal(repair: StockRepair) -> (String, u64) {
    (repair.address, repair.comparisons)
}

fn about(node: &Node) -> Option<&StockNode> {
    match &node.about {
        Some(About::Stock(stock)) => Some(stock),
        Some(About::Tandem(_)) | None => None,
    }
}

fn tell(node: &Node, stock: &StockNode, output: Output) -> anyhow::Result<()> {
    match (output, stock.differences()) {
        (Output::Json, _) => print_json(node)?,
        (Output::Table, 0) => lines::say(format_args!("{}: no key differs", node.address))?,
        (Output::Table, count) => lines::say(format_args!(
            "{}: {count} keys differed and were told again; run it once more to see that they were taken",
            node.address
        ))?,
    }
    Ok(())
}
