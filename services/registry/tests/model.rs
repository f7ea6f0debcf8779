//! The API against a model of it, on both stores: random changes, each answered and stored as the model
//! says. `SEED=` repeats a run, `STEPS=` makes it longer.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;
#[path = "../../../crates/store/tests/common/etcd.rs"]
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::{Running, registry, registry_with};
use control::registry::v1::apply_service_client::ApplyServiceClient;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::watch_response::Message;
use control::registry::v1::watch_service_client::WatchServiceClient;
use control::registry::v1::*;
use control::view::{etag_of, name_of};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use real::{Etcds, Setup};
use store::EtcdConfig;
use tandem_registry::{Config, StoreConfig};
use tonic::Code;

const SETS: [&str; 3] = ["sets/1", "sets/2", "sets/3"];
const ROUTES: [&str; 3] = ["routes/a", "routes/b", "routes/c"];

/// What the registry should hold: by name, a variant, and for a route the set it leads to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model(BTreeMap<String, (u32, Option<String>)>);

impl Model {
    fn is_good(&self) -> bool {
        self.0.iter().all(|(name, (_, set))| {
            let parent = name.split("/destinations/").next().unwrap_or_default();
            let has_parent = parent == name || self.0.contains_key(parent);
            has_parent && set.as_ref().is_none_or(|set| self.0.contains_key(set))
        })
    }
}

/// One thing to be, in a request.
#[derive(Clone, Debug)]
enum Step {
    Put(String, u32, Option<String>),
    Delete(String),
}

fn step(rng: &mut StdRng) -> Step {
    let set = (*SETS.choose(rng).unwrap()).to_owned();
    let name = match rng.random_range(0..3) {
        0 => set.clone(),
        1 => format!("{set}/destinations/{}", ["x", "y"].choose(rng).unwrap()),
        _ => (*ROUTES.choose(rng).unwrap()).to_owned(),
    };
    if rng.random_ratio(1, 3) {
        return Step::Delete(name);
    }
    let leads_to = name.starts_with("routes/").then_some(set);
    Step::Put(name, rng.random_range(0..3), leads_to)
}

fn resource(name: &str, variant: u32, set: Option<&String>, etag: String) -> Resource {
    let name = name.to_owned();
    let kind = if let Some(set) = set {
        Kind::Route(Route {
            name,
            priority: variant.cast_signed(),
            results: vec![RouteResult {
                next_hop: Some(route_result::NextHop::Set(set.clone())),
                ..RouteResult::default()
            }],
            etag,
            ..Route::default()
        })
    } else if name.contains("/destinations/") {
        Kind::Destination(Destination {
            name,
            uri: "sip:192.0.2.1".into(),
            priority: variant.cast_signed(),
            etag,
            ..Destination::default()
        })
    } else {
        Kind::DestinationSet(DestinationSet {
            name,
            algorithm: variant * 4,
            etag,
            ..DestinationSet::default()
        })
    };
    Resource {
        resource: Some(kind),
    }
}

/// What everything looks like to somebody who comes now.
async fn everything(registry: &Running) -> BTreeMap<String, Resource> {
    let mut client = WatchServiceClient::new(registry.channel().await);
    let watching = client.watch(WatchRequest::default()).await.unwrap();
    let first = watching.into_inner().message().await.unwrap().unwrap();
    let Some(Message::Snapshot(snapshot)) = first.message else {
        panic!("{first:?}")
    };
    let named = |resource: Resource| (name_of(&resource).to_owned(), resource);
    snapshot.resources.into_iter().map(named).collect()
}

fn variant(resource: &Resource) -> (u32, Option<String>) {
    match resource.resource.clone().unwrap() {
        Kind::DestinationSet(set) => (set.algorithm / 4, None),
        Kind::Destination(one) => (one.priority.cast_unsigned(), None),
        Kind::Route(route) => match route.results[0].next_hop.clone().unwrap() {
            route_result::NextHop::Set(set) => (route.priority.cast_unsigned(), Some(set)),
            route_result::NextHop::Uri(uri) => panic!("{uri}"),
        },
        Kind::Cell(_)
        | Kind::Member(_)
        | Kind::TableDefinition(_)
        | Kind::Trunk(_)
        | Kind::Profile(_) => panic!("{resource:?}"),
    }
}

