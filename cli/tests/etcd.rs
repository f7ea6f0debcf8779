//! `tandem store migrate`, to a real etcd.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;
#[path = "../../crates/store/tests/common/etcd.rs"]
mod real;

use common::Cluster;
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
