//! The ACK of a failure that was answered without a transaction.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::FlowId;
use sip::refused::REFUSED_MAX;
use sip::{Offered, Proxy, ProxyConfig, TimerConfig};
use sip_types::{Index, Message};

fn request(method: &str, to_tag: &str) -> String {
    format!(
        "{method} sip:b@127.0.0.9 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.2;branch=z9hG4bK1\r\n\
         From: <sip:a@127.0.0.2>;tag=a\r\nTo: <sip:b@127.0.0.9>{to_tag}\r\nCall-ID: x\r\n\
         CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn start() -> (Instant, SocketAddr, Proxy<(), ()>) {
    let config = ProxyConfig {
        listen: vec!["127.0.0.1:5060".parse().unwrap()],
        timers: TimerConfig::default(),
        timer_c: Duration::from_secs(200),
        contexts_max: 8,
    };
    let peer = "127.0.0.2:5060".parse().unwrap();
    (origin(), peer, Proxy::new(config, 1))
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
fn origin() -> Instant {
    Instant::now()
}

#[test]
fn the_ack_of_a_stateless_failure_is_absorbed_and_any_other_is_not() {
    let (now, peer, mut proxy) = start();
    let mut index = Index::new();
    let invite = request("INVITE", "");
    let invite = Message::parse(invite.as_bytes(), &mut index).unwrap();
    proxy.respond_stateless(now, FlowId(0), peer, &invite, 482, &[]);
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

#[test]
fn inside_a_dialog_the_ack_of_a_stateless_failure_is_known_by_its_branch_for_32_s() {
    let (now, peer, mut proxy) = start();
    let offer = |proxy: &mut Proxy<(), ()>, now, text: &str| {
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        proxy.offer_request(now, FlowId(0), peer, &message)
    };
    let (invite, ack) = (request("INVITE", ";tag=b"), request("ACK", ";tag=b"));
    let ack_of_2xx = ack.replace("z9hG4bK1", "z9hG4bK2");
    let mut index = Index::new();
    let message = Message::parse(invite.as_bytes(), &mut index).unwrap();
    proxy.respond_stateless(now, FlowId(0), peer, &message, 483, &[]);
    proxy.outbox().clear();
    assert_eq!(offer(&mut proxy, now, &ack), Offered::Absorbed);
    assert_eq!(offer(&mut proxy, now, &invite), Offered::Absorbed);
    let repeated = proxy.outbox().last().unwrap().bytes.to_vec();
    assert!(repeated.starts_with(b"SIP/2.0 483"), "the same once more");
    let is_new = |offered| matches!(offered, Offered::New(_));
    assert!(is_new(offer(&mut proxy, now, &ack_of_2xx)));
    let later = now + Duration::from_secs(32);
    assert!(is_new(offer(&mut proxy, later, &ack)));
}

#[test]
fn at_the_limit_the_oldest_refusal_is_forgotten_and_counted() {
    let (now, peer, mut proxy) = start();
    let mut offered = |branch: usize, method| {
        let text = request(method, ";tag=b").replace("z9hG4bK1", &format!("z9hG4bK{branch}"));
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        if method == "INVITE" {
            proxy.respond_stateless(now, FlowId(0), peer, &message, 503, &[]);
        }
        let offered = proxy.offer_request(now, FlowId(0), peer, &message);
        (offered, proxy.counters().refused_forgotten)
    };
    for branch in 0..REFUSED_MAX {
        assert_eq!(offered(branch, "INVITE").1, 0);
    }
    assert_eq!(offered(0, "ACK"), (Offered::Absorbed, 0));
    assert_eq!(offered(REFUSED_MAX, "INVITE").1, 1);
    assert!(matches!(offered(0, "ACK").0, Offered::New(_)));
    assert_eq!(offered(1, "ACK").0, Offered::Absorbed);
}
