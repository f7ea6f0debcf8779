//! A router that has said 100 may have forgotten the INVITE since: it is repeated until it comes back.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::time::Duration;

use common::{Bench, starts};
use workbench::answer;

/// A call of which the router has said 100; returns the INVITE that it got.
fn tried(bench: &mut Bench) -> String {
    let invite = bench.carrier_request("INVITE");
    let sent = bench.sbc.receive(bench.carrier(), &invite);
    let (_, invite) = sent
        .into_iter()
        .find(|(to, _)| *to == bench.router)
        .unwrap();
    bench
        .sbc
        .receive(bench.router, &answer(&invite, "100 Trying"));
    invite
}

/// Returns how often the router gets this INVITE again within so many milliseconds.
fn repeats(bench: &mut Bench, invite: &str, milliseconds: u64) -> usize {
    let sent = bench.sbc.pass(Duration::from_millis(milliseconds));
    let router = bench.router;
    sent.iter()
        .filter(|(to, text)| *to == router && text == invite)
        .count()
}

#[test]
fn an_invite_is_repeated_after_a_100_until_it_comes_back() {
    let mut bench = Bench::new();
    let invite = tried(&mut bench);
    assert_eq!(repeats(&mut bench, &invite, 499), 0);
    assert_eq!(repeats(&mut bench, &invite, 1), 1);
    bench
        .sbc
        .receive(bench.router, &answer(&invite, "100 Trying"));
    assert_eq!(repeats(&mut bench, &invite, 1000), 1);
    let (start, rest) = invite.split_once("\r\n").unwrap();
    let second = format!(
        "{start}\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKr\r\nX-Destination-URI: sip:127.0.0.77:5060\r\n{rest}",
        bench.router
    );
    let delivered = bench.sbc.receive(bench.router, &second);
    assert!(starts(&delivered).contains(&"INVITE"), "{delivered:?}");
    assert_eq!(repeats(&mut bench, &invite, 10_000), 0);
}

#[test]
fn an_invite_is_not_repeated_after_180() {
    let mut bench = Bench::new();
    let invite = tried(&mut bench);
    bench
        .sbc
        .receive(bench.router, &answer(&invite, "180 Ringing"));
    assert_eq!(repeats(&mut bench, &invite, 10_000), 0);
}
