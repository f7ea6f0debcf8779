//! Values written into etcd by hand: they count as the API's do, or are explained.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;
#[path = "common/malformed.rs"]
mod malformed;
#[path = "../../../crates/store/tests/common/etcd.rs"]
mod real;

use std::net::IpAddr;

use common::{
    Running, eventually, has_set, liveness, members, node, put_set, reaches, registry_with, session,
};
use control::registry::v1::status_service_client::StatusServiceClient;
use control::registry::v1::{DrainMemberRequest, Fault, ListFaultsRequest};
use control::view::{Algorithm, Liveness, MemberState};
use real::{Etcds, Setup};
use store::EtcdConfig;
use tandem_registry::{Config, StoreConfig};

fn config(address: &str, etcds: &Etcds) -> Config {
    let mut config = Config::at(address.parse::<IpAddr>().unwrap());
    config.store = StoreConfig::Etcd(EtcdConfig {
        endpoints: etcds.endpoints(),
        ..EtcdConfig::default()
    });
    config
}

/// The key of a path in the cluster of the tests.
fn key(registry: &Running, path: &str) -> String {
    format!("/tandem/v1/{}/{path}", registry.config.cluster)
}

async fn faults(registry: &Running) -> Vec<Fault> {
    let mut client = StatusServiceClient::new(registry.channel().await);
    let listed = client
        .list_faults(ListFaultsRequest::default())
        .await
        .unwrap();
    listed.into_inner().faults
}

/// Resource and fields of the only fault; nothing unless there is exactly one.
async fn only_fault(registry: &Running) -> Option<(String, Vec<String>)> {
    let faults = faults(registry).await;
    let [fault] = &faults[..] else { return None };
    let fields = fault.refusals.iter().map(|refusal| refusal.field.clone());
    Some((fault.resource.clone(), fields.collect()))
}

#[tokio::test]
async fn a_bad_value_is_explained_and_whoever_comes_fresh_is_served_the_one_before() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let old = registry_with(config("127.0.7.111", &etcds)).await;
    put_set(&old, "2", 4).await;
    let bad = r#"{"name":"sets/2","algorithm":5}"#;
    etcds.ctl(&["put", &key(&old, "config/sets/2"), bad]);
    let wanted = Some(("sets/2".to_owned(), vec!["algorithm".to_owned()]));
    eventually("the fault", || async { only_fault(&old).await == wanted }).await;
    assert_eq!(old.status().await.faults, 1);

    // Nobody who was there before helps.
    let fresh = registry_with(config("127.0.7.112", &etcds)).await;
    drop(old);
    let directory = tempfile::tempdir().unwrap();
    let node = session(node("router-a", &fresh, directory.path())).await;
    let mut view = node.view();
    let seen = reaches(&mut view, "the set", has_set("2")).await;
    assert_eq!(seen.set("2").unwrap().algorithm, Algorithm::RoundRobin);
    assert_eq!(only_fault(&fresh).await, wanted);

    let good = r#"{"name":"sets/2","algorithm":8}"#;
    etcds.ctl(&["put", &key(&fresh, "config/sets/2"), good]);
    reaches(&mut view, "the mended set", |view| {
        view.set("2")
            .is_some_and(|set| set.algorithm == Algorithm::Priority)
    })
    .await;
    eventually("no fault is left", || async {
        faults(&fresh).await.is_empty()
    })
    .await;
    etcds.ctl(&["del", &key(&fresh, "config/sets/2")]);
    reaches(&mut view, "it is deleted", |view| view.set("2").is_none()).await;
}

#[tokio::test]
async fn a_plain_put_on_a_member_leaves_its_life_alone() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let registry = registry_with(config("127.0.7.113", &etcds)).await;
    let directory = tempfile::tempdir().unwrap();
    let watching = tempfile::tempdir().unwrap();
    let watcher = session(node("watcher", &registry, watching.path())).await;
    let node = session(node("router-a", &registry, directory.path())).await;
    let mut view = watcher.view();
    reaches(&mut view, "it lives", liveness("router-a", Liveness::Alive)).await;
    let drain = DrainMemberRequest {
        name: "members/router-a".into(),
        ..DrainMemberRequest::default()
    };
    members(&registry).await.drain_member(drain).await.unwrap();

    let path = key(&registry, "config/members/router-a");
    let stored = etcds.ctl(&["get", "--print-value-only", &path]);
    let edited = stored.trim().replacen('{', r#"{"tags":["by-hand"],"#, 1);
    etcds.ctl(&["put", &path, &edited]);
    let seen = reaches(&mut view, "the tag", |view| {
        view.member("router-a")
            .is_some_and(|member| member.tags == ["by-hand"])
    })
    .await;
    assert_eq!(seen.member("router-a").unwrap().liveness, Liveness::Alive);
    drop(node);
    let seen = reaches(
        &mut view,
        "it is gone",
        liveness("router-a", Liveness::Gone),
    )
    .await;
    let member = seen.member("router-a").unwrap();
    assert_eq!(member.desired_state, MemberState::Draining);
    assert_eq!(member.tags, ["by-hand"]);
}

