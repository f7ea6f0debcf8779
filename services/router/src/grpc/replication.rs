//! `tandem.router.v1.ReplicationService`: how well the replica is.

use std::time::{Instant, SystemTime};

use control::router::v1::replication_service_server::ReplicationService;
use control::router::v1::{
    GetReplicationStatusRequest, RepairStockNodesRequest, RepairStockNodesResponse,
    ReplicationStatus, StockRepair, TableStatus, VerifyReplicaRequest, VerifyReplicaResponse,
};
use dmq::NodeState;
use htable::Table;
use replication::{Replication, Write};
use tonic::{Request, Response, Status};

use super::cell::Cell;
use super::nodes::duration;

pub(super) struct Health(pub(super) Cell);

#[tonic::async_trait]
impl ReplicationService for Health {
    async fn get_replication_status(
        &self,
        _: Request<GetReplicationStatusRequest>,
    ) -> Result<Response<ReplicationStatus>, Status> {
        let now = self.0.now();
        let status = self.0.look(|replication| status(replication, now));
        status.map(Response::new)
    }

    /// One partition for each time that the node is locked.
    async fn verify_replica(
        &self,
        _: Request<VerifyReplicaRequest>,
    ) -> Result<Response<VerifyReplicaResponse>, Status> {
        let mut answer = VerifyReplicaResponse::default();
        for partition in 0..=u8::MAX {
            let (records, is_right) = self.0.look(|cell| verify(cell, partition))?;
            answer.records += records;
            if !is_right {
                answer.wrong_partitions.push(partition.into());
            }
            tokio::task::yield_now().await;
        }
        Ok(Response::new(answer))
    }

    async fn repair_stock_nodes(
        &self,
        request: Request<RepairStockNodesRequest>,
    ) -> Result<Response<RepairStockNodesResponse>, Status> {
        let RepairStockNodesRequest { node } = request.into_inner();
        let only = match node.as_str() {
            "" => None,
            node => Some(node.parse().map_err(|_| {
                Status::invalid_argument(format!("node: {node:?} is not an IP address and a port"))
            })?),
        };
        let repair = |replication: &mut Replication, now| replication.repair_stock(now, only);
        let asked = self.0.change(repair)?;
        if only.is_some() && asked.is_empty() {
            return Err(Status::not_found(format!(
                "node: no active Kamailio is at {node}; ListNodes shows who is"
            )));
        }
        let repairs = asked.into_iter().map(|(address, comparisons)| StockRepair {
            address: address.to_string(),
            comparisons,
        });
        Ok(Response::new(RepairStockNodesResponse {
            repairs: repairs.collect(),
        }))
    }
}

fn status(replication: &Replication, now: Instant) -> ReplicationStatus {
    let replica = replication.replica();
    let tandem = replication.tandem_status(now);
    let stock = replication.stock_status();
    let differences = stock.nodes.iter();
    let (dialogs, entries) = (replica.dialogs(), replica.entries());
    let active = |node: &&dmq::NodeStatus| node.state == NodeState::Active;
    ReplicationStatus {
        own_address: replica.own().to_string(),
        nodes: replication.nodes().count() as u32,
        nodes_active: replication.nodes().filter(active).count() as u32,
        dialogs: dialogs.len() as u64,
        dialogs_ended: dialogs.ended() as u64,
        dialogs_refused: dialogs.refused(),
        tables: entries.tables().iter().map(table).collect(),
        entries_gone: entries.gone() as u64,
        entries_refused: entries.refused(),
        digest: replica.digests().root().to_be_bytes().to_vec(),
        flipped: replica.flipped(),
        forgotten_early: replica.forgotten_early(),
        read_time: Some(SystemTime::now().into()),
        ready: replication.is_ready(),
        degraded: tandem.degraded,
        divergence: tandem.divergence,
        verify_age: tandem.verify_age.and_then(duration),
        stock_differences: differences.filter_map(|node| node.stock_differences).sum(),
        lag_p50: tandem.lag.p50().and_then(duration),
        lag_p99: tandem.lag.p99().and_then(duration),
        hash_size_differs: tandem.hash_size_differs,
        stock_unheard: replication.stock_unheard() as u32,
        stock_lag_p50: stock.lag.p50().and_then(duration),
        stock_lag_p99: stock.lag.p99().and_then(duration),
    }
}

fn table(table: &Table<Write>) -> TableStatus {
    let definition = table.definition();
    TableStatus {
        table: String::from_utf8_lossy(&definition.name).into_owned(),
        entries: table.len() as u64,
        entries_max: definition.entries_max as u64,
        replicated: definition.replicate,
        full: table.refused().full,
    }
}

/// Tells how many records a partition has, and whether its digest is theirs.
fn verify(replication: &Replication, partition: u8) -> (u64, bool) {
    let replica = replication.replica();
    let cell_key = &replication.config().cell_key;
    let dialogs = replica.dialogs().partition_iter(partition);
    let dialogs = dialogs
        .filter(|(_, held)| !held.record.is_ended())
        .map(|(key, held)| held.record.hash(key, cell_key));
    let entries = replica.entries().partition_iter(partition);
    let entries = entries.map(|(_, hash)| hash);
    let (records, sum) = dialogs
        .chain(entries)
        .fold((0, 0u128), |(records, sum), hash| {
            (records + 1, sum.wrapping_add(hash))
        });
    let kept = replica.digests().partitions()[usize::from(partition)];
    (records, sum == kept)
}