async fn obeys_the_model(registry: &Running, steps: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut client = ApplyServiceClient::new(registry.channel().await);
    let mut model = Model::default();
    model.0.insert("sets/1".into(), (0, None));
    let (mut made, mut refused) = (0, 0);
    let mut before = everything(registry).await;
    for round in 0..steps {
        let context = format!("seed {seed}, round {round}");
        let mut names = BTreeSet::new();
        let steps: Vec<Step> = (0..rng.random_range(1..5))
            .map(|_| step(&mut rng))
            .filter(|step| match step {
                Step::Put(name, ..) | Step::Delete(name) => names.insert(name.clone()),
            })
            .collect();
        let stale = rng.random_ratio(1, 10);
        let mut request = ApplyResourcesRequest {
            validate_only: rng.random_ratio(1, 10),
            ..ApplyResourcesRequest::default()
        };
        let mut wanted = model.clone();
        let mut actions = BTreeMap::new();
        let mut is_stale = false;
        for step in &steps {
            match step {
                Step::Put(name, variant, set) => {
                    let stored = before.get(name).map(etag_of).unwrap_or_default();
                    let etag = if stale { "1-0" } else { stored };
                    is_stale |= stale;
                    let resource = resource(name, *variant, set.as_ref(), etag.to_owned());
                    request.resources.push(resource);
                    let value = (*variant, set.clone());
                    let action = match wanted.0.insert(name.clone(), value.clone()) {
                        None => AppliedAction::Created,
                        // Set 1 has a selector at first.
                        Some(was) if was == value && !has_selector(&before, name) => {
                            AppliedAction::Unchanged
                        }
                        Some(_) => AppliedAction::Updated,
                    };
                    actions.insert(name.clone(), action);
                }
                Step::Delete(name) => {
                    request.deletes.push(name.clone());
                    let action = match wanted.0.remove(name) {
                        Some(_) => AppliedAction::Deleted,
                        None => AppliedAction::Unchanged,
                    };
                    actions.insert(name.clone(), action);
                }
            }
        }
        let position = registry.status().await.position.unwrap();
        let answer = client.apply_resources(request.clone()).await;
        if is_stale || !wanted.is_good() {
            refused += 1;
            let code = answer.expect_err(&context).code();
            let codes = [
                Code::Aborted,
                Code::InvalidArgument,
                Code::FailedPrecondition,
            ];
            assert!(codes.contains(&code), "{context}: {code}");
            assert_eq!(code == Code::Aborted, is_stale, "{context}");
        } else {
            let answer = answer.unwrap_or_else(|status| panic!("{context}: {status} {request:?}"));
            let answer = answer.into_inner();
            let found = answer
                .applied
                .iter()
                .map(|one| (one.name.clone(), one.action()));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), actions, "{context}");
            let changes = actions
                .values()
                .any(|action| *action != AppliedAction::Unchanged);
            let takes_one = u64::from(changes && !request.validate_only);
            let now = answer.position.unwrap().generation;
            assert_eq!(now, position.generation + takes_one, "{context}");
            if !request.validate_only {
                made += 1;
                model = wanted;
            }
        }
        let after = everything(registry).await;
        let found = after
            .iter()
            .map(|(name, resource)| (name.clone(), variant(resource)));
        assert_eq!(Model(found.collect()), model, "{context}");
        for (name, resource) in &after {
            let same = before.get(name).is_some_and(|was| was == resource);
            let touched = names.contains(name);
            assert!(same || touched, "{context}: {name} changed");
        }
        before = after;
    }
    assert!(
        made > steps / 10 && refused > steps / 10,
        "seed {seed}: {made} {refused}"
    );
}

fn has_selector(all: &BTreeMap<String, Resource>, name: &str) -> bool {
    all.get(name)
        .is_some_and(|resource| match &resource.resource {
            Some(Kind::DestinationSet(set)) => set.selector.is_some(),
            _ => false,
        })
}

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn the_embedded_store_obeys_the_model() {
    let registry = registry("127.0.7.131").await;
    let seed = number("SEED", StdRng::from_os_rng().next_u64());
    let steps = usize::try_from(number("STEPS", 150)).unwrap();
    obeys_the_model(&registry, steps, seed).await;
}

#[tokio::test]
async fn etcd_obeys_the_model() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let mut config = Config::at("127.0.7.132".parse::<IpAddr>().unwrap());
    config.store = StoreConfig::Etcd(EtcdConfig {
        endpoints: etcds.endpoints(),
        ..EtcdConfig::default()
    });
    let registry = registry_with(config).await;
    let seed = number("SEED", StdRng::from_os_rng().next_u64());
    let steps = usize::try_from(number("STEPS", 150)).unwrap();
    obeys_the_model(&registry, steps, seed).await;
}
