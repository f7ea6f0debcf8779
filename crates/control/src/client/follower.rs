//! The node's view: the staged one, which is whatever the registry has, and the one in force, which is
//! the last that this node found good.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::Check;
use super::disk::Disk;
use super::session::End;
use crate::channel::{Channel, PATIENCE};
use crate::name::Name;
use crate::registry::v1::config_service_client::ConfigServiceClient;
use crate::registry::v1::{
    self, SnapshotReason, resource, sync_config_request, sync_config_response,
};
use crate::view::{Refusal, Resources, View};

/// Largest message: a snapshot part of 1 MiB and one resource more.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most resources that are kept although a snapshot did not have them.
const VANISHED_MAX: usize = 1000;

/// Keeps the staged view, and the one in force.
pub(super) struct Follower {
    name: String,
    kind: i32,
    /// What the registry has, good or not.
    staged: Resources,
    /// The parts of a snapshot that have come so far.
    parts: Option<Resources>,
    /// What a snapshot did not have any more, though nobody deleted it.
    vanished: BTreeMap<Arc<Name>, Arc<v1::Resource>>,
    /// Why the staged view is not in force; empty when it is.
    refusals: Vec<Refusal>,
    ask_again: SnapshotReason,
    view: watch::Sender<Arc<View>>,
    check: Check,
    disk: Disk,
}

impl Follower {
    /// Starts from the view of the last run, if it is still good.
    pub(super) fn new(
        member: &v1::Member,
        last: Resources,
        check: Check,
        disk: Disk,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let (view, receiver) = watch::channel(Arc::default());
        let mut follower = Self {
            name: member.name.clone(),
            kind: member.kind,
            staged: last,
            parts: None,
            vanished: BTreeMap::new(),
            refusals: Vec::new(),
            ask_again: SnapshotReason::Unspecified,
            view,
            check,
            disk,
        };
        if follower.staged.generation > 0 {
            follower.accept();
            tracing::info!(
                generation = follower.staged.generation,
                "the stored view was read"
            );
        }
        (follower, receiver)
    }

