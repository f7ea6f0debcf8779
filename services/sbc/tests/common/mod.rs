//! One SBC with one router, driven by hand.

#![allow(dead_code, reason = "no test needs all of it")]

use std::net::SocketAddr;
use std::time::Duration;

use control::view::{DestinationSet, MemberKind, Selector, View};
use tandem_sbc::{Node, Sbc};
use workbench::{Sent, destination_set, member};

pub(crate) struct Bench {
    pub(crate) sbc: workbench::Bench<Sbc>,
    pub(crate) router: SocketAddr,
    /// What the registry says.
    pub(crate) view: View,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let (own, router) = (
            "127.0.0.20:5060".parse().unwrap(),
            "127.0.0.31:5060".parse().unwrap(),
        );
        let set = DestinationSet {
            selector: Some(Selector {
                kind: Some(MemberKind::Router),
                ..Selector::default()
            }),
            first_response: Duration::from_secs(10),
            detect_within: Duration::from_secs(60),
            probe_interval: Duration::from_secs(60),
            ..destination_set("1")
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
        let allow = "127.0.0.0/8".parse().unwrap();
        let node = Node::new([own].into(), [allow].into(), 1);
        let mut bench = Self {
            sbc: workbench::Bench::new(own, node),
            router,
            view,
        };
        bench.configure();
        bench
    }

    /// Puts what `view` says now in force.
    pub(crate) fn configure(&mut self) {
        let view = &self.view;
        self.sbc.with_node(|now, node| node.configure(now, view));
        self.sbc.flush();
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
        let sent = self.sbc.receive(self.carrier(), &invite);
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
}

/// Returns how each message begins: its method, or `SIP/2.0` and its status.
pub(crate) fn starts(sent: &[Sent]) -> Vec<&str> {
    let start = |text: &str| match text.starts_with("SIP/2.0") {
        true => 11,
        false => text.find(' ').unwrap(),
    };
    sent.iter().map(|(_, text)| &text[..start(text)]).collect()
}
