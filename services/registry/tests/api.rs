//! The registry over real gRPC, as operators use it.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use control::registry::v1::destination_service_client::DestinationServiceClient;
use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::*;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use common::{Running, registry};

fn set(id: &str) -> DestinationSet {
    DestinationSet {
        name: format!("sets/{id}"),
        ..DestinationSet::default()
    }
}

fn destination(name: &str, uri: &str) -> Destination {
    Destination {
        name: name.into(),
        uri: uri.into(),
        ..Destination::default()
    }
}

fn route_to_set(id: &str, set: &str) -> Route {
    let next_hop = Some(route_result::NextHop::Set(set.into()));
    let results = vec![RouteResult {
        next_hop,
        ..RouteResult::default()
    }];
    Route {
        name: format!("routes/{id}"),
        results,
        ..Route::default()
    }
}

async fn sets(registry: &Running) -> DestinationSetServiceClient<tonic::transport::Channel> {
    DestinationSetServiceClient::new(registry.channel().await)
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().expect("field violations");
    details
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[tokio::test]
async fn set_1_exists_from_the_start() {
    let registry = registry("127.0.7.10").await;
    let mut sets = sets(&registry).await;
    let found = sets
        .get_destination_set(GetDestinationSetRequest {
            name: "sets/1".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (found.algorithm, found.selector.unwrap().kind()),
        (0, MemberKind::Router)
    );
    assert!(!found.etag.is_empty());
}

#[tokio::test]
async fn a_set_is_created_replaced_and_deleted() {
    let registry = registry("127.0.7.11").await;
    let mut sets = sets(&registry).await;
    let create = CreateDestinationSetRequest {
        destination_set: Some(set("2")),
        ..CreateDestinationSetRequest::default()
    };
    let created = sets
        .create_destination_set(create.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        sets.create_destination_set(create)
            .await
            .unwrap_err()
            .code(),
        Code::AlreadyExists
    );

    let mut newer = created.clone();
    newer.algorithm = 4;
    let update = |set: &DestinationSet| UpdateDestinationSetRequest {
        destination_set: Some(set.clone()),
        ..UpdateDestinationSetRequest::default()
    };
    let updated = sets
        .update_destination_set(update(&newer))
        .await
        .unwrap()
        .into_inner();
    assert_ne!(updated.etag, created.etag);
    newer.algorithm = 6;
    let stale = sets
        .update_destination_set(update(&newer))
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    assert!(
        stale.message().contains(&updated.etag),
        "{}",
        stale.message()
    );

    let delete = |etag: &str| DeleteDestinationSetRequest {
        name: "sets/2".into(),
        etag: etag.into(),
        ..DeleteDestinationSetRequest::default()
    };
    assert_eq!(
        sets.delete_destination_set(delete(&created.etag))
            .await
            .unwrap_err()
            .code(),
        Code::Aborted
    );
    sets.delete_destination_set(delete(&updated.etag))
        .await
        .unwrap();
    assert_eq!(
        sets.delete_destination_set(delete(""))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    assert_eq!(
        sets.update_destination_set(update(&set("2")))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn the_same_update_twice_takes_one_generation() {
    let registry = registry("127.0.7.12").await;
    let mut sets = sets(&registry).await;
    let update = UpdateDestinationSetRequest {
        destination_set: Some(set("2")),
        allow_missing: true,
        ..UpdateDestinationSetRequest::default()
    };
    let first = sets
        .update_destination_set(update.clone())
        .await
        .unwrap()
        .into_inner();
    let generation = registry.generation().await;
    let second = sets
        .update_destination_set(update)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((first, generation), (second, registry.generation().await));
}

#[tokio::test]
async fn validate_only_says_what_would_happen_and_changes_nothing() {
    let registry = registry("127.0.7.13").await;
    let mut sets = sets(&registry).await;
    let before = registry.generation().await;
    let create = CreateDestinationSetRequest {
        destination_set: Some(set("2")),
        validate_only: true,
        ..CreateDestinationSetRequest::default()
    };
    assert_eq!(
        sets.create_destination_set(create)
            .await
            .unwrap()
            .into_inner()
            .name,
        "sets/2"
    );
    let mut bad = set("3");
    bad.algorithm = 7;
    let create = CreateDestinationSetRequest {
        destination_set: Some(bad),
        validate_only: true,
        ..CreateDestinationSetRequest::default()
    };
    assert_eq!(
        fields(&sets.create_destination_set(create).await.unwrap_err()),
        ["destination_set.algorithm"]
    );
    assert_eq!(registry.generation().await, before);
    let listed = sets
        .list_destination_sets(ListDestinationSetsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.destination_sets.len(), 1);
}

#[tokio::test]
async fn an_algorithm_that_no_node_knows_is_refused() {
    let registry = registry("127.0.7.91").await;
    let mut sets = sets(&registry).await;
    let mut create = async |algorithm| {
        let request = CreateDestinationSetRequest {
            destination_set: Some(DestinationSet {
                algorithm,
                ..set("2")
            }),
            validate_only: true,
            ..CreateDestinationSetRequest::default()
        };
        sets.create_destination_set(request).await
    };
    for known in [0, 4, 8] {
        assert!(create(known).await.is_ok(), "{known}");
    }
    for unknown in [1, 2, 3, 5, 6, 9, 10, 11, 64] {
        let status = create(unknown).await.unwrap_err();
        let refused = (status.code(), fields(&status));
        let wanted = (
            Code::InvalidArgument,
            vec!["destination_set.algorithm".into()],
        );
        assert_eq!(refused, wanted, "{unknown}");
    }
}

#[tokio::test]
async fn bad_requests_name_every_field() {
    let registry = registry("127.0.7.14").await;
    let mut destinations = DestinationServiceClient::new(registry.channel().await);
    let mut bad = destination("sets/1/destinations/a", "tel:+49");
    bad.weight = Some(1001);
    let create = |destination| CreateDestinationRequest {
        destination: Some(destination),
        ..CreateDestinationRequest::default()
    };
    let status = destinations
        .create_destination(create(bad))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)),
        (
            Code::InvalidArgument,
            vec!["destination.uri".into(), "destination.weight".into()]
        )
    );
    for (name, field) in [
        ("sets/1/destinations/A", "destination.name"),
        ("sets/9/destinations/a", "destination.name"),
        ("sets/1", "destination.name"),
    ] {
        let status = destinations
            .create_destination(create(destination(name, "sip:a")))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec![field.into()]),
            "{name}"
        );
    }
    let none = CreateDestinationRequest::default();
    assert_eq!(
        fields(&destinations.create_destination(none).await.unwrap_err()),
        ["destination"]
    );
}