#[tokio::test]
async fn a_node_that_registers_leaves_alone_what_a_hand_got_wrong() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let registry = registry_with(config("127.0.7.116", &etcds)).await;
    let directory = tempfile::tempdir().unwrap();
    let config = node("router-a", &registry, directory.path());
    let first = session(config.clone()).await;
    let mut view = first.view();
    reaches(&mut view, "it lives", liveness("router-a", Liveness::Alive)).await;
    let path = key(&registry, "config/members/router-a");
    let stored = etcds.ctl(&["get", "--print-value-only", &path]);
    let wrong = stored
        .trim()
        .replacen('{', r#"{"tags":["by-hand"],"zoen":"east","#, 1);
    etcds.ctl(&["put", &path, &wrong]);
    let is_fault = || async {
        let fault = only_fault(&registry).await;
        fault.is_some_and(|(resource, _)| resource == "members/router-a")
    };
    eventually("the fault", is_fault).await;

    // It comes back, and says something else of itself.
    drop(first);
    let moved = control::client::NodeConfig {
        dmq_port: Some(5072),
        ..config
    };
    let second = session(moved).await;
    let mut view = second.view();
    reaches(&mut view, "its new port", |view| {
        let dmq = view.member("router-a").and_then(|member| member.dmq);
        dmq.is_some_and(|dmq| dmq.port() == 5072)
    })
    .await;
    let kept = etcds.ctl(&["get", "--print-value-only", &path]);
    assert_eq!(kept.trim(), wrong);
    assert!(is_fault().await);
    etcds.ctl(&["put", &path, &wrong.replace("zoen", "zone")]);
    reaches(&mut view, "what was meant", |view| {
        let member = view.member("router-a");
        member.is_some_and(|member| member.zone == "east" && member.tags == ["by-hand"])
    })
    .await;
}

#[tokio::test]
async fn a_value_with_thousands_of_mistakes_stops_neither_others_nor_a_start() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let registry = registry_with(config("127.0.7.117", &etcds)).await;
    let sip = vec!["{}"; 2500].join(",");
    let bad = format!(r#"{{"name":"members/a","sip":[{sip}]}}"#);
    etcds.ctl(&["put", &key(&registry, "config/members/a"), &bad]);
    let good = r#"{"name":"sets/2"}"#;
    etcds.ctl(&["put", &key(&registry, "config/sets/2"), good]);
    let counts = || async {
        let accepted = key(&registry, "accepted/sets/2");
        !etcds.ctl(&["get", &accepted]).is_empty() && faults(&registry).await.len() == 1
    };
    eventually("the good one counts", counts).await;
    let fresh = registry_with(config("127.0.7.118", &etcds)).await;
    assert_eq!(faults(&fresh).await.len(), 1);
}

#[tokio::test]
async fn malformed_values_are_explained_by_their_field_and_nothing_of_them_counts() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let registry = registry_with(config("127.0.7.114", &etcds)).await;
    let before = registry.status().await.position.unwrap().checksum;
    for (name, value, field) in [malformed::WRONG, malformed::UNREADABLE].concat() {
        let path = name.replace("/destinations/", "/");
        let path = key(&registry, &format!("config/{path}"));
        etcds.ctl(&["put", &path, value]);
        let wanted = Some((name.to_owned(), vec![field.to_owned()]));
        eventually(value, || async { only_fault(&registry).await == wanted }).await;
        let now = registry.status().await.position.unwrap().checksum;
        assert_eq!(now, before, "{value}");
        etcds.ctl(&["del", &path]);
        eventually("it is forgotten", || async {
            faults(&registry).await.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_store_of_an_earlier_version_is_taken_over_before_it_is_served() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let config = config("127.0.7.115", &etcds);
    let put = |path: &str, value: &str| {
        let key = format!("/tandem/v1/{}/{path}", config.cluster);
        etcds.ctl(&["put", &key, value]);
    };
    put("secrets/cluster-key", "0123456789abcdef");
    for i in 0..5 {
        put(
            &format!("config/sets/{i}"),
            &format!(r#"{{"name":"sets/{i}"}}"#),
        );
    }
    put(
        "config/routes/a",
        r#"{"name":"routes/a","results":[{"set":"sets/3"}]}"#,
    );
    let registry = registry_with(config).await;
    let directory = tempfile::tempdir().unwrap();
    let node = session(node("router-a", &registry, directory.path())).await;
    let mut view = node.view();
    // The first view that it gets has all of it.
    let first = reaches(&mut view, "a view", |view| view.generation > 0).await;
    assert_eq!((first.sets.len(), first.routes.len()), (5, 1), "{first:?}");
    assert!(faults(&registry).await.is_empty());

    // And a hand that deletes what it must not touch takes nothing from anybody.
    etcds.ctl(&["del", "--prefix", &key(&registry, "accepted/")]);
    eventually("it is written again", || async {
        let keys = etcds.ctl(&[
            "get",
            "--prefix",
            "--keys-only",
            &key(&registry, "accepted/"),
        ]);
        assert_eq!(view.borrow().sets.len(), 5);
        keys.split_whitespace().count() == 7
    })
    .await;
}

#[tokio::test]
async fn another_cluster_key_is_served_by_old_and_fresh_registries_alike() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let old = registry_with(config("127.0.7.119", &etcds)).await;
    let directory = tempfile::tempdir().unwrap();
    let node_of_old = session(node("router-a", &old, directory.path())).await;
    let mut view = node_of_old.view();
    let is_alive = liveness("router-a", Liveness::Alive);
    reaches(&mut view, "it lives", is_alive).await;
    let new = "0123456789abcdef";
    etcds.ctl(&["put", &key(&old, "secrets/cluster-key"), new]);
    let has_key = |view: &control::view::View| view.cluster_key == *b"0123456789abcdef";
    reaches(&mut view, "the new key", has_key).await;

    let fresh = registry_with(config("127.0.7.120", &etcds)).await;
    let other = tempfile::tempdir().unwrap();
    let node_of_fresh = session(node("router-b", &fresh, other.path())).await;
    reaches(&mut node_of_fresh.view(), "the new key", has_key).await;
    eventually("both are at the same position", || async {
        old.status().await.position == fresh.status().await.position
    })
    .await;
}
