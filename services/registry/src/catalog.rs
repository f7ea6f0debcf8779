//! Decides what is accepted, stores it as the next generation, and keeps the state in step with the
//! store.
//!
//! One path for everything: a write is decided on the current state, committed for exactly that
//! generation, and seen through the store's watch like any other. A conflict means deciding again.

use std::sync::Arc;
use std::time::Duration;

use control::name::Name;
use control::registry::v1::{self, MemberKind, MemberState};
use control::view::{self, CLUSTER_KEY_BYTES, Refusal};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use store::{
    CommitError, Health, Listing, Point, RefreshError, Store, StoreError, WatchError, Write,
};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};

use crate::resource::{Managed, key_of};
use crate::state::{Alive, DamagedError, Seen, State, alive_key, seen_key};
use crate::statuses::Statuses;

/// How long a member lives without a refresh.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Most resources of all kinds together.
pub(crate) const RESOURCES_MAX: usize = 10_000;
/// Entries of a page unless the request wants fewer.
const PAGE_MAX: usize = 1000;
/// How often a write is decided again after a conflict.
const ATTEMPTS_MAX: usize = 10;
/// How long the state may take to show a commit.
const REACH_MAX: Duration = Duration::from_secs(2);
/// How long a commit of another registry usually takes to get here, amply.
const LAG_MAX: Duration = Duration::from_millis(100);
/// A prefix of no key: its listing says where the store stands.
const NOTHING: &str = "nothing/";
/// How long a refresh may take; a node waits 2 s for its answer.
const REFRESH_MAX: Duration = Duration::from_secs(1);
/// Wait before a store that did not answer is read again.
const READ_RETRY: Duration = Duration::from_millis(200);
const CLUSTER_KEY: &str = "secrets/cluster-key";

