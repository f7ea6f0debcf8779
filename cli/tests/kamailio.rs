//! `dispatcher.list`, in and out.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use common::Cluster;

const LIST: &str = "\
# setid destination flags priority attributes
2 sip:127.0.243.40:5060 8 10 weight=50;duid=pbx-1
2 sip:127.0.243.41:5060 12 5 duid=pbx-2
3 sip:pbx.example.com 0 0 duid=far
";

#[test]
fn a_dispatcher_list_goes_in_and_comes_out() {
    let cluster = Cluster::start("127.0.243.1");
    let file = cluster.file("dispatcher.list", LIST);
    let import = ["import", "dispatcher.list", &file, "--algorithm", "4"];
    let yaml = cluster.tandem(&import).with(0);
    assert!(
        yaml.starts_with("name: sets/2\nalgorithm: 4\n---\nname: sets/3\nalgorithm: 4\n---\n"),
        "{yaml}"
    );
    // What is printed can be applied; applying at once does the same.
    let dry = cluster
        .tandem_with(&["apply", "--dry-run", "-f", "-"], &yaml)
        .with(0);
    let apply = [&import[..], &["--apply"]].concat();
    assert_eq!(
        cluster.tandem(&apply).with(0),
        dry.replace(" (dry run)", "")
    );
    assert_eq!(cluster.tandem(&["export", "dispatcher.list"]).with(0), LIST);
    assert_eq!(
        cluster.tandem(&["get", "destinations"]).with(0),
        "\
NAME                       URI                      PRIORITY  WEIGHT  PROBING  DESIRED_STATE
sets/2/destinations/pbx-1  sip:127.0.243.40:5060    10        50      yes      -
sets/2/destinations/pbx-2  sip:127.0.243.41:5060    5         -       yes      disabled
sets/3/destinations/far    sip:pbx.example.com      0         -       no       -
"
        .replace("  PRIORITY", "PRIORITY")
        .replace("5060    ", "5060  ")
        .replace(".com      ", ".com    ")
    );
    let one = cluster
        .tandem(&["export", "dispatcher.list", "--set", "3"])
        .with(0);
    assert_eq!(one.lines().count(), 2);
}

#[test]
fn lines_that_cannot_be_used_are_named_and_nothing_is_applied() {
    let cluster = Cluster::start("127.0.243.2");
    let text = format!("{LIST}4 sips:127.0.243.40\n2 sip:127.0.243.42 0 0 maxload=10;duid=x\n");
    cluster.file("dispatcher.list", &text);
    let ran = cluster.tandem(&["import", "dispatcher.list", "dispatcher.list"]);
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (
            1,
            "dispatcher.list:5: left out: uri: \"sips:127.0.243.40\" needs TLS, which is not spoken yet: \
             use sip:\ndispatcher.list:6: maxload=10: no counterpart, left away\n"
        )
    );
    assert!(
        ran.out.contains("name: sets/2/destinations/x\n"),
        "{}",
        ran.out
    );
    let said = cluster.tandem(&["import", "dispatcher.list", "dispatcher.list", "--apply"]);
    let said = said.complaint(2);
    assert!(said.ends_with("nothing was applied: correct the lines above, or take them out\n"));
    assert_eq!(cluster.tandem(&["get", "destinations"]).with(0), "");
}

#[test]
fn members_come_out_when_asked_for() {
    let cluster = Cluster::start("127.0.243.3");
    let member = "\
name: members/kamailio-1
kind: MEMBER_KIND_STOCK_ROUTER
address: 127.0.243.31
sip: [{address: \"127.0.243.31:5060\"}]
";
    cluster.tandem_with(&["apply", "-f", "-"], member).with(0);
    let listed = cluster.tandem(&["export", "dispatcher.list"]).with(0);
    assert_eq!(listed.lines().count(), 1);
    let all = cluster
        .tandem(&["export", "dispatcher.list", "--members"])
        .with(0);
    assert_eq!(
        all.lines().nth(1),
        Some("1 sip:127.0.243.31:5060 8 0 weight=1;duid=kamailio-1")
    );
    let said = cluster
        .tandem(&["drain", "kamailio-1", "--wait"])
        .complaint(1);
    assert!(
        said.contains("is no Tandem node and cannot be asked"),
        "{said}"
    );
}
