//! A router obeys the profile of its kind while it runs. A test file of its own: a process has one log.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

use std::time::{Duration, Instant};

use control::registry::v1::profile_service_client::ProfileServiceClient;
use control::registry::v1::{CreateProfileRequest, DeleteProfileRequest, Profile};
use control::shutdown::Shutdown;
use tandem_router::Router;
use telemetry::logs;
use tempfile::TempDir;
use tokio::time::sleep;
use workbench::process::{PATIENCE, settings, start_node, start_registry};

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_logged_follows_the_profile() {
    let directory = TempDir::new().unwrap();
    let shutdown = Shutdown::new();
    let registry = start_registry("127.9.77.1", directory.path(), &shutdown).await;
    let mut profiles = ProfileServiceClient::new(registry);

    let flags = [
        ("--address", "127.9.77.31"),
        ("--registry", "127.9.77.1:7400"),
        ("--workers", "1"),
        ("--drain-timeout", "1s"),
        ("--log-filter", "error"),
    ];
    let config = settings::<Router>(directory.path(), &flags);
    logs::start(&config.filter, config.format);
    start_node::<Router>(config, &shutdown).await;

    let logged = || tracing::enabled!(target: "of_this_test", tracing::Level::DEBUG);
    assert!(!logged());
    let profile = Profile {
        name: "profiles/router".into(),
        log_filter: "error,of_this_test=debug".into(),
        ..Profile::default()
    };
    let request = CreateProfileRequest {
        profile: Some(profile),
        ..CreateProfileRequest::default()
    };
    profiles.create_profile(request).await.unwrap();
    until("the profile is in force", logged).await;
    let request = DeleteProfileRequest {
        name: "profiles/router".into(),
        ..DeleteProfileRequest::default()
    };
    profiles.delete_profile(request).await.unwrap();
    until("the node's own word is in force again", || !logged()).await;
    shutdown.cancel();
}
