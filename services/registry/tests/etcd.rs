//! Registries over one etcd: what one accepts the other serves, and life goes on without etcd.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]
#![allow(clippy::print_stdout, reason = "says how many races there were")]

mod common;
#[path = "../../../crates/store/tests/common/etcd.rs"]
mod real;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    PATIENCE, Running, eventually, has_set, liveness, members, node, put_set, reaches,
    registry_with, session,
};
use control::registry::v1::apply_service_client::ApplyServiceClient;
use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{
    AppliedAction, ApplyResourcesRequest, Destination, DestinationSet, DrainMemberRequest,
    ListDestinationSetsRequest, Resource, Route, RouteResult, UpdateDestinationSetRequest,
    route_result,
};
use control::view::{Liveness, MemberState, View};
use real::{Etcds, Setup};
use store::{Etcd, EtcdConfig, Listing, Store};
use tandem_registry::{Config, StoreConfig};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

fn config(address: &str, etcds: &Etcds) -> Config {
    let mut config = Config::at(address.parse::<IpAddr>().unwrap());
    config.store = StoreConfig::Etcd(EtcdConfig {
        endpoints: etcds.endpoints(),
        ..EtcdConfig::default()
    });
    config
}

async fn two(addresses: [&str; 2]) -> Option<(Etcds, [Running; 2])> {
    let etcds = Etcds::start(1, Setup::default())?;
    let [a, b] = addresses.map(|address| registry_with(config(address, &etcds)));
    // At the same moment, over a store that is new.
    let (a, b) = tokio::join!(a, b);
    Some((etcds, [a, b]))
}

async fn component(registry: &Running, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut client = HealthClient::new(registry.channel().await);
    match client.check(request).await {
        Ok(answer) => answer.into_inner().status(),
        // It ends connections while it waits for its store.
        Err(_) => ServingStatus::Unknown,
    }
}

async fn are_equal(registries: &[Running; 2]) {
    eventually("both are at the same position", || async {
        let [a, b] = [&registries[0], &registries[1]];
        a.status().await.position == b.status().await.position
    })
    .await;
}

#[tokio::test]
async fn what_one_registry_accepts_the_other_serves() {
    let Some((_etcds, mut registries)) = two(["127.0.7.90", "127.0.7.91"]).await else {
        return;
    };
    are_equal(&registries).await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = node("router-a", &registries[0], directory.path());
    config.registries.push(registries[1].address().to_string());
    let node = session(config).await;
    let mut view = node.view();
    reaches(
        &mut view,
        "it is alive",
        liveness("router-a", Liveness::Alive),
    )
    .await;

    let began = Instant::now();
    put_set(&registries[1], "9", 0).await;
    reaches(&mut view, "the set of the other", has_set("9")).await;
    let within = began.elapsed();
    assert!(within < Duration::from_secs(1), "{within:?}");

    // It moves, and neither its lease nor its view notice.
    let before = view.borrow().members.clone();
    registries[0].stop().await;
    eventually("it follows the other", || async {
        registries[1].status().await.nodes_in_force == 1
    })
    .await;
    assert_eq!(view.borrow().members, before, "its lease went on");
    let drain = DrainMemberRequest {
        name: "members/router-a".into(),
        ..DrainMemberRequest::default()
    };
    members(&registries[1])
        .await
        .drain_member(drain)
        .await
        .unwrap();
    reaches(&mut view, "it drains", |view| {
        view.member("router-a")
            .is_some_and(|member| member.desired_state == MemberState::Draining)
    })
    .await;
    registries[0].start().await;
    are_equal(&registries).await;
    drop(node);
    eventually("its lease ends", || async {
        let channel = registries[0].channel().await;
        let mut client =
            control::registry::v1::member_service_client::MemberServiceClient::new(channel);
        let request = control::registry::v1::GetMemberRequest {
            name: "members/router-a".into(),
        };
        let member = client.get_member(request).await.unwrap().into_inner();
        member.liveness() == control::registry::v1::Liveness::Gone
    })
    .await;
    are_equal(&registries).await;
}

