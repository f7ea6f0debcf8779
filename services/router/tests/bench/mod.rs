//! A router without a network: what is handed in, and what goes out.

#![allow(clippy::unwrap_used)] // helpers of tests
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test takes what it needs of this"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control::view::{MemberKind, NextHop, Route, RouteMatch, RouteResult, View};
use element::FlowId;
use replication::{DialogRecord, DialogsConfig};
use tandem_router::{BusIdentity, Node, Router};
use workbench::{Sent, answer, member};

pub const ROUTER: &str = "127.0.0.31:5060";
pub const SBC: &str = "127.0.0.20:5060";

pub struct Bench {
    pub router: workbench::Bench<Router>,
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
            member("r", MemberKind::Router, ROUTER.parse().unwrap()),
            member("s", MemberKind::Sbc, SBC.parse().unwrap()),
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

impl Bench {
    pub fn new(view: &View) -> Self {
        let own: SocketAddr = ROUTER.parse().unwrap();
        let identity = BusIdentity {
            node_id: "r".into(),
            cell: "a".into(),
            incarnation: 1,
            own: "127.0.0.31:5062".parse().unwrap(),
            flow: FlowId(1),
            allow: Vec::new(),
            dialogs: DialogsConfig::default(),
        };
        let node = Node::new([own].into(), Arc::new([]), 1).with_bus(identity);
        let mut router = workbench::Bench::<Router>::new(own, node);
        router.with_node(|now, node| node.set_wall_clock(now, SystemTime::now()));
        let mut bench = Self { router };
        bench.configure(view);
        bench
    }

    pub fn configure(&mut self, view: &View) {
        self.router.with_node(|now, node| node.configure(now, view));
        self.router.flush();
    }

    /// Hands in what somebody sent, and returns what goes out for it, 100 excepted.
    pub fn receive(&mut self, source: &str, text: &str) -> Vec<String> {
        let sent = self.router.receive(source.parse().unwrap(), text);
        let mut texts = texts(sent);
        texts.retain(|text| !text.starts_with("SIP/2.0 100"));
        texts
    }

    /// Lets time pass, and returns what goes out meanwhile.
    pub fn pass(&mut self, time: Duration) -> Vec<String> {
        texts(self.router.pass(time))
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
        self.router.element.inspect_node(|node| {
            let dialogs = node.replication().unwrap().replica().dialogs();
            let mut held = dialogs.of_call(call.as_bytes());
            held.next().unwrap().1.record.clone()
        })
    }
}

fn texts(sent: Vec<Sent>) -> Vec<String> {
    sent.into_iter().map(|(_, text)| text).collect()
}
