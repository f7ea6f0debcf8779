//! One connection after the other: register, then keep alive and follow the configuration, until
//! either ends.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::disk::Disk;
use super::{Check, KEEP_ALIVE_INTERVAL, RECONNECT_WAIT_MAX};
use crate::registry::v1::config_service_client::ConfigServiceClient;
use crate::registry::v1::member_service_client::MemberServiceClient;
use crate::registry::v1::{self, SnapshotReason, sync_config_request, sync_config_response};
use crate::view::{Refusal, Resources, View};

/// Longest wait for a connection, an answer, or a sign of life of a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// Largest message: a snapshot part of 1 MiB and one resource more.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("not connected")]
    Connect(#[from] tonic::transport::Error),
    #[error("refused by the registry: {}", .0.message())]
    Status(Box<tonic::Status>),
    #[error("the registry did not answer in time")]
    Silence,
    #[error("the registry closed the stream")]
    Closed,
    #[error("the registry broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("this view is not the registry's")]
    Diverged,
    #[error("an operator removed this member")]
    Removed,
    #[error("this node left")]
    Left,
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

pub(super) struct Session {
    member: v1::Member,
    incarnation: u64,
    token: Option<String>,
    follower: Follower,
    connected: watch::Sender<bool>,
    leave: CancellationToken,
    rng: SmallRng,
}

impl Session {
    pub(super) fn new(
        member: v1::Member,
        incarnation: u64,
        disk: Disk,
        last: Option<Resources>,
        check: Check,
        connected: watch::Sender<bool>,
        leave: CancellationToken,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let mut follower = Follower {
            name: member.name.clone(),
            staged: last.unwrap_or_default(),
            parts: None,
            ask_again: SnapshotReason::Unspecified,
            view: watch::Sender::new(Arc::default()),
            check,
            disk,
        };
        follower.start_from_disk();
        let view = follower.view.subscribe();
        let rng = SmallRng::from_os_rng();
        (
            Self {
                member,
                incarnation,
                token: None,
                follower,
                connected,
                leave,
                rng,
            },
            view,
        )
    }

    pub(super) async fn run(mut self, registries: Vec<Endpoint>) {
        for registry in registries.iter().cycle() {
            let end = self.connect_and_follow(registry).await;
            self.connected.send_replace(false);
            match &end {
                Err(End::Left) => return,
                Err(End::Removed) => {
                    tracing::warn!(node = %self.member.name, "removed by an operator; start again to come back");
                    return self.leave.cancelled().await;
                }
                Err(error) => {
                    tracing::info!(registry = %registry.uri(), %error, "registry lost; carrying on")
                }
                Ok(()) => {}
            }
            let wait = RECONNECT_WAIT_MAX.mul_f64(self.rng.random());
            if timeout(wait, self.leave.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn connect_and_follow(&mut self, registry: &Endpoint) -> Result<(), End> {
        let endpoint = registry
            .clone()
            .connect_timeout(PATIENCE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PATIENCE)
            .keep_alive_timeout(PATIENCE)
            .keep_alive_while_idle(true);
        let leave = self.leave.clone();
        let prepare = async {
            let channel = endpoint.connect().await?;
            if self.token.is_none() {
                self.token = Some(self.register(channel.clone()).await?);
            }
            Ok::<_, End>(channel)
        };
        let channel = tokio::select! {
            () = leave.cancelled() => return Err(End::Left),
            channel = prepare => channel?,
        };
        let token = self.token.clone().unwrap_or_default();
        let keep_alive = keep_alive(
            channel.clone(),
            &self.member.name,
            &token,
            &leave,
            &mut self.rng,
        );
        let follow = self
            .follower
            .follow(channel, self.member.kind, &self.connected);
        let end = tokio::select! {
            end = keep_alive => end,
            end = follow => end,
        };
        if let Err(End::Status(status)) = &end
            && status.code() == Code::NotFound
        {
            self.token = None;
        }
        end
    }

    async fn register(&self, channel: Channel) -> Result<String, End> {
        let request = v1::RegisterRequest {
            member: Some(self.member.clone()),
            incarnation: self.incarnation,
        };
        let mut client = MemberServiceClient::new(channel);
        let answer = timeout(PATIENCE * 2, client.register(request))
            .await
            .map_err(|_| End::Silence)??;
        tracing::info!(node = %self.member.name, incarnation = self.incarnation, "registered");
        Ok(answer.into_inner().session)
    }
}

async fn keep_alive(
    channel: Channel,
    name: &str,
    token: &str,
    leave: &CancellationToken,
    rng: &mut SmallRng,
) -> Result<(), End> {
    let (requests, outgoing) = mpsc::channel(1);
    let mut client = MemberServiceClient::new(channel);
    let answers = client.keep_alive(ReceiverStream::new(outgoing));
    let request = |leaving| v1::KeepAliveRequest {
        name: name.to_owned(),
        session: token.to_owned(),
        leaving,
    };
    requests
        .send(request(false))
        .await
        .map_err(|_| End::Closed)?;
    let mut answers = timeout(PATIENCE * 2, answers)
        .await
        .map_err(|_| End::Silence)??
        .into_inner();
    loop {
        let answer = timeout(PATIENCE * 2, answers.message())
            .await
            .map_err(|_| End::Silence)??;
        if answer.is_none() {
            return Err(End::Closed);
        }
        let wait = KEEP_ALIVE_INTERVAL.mul_f64(rng.random_range(0.8..1.2));
        let leaving = timeout(wait, leave.cancelled()).await.is_ok();
        requests
            .send(request(leaving))
            .await
            .map_err(|_| End::Closed)?;
        if leaving {
            // Without an answer the lease just runs out.
            let _answer = timeout(PATIENCE, answers.message()).await;
            return Err(End::Left);
        }
    }
}

/// Keeps the staged view, and the one in force.
struct Follower {
    name: String,
    /// What the registry has, good or not.
    staged: Resources,
    /// The parts of a snapshot that have come so far.
    parts: Option<Resources>,
    ask_again: SnapshotReason,
    view: watch::Sender<Arc<View>>,
    check: Check,
    disk: Disk,
}

impl Follower {
    fn start_from_disk(&mut self) {
        if self.staged.generation == 0 {
            return;
        }
        match self.accept() {
            Ok(()) => tracing::info!(
                generation = self.staged.generation,
                "starting from the stored view"
            ),
            Err(refusals) => {
                tracing::warn!(?refusals, "the stored view is refused");
                self.staged = Resources::default();
            }
        }
    }

    async fn follow(
        &mut self,
        channel: Channel,
        kind: i32,
        connected: &watch::Sender<bool>,
    ) -> Result<(), End> {
        let (requests, outgoing) = mpsc::channel(2);
        let position = (self.staged.generation > 0
            && self.ask_again == SnapshotReason::Unspecified)
            .then(|| self.staged.position());
        let hello = v1::Hello {
            node: self.name.clone(),
            kind,
            position,
            reason: self.ask_again.into(),
        };
        self.parts = None;
        send(&requests, sync_config_request::Message::Hello(hello)).await?;
        let mut client =
            ConfigServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answers = client.sync_config(ReceiverStream::new(outgoing));
        let mut answers = timeout(PATIENCE * 2, answers)
            .await
            .map_err(|_| End::Silence)??
            .into_inner();
        connected.send_replace(true);
        while let Some(answer) = answers.message().await? {
            match answer.message.ok_or(End::Protocol("an empty message"))? {
                sync_config_response::Message::Snapshot(part) => {
                    if self.take_part(part)? {
                        self.answer(&requests).await?;
                    }
                }
                sync_config_response::Message::Change(change) => {
                    self.apply(change)?;
                    self.answer(&requests).await?;
                }
                sync_config_response::Message::Bookmark(bookmark) => {
                    self.compare(bookmark.position)?
                }
            }
        }
        Err(End::Closed)
    }

    /// Takes one part of a snapshot; tells whether it was the last.
    fn take_part(&mut self, part: v1::Snapshot) -> Result<bool, End> {
        let position = part
            .position
            .ok_or(End::Protocol("a snapshot without a position"))?;
        let cluster_key = part
            .cluster_key
            .try_into()
            .map_err(|_| End::Protocol("a cluster key of another length"))?;
        let parts = self.parts.get_or_insert_default();
        parts.generation = position.generation;
        parts.cluster_key = cluster_key;
        insert_all(parts, part.resources)?;
        if !part.complete {
            return Ok(false);
        }
        tracing::info!(
            generation = position.generation,
            reason = part.reason,
            "snapshot received"
        );
        self.staged = self.parts.take().unwrap_or_default();
        self.ask_again = SnapshotReason::Unspecified;
        self.compare(Some(position))?;
        Ok(true)
    }

    fn apply(&mut self, change: v1::Change) -> Result<(), End> {
        let position = change
            .position
            .ok_or(End::Protocol("a change without a position"))?;
        if change.deleted.contains(&self.name) {
            return Err(End::Removed);
        }
        insert_all(&mut self.staged, change.changed)?;
        for name in change.deleted {
            let name = name
                .parse()
                .map_err(|_| End::Protocol("a deletion of no resource"))?;
            self.staged.by_name.remove(&name);
        }
        self.staged.generation = position.generation;
        self.compare(Some(position))
    }

    fn compare(&mut self, registry: Option<v1::Position>) -> Result<(), End> {
        if registry == Some(self.staged.position()) {
            return Ok(());
        }
        tracing::warn!(node = %self.name, generation = self.staged.generation, "view diverged; asking for all of it");
        self.ask_again = SnapshotReason::Diverged;
        Err(End::Diverged)
    }

    /// Puts the staged view in force and acknowledges it, or says why not.
    async fn answer(&mut self, requests: &mpsc::Sender<v1::SyncConfigRequest>) -> Result<(), End> {
        let position = Some(self.staged.position());
        match self.accept() {
            Ok(()) => {
                let ack = v1::Ack {
                    position,
                    restart_needed: Vec::new(),
                };
                send(requests, sync_config_request::Message::Ack(ack)).await?;
                self.save().await;
                Ok(())
            }
            Err(refusals) => {
                tracing::warn!(
                    generation = self.staged.generation,
                    ?refusals,
                    "view refused; the one before stays"
                );
                let refusals = refusals.into_iter().map(v1::Refusal::from).collect();
                send(
                    requests,
                    sync_config_request::Message::Nack(v1::Nack { position, refusals }),
                )
                .await
            }
        }
    }

    fn accept(&self) -> Result<(), Vec<Refusal>> {
        let view = self.staged.to_view()?;
        (self.check)(&view)?;
        self.view.send_replace(Arc::new(view));
        Ok(())
    }

    async fn save(&self) {
        let (disk, resources) = (self.disk.clone(), self.staged.clone());
        let saved = tokio::task::spawn_blocking(move || disk.save(&resources)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "the view cannot be stored; a restart will go back to an older one");
        }
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(
        Refusal {
            resource,
            field,
            reason,
        }: Refusal,
    ) -> Self {
        Self {
            resource,
            field,
            reason,
        }
    }
}

fn insert_all(resources: &mut Resources, new: Vec<v1::Resource>) -> Result<(), End> {
    let inserted: Result<(), Refusal> = new
        .into_iter()
        .try_for_each(|resource| resources.insert(resource));
    inserted.map_err(|_| End::Protocol("a resource of no known kind or name"))
}

async fn send(
    requests: &mpsc::Sender<v1::SyncConfigRequest>,
    message: sync_config_request::Message,
) -> Result<(), End> {
    let request = v1::SyncConfigRequest {
        message: Some(message),
    };
    requests.send(request).await.map_err(|_| End::Closed)
}
