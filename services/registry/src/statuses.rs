//! What each node said last about the configuration: at once in memory, for the nodes that follow this
//! registry, and within a second in the store, as `status/<id>`, for the other registries. Bounded by
//! the number of members: only a member may say anything.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use control::node::v1::DrainSource;
use control::registry::v1::{Ack, ConfigStatus, Hello, Nack, NodeStatus, Position, Report};
use control::view::Refusal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use store::{CommitError, Health, Store, Write};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::batch::batches;
use crate::bounded::{TEXT_BYTES_MAX, bounded, clip};

/// Most names that a node may say it stored for its next start, keeps, or does not know; the rest is not
/// kept.
const NAMES_MAX: usize = 20;
/// How often what changed is written.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How many intervals later it is written again although nothing changed.
const REPORTS_AGAIN: u32 = 20;
/// How long it lasts in the store when its registry is gone.
const LASTS: Duration = Duration::from_secs(60);
/// How long the store may take to tell what others wrote.
const READ_MAX: Duration = Duration::from_millis(500);
const PREFIX: &str = "status/";

#[derive(Debug)]
pub(crate) struct Statuses {
    /// Tells this process from other registries.
    me: String,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    streams: u64,
    /// By member name: the stream that speaks for it, and what it said.
    nodes: BTreeMap<String, (u64, NodeStatus)>,
    /// The members of which the store does not say the latest.
    dirty: BTreeSet<String>,
}

/// What stands in the store.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The registry that wrote it.
    by: String,
    status: serde_json::Value,
}

impl Default for Statuses {
    fn default() -> Self {
        Self {
            me: format!("{:016x}", StdRng::from_os_rng().random::<u64>()),
            table: Mutex::default(),
        }
    }
}

