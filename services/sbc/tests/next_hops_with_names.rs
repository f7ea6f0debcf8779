//! A router may name the next hop by host name: it is looked up off the packet path.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::view::{
    Algorithm, DestinationSet, Liveness, Member, MemberKind, MemberState, Selector, Side,
    SipEndpoint, View,
};
use element::{Datagram, Element, FlowId, Outbox, Sender, Sharded, Turn};
use sip::{DialogConfig, ProxyConfig, TimerConfig};
use tandem_sbc::{Node, PATIENCE, Shard};

struct Bench {
    sbc: Sharded<Shard, Node>,
    turn: Turn,
    now: Instant,
    router: SocketAddr,
}

#[derive(Default)]
struct Wire(Vec<(SocketAddr, String)>);

impl Sender for Wire {
    fn send(&mut self, outboxes: &[Outbox]) {
        for sent in outboxes.iter().flat_map(Outbox::iter) {
            let text = String::from_utf8(sent.bytes.to_vec()).unwrap();
            self.0.push((sent.destination, text));
        }
    }
}

fn member(id: &str, kind: MemberKind, address: SocketAddr) -> Member {
    Member {
        id: id.into(),
        kind,
        address: address.ip(),
        sip: vec![SipEndpoint {
            side: Side::Both,
            address,
        }],
        dmq: None,
        cell: "a".into(),
        zone: String::new(),
        tags: vec![],
        desired_state: MemberState::Active,
        incarnation: 1,
        liveness: Liveness::Alive,
    }
}

impl Bench {
    fn new() -> Self {
        let (own, router) = (
            "127.0.0.20:5060".parse().unwrap(),
            "127.0.0.31:5060".parse().unwrap(),
        );
        let set = DestinationSet {
            id: "1".into(),
            algorithm: Algorithm::CallId,
            selector: Some(Selector {
                kind: Some(MemberKind::Router),
                ..Selector::default()
            }),
            first_response: Duration::from_secs(10),
            detect_within: Duration::from_secs(60),
            probe_interval: Duration::from_secs(60),
            failures_to_inactive: 1,
            successes_to_active: 2,
        };
        let view = View {
            generation: 1,
            members: vec![
                member("r", MemberKind::Router, router),
                member("s", MemberKind::Sbc, own),
            ],
            sets: vec![set],
            ..View::default()
        };
        let proxy = ProxyConfig {
            listen: vec![own],
            timers: TimerConfig::default(),
            timer_c: Duration::from_secs(185),
            contexts_max: 100,
        };
        let now = Instant::now();
        let mut node = Node::new(
            vec![own].into(),
            vec!["127.0.0.0/8".parse().unwrap()].into(),
            1,
        );
        node.configure(now, &view);
        let initial = Arc::new(node.view());
        let shard = Shard::new(proxy, DialogConfig::default(), 2);
        let sbc = Sharded::new(vec![shard], node, initial, [0; 16]);
        let mut bench = Self {
            sbc,
            turn: Turn::new(),
            now,
            router,
        };
        bench.sbc.with_node(now, &mut bench.turn, |_| ());
        bench.flush();
        bench
    }

    fn flush(&mut self) -> Vec<(SocketAddr, String)> {
        let mut wire = Wire::default();
        self.sbc.flush(&mut self.turn, &mut wire);
        wire.0.retain(|(_, text)| !text.starts_with("OPTIONS"));
        wire.0
    }

    fn receive(&mut self, source: SocketAddr, text: &str) -> Vec<(SocketAddr, String)> {
        let datagram = Datagram {
            flow: FlowId(0),
            source,
            bytes: text.as_bytes(),
        };
        self.sbc.handle_batch(self.now, &[datagram], &mut self.turn);
        self.flush()
    }

    /// Sends a call in, and returns what the router makes of it: its second pass.
    fn second_pass(&mut self) -> String {
        let invite = "INVITE sip:1@127.0.0.20 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.10:5060;branch=z9hG4bKc\r\n\
             From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        let sent = self.receive("127.0.0.10:5060".parse().unwrap(), invite);
        let (_, first) = sent
            .iter()
            .find(|(to, _)| *to == self.router)
            .expect("given to the router");
        let (start, rest) = first.split_once("\r\n").unwrap();
        format!(
            "{start}\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKr\r\nX-Destination-URI: sip:PBX.example:5080\r\n{rest}",
            self.router
        )
    }

    fn asked(&mut self) -> Option<Box<str>> {
        self.sbc
            .with_node(self.now, &mut self.turn, Node::poll_lookup)
    }
}

#[test]
fn a_call_waits_for_the_name_of_its_next_hop_and_goes_on_when_it_is_known() {
    let mut bench = Bench::new();
    let second = bench.second_pass();
    let router = bench.router;
    assert!(bench.receive(router, &second).is_empty());
    assert!(
        bench.receive(router, &second).is_empty(),
        "a repeat waits as well"
    );
    assert_eq!(bench.asked().as_deref(), Some("pbx.example"));
    assert_eq!(bench.asked(), None, "asked once");
    let address = "127.0.0.77".parse().unwrap();
    let now = bench.now;
    bench.sbc.with_node(now, &mut bench.turn, |node| {
        node.handle_lookup(now, "pbx.example".into(), Some(address));
    });
    let sent = bench.flush();
    let invites: Vec<_> = sent
        .iter()
        .filter(|(_, text)| text.starts_with("INVITE"))
        .collect();
    assert_eq!(invites.len(), 1, "{sent:?}");
    assert_eq!(invites[0].0, "127.0.0.77:5080".parse().unwrap());
    assert!(!invites[0].1.contains("X-Destination-URI"));
}

#[test]
fn a_name_that_nobody_knows_is_refused_at_once_and_one_that_nobody_answers_for_after_2_s() {
    for answered in [true, false] {
        let mut bench = Bench::new();
        let second = bench.second_pass();
        let router = bench.router;
        bench.receive(router, &second);
        let now = bench.now;
        if answered {
            bench.sbc.with_node(now, &mut bench.turn, |node| {
                node.handle_lookup(now, "pbx.example".into(), None)
            });
        } else {
            bench
                .sbc
                .handle_timeout(now + PATIENCE / 2, 0, 1, &mut bench.turn);
            assert!(!bench.flush().iter().any(|(_, text)| text.contains(" 503 ")));
            bench
                .sbc
                .handle_timeout(now + PATIENCE, 0, 1, &mut bench.turn);
        }
        let refused = bench
            .flush()
            .into_iter()
            .find(|(to, text)| *to == router && text.starts_with("SIP/2.0 503"));
        assert!(
            refused.is_some_and(|(_, text)| text.contains("Retry-After")),
            "answered: {answered}"
        );
    }
}
