//! The node's view: the staged one, which is whatever the registry has, and the one in force, which is
//! the last that this node found good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::Check;
use super::disk::{Disk, Stored};
use super::session::End;
use crate::channel::{Channel, PATIENCE};
use crate::name::Name;
use crate::node::v1::DrainSource;
use crate::registry::v1::config_service_client::ConfigServiceClient;
use crate::registry::v1::{
    self, SnapshotReason, resource, sync_config_request, sync_config_response,
};
use crate::view::{Refusal, Resources, View};

/// Largest message: a snapshot part of 1 MiB and one resource more.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most resources that are kept although a snapshot did not have them.
const VANISHED_MAX: usize = 1000;
/// Most names of each sort in an acknowledgement.
const NAMED_MAX: usize = 16;

/// Keeps the staged view, and the one in force.
pub(super) struct Follower {
    name: String,
    kind: i32,
    /// What the registry has, good or not.
    staged: Resources,
    parts: Parts,
    /// What a snapshot did not have any more, though nobody deleted it.
    vanished: BTreeMap<Arc<Name>, Arc<v1::Resource>>,
    /// Of how many was logged that they are kept.
    kept_logged: usize,
    /// Why the staged view is not in force; empty when it is.
    refusals: Vec<Refusal>,
    /// Whether it was logged that the registry has what this version does not know.
    strangers_logged: bool,
    /// What of the view in force counts only after a restart.
    restart_needed: Vec<String>,
    ask_again: SnapshotReason,
    /// Who wants this node to take no new calls.
    drained_by: watch::Receiver<Vec<DrainSource>>,
    view: watch::Sender<Arc<View>>,
    check: Check,
    disk: Disk,
}

/// A snapshot, as far as it has come.
#[derive(Default)]
struct Parts {
    resources: Resources,
    deleted: BTreeSet<String>,
}

