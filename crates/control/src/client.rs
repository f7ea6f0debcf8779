//! The node's side of the registry: makes the node a member, keeps it alive, and keeps its view of
//! the cluster current.
//!
//! A call never waits for any of this. The last good view is on disk; a node starts from it and goes
//! on with it for as long as no registry answers.

mod disk;
mod follower;
mod session;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::channel::{self, ChannelError, ClientTls};
use crate::node::v1::DrainSource;
use crate::registry::v1;
use crate::view::{MemberKind, Refusal, Side, SipEndpoint, View};
use disk::Disk;
use session::Session;

/// Longest wait between two attempts to reach a registry; each wait is a random part of it.
pub const RECONNECT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Mean time between two refreshes of the lease.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its id: 1 to 63 of `a-z`, `0-9` and, inside, `-`.
    pub id: String,
    /// What it does.
    pub kind: MemberKind,
    /// Its one address.
    pub address: IpAddr,
    /// Where it receives SIP.
    pub sip: Vec<SipEndpoint>,
    /// The port at `address` where it receives KDMQ.
    pub dmq_port: Option<u16>,
    /// The cell it replicates in, such as `default`.
    pub cell: String,
    /// Where it stands; may be empty.
    pub zone: String,
    /// Where registries listen, as `host:port`; tried in turn.
    pub registries: Vec<String>,
    /// TLS towards them; none for connections in the clear.
    pub tls: Option<ClientTls>,
    /// Directory for the last view and the incarnation; made if it is missing. The file names carry
    /// the id, so several nodes may share it.
    pub state_dir: PathBuf,
}

/// Why a node could not start its session.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("{path}: cannot be used; check state_dir and its permissions")]
    StateDir {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What the node says of itself is no good member.
    #[error("this node is no good member: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Member(Vec<Refusal>),
    /// A registry's address is no host and port, or a file for TLS towards it is no good.
    #[error("a registry cannot be reached")]
    Registry(#[from] ChannelError),
}

/// Decides whether a node can work with a view, and returns what in it counts only after a restart. What
/// it refuses never gets into force.
pub type Check = Box<dyn Fn(&View) -> Result<Vec<String>, Vec<Refusal>> + Send + Sync>;

/// A node's membership. Dropping it is like a crash: the lease runs out. See [`leave`](Self::leave).
#[derive(Debug)]
pub struct NodeSession {
    incarnation: u64,
    view: watch::Receiver<Arc<View>>,
    connected: watch::Receiver<bool>,
    drained_by: watch::Sender<Vec<DrainSource>>,
    leave: CancellationToken,
    task: JoinHandle<()>,
}

impl NodeSession {
    /// Starts the membership of a node, in the background and for good.
    ///
    /// The view is the last good one of this node, or the empty one of generation 0. `check` sees
    /// every new view before it gets into force.
    ///
    /// # Errors
    ///
    /// Only what waiting does not heal; a registry that does not answer is no error.
    pub async fn start(config: NodeConfig, check: Check) -> Result<Self, StartError> {
        let member = config.member();
        crate::view::Member::try_from(&member).map_err(StartError::Member)?;
        for registry in &config.registries {
            channel::endpoint(registry, config.tls.as_ref())?;
        }
        let disk = Disk::open(&config.state_dir, &config.id)?;
        let incarnation = disk.next_incarnation()?;

        let (connected_sender, connected) = watch::channel(false);
        let (drained_by, drained_by_receiver) = watch::channel(Vec::new());
        let leave = CancellationToken::new();
        let (session, view) = Session::new(
            member,
            incarnation,
            disk,
            check,
            drained_by_receiver,
            connected_sender,
            leave.clone(),
        );
        let task = tokio::spawn(session.run(config.registries, config.tls));
        Ok(Self {
            incarnation,
            view,
            connected,
            drained_by,
            leave,
            task,
        })
    }

    /// Returns the view in force, and every one that follows.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Returns whether the registry's changes reach this node now.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Returns which start of the node this is.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Has the registry's status say who wants this node to take no new calls.
    pub fn report_drain(&self, sources: Vec<DrainSource>) {
        self.drained_by.send_if_modified(|reported| {
            let changed = *reported != sources;
            *reported = sources;
            changed
        });
    }

    /// Gives the lease up, so that everybody knows at once; returns when that is done or hopeless.
    pub async fn leave(mut self) {
        self.leave.cancel();
        // A task that panicked has left, too.
        let _ended = (&mut self.task).await;
    }
}

impl Drop for NodeSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NodeConfig {
    fn member(&self) -> v1::Member {
        let sip = self.sip.iter().map(|endpoint| v1::SipEndpoint {
            side: match endpoint.side {
                Side::Both => v1::SipSide::Unspecified,
                Side::Inside => v1::SipSide::Inside,
                Side::Outside => v1::SipSide::Outside,
            }
            .into(),
            address: endpoint.address.to_string(),
        });
        v1::Member {
            name: format!("members/{}", self.id),
            kind: v1::MemberKind::from(self.kind).into(),
            address: self.address.to_string(),
            sip: sip.collect(),
            dmq_port: self.dmq_port.unwrap_or_default().into(),
            cell: self.cell.clone(),
            zone: self.zone.clone(),
            ..v1::Member::default()
        }
    }
}
