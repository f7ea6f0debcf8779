//! `ConfigService`: one task per node that sends what the node does not have yet.
//!
//! A node costs one number, the generation it was sent last. While it has not answered nothing more
//! is sent; what happens meanwhile is found again by that number, merged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use control::name::Name;
use control::registry::v1::config_service_server::ConfigService;
use control::registry::v1::{
    Bookmark, Change, Hello, Position, Resource, Snapshot, SnapshotReason, SyncConfigRequest,
    SyncConfigResponse, sync_config_request, sync_config_response,
};
use control::view::version_of;
use prost::Message;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::Face;
use super::outgoing::{Answers, Outgoing, outgoing};
use super::step::{CHANGE_BYTES_MAX, PART_NAMES_MAX, Step, parts_of, step};
use crate::catalog::Catalog;
use crate::config::Pace;
use crate::refused::{Refused, invalid};
use crate::state::State;
use crate::statuses::Connected;

/// How long a node may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl ConfigService for Face {
    type SyncConfigStream = Outgoing<SyncConfigResponse>;

    async fn sync_config(
        &self,
        request: Request<Streaming<SyncConfigRequest>>,
    ) -> Result<Response<Self::SyncConfigStream>, Status> {
        let (answers, outgoing) = outgoing();
        let face = self.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = serve(&face.catalog, face.pace, request.into_inner(), &answers) => end,
                () = face.shutdown.cancelled() => Err(Refused::ShuttingDown.into()),
            };
            if let Err(status) = end {
                answers.end(status);
            }
        });
        Ok(Response::new(outgoing))
    }
}

async fn serve(
    catalog: &Catalog,
    pace: Pace,
    mut requests: Streaming<SyncConfigRequest>,
    answers: &Answers<SyncConfigResponse>,
) -> Result<(), Status> {
    let Some(hello) = read_hello(catalog, &mut requests).await? else {
        return Ok(());
    };
    let mut states = catalog.states();
    let status = catalog
        .statuses()
        .connect(&hello, |name| is_member(&catalog.state(), name));
    tracing::info!(node = hello.node, position = ?hello.position, "node follows the configuration");
    let mut node = Node {
        answers,
        pace,
        sent: hello.position,
        owes_answer: false,
        quiet_since: Instant::now(),
    };
    let known = hello.position.map_or(0, |position| position.generation);
    catalog.catch_up(known).await?;
    let asked = SnapshotReason::try_from(hello.reason).unwrap_or_default();
    // Not kept for the life of the stream: a thousand nodes would keep a thousand states.
    let first = Arc::clone(&states.borrow_and_update());
    node.greet(&first, asked).await?;
    drop(first);
    loop {
        let limit = if node.owes_answer {
            pace.slow_watcher_after
        } else {
            pace.bookmark_interval
        };
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => node.take_answer(request, &status)?,
                None => return Ok(()),
            },
            changed = states.changed(), if !node.owes_answer => {
                changed.map_err(|_| Refused::ShuttingDown)?;
                let state = Arc::clone(&states.borrow_and_update());
                node.catch_up(&state).await?;
            }
            () = sleep_until(node.quiet_since + limit) => {
                if node.owes_answer {
                    return Err(Refused::SlowWatcher.into());
                }
                let position = node.sent;
                node.send(sync_config_response::Message::Bookmark(Bookmark { position })).await?;
            }
        }
    }
}

async fn read_hello(
    catalog: &Catalog,
    requests: &mut Streaming<SyncConfigRequest>,
) -> Result<Option<Hello>, Status> {
    let first = timeout(HELLO_WITHIN, requests.message()).await;
    let Some(first) = first.map_err(|_| Refused::NoHello)?? else {
        return Ok(None);
    };
    let Some(sync_config_request::Message::Hello(hello)) = first.message else {
        return Err(invalid("", "hello", "must come first").into());
    };
    if !is_member(&catalog.state(), &hello.node) {
        return Err(Refused::NoMember(hello.node).into());
    }
    Ok(Some(hello))
}

pub(super) fn is_member(state: &State, name: &str) -> bool {
    let name = name.parse::<Name>();
    name.is_ok_and(|name| {
        matches!(name, Name::Member(_)) && state.resources.by_name.contains_key(&name)
    })
}

