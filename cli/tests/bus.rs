//! `tandem bus` against a router of its own.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use common::{Cluster, Ran, eventually};

#[test]
fn a_table_is_written_thinned_by_pattern_and_flushed() {
    let cluster = Cluster::start("127.0.246.1");
    let definition = "name: tables/bans\nautoexpire: 600s\n";
    let definition = cluster.file("bans.yaml", definition);
    cluster.tandem(&["apply", "-f", &definition]).with(0);
    let _router = cluster.run_node("router", "router-1", "127.0.246.31");
    let bus = ["bus", "--address", "127.0.246.31:7401"];
    let table = |arguments: &[&str]| -> Ran {
        cluster.tandem(&[&bus[..], &["table", "bans"], arguments].concat())
    };
    eventually("the router has the table", || table(&[]).status == 0);
    for (key, value) in [
        ("10.0.0.8", "for Ever"),
        ("10.0.0.9", "a while"),
        ("10.0.1.9", "a while"),
        ("192.0.2.1", "forever"),
        ("192.0.2.2", "ever so"),
        ("192.0.2.3", "-"),
    ] {
        table(&["set", key, value]).with(0);
    }
    // A number is no text, whatever it looks like.
    table(&["set", "192.0.2.4", "1", "--number"]).with(0);
    for (arguments, said) in [
        (
            &["delete-matching", "--prefix", "10.0.0."][..],
            "2 keys deleted\n",
        ),
        (
            &["delete-matching", "--prefix", "10.0.0."],
            "0 keys deleted\n",
        ),
        (
            &["delete-matching", "--regex", "^10\\.0\\.[01]\\."],
            "1 key deleted\n",
        ),
        (
            &["delete-matching", "--regex", "EVER$", "--value"],
            "1 key deleted\n",
        ),
        (
            &["delete-matching", "--prefix", "-", "--value"],
            "1 key deleted\n",
        ),
        (
            &["delete-matching", "--regex", "1", "--value"],
            "0 keys deleted\n",
        ),
    ] {
        assert_eq!(table(arguments).with(0), said, "{arguments:?}");
    }
    let left = table(&[]).with(0);
    assert_eq!(left.lines().count(), 3, "{left}");
    assert_eq!(table(&["flush"]).with(0), "2 keys deleted\n");
    assert_eq!(table(&["flush", "-o", "json"]).with(0), "{}\n");
    assert_eq!(table(&[]).with(0).lines().count(), 1);

    for (arguments, status, said) in [
        (
            &["delete-matching"][..],
            2,
            "<--regex <PATTERN>|--prefix <TEXT>>",
        ),
        (
            &["delete-matching", "--regex", "a", "--prefix", "b"],
            2,
            "cannot be used with",
        ),
        (&["delete-matching", "--regex", "("], 1, "tandem: regex: "),
    ] {
        let complaint = table(arguments).complaint(status);
        assert!(complaint.contains(said), "{complaint}");
    }
    let unknown = cluster.tandem(&[&bus[..], &["table", "none", "flush"]].concat());
    let complaint = unknown.complaint(1);
    assert!(
        complaint.contains("tables/none: this router has no such table"),
        "{complaint}"
    );
}