/// Why a request was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the request is invalid")]
    Invalid(Vec<Refusal>),
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} is alive at {1}")]
    AliveElsewhere(String, String),
    #[error("{name} has the etag {stored} by now")]
    Etag { name: String, stored: String },
    #[error("{0} is referred to")]
    Referenced(String, Vec<Refusal>),
    #[error("{0}: its kind cannot change")]
    Kind(String),
    #[error("{0}: incarnation {1} was seen, {2} is older")]
    Incarnation(String, u64, u64),
    #[error("the session of {0} is not known; register again")]
    Session(String),
    #[error("{what}: at most {max}")]
    Full { what: &'static str, max: usize },
    #[error("others keep writing; try again")]
    Busy,
    #[error("the store is not available; nodes carry on with what they have")]
    Store(#[source] Option<StoreError>),
}

/// Why the catalog cannot be opened or followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error(transparent)]
    Damaged(#[from] DamagedError),
    #[error("the cluster key in the store is not {CLUSTER_KEY_BYTES} bytes long")]
    ClusterKey,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the first commit failed")]
    FirstCommit(#[source] CommitError),
}

/// Whether a resource must be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Create,
    Update { allow_missing: bool },
}

pub(crate) struct Catalog {
    cluster: String,
    store: Arc<dyn Store>,
    state: watch::Sender<Arc<State>>,
    statuses: Statuses,
    writing: Mutex<()>,
}

impl Catalog {
    /// Reads the store, as soon as it answers; a new one gets its cluster key and set 1 first.
    pub(crate) async fn open(store: Arc<dyn Store>, cluster: String) -> Result<Self, CatalogError> {
        let listing = loop {
            let listing = list(&*store).await?;
            if cluster_key(&listing).is_some() {
                break listing;
            }
            match store.commit(listing.at, first_writes()).await {
                // Another registry may be first.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) if error.may_pass() => {}
                Err(error) => return Err(CatalogError::FirstCommit(error)),
            }
        };
        let state = watch::Sender::new(Arc::new(read(&listing)?));
        Ok(Self {
            cluster,
            store,
            state,
            statuses: Statuses::default(),
            writing: Mutex::default(),
        })
    }

    /// Keeps the state in step with the store, for as long as both live.
    pub(crate) async fn follow(&self) -> Result<(), CatalogError> {
        loop {
            let mut watch = self.store.watch("", self.state().at);
            loop {
                match watch.next().await {
                    Ok(commit) => drop(
                        self.state
                            .send_replace(Arc::new(self.state().after(&commit))),
                    ),
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
            self.state.send_replace(Arc::new(self.read_again().await?));
        }
    }

    /// Reads the store until it answers with something that can be read; what is in memory counts
    /// meanwhile.
    async fn read_again(&self) -> Result<State, StoreError> {
        loop {
            match read(&list(&*self.store).await?) {
                Ok(state) => return Ok(state),
                Err(error) => tracing::error!(%error, "carrying on with the state before"),
            }
            sleep(READ_RETRY * 5).await;
        }
    }

    /// Waits until the state is at `generation`, where a node has been, or later; not in vain: if that
    /// takes long the store is asked whether it has such a generation.
    pub(crate) async fn catch_up(&self, generation: u64) -> Result<(), Refused> {
        if timeout(LAG_MAX, self.reach(generation)).await.is_ok() {
            return Ok(());
        }
        let listing = self.store.list(NOTHING).await;
        let listing = listing.map_err(|error| Refused::Store(Some(error)))?;
        self.reach(generation.min(listing.at.generation)).await
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

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    pub(crate) fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(crate) fn get<R: Managed>(&self, name: &str) -> Result<R, Refused> {
        find(&self.state(), &parse::<R>(name)?)
    }

    /// Returns a page of the resources that `wanted` lets through, and the token of the next page.
    pub(crate) fn list<R: Managed>(
        &self,
        page_size: i32,
        page_token: &str,
        wanted: impl Fn(&Name) -> bool,
    ) -> Result<(Vec<R>, String), Refused> {
        let size = match usize::try_from(page_size) {
            Ok(0) => PAGE_MAX,
            Ok(size) => size.min(PAGE_MAX),
            Err(_) => return Err(invalid("", "page_size", "must not be negative")),
        };
        let after = match page_token {
            "" => None,
            token => Some(
                token
                    .parse::<Name>()
                    .map_err(|_| invalid("", "page_token", "came from no page"))?,
            ),
        };
        let state = self.state();
        let mut rest = state
            .resources
            .by_name
            .iter()
            .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after) && wanted(name))
            .filter_map(|(_, resource)| R::from_resource(resource));
        let page: Vec<R> = rest.by_ref().take(size).cloned().collect();
        let more = rest.next().is_some();
        let token = page
            .last()
            .filter(|_| more)
            .map(|last| last.name().to_owned())
            .unwrap_or_default();
        Ok((page, token))
    }

    /// Creates or replaces a resource; returns it as it is stored now, or would be.
    pub(crate) async fn put<R: Managed>(
        &self,
        resource: R,
        mode: Mode,
        validate_only: bool,
    ) -> Result<R, Refused> {
        let name = parse::<R>(resource.name())?;
        let decide = |state: &State| {
            let existing = find::<R>(state, &name).ok();
            match (&existing, mode) {
                (Some(_), Mode::Create) => return Err(Refused::Exists(name.to_string())),
                (
                    None,
                    Mode::Update {
                        allow_missing: false,
                    },
                ) => return Err(Refused::NotFound(name.to_string())),
                (Some(_), Mode::Update { .. })
                | (
                    None,
                    Mode::Create
                    | Mode::Update {
                        allow_missing: true,
                    },
                ) => {}
            }
            let stored_etag = existing.as_ref().map_or("", |existing| existing.etag());
            check_etag(&name, resource.etag(), stored_etag)?;
            accept(state, &name, resource.clone(), existing.as_ref())
        };
        self.write(validate_only, decide).await?;
        if validate_only {
            let mut resource = resource;
            resource.strip();
            return Ok(resource);
        }
        find(&self.state(), &name)
    }

    /// Deletes a resource that nothing refers to.
    pub(crate) async fn delete<R: Managed>(
        &self,
        name: &str,
        etag: &str,
        validate_only: bool,
    ) -> Result<(), Refused> {
        let name = parse::<R>(name)?;
        let decide = |state: &State| {
            let existing: R = find(state, &name)?;
            check_etag(&name, etag, existing.etag())?;
            let mut without = state.resources.clone();
            without.by_name.remove(&name);
            without
                .to_view()
                .map_err(|refusals| Refused::Referenced(name.to_string(), refusals))?;
            let mut writes = vec![Write::Delete { key: key_of(&name) }];
            if let Name::Member(id) = &name {
                writes.extend([seen_key(id), alive_key(id)].map(|key| Write::Delete { key }));
            }
            Ok(writes)
        };
        self.write(validate_only, decide).await
    }

    /// Sets what the operator wants of a member.
    pub(crate) async fn set_member_state(
        &self,
        name: &str,
        wanted: MemberState,
    ) -> Result<v1::Member, Refused> {
        let name = parse::<v1::Member>(name)?;
        let decide = |state: &State| {
            let existing: v1::Member = find(state, &name)?;
            let mut member = existing.clone();
            member.set_desired_state(wanted);
            accept(state, &name, member, Some(&existing))
        };
        self.write(false, decide).await?;
        find(&self.state(), &name)
    }

    /// Makes a node a member that is alive; returns it and its new session.
    pub(crate) async fn register(
        &self,
        node: v1::Member,
        incarnation: u64,
    ) -> Result<(v1::Member, String), Refused> {
        let name = parse::<v1::Member>(&node.name)?;
        if node.kind() == MemberKind::StockRouter {
            return Err(invalid(
                &node.name,
                "kind",
                "a stock router is added by hand",
            ));
        }
        let session = format!("{:032x}", StdRng::from_os_rng().random::<u128>());
        let decide = |state: &State| {
            let existing = find::<v1::Member>(state, &name).ok();
            if let Some(existing) = &existing {
                check_registration(state, &name, existing, &node, incarnation)?;
            }
            let mut writes = accept(
                state,
                &name,
                merge(&node, existing.as_ref()),
                existing.as_ref(),
            )?;
            writes.push(Write::Put {
                key: seen_key(name.id()),
                value: json(&Seen { incarnation }),
            });
            let alive = json(&Alive {
                session: session.clone(),
            });
            writes.push(Write::PutLeased {
                key: alive_key(name.id()),
                value: alive,
                lease: LEASE,
            });
            Ok(writes)
        };
        self.write(false, decide).await?;
        tracing::info!(
            node = name.id(),
            incarnation,
            address = node.address,
            "member registered"
        );
        Ok((find(&self.state(), &name)?, session))
    }

    /// Gives a member's lease its full time again, or takes it away when the member is leaving.
    pub(crate) async fn keep_alive(
        &self,
        name: &str,
        session: &str,
        leaving: bool,
    ) -> Result<(), Refused> {
        let name = parse::<v1::Member>(name)?;
        let unknown = || Refused::Session(name.to_string());
        let check = |state: &State| match state.alive.get(name.id()) {
            Some(alive) if alive.session == session => Ok(()),
            Some(_) | None => Err(unknown()),
        };
        if leaving {
            tracing::info!(node = name.id(), "member is leaving");
            let key = alive_key(name.id());
            return self
                .write(false, |state| {
                    check(state).map(|()| vec![Write::Delete { key: key.clone() }])
                })
                .await;
        }
        check(&self.state())?;
        let key = alive_key(name.id());
        let refreshed = timeout(REFRESH_MAX, self.store.refresh(&key)).await;
        let refreshed = refreshed.map_err(|_| Refused::Store(None))?;
        refreshed.map_err(|error| match error {
            RefreshError::NoLease => unknown(),
            RefreshError::Store(error) => Refused::Store(Some(error)),
        })
    }

    /// Commits what `decide` wants for the current state, and waits until the state shows it.
    async fn write(
        &self,
        validate_only: bool,
        decide: impl Fn(&State) -> Result<Vec<Write>, Refused>,
    ) -> Result<(), Refused> {
        let _one_at_a_time = self.writing.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let state = self.state();
            let writes = decide(&state)?;
            if validate_only || writes.is_empty() {
                return Ok(());
            }
            match self.store.commit(state.at, writes).await {
                Ok(made) => return self.reach(made.generation).await,
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

/// Checks a resource together with everything else and returns the write it takes; none if it is
/// stored like that already.
fn accept<R: Managed>(
    state: &State,
    name: &Name,
    mut resource: R,
    existing: Option<&R>,
) -> Result<Vec<Write>, Refused> {
    resource.strip();
    let mut all = state.resources.clone();
    all.by_name
        .insert(name.clone(), resource.clone().into_resource());
    if all.by_name.len() > RESOURCES_MAX {
        return Err(Refused::Full {
            what: "resources",
            max: RESOURCES_MAX,
        });
    }
    let view = all.to_view().map_err(Refused::Invalid)?;
    let before = state
        .resources
        .by_name
        .get(name)
        .and_then(|resource| v1::Member::from_resource(resource));
    if let (Some(before), Name::Member(id)) = (before, name)
        && view
            .member(id)
            .map(|member| v1::MemberKind::from(member.kind))
            != Some(before.kind())
    {
        return Err(Refused::Kind(name.to_string()));
    }
    let same = existing.is_some_and(|existing| {
        let mut existing = existing.clone();
        existing.strip();
        existing == resource
    });
    let value = control::json::encode(&resource).into_bytes();
    Ok(if same {
        Vec::new()
    } else {
        vec![Write::Put {
            key: key_of(name),
            value,
        }]
    })
}

/// What a node says of itself, with what people may have changed.
fn merge(node: &v1::Member, existing: Option<&v1::Member>) -> v1::Member {
    let Some(existing) = existing else {
        return node.clone();
    };
    v1::Member {
        cell: existing.cell.clone(),
        zone: existing.zone.clone(),
        tags: existing.tags.clone(),
        desired_state: existing.desired_state,
        ..node.clone()
    }
}

fn check_registration(
    state: &State,
    name: &Name,
    existing: &v1::Member,
    node: &v1::Member,
    incarnation: u64,
) -> Result<(), Refused> {
    let alive = state.alive.contains_key(name.id());
    if alive && (existing.address != node.address || existing.sip != node.sip) {
        let address = existing
            .sip
            .first()
            .map_or(&existing.address, |endpoint| &endpoint.address);
        return Err(Refused::AliveElsewhere(name.to_string(), address.clone()));
    }
    if incarnation < existing.incarnation {
        return Err(Refused::Incarnation(
            name.to_string(),
            existing.incarnation,
            incarnation,
        ));
    }
    Ok(())
}

fn check_etag(name: &Name, given: &str, stored: &str) -> Result<(), Refused> {
    if given.is_empty() || given == stored {
        return Ok(());
    }
    Err(Refused::Etag {
        name: name.to_string(),
        stored: stored.to_owned(),
    })
}

fn find<R: Managed>(state: &State, name: &Name) -> Result<R, Refused> {
    let found = state
        .resources
        .by_name
        .get(name)
        .and_then(|resource| R::from_resource(resource));
    found
        .cloned()
        .ok_or_else(|| Refused::NotFound(name.to_string()))
}

fn parse<R: Managed>(text: &str) -> Result<Name, Refused> {
    let name: Name = text
        .parse()
        .map_err(|error: control::name::NameError| invalid(text, "name", error.to_string()))?;
    if R::owns(&name) {
        Ok(name)
    } else {
        Err(invalid(text, "name", format!("names no {}", R::NAME)))
    }
}

pub(crate) fn invalid(resource: &str, field: &str, reason: impl Into<String>) -> Refused {
    Refused::Invalid(vec![Refusal {
        resource: resource.to_owned(),
        field: field.to_owned(),
        reason: reason.into(),
    }])
}

/// Lists everything, as soon as the store answers.
async fn list(store: &dyn Store) -> Result<Listing, StoreError> {
    loop {
        match store.list("").await {
            Err(error) if error.may_pass() => sleep(READ_RETRY).await,
            listed => return listed,
        }
    }
}

fn read(listing: &Listing) -> Result<State, CatalogError> {
    let key = cluster_key(listing)
        .and_then(|key| key.try_into().ok())
        .ok_or(CatalogError::ClusterKey)?;
    Ok(State::from_listing(listing, key)?)
}

fn cluster_key(listing: &Listing) -> Option<&[u8]> {
    listing
        .entries
        .iter()
        .find(|entry| entry.key == CLUSTER_KEY)
        .map(|entry| entry.value.as_slice())
}

fn first_writes() -> Vec<Write> {
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
    vec![
        Write::Put {
            key: CLUSTER_KEY.to_owned(),
            value: key,
        },
        Write::Put {
            key: "config/sets/1".to_owned(),
            value,
        },
    ]
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a struct of numbers and text is always JSON")
}
