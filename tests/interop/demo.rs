//! `tandem demo`, as somebody runs it on a fresh machine.

use std::process::Command;

use serde_json::Value;

use crate::quiet::{alone, binary, say, shared};

#[test]
fn the_demo_loses_no_call_when_it_kills_a_router() {
    let Some(_permit) = alone(&[]) else { return };
    let summary = demo("kill");
    lags(&summary);
    // One router is left: with nobody to compare with.
    assert!(has_null(&summary, "verify_age_seconds"), "{summary}");
    assert!(number(&summary, "ringing_at_kill") > 0, "{summary}");
    assert!(number(&summary, "served_by_heir") > 0, "{summary}");
}

#[test]
fn the_demo_loses_no_call_when_it_freezes_a_router() {
    let Some(_permit) = alone(&[]) else { return };
    let summary = demo("freeze");
    lags(&summary);
    assert!(number(&summary, "ringing_at_kill") > 0, "{summary}");
    assert!(number(&summary, "detected_ms") <= 500, "{summary}");
}

#[test]
fn the_demo_without_a_fault_is_plain() {
    let Some(_permit) = alone(&[]) else { return };
    let summary = demo("none");
    assert!(summary["killed"].is_null(), "{summary}");
    let [p50, p99] = lags(&summary);
    assert!(p50 <= p99 && p99 < 1000.0, "{summary}");
    // Both live, and have compared what they hold at the end.
    let age = real(&summary, "verify_age_seconds");
    assert!((0.0..60.0).contains(&age), "{summary}");
}

#[test]
fn the_demo_loses_no_call_beside_a_kamailio() {
    let Some(_permit) = alone(&["kamailio"]) else {
        return;
    };
    let summary = demo("none --with-kamailio");
    let told = number(&summary, "dialogs_replicated");
    let from_kamailio = number(&summary, "dialogs_replicated_from_kamailio");
    assert!(0 < from_kamailio && from_kamailio < told, "{summary}");
    assert!(summary["killed"].is_null(), "{summary}");
    beside_a_kamailio(&summary);
}

#[test]
fn the_demo_loses_no_call_when_it_kills_a_kamailio() {
    let Some(_permit) = alone(&["kamailio"]) else {
        return;
    };
    let summary = demo("kill --with-kamailio");
    assert_eq!(summary["killed"], "kamailio", "{summary}");
    for name in [
        "in_flight_at_kill",
        "ringing_at_kill",
        "served_by_heir",
        "dialogs_replicated_from_kamailio",
    ] {
        assert!(number(&summary, name) > 0, "{name}: {summary}");
    }
    assert!(number(&summary, "detected_ms") <= 500, "{summary}");
    beside_a_kamailio(&summary);
}

#[test]
fn the_demo_over_etcd_loses_no_call_either() {
    let Some(_permit) = alone(&["etcd"]) else {
        return;
    };
    let summary = demo("kill --etcd");
    assert_eq!(summary["store"], "etcd", "{summary}");
    assert!(number(&summary, "served_by_heir") > 0, "{summary}");
}

#[test]
fn the_demo_over_etcd_says_how_to_get_etcd() {
    let Some(_permit) = shared(&[]) else { return };
    let run = Command::new(binary())
        .args(["demo", "--etcd"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let err = text(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{err}");
    assert!(err.contains("apt-get install etcd-server"), "{err}");
}

/// Runs the demo and returns its summary; what is said of every run holds for this one.
fn demo(fault: &str) -> Value {
    let words = "demo --calls 400 --rate 100 --hold 2 --json --fault";
    let run = Command::new(binary())
        .args(words.split(' ').chain(fault.split(' ')))
        .output()
        .unwrap();
    let (out, err) = (text(&run.stdout), text(&run.stderr));
    let last = out
        .lines()
        .next_back()
        .unwrap_or_else(|| panic!("nothing printed\n{err}"));
    say(last);
    assert!(run.status.success(), "{}\n{out}\n{err}", run.status);
    let summary: Value = serde_json::from_str(last).unwrap();
    assert_eq!(number(&summary, "calls"), 400);
    assert_eq!(number(&summary, "completed"), 400, "{summary}\n{err}");
    assert_eq!(number(&summary, "failed"), 0, "{summary}");
    assert_eq!(number(&summary, "delivered_twice"), 0, "{summary}");
    assert!(number(&summary, "slowest_request_ms") <= 500, "{summary}");
    assert!(number(&summary, "dialogs_replicated") > 0, "{summary}");
    assert_eq!(number(&summary, "divergence"), 0, "{summary}");
    summary
}

/// Returns how long half of the changes took to the other router, and 99 in 100. A router that was frozen
/// answers late: there is no saying how late.
fn lags(summary: &Value) -> [f64; 2] {
    let lags = ["replication_lag_p50_ms", "replication_lag_p99_ms"].map(|name| real(summary, name));
    assert!(lags[0] > 0.0 && lags[0] <= lags[1], "{summary}");
    lags
}

/// A Kamailio answers what it is told, and compares nothing.
fn beside_a_kamailio(summary: &Value) {
    lags(summary);
    assert!(has_null(summary, "verify_age_seconds"), "{summary}");
}

fn real(summary: &Value, name: &str) -> f64 {
    summary[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {name} in {summary}"))
}

/// Tells whether a field is there and says that nothing is known.
fn has_null(summary: &Value, name: &str) -> bool {
    summary.get(name).is_some_and(Value::is_null)
}

fn number(summary: &Value, name: &str) -> u64 {
    summary[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {name} in {summary}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
