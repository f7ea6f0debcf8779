//! The ACK of a failure that was answered without a transaction.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::{Duration, Instant};

use element::FlowId;
use sip::{Offered, Proxy, ProxyConfig, TimerConfig};
use sip_types::{Index, Message};

fn request(method: &str, to_tag: &str) -> String {
    format!(
        "{method} sip:b@127.0.0.9 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.2;branch=z9hG4bK1\r\n\
         From: <sip:a@127.0.0.2>;tag=a\r\nTo: <sip:b@127.0.0.9>{to_tag}\r\nCall-ID: x\r\n\
         CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
fn the_ack_of_a_stateless_failure_is_absorbed_and_any_other_is_not() {
    let (listen, peer) = (
        "127.0.0.1:5060".parse().unwrap(),
        "127.0.0.2:5060".parse().unwrap(),
    );
    let now = Instant::now();
    let config = ProxyConfig {
        listen: vec![listen],
        timers: TimerConfig::default(),
        timer_c: Duration::from_secs(200),
        contexts_max: 8,
    };
    let mut proxy = Proxy::<(), ()>::new(config, 1);
    let mut index = Index::new();
    let invite = request("INVITE", "");
    let invite = Message::parse(invite.as_bytes(), &mut index).unwrap();
    proxy.respond_stateless(FlowId(0), peer, &invite, 482, &[]);
    let failure = proxy.outbox().last().unwrap().bytes.to_vec();
    let mut index = Index::new();
    let failure = Message::parse(&failure, &mut index).unwrap();
    let tag = String::from_utf8(failure.to_tag().unwrap().to_vec()).unwrap();
    for (tag, absorbed) in [(tag.as_str(), true), ("t0123456789abcde", false)] {
        let ack = request("ACK", &format!(";tag={tag}"));
        let mut index = Index::new();
        let ack = Message::parse(ack.as_bytes(), &mut index).unwrap();
        let offered = proxy.offer_request(now, FlowId(0), peer, &ack);
        assert_eq!(offered == Offered::Absorbed, absorbed, "{offered:?}");
    }
}
