//! Stores what is decided as the next generation, and keeps the state in step with the store.
//!
//! One path for everything: a write is decided on the current state (`decide`), committed for exactly
//! that generation, and seen through the store's watch like any other. A conflict means deciding again.

mod decide;
mod forgotten;
mod latest;
mod members;
mod read;
mod requests;
mod warnings;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control::name::Name;
use control::registry::v1::{self, AppliedAction, MemberKind, Resource, Warning};
use control::view::{self, CLUSTER_KEY_BYTES, Resources};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use store::{CommitError, Health, Listing, Point, Store, StoreError, WatchError, Write};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::hand::{Next, Round, settle};
use crate::refused::Refused;
use crate::resource::{ACCEPTED, CONFIG, name_of_path};
use crate::state::{CLUSTER_KEY, State};
use crate::statuses::Statuses;
use crate::written::FAULTS;

pub(crate) use decide::{Edit, Mode, Node, What, forget, join, parse};
pub(crate) use latest::Latest;
pub(crate) use read::{faults, find, get, list, page, page_size_of};
pub(crate) use requests::{Done, RequestId};

use decide::{Decision, decide};
use latest::Readings;

/// How long a member lives without a refresh.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Most resources of all kinds together.
pub(crate) const RESOURCES_MAX: usize = 10_000;
/// How often a write is decided again after a conflict.
const ATTEMPTS_MAX: usize = 10;
/// How long the state may take to show a commit.
const REACH_MAX: Duration = Duration::from_secs(2);
/// How long a commit of another registry usually takes to get here, amply.
const LAG_MAX: Duration = Duration::from_millis(100);
/// How long a refresh may take; a node waits 2 s for its answer.
const REFRESH_MAX: Duration = Duration::from_secs(1);
/// Wait before a store that did not answer is read again.
const READ_RETRY: Duration = Duration::from_millis(200);

/// Why the catalog cannot be opened or followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error("the cluster key in the store is not {CLUSTER_KEY_BYTES} bytes long")]
    ClusterKey,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the first commit failed")]
    FirstCommit(#[source] CommitError),
}

/// How a change is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// Nothing is to be changed.
    pub(crate) validate_only: bool,
    pub(crate) request: Option<RequestId>,
}

/// What became of a change.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// A state that shows it.
    pub(crate) state: Arc<State>,
    /// What would count, if it had not been a question only.
    would_be: Option<Resources>,
    pub(crate) applied: Vec<(Name, AppliedAction)>,
    pub(crate) warnings: Vec<Warning>,
}

impl Outcome {
    /// Returns a resource as it is now, or would be.
    pub(crate) fn resource(&self, name: &Name) -> Option<&Resource> {
        let resources = self.would_be.as_ref().unwrap_or(&self.state.resources);
        resources.by_name.get(name).map(Arc::as_ref)
    }
}

/// What a write came to.
enum Made {
    Now(Decision),
    /// The same request was carried out before.
    Before(Done),
}

pub(crate) struct Catalog {
    cluster: String,
    store: Arc<dyn Store>,
    state: watch::Sender<Arc<State>>,
    statuses: Statuses,
    writing: Mutex<()>,
    readings: Readings,
    forget_after: Duration,
}

