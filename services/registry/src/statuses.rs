//! What each node said last about the configuration. Bounded by the number of members: only a member
//! may say anything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use control::registry::v1::{Ack, ConfigStatus, Hello, Nack, NodeStatus, Position};

#[derive(Debug, Default)]
pub(crate) struct Statuses(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    streams: u64,
    /// By member name: the stream that speaks for it, and what it said.
    nodes: BTreeMap<String, (u64, NodeStatus)>,
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
        Connected {
            statuses: self,
            node: hello.node.clone(),
            stream,
        }
    }

    pub(crate) fn list(&self) -> Vec<NodeStatus> {
        self.lock()
            .nodes
            .values()
            .map(|(_, status)| status.clone())
            .collect()
    }

    pub(crate) fn summary(&self, cluster: &str, position: Position) -> ConfigStatus {
        let table = self.lock();
        let connected = || {
            table
                .nodes
                .values()
                .map(|(_, status)| status)
                .filter(|status| status.connected)
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ConfigStatus {
            position: Some(position),
            nodes_connected: count(connected().count()),
            nodes_in_force: count(
                connected()
                    .filter(|status| status.in_force == Some(position))
                    .count(),
            ),
            nodes_refusing: count(
                connected()
                    .filter(|status| status.refused.is_some())
                    .count(),
            ),
            cluster: cluster.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            status.refusals = nack.refusals;
        });
    }

    fn update(&self, change: impl FnOnce(&mut NodeStatus)) {
        if let Some((stream, status)) = self.statuses.lock().nodes.get_mut(&self.node)
            && *stream == self.stream
        {
            status.heard_time = Some(SystemTime::now().into());
            change(status);
        }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.update(|status| status.connected = false);
    }
}
