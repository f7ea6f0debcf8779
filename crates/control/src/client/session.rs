//! One connection after the other: register, then keep alive and follow the configuration, until
//! either ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;
use tracing::Instrument;

use super::disk::Disk;
use super::follower::Follower;
use super::{Check, KEEP_ALIVE_INTERVAL, RECONNECT_WAIT_MAX};
use crate::channel::{self, Channel, ChannelError, ClientTls, PATIENCE, chain};
use crate::node::v1::DrainSource;
use crate::registry::v1;
use crate::registry::v1::member_service_client::MemberServiceClient;
use crate::trace::TraceContext;
use crate::view::View;

/// How long a deletion of this member may take to come after its lease is found gone.
const DELETION_GRACE: Duration = Duration::from_millis(300);

/// The reason why a registry lets a removed member register no more.
const MEMBER_REMOVED: &str = "MEMBER_REMOVED";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error(transparent)]
    Connect(#[from] ChannelError),
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
        check: Check,
        drained_by: watch::Receiver<Vec<DrainSource>>,
        connected: watch::Sender<bool>,
        leave: CancellationToken,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let last = disk.load().unwrap_or_default();
        let (follower, view) = Follower::new(&member, last, check, disk, drained_by);
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

    pub(super) async fn run(mut self, registries: Vec<String>, tls: Option<ClientTls>) {
        for registry in registries.iter().cycle() {
            let trace = TraceContext::begin();
            let work = self.connect_and_follow(registry, tls.as_ref());
            let span = tracing::info_span!("registry", registry, trace_id = trace.trace_id());
            let end = trace.scope(work).instrument(span).await;
            self.connected.send_replace(false);
            match &end {
                Err(End::Left) => return,
                Err(End::Removed) => {
                    tracing::warn!(node = %self.member.name, "removed by an operator; start again to come back");
                    return self.leave.cancelled().await;
                }
                Err(error) => {
                    let (error, trace_id) = (chain(error), trace.trace_id());
                    tracing::info!(registry, error, trace_id, "registry lost; carrying on");
                }
                Ok(()) => {}
            }
            let wait = RECONNECT_WAIT_MAX.mul_f64(self.rng.random());
            if timeout(wait, self.leave.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn connect_and_follow(
        &mut self,
        registry: &str,
        tls: Option<&ClientTls>,
    ) -> Result<(), End> {
        let leave = self.leave.clone();
        let prepare = async {
            let channel = channel::connect(registry, tls).await?;
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
        let mut follow = pin!(self.follower.follow(channel, &self.connected));
        let end = tokio::select! {
            end = keep_alive => if is_not_found(&end) {
                timeout(DELETION_GRACE, follow).await.unwrap_or(end)
            } else {
                end
            },
            end = &mut follow => end,
        };
        if is_not_found(&end) {
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
            .map_err(|_| End::Silence)?
            .map_err(|status| match status.get_details_error_info() {
                Some(info) if info.reason == MEMBER_REMOVED => End::Removed,
                Some(_) | None => status.into(),
            })?;
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

fn is_not_found(end: &Result<(), End>) -> bool {
    matches!(end, Err(End::Status(status)) if status.code() == Code::NotFound)
}