#[tokio::test]
async fn without_etcd_a_registry_serves_on_and_refuses_writes() {
    let Some((mut etcds, registries)) = two(["127.0.7.92", "127.0.7.93"]).await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut config = node("router-a", &registries[0], directory.path());
    config.registries.push(registries[1].address().to_string());
    let node = session(config).await;
    let mut view = node.view();
    reaches(
        &mut view,
        "it is alive",
        liveness("router-a", Liveness::Alive),
    )
    .await;
    let before = registries[0].status().await.position;
    assert_eq!(
        component(&registries[0], "store").await,
        ServingStatus::Serving
    );

    etcds.kill_all();
    for registry in &registries {
        eventually("the store is down", || async {
            component(registry, "store").await == ServingStatus::NotServing
        })
        .await;
        assert_eq!(component(registry, "").await, ServingStatus::Serving);
    }
    let update = UpdateDestinationSetRequest {
        destination_set: Some(DestinationSet {
            name: "sets/9".into(),
            ..DestinationSet::default()
        }),
        allow_missing: true,
        ..UpdateDestinationSetRequest::default()
    };
    let mut sets = DestinationSetServiceClient::new(registries[0].channel().await);
    let refused = sets.update_destination_set(update).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let retry = refused.get_details_retry_info().unwrap().retry_delay;
    assert!(retry.is_some(), "{refused:?}");
    let listed = sets
        .list_destination_sets(ListDestinationSetsRequest::default())
        .await
        .expect("reads are served from memory");
    assert!(is_stale(&listed), "and say that they are");
    // Longer than a lease.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(registries[0].status().await.position, before);
    assert_eq!(
        registries[0].status().await.nodes_connected,
        1,
        "no node left"
    );

    etcds.run_all();
    let healed = Instant::now();
    eventually("the store is up", || async {
        component(&registries[0], "store").await == ServingStatus::Serving
    })
    .await;
    put_set(&registries[0], "9", 0).await;
    reaches(&mut view, "changes come again", has_set("9")).await;
    let within = healed.elapsed();
    assert!(within < Duration::from_secs(3), "{within:?}");
    assert!(liveness("router-a", Liveness::Alive)(&view.borrow()));
    are_equal(&registries).await;
}

fn is_stale<T>(answer: &tonic::Response<T>) -> bool {
    answer.metadata().get("tandem-stale").is_some()
}

#[tokio::test]
async fn what_one_registry_accepted_the_other_reads_at_once() {
    let Some((_etcds, registries)) = two(["127.0.7.240", "127.0.7.241"]).await else {
        return;
    };
    let channels = (registries[0].channel().await, registries[1].channel().await);
    let mut writer = DestinationSetServiceClient::new(channels.0);
    let mut reader = DestinationSetServiceClient::new(channels.1);
    for round in 0..100 {
        let update = UpdateDestinationSetRequest {
            destination_set: Some(DestinationSet {
                name: format!("sets/{round}"),
                ..DestinationSet::default()
            }),
            allow_missing: true,
            ..UpdateDestinationSetRequest::default()
        };
        let written = writer.update_destination_set(update).await.unwrap();
        let request = control::registry::v1::GetDestinationSetRequest {
            name: format!("sets/{round}"),
        };
        let read = reader.get_destination_set(request).await.unwrap();
        assert!(!is_stale(&read), "round {round}");
        assert_eq!(read.into_inner(), written.into_inner(), "round {round}");
    }
}

