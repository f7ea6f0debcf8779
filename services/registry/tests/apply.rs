//! Many changes as one, repeated requests, and parts of a resource.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;
#[path = "common/malformed.rs"]
mod malformed;

use common::{Running, members, registry};
use control::registry::v1::apply_service_client::ApplyServiceClient;
use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::*;
use prost_types::FieldMask;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn set(id: &str, algorithm: u32) -> Resource {
    as_resource(Kind::DestinationSet(DestinationSet {
        name: format!("sets/{id}"),
        algorithm,
        ..DestinationSet::default()
    }))
}

fn destination(set: &str, id: &str, state: DestinationState) -> Resource {
    as_resource(Kind::Destination(Destination {
        name: format!("sets/{set}/destinations/{id}"),
        uri: "sip:192.0.2.1".into(),
        desired_state: state.into(),
        ..Destination::default()
    }))
}

fn route(id: &str, set: &str) -> Resource {
    let next_hop = Some(route_result::NextHop::Set(format!("sets/{set}")));
    as_resource(Kind::Route(Route {
        name: format!("routes/{id}"),
        results: vec![RouteResult {
            next_hop,
            ..RouteResult::default()
        }],
        ..Route::default()
    }))
}

fn as_resource(kind: Kind) -> Resource {
    Resource {
        resource: Some(kind),
    }
}

fn request(resources: Vec<Resource>, deletes: &[&str]) -> ApplyResourcesRequest {
    ApplyResourcesRequest {
        resources,
        deletes: deletes.iter().map(ToString::to_string).collect(),
        ..ApplyResourcesRequest::default()
    }
}

struct Applier(ApplyServiceClient<Channel>);

impl Applier {
    async fn of(registry: &Running) -> Self {
        Self(ApplyServiceClient::new(registry.channel().await))
    }

    async fn apply(
        &mut self,
        request: ApplyResourcesRequest,
    ) -> Result<ApplyResourcesResponse, Status> {
        self.0
            .apply_resources(request)
            .await
            .map(|answer| answer.into_inner())
    }
}

fn actions(response: &ApplyResourcesResponse) -> Vec<(&str, AppliedAction)> {
    let applied = response.applied.iter();
    applied.map(|one| (&*one.name, one.action())).collect()
}

fn warned(response: &ApplyResourcesResponse) -> Vec<(&str, &str)> {
    let warnings = response.warnings.iter();
    warnings.map(|one| (&*one.resource, &*one.field)).collect()
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().expect("field violations");
    details
        .field_violations
        .into_iter()
        .map(|found| found.field)
        .collect()
}

fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .expect("an ErrorInfo")
        .reason
}

#[tokio::test]
async fn many_changes_take_one_generation_in_any_order() {
    use AppliedAction::*;
    let registry = registry("127.0.7.101").await;
    let mut applier = Applier::of(&registry).await;
    let before = registry.generation().await;
    let active = DestinationState::Active;
    let all = vec![route("a", "2"), destination("2", "a", active), set("2", 4)];
    let made = applier
        .apply(request(all.clone(), &["routes/none"]))
        .await
        .unwrap();
    assert_eq!(made.position.unwrap().generation, before + 1);
    let names = ["routes/a", "sets/2/destinations/a", "sets/2"];
    let mut wanted: Vec<_> = names.iter().map(|name| (*name, Created)).collect();
    wanted.push(("routes/none", Unchanged));
    assert_eq!(actions(&made), wanted);
    assert!(made.applied[..3].iter().all(|one| !one.etag.is_empty()));
    assert_eq!(made.applied[3].etag, "");
    assert_eq!(made.warnings, []);

    let again = applier.apply(request(all.clone(), &[])).await.unwrap();
    assert_eq!(again.position, made.position, "nothing had to change");
    let etags = |response: &ApplyResourcesResponse| {
        let applied = response.applied.iter().take(3);
        applied.map(|one| one.etag.clone()).collect::<Vec<_>>()
    };
    assert_eq!(etags(&again), etags(&made));

    let changed = request(vec![set("2", 8)], &["routes/a", "sets/2/destinations/a"]);
    let changed = applier.apply(changed).await.unwrap();
    let wanted = [
        ("sets/2", Updated),
        ("routes/a", Deleted),
        ("sets/2/destinations/a", Deleted),
    ];
    assert_eq!(actions(&changed), wanted);
    assert_eq!(warned(&changed), [("sets/2", "")], "it is empty now");
    assert_eq!(registry.generation().await, before + 2);
}

