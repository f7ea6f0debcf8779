//! Who is let in, with which certificate, and what happens when files change.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use common::{Authority, create, get, replace, serve, with_tls};
use control::channel::{ClientTls, chain};
use control::registry::v1::cell_service_client::CellServiceClient;
use face::{FaceConfig, Server, TlsFiles};
use rcgen::SanType;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

#[tokio::test]
async fn a_face_without_tls_serves_everybody() {
    let face = serve("127.0.22.1", &FaceConfig::default()).await;
    let mut cells = face.cells(None).await;
    cells.create_cell(create("cells/a")).await.unwrap();
    drop(cells);
    face.stop().await;
}

#[tokio::test]
async fn a_client_checks_the_servers_certificate() {
    let ours = Authority::new();
    let face = serve("127.0.22.2", &with_tls(ours.server("127.0.22.2"))).await;
    let mut cells = face.cells(Some(&ours.stranger())).await;
    cells.create_cell(create("cells/a")).await.unwrap();

    let other = Authority::new();
    let refused = face.connect(Some(&other.stranger())).await;
    let refused = chain(&refused.unwrap_err());
    assert!(refused.contains("invalid peer certificate"), "{refused}");

    let named = ClientTls {
        server_name: Some("registry.example.com".to_owned()),
        ..ours.stranger()
    };
    let refused = chain(&face.connect(Some(&named)).await.unwrap_err());
    assert!(refused.contains("registry.example.com"), "{refused}");
    // In the clear a connection fails with its first answer.
    if let Ok(channel) = face.connect(None).await {
        let mut cells = CellServiceClient::new(channel);
        assert!(cells.get_cell(get("cells/a")).await.is_err());
    }
}

#[tokio::test]
async fn a_client_of_another_authority_is_turned_away() {
    let (ours, other) = (Authority::new(), Authority::new());
    let face = serve("127.0.22.3", &ours.mutual("127.0.22.3")).await;
    let good = ours.client("tandem/operator/anna");
    let mut cells = face.cells(Some(&good)).await;
    cells.create_cell(create("cells/a")).await.unwrap();

    let forged = ClientTls {
        ca: ours.ca(),
        ..other.client("tandem/operator/anna")
    };
    // TLS 1.3 tells the client with its first answer, not in the handshake.
    if let Ok(channel) = face.connect(Some(&forged)).await {
        let mut cells = CellServiceClient::new(channel);
        assert!(cells.create_cell(create("cells/a")).await.is_err());
    }
}

#[tokio::test]
async fn a_renewed_certificate_counts_for_new_connections_and_a_bad_one_does_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.server("127.0.22.4");
    let face = serve("127.0.22.4", &with_tls(files.clone())).await;
    let mut before = face.cells(Some(&old.stranger())).await;
    before.get_cell(get("cells/a")).await.unwrap();

    replace(&files.cert, "no certificate");
    sleep(Duration::from_millis(1500)).await;
    face.channel(Some(&old.stranger())).await;

    let renewed = new.server("127.0.22.4");
    replace(&files.cert, std::fs::read(renewed.cert).unwrap());
    replace(&files.key, std::fs::read(renewed.key).unwrap());
    let changed = Instant::now();
    while face.connect(Some(&new.stranger())).await.is_err() {
        assert!(
            changed.elapsed() < Duration::from_secs(5),
            "never taken over"
        );
        sleep(Duration::from_millis(50)).await;
    }
    assert!(face.connect(Some(&old.stranger())).await.is_err());
    before.get_cell(get("cells/a")).await.unwrap();
}

