//! A callee that the network cannot reach is given up after its first repeat, and not before.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Bench, starts};
use workbench::answer;

const IPBX: &str = "127.0.0.77:5060";

/// Delivers a call to an IPBX; returns the bench, the address and the INVITE that goes there.
fn delivered() -> (Bench, SocketAddr, String) {
    let mut bench = Bench::new();
    let second = bench.second_pass(&format!("sip:{IPBX}"));
    let (router, ipbx) = (bench.router, IPBX.parse().unwrap());
    let sent = bench.sbc.receive(router, &second);
    let (_, invite) = sent.into_iter().find(|(to, _)| *to == ipbx).unwrap();
    (bench, ipbx, invite)
}

#[test]
fn two_refusals_with_a_repeat_between_them_are_a_503() {
    let (mut bench, ipbx, _) = delivered();
    assert!(bench.sbc.unreachable(ipbx).is_empty(), "the first one");
    bench.sbc.pass(Duration::from_millis(399));
    assert!(bench.sbc.unreachable(ipbx).is_empty(), "too soon");
    let repeated = bench.sbc.pass(Duration::from_millis(101));
    assert!(repeated.iter().any(|(to, _)| *to == ipbx), "{repeated:?}");
    let failed = bench.sbc.unreachable(ipbx);
    assert_eq!(starts(&failed), ["SIP/2.0 503"]);
    assert_eq!(
        failed[0].0, bench.router,
        "the router may try another place"
    );
    assert!(
        bench
            .sbc
            .pass(Duration::from_secs(2))
            .iter()
            .all(|(to, _)| *to != ipbx)
    );
}

#[test]
fn who_has_said_a_word_is_not_given_up() {
    let (mut bench, ipbx, invite) = delivered();
    bench.sbc.unreachable(ipbx);
    bench.sbc.receive(ipbx, &answer(&invite, "100 Trying"));
    bench.sbc.pass(Duration::from_millis(500));
    assert!(bench.sbc.unreachable(ipbx).is_empty());
    let ringing = bench.sbc.receive(ipbx, &answer(&invite, "180 Ringing"));
    assert_eq!(starts(&ringing), ["SIP/2.0 180"]);
}

#[test]
fn what_has_been_cancelled_ends_as_cancelled() {
    let (mut bench, ipbx, _) = delivered();
    bench.sbc.unreachable(ipbx);
    let cancel = bench.carrier_request("CANCEL");
    let sent = bench.sbc.receive(bench.carrier(), &cancel);
    assert!(starts(&sent).contains(&"SIP/2.0 200"));
    bench.sbc.pass(Duration::from_millis(500));
    let failed = bench.sbc.unreachable(ipbx);
    assert_eq!(starts(&failed), ["SIP/2.0 487"]);
}
