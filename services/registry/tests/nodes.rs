//! The registry and its nodes: membership, the stream of changes, and life without a registry.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use common::{
    PATIENCE, Running, eventually, has_set, liveness, members, node, put_set, reaches, registry,
    session,
};
use control::client::NodeSession;
use control::node::v1::DrainSource;
use control::registry::v1::apply_service_client::ApplyServiceClient;
use control::registry::v1::config_service_client::ConfigServiceClient;
use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::*;
use control::view::{self, Liveness, Refusal, View};
use tandem_registry::Config;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

#[tokio::test]
async fn a_node_registers_and_is_listed_alive() {
    let registry = registry("127.0.7.20").await;
    let session = session(node("router-a", &registry, registry.directory.path())).await;
    let mut view = session.view();
    let seen = reaches(
        &mut view,
        "itself alive",
        liveness("router-a", Liveness::Alive),
    )
    .await;
    assert_eq!(seen.members[0].incarnation, session.incarnation());
    assert_eq!(seen.destinations_of("1")[0].uri, "sip:127.0.7.200:5060");
    assert_ne!(seen.cluster_key, [0; 16]);
    let mut members = members(&registry).await;
    let listed = members
        .list_members(ListMembersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .members;
    assert_eq!(
        (listed[0].name.as_str(), listed[0].liveness()),
        ("members/router-a", control::registry::v1::Liveness::Alive)
    );
    eventually("the node's acknowledgement", || async {
        registry.status().await.nodes_in_force == 1
    })
    .await;
}

#[tokio::test]
async fn a_change_reaches_a_node_within_milliseconds() {
    let registry = registry("127.0.7.21").await;
    let session = session(node("router-a", &registry, registry.directory.path())).await;
    let mut view = session.view();
    reaches(&mut view, "the first view", has_set("1")).await;
    put_set(&registry, "warm-up", 0).await;
    reaches(&mut view, "a first change", has_set("warm-up")).await;
    let started = Instant::now();
    put_set(&registry, "2", 4).await;
    reaches(&mut view, "the change", has_set("2")).await;
    // Includes a new connection, the check and a disk write; polling would take far longer.
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_node_that_dies_is_gone_and_one_that_leaves_is_gone_at_once() {
    let registry = registry("127.0.7.22").await;
    let directory = registry.directory.path();
    let watcher = session(node("watcher", &registry, directory)).await;
    let mut view = watcher.view();
    let dies = session(node("dies", &registry, directory)).await;
    let leaves = session(node("leaves", &registry, directory)).await;
    reaches(&mut view, "one alive", liveness("dies", Liveness::Alive)).await;
    reaches(
        &mut view,
        "the other alive",
        liveness("leaves", Liveness::Alive),
    )
    .await;

    let started = Instant::now();
    leaves.leave().await;
    reaches(
        &mut view,
        "the leaver gone",
        liveness("leaves", Liveness::Gone),
    )
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );

    let started = Instant::now();
    drop(dies);
    let seen = reaches(
        &mut view,
        "the dead one gone",
        liveness("dies", Liveness::Gone),
    )
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        seen.member("watcher").unwrap().liveness,
        Liveness::Alive,
        "kept alive for longer than a lease"
    );

    let first = seen.member("dies").unwrap().incarnation;
    let again = session(node("dies", &registry, directory)).await;
    let seen = reaches(&mut view, "it is back", liveness("dies", Liveness::Alive)).await;
    assert!(seen.member("dies").unwrap().incarnation > first);
    assert_eq!(
        seen.member("dies").unwrap().incarnation,
        again.incarnation()
    );
}