    /// Follows the registry until the stream ends.
    pub(super) async fn follow(
        &mut self,
        channel: Channel,
        connected: &watch::Sender<bool>,
    ) -> Result<(), End> {
        let (requests, outgoing) = mpsc::channel(2);
        let position = (self.staged.generation > 0
            && self.ask_again == SnapshotReason::Unspecified)
            .then(|| self.staged.position());
        let hello = v1::Hello {
            node: self.name.clone(),
            kind: self.kind,
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
        if position.is_some() && !self.refusals.is_empty() {
            self.say(&requests).await?;
        }
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
        let complete = self.parts.take().unwrap_or_default();
        self.keep_vanished(&complete);
        self.staged = complete;
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
            let name: Name = name
                .parse()
                .map_err(|_| End::Protocol("a deletion of no resource"))?;
            self.staged.by_name.remove(&name);
            self.vanished.remove(&name);
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

    /// Notes what is missing from a snapshot. A store that was restored has forgotten nodes that are
    /// well; only a deletion that is seen as such, or their own silence, takes them out.
    fn keep_vanished(&mut self, snapshot: &Resources) {
        let missing = self
            .staged
            .by_name
            .iter()
            .filter(|(name, _)| !snapshot.by_name.contains_key(*name));
        for (name, resource) in missing.filter(|(_, resource)| answers_probes(resource)) {
            if self.vanished.len() < VANISHED_MAX {
                tracing::warn!(resource = %name, "vanished without being deleted; kept while it answers");
                self.vanished.insert(Arc::clone(name), as_gone(resource));
            }
        }
    }

    /// Puts the staged view in force and acknowledges it, or says why not.
    async fn answer(&mut self, requests: &mpsc::Sender<v1::SyncConfigRequest>) -> Result<(), End> {
        self.accept();
        self.say(requests).await?;
        if self.refusals.is_empty() {
            self.save().await;
        }
        Ok(())
    }

    async fn say(&self, requests: &mpsc::Sender<v1::SyncConfigRequest>) -> Result<(), End> {
        let position = Some(self.staged.position());
        let message = if self.refusals.is_empty() {
            sync_config_request::Message::Ack(v1::Ack {
                position,
                restart_needed: Vec::new(),
            })
        } else {
            let refusals = self
                .refusals
                .iter()
                .cloned()
                .map(v1::Refusal::from)
                .collect();
            sync_config_request::Message::Nack(v1::Nack { position, refusals })
        };
        send(requests, message).await
    }

    fn accept(&mut self) {
        self.vanished
            .retain(|name, _| !self.staged.by_name.contains_key(name));
        let checked = self
            .view_to_be()
            .and_then(|view| (self.check)(&view).map(|()| view));
        match checked {
            Ok(view) => {
                self.refusals.clear();
                self.view.send_replace(Arc::new(view));
            }
            Err(refusals) => {
                tracing::warn!(
                    generation = self.staged.generation,
                    ?refusals,
                    "view refused; the one before stays"
                );
                self.refusals = refusals;
            }
        }
    }

    /// The staged view, and what vanished as far as it still fits in.
    fn view_to_be(&self) -> Result<View, Vec<Refusal>> {
        if self.vanished.is_empty() {
            return self.staged.to_view();
        }
        let mut all = self.staged.clone();
        for (name, resource) in &self.vanished {
            let fits = match &**name {
                Name::Destination { set, .. } => all.by_name.contains_key(&Name::Set(set.clone())),
                Name::Cell(_)
                | Name::Member(_)
                | Name::Profile(_)
                | Name::Route(_)
                | Name::Set(_)
                | Name::Table(_)
                | Name::Trunk(_) => true,
            };
            if fits {
                all.by_name.insert(Arc::clone(name), Arc::clone(resource));
            }
        }
        // The checksum stays the registry's: it names the generation, not what was added here.
        all.to_view().map(|view| View {
            checksum: self.staged.checksum(),
            ..view
        })
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

/// Tells whether a resource stands for something whose health this node judges by itself.
fn answers_probes(resource: &v1::Resource) -> bool {
    match &resource.resource {
        Some(resource::Resource::Member(_)) => true,
        Some(resource::Resource::Destination(destination)) => destination.probing,
        Some(
            resource::Resource::Cell(_)
            | resource::Resource::DestinationSet(_)
            | resource::Resource::Route(_)
            | resource::Resource::TableDefinition(_)
            | resource::Resource::Trunk(_)
            | resource::Resource::Profile(_),
        )
        | None => false,
    }
}

fn as_gone(resource: &v1::Resource) -> Arc<v1::Resource> {
    let mut resource = resource.clone();
    if let Some(resource::Resource::Member(member)) = &mut resource.resource {
        member.set_liveness(v1::Liveness::Gone);
    }
    Arc::new(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: resource::Resource) -> v1::Resource {
        v1::Resource {
            resource: Some(kind),
        }
    }

    fn router(id: &str) -> v1::Resource {
        resource(resource::Resource::Member(v1::Member {
            name: format!("members/{id}"),
            kind: v1::MemberKind::Router.into(),
            address: "127.0.0.2".into(),
            sip: vec![v1::SipEndpoint {
                side: 0,
                address: "127.0.0.2:5060".into(),
            }],
            liveness: v1::Liveness::Alive.into(),
            ..Default::default()
        }))
    }

    fn set() -> v1::Resource {
        resource(resource::Resource::DestinationSet(v1::DestinationSet {
            name: "sets/1".into(),
            ..Default::default()
        }))
    }

    fn destination(id: &str, probing: bool) -> v1::Resource {
        let name = format!("sets/1/destinations/{id}");
        let destination = v1::Destination {
            name,
            uri: "sip:a".into(),
            probing,
            ..Default::default()
        };
        resource(resource::Resource::Destination(destination))
    }

    fn snapshot(follower: &mut Follower, generation: u64, resources: Vec<v1::Resource>) {
        let mut whole = Resources {
            generation,
            ..Resources::default()
        };
        resources
            .iter()
            .for_each(|resource| whole.insert(resource.clone()).unwrap());
        let part = v1::Snapshot {
            position: Some(whole.position()),
            cluster_key: vec![0; 16],
            resources,
            complete: true,
            ..Default::default()
        };
        assert!(follower.take_part(part).unwrap());
        follower.accept();
    }

    fn follower(directory: &tempfile::TempDir) -> (Follower, watch::Receiver<Arc<View>>) {
        let member = v1::Member {
            name: "members/me".into(),
            ..Default::default()
        };
        let disk = Disk::open(directory.path(), "me").unwrap();
        Follower::new(&member, Resources::default(), Box::new(|_| Ok(())), disk)
    }

    fn ids(view: &watch::Receiver<Arc<View>>) -> (Vec<String>, Vec<String>) {
        let view = view.borrow();
        let members = view
            .members
            .iter()
            .map(|member| member.id.clone())
            .collect();
        (
            members,
            view.destinations
                .iter()
                .map(|destination| destination.id.clone())
                .collect(),
        )
    }

    #[test]
    fn what_vanishes_stays_while_it_can_answer_and_what_is_deleted_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, view) = follower(&directory);
        let all = vec![
            set(),
            router("a"),
            router("b"),
            destination("probed", true),
            destination("silent", false),
        ];
        snapshot(&mut follower, 9, all);
        snapshot(&mut follower, 3, vec![set(), router("a")]);
        assert_eq!(
            ids(&view),
            (vec!["a".into(), "b".into()], vec!["probed".into()])
        );
        assert_eq!(
            view.borrow().member("b").unwrap().liveness,
            crate::view::Liveness::Gone
        );
        assert_eq!(view.borrow().checksum, follower.staged.checksum());

        let mut next = follower.staged.clone();
        next.generation = 4;
        let deleted = vec!["members/b".into(), "sets/1/destinations/probed".into()];
        follower
            .apply(v1::Change {
                position: Some(next.position()),
                deleted,
                ..Default::default()
            })
            .unwrap();
        follower.accept();
        assert_eq!(ids(&view), (vec!["a".into()], vec![]));

        snapshot(&mut follower, 5, vec![set()]);
        assert_eq!(ids(&view).0, ["a"]);
        snapshot(&mut follower, 6, vec![set(), router("a")]);
        assert_eq!(
            view.borrow().member("a").unwrap().liveness,
            crate::view::Liveness::Alive,
            "it is listed again"
        );
        assert!(follower.vanished.is_empty());
    }

    #[test]
    fn another_checksum_is_a_divergence_and_asks_for_everything() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, _view) = follower(&directory);
        snapshot(&mut follower, 1, vec![set()]);
        let position = v1::Position {
            generation: 2,
            checksum: 7,
        };
        let end = follower.apply(v1::Change {
            position: Some(position),
            ..Default::default()
        });
        assert!(matches!(end, Err(End::Diverged)));
        assert_eq!(follower.ask_again, SnapshotReason::Diverged);
    }
}