/// What is known about the other end.
struct Node<'a> {
    answers: &'a Answers<SyncConfigResponse>,
    pace: Pace,
    /// Where its staged view stands; `None` for nowhere.
    sent: Option<Position>,
    owes_answer: bool,
    /// When something was sent, or answered, last.
    quiet_since: Instant,
}

impl Node<'_> {
    /// Sends what the node asks for, or what it lacks.
    async fn greet(&mut self, state: &State, asked: SnapshotReason) -> Result<(), Status> {
        if asked == SnapshotReason::Unspecified {
            self.catch_up(state).await
        } else {
            self.send_snapshot(state, asked).await
        }
    }

    /// Sends everything between what was sent last and `state`: as one change, or as a snapshot
    /// where the one does not lead to the other.
    async fn catch_up(&mut self, state: &State) -> Result<(), Status> {
        match step(self.sent, state) {
            Step::None => Ok(()),
            Step::Change(touched) => self.send_change(state, touched).await,
            Step::Snapshot(reason) => self.send_snapshot(state, reason).await,
        }
    }

    async fn send_change(&mut self, state: &State, touched: BTreeSet<&Name>) -> Result<(), Status> {
        let mut change = Change {
            position: Some(state.position),
            ..Change::default()
        };
        for name in touched {
            match state.resources.by_name.get(name) {
                Some(resource) => {
                    change.versions.push(version_of(resource));
                    change.changed.push(Resource::clone(resource));
                }
                None => change.deleted.push(name.to_string()),
            }
        }
        if change.encoded_len() > CHANGE_BYTES_MAX {
            return self.send_snapshot(state, SnapshotReason::HistoryLost).await;
        }
        self.send(sync_config_response::Message::Change(change))
            .await?;
        self.now_at(state);
        Ok(())
    }

    async fn send_snapshot(&mut self, state: &State, reason: SnapshotReason) -> Result<(), Status> {
        let part = || Snapshot {
            position: Some(state.position),
            reason: reason.into(),
            cluster_key: state.resources.cluster_key.to_vec(),
            ..Snapshot::default()
        };
        let deleted: Vec<_> = state.deleted().collect();
        for names in deleted.chunks(PART_NAMES_MAX) {
            let deleted = names.iter().map(ToString::to_string).collect();
            self.send_part(Snapshot { deleted, ..part() }).await?;
        }
        let parts = parts_of(state.resources.by_name.values().map(Arc::as_ref));
        let mut parts = parts.into_iter().peekable();
        while let Some(resources) = parts.next() {
            self.send_part(Snapshot {
                versions: resources.iter().copied().map(version_of).collect(),
                resources: resources.into_iter().cloned().collect(),
                complete: parts.peek().is_none(),
                ..part()
            })
            .await?;
        }
        self.now_at(state);
        Ok(())
    }

    async fn send_part(&mut self, part: Snapshot) -> Result<(), Status> {
        self.send(sync_config_response::Message::Snapshot(part))
            .await
    }

    fn now_at(&mut self, state: &State) {
        self.sent = Some(state.position);
        self.owes_answer = true;
    }

    fn take_answer(
        &mut self,
        request: SyncConfigRequest,
        status: &Connected<'_>,
    ) -> Result<(), Status> {
        match request.message {
            Some(sync_config_request::Message::Ack(ack)) if ack.position == self.sent => {
                status.acknowledged(ack)
            }
            Some(sync_config_request::Message::Nack(nack)) if nack.position == self.sent => {
                status.refused(nack)
            }
            Some(sync_config_request::Message::Report(report)) => {
                status.reported(report);
                return Ok(());
            }
            // An answer to what was sent before, on an earlier stream perhaps.
            Some(sync_config_request::Message::Ack(_) | sync_config_request::Message::Nack(_)) => {
                return Ok(());
            }
            Some(sync_config_request::Message::Hello(_)) | None => {
                return Err(invalid("", "message", "must be Ack, Nack or Report").into());
            }
        }
        self.owes_answer = false;
        self.quiet_since = Instant::now();
        Ok(())
    }

    async fn send(&mut self, message: sync_config_response::Message) -> Result<(), Status> {
        let response = SyncConfigResponse {
            message: Some(message),
        };
        let patience = self.pace.slow_watcher_after;
        let sent = self.answers.send(response, patience).await;
        self.quiet_since = Instant::now();
        sent
    }
}
