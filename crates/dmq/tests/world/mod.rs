//! Several buses, links in memory and one clock: everything random comes out of one seed.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a failed unwrap is a failed test; each test takes what it needs of this"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmq::{Bus, BusConfig, Event, Kind, NodeState, Schedule};
use element::FlowId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sip_types::{Index, Message};

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
pub fn origin() -> Instant {
    Instant::now()
}

/// The address of node `i`.
pub fn node(i: usize) -> SocketAddr {
    format!("10.0.0.{}:5060", i + 1).parse().unwrap()
}

pub fn nodes(range: std::ops::Range<usize>) -> BTreeSet<SocketAddr> {
    range.map(node).collect()
}

pub fn bus(own: SocketAddr, seed: u64) -> Bus {
    Bus::new(BusConfig::new(own, FlowId(0)), seed)
}

/// Parses a message and gives it to `read`.
pub fn with_message<T>(bytes: &[u8], read: impl FnOnce(&Message<'_>) -> T) -> T {
    let mut index = Index::new();
    let message = Message::parse(bytes, &mut index).unwrap();
    read(&message)
}

/// Takes everything that a bus wants to send.
pub fn sent(bus: &mut Bus) -> Vec<(SocketAddr, Vec<u8>)> {
    let outbox = bus.outbox();
    let sent = outbox
        .iter()
        .map(|transmit| (transmit.destination, transmit.bytes.to_vec()))
        .collect();
    outbox.clear();
    sent
}

pub fn events(bus: &mut Bus) -> Vec<Event> {
    std::iter::from_fn(|| bus.poll_event()).collect()
}

/// What a datagram says, in one line: `1>2 notification_peer 2` or `2>1 200`.
fn describe(from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> String {
    let number = |address: SocketAddr| {
        address
            .ip()
            .to_string()
            .split('.')
            .next_back()
            .unwrap()
            .to_owned()
    };
    with_message(bytes, |message| {
        let what = match message.status() {
            Some(status) => status.to_string(),
            None => {
                let uri = sip_types::Uri::parse(message.request_uri()).unwrap();
                let hops = message.max_forwards().unwrap().unwrap();
                let channel = String::from_utf8_lossy(uri.user.unwrap());
                format!("{channel} {hops}")
            }
        };
        format!("{}>{} {what}", number(from), number(to))
    })
}

struct Place {
    bus: Option<Bus>,
    kind: Kind,
    events: Vec<Event>,
    /// Bodies in the order of their execution.
    delivered: Vec<(SocketAddr, Vec<u8>)>,
    up: BTreeSet<SocketAddr>,
    unanswered: BTreeSet<u64>,
}

/// Nodes 0, 1, 2, ... on one network.
pub struct World {
    pub now: Instant,
    pub start: Instant,
    seed: u64,
    rng: SmallRng,
    places: Vec<Place>,
    in_flight: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    datagrams: u64,
    lives: u64,
    /// Of ten thousand.
    pub loss: u32,
    /// Pairs that do not hear each other.
    pub cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Whether the host of a dead node refuses what comes.
    pub refuses: bool,
    pub trace: Vec<String>,
}

impl World {
    /// `count` nodes, none of them running.
    pub fn new(seed: u64, count: usize) -> Self {
        let now = origin();
        let places = (0..count).map(|_| Place {
            bus: None,
            kind: Kind::Tandem,
            events: Vec::new(),
            delivered: Vec::new(),
            up: BTreeSet::new(),
            unanswered: BTreeSet::new(),
        });
        Self {
            now,
            start: now,
            seed,
            rng: SmallRng::seed_from_u64(seed),
            places: places.collect(),
            in_flight: BTreeMap::new(),
            datagrams: 0,
            lives: 0,
            loss: 0,
            cut: BTreeSet::new(),
            refuses: false,
            trace: Vec::new(),
        }
    }

    /// All run, and join at node 0.
    pub fn running(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed, count);
        for i in 0..count {
            world.start(i, &[0]);
        }
        world.run(ms(3_000));
        world
    }

    /// Starts node `i` with these notification addresses; everybody may speak.
    pub fn start(&mut self, i: usize, seeds: &[usize]) {
        self.lives += 1;
        let mut bus = bus(node(i), self.seed ^ (self.lives << 32));
        bus.set_allowed(self.now, nodes(0..self.places.len()), Vec::new());
        bus.set_notification(self.now, seeds.iter().copied().map(node));
        self.places[i].bus = Some(bus);
        self.places[i].up.clear();
        self.places[i].unanswered.clear();
        self.settle(i);
    }

    pub fn stop(&mut self, i: usize) {
        self.places[i].bus = None;
    }

    pub fn leave(&mut self, i: usize) {
        let now = self.now;
        self.bus(i).leave(now);
        self.settle(i);
    }

    /// Has everybody treat node `i` as one of that kind.
    pub fn set_kind(&mut self, i: usize, kind: Kind) {
        self.places[i].kind = kind;
    }

    pub fn bus(&mut self, i: usize) -> &mut Bus {
        self.places[i].bus.as_mut().unwrap()
    }

    pub fn is_done(&mut self, i: usize) -> bool {
        self.bus(i).poll_timeout().is_none()
    }

    pub fn send(&mut self, from: usize, to: usize, body: &[u8]) -> bool {
        let (now, to_node) = (self.now, node(to));
        let schedule = match self.places[to].kind {
            Kind::Stock => Schedule::Stock,
            Kind::Tandem => Schedule::Tandem,
        };
        let bus = self.bus(from);
        let request = bus.send(now, to_node, "tandem", body, schedule);
        if let Some(request) = request {
            assert!(self.places[from].unanswered.insert(request.0));
        }
        self.settle(from);
        request.is_some()
    }

    /// Does something with a bus and sends what comes of it.
    pub fn with_bus<T>(&mut self, i: usize, act: impl FnOnce(Instant, &mut Bus) -> T) -> T {
        let now = self.now;
        let result = act(now, self.bus(i));
        self.settle(i);
        result
    }

    pub fn events(&mut self, i: usize) -> Vec<Event> {
        std::mem::take(&mut self.places[i].events)
    }

    pub fn delivered(&mut self, i: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.places[i].delivered)
    }

    /// The nodes that `i` holds to be in `state`.
    pub fn known(&mut self, i: usize, state: NodeState) -> Vec<SocketAddr> {
        let nodes = self.bus(i).nodes();
        nodes
            .filter(|node| node.state == state)
            .map(|node| node.address)
            .collect()
    }

    /// The first running node from `i` on.
    pub fn next_alive(&self, i: usize) -> Option<usize> {
        let count = self.places.len();
        (i..i + count)
            .map(|i| i % count)
            .find(|i| self.places[*i].bus.is_some())
    }

    pub fn owes_answers(&self, i: usize) -> bool {
        !self.places[i].unanswered.is_empty()
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            assert!(next >= self.now, "time goes back, seed {}", self.seed);
            self.now = next;
            self.step();
        }
        self.now = end;
    }

    fn next_event(&self) -> Option<Instant> {
        let timers = self
            .places
            .iter()
            .filter_map(|place| place.bus.as_ref()?.poll_timeout());
        timers
            .chain(self.in_flight.keys().next().map(|(at, _)| *at))
            .min()
    }

    fn step(&mut self) {
        while let Some(entry) = self
            .in_flight
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let (from, to, bytes) = entry.remove();
            self.deliver(from, to, &bytes);
        }
        for i in 0..self.places.len() {
            let now = self.now;
            let Some(bus) = &mut self.places[i].bus else {
                continue;
            };
            if bus.poll_timeout().is_some_and(|at| at <= now) {
                bus.handle_timeout(now);
                assert!(
                    bus.poll_timeout().is_none_or(|at| at > now),
                    "a timer stays due, seed {}",
                    self.seed
                );
                self.settle(i);
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let at = |address| (0..self.places.len()).find(|i| node(*i) == address);
        let (Some(sender), Some(receiver)) = (at(from), at(to)) else {
            return;
        };
        let now = self.now;
        let Some(bus) = &mut self.places[receiver].bus else {
            if self.refuses
                && let Some(bus) = &mut self.places[sender].bus
            {
                bus.handle_unreachable(now, to);
                self.settle(sender);
            }
            return;
        };
        let delivered = with_message(bytes, |message| {
            let delivery = bus.handle_message(now, from, message)?;
            assert_eq!((delivery.node, delivery.channel), (from, "tandem"));
            let body = delivery.body.to_vec();
            bus.reply(now, from, message, 200);
            Some((from, body))
        });
        self.places[receiver].delivered.extend(delivered);
        self.settle(receiver);
    }

    /// Puts on the network what node `i` sends, and checks its events.
    fn settle(&mut self, i: usize) {
        let kinds: Vec<_> = self.places.iter().map(|place| place.kind).collect();
        let place = &mut self.places[i];
        let Some(bus) = &mut place.bus else { return };
        for (i, kind) in kinds.into_iter().enumerate() {
            bus.set_kind(node(i), kind);
        }
        for event in events(bus) {
            match event {
                Event::NodeUp { node } => assert!(place.up.insert(node), "up twice"),
                Event::NodeDown { node } => assert!(place.up.remove(&node), "down twice"),
                Event::NodeRemoved { node } => assert!(!place.up.contains(&node), "never down"),
                Event::Listed { node } => assert!(place.up.contains(&node), "not up"),
                Event::Answered { request, .. } => {
                    assert!(place.unanswered.remove(&request.0), "answered twice");
                }
            }
            place.events.push(event);
        }
        let active: BTreeSet<_> = bus
            .nodes()
            .filter(|node| node.state == NodeState::Active)
            .map(|node| node.address)
            .collect();
        assert_eq!(active, place.up, "seed {}", self.seed);
        let from = node(i);
        for (to, bytes) in sent(bus) {
            self.trace.push(describe(from, to, &bytes));
            let is_cut = self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
            if is_cut || self.rng.random_range(0..10_000) < self.loss {
                continue;
            }
            let delay = Duration::from_micros(self.rng.random_range(200..2_000));
            self.datagrams += 1;
            let key = (self.now + delay, self.datagrams);
            self.in_flight.insert(key, (from, to, bytes));
        }
    }
}