#[tokio::test]
async fn an_id_that_is_alive_elsewhere_is_refused() {
    let registry = registry("127.0.7.23").await;
    let mut members = members(&registry).await;
    let member = |address: &str| Member {
        name: "members/a".into(),
        kind: MemberKind::Sbc.into(),
        address: address.into(),
        sip: vec![SipEndpoint {
            side: 0,
            address: format!("{address}:5060"),
        }],
        ..Member::default()
    };
    let register = |address: &str, incarnation| RegisterRequest {
        member: Some(member(address)),
        incarnation,
    };
    let first = members
        .register(register("127.0.7.201", 5))
        .await
        .unwrap()
        .into_inner();
    let status = members
        .register(register("127.0.7.202", 6))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(
        status.message().contains("127.0.7.201:5060"),
        "{}",
        status.message()
    );
    assert_eq!(
        members
            .register(register("127.0.7.201", 4))
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );

    let second = members
        .register(register("127.0.7.201", 6))
        .await
        .unwrap()
        .into_inner();
    let keep = |session: &str| {
        let request = KeepAliveRequest {
            name: "members/a".into(),
            session: session.into(),
            leaving: false,
        };
        tokio_stream::once(request)
    };
    let mut answers = members
        .keep_alive(keep(&second.session))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let mut answers = members
        .keep_alive(keep(&first.session))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_people_said_about_a_member_survives_its_restart() {
    let registry = registry("127.0.7.24").await;
    let directory = registry.directory.path();
    let first = session(node("router-a", &registry, directory)).await;
    let mut view = first.view();
    reaches(&mut view, "itself", liveness("router-a", Liveness::Alive)).await;
    let mut members = members(&registry).await;
    members
        .drain_member(DrainMemberRequest {
            name: "members/router-a".into(),
            ..DrainMemberRequest::default()
        })
        .await
        .unwrap();
    let draining = |view: &View| {
        view.destinations_of("1").first().map(|d| d.desired_state)
            == Some(view::DestinationState::Draining)
    };
    reaches(&mut view, "draining", draining).await;
    first.leave().await;
    let again = session(node("router-a", &registry, directory)).await;
    let mut view = again.view();
    let back = |view: &View| {
        view.member("router-a")
            .is_some_and(|m| m.incarnation == again.incarnation())
    };
    let seen = reaches(&mut view, "the new incarnation", back).await;
    assert!(draining(&seen));
    members
        .undrain_member(UndrainMemberRequest {
            name: "members/router-a".into(),
            ..UndrainMemberRequest::default()
        })
        .await
        .unwrap();
    reaches(&mut view, "active", |view| !draining(view)).await;
}

#[tokio::test]
async fn a_removed_member_stays_out_until_it_starts_again() {
    let registry = registry("127.0.7.25").await;
    let directory = registry.directory.path();
    let watcher = session(node("watcher", &registry, directory)).await;
    let removed = session(node("removed", &registry, directory)).await;
    let mut view = watcher.view();
    reaches(
        &mut view,
        "it is there",
        liveness("removed", Liveness::Alive),
    )
    .await;
    reaches(
        &mut removed.view(),
        "it follows",
        liveness("removed", Liveness::Alive),
    )
    .await;
    let delete = DeleteMemberRequest {
        name: "members/removed".into(),
        ..DeleteMemberRequest::default()
    };
    members(&registry)
        .await
        .delete_member(delete)
        .await
        .unwrap();
    let mut connected = removed.connected();
    timeout(PATIENCE, connected.wait_for(|connected| !connected))
        .await
        .unwrap()
        .unwrap();
    reaches(&mut view, "it is removed", |view| {
        view.member("removed").is_none()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        view.borrow().member("removed").is_none(),
        "it came back by itself"
    );
    drop(removed);
    let _again = session(node("removed", &registry, directory)).await;
    reaches(
        &mut view,
        "it is back",
        liveness("removed", Liveness::Alive),
    )
    .await;
}

#[tokio::test]
async fn a_refused_view_stays_out_of_force_until_a_fix_heals_it() {
    let mut registry = registry("127.0.7.26").await;
    let check = |view: &View| match view.set("2") {
        Some(set) if set.algorithm == view::Algorithm::Priority => Err(vec![Refusal {
            resource: "sets/2".into(),
            field: "algorithm".into(),
            reason: "this node knows no priorities".into(),
        }]),
        Some(_) | None => Ok(Vec::new()),
    };
    let config = node("router-a", &registry, registry.directory.path());
    let session = NodeSession::start(config, Box::new(check)).await.unwrap();
    let mut view = session.view();
    reaches(&mut view, "the first view", has_set("1")).await;

    put_set(&registry, "2", 8).await;
    eventually("the refusal", || async {
        registry.status().await.nodes_refusing == 1
    })
    .await;
    let status = registry.node_statuses().await.remove(0);
    assert_eq!(status.refusals[0].reason, "this node knows no priorities");
    put_set(&registry, "3", 0).await;
    eventually("the second refusal", || async {
        registry.node_statuses().await[0].refused == registry.status().await.position
    })
    .await;
    assert!(
        view.borrow().set("3").is_none(),
        "a refused view is refused whole"
    );
    registry.restart().await;
    eventually(
        "the refusal again, by a registry that forgot it",
        || async {
            let status = registry.status().await;
            (status.nodes_refusing, status.nodes_in_force) == (1, 0)
        },
    )
    .await;

    put_set(&registry, "2", 0).await;
    let seen = reaches(&mut view, "the fix", has_set("2")).await;
    assert!(seen.set("3").is_some());
    eventually("all in force", || async {
        let status = registry.status().await;
        (status.nodes_refusing, status.nodes_in_force) == (0, 1)
    })
    .await;
}

#[tokio::test]
async fn a_node_carries_on_without_a_registry_and_a_restart_loses_nothing() {
    let mut registry = registry("127.0.7.27").await;
    let directory = tempfile::TempDir::new().unwrap();
    let first = session(node("router-a", &registry, directory.path())).await;
    let mut view = first.view();
    put_set(&registry, "2", 4).await;
    reaches(&mut view, "everything", |view| {
        view.set("2").is_some() && view.member("router-a").is_some()
    })
    .await;
    eventually("in force", || async {
        registry.status().await.nodes_in_force == 1
    })
    .await;
    let position = registry.status().await.position;

    registry.restart().await;
    let mut connected = first.connected();
    timeout(PATIENCE, connected.wait_for(|connected| *connected))
        .await
        .unwrap()
        .unwrap();
    eventually("the node is back", || async {
        registry.status().await.nodes_in_force == 1
    })
    .await;
    assert_eq!(
        registry.status().await.position,
        position,
        "a quick restart is no event"
    );
    put_set(&registry, "3", 0).await;
    let last = reaches(&mut view, "a change after the restart", has_set("3")).await;
    eventually("in force", || async {
        registry.status().await.nodes_in_force == 1
    })
    .await;

    registry.stop().await;
    timeout(PATIENCE, connected.wait_for(|connected| !connected))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*view.borrow(), last, "without a registry everything stays");
    drop(first);
    // What follows starts while no registry runs.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let again = session(node("router-a", &registry, directory.path())).await;
    assert_eq!(
        *again.view().borrow(),
        last,
        "the last good view comes from disk"
    );

    registry.start().await;
    let mut view = again.view();
    let back = |view: &View| {
        view.member("router-a")
            .is_some_and(|m| m.incarnation == again.incarnation())
    };
    let seen = reaches(&mut view, "the registry is back", back).await;
    assert!(seen.set("3").is_some() && seen.cluster_key == last.cluster_key);
}

/// A node that speaks the protocol by hand.
struct Raw {
    requests: mpsc::Sender<SyncConfigRequest>,
    answers: Streaming<SyncConfigResponse>,
}

impl Raw {
    async fn hello(registry: &Running, node: &str, position: Option<Position>) -> Self {
        let (requests, outgoing) = mpsc::channel(4);
        let hello = Hello {
            node: node.into(),
            position,
            ..Hello::default()
        };
        let message = Some(sync_config_request::Message::Hello(hello));
        requests.send(SyncConfigRequest { message }).await.unwrap();
        let mut client = ConfigServiceClient::new(registry.channel().await);
        let answers = client
            .sync_config(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        Self { requests, answers }
    }

    async fn next(&mut self) -> Option<sync_config_response::Message> {
        let answer = timeout(Duration::from_millis(300), self.answers.message())
            .await
            .ok()?;
        answer.unwrap().unwrap().message
    }

    async fn snapshot(&mut self) -> Snapshot {
        match self.next().await {
            Some(sync_config_response::Message::Snapshot(snapshot)) => snapshot,
            other => panic!("no snapshot: {other:?}"),
        }
    }

    async fn change(&mut self) -> Change {
        match self.next().await {
            Some(sync_config_response::Message::Change(change)) => change,
            other => panic!("no change: {other:?}"),
        }
    }

    async fn ack(&self, position: Option<Position>) {
        let message = Some(sync_config_request::Message::Ack(Ack {
            position,
            ..Ack::default()
        }));
        self.requests
            .send(SyncConfigRequest { message })
            .await
            .unwrap();
    }
}

fn stock_router() -> Member {
    Member {
        name: "members/stock".into(),
        kind: MemberKind::StockRouter.into(),
        address: "127.0.7.203".into(),
        sip: vec![SipEndpoint {
            side: 0,
            address: "127.0.7.203:5060".into(),
        }],
        ..Member::default()
    }
}

async fn registry_with_stock_router(address: &str) -> Running {
    let registry = registry(address).await;
    let update = UpdateMemberRequest {
        member: Some(stock_router()),
        allow_missing: true,
        ..UpdateMemberRequest::default()
    };
    members(&registry)
        .await
        .update_member(update)
        .await
        .unwrap();
    registry
}

#[tokio::test]
async fn who_was_removed_stays_out_until_it_is_started_again() {
    let mut registry = registry("127.0.7.30").await;
    let config = node("router-a", &registry, registry.directory.path());
    let removed = session(config.clone()).await;
    let mut view = removed.view();
    let is_alive = liveness("router-a", Liveness::Alive);
    reaches(&mut view, "itself alive", is_alive).await;
    let at = registry.config.grpc_listen;
    // It is removed while it looks for a registry.
    registry.stop().await;
    registry.config.grpc_listen.set_port(at.port() + 1);
    registry.start().await;
    let delete = DeleteMemberRequest {
        name: "members/router-a".into(),
        ..DeleteMemberRequest::default()
    };
    members(&registry)
        .await
        .delete_member(delete)
        .await
        .unwrap();
    registry.stop().await;
    registry.config.grpc_listen = at;
    registry.start().await;
    let listed = async || {
        let request = ListMembersRequest::default();
        let listed = members(&registry).await.list_members(request).await;
        listed.unwrap().into_inner().members.len()
    };
    // It looks for a registry every half second.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(listed().await, 0);
    }
    let register = RegisterRequest {
        member: Some(Member {
            name: "members/router-a".into(),
            kind: MemberKind::Router.into(),
            address: "127.0.7.200".into(),
            sip: vec![SipEndpoint {
                side: 0,
                address: "127.0.7.200:5060".into(),
            }],
            ..Member::default()
        }),
        incarnation: removed.incarnation(),
    };
    let refused = members(&registry).await.register(register).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "MEMBER_REMOVED");

    drop(removed);
    let again = session(config).await;
    let mut view = again.view();
    let is_alive = liveness("router-a", Liveness::Alive);
    reaches(&mut view, "it is started again", is_alive).await;
    eventually("it is listed", || async { listed().await == 1 }).await;
}

