//! Who may do what.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use common::{Authority, Running, create, get, refresh, register, serve, why};
use control::channel::ClientTls;
use control::registry::v1::ListMembersRequest;
use face::FaceConfig;
use rcgen::SanType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

/// Reads, changes and registers; returns what became of each.
async fn tries(face: &Running, tls: &ClientTls) -> [Code; 3] {
    let code = |status: Result<(), Status>| status.map_or_else(|error| error.code(), |()| Code::Ok);
    let mut cells = face.cells(Some(tls)).await;
    let mut members = face.members(Some(tls)).await;
    [
        code(cells.get_cell(get("cells/a")).await.map(drop)),
        code(cells.create_cell(create("cells/a")).await.map(drop)),
        code(members.register(register("members/sbc-1")).await.map(drop)),
    ]
}

#[tokio::test]
async fn a_role_allows_what_it_is_for() {
    let ours = Authority::new();
    let face = serve("127.0.22.20", &ours.mutual("127.0.22.20")).await;
    let (yes, no, who) = (Code::Ok, Code::PermissionDenied, Code::Unauthenticated);
    for (path, allowed) in [
        ("tandem/viewer/grafana", [yes, no, no]),
        ("tandem/operator/anna", [yes, yes, no]),
        ("tandem/node/sbc-1", [no, no, yes]),
        ("tandem/node/sbc-2", [no, no, no]),
        ("other/operator/anna", [no, no, no]),
    ] {
        assert_eq!(tries(&face, &ours.client(path)).await, allowed, "{path}");
    }
    assert_eq!(tries(&face, &ours.stranger()).await, [who; 3]);

    let uri = |path: &str| SanType::URI(format!("spiffe://a/{path}").try_into().unwrap());
    let two = vec![uri("tandem/operator/a"), uri("tandem/viewer/a")];
    for (name, names) in [
        ("two", two),
        ("none", vec![SanType::DnsName("a".try_into().unwrap())]),
    ] {
        let tls = ClientTls {
            identity: Some(ours.sign(name, names)),
            ..ours.stranger()
        };
        assert_eq!(tries(&face, &tls).await, [who; 3], "{name}");
    }
}

#[tokio::test]
async fn a_refusal_says_which_role_is_missing_and_who_was_seen() {
    let ours = Authority::new();
    let face = serve("127.0.22.21", &ours.mutual("127.0.22.21")).await;
    let viewer = ours.client("tandem/viewer/grafana");
    let mut cells = face.cells(Some(&viewer)).await;
    let refused = cells.create_cell(create("cells/a")).await.unwrap_err();
    let role = ("ROLE_MISSING".to_owned(), "operator".to_owned());
    assert_eq!(why(&refused, "role"), role);
    let seen = "spiffe://example.com/tandem/viewer/grafana";
    assert_eq!(why(&refused, "identity").1, seen);
    assert!(refused.message().contains(seen), "{refused}");

    let mut cells = face.cells(Some(&ours.stranger())).await;
    let refused = cells.get_cell(get("cells/a")).await.unwrap_err();
    let role = ("IDENTITY_MISSING".to_owned(), "viewer".to_owned());
    assert_eq!(why(&refused, "role"), role);
}

#[tokio::test]
async fn a_node_that_speaks_for_another_in_the_middle_of_a_stream_is_cut_off() {
    let ours = Authority::new();
    let face = serve("127.0.22.22", &ours.mutual("127.0.22.22")).await;
    let mut members = face.members(Some(&ours.client("tandem/node/sbc-1"))).await;
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(refresh("members/sbc-1")).await.unwrap();
    let answers = members.keep_alive(ReceiverStream::new(outgoing)).await;
    let mut answers = answers.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    requests.send(refresh("members/sbc-2")).await.unwrap();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let other = ("NOT_YOURSELF".to_owned(), "members/sbc-2".to_owned());
    assert_eq!(why(&refused, "resource"), other);
}

#[tokio::test]
async fn patterns_say_who_has_a_role() {
    let ours = Authority::new();
    let mut config = ours.mutual("127.0.22.23");
    config.roles.operator = vec!["spiffe://example.com/ns/tandem/sa/console".parse().unwrap()];
    let face = serve("127.0.22.23", &config).await;
    let (yes, no) = (Code::Ok, Code::PermissionDenied);
    let console = ours.client("ns/tandem/sa/console");
    assert_eq!(tries(&face, &console).await, [yes, yes, no]);
    let anna = ours.client("tandem/operator/anna");
    assert_eq!(tries(&face, &anna).await, [no; 3]);
}

#[tokio::test]
async fn a_sidecar_is_believed_only_if_a_setting_says_so() {
    let forwarded = |by: &str| {
        let mut request = Request::new(ListMembersRequest::default());
        let value = format!("By=spiffe://a/x;URI=spiffe://a/tandem/{by}");
        let value = value.parse().unwrap();
        request
            .metadata_mut()
            .insert("x-forwarded-client-cert", value);
        request
    };
    let config = FaceConfig {
        trust_forwarded_client_cert: true,
        ..FaceConfig::default()
    };
    let face = serve("127.0.22.24", &config).await;
    let mut members = face.members(None).await;
    members.list_members(forwarded("viewer/v")).await.unwrap();
    let refused = members.list_members(forwarded("node/n")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = members.list_members(ListMembersRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);

    let ours = Authority::new();
    let face = serve("127.0.22.25", &ours.mutual("127.0.22.25")).await;
    let mut members = face.members(Some(&ours.stranger())).await;
    let refused = members
        .list_members(forwarded("viewer/v"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}