impl Follower {
    /// Starts from the view of the last run, if it is still good.
    pub(super) fn new(
        member: &v1::Member,
        last: Stored,
        check: Check,
        disk: Disk,
        drained_by: watch::Receiver<Vec<DrainSource>>,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let (view, receiver) = watch::channel(Arc::default());
        let mut follower = Self {
            name: member.name.clone(),
            kind: member.kind,
            // This version may know what the one that stored the view did not.
            ask_again: match last.resources.not_known.is_empty() {
                true => SnapshotReason::Unspecified,
                false => SnapshotReason::Initial,
            },
            staged: last.resources,
            parts: Parts::default(),
            vanished: last.kept,
            kept_logged: 0,
            refusals: Vec::new(),
            strangers_logged: false,
            restart_needed: Vec::new(),
            drained_by,
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
        self.parts = Parts::default();
        send(&requests, sync_config_request::Message::Hello(hello)).await;
        let mut client =
            ConfigServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answers = client.sync_config(ReceiverStream::new(outgoing));
        let mut answers = timeout(PATIENCE * 2, answers)
            .await
            .map_err(|_| End::Silence)??
            .into_inner();
        connected.send_replace(true);
        if position.is_some() {
            self.say(&requests).await;
        }
        let mut drained_by = self.drained_by.clone();
        drained_by.mark_changed();
        loop {
            tokio::select! {
                answer = answers.message() => match answer? {
                    Some(answer) => self.take(answer, &requests).await?,
                    None => return Err(End::Closed),
                },
                Ok(()) = drained_by.changed() => {
                    let sources = drained_by.borrow_and_update().clone();
                    let report = v1::Report {
                        drained_by: sources.into_iter().map(i32::from).collect(),
                    };
                    send(&requests, sync_config_request::Message::Report(report)).await;
                }
            }
        }
    }

    async fn take(
        &mut self,
        answer: v1::SyncConfigResponse,
        requests: &mpsc::Sender<v1::SyncConfigRequest>,
    ) -> Result<(), End> {
        match answer.message.ok_or(End::Protocol("an empty message"))? {
            sync_config_response::Message::Snapshot(part) => {
                if self.take_part(part)? {
                    self.answer(requests).await;
                }
            }
            sync_config_response::Message::Change(change) => {
                self.apply(change)?;
                self.answer(requests).await;
            }
            sync_config_response::Message::Bookmark(bookmark) => self.compare(bookmark.position)?,
        }
        Ok(())
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
        let parts = &mut self.parts;
        parts.resources.generation = position.generation;
        parts.resources.cluster_key = cluster_key;
        parts.deleted.extend(part.deleted);
        insert_all(&mut parts.resources, part.resources, part.versions)?;
        if !part.complete {
            return Ok(false);
        }
        tracing::info!(
            generation = position.generation,
            reason = part.reason,
            "snapshot received"
        );
        let Parts { resources, deleted } = std::mem::take(&mut self.parts);
        if deleted.contains(&self.name) {
            return Err(End::Removed);
        }
        self.keep_vanished(&resources, &deleted);
        self.staged = resources;
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
        insert_all(&mut self.staged, change.changed, change.versions)?;
        for name in change.deleted {
            self.staged.remove(&name);
            self.vanished.retain(|kept, _| kept.to_string() != name);
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

    /// Notes what is missing from a snapshot, and obeys what was deleted. A store that was restored has
    /// forgotten nodes that are well; only a deletion that is seen as such, or their own silence, takes
    /// them out. Their sets stay with them.
    fn keep_vanished(&mut self, snapshot: &Resources, deleted: &BTreeSet<String>) {
        let is_deleted = |name: &Name| deleted.contains(&name.to_string());
        self.vanished.retain(|name, _| !is_deleted(name));
        let missing = self.staged.by_name.iter();
        let missing =
            missing.filter(|(name, _)| !snapshot.by_name.contains_key(*name) && !is_deleted(name));
        for (name, resource) in missing.filter(|(_, resource)| may_answer(resource)) {
            if self.vanished.len() < VANISHED_MAX {
                self.vanished.insert(Arc::clone(name), as_gone(resource));
            }
        }
    }

    /// Forgets of what vanished what is there again, destinations whose set is not there any more, and
    /// sets that hold nothing.
    fn settle_vanished(&mut self) {
        let staged = &self.staged.by_name;
        self.vanished.retain(|name, _| !staged.contains_key(name));
        let vanished = &self.vanished;
        let is_there = |set: &Name| vanished.contains_key(set) || staged.contains_key(set);
        let destinations = vanished.keys().filter_map(|name| {
            let Name::Destination { set, .. } = &**name else {
                return None;
            };
            Some((Arc::clone(name), Name::Set(set.clone())))
        });
        let (held, lost): (Vec<_>, Vec<_>) = destinations.partition(|(_, set)| is_there(set));
        let holding: BTreeSet<Name> = held.into_iter().map(|(_, set)| set).collect();
        for (name, _) in lost {
            self.vanished.remove(&name);
        }
        self.vanished
            .retain(|name, resource| match &resource.resource {
                Some(resource::Resource::DestinationSet(set)) => {
                    set.selector.is_some() || holding.contains(name)
                }
                Some(_) | None => true,
            });
        let kept = self.vanished.len();
        if kept != self.kept_logged {
            let first = self.vanished.keys().next().map(ToString::to_string);
            tracing::warn!(
                kept,
                first,
                "vanished without being deleted; kept while it answers"
            );
            self.kept_logged = kept;
        }
    }

    /// Puts the staged view in force and acknowledges it, or says why not.
    async fn answer(&mut self, requests: &mpsc::Sender<v1::SyncConfigRequest>) {
        self.accept();
        self.say(requests).await;
        if self.refusals.is_empty() {
            self.save().await;
        }
    }

    async fn say(&self, requests: &mpsc::Sender<v1::SyncConfigRequest>) {
        let position = Some(self.staged.position());
        let message = if self.refusals.is_empty() {
            sync_config_request::Message::Ack(v1::Ack {
                position,
                restart_needed: self.restart_needed.clone(),
                kept: named(self.vanished.keys()),
                not_known: named(self.staged.not_known.keys()),
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
        send(requests, message).await;
    }

    fn accept(&mut self) {
        self.settle_vanished();
        self.log_strangers();
        let checked = self.view_to_be().and_then(|view| {
            let restart_needed = (self.check)(&view)?;
            Ok((view, restart_needed))
        });
        match checked {
            Ok((view, restart_needed)) => {
                self.refusals.clear();
                self.restart_needed = restart_needed;
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

    fn log_strangers(&mut self) {
        let not_known = &self.staged.not_known;
        let first = not_known.keys().next();
        if let Some(first) = first.filter(|_| !self.strangers_logged) {
            let resources = not_known.len();
            tracing::warn!(
                resources,
                first,
                "the registry has kinds that this version does not know; going on without them"
            );
        }
        self.strangers_logged = first.is_some();
    }

    /// The staged view, and what vanished.
    fn view_to_be(&self) -> Result<View, Vec<Refusal>> {
        if self.vanished.is_empty() {
            return self.staged.to_view();
        }
        let mut all = self.staged.clone();
        all.by_name.extend(self.vanished.clone());
        // The checksum stays the registry's: it names the generation, not what was added here.
        all.to_view().map(|view| View {
            checksum: self.staged.checksum(),
            ..view
        })
    }

    async fn save(&self) {
        let disk = self.disk.clone();
        let stored = Stored {
            resources: self.staged.clone(),
            kept: self.vanished.clone(),
        };
        let saved = tokio::task::spawn_blocking(move || disk.save(&stored)).await;
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

fn insert_all(
    resources: &mut Resources,
    new: Vec<v1::Resource>,
    versions: Vec<v1::Version>,
) -> Result<(), End> {
    let mut versions = versions.into_iter();
    let received: Result<(), Refusal> = new
        .into_iter()
        .try_for_each(|resource| resources.receive(resource, versions.next()));
    received.map_err(|_| End::Protocol("a resource of no known kind or name"))
}

fn named<N: ToString>(names: impl Iterator<Item = N>) -> Vec<String> {
    names.take(NAMED_MAX).map(|name| name.to_string()).collect()
}

/// Sends, unless the stream has ended: then the answers say why, and only they are asked.
async fn send(
    requests: &mpsc::Sender<v1::SyncConfigRequest>,
    message: sync_config_request::Message,
) {
    let request = v1::SyncConfigRequest {
        message: Some(message),
    };
    let _ended = requests.send(request).await;
}

/// Tells whether a resource stands for something whose health this node judges by itself, or holds such.
fn may_answer(resource: &v1::Resource) -> bool {
    match &resource.resource {
        Some(resource::Resource::Member(_) | resource::Resource::DestinationSet(_)) => true,
        Some(resource::Resource::Destination(destination)) => destination.probing,
        Some(
            resource::Resource::Cell(_)
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
        snapshot_without(follower, generation, resources, &[]);
    }

    fn snapshot_without(
        follower: &mut Follower,
        generation: u64,
        resources: Vec<v1::Resource>,
        deleted: &[&str],
    ) {
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
            deleted: deleted.iter().map(ToString::to_string).collect(),
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
        let last = disk.load().unwrap_or_default();
        let (_, drained_by) = watch::channel(Vec::new());
        Follower::new(
            &member,
            last,
            Box::new(|_| Ok(Vec::new())),
            disk,
            drained_by,
        )
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
    fn what_was_deleted_goes_at_once_also_when_a_snapshot_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, view) = follower(&directory);
        let all = vec![
            set(),
            router("a"),
            router("b"),
            destination("deleted", true),
            destination("vanished", true),
        ];
        snapshot(&mut follower, 1, all);
        let deleted = [
            "members/b",
            "sets/1/destinations/deleted",
            "routes/unheard-of",
        ];
        snapshot_without(&mut follower, 2, vec![set(), router("a")], &deleted);
        let kept = (vec!["a".to_owned()], vec!["vanished".to_owned()]);
        assert_eq!(ids(&view), kept);

        let deleted = ["sets/1/destinations/vanished"];
        snapshot_without(&mut follower, 3, vec![set(), router("a")], &deleted);
        assert_eq!(ids(&view), (vec!["a".into()], vec![]));
    }

    #[test]
    fn a_set_that_holds_nothing_vanishes_and_one_with_a_selector_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, view) = follower(&directory);
        let selecting = resource(resource::Resource::DestinationSet(v1::DestinationSet {
            name: "sets/2".into(),
            selector: Some(v1::MemberSelector::default()),
            ..Default::default()
        }));
        snapshot(
            &mut follower,
            9,
            vec![set(), selecting, destination("a", false)],
        );
        snapshot(&mut follower, 3, vec![]);
        let view = view.borrow();
        assert_eq!((view.set("1"), view.set("2").is_some()), (None, true));
        assert!(view.destinations.is_empty());
    }

    #[test]
    fn a_snapshot_that_says_that_this_node_was_deleted_ends_its_membership() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, _view) = follower(&directory);
        let part = v1::Snapshot {
            position: Some(Resources::default().position()),
            cluster_key: vec![0; 16],
            deleted: vec!["members/me".into()],
            complete: true,
            ..Default::default()
        };
        assert!(matches!(follower.take_part(part), Err(End::Removed)));
    }

    #[tokio::test]
    async fn a_set_vanishes_as_little_as_what_it_holds_and_a_restart_forgets_neither() {
        let directory = tempfile::tempdir().unwrap();
        let (mut first, view) = follower(&directory);
        let all = vec![set(), router("a"), destination("probed", true)];
        snapshot(&mut first, 9, all);
        // As from a store that was restored to the time before the set.
        snapshot(&mut first, 3, vec![router("a")]);
        assert_eq!(ids(&view), (vec!["a".into()], vec!["probed".into()]));
        assert!(view.borrow().set("1").is_some());
        first.save().await;
        drop(first);

        let (mut again, view) = follower(&directory);
        assert_eq!(ids(&view), (vec!["a".into()], vec!["probed".into()]));
        assert_eq!(view.borrow().checksum, again.staged.checksum());

        snapshot_without(&mut again, 4, vec![router("a")], &["sets/1"]);
        assert!(view.borrow().set("1").is_none(), "it was deleted");
        assert!(view.borrow().destinations.is_empty(), "with what it held");
        assert!(again.vanished.is_empty());
    }

    #[test]
    fn a_kind_that_is_not_known_is_left_out_and_the_rest_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, view) = follower(&directory);
        let strange = |etag: &str| v1::Version {
            name: "new-kind/x".into(),
            etag: etag.into(),
        };
        let mut registry = Resources {
            generation: 1,
            not_known: BTreeMap::from([("new-kind/x".into(), "1-x".into())]),
            ..Resources::default()
        };
        registry.insert(set()).unwrap();
        let part = v1::Snapshot {
            position: Some(registry.position()),
            cluster_key: vec![0; 16],
            resources: vec![v1::Resource::default(), set()],
            versions: vec![strange("1-x"), crate::view::version_of(&set())],
            complete: true,
            ..Default::default()
        };
        assert!(follower.take_part(part).unwrap());
        follower.accept();
        assert!(follower.refusals.is_empty() && view.borrow().set("1").is_some());

        registry.generation = 2;
        registry.not_known.insert("new-kind/x".into(), "2-x".into());
        let change = v1::Change {
            position: Some(registry.position()),
            changed: vec![v1::Resource::default()],
            versions: vec![strange("2-x")],
            ..Default::default()
        };
        follower.apply(change).unwrap();
        registry.generation = 3;
        registry.not_known.clear();
        let change = v1::Change {
            position: Some(registry.position()),
            deleted: vec!["new-kind/x".into()],
            ..Default::default()
        };
        follower.apply(change).unwrap();
    }

    #[tokio::test]
    async fn a_node_that_left_something_out_asks_for_everything_when_it_starts_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut first, _view) = follower(&directory);
        snapshot(&mut first, 1, vec![set()]);
        first.save().await;
        assert_eq!(
            follower(&directory).0.ask_again,
            SnapshotReason::Unspecified
        );
        first
            .staged
            .not_known
            .insert("new-kind/x".into(), "1-x".into());
        first.save().await;
        assert_eq!(follower(&directory).0.ask_again, SnapshotReason::Initial);
    }

    #[tokio::test]
    async fn a_bookmark_with_another_checksum_asks_for_everything() {
        let directory = tempfile::tempdir().unwrap();
        let (mut follower, _view) = follower(&directory);
        snapshot(&mut follower, 1, vec![set()]);
        let (requests, mut said) = mpsc::channel(1);
        let bookmark = |position| v1::SyncConfigResponse {
            message: Some(sync_config_response::Message::Bookmark(v1::Bookmark {
                position: Some(position),
            })),
        };
        let own = follower.staged.position();
        let same = follower.take(bookmark(own), &requests).await;
        assert!(same.is_ok() && follower.ask_again == SnapshotReason::Unspecified);
        let other = v1::Position { checksum: 7, ..own };
        let end = follower.take(bookmark(other), &requests).await;
        assert!(matches!(end, Err(End::Diverged)));
        assert_eq!(follower.ask_again, SnapshotReason::Diverged);
        assert!(said.try_recv().is_err(), "a bookmark is not answered");
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
