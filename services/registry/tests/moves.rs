//! A node whose registries die, lag or serve what it refuses: it never goes back, and never has half of
//! a generation.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;
#[path = "../../../crates/store/tests/common/etcd.rs"]
mod real;

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Running, eventually, has_set, node, put_set, reaches, registry_with};
use control::client::NodeSession;
use control::view::{Algorithm, Refusal, View};
use nix::sys::signal::Signal;
use real::{Etcds, Setup};
use store::EtcdConfig;
use tandem_registry::{Config, StoreConfig};
use tokio::time::{sleep, timeout};

fn config(address: &str, endpoints: Vec<String>) -> Config {
    let mut config = Config::at(address.parse::<IpAddr>().unwrap());
    config.store = StoreConfig::Etcd(EtcdConfig {
        endpoints,
        ..EtcdConfig::default()
    });
    config
}

/// A registry as a process, to be killed.
struct Victim(Child);

impl Victim {
    fn start(address: &str, etcds: &Etcds, directory: &std::path::Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tandem-registry"))
            .args(["--address", address, "--store-backend", "etcd"])
            .args(["--store-etcd-endpoints", &etcds.endpoints().join(",")])
            .args(["--state-dir", directory.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may be dead already.
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// A node that refuses round robin, and sees to it that it never goes back.
async fn choosy(registries: Vec<String>, served: &Running) -> (NodeSession, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = node("router-a", served, directory.path());
    config.registries = registries;
    let check = |view: &View| {
        let refused = view
            .sets
            .iter()
            .find(|set| set.algorithm == Algorithm::RoundRobin);
        match refused {
            None => Ok(Vec::new()),
            Some(set) => Err(vec![Refusal {
                resource: format!("sets/{}", set.id),
                field: "algorithm".into(),
                reason: "not here".into(),
            }]),
        }
    };
    let session = NodeSession::start(config, Box::new(check)).await.unwrap();
    let mut view = session.view();
    tokio::spawn(async move {
        let mut last = 0;
        while view.changed().await.is_ok() {
            let seen = view.borrow_and_update().generation;
            assert!(seen >= last, "it went back from {last} to {seen}");
            last = seen;
        }
    });
    (session, directory)
}

#[tokio::test]
async fn a_refusal_then_something_else_then_the_fix_over_a_registry_that_is_killed() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let kept = registry_with(config("127.0.7.141", etcds.endpoints())).await;
    let state = tempfile::tempdir().unwrap();
    let mut victim = Victim::start("127.0.7.142", &etcds, state.path());
    let registries = vec!["127.0.7.142:7400".to_owned(), kept.address().to_string()];
    let (session, _directory) = choosy(registries, &kept).await;
    let mut view = session.view();
    put_set(&kept, "2", 0).await;
    reaches(&mut view, "the set", has_set("2")).await;

    put_set(&kept, "2", 4).await;
    eventually("its refusal is known to the other registry", || async {
        kept.status().await.nodes_refusing == 1
    })
    .await;
    put_set(&kept, "3", 0).await;
    victim.kill();
    put_set(&kept, "4", 0).await;
    eventually("it refuses at the other registry", || async {
        let statuses = kept.node_statuses().await;
        let position = kept.status().await.position;
        statuses.iter().any(|status| status.refused == position)
    })
    .await;
    let still = view.borrow().clone();
    assert_eq!(still.set("2").unwrap().algorithm, Algorithm::CallIdHash);
    assert!(
        still.set("3").is_none() && still.set("4").is_none(),
        "nothing in parts"
    );
    put_set(&kept, "2", 8).await;
    let healed = reaches(&mut view, "the fix", |view| {
        view.set("2")
            .is_some_and(|set| set.algorithm == Algorithm::Priority)
    })
    .await;
    assert!(healed.set("3").is_some() && healed.set("4").is_some());
}

#[tokio::test]
async fn a_node_that_moves_to_a_registry_that_lags_is_not_sent_back() {
    let Some(etcds) = Etcds::start(3, Setup::default()) else {
        return;
    };
    etcds.lead(0);
    let endpoints = etcds.endpoints();
    let mut ahead = registry_with(config("127.0.7.143", endpoints[..2].to_vec())).await;
    let behind = registry_with(config("127.0.7.144", endpoints[2..].to_vec())).await;
    let registries = vec![ahead.address().to_string(), behind.address().to_string()];
    let (session, _directory) = choosy(registries, &ahead).await;
    let mut view = session.view();
    put_set(&ahead, "2", 0).await;
    reaches(&mut view, "the set", has_set("2")).await;

    etcds.signal(2, Signal::SIGSTOP);
    put_set(&ahead, "3", 0).await;
    let seen = reaches(
        &mut view,
        "the set that the other does not know",
        has_set("3"),
    )
    .await;
    ahead.stop().await;
    // It finds nobody but the one that lags, and stays where it is.
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
        assert!(view.borrow().generation >= seen.generation && view.borrow().set("3").is_some());
    }
    etcds.signal(2, Signal::SIGCONT);
    put_when_up(&behind, "4").await;
    reaches(&mut view, "what comes next", has_set("4")).await;
    assert!(view.borrow().set("3").is_some());
}

/// Puts a set as soon as the registry's store answers again.
async fn put_when_up(registry: &Running, id: &str) {
    use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
    use control::registry::v1::{DestinationSet, UpdateDestinationSetRequest};
    let mut client = DestinationSetServiceClient::new(registry.channel().await);
    let request = UpdateDestinationSetRequest {
        destination_set: Some(DestinationSet {
            name: format!("sets/{id}"),
            ..DestinationSet::default()
        }),
        allow_missing: true,
        ..UpdateDestinationSetRequest::default()
    };
    let put = async {
        while client
            .update_destination_set(request.clone())
            .await
            .is_err()
        {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), put)
        .await
        .expect("the store is back");
}