impl Statuses {
    /// Notes a new stream of a node; ends being connected when the guard is dropped.
    pub(crate) fn connect(&self, hello: &Hello, is_member: impl Fn(&str) -> bool) -> Connected<'_> {
        let mut table = self.lock();
        table.nodes.retain(|name, _| is_member(name));
        table.streams += 1;
        let stream = table.streams;
        let (_, mut status) = table.nodes.remove(&hello.node).unwrap_or_default();
        status.node.clone_from(&hello.node);
        status.kind = hello.kind;
        status.connected = true;
        status.in_force = hello.position;
        status.heard_time = Some(SystemTime::now().into());
        table.nodes.insert(hello.node.clone(), (stream, status));
        table.dirty.insert(hello.node.clone());
        Connected {
            statuses: self,
            node: hello.node.clone(),
            stream,
        }
    }

    /// Returns what the nodes of this registry said, and the others as far as the store tells.
    pub(crate) async fn list(
        &self,
        store: &dyn Store,
        is_member: impl Fn(&str) -> bool,
    ) -> Vec<NodeStatus> {
        let mut all: BTreeMap<String, NodeStatus> = BTreeMap::new();
        for (_, status) in self.read(store).await {
            all.insert(status.node.clone(), status);
        }
        for (name, (_, status)) in &self.lock().nodes {
            let elsewhere = all.get(name).is_some_and(|other| other.connected);
            if status.connected || !elsewhere {
                all.insert(name.clone(), status.clone());
            }
        }
        all.retain(|name, _| is_member(name));
        all.into_values().collect()
    }

    /// Returns what the nodes that follow this registry said.
    pub(crate) fn own(&self) -> Vec<NodeStatus> {
        let table = self.lock();
        table
            .nodes
            .values()
            .map(|(_, status)| status.clone())
            .collect()
    }

    /// Writes what nodes say into the store, for as long as it is polled.
    pub(crate) async fn report(&self, store: &dyn Store) -> Infallible {
        let mut ticks = interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0;
        loop {
            ticks.tick().await;
            round = (round + 1) % REPORTS_AGAIN;
            if round == 0 {
                let mut table = self.lock();
                let nodes = table.nodes.iter();
                let connected = nodes.filter(|(_, (_, status))| status.connected);
                let again: Vec<_> = connected.map(|(name, _)| name.clone()).collect();
                table.dirty.extend(again);
            }
            let dirty = std::mem::take(&mut self.lock().dirty);
            if let Err(error) = self.write(store, &dirty).await {
                tracing::debug!(%error, "what nodes said is not in the store yet");
                self.lock().dirty.extend(dirty);
            }
        }
    }

    async fn write(&self, store: &dyn Store, dirty: &BTreeSet<String>) -> Result<(), CommitError> {
        let mut statuses: Vec<NodeStatus> = {
            let table = self.lock();
            let found = dirty.iter().filter_map(|name| table.nodes.get(name));
            found.map(|(_, status)| status.clone()).collect()
        };
        if statuses.iter().any(|status| !status.connected) {
            // Where a node went elsewhere, the other registry speaks for it.
            let others = store.notes(PREFIX).await?;
            let others: BTreeMap<_, _> = others
                .iter()
                .filter_map(|note| read(&note.value))
                .map(|(by, status)| (status.node, by))
                .collect();
            statuses.retain(|status| {
                status.connected || others.get(&status.node).is_none_or(|by| *by == self.me)
            });
        }
        for some in batches(statuses.iter().map(|status| self.as_write(status))) {
            store.note(some).await?;
        }
        Ok(())
    }

    fn as_write(&self, status: &NodeStatus) -> Write {
        let text = control::json::encode(status);
        let note = Note {
            by: self.me.clone(),
            status: serde_json::from_str(&text).expect("it is JSON"),
        };
        let id = status.node.rsplit('/').next().unwrap_or_default();
        Write::PutLeased {
            key: format!("{PREFIX}{id}"),
            value: serde_json::to_vec(&note).expect("a struct of text is always JSON"),
            lease: LASTS,
        }
    }

    /// Reads what stands in the store; nothing while it does not answer.
    async fn read(&self, store: &dyn Store) -> Vec<(String, NodeStatus)> {
        if *store.health().borrow() != Health::Up {
            return Vec::new();
        }
        let notes = match timeout(READ_MAX, store.notes(PREFIX)).await {
            Ok(Ok(notes)) => notes,
            Ok(Err(_)) | Err(_) => return Vec::new(),
        };
        notes.iter().filter_map(|note| read(&note.value)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what [`Statuses::as_write`] writes: the registry, and the status.
fn read(value: &[u8]) -> Option<(String, NodeStatus)> {
    let note: Note = serde_json::from_slice(value).ok()?;
    let status = control::json::decode(note.status.to_string().as_bytes()).ok()?;
    Some((note.by, status))
}

/// Says where the cluster stands.
pub(crate) fn summary(
    cluster: &str,
    position: Position,
    statuses: &[NodeStatus],
    faults: usize,
) -> ConfigStatus {
    let count = |wanted: &dyn Fn(&NodeStatus) -> bool| {
        let found = statuses
            .iter()
            .filter(|status| status.connected && wanted(status));
        u32::try_from(found.count()).unwrap_or(u32::MAX)
    };
    ConfigStatus {
        position: Some(position),
        nodes_connected: count(&|_| true),
        nodes_in_force: count(&|status| status.in_force == Some(position)),
        nodes_refusing: count(&|status| status.refused.is_some()),
        cluster: cluster.to_owned(),
        faults: u32::try_from(faults).unwrap_or(u32::MAX),
    }
}

/// One stream that speaks for a node.
#[derive(Debug)]
pub(crate) struct Connected<'a> {
    statuses: &'a Statuses,
    node: String,
    stream: u64,
}

impl Connected<'_> {
    pub(crate) fn acknowledged(&self, ack: Ack) {
        self.update(|status| {
            status.in_force = ack.position;
            status.restart_needed = ack.restart_needed;
            status.kept = ack.kept;
            status.not_known = ack.not_known;
            for names in [
                &mut status.restart_needed,
                &mut status.kept,
                &mut status.not_known,
            ] {
                names.truncate(NAMES_MAX);
                for name in names {
                    clip(name, TEXT_BYTES_MAX);
                }
            }
            status.refused = None;
            status.refusals.clear();
        });
    }

    pub(crate) fn refused(&self, nack: Nack) {
        self.update(|status| {
            // A Hello says what the node has, good or not; now it is known which.
            status.in_force = status
                .in_force
                .filter(|in_force| Some(*in_force) != nack.position);
            status.refused = nack.position;
            let refusals = nack.refusals.into_iter().map(|refusal| Refusal {
                resource: refusal.resource,
                field: refusal.field,
                reason: refusal.reason,
            });
            status.refusals = bounded(refusals.collect())
                .into_iter()
                .map(Into::into)
                .collect();
        });
    }

    pub(crate) fn reported(&self, report: Report) {
        let mut drained_by = report.drained_by;
        drained_by.retain(|source| DrainSource::try_from(*source).is_ok());
        drained_by.sort_unstable();
        drained_by.dedup();
        self.update(|status| status.drained_by = drained_by);
    }

    fn update(&self, change: impl FnOnce(&mut NodeStatus)) {
        let mut table = self.statuses.lock();
        if let Some((stream, status)) = table.nodes.get_mut(&self.node)
            && *stream == self.stream
        {
            status.heard_time = Some(SystemTime::now().into());
            change(status);
            table.dirty.insert(self.node.clone());
        }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.update(|status| status.connected = false);
    }
}
