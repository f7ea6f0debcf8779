//! What a face shows: health, reflection, log lines.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Authority, create, get, serve};
use control::registry::v1::{DeleteCellRequest, UpdateCellRequest};
use control::trace::TraceContext;
use face::FaceConfig;
use tokio::time::timeout;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1;
use tracing_subscriber::fmt::MakeWriter;

#[tokio::test]
async fn whoever_watches_a_component_hears_of_it_until_the_end() {
    let face = serve("127.0.22.60", &FaceConfig::default()).await;
    face.health.show("store", true).await;
    let mut client = HealthClient::new(face.channel(None).await);
    let request = |name: &str| HealthCheckRequest {
        service: name.to_owned(),
    };
    for name in ["", "tandem.registry.v1.CellService"] {
        let status = client.check(request(name)).await.unwrap();
        assert_eq!(status.into_inner().status(), Serving, "{name}");
    }
    let unknown = client.check(request("tandem.sbc.v1.TapService")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);

    let mut watched = client.watch(request("store")).await.unwrap().into_inner();
    let mut next = async || -> Option<ServingStatus> {
        let next = timeout(Duration::from_secs(5), watched.message()).await;
        next.unwrap().unwrap().map(|answer| answer.status())
    };
    assert_eq!(next().await, Some(Serving));
    face.health.show("store", false).await;
    assert_eq!(next().await, Some(NotServing));
    face.health.show("store", true).await;
    assert_eq!(next().await, Some(Serving));
    let process = client.check(request("")).await.unwrap();
    assert_eq!(process.into_inner().status(), Serving);
    drop(client);
    face.stop().await;
    assert_eq!(next().await, Some(NotServing));
    assert_eq!(next().await, None, "the stream has ended");
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_nothing_else() {
    let face = serve("127.0.22.61", &FaceConfig::default()).await;
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest {
        message_request: Some(list),
        ..v1::ServerReflectionRequest::default()
    };
    let channel = face.channel(None).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = answers
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(listed)) =
        answer.message_response
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    let served = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tandem.registry.v1.CellService",
        "tandem.registry.v1.MemberService",
    ];
    assert_eq!(names, served);
}

/// Keeps what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    fn start(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let logs = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level);
        tracing::subscriber::set_default(logs.with_writer(self.clone()).finish())
    }

    fn lines(&self, mark: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(mark));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn every_change_leaves_a_line_and_no_reading_does() {
    let log = Log::default();
    let _guard = log.start(tracing::Level::INFO);
    let ours = Authority::new();
    let mut config = ours.mutual("127.0.22.62");
    config.limits.deadline = Duration::from_millis(300);
    let face = serve("127.0.22.62", &config).await;
    let operator = ours.client("tandem/operator/anna");
    let mut cells = face.cells(Some(&operator)).await;
    cells.get_cell(get("cells/a")).await.unwrap();
    cells.create_cell(create("cells/b")).await.unwrap();
    let delete = DeleteCellRequest {
        name: "cells/c".to_owned(),
        ..DeleteCellRequest::default()
    };
    cells.delete_cell(delete.clone()).await.unwrap();
    let conflict = cells.update_cell(UpdateCellRequest::default()).await;
    assert_eq!(conflict.unwrap_err().code(), Code::Aborted);
    assert!(cells.create_cell(create("cells/slow")).await.is_err());
    let viewer = ours.client("tandem/viewer/grafana");
    let refused = face.cells(Some(&viewer)).await.delete_cell(delete).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    let lines = log.lines(" audit: ");
    let wanted = [
        (
            "operator/anna",
            "role=\"operator\"",
            "CreateCell",
            "resource=cells/b",
            "code=Ok",
        ),
        (
            "operator/anna",
            "role=\"operator\"",
            "DeleteCell",
            "resource=cells/c",
            "code=Ok",
        ),
        (
            "operator/anna",
            "role=\"operator\"",
            "UpdateCell",
            "resource=",
            "code=Aborted",
        ),
        (
            "operator/anna",
            "role=\"operator\"",
            "CreateCell",
            "resource=cells/slow",
            "code=DeadlineExceeded",
        ),
        (
            "viewer/grafana",
            "role=\"-\"",
            "DeleteCell",
            "resource=",
            "code=PermissionDenied",
        ),
    ];
    assert_eq!(lines.len(), wanted.len(), "{lines:#?}");
    for (line, (who, role, method, resource, code)) in lines.iter().zip(wanted) {
        for part in [who, role, method, resource, code, "remote_addr=127.0."] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

#[tokio::test]
async fn a_change_whose_caller_left_is_in_the_audit_log_too() {
    let log = Log::default();
    let _guard = log.start(tracing::Level::INFO);
    let face = serve("127.0.22.63", &FaceConfig::default()).await;
    let mut cells = face.cells(None).await;
    let left = timeout(
        Duration::from_millis(300),
        cells.create_cell(create("cells/slow")),
    )
    .await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let lines = log.lines(" audit: ");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("cells/slow") && lines[0].contains("code=Cancelled"),
        "{lines:?}"
    );
    assert!(lines[0].contains("identity=\"-\""), "{lines:?}");
}

#[tokio::test]
async fn a_callers_trace_is_in_the_lines_of_its_call() {
    let log = Log::default();
    let _guard = log.start(tracing::Level::DEBUG);
    let face = serve("127.0.22.64", &FaceConfig::default()).await;
    let mut cells = face.cells(None).await;
    let trace = TraceContext::begin();
    let call = cells.get_cell(Request::new(get("cells/a")));
    trace.scope(call).await.unwrap();
    cells.get_cell(get("cells/a")).await.unwrap();
    let lines = log.lines("call answered");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains(&trace.trace_id()), "{lines:?}");
    assert!(!lines[1].contains(&trace.trace_id()), "{lines:?}");
}
