//! What changes the registry: apply, diff, delete, drain; and what is said when it is refused.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::fmt::Write;

use common::{Cluster, eventually};

const CALLS: &str = "\
name: sets/2
algorithm: 4
---
name: sets/2/destinations/pbx-1
uri: sip:127.0.241.40:5060
---
kind: Route
name: routes/germany
priority: 10
match:
  calledPrefix: \"49\"
results:
- set: sets/2
";

#[test]
fn apply_makes_it_so_and_says_what_it_did() {
    let cluster = Cluster::start("127.0.241.1");
    let file = cluster.file("calls.yaml", CALLS);
    let created = "sets/2 created\nsets/2/destinations/pbx-1 created\nroutes/germany created\n";
    assert_eq!(
        cluster.tandem(&["apply", "-f", &file, "--dry-run"]).with(0),
        created.replace(" created", " created (dry run)")
    );
    assert_eq!(cluster.tandem(&["get", "routes"]).with(0), "");
    assert_eq!(cluster.tandem(&["apply", "-f", &file]).with(0), created);
    assert_eq!(
        cluster.tandem(&["apply", "-f", &file]).with(0),
        created.replace("created", "unchanged")
    );
    let changed = CALLS.replace("priority: 10", "priority: 11");
    assert_eq!(
        cluster.tandem_with(&["apply", "-f", "-"], &changed).with(0),
        "sets/2 unchanged\nsets/2/destinations/pbx-1 unchanged\nroutes/germany updated\n"
    );
    assert_eq!(
        cluster.tandem(&["get", "routes"]).with(0),
        "NAME            PRIORITY  MATCH  RESULTS\nroutes/germany  11        49     sets/2\n"
    );
    assert_eq!(
        cluster
            .tandem(&["get", "route", "germany", "-o", "yaml"])
            .with(0),
        "name: routes/germany\npriority: 11\nmatch:\n  calledPrefix: '49'\nresults:\n- set: sets/2\n"
    );
}

#[test]
fn what_get_prints_can_be_applied() {
    let cluster = Cluster::start("127.0.241.2");
    cluster.tandem_with(&["apply", "-f", "-"], CALLS).with(0);
    for output in ["yaml", "json"] {
        let all = cluster.tandem(&["get", "all", "-o", output]).with(0);
        let again = cluster.tandem_with(&["apply", "-f", "-"], &all).with(0);
        let mut lines: Vec<_> = again.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "routes/germany unchanged",
                "sets/1 unchanged",
                "sets/2 unchanged",
                "sets/2/destinations/pbx-1 unchanged",
            ]
        );
    }
    // JSON has the etag: what somebody else has changed meanwhile is not written over.
    let old = cluster.tandem(&["get", "sets/2", "-o", "json"]).with(0);
    let newer = "name: sets/2\nalgorithm: 8\n";
    cluster.tandem_with(&["apply", "-f", "-"], newer).with(0);
    let said = cluster
        .tandem_with(&["apply", "-f", "-"], &old)
        .complaint(1);
    assert!(
        said.contains("sets/2 has the etag") && said.contains("read it again"),
        "{said}"
    );
}

#[test]
fn diff_shows_what_apply_would_change() {
    let cluster = Cluster::start("127.0.241.3");
    let file = cluster.file("config/calls.yaml", CALLS);
    let directory = file.trim_end_matches("/calls.yaml");
    let shown = cluster.tandem(&["diff", "-f", directory]).with(1);
    assert!(
        shown.starts_with("--- /dev/null\n+++ file sets/2\n@@ -0,0 +1,2 @@\n+name: sets/2\n"),
        "{shown}"
    );
    cluster.tandem(&["apply", "-f", directory]).with(0);
    assert_eq!(cluster.tandem(&["diff", "-f", directory]).with(0), "");
    cluster.file(
        "config/calls.yaml",
        &CALLS.replace("sip:127.0.241.40", "sip:127.0.241.41"),
    );
    assert_eq!(
        cluster.tandem(&["diff", "-f", directory]).with(1),
        "\
--- registry sets/2/destinations/pbx-1
+++ file sets/2/destinations/pbx-1
@@ -1,2 +1,2 @@
 name: sets/2/destinations/pbx-1
-uri: sip:127.0.241.40:5060
+uri: sip:127.0.241.41:5060
"
    );
}