#[tokio::test]
async fn what_counts_can_be_followed_with_etcds_own_tool() {
    let Some((etcds, registries)) = two(["127.0.7.242", "127.0.7.243"]).await else {
        return;
    };
    let accepted = format!("/tandem/v1/{}/accepted/", registries[0].config.cluster);
    let mut etcdctl = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcds.endpoints().join(",")])
        .args(["watch", "--prefix", &accepted])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(etcdctl.stdout.take().unwrap());
    let (lines, mut seen) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            let _test_is_over = lines.send(line);
        }
    });
    let first = async {
        // It is not known when it begins to watch.
        for n in 0.. {
            put_set(&registries[n % 2], "seen", [0, 4][n / 2 % 2]).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let read = async {
        let mut read = Vec::new();
        while read.len() < 3 {
            read.push(seen.recv().await.expect("it goes on watching"));
        }
        read
    };
    let read = tokio::select! {
        () = first => Vec::new(),
        read = timeout(PATIENCE, read) => read.expect("it sees a change"),
    };
    etcdctl.kill().unwrap();
    etcdctl.wait().unwrap();
    assert_eq!(
        read[..2],
        ["PUT".to_owned(), format!("{accepted}sets/seen")]
    );
    let set: DestinationSet = control::json::decode(read[2].as_bytes()).unwrap();
    assert_eq!(set.name, "sets/seen");
}

#[tokio::test]
async fn a_registry_waits_for_an_etcd_that_is_not_there_yet() {
    let Some(mut etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    etcds.kill_all();
    let mut waiting = tokio::spawn(registry_with(config("127.0.7.94", &etcds)));
    sleep(Duration::from_secs(2)).await;
    etcds.run_all();
    let registry = timeout(PATIENCE, &mut waiting).await.unwrap().unwrap();
    eventually("it serves", || async {
        component(&registry, "store").await == ServingStatus::Serving
    })
    .await;
    assert_eq!(registry.generation().await, 1);
}

#[tokio::test]
async fn a_restored_etcd_is_served_by_both_alike() {
    let Some((mut etcds, registries)) = two(["127.0.7.95", "127.0.7.96"]).await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let node = session(node("router-a", &registries[0], directory.path())).await;
    let mut view = node.view();
    reaches(
        &mut view,
        "it is alive",
        liveness("router-a", Liveness::Alive),
    )
    .await;
    put_set(&registries[0], "kept", 0).await;
    let snapshot = etcds.save();
    let younger = tempfile::tempdir().unwrap();
    let young = session(common::node("young", &registries[1], younger.path())).await;
    put_set(&registries[0], "lost", 0).await;
    reaches(&mut view, "the later set", has_set("lost")).await;
    let is_young = liveness("young", Liveness::Alive);
    reaches(&mut view, "the later node", is_young).await;
    // Nobody who is well is dropped on the way, although the restored store has never heard of one.
    let mut every = young.view();
    reaches(&mut every, "itself", liveness("young", Liveness::Alive)).await;
    let both_stay = |mut views: tokio::sync::watch::Receiver<std::sync::Arc<View>>| {
        tokio::spawn(async move {
            while views.changed().await.is_ok() {
                let seen = views.borrow_and_update().clone();
                let stays = ["router-a", "young"].map(|id| seen.member(id).is_some());
                assert_eq!(stays, [true, true], "generation {}", seen.generation);
                if seen.set("new").is_some() && liveness("young", Liveness::Alive)(&seen) {
                    return;
                }
            }
        })
    };
    let stay = [both_stay(node.view()), both_stay(every)];
    etcds.restore(&snapshot);
    eventually("the store is up", || async {
        component(&registries[1], "store").await == ServingStatus::Serving
    })
    .await;
    // Past every generation and every revision that was seen before.
    for i in 0..20 {
        put_set(&registries[1], "new", [0, 4][i % 2]).await;
    }
    reaches(&mut view, "the restored view", |view| {
        view.set("lost").is_none() && view.set("new").is_some() && view.set("kept").is_some()
    })
    .await;
    for stays in stay {
        let stays = timeout(PATIENCE, stays).await;
        stays.expect("it sees the new view").expect("both stayed");
    }
    are_equal(&registries).await;
    eventually("both nodes have it, too", || async {
        registries[0].status().await.nodes_in_force == 2
    })
    .await;
    eventually("all checksums are equal", || async {
        let position = registries[0].status().await.position.unwrap();
        let sums = [node.view(), young.view()].map(|view| view.borrow().checksum);
        sums == [position.checksum; 2]
    })
    .await;
}

/// `RACES=10000` makes it long; two registries over one file run as many in a unit test.
#[tokio::test]
async fn nothing_ever_refers_to_what_another_registry_deleted() {
    let races = std::env::var("RACES").map_or(100, |text| text.parse().expect("a number"));
    let Some((etcds, registries)) = two(["127.0.7.97", "127.0.7.98"]).await else {
        return;
    };
    let [deleting, referring] = [&registries[0], &registries[1]];
    let mut deleter = ApplyServiceClient::new(deleting.channel().await);
    let mut referrer = ApplyServiceClient::new(referring.channel().await);
    let etcd = EtcdConfig {
        endpoints: etcds.endpoints(),
        ..EtcdConfig::default()
    };
    let store = Etcd::open(&etcd, &deleting.config.cluster);
    // Before the first race: what is written meanwhile can keep it from a first listing.
    let listing = store.list("accepted/").await.unwrap();
    let watching = tokio::spawn(watch_references(store, listing));
    let mut referred = 0;
    for race in 0..races {
        // From a state that both know: the set is there, and nothing refers to it.
        let ready = request(
            [set("raced")],
            ["routes/raced", "sets/raced/destinations/a"],
        );
        let ready = deleter.apply_resources(ready).await.unwrap().into_inner();
        let position = ready.position.unwrap();
        eventually("the other has seen it", || async {
            referring.generation().await >= position.generation
        })
        .await;
        let refer = if race % 2 == 0 {
            destination("raced", "a")
        } else {
            route("raced", "raced")
        };
        let (deleted, made) = tokio::join!(
            deleter.apply_resources(request([], ["sets/raced"])),
            referrer.apply_resources(request([refer], [])),
        );
        assert!(
            deleted.is_ok() != made.is_ok(),
            "one of them: {deleted:?} {made:?}"
        );
        referred += i32::from(made.is_ok());
    }
    let last = registries[0].generation().await;
    put_set(&registries[0], "done", 0).await;
    let checked = timeout(PATIENCE, watching)
        .await
        .expect("it sees the end")
        .unwrap();
    println!(
        "{races} races: {referred} times the reference was first; {checked} generations, none dangling"
    );
    assert!(checked >= races && last > 0);
    assert!(referred > 0 && referred < races, "{referred} of {races}");
}

/// Looks at every generation of what counts until set `done` is there; returns how many it saw.
async fn watch_references(store: Etcd, listing: Listing) -> i32 {
    let mut keys: BTreeSet<String> = listing.entries.into_iter().map(|entry| entry.key).collect();
    let mut watch = store.watch("accepted/", listing.at);
    let mut seen = 0;
    loop {
        let commit = watch.next().await.unwrap();
        for (key, entry) in commit.changes {
            if entry.is_some() {
                keys.insert(key);
            } else {
                keys.remove(&key);
            }
        }
        seen += 1;
        let refers = ["accepted/routes/raced", "accepted/sets/raced/a"];
        let dangling = refers.iter().any(|key| keys.contains(*key));
        let has_set = keys.contains("accepted/sets/raced");
        assert!(
            has_set || !dangling,
            "generation {}: {keys:?}",
            commit.at.generation
        );
        if keys.contains("accepted/sets/done") {
            return seen;
        }
    }
}

fn request<const N: usize, const M: usize>(
    resources: [Resource; N],
    deletes: [&str; M],
) -> ApplyResourcesRequest {
    ApplyResourcesRequest {
        resources: resources.to_vec(),
        deletes: deletes.iter().map(ToString::to_string).collect(),
        ..ApplyResourcesRequest::default()
    }
}

fn set(id: &str) -> Resource {
    Resource {
        resource: Some(Kind::DestinationSet(DestinationSet {
            name: format!("sets/{id}"),
            ..DestinationSet::default()
        })),
    }
}

fn destination(set: &str, id: &str) -> Resource {
    Resource {
        resource: Some(Kind::Destination(Destination {
            name: format!("sets/{set}/destinations/{id}"),
            uri: "sip:127.0.7.99:5060".into(),
            ..Destination::default()
        })),
    }
}

fn route(id: &str, set: &str) -> Resource {
    let next_hop = Some(route_result::NextHop::Set(format!("sets/{set}")));
    Resource {
        resource: Some(Kind::Route(Route {
            name: format!("routes/{id}"),
            results: vec![RouteResult {
                next_hop,
                ..RouteResult::default()
            }],
            ..Route::default()
        })),
    }
}

/// Sent again to another registry, a request is found carried out.
#[tokio::test]
async fn a_repeated_request_is_known_everywhere_and_so_is_what_a_node_said() {
    let Some((_etcds, registries)) = two(["127.0.7.86", "127.0.7.87"]).await else {
        return;
    };
    let mut clients = Vec::new();
    for registry in &registries {
        clients.push(ApplyServiceClient::new(registry.channel().await));
    }
    let with_id = ApplyResourcesRequest {
        request_id: "once".into(),
        ..request([set("2")], [])
    };
    let [mut a, mut b] = [clients[0].clone(), clients[1].clone()];
    let (first, second) = tokio::join!(
        a.apply_resources(with_id.clone()),
        b.apply_resources(with_id.clone())
    );
    let [first, second] = [first, second].map(|answer| answer.unwrap().into_inner());
    assert_eq!(
        first.applied, second.applied,
        "both were told that it was created"
    );
    assert_eq!(first.applied[0].action(), AppliedAction::Created);
    let other = ApplyResourcesRequest {
        request_id: "once".into(),
        ..request([set("3")], [])
    };
    let reused = b.apply_resources(other).await.unwrap_err();
    assert_eq!(
        reused.get_details_error_info().unwrap().reason,
        "REQUEST_ID_REUSED"
    );

    let directory = tempfile::tempdir().unwrap();
    let _node = session(node("router-a", &registries[0], directory.path())).await;
    eventually("the other knows what it has in force", || async {
        let position = registries[1].status().await.position;
        let statuses = registries[1].node_statuses().await;
        statuses.iter().any(|status| {
            status.node == "members/router-a" && status.connected && status.in_force == position
        })
    })
    .await;
}