#[tokio::test]
async fn a_client_that_connects_again_has_what_its_files_hold_then() {
    let (old, new) = (Authority::new(), Authority::new());
    let face = serve("127.0.22.9", &new.mutual("127.0.22.9")).await;
    let tls = old.client("tandem/operator/anna");
    assert!(face.connect(Some(&tls)).await.is_err());
    let renewed = new.client("tandem/operator/anna");
    replace(&tls.ca, std::fs::read(renewed.ca).unwrap());
    let (files, renewed) = (tls.identity.as_ref().unwrap(), renewed.identity.unwrap());
    replace(&files.0, std::fs::read(renewed.0).unwrap());
    replace(&files.1, std::fs::read(renewed.1).unwrap());
    let mut cells = face.cells(Some(&tls)).await;
    cells.create_cell(create("cells/a")).await.unwrap();
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_holds_nobody_up() {
    let ours = Authority::new();
    let mut config = with_tls(ours.server("127.0.22.5"));
    config.limits.handshake = Duration::from_millis(700);
    config.limits.handshakes_max = 4;
    let face = serve("127.0.22.5", &config).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(face.address).await.unwrap());
    }
    let began = Instant::now();
    let mut cells = face.cells(Some(&ours.stranger())).await;
    cells.get_cell(get("cells/a")).await.unwrap();
    assert!(began.elapsed() < config.limits.handshake);

    let mut byte = [0];
    for stream in &mut silent {
        let ended = timeout(Duration::from_secs(5), stream.read(&mut byte)).await;
        assert_eq!(ended.unwrap().unwrap(), 0, "it was ended");
    }
}

#[tokio::test]
async fn as_many_connections_as_there_may_be_are_served_and_the_next_one_waits() {
    let mut config = FaceConfig::default();
    config.limits.connections_max = 1;
    let face = serve("127.0.22.6", &config).await;
    let mut first = face.cells(None).await;
    first.get_cell(get("cells/a")).await.unwrap();
    let second = async {
        let mut cells = face.cells(None).await;
        cells.get_cell(get("cells/a")).await
    };
    let mut second = Box::pin(second);
    assert!(
        timeout(Duration::from_millis(500), &mut second)
            .await
            .is_err()
    );
    drop(first);
    let served = timeout(Duration::from_secs(5), second).await.unwrap();
    // Its client gave it up for dead, or it was served; either way the place is free again.
    if served.is_err() {
        face.cells(None)
            .await
            .get_cell(get("cells/a"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_bad_file_is_named_with_reason_and_remedy() {
    let ours = Authority::new();
    let good = ours.server("127.0.22.7");
    let (_, other_key) = ours.sign("other", vec![SanType::IpAddress([127, 0, 22, 7].into())]);
    let said = |files: TlsFiles| {
        let error = Server::new(&with_tls(files)).err().expect("refused");
        error.to_string()
    };
    let file = |name: &str, content: &str| {
        std::fs::write(ours.path(name), content).unwrap();
        ours.path(name)
    };
    for (files, reason, remedy) in [
        (
            TlsFiles {
                cert: ours.path("none"),
                ..good.clone()
            },
            "none: No such file",
            "check the path and its permissions",
        ),
        (
            TlsFiles {
                cert: file("empty", ""),
                ..good.clone()
            },
            "empty: holds no certificate",
            "give certificates as PEM",
        ),
        (
            TlsFiles {
                key: good.cert.clone(),
                ..good.clone()
            },
            "server.pem: holds no private key",
            "give the key as PEM",
        ),
        (
            TlsFiles {
                key: other_key,
                ..good.clone()
            },
            "other.key: ",
            "give the key that the certificate was made for",
        ),
        (
            TlsFiles {
                client_ca: Some(good.key.clone()),
                ..good.clone()
            },
            "server.key: holds no certificate",
            "give certificates as PEM",
        ),
    ] {
        let said = said(files);
        assert!(said.contains(reason) && said.contains(remedy), "{said}");
    }
}

#[tokio::test]
async fn who_has_no_certificate_may_ask_for_the_health_alone() {
    let ours = Authority::new();
    let face = serve("127.0.22.8", &ours.mutual("127.0.22.8")).await;
    let channel = face.channel(Some(&ours.stranger())).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    health.check(request).await.unwrap();
    let mut cells = face.cells(Some(&ours.stranger())).await;
    let refused = cells.get_cell(get("cells/a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}