impl Catalog {
    /// Reads the store, as soon as it answers; a new one gets its cluster key and set 1 first. What hands
    /// wrote while no registry was there is settled before anything is served, and so is a store of
    /// an earlier version, in which everything seems to be written by hand.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        cluster: String,
        forget_after: Duration,
    ) -> Result<Self, CatalogError> {
        let mut round = Round::default();
        let state = loop {
            let listing = list_all(&*store).await?;
            let (writes, state) = match cluster_key(&listing) {
                None => (first_writes(&listing), None),
                Some(_) => {
                    let state = read_state(&listing)?;
                    match settle_in_memory(&state, &mut round) {
                        Some(writes) => (writes, Some(state)),
                        None => break state,
                    }
                }
            };
            match (store.commit(listing.at, writes).await, state) {
                // Another registry may be first.
                (Ok(_) | Err(CommitError::Conflict { .. }), _) => {}
                (Err(CommitError::Store(error)), _) if error.may_pass() => sleep(READ_RETRY).await,
                // What counts is served, whatever becomes of the rest.
                (Err(error @ CommitError::TooLarge { .. }), Some(state)) => {
                    tracing::error!(%error, "what hands wrote cannot be settled now");
                    break state;
                }
                (Err(error), _) => return Err(CatalogError::FirstCommit(error)),
            }
        };
        Ok(Self {
            cluster,
            store,
            state: watch::Sender::new(Arc::new(state)),
            statuses: Statuses::default(),
            writing: Mutex::default(),
            readings: Readings::default(),
            forget_after,
        })
    }

    /// Keeps the state in step with the store, settles what hands write and reports what nodes say, for
    /// as long as catalog and store live.
    pub(crate) async fn follow(&self) -> Result<(), CatalogError> {
        tokio::select! {
            ended = self.follow_store() => ended,
            never = self.settle_on() => match never {},
            never = self.forget_on() => match never {},
            never = self.statuses.report(&*self.store) => match never {},
        }
    }

    async fn follow_store(&self) -> Result<(), CatalogError> {
        loop {
            let mut watch = self.store.watch("", self.state().at);
            loop {
                match watch.next().await {
                    Ok(commit) => {
                        let next = self.state().after(&commit);
                        self.state.send_replace(Arc::new(next));
                    }
                    Err(WatchError::HistoryLost(generation)) => {
                        tracing::warn!(
                            generation,
                            "the store's history is lost; reading all of it"
                        );
                        break;
                    }
                    Err(WatchError::Closing) => return Ok(()),
                }
            }
            let listed = self.read_again().await?.remembering(&self.state());
            self.state.send_replace(Arc::new(listed));
        }
    }

    /// Reads the store until it answers with something that can be read; what is in memory counts
    /// meanwhile.
    async fn read_again(&self) -> Result<State, StoreError> {
        loop {
            match read_state(&list_all(&*self.store).await?) {
                Ok(state) => return Ok(state),
                Err(error) => tracing::error!(%error, "carrying on with the state before"),
            }
            sleep(READ_RETRY * 5).await;
        }
    }

    /// Settles what hands write, whenever they do.
    async fn settle_on(&self) -> Infallible {
        let mut states = self.states();
        let mut round = Round::default();
        let mut settled = None;
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            if settled != Some(state.stirred) {
                match settle(&state, &mut round, SystemTime::now()) {
                    Next::Rest => settled = Some(state.stirred),
                    Next::Look => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Next::Write(writes) => {
                        if self.commit_settled(&state, writes).await {
                            continue;
                        }
                    }
                }
            }
            if states.changed().await.is_err() {
                // The catalog is going, and so is everything.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Commits what was settled; tells whether to look again without waiting for a change.
    async fn commit_settled(&self, state: &State, writes: Vec<Write>) -> bool {
        let _one_at_a_time = self.writing.lock().await;
        let made = self.store.commit(state.at, writes.clone()).await;
        match made {
            Ok(made) => {
                writes.iter().for_each(say_settled);
                self.reach(made.generation).await.is_ok()
            }
            Err(CommitError::Conflict { .. }) => self.moves_on(state.at).await.is_ok(),
            Err(error @ (CommitError::Store(_) | CommitError::TooLarge { .. })) => {
                tracing::warn!(%error, "what a hand wrote cannot be settled now");
                sleep(READ_RETRY * 5).await;
                true
            }
        }
    }

    /// Waits until the state is at `generation`, where a node has been, or later; not in vain: if that
    /// takes long the store is asked whether it has such a generation.
    pub(crate) async fn catch_up(&self, generation: u64) -> Result<(), Refused> {
        if timeout(LAG_MAX, self.reach(generation)).await.is_ok() {
            return Ok(());
        }
        let point = self.store.point().await;
        let point = point.map_err(|error| Refused::Store(Some(error)))?;
        self.reach(generation.min(point.generation)).await
    }

    /// Tells whether the store answers.
    pub(crate) fn store_health(&self) -> watch::Receiver<Health> {
        self.store.health()
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn statuses(&self) -> &Statuses {
        &self.statuses
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    pub(crate) fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Makes a change as one, or says everything that is wrong with it.
    pub(crate) async fn change(
        &self,
        order: &Order,
        edits: impl Fn(&State) -> Result<Vec<Edit>, Refused>,
    ) -> Result<Outcome, Refused> {
        if order.validate_only {
            let Latest { state, .. } = self.latest().await;
            let decision = decide(&state, &edits(&state)?)?;
            return Ok(Outcome {
                state,
                would_be: Some(decision.after),
                applied: decision.applied,
                warnings: decision.warnings,
            });
        }
        let made = self.write(order.request.as_ref(), |state| {
            decide(state, &edits(state)?)
        });
        let (applied, warnings) = match made.await? {
            Made::Now(decision) => (decision.applied, decision.warnings),
            Made::Before(done) => {
                self.catch_up(done.generation).await?;
                (done.applied(), done.warnings())
            }
        };
        Ok(Outcome {
            state: self.state(),
            would_be: None,
            applied,
            warnings,
        })
    }

    /// Commits what `decide` wants for the current state, and waits until the state shows it.
    async fn write(
        &self,
        request: Option<&RequestId>,
        decide: impl Fn(&State) -> Result<Decision, Refused>,
    ) -> Result<Made, Refused> {
        let _one_at_a_time = self.writing.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let state = self.state();
            // Looked up after the state was taken: whoever is first meanwhile makes a conflict.
            if let Some(request) = request
                && let Some(done) = self.look_up(request).await?
            {
                return Ok(Made::Before(done));
            }
            let mut decision = decide(&state)?;
            if let Some(request) = request {
                let generation = state.at.generation + 1;
                decision
                    .writes
                    .push(request.remember(generation, &decision));
            }
            if decision.writes.is_empty() {
                return Ok(Made::Now(decision));
            }
            let writes = std::mem::take(&mut decision.writes);
            match self.store.commit(state.at, writes).await {
                Ok(made) => {
                    self.reach(made.generation).await?;
                    return Ok(Made::Now(decision));
                }
                Err(CommitError::Conflict { .. }) => self.moves_on(state.at).await?,
                Err(CommitError::TooLarge { what, max }) => {
                    return Err(Refused::Full { what, max });
                }
                Err(CommitError::Store(error)) => {
                    tracing::warn!(%error, "the store failed");
                    return Err(Refused::Store(Some(error)));
                }
            }
        }
        Err(Refused::Busy)
    }

    /// Finds what became of a request, if it was carried out already.
    async fn look_up(&self, request: &RequestId) -> Result<Option<Done>, Refused> {
        let key = request.key();
        let notes = self.store.notes(&key).await;
        let notes = notes.map_err(|error| Refused::Store(Some(error)))?;
        let note = notes.into_iter().find(|note| note.key == key);
        note.map(|note| request.read(&note.value)).transpose()
    }

    async fn reach(&self, generation: u64) -> Result<(), Refused> {
        let mut states = self.states();
        let reached = timeout(
            REACH_MAX,
            states.wait_for(|state| state.generation() >= generation),
        )
        .await;
        reached.map(drop).map_err(|_| Refused::Store(None))
    }

    /// Waits until the state is not at `point` any more.
    async fn moves_on(&self, point: Point) -> Result<(), Refused> {
        let mut states = self.states();
        let moved = timeout(REACH_MAX, states.wait_for(|state| state.at != point)).await;
        moved.map(drop).map_err(|_| Refused::Store(None))
    }
}

/// Says what became of a value that a hand wrote.
fn say_settled(write: &Write) {
    let healed = matches!(write, Write::Delete { .. });
    if let Some(path) = write.key().strip_prefix(FAULTS) {
        if healed {
            tracing::info!(path, "a value in the store is no fault any more");
        } else {
            tracing::warn!(path, "a value in the store does not count");
            say_by_hand(path, Code::InvalidArgument);
        }
    } else if let Some(path) = write.key().strip_prefix(ACCEPTED) {
        say_by_hand(path, Code::Ok);
    }
}

fn say_by_hand(path: &str, code: Code) {
    let name = name_of_path(path).map_or_else(|_| path.to_owned(), |name| name.to_string());
    face::audit::without_call("etcd", "by hand", &name, code);
}

/// Returns what is to be written about values that hands wrote; nothing when all of them are settled.
fn settle_in_memory(state: &State, round: &mut Round) -> Option<Vec<Write>> {
    loop {
        match settle(state, round, SystemTime::now()) {
            Next::Write(writes) => return Some(writes),
            Next::Look => {}
            Next::Rest => return None,
        }
    }
}

/// Lists everything, as soon as the store answers.
async fn list_all(store: &dyn Store) -> Result<Listing, StoreError> {
    loop {
        match store.list("").await {
            Err(error) if error.may_pass() => sleep(READ_RETRY).await,
            listed => return listed,
        }
    }
}

fn read_state(listing: &Listing) -> Result<State, CatalogError> {
    let key = cluster_key(listing)
        .and_then(|key| key.try_into().ok())
        .ok_or(CatalogError::ClusterKey)?;
    Ok(State::from_listing(listing, key))
}

fn cluster_key(listing: &Listing) -> Option<&[u8]> {
    listing
        .entries
        .iter()
        .find(|entry| entry.key == CLUSTER_KEY)
        .map(|entry| entry.value.as_slice())
}

/// Returns what a store has that nobody used yet, or whose cluster key somebody deleted.
fn first_writes(listing: &Listing) -> Vec<Write> {
    let mut key = vec![0; CLUSTER_KEY_BYTES];
    StdRng::from_os_rng().fill_bytes(&mut key);
    let selector = v1::MemberSelector {
        kind: MemberKind::from(view::MemberKind::Router).into(),
        ..v1::MemberSelector::default()
    };
    let set = v1::DestinationSet {
        name: "sets/1".to_owned(),
        selector: Some(selector),
        ..Default::default()
    };
    let value = control::json::encode(&set).into_bytes();
    let put = |key: &str, value: &[u8]| Write::Put {
        key: key.to_owned(),
        value: value.to_vec(),
    };
    let mut writes = vec![put(CLUSTER_KEY, &key)];
    if listing.entries.is_empty() {
        let set = [CONFIG, ACCEPTED].map(|at| put(&format!("{at}sets/1"), &value));
        writes.extend(set);
    }
    writes
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a struct of numbers and text is always JSON")
}

#[cfg(test)]
mod tests;
