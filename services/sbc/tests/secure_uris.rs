//! `sips:` wants TLS on every hop: it never leaves over UDP.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Bench, starts};

#[test]
fn a_request_for_a_sips_uri_gets_416() {
    let mut bench = Bench::new();
    let carrier = bench.carrier();
    for method in ["INVITE", "OPTIONS", "BYE"] {
        let request = bench.carrier_request(method).replace("sip:1@", "sips:1@");
        let sent = bench.sbc.receive(carrier, &request);
        assert_eq!(starts(&sent), ["SIP/2.0 416"], "{method}");
        assert_eq!(sent[0].0, carrier);
    }
    let ack = bench.carrier_request("ACK").replace("sip:1@", "sips:1@");
    assert!(bench.sbc.receive(carrier, &ack).is_empty());
}

#[test]
fn a_router_that_names_a_sips_uri_as_next_hop_gets_503_with_the_reason() {
    for uri in ["sips:127.0.0.77:5061", "sips:pbx.example.com"] {
        let mut bench = Bench::new();
        let second = bench.second_pass(uri);
        let router = bench.router;
        let sent = bench.sbc.receive(router, &second);
        assert_eq!(starts(&sent), ["SIP/2.0 503"], "{uri}");
        assert!(sent[0].1.contains("No TLS For A sips Next Hop"), "{sent:?}");
        assert_eq!(sent[0].0, router);
    }
}

#[test]
fn a_sips_route_is_no_next_hop() {
    let mut bench = Bench::new();
    let router = bench.router;
    let bye = bench
        .carrier_request("BYE")
        .replace("127.0.0.10:5060;branch", &format!("{router};branch"))
        .replace(
            "To: <sip:b@b>",
            "Route: <sips:127.0.0.77;lr>\r\nTo: <sip:b@b>;tag=b",
        );
    let sent = bench.sbc.receive(router, &bye);
    assert_eq!(starts(&sent), ["SIP/2.0 503"], "{sent:?}");
}