#[tokio::test]
async fn what_is_referred_to_cannot_be_deleted() {
    let registry = registry("127.0.7.15").await;
    let mut sets = sets(&registry).await;
    let mut routes = RouteServiceClient::new(registry.channel().await);
    let mut destinations = DestinationServiceClient::new(registry.channel().await);
    let create = |set: DestinationSet| CreateDestinationSetRequest {
        destination_set: Some(set),
        ..CreateDestinationSetRequest::default()
    };
    sets.create_destination_set(create(set("2"))).await.unwrap();
    let route = CreateRouteRequest {
        route: Some(route_to_set("a", "sets/2")),
        ..CreateRouteRequest::default()
    };
    routes.create_route(route).await.unwrap();
    let dangling = CreateRouteRequest {
        route: Some(route_to_set("b", "sets/3")),
        ..CreateRouteRequest::default()
    };
    assert_eq!(
        fields(&routes.create_route(dangling).await.unwrap_err()),
        ["route.results[0].set"]
    );

    let delete = DeleteDestinationSetRequest {
        name: "sets/2".into(),
        ..DeleteDestinationSetRequest::default()
    };
    let status = sets
        .delete_destination_set(delete.clone())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let violation = &status
        .get_details_precondition_failure()
        .unwrap()
        .violations[0];
    assert_eq!(violation.subject, "routes/a");

    let gone = DeleteRouteRequest {
        name: "routes/a".into(),
        ..DeleteRouteRequest::default()
    };
    routes.delete_route(gone).await.unwrap();
    let one = destination("sets/2/destinations/a", "sip:192.0.2.1:5060");
    let one = CreateDestinationRequest {
        destination: Some(one),
        ..CreateDestinationRequest::default()
    };
    destinations.create_destination(one).await.unwrap();
    assert_eq!(
        sets.delete_destination_set(delete.clone())
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
    let gone = DeleteDestinationRequest {
        name: "sets/2/destinations/a".into(),
        ..DeleteDestinationRequest::default()
    };
    destinations.delete_destination(gone).await.unwrap();
    sets.delete_destination_set(delete).await.unwrap();
}

#[tokio::test]
async fn lists_come_in_pages_by_name() {
    let registry = registry("127.0.7.16").await;
    let mut destinations = DestinationServiceClient::new(registry.channel().await);
    for id in ["c", "a", "b"] {
        let one = destination(&format!("sets/1/destinations/{id}"), "sip:192.0.2.1");
        let create = CreateDestinationRequest {
            destination: Some(one),
            ..CreateDestinationRequest::default()
        };
        destinations.create_destination(create).await.unwrap();
    }
    let mut page_token = String::new();
    let mut pages = Vec::new();
    loop {
        let request = ListDestinationsRequest {
            parent: "sets/1".into(),
            page_size: 2,
            page_token,
        };
        let page = destinations
            .list_destinations(request)
            .await
            .unwrap()
            .into_inner();
        pages.push(
            page.destinations
                .iter()
                .map(|d| d.name.rsplit('/').next().unwrap().to_owned())
                .collect::<Vec<_>>(),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c"]]);
    let missing = ListDestinationsRequest {
        parent: "sets/7".into(),
        ..ListDestinationsRequest::default()
    };
    assert_eq!(
        destinations
            .list_destinations(missing)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn health_and_both_reflections_answer() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::{v1, v1alpha};

    let registry = registry("127.0.7.17").await;
    let channel = registry.channel().await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "tandem.registry.v1.ConfigService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        assert_eq!(
            health.check(request).await.unwrap().into_inner().status(),
            ServingStatus::Serving,
            "{service}"
        );
    }

    let request = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer
    else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(
        names.contains(&"tandem.registry.v1.MemberService".to_owned()),
        "{names:?}"
    );

    let symbol = "tandem.registry.v1.RouteService".to_owned();
    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol),
        ),
        ..Default::default()
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}