#[tokio::test]
async fn who_shows_no_life_for_long_is_forgotten_and_may_come_back() {
    let mut config = Config::at("127.0.7.31".parse().unwrap());
    config.forget_after = Duration::from_secs(2);
    let mut registry = common::registry_with(config).await;
    let directory = registry.directory.path().to_owned();
    let stock = stock_router();
    let update = UpdateMemberRequest {
        member: Some(stock),
        allow_missing: true,
        ..UpdateMemberRequest::default()
    };
    members(&registry)
        .await
        .update_member(update)
        .await
        .unwrap();
    let watcher = session(node("watcher", &registry, &directory)).await;
    let dies = session(node("dies", &registry, &directory)).await;
    let mut view = watcher.view();
    reaches(&mut view, "it lives", liveness("dies", Liveness::Alive)).await;
    let incarnation = dies.incarnation();
    drop(dies);
    reaches(&mut view, "it is gone", liveness("dies", Liveness::Gone)).await;
    // What is known of it does not depend on one registry's life.
    let noted = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    registry.restart().await;
    reaches(&mut view, "it is forgotten", |view| {
        view.member("dies").is_none()
    })
    .await;
    assert!(noted.elapsed() >= Duration::from_secs(1));
    let seen = view.borrow().clone();
    assert!(liveness("watcher", Liveness::Alive)(&seen), "it lives on");
    assert!(seen.member("stock").is_some(), "it never had a life");

    // It was cut off, and nobody removed it.
    let member = Member {
        name: "members/dies".into(),
        kind: MemberKind::Router.into(),
        ..stock_router()
    };
    let register = RegisterRequest {
        member: Some(member),
        incarnation,
    };
    members(&registry).await.register(register).await.unwrap();
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_cut_off_and_one_that_does_gets_bookmarks() {
    let mut config = Config::at("127.0.7.32".parse().unwrap());
    config.pace.bookmark_interval = Duration::from_millis(300);
    config.pace.slow_watcher_after = Duration::from_secs(1);
    let registry = common::registry_with(config).await;
    let update = UpdateMemberRequest {
        member: Some(stock_router()),
        allow_missing: true,
        ..UpdateMemberRequest::default()
    };
    members(&registry)
        .await
        .update_member(update)
        .await
        .unwrap();
    let mut quick = Raw::hello(&registry, "members/stock", None).await;
    let mut slow = Raw::hello(&registry, "members/stock", None).await;
    let position = quick.snapshot().await.position;
    quick.ack(position).await;
    slow.snapshot().await;
    let began = Instant::now();
    for _ in 0..2 {
        let message = timeout(PATIENCE, quick.answers.message()).await.unwrap();
        match message.unwrap().unwrap().message {
            Some(sync_config_response::Message::Bookmark(said)) => {
                assert_eq!(said.position, position);
            }
            other => panic!("no bookmark: {other:?}"),
        }
    }
    // An answer to something else is none.
    slow.ack(None).await;
    let end = timeout(PATIENCE, slow.answers.message()).await.unwrap();
    let end = end.unwrap_err();
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    assert_eq!(end.get_details_error_info().unwrap().reason, "SLOW_WATCHER");
    let within = began.elapsed();
    assert!(within < Duration::from_secs(5), "{within:?}");
}

#[tokio::test]
async fn what_nodes_said_comes_in_pages() {
    let registry = registry("127.0.7.33").await;
    let mut sessions = Vec::new();
    for id in ["a", "b", "c"] {
        let directory = registry.directory.path().join(id);
        sessions.push(session(node(id, &registry, &directory)).await);
    }
    eventually("all of them follow", || async {
        registry.status().await.nodes_connected == 3
    })
    .await;
    let channel = registry.channel().await;
    let mut client = status_service_client::StatusServiceClient::new(channel);
    let mut request = ListNodeStatusesRequest {
        page_size: 2,
        ..ListNodeStatusesRequest::default()
    };
    let mut names = Vec::new();
    loop {
        let page = client.list_node_statuses(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.node_statuses.len() <= 2);
        names.extend(page.node_statuses.into_iter().map(|status| status.node));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["members/a", "members/b", "members/c"]);
}

#[tokio::test]
async fn one_change_is_under_way_and_the_rest_is_merged() {
    let registry = registry_with_stock_router("127.0.7.28").await;
    let mut node = Raw::hello(&registry, "members/stock", None).await;
    let snapshot = node.snapshot().await;
    assert_eq!(
        (
            snapshot.reason(),
            snapshot.complete,
            snapshot.resources.len()
        ),
        (SnapshotReason::Initial, true, 2)
    );
    put_set(&registry, "2", 0).await;
    put_set(&registry, "3", 0).await;
    assert_eq!(
        node.next().await,
        None,
        "the snapshot is not acknowledged yet"
    );
    put_set(&registry, "2", 4).await;
    node.ack(snapshot.position).await;
    let change = node.change().await;
    assert_eq!(change.changed.len(), 2, "three writes to two sets");
    assert_eq!(change.position, registry.status().await.position);
    node.ack(change.position).await;

    let delete = DeleteDestinationSetRequest {
        name: "sets/3".into(),
        ..DeleteDestinationSetRequest::default()
    };
    DestinationSetServiceClient::new(registry.channel().await)
        .delete_destination_set(delete)
        .await
        .unwrap();
    assert_eq!(node.change().await.deleted, ["sets/3"]);
}

#[tokio::test]
async fn a_node_goes_on_from_its_position_or_gets_everything() {
    let registry = registry_with_stock_router("127.0.7.29").await;
    let start = registry.status().await.position.unwrap();
    put_set(&registry, "2", 0).await;
    let now = registry.status().await.position.unwrap();

    let mut behind = Raw::hello(&registry, "members/stock", Some(start)).await;
    assert_eq!(behind.change().await.changed.len(), 1);
    let mut level = Raw::hello(&registry, "members/stock", Some(now)).await;
    assert_eq!(level.next().await, None);
    for (position, reason) in [
        (
            Position {
                generation: now.generation,
                checksum: 1,
            },
            SnapshotReason::Diverged,
        ),
        (
            Position {
                generation: now.generation + 9,
                checksum: 1,
            },
            SnapshotReason::StoreWentBack,
        ),
    ] {
        let mut other = Raw::hello(&registry, "members/stock", Some(position)).await;
        assert_eq!(other.snapshot().await.reason(), reason);
    }
    let mut stranger = Raw::hello(&registry, "members/nobody", None).await;
    assert_eq!(
        stranger.answers.message().await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_router_is_in_the_set_the_moment_it_registers_as_the_rules_say() {
    let registry = registry("127.0.7.151").await;
    let directory = tempfile::tempdir().unwrap();
    let watcher = session(node("watcher", &registry, directory.path())).await;
    let set = DestinationSet {
        name: "sets/east".into(),
        selector: Some(MemberSelector {
            zone: "east".into(),
            rules: vec![
                SelectorRule {
                    cell: "big".into(),
                    priority: 5,
                    weight: Some(7),
                    ..SelectorRule::default()
                },
                SelectorRule {
                    priority: 1,
                    ..SelectorRule::default()
                },
            ],
            ..MemberSelector::default()
        }),
        ..DestinationSet::default()
    };
    let request = CreateDestinationSetRequest {
        destination_set: Some(set),
        ..CreateDestinationSetRequest::default()
    };
    let channel = registry.channel().await;
    let mut sets = DestinationSetServiceClient::new(channel);
    sets.create_destination_set(request).await.unwrap();
    let mut sessions = Vec::new();
    for (id, zone, cell) in [
        ("west", "west", "big"),
        ("small", "east", "default"),
        ("big", "east", "big"),
    ] {
        let directory = directory.path().join(id);
        let config = control::client::NodeConfig {
            zone: zone.into(),
            cell: cell.into(),
            ..node(id, &registry, &directory)
        };
        sessions.push(session(config).await);
    }
    let found = |view: &View| {
        let destinations = view.destinations_of("east").into_iter();
        let found = destinations.map(|one| (one.id, one.priority, one.weight));
        found.collect::<Vec<_>>()
    };
    let wanted = [("big".to_owned(), 5, 7), ("small".to_owned(), 1, 1)];
    let mut view = watcher.view();
    reaches(&mut view, "both of the east", |view| found(view) == wanted).await;
}

#[tokio::test]
async fn a_deletion_is_obeyed_at_once_also_in_a_change_too_large_to_be_one() {
    let registry = registry("127.0.7.152").await;
    let directory = tempfile::tempdir().unwrap();
    let session = session(node("router-a", &registry, directory.path())).await;
    let mut apply = ApplyServiceClient::new(registry.channel().await);
    let in_set = |id: &str| Resource {
        resource: Some(resource::Resource::Destination(Destination {
            name: format!("sets/1/destinations/{id}"),
            uri: "sip:127.0.7.204".into(),
            probing: true,
            ..Destination::default()
        })),
    };
    let request = ApplyResourcesRequest {
        resources: vec![in_set("deleted"), in_set("kept")],
        ..ApplyResourcesRequest::default()
    };
    apply.apply_resources(request).await.unwrap();
    let listed = |view: &View| {
        view.destinations
            .iter()
            .map(|d| d.id.clone())
            .collect::<Vec<_>>()
    };
    let mut view = session.view();
    reaches(&mut view, "both", |view| {
        listed(view) == ["deleted", "kept"]
    })
    .await;

    let header = HeaderField {
        name: "X-Long".into(),
        value: "x".repeat(500),
    };
    let long = |i: usize| Resource {
        resource: Some(resource::Resource::Route(Route {
            name: format!("routes/r{i}"),
            results: vec![RouteResult {
                next_hop: Some(route_result::NextHop::Set("sets/1".into())),
                headers: vec![header.clone(); 5],
                ..RouteResult::default()
            }],
            ..Route::default()
        })),
    };
    let request = ApplyResourcesRequest {
        resources: (0..45).map(long).collect(),
        deletes: vec!["sets/1/destinations/deleted".into()],
        ..ApplyResourcesRequest::default()
    };
    apply.apply_resources(request).await.unwrap();
    let seen = reaches(&mut view, "the routes", |view| view.routes.len() == 45).await;
    assert_eq!(listed(&seen), ["kept"]);
    eventually("in force", || async {
        registry.status().await.nodes_in_force == 1
    })
    .await;
    let status = registry.node_statuses().await.remove(0);
    assert_eq!(status.kept, [""; 0]);
}

#[tokio::test]
async fn the_status_says_what_counts_after_a_restart_and_who_drains_a_node() {
    let mut registry = registry("127.0.7.153").await;
    let directory = tempfile::tempdir().unwrap();
    let check = |view: &View| {
        Ok(view
            .set("2")
            .map(|_| "sets".to_owned())
            .into_iter()
            .collect())
    };
    let config = node("router-a", &registry, directory.path());
    let session = NodeSession::start(config, Box::new(check)).await.unwrap();
    session.report_drain(vec![DrainSource::Node]);
    let says = async |registry: &Running, restart: &[&str], drained_by: &[DrainSource]| {
        eventually("what the node says", || async {
            let statuses = registry.node_statuses().await;
            statuses.first().is_some_and(|status| {
                status.restart_needed == restart && status.drained_by().eq(drained_by.to_vec())
            })
        })
        .await;
    };
    says(&registry, &[], &[DrainSource::Node]).await;
    put_set(&registry, "2", 0).await;
    session.report_drain(vec![DrainSource::Node, DrainSource::Signal]);
    says(
        &registry,
        &["sets"],
        &[DrainSource::Node, DrainSource::Signal],
    )
    .await;
    // A registry that has forgotten it is told again.
    registry.restart().await;
    says(
        &registry,
        &["sets"],
        &[DrainSource::Node, DrainSource::Signal],
    )
    .await;
    session.report_drain(Vec::new());
    says(&registry, &["sets"], &[]).await;
}

/// Takes as long as a bookmark takes to come.
#[tokio::test]
async fn a_bookmark_says_where_the_registry_stands_while_nothing_changes() {
    let registry = registry_with_stock_router("127.0.7.154").await;
    let now = registry.status().await.position;
    let mut level = Raw::hello(&registry, "members/stock", now).await;
    let answer = timeout(Duration::from_secs(20), level.answers.message()).await;
    let answer = answer.expect("a bookmark").unwrap().unwrap();
    let bookmark = sync_config_response::Message::Bookmark(Bookmark { position: now });
    assert_eq!(answer.message, Some(bookmark));
}
