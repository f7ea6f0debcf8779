//! One node and one shard, driven by hand: what is handed in, and what goes out for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use element::{Datagram, Element, FlowId, Outbox, Sender, Sharded, Turn};
use host::Role;
use sip::{DialogConfig, ProxyConfig, TimerConfig};

/// A datagram that went out: to whom, and its text.
pub type Sent = (SocketAddr, String);

/// A service without a network. What goes out is returned, probes excepted.
pub struct Bench<R: Role> {
    /// The service.
    pub element: Sharded<R::Shard, R::Node>,
    /// The time that it is.
    pub now: Instant,
    turn: Turn,
}

impl<R: Role> Bench<R> {
    /// Puts a shard that listens on `own` to a node.
    #[must_use]
    pub fn new(own: SocketAddr, node: R::Node) -> Self {
        let proxy = ProxyConfig {
            listen: vec![own],
            timers: TimerConfig::default(),
            timer_c: R::TIMER_C,
            contexts_max: 100,
        };
        let shard = R::shard(proxy, DialogConfig::default(), 2);
        let view = Arc::new(R::view(&node));
        Self {
            element: Sharded::new(vec![shard], node, view, [0; 16]),
            now: Instant::now(),
            turn: Turn::new(),
        }
    }

    /// Changes the node; [`Bench::flush`] returns what goes out for it.
    pub fn with_node<T>(&mut self, change: impl FnOnce(Instant, &mut R::Node) -> T) -> T {
        let now = self.now;
        self.element
            .with_node(now, &mut self.turn, |node| change(now, node))
    }

    /// Returns what goes out for what was done to the node.
    pub fn flush(&mut self) -> Vec<Sent> {
        let mut wire = Wire::default();
        self.element.flush(&mut self.turn, &mut wire);
        wire.0.retain(|(_, text)| !text.starts_with("OPTIONS"));
        wire.0
    }

    /// Hands in what somebody sent.
    pub fn receive(&mut self, source: SocketAddr, text: &str) -> Vec<Sent> {
        let datagram = Datagram {
            flow: FlowId(0),
            source,
            bytes: text.as_bytes(),
        };
        self.element
            .handle_batch(self.now, &[datagram], &mut self.turn);
        self.flush()
    }

    /// Lets the network say that nobody is at an address.
    pub fn unreachable(&mut self, address: SocketAddr) -> Vec<Sent> {
        self.element
            .handle_unreachable(self.now, FlowId(0), address, &mut self.turn);
        self.flush()
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let until = self.now + time;
        let mut sent = vec![];
        while let Some(at) = self.element.poll_timeout(0, 1).filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.element.handle_timeout(self.now, 0, 1, &mut self.turn);
            sent.extend(self.flush());
        }
        self.now = until;
        sent
    }
}

#[derive(Default)]
struct Wire(Vec<Sent>);

impl Sender for Wire {
    fn send(&mut self, outboxes: &[Outbox]) {
        for sent in outboxes.iter().flat_map(Outbox::iter) {
            let text = String::from_utf8(sent.bytes.to_vec()).unwrap();
            self.0.push((sent.destination, text));
        }
    }
}

/// Returns an answer to a request.
#[must_use]
pub fn answer(request: &str, status: &str) -> String {
    let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines: String = request
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)))
        .map(|line| format!("{line}\r\n"))
        .collect();
    format!("SIP/2.0 {status}\r\n{lines}Content-Length: 0\r\n\r\n")
}
