//! One SBC with one router, driven by hand.

#![allow(dead_code, reason = "no test needs all of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::view::{
    Algorithm, DestinationSet, Liveness, Member, MemberKind, MemberState, Selector, Side,
    SipEndpoint, View,
};
use element::{Datagram, Element, FlowId, Outbox, Sender, Sharded, Turn};
use sip::{DialogConfig, ProxyConfig, TimerConfig};
use tandem_sbc::{Node, Shard};

pub(crate) struct Bench {
    pub(crate) sbc: Sharded<Shard, Node>,
    pub(crate) turn: Turn,
    pub(crate) now: Instant,
    pub(crate) router: SocketAddr,
    /// What the registry says.
    pub(crate) view: View,
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
    pub(crate) fn new() -> Self {
        let (own, router) = (
            "127.0.0.20:5060".parse().unwrap(),
            "127.0.0.31:5060".parse().unwrap(),
        );
        let set = DestinationSet {
            id: "1".into(),
            algorithm: Algorithm::CallIdHash,
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
            view,
        };
        bench.sbc.with_node(now, &mut bench.turn, |_| ());
        bench.flush();
        bench
    }

    /// Puts what `view` says now in force.
    pub(crate) fn configure(&mut self) {
        let view = &self.view;
        let configure = |node: &mut Node| node.configure(self.now, view);
        self.sbc.with_node(self.now, &mut self.turn, configure);
        self.flush();
    }

    pub(crate) fn flush(&mut self) -> Vec<(SocketAddr, String)> {
        let mut wire = Wire::default();
        self.sbc.flush(&mut self.turn, &mut wire);
        wire.0.retain(|(_, text)| !text.starts_with("OPTIONS"));
        wire.0
    }

    /// Hands in what somebody sent, and returns what goes out for it, probes excepted.
    pub(crate) fn receive(&mut self, source: SocketAddr, text: &str) -> Vec<(SocketAddr, String)> {
        let datagram = Datagram {
            flow: FlowId(0),
            source,
            bytes: text.as_bytes(),
        };
        self.sbc.handle_batch(self.now, &[datagram], &mut self.turn);
        self.flush()
    }

    pub(crate) fn carrier(&self) -> SocketAddr {
        "127.0.0.10:5060".parse().unwrap()
    }

    /// Returns a request of the carrier: an INVITE, or what belongs to it.
    pub(crate) fn carrier_request(&self, method: &str) -> String {
        self.carrier_request_of("x", method)
    }

    pub(crate) fn carrier_request_of(&self, call_id: &str, method: &str) -> String {
        format!(
            "{method} sip:1@127.0.0.20 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.10:5060;branch=z9hG4bKc{call_id}\r\n\
             From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
             Content-Length: 0\r\n\r\n"
        )
    }

    /// Sends a call in, and returns what the router makes of it: its second pass.
    pub(crate) fn second_pass(&mut self, uri: &str) -> String {
        self.second_pass_of("x", uri)
    }

    /// The same, for a call of this Call-ID.
    pub(crate) fn second_pass_of(&mut self, call_id: &str, uri: &str) -> String {
        let invite = self.carrier_request_of(call_id, "INVITE");
        let sent = self.receive(self.carrier(), &invite);
        let (_, first) = sent
            .iter()
            .find(|(to, _)| *to == self.router)
            .expect("given to the router");
        let (start, rest) = first.split_once("\r\n").unwrap();
        format!(
            "{start}\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKr{call_id}\r\nX-Destination-URI: {uri}\r\n{rest}",
            self.router
        )
    }

    /// Lets time pass, and returns what goes out meanwhile, probes excepted.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<(SocketAddr, String)> {
        let until = self.now + time;
        let mut sent = vec![];
        while let Some(at) = self.sbc.poll_timeout(0, 1).filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.sbc.handle_timeout(self.now, 0, 1, &mut self.turn);
            sent.extend(self.flush());
        }
        self.now = until;
        sent
    }

    /// Lets the network say that nobody is at an address, and returns what goes out for it.
    pub(crate) fn unreachable(&mut self, address: SocketAddr) -> Vec<(SocketAddr, String)> {
        self.sbc
            .handle_unreachable(self.now, FlowId(0), address, &mut self.turn);
        self.flush()
    }
}

/// Returns how each message begins: its method, or `SIP/2.0` and its status.
pub(crate) fn starts(sent: &[(SocketAddr, String)]) -> Vec<&str> {
    let start = |text: &str| match text.starts_with("SIP/2.0") {
        true => 11,
        false => text.find(' ').unwrap(),
    };
    sent.iter().map(|(_, text)| &text[..start(text)]).collect()
}

/// Returns an answer to a request.
pub(crate) fn answer(request: &str, status: &str) -> String {
    let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines: String = request
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)))
        .map(|line| format!("{line}\r\n"))
        .collect();
    format!("SIP/2.0 {status}\r\n{lines}Content-Length: 0\r\n\r\n")
}
