//! Carriers and IPBXs are listed as trunks, and come and go while the SBC runs.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::net::SocketAddr;

use common::{Bench, starts};
use control::view::{Trunk, View};

/// Out of what the SBC of the tests is started with.
const CARRIER: &str = "198.51.100.7:5080";

fn trunk(networks: &[&str]) -> Trunk {
    Trunk {
        id: "carrier".into(),
        display_name: String::new(),
        networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn invite(bench: &Bench, call_id: &str) -> String {
    let invite = bench.carrier_request("INVITE");
    let invite = invite.replace("127.0.0.10:5060", CARRIER);
    invite
        .replace("z9hG4bKcx", &format!("z9hG4bKc{call_id}"))
        .replace("Call-ID: x", &format!("Call-ID: {call_id}"))
}

#[test]
fn a_carrier_is_let_in_by_its_trunk_and_kept_out_when_that_is_deleted() {
    let mut bench = Bench::new();
    let carrier: SocketAddr = CARRIER.parse().unwrap();
    let call = |bench: &mut Bench, call_id: &str| {
        let invite = invite(bench, call_id);
        let sent = bench.sbc.receive(carrier, &invite);
        starts(&sent)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(call(&mut bench, "a"), [""; 0], "a stranger is not answered");

    bench.view.trunks = vec![trunk(&["203.0.113.1", "198.51.100.0/24"])];
    bench.configure();
    assert_eq!(call(&mut bench, "b"), ["SIP/2.0 100", "INVITE"]);
    let own = bench.carrier_request_of("c", "INVITE");
    let sent = bench.sbc.receive(bench.carrier(), &own);
    assert_eq!(
        starts(&sent),
        ["SIP/2.0 100", "INVITE"],
        "`sip.allow` counts all the same"
    );

    bench.view.trunks.clear();
    bench.configure();
    assert_eq!(call(&mut bench, "d"), [""; 0]);
}

#[test]
fn who_comes_by_a_trunk_is_not_believed_what_routers_say() {
    let mut bench = Bench::new();
    bench.view.trunks = vec![trunk(&["0.0.0.0/0"])];
    bench.configure();
    let invite = invite(&bench, "a").replace(
        "Content-Length",
        "X-Destination-URI: sip:192.0.2.66\r\nContent-Length",
    );
    let sent = bench.sbc.receive(CARRIER.parse().unwrap(), &invite);
    assert_eq!(starts(&sent), ["SIP/2.0 100", "INVITE"]);
    let (to, text) = &sent[1];
    assert_eq!(*to, bench.router, "to a router, as every call from outside");
    assert!(!text.contains("X-Destination-URI"), "{text}");
}

#[test]
fn a_trunk_around_a_router_leaves_it_a_router() {
    let mut bench = Bench::new();
    bench.view.trunks = vec![trunk(&["127.0.0.31", "0.0.0.0/0"])];
    bench.configure();
    let second = bench.second_pass("sip:127.0.0.77:5060");
    let sent = bench.sbc.receive(bench.router, &second);
    let delivered = sent.iter().find(|(_, text)| text.starts_with("INVITE"));
    let (to, _) = delivered.expect("obeyed as a second pass");
    assert_eq!(to.to_string(), "127.0.0.77:5060");

    let of_its_own = second
        .replace("Call-ID: x", "Call-ID: y")
        .replace("X-Destination-URI", "X-No");
    let sent = bench.sbc.receive(bench.router, &of_its_own);
    assert!(
        sent.iter().all(|(_, text)| !text.starts_with("INVITE")),
        "a router's new call is not dispatched as a carrier's: {sent:?}"
    );
}

#[test]
fn a_router_that_comes_by_the_outer_face_is_nobody() {
    let [outside, inside, router] = ["192.0.2.1:5060", "10.0.0.1:5060", "10.0.0.31:5060"]
        .map(|text| text.parse::<SocketAddr>().unwrap());
    let mut bench = Bench::new();
    for member in &mut bench.view.members {
        if member.id == "r" {
            member.sip[0].address = router;
        }
    }
    bench.view.trunks = vec![trunk(&["10.0.0.0/8"])];
    let mut node = tandem_sbc::Node::new([outside, inside].into(), [].into(), 1);
    node.configure(bench.sbc.now, &View { ..bench.view });
    let view = node.view();
    assert!(view.is_router(view.inside, router));
    assert!(!view.is_router(view.outside, router));
    assert!(!view.allows(router), "not as a carrier either");
    assert!(view.allows("10.0.0.31:5070".parse().unwrap()));
}