#[tokio::test]
async fn one_mistake_stops_all_of_it_and_every_mistake_is_told() {
    let registry = registry("127.0.7.102").await;
    let mut applier = Applier::of(&registry).await;
    let before = registry.status().await.position;
    let wrong = request(vec![set("2", 0), set("3", 7), route("a", "9")], &[]);
    let refused = applier.apply(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // What a set that is refused would have been good for is not asked.
    let wanted = ["resources[1].algorithm", "resources[2].results[0].set"];
    let mut found = fields(&refused);
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(reason(&refused), "INVALID_VALUE");

    let twice = request(vec![set("2", 0), set("2", 4)], &["sets/2", "sets/A"]);
    let refused = applier.apply(twice).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        ["resources[1].name", "deletes[0]", "deletes[1]"]
    );
    let nameless = request(vec![Resource::default(), set("", 0)], &[]);
    let refused = applier.apply(nameless).await.unwrap_err();
    assert_eq!(fields(&refused), ["resources[0]", "resources[1].name"]);
    let many = (0..61).map(|i| set(&format!("s{i}"), 0)).collect();
    let refused = applier.apply(request(many, &[])).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::ResourceExhausted, "LIMIT_REACHED")
    );
    assert_eq!(
        registry.status().await.position,
        before,
        "nothing has changed"
    );
    let most = (0..60).map(|i| set(&format!("s{i}"), 0)).collect();
    applier
        .apply(request(most, &[]))
        .await
        .expect("60 are taken");
}

#[tokio::test]
async fn thousands_of_mistakes_reach_the_client_as_a_refusal() {
    let registry = registry("127.0.7.58").await;
    let member = Member {
        name: "members/a".into(),
        sip: vec![SipEndpoint::default(); 2500],
        ..Member::default()
    };
    let mut applier = Applier::of(&registry).await;
    let resources = vec![as_resource(Kind::Member(member))];
    let refused = applier.apply(request(resources, &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(reason(&refused), "INVALID_VALUE");
    let told = fields(&refused).len();
    assert!(told > 5, "{refused}");
    let facts = refused.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["more"], (2503 - told).to_string());
}

#[tokio::test]
async fn malformed_values_are_refused_by_their_field_and_change_nothing() {
    let registry = registry("127.0.7.103").await;
    let mut applier = Applier::of(&registry).await;
    let before = registry.status().await.position;
    for (name, value, field) in malformed::WRONG {
        let resource = read(name, value);
        let both = request(vec![set("good", 0), resource], &[]);
        let refused = applier.apply(both).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{value}: {refused}");
        assert_eq!(
            fields(&refused),
            [format!("resources[1].{field}")],
            "{value}"
        );
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert!(!violations[0].description.is_empty(), "{value}");
    }
    assert_eq!(registry.status().await.position, before);
}

fn read(name: &str, value: &str) -> Resource {
    let value = value.as_bytes();
    let kind = match name.split('/').collect::<Vec<_>>()[..] {
        ["cells", _] => Kind::Cell(control::json::decode(value).unwrap()),
        ["members", _] => Kind::Member(control::json::decode(value).unwrap()),
        ["sets", _] => Kind::DestinationSet(control::json::decode(value).unwrap()),
        ["sets", ..] => Kind::Destination(control::json::decode(value).unwrap()),
        ["routes", _] => Kind::Route(control::json::decode(value).unwrap()),
        ["trunks", _] => Kind::Trunk(control::json::decode(value).unwrap()),
        ["profiles", _] => Kind::Profile(control::json::decode(value).unwrap()),
        _ => Kind::TableDefinition(control::json::decode(value).unwrap()),
    };
    as_resource(kind)
}

#[tokio::test]
async fn what_stays_and_refers_to_what_goes_is_named() {
    let registry = registry("127.0.7.104").await;
    let mut applier = Applier::of(&registry).await;
    let both = request(vec![set("2", 0), route("a", "2")], &[]);
    applier.apply(both).await.unwrap();
    let refused = applier
        .apply(request(vec![], &["sets/2"]))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::FailedPrecondition, "STILL_REFERENCED")
    );
    let failure = refused.get_details_precondition_failure().unwrap();
    assert_eq!(failure.violations[0].subject, "routes/a");
    let moved = request(vec![route("a", "1")], &["sets/2"]);
    applier.apply(moved).await.expect("together they fit");
}

