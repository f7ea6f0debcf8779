//! A router without a network: what is handed in, and what goes out.

#![allow(clippy::unwrap_used)] // helpers of tests
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test takes what it needs of this"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control::view::{
    Liveness, Member, MemberKind, MemberState, NextHop, Route, RouteMatch, RouteResult, Side,
    SipEndpoint, View,
};
use element::{Datagram, Element, FlowId, Outbox, Sender, Sharded, Turn};
use replication::{DialogRecord, DialogsConfig};
use sip::{ProxyConfig, TimerConfig};
use tandem_router::{BusIdentity, Node, Shard};

pub const ROUTER: &str = "127.0.0.31:5060";
pub const SBC: &str = "127.0.0.20:5060";

pub struct Bench {
    pub router: Sharded<Shard, Node>,
    pub turn: Turn,
    pub now: Instant,
}

#[derive(Default)]
pub struct Wire(pub Vec<(SocketAddr, String)>);

impl Sender for Wire {
    fn send(&mut self, outboxes: &[Outbox]) {
        for sent in outboxes.iter().flat_map(Outbox::iter) {
            let text = String::from_utf8(sent.bytes.to_vec()).unwrap();
            self.0.push((sent.destination, text));
        }
    }
}

pub fn member(id: &str, kind: MemberKind, address: &str) -> Member {
    let address: SocketAddr = address.parse().unwrap();
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

pub fn place(uri: &str, request_uri: Option<&str>, headers: &[(&str, &str)]) -> RouteResult {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    RouteResult {
        next_hop: NextHop::Uri(uri.to_owned()),
        request_uri: request_uri.map(str::to_owned),
        headers: headers.iter().map(owned).collect(),
    }
}

pub fn view(results: Vec<RouteResult>) -> View {
    View {
        generation: 1,
        members: vec![
            member("r", MemberKind::Router, ROUTER),
            member("s", MemberKind::Sbc, SBC),
        ],
        routes: vec![Route {
            id: "all".into(),
            priority: 0,
            matches: RouteMatch::default(),
            results,
        }],
        ..View::default()
    }
}

pub fn invite(call: &str) -> String {
    format!(
        "INVITE sip:123@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {SBC};branch=z9hG4bK{call}\r\n\
         From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\
         X-Trunk: theirs\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Returns the values of a header, in order.
pub fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let lines = message.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(written, _)| *written == name)
        .map(|(_, value)| value)
        .collect()
}

pub fn refusal(request: &str) -> String {
    answer(request, "503 Service Unavailable")
}

pub fn answer(request: &str, status: &str) -> String {
    let line = |name| {
        let values = values(request, name);
        let line = |value| format!("{name}: {value}\r\n");
        values.into_iter().map(line).collect::<String>()
    };
    let lines: String = ["Via", "From", "To", "Call-ID", "CSeq"].map(line).concat();
    format!("SIP/2.0 {status}\r\n{lines}Content-Length: 0\r\n\r\n")
}

impl Bench {
    pub fn new(view: &View) -> Self {
        let own: SocketAddr = ROUTER.parse().unwrap();
        let proxy = ProxyConfig {
            listen: vec![own],
            timers: TimerConfig::default(),
            timer_c: Duration::from_secs(190),
            contexts_max: 100,
        };
        let identity = BusIdentity {
            node_id: "r".into(),
            cell: "a".into(),
            incarnation: 1,
            own: "127.0.0.31:5062".parse().unwrap(),
            flow: FlowId(1),
            allow: Vec::new(),
            dialogs: DialogsConfig::default(),
        };
        let mut node = Node::new(vec![own].into(), Arc::new([]), 1).with_bus(identity);
        let now = Instant::now();
        node.set_wall_clock(now, SystemTime::now());
        let initial = Arc::new(node.view());
        let shard = Shard::new(proxy, 2);
        let mut bench = Self {
            router: Sharded::new(vec![shard], node, initial, [0; 16]),
            turn: Turn::new(),
            now,
        };
        bench.configure(view);
        bench
    }

    pub fn configure(&mut self, view: &View) {
        let now = self.now;
        self.router
            .with_node(now, &mut self.turn, |node| node.configure(now, view));
        self.router.flush(&mut self.turn, &mut Wire::default());
    }

    /// Hands in what somebody sent, and returns what goes out for it, 100 excepted.
    pub fn receive(&mut self, source: &str, text: &str) -> Vec<String> {
        let datagram = Datagram {
            flow: FlowId(0),
            source: source.parse().unwrap(),
            bytes: text.as_bytes(),
        };
        self.router
            .handle_batch(self.now, &[datagram], &mut self.turn);
        let mut wire = Wire::default();
        self.router.flush(&mut self.turn, &mut wire);
        let sent = wire.0.into_iter().map(|(_, text)| text);
        sent.filter(|text| !text.starts_with("SIP/2.0 100"))
            .collect()
    }

    /// Lets time pass, and returns what goes out meanwhile.
    pub fn pass(&mut self, time: Duration) -> Vec<String> {
        let until = self.now + time;
        let mut wire = Wire::default();
        while let Some(at) = self.router.poll_timeout(0, 1).filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.router.handle_timeout(self.now, 0, 1, &mut self.turn);
            self.router.flush(&mut self.turn, &mut wire);
        }
        self.now = until;
        wire.0.into_iter().map(|(_, text)| text).collect()
    }

    /// Sends a call in, and returns the request that comes of it.
    pub fn call(&mut self, id: &str) -> String {
        let sent = self.receive(SBC, &invite(id));
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.into_iter().next().unwrap()
    }

    /// Refuses a request, and returns the one that goes out to the next place.
    pub fn refuse(&mut self, request: &str) -> String {
        let sent = self.receive(SBC, &refusal(request));
        let mut requests = sent.into_iter().filter(|text| text.starts_with("INVITE"));
        requests.next().expect("a further place")
    }

    /// Returns what the router holds of a call.
    pub fn dialog(&self, call: &str) -> DialogRecord {
        self.router.inspect_node(|node| {
            let dialogs = node.replication().unwrap().replica().dialogs();
            let mut held = dialogs.of_call(call.as_bytes());
            held.next().unwrap().1.record.clone()
        })
    }
}
