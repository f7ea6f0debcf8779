//! How long, how much, and how large.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use common::{create, get, refresh, serve, why};
use face::{FaceConfig, MESSAGE_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

#[tokio::test]
async fn a_call_ends_at_the_deadline_and_a_stream_does_not() {
    let mut config = FaceConfig::default();
    config.limits.deadline = Duration::from_millis(300);
    let face = serve("127.0.22.40", &config).await;
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(refresh("members/a")).await.unwrap();
    let mut members = face.members(None).await;
    let answers = members.keep_alive(ReceiverStream::new(outgoing)).await;
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();

    let began = Instant::now();
    let late = face.cells(None).await.get_cell(get("cells/slow")).await;
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= config.limits.deadline);
    sleep(config.limits.deadline).await;
    requests.send(refresh("members/a")).await.unwrap();
    answers.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_at_once_and_health_is_not() {
    let mut config = FaceConfig::default();
    config.limits.calls_max = 2;
    config.limits.deadline = Duration::from_secs(2);
    let face = serve("127.0.22.41", &config).await;
    let mut cells = face.cells(None).await;
    let slow = |_| {
        let mut cells = cells.clone();
        tokio::spawn(async move { cells.get_cell(get("cells/slow")).await })
    };
    let slow: Vec<_> = (0..2).map(slow).collect();
    sleep(Duration::from_millis(300)).await;

    let refused = cells.get_cell(get("cells/a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(why(&refused, "").0, "OVERLOADED");
    let details = refused.get_error_details();
    let retry = details.retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(face::errors::RETRY_DELAY));
    let mut health = HealthClient::new(face.channel(None).await);
    health.check(HealthCheckRequest::default()).await.unwrap();

    for slow in slow {
        let ended = slow.await.unwrap().unwrap_err();
        assert_eq!(ended.code(), Code::DeadlineExceeded);
    }
    cells.get_cell(get("cells/a")).await.unwrap();
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_until_one_ends() {
    let mut config = FaceConfig::default();
    config.limits.streams_max = 1;
    let face = serve("127.0.22.42", &config).await;
    let mut members = face.members(None).await;
    let (requests, outgoing) = mpsc::channel(1);
    let first = members.keep_alive(ReceiverStream::new(outgoing)).await;
    let mut first = first.unwrap().into_inner();

    let once = || tokio_stream::once(refresh("members/a"));
    let refused = members.keep_alive(once()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(requests);
    assert!(first.message().await.unwrap().is_none());
    sleep(Duration::from_millis(100)).await;
    members.keep_alive(once()).await.unwrap();
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let face = serve("127.0.22.43", &FaceConfig::default()).await;
    let mut cells = face.cells(None).await;
    let name = "x".repeat(MESSAGE_BYTES_MAX - 64);
    cells.create_cell(create(&name)).await.unwrap();
    let name = "x".repeat(MESSAGE_BYTES_MAX);
    let refused = cells.create_cell(create(&name)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let limit = (
        "MESSAGE_TOO_LARGE".to_owned(),
        MESSAGE_BYTES_MAX.to_string(),
    );
    assert_eq!(why(&refused, "bytes_max"), limit);
}

#[tokio::test]
async fn a_connection_whose_other_end_answers_no_ping_is_ended() {
    let mut config = FaceConfig::default();
    config.limits.ping = Duration::from_millis(300);
    let face = serve("127.0.22.49", &config).await;
    let mut dumb = tokio::net::TcpStream::connect(face.address).await.unwrap();
    // HTTP/2 as it begins: the preface, and settings without any.
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    dumb.write_all(hello).await.unwrap();
    let mut said = Vec::new();
    let ended = timeout(Duration::from_secs(5), dumb.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "it is open still");
    let ping = |frame: &[u8]| frame[..5] == [0, 0, 8, 6, 0];
    assert!(said.windows(9).any(ping), "it was asked first: {said:?}");
}
