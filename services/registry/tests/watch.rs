//! Following the configuration as people and tools do.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use common::{Running, put_set, registry, registry_with};
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::watch_response::Message;
use control::registry::v1::watch_service_client::WatchServiceClient;
use control::registry::v1::*;
use control::view::name_of;
use tandem_registry::Config;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

async fn watch(
    registry: &Running,
    filters: &[&str],
    since: Option<Position>,
) -> Streaming<WatchResponse> {
    let request = WatchRequest {
        filters: filters.iter().map(ToString::to_string).collect(),
        since,
    };
    let mut client = WatchServiceClient::new(registry.channel().await);
    client.watch(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchResponse>) -> Message {
    let next = timeout(common::PATIENCE, stream.message()).await;
    next.expect("a message").unwrap().unwrap().message.unwrap()
}

fn snapshot(message: Message) -> (SnapshotReason, Vec<String>, Position) {
    let Message::Snapshot(snapshot) = message else {
        panic!("{message:?}")
    };
    assert!(snapshot.complete && snapshot.cluster_key.is_empty());
    let names = snapshot.resources.iter().map(|one| name_of(one).to_owned());
    (
        snapshot.reason(),
        names.collect(),
        snapshot.position.unwrap(),
    )
}

fn change(message: Message) -> (Vec<String>, Vec<String>, Position) {
    let Message::Change(change) = message else {
        panic!("{message:?}")
    };
    let changed = change.changed.iter().map(|one| name_of(one).to_owned());
    (changed.collect(), change.deleted, change.position.unwrap())
}

async fn delete_route(registry: &Running, id: &str) {
    let mut client = RouteServiceClient::new(registry.channel().await);
    let request = DeleteRouteRequest {
        name: format!("routes/{id}"),
        ..DeleteRouteRequest::default()
    };
    client.delete_route(request).await.unwrap();
}

async fn put_route(registry: &Running, id: &str) {
    let next_hop = Some(route_result::NextHop::Set("sets/1".into()));
    let route = Route {
        name: format!("routes/{id}"),
        results: vec![RouteResult {
            next_hop,
            ..RouteResult::default()
        }],
        ..Route::default()
    };
    let request = UpdateRouteRequest {
        route: Some(route),
        allow_missing: true,
        ..UpdateRouteRequest::default()
    };
    let mut client = RouteServiceClient::new(registry.channel().await);
    client.update_route(request).await.unwrap();
}

#[tokio::test]
async fn a_watcher_sees_what_there_is_and_then_what_its_filter_lets_through() {
    let registry = registry("127.0.7.121").await;
    put_set(&registry, "2", 0).await;
    let mut all = watch(&registry, &[], None).await;
    let (reason, names, _) = snapshot(next(&mut all).await);
    assert_eq!(
        (reason, names),
        (
            SnapshotReason::Initial,
            vec!["sets/1".into(), "sets/2".into()]
        )
    );
    let mut routes = watch(&registry, &["routes/", "sets/2"], None).await;
    assert_eq!(snapshot(next(&mut routes).await).1, ["sets/2"]);

    put_set(&registry, "3", 0).await;
    put_route(&registry, "a").await;
    let (changed, deleted, _) = change(next(&mut routes).await);
    assert_eq!(
        (changed, deleted.len()),
        (vec!["routes/a".into()], 0),
        "nothing of set 3"
    );
    delete_route(&registry, "a").await;
    let (changed, deleted, last) = change(next(&mut routes).await);
    assert_eq!((changed.len(), deleted), (0, vec!["routes/a".to_owned()]));

    // Who comes back is sent what happened meanwhile, merged.
    drop(routes);
    put_route(&registry, "b").await;
    delete_route(&registry, "b").await;
    put_set(&registry, "2", 4).await;
    let mut routes = watch(&registry, &["routes/", "sets/2"], Some(last)).await;
    let (changed, deleted, now) = change(next(&mut routes).await);
    assert_eq!(
        (changed, deleted),
        (vec!["sets/2".into()], vec!["routes/b".to_owned()])
    );
    assert_eq!(Some(now), registry.status().await.position);

    let other = Position {
        checksum: now.checksum + 1,
        ..now
    };
    let mut diverged = watch(&registry, &["sets/1"], Some(other)).await;
    let (reason, names, _) = snapshot(next(&mut diverged).await);
    assert_eq!(
        (reason, &*names),
        (SnapshotReason::Diverged, &["sets/1".to_owned()][..])
    );
    let ahead = Position {
        generation: now.generation + 1000,
        ..now
    };
    let mut ahead = watch(&registry, &["cells/"], Some(ahead)).await;
    let (reason, names, _) = snapshot(next(&mut ahead).await);
    assert_eq!((reason, names.len()), (SnapshotReason::StoreWentBack, 0));
}

#[tokio::test]
async fn a_watcher_who_wants_to_see_little_is_told_where_it_is_however_much_happens() {
    let mut config = Config::at("127.0.7.124".parse().unwrap());
    config.pace.bookmark_interval = Duration::from_millis(300);
    let registry = registry_with(config).await;
    let mut routes = watch(&registry, &["routes/"], None).await;
    let (.., first) = snapshot(next(&mut routes).await);
    let churn = async {
        for n in 0.. {
            put_set(&registry, "2", [0, 4][n % 2]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let bookmarks = async {
        let mut last = first.generation;
        for _ in 0..3 {
            let Message::Bookmark(said) = next(&mut routes).await else {
                panic!("nothing that it wants to see has happened");
            };
            let generation = said.position.unwrap().generation;
            assert!(generation > last, "{generation} after {last}");
            last = generation;
        }
    };
    tokio::select! {
        () = churn => {}
        () = bookmarks => {}
    }
}

#[tokio::test]
async fn a_wrong_filter_is_named() {
    let registry = registry("127.0.7.122").await;
    let mut client = WatchServiceClient::new(registry.channel().await);
    let request = WatchRequest {
        filters: vec!["sets/".into(), "set".into()],
        since: None,
    };
    let refused = client.watch(request).await.unwrap_err();
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(
        (refused.code(), &*violations[0].field),
        (Code::InvalidArgument, "filters[1]")
    );
}

/// Takes half a minute: that is how long a watcher may sleep.
#[tokio::test]
async fn a_watcher_that_reads_nothing_is_cut() {
    let registry = registry("127.0.7.123").await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", registry.address())).unwrap();
    // Room for one small message, so that what is sent stays with the registry.
    let narrow = endpoint
        .initial_stream_window_size(1024)
        .connect()
        .await
        .unwrap();
    let mut client = WatchServiceClient::new(narrow);
    let mut asleep = client
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut awake = watch(&registry, &[], None).await;
    snapshot(next(&mut awake).await);
    let big = |n: usize| DestinationSet {
        name: "sets/2".into(),
        selector: Some(MemberSelector {
            zone: "z".repeat(500 - n),
            rules: vec![
                SelectorRule {
                    zone: "y".repeat(500),
                    ..Default::default()
                };
                16
            ],
            ..MemberSelector::default()
        }),
        ..DestinationSet::default()
    };
    let mut sets =
        destination_set_service_client::DestinationSetServiceClient::new(registry.channel().await);
    for n in 0..20 {
        let request = UpdateDestinationSetRequest {
            destination_set: Some(big(n)),
            allow_missing: true,
            ..UpdateDestinationSetRequest::default()
        };
        sets.update_destination_set(request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut last = None;
    while last.as_ref().and_then(zone_of) != Some("z".repeat(481)) {
        last = Some(next(&mut awake).await);
    }
    tokio::time::sleep(Duration::from_secs(32)).await;
    let end = loop {
        match timeout(common::PATIENCE, asleep.message())
            .await
            .expect("an end")
        {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    assert_eq!(end.get_details_error_info().unwrap().reason, "SLOW_WATCHER");
}

/// The zone that a change of set 2 says.
fn zone_of(message: &Message) -> Option<String> {
    let Message::Change(change) = message else {
        return None;
    };
    change
        .changed
        .iter()
        .find_map(|resource| match &resource.resource {
            Some(Kind::DestinationSet(set)) => Some(set.selector.clone()?.zone),
            _ => None,
        })
}