#[test]
fn nothing_is_deleted_that_something_refers_to() {
    let cluster = Cluster::start("127.0.241.4");
    let file = cluster.file("calls.yaml", CALLS);
    cluster.tandem(&["apply", "-f", &file]).with(0);
    let said = cluster.tandem(&["delete", "sets/2"]).complaint(1);
    assert!(said.contains("routes/germany: results[0].set"), "{said}");
    let described = cluster.tandem(&["describe", "sets/2"]).with(0);
    assert!(
        described.ends_with(
            "\nReferred to by:\n  sets/2/destinations/pbx-1 (belongs to it)\n  routes/germany \
             (results[0].set)\n"
        ),
        "{described}"
    );
    assert_eq!(
        cluster
            .tandem(&["delete", "-f", &file, "--dry-run"])
            .with(0)
            .lines()
            .count(),
        3
    );
    assert_eq!(
        cluster.tandem(&["delete", "-f", &file]).with(0),
        "sets/2 deleted\nsets/2/destinations/pbx-1 deleted\nroutes/germany deleted\n"
    );
    assert_eq!(
        cluster.tandem(&["delete", "routes", "germany"]).with(1),
        "routes/germany is not there\n"
    );
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let cluster = Cluster::start("127.0.241.5");
    cluster.file("a.yaml", "name: sets/2\nalgoritm: 4\n");
    assert_eq!(
        cluster.tandem(&["apply", "-f", "a.yaml"]).complaint(2),
        "tandem: a.yaml:2: document 1 (sets/2): algoritm: DestinationSet has no such field; did you mean \
         algorithm?\n"
    );
    // What only the registry knows comes back to the line, too.
    let text = format!(
        "{CALLS}---\nname: sets/3\ndetectWithin: 0.1s\n---\n{}",
        "\
name: routes/x
results:
- set: sets/2
- set: sets/9
"
    );
    cluster.file("b.yaml", &text);
    for dry_run in [
        &["apply", "-f", "b.yaml"][..],
        &["apply", "-f", "b.yaml", "--dry-run"],
    ] {
        let said = cluster.tandem(dry_run).complaint(1);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(
            lines[0],
            "tandem: b.yaml:16: document 4 (sets/3): detect_within: must be 200ms to 60s"
        );
        assert_eq!(
            lines.last().unwrap(),
            &"b.yaml:21: document 5 (routes/x): results[1].set: sets/9 does not exist"
        );
    }
    assert_eq!(cluster.tandem(&["get", "routes"]).with(0), "");
}

#[test]
fn a_large_change_goes_in_an_order_that_holds() {
    let cluster = Cluster::start("127.0.241.6");
    let mut text = String::new();
    for i in 0..100 {
        write!(
            text,
            "name: routes/r{i}\nresults: [{{set: sets/s{i}}}]\n---\n\
             name: sets/s{i}/destinations/a\nuri: sip:127.0.241.40\n---\nname: sets/s{i}\n---\n"
        )
        .unwrap();
    }
    let file = cluster.file("many.yaml", &text);
    let dry = cluster.tandem(&["apply", "-f", &file, "--dry-run"]).with(0);
    assert!(dry.starts_with("300 resources"), "{dry}");
    assert_eq!(cluster.tandem(&["get", "routes"]).with(0), "");

    // A mistake in the last one: nothing is sent.
    let bad = format!("{text}name: routes/z\nresults: [{{set: sets/none}}]\n");
    let said = cluster
        .tandem_with(&["apply", "-f", "-"], &bad)
        .complaint(1);
    assert!(
        said.contains("document 301 (routes/z): results[0].set: sets/none does not"),
        "{said}"
    );
    assert_eq!(cluster.tandem(&["get", "routes"]).with(0), "");

    let applied = cluster.tandem(&["apply", "-f", &file]).with(0);
    assert_eq!(
        applied
            .lines()
            .filter(|line| line.ends_with(" created"))
            .count(),
        300
    );
    assert_eq!(cluster.tandem(&["diff", "-f", &file]).with(0), "");
    let deleted = cluster.tandem(&["delete", "-f", &file]).with(0);
    assert_eq!(
        deleted
            .lines()
            .filter(|line| line.ends_with(" deleted"))
            .count(),
        300
    );
}

#[test]
fn a_router_drains_until_it_can_be_stopped() {
    let cluster = Cluster::start("127.0.241.7");
    let _router = cluster.run_node("router", "router-1", "127.0.241.31");
    eventually("the router is there, and has what counts", || {
        let status = cluster.tandem(&["status"]);
        status.status == 0 && status.out.contains("in force on 1 of 1")
    });
    assert_eq!(
        cluster.tandem(&["drain", "router-1", "--dry-run"]).with(0),
        "members/router-1 drains: it gets no new calls (dry run)\n"
    );
    let drained = cluster
        .tandem(&["drain", "router-1", "--wait", "--timeout", "20"])
        .with(0);
    assert!(
        drained.ends_with("members/router-1 can be stopped\n"),
        "{drained}"
    );
    let status = cluster.tandem(&["status"]).with(0);
    assert!(status.contains("draining"), "{status}");
    eventually("the status says who wants it", || {
        let wanted = "members/router-1 takes no new calls, as wanted by the registry\n";
        cluster.tandem(&["status"]).out.contains(wanted)
    });
    assert_eq!(
        cluster.tandem(&["undrain", "router-1"]).with(0),
        "members/router-1 is in service\n"
    );
    assert!(!cluster.tandem(&["status"]).with(0).contains("draining"));
    let said = cluster.tandem(&["drain", "router-2"]).complaint(1);
    assert_eq!(said, "tandem: members/router-2 does not exist\n");
}
