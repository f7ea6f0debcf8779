//! Over a real etcd: `tandem store migrate`, and what is said of values that hands wrote.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;
#[path = "../../crates/store/tests/common/etcd.rs"]
mod real;

use common::{Cluster, eventually};
use real::{Etcds, Setup};

const SET: &str =
    "name: sets/2\nalgorithm: 4\n---\nname: sets/2/destinations/a\nuri: sip:127.0.244.40\n";

#[test]
fn the_embedded_store_moves_into_etcd() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let mut cluster = Cluster::start("127.0.244.1");
    cluster.tandem_with(&["apply", "-f", "-"], SET).with(0);
    let before = cluster.tandem(&["get", "all", "-o", "yaml"]).with(0);
    let endpoints = etcds.endpoints().join(",");
    let state = cluster.directory.path().join("registry");
    let state = state.display().to_string();
    let etcd = [
        "--store-backend",
        "etcd",
        "--store-etcd-endpoints",
        &endpoints,
    ];
    let migrate = [&["store", "migrate", "--state-dir", &state], &etcd[..]].concat();

    let said = cluster.tandem(&migrate).complaint(1);
    assert!(
        said.contains("registry.redb: in use: stop the registry first"),
        "{said}"
    );
    cluster.kill_registry();

    let dry = cluster
        .tandem(&[&migrate[..], &["--dry-run"]].concat())
        .with(0);
    assert!(dry.starts_with("would copy "), "{dry}");
    let keys = etcds.ctl(&["get", "--prefix", "/tandem/v1/", "--keys-only"]);
    assert!(
        !keys.contains("config/") && !keys.contains("secrets/"),
        "{keys}"
    );
    let done = cluster.tandem(&migrate).with(0);
    assert!(
        done.starts_with("copied ") && done.contains("start the registry"),
        "{done}"
    );
    let said = cluster.tandem(&migrate).complaint(1);
    assert!(said.contains("has a cluster \"tandem\" already"), "{said}");

    cluster.run_registry(&etcd);
    assert_eq!(
        cluster.tandem(&["get", "all", "-o", "yaml"]).with(0),
        before
    );
    cluster.tandem(&["delete", "sets/2/destinations/a"]).with(0);
}

#[test]
fn what_a_hand_wrote_and_does_not_count_is_shown() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let mut cluster = Cluster::new("127.0.244.2");
    let endpoints = etcds.endpoints().join(",");
    cluster.run_registry(&[
        "--store-backend",
        "etcd",
        "--store-etcd-endpoints",
        &endpoints,
    ]);
    cluster.tandem_with(&["apply", "-f", "-"], SET).with(0);
    cluster.tandem(&["status"]).with(0);
    let bad = r#"{"name":"sets/2","algorithm":5}"#;
    etcds.ctl(&["put", "/tandem/v1/tandem/config/sets/2", bad]);
    eventually("the fault is noticed", || {
        cluster.tandem(&["status"]).status == 1
    });
    let status = cluster.tandem(&["status"]).with(1);
    assert!(status.contains("  sets/2: algorithm: "), "{status}");
    let described = cluster.tandem(&["describe", "sets/2"]).with(0);
    assert!(
        described.contains("\nWritten by hand since, and not counting:\n  sets/2: algorithm: "),
        "{described}"
    );
    // What was accepted before counts still; writing it again heals.
    assert_eq!(
        cluster.tandem(&["get", "sets/2", "-o", "yaml"]).with(0),
        "name: sets/2\nalgorithm: 4\n"
    );
    let set = SET.replace("algorithm: 4", "algorithm: 8");
    cluster.tandem_with(&["apply", "-f", "-"], &set).with(0);
    eventually("it is healed", || cluster.tandem(&["status"]).status == 0);
}

#[test]
fn what_cannot_be_moved_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().display().to_string();
    let ask = |arguments: &[&str]| {
        let mut command = common::program();
        command
            .args(["store", "migrate", "--state-dir", &state])
            .args(arguments);
        common::run(command, "")
    };
    let said = ask(&[]).complaint(2);
    assert!(
        said.contains("where to? Set store.backend to etcd"),
        "{said}"
    );
    let etcd = [
        "--store-backend",
        "etcd",
        "--store-etcd-endpoints",
        "127.0.244.99:2379",
    ];
    let said = ask(&etcd).complaint(2);
    assert!(
        said.contains("registry.redb: --from names the embedded store"),
        "{said}"
    );
    assert!(!directory.path().join("registry.redb").exists());
}
