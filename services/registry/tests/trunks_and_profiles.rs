//! Trunks and profiles over real gRPC: as operators write them, and as nodes see them.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use control::registry::v1::apply_service_client::ApplyServiceClient;
use control::registry::v1::profile_service_client::ProfileServiceClient;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::trunk_service_client::TrunkServiceClient;
use control::registry::v1::*;
use control::view::MemberKind as Node;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use common::{node, reaches, registry, session};

fn trunk(id: &str, networks: &[&str]) -> Trunk {
    Trunk {
        name: format!("trunks/{id}"),
        networks: networks.iter().map(ToString::to_string).collect(),
        ..Trunk::default()
    }
}

fn route_of(trunk: &str) -> Route {
    Route {
        name: "routes/r".into(),
        r#match: Some(RouteMatch {
            trunk: trunk.into(),
            ..RouteMatch::default()
        }),
        results: vec![RouteResult {
            next_hop: Some(route_result::NextHop::Set("sets/1".into())),
            ..RouteResult::default()
        }],
        ..Route::default()
    }
}

fn apply(resources: Vec<Kind>) -> ApplyResourcesRequest {
    let resources = resources.into_iter().map(|kind| Resource {
        resource: Some(kind),
    });
    ApplyResourcesRequest {
        resources: resources.collect(),
        ..ApplyResourcesRequest::default()
    }
}

fn refusal(status: &Status) -> (Code, Vec<String>) {
    let details = status.get_details_bad_request().expect("field violations");
    let fields = details.field_violations.into_iter();
    (status.code(), fields.map(|found| found.field).collect())
}

#[tokio::test]
async fn a_trunk_is_created_listed_replaced_and_deleted() {
    let registry = registry("127.0.7.72").await;
    let mut trunks = TrunkServiceClient::new(registry.channel().await);
    let create = |trunk| CreateTrunkRequest {
        trunk: Some(trunk),
        ..CreateTrunkRequest::default()
    };
    let a = trunks
        .create_trunk(create(trunk("a", &["192.0.2.7"])))
        .await;
    let a = a.unwrap().into_inner();
    let again = trunks.create_trunk(create(trunk("a", &["::1"]))).await;
    assert_eq!(again.unwrap_err().code(), Code::AlreadyExists);
    let nobody = trunks.create_trunk(create(trunk("b", &[]))).await;
    let (code, fields) = refusal(&nobody.unwrap_err());
    assert_eq!((code, fields.len()), (Code::InvalidArgument, 1));
    let listed = trunks.list_trunks(ListTrunksRequest::default()).await;
    assert_eq!(
        listed.unwrap().into_inner().trunks,
        std::slice::from_ref(&a)
    );

    let directory = tempfile::tempdir().unwrap();
    let follower = session(node("a", &registry, directory.path())).await;
    let mut view = follower.view();
    reaches(&mut view, "the trunk", |view| view.trunk("a").is_some()).await;
    let named = Trunk {
        display_name: "A carrier".into(),
        ..a
    };
    let update = |trunk, allow_missing| UpdateTrunkRequest {
        trunk: Some(trunk),
        allow_missing,
        ..UpdateTrunkRequest::default()
    };
    trunks.update_trunk(update(named, false)).await.unwrap();
    reaches(&mut view, "its name", |view| {
        view.trunk("a")
            .is_some_and(|trunk| trunk.display_name == "A carrier")
    })
    .await;
    let missing = trunks
        .update_trunk(update(trunk("b", &["::1"]), false))
        .await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    trunks
        .update_trunk(update(trunk("b", &["::1"]), true))
        .await
        .unwrap();
    let name = DeleteTrunkRequest {
        name: "trunks/a".into(),
        ..DeleteTrunkRequest::default()
    };
    trunks.delete_trunk(name).await.unwrap();
    reaches(&mut view, "the other one", |view| {
        view.trunk("a").is_none() && view.trunk("b").is_some()
    })
    .await;
}

#[tokio::test]
async fn a_trunk_that_a_route_asks_for_stays() {
    let registry = registry("127.0.7.73").await;
    let mut changes = ApplyServiceClient::new(registry.channel().await);
    let dangling = changes
        .apply_resources(apply(vec![Kind::Route(route_of("trunks/a"))]))
        .await;
    let (code, fields) = refusal(&dangling.unwrap_err());
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(fields, ["resources[0].match.trunk"]);

    let both = vec![
        Kind::Route(route_of("trunks/a")),
        Kind::Trunk(trunk("a", &["192.0.2.0/24"])),
    ];
    changes.apply_resources(apply(both)).await.unwrap();
    let mut trunks = TrunkServiceClient::new(registry.channel().await);
    let name = DeleteTrunkRequest {
        name: "trunks/a".into(),
        ..DeleteTrunkRequest::default()
    };
    let needed = trunks.delete_trunk(name).await.unwrap_err();
    assert_eq!(needed.code(), Code::FailedPrecondition, "{needed}");
}

#[tokio::test]
async fn a_profile_reaches_the_nodes_of_its_kind() {
    let registry = registry("127.0.7.74").await;
    let mut profiles = ProfileServiceClient::new(registry.channel().await);
    let request = |profile| UpdateProfileRequest {
        profile: Some(profile),
        allow_missing: true,
        ..UpdateProfileRequest::default()
    };
    let profile = Profile {
        name: "profiles/sbc".into(),
        log_filter: "debug".into(),
        drain_timeout: Some(prost_types::Duration {
            seconds: 90,
            nanos: 0,
        }),
        ..Profile::default()
    };
    let stored = profiles.update_profile(request(profile.clone())).await;
    let stored = stored.unwrap().into_inner();
    let get = GetProfileRequest {
        name: "profiles/sbc".into(),
    };
    assert_eq!(
        profiles.get_profile(get).await.unwrap().into_inner(),
        stored
    );
    let directory = tempfile::tempdir().unwrap();
    let follower = session(node("a", &registry, directory.path())).await;
    let mut view = follower.view();
    reaches(&mut view, "the profile", |view| {
        let profile = view.profile(Node::Sbc);
        profile.is_some_and(|profile| profile.drain_timeout == Some(Duration::from_secs(90)))
            && view.profile(Node::Router).is_none()
    })
    .await;
    for name in ["profiles/registry", "profiles/stock-router"] {
        let unknown = Profile {
            name: name.into(),
            ..profile.clone()
        };
        let refused = profiles.update_profile(request(unknown)).await.unwrap_err();
        let (code, fields) = refusal(&refused);
        assert_eq!((code, &*fields[0]), (Code::InvalidArgument, "profile.name"));
    }
}