#[tokio::test]
async fn a_stale_etag_stops_all_of_it() {
    let registry = registry("127.0.7.105").await;
    let mut applier = Applier::of(&registry).await;
    let first = applier
        .apply(request(vec![set("2", 0)], &[]))
        .await
        .unwrap();
    applier
        .apply(request(vec![set("2", 4)], &[]))
        .await
        .unwrap();
    let mut stale = set("2", 8);
    if let Some(Kind::DestinationSet(set)) = &mut stale.resource {
        set.etag.clone_from(&first.applied[0].etag);
    }
    let refused = applier
        .apply(request(vec![set("3", 0), stale], &[]))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    assert!(
        !applier
            .apply(request(vec![], &["sets/3"]))
            .await
            .unwrap()
            .applied
            .is_empty()
    );
}

#[tokio::test]
async fn what_shall_go_may_have_to_be_what_somebody_saw() {
    let registry = registry("127.0.7.59").await;
    let mut applier = Applier::of(&registry).await;
    let both = request(vec![set("2", 0), set("3", 0)], &[]);
    let applied = applier.apply(both).await.unwrap().applied;
    let mut deletes = request(Vec::new(), &["sets/2", "sets/3"]);
    deletes.delete_etags = vec![String::new(), "1-0".to_owned()];
    let stale = applier.apply(deletes.clone()).await.unwrap_err();
    assert_eq!(
        (stale.code(), &*reason(&stale)),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    deletes.delete_etags[1].clone_from(&applied[1].etag);
    let applied = applier.apply(deletes.clone()).await.unwrap();
    assert!(
        actions(&applied)
            .iter()
            .all(|(_, action)| *action == AppliedAction::Deleted)
    );
    deletes.delete_etags.push(String::new());
    let refused = applier.apply(deletes).await.unwrap_err();
    assert_eq!(fields(&refused), ["delete_etags"]);
}

#[tokio::test]
async fn what_depends_on_the_moment_is_a_warning() {
    let registry = registry("127.0.7.106").await;
    let mut applier = Applier::of(&registry).await;
    let mut ask = async |resources| {
        let request = ApplyResourcesRequest {
            resources,
            validate_only: true,
            ..ApplyResourcesRequest::default()
        };
        applier.apply(request).await.unwrap()
    };
    let draining = || destination("2", "a", DestinationState::Draining);
    let active = || destination("2", "b", DestinationState::Active);
    let empty = ask(vec![set("2", 0), route("a", "2")]).await;
    assert_eq!(
        warned(&empty),
        [("sets/2", ""), ("routes/a", "results[0].set")]
    );
    let all_draining = ask(vec![set("2", 0), draining()]).await;
    assert_eq!(warned(&all_draining), [("sets/2", "")]);
    assert_eq!(
        all_draining.warnings[0].reason,
        "every destination is draining or disabled"
    );
    let one_active = ask(vec![set("2", 0), draining(), active()]).await;
    assert_eq!(warned(&one_active), []);
    let selector = DestinationSet {
        name: "sets/2".into(),
        selector: Some(MemberSelector::default()),
        ..DestinationSet::default()
    };
    let finds_none = ask(vec![as_resource(Kind::DestinationSet(selector))]).await;
    assert_eq!(warned(&finds_none), [("sets/2", "selector")]);
    let cell = Cell {
        name: "cells/a".into(),
        ..Cell::default()
    };
    assert_eq!(
        warned(&ask(vec![as_resource(Kind::Cell(cell))]).await),
        [("cells/a", "")]
    );
    assert_eq!(registry.generation().await, 1, "it was only asked");
}

#[tokio::test]
async fn a_repeated_request_is_answered_and_changes_nothing() {
    let registry = registry("127.0.7.107").await;
    let mut applier = Applier::of(&registry).await;
    let with_id = |resources, id: &str| ApplyResourcesRequest {
        request_id: id.into(),
        ..request(resources, &[])
    };
    let first = applier
        .apply(with_id(vec![set("2", 4)], "a-1"))
        .await
        .unwrap();
    applier.apply(request(vec![], &["sets/2"])).await.unwrap();
    let generation = registry.generation().await;
    let again = applier
        .apply(with_id(vec![set("2", 4)], "a-1"))
        .await
        .unwrap();
    assert_eq!(actions(&again), actions(&first));
    assert_eq!(warned(&again), warned(&first));
    assert_eq!(
        registry.generation().await,
        generation,
        "it is still deleted"
    );

    let other = applier
        .apply(with_id(vec![set("2", 8)], "a-1"))
        .await
        .unwrap_err();
    assert_eq!(
        (other.code(), &*reason(&other)),
        (Code::InvalidArgument, "REQUEST_ID_REUSED")
    );
    assert_eq!(fields(&other), ["request_id"]);
    for bad in ["with space", &"x".repeat(65), "ä"] {
        let refused = applier.apply(with_id(vec![], bad)).await.unwrap_err();
        assert_eq!(fields(&refused), ["request_id"], "{bad}");
    }

    // The other methods take one, too: of create, only a repeat with an id finds it made.
    let mut sets = DestinationSetServiceClient::new(registry.channel().await);
    let create = |id: &str| CreateDestinationSetRequest {
        destination_set: Some(DestinationSet {
            name: "sets/3".into(),
            ..DestinationSet::default()
        }),
        request_id: id.into(),
        ..CreateDestinationSetRequest::default()
    };
    let made = sets
        .create_destination_set(create("b"))
        .await
        .unwrap()
        .into_inner();
    let again = sets
        .create_destination_set(create("b"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made, again);
    let other = sets.create_destination_set(create("c")).await.unwrap_err();
    assert_eq!(
        (other.code(), &*reason(&other)),
        (Code::AlreadyExists, "RESOURCE_EXISTS")
    );
    let delete = DeleteDestinationSetRequest {
        name: "sets/3".into(),
        request_id: "d".into(),
        ..DeleteDestinationSetRequest::default()
    };
    sets.delete_destination_set(delete.clone()).await.unwrap();
    sets.delete_destination_set(delete.clone())
        .await
        .expect("it was this one");
    let elsewhere = DeleteDestinationSetRequest {
        name: "sets/1".into(),
        ..delete
    };
    let reused = sets.delete_destination_set(elsewhere).await.unwrap_err();
    assert_eq!(reason(&reused), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_mask_says_what_is_replaced() {
    let registry = registry("127.0.7.108").await;
    let mut members = members(&registry).await;
    let member = Member {
        name: "members/k".into(),
        kind: MemberKind::StockRouter.into(),
        address: "192.0.2.1".into(),
        sip: vec![SipEndpoint {
            side: 0,
            address: "192.0.2.1:5060".into(),
        }],
        zone: "east".into(),
        ..Member::default()
    };
    let update = |member: Member, paths: &[&str]| UpdateMemberRequest {
        member: Some(member),
        allow_missing: true,
        update_mask: (!paths.is_empty()).then(|| FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
        ..UpdateMemberRequest::default()
    };
    members
        .update_member(update(member.clone(), &["zone"]))
        .await
        .expect("all of a new one");
    let other = Member {
        name: "members/k".into(),
        zone: "west".into(),
        tags: vec!["x".into()],
        ..Member::default()
    };
    let masked = members
        .update_member(update(other.clone(), &["zone"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&*masked.zone, &*masked.address, masked.tags.len()),
        ("west", "192.0.2.1", 0)
    );
    for path in ["colour", "sip.address", "name", "liveness", "etag"] {
        let refused = members
            .update_member(update(other.clone(), &["zone", path]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(fields(&refused), ["update_mask.paths[1]"], "{path}");
    }
    let stale = Member {
        etag: "1-0".into(),
        ..other
    };
    let refused = members
        .update_member(update(stale, &["tags"]))
        .await
        .unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Aborted,
        "an etag counts with a mask, too"
    );
}

#[tokio::test]
async fn a_page_token_belongs_to_its_list() {
    let registry = registry("127.0.7.109").await;
    let mut applier = Applier::of(&registry).await;
    let active = DestinationState::Active;
    let all = vec![
        set("2", 0),
        destination("2", "a", active),
        destination("1", "a", active),
    ];
    applier.apply(request(all, &[])).await.unwrap();
    let mut routes = RouteServiceClient::new(registry.channel().await);
    for token in ["sets/1", "routes", "x"] {
        let list = ListRoutesRequest {
            page_token: token.into(),
            ..ListRoutesRequest::default()
        };
        let refused = routes.list_routes(list).await.unwrap_err();
        assert_eq!(fields(&refused), ["page_token"], "{token}");
    }
    let mut destinations =
        destination_service_client::DestinationServiceClient::new(registry.channel().await);
    let list = |token: &str| ListDestinationsRequest {
        parent: "sets/2".into(),
        page_token: token.into(),
        ..ListDestinationsRequest::default()
    };
    let refused = destinations
        .list_destinations(list("sets/1/destinations/a"))
        .await
        .unwrap_err();
    assert_eq!(fields(&refused), ["page_token"]);
    let rest = destinations
        .list_destinations(list("sets/2/destinations/a"))
        .await
        .unwrap();
    assert!(rest.into_inner().destinations.is_empty());
}
