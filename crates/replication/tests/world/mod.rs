//! A cell: nodes, links in memory, one clock, and a wall clock for each node. Everything random comes
//! out of one seed.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a failed unwrap is a failed test; each test takes what it needs of this"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmq::{Bus, BusConfig, Event};
use element::FlowId;
use htable::Definition;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replication::tandem::{Channel, HelloData, Kind, NodeStatus, PENDING_MAX, QUEUE_MAX, WINDOW};
use replication::{
    Cause, Change, DialogKey, DialogRecord, DialogsConfig, LegSeen, Now, Observation, Observed,
    Replica,
};
use sip_types::{Index, Message};

/// 2027-01-15, milliseconds since 1970.
pub const WALL: u64 = 1_800_000_000_000;
pub const CELL_KEY: [u8; 16] = *b"the cell's key 1";

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
pub fn origin() -> Instant {
    Instant::now()
}

/// The address of node `i`.
pub fn address(i: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, i as u8 + 1], 5060))
}

pub fn dialog_key(call: &str, h_id: u32) -> DialogKey {
    DialogKey {
        call_id: call.as_bytes().into(),
        h_id,
    }
}

/// What a router sees of a call between `a` and `b`; `by_callee` turns the direction round.
pub fn seen(key: &DialogKey, by_callee: bool, what: Observed) -> Observation {
    let tags: [&[u8]; 2] = match (&what, by_callee) {
        (Observed::Invited { .. }, _) => [b"a", b""],
        (_, false) => [b"a", b"b"],
        (_, true) => [b"b", b"a"],
    };
    Observation {
        call_id: key.call_id[..].into(),
        h_id: Some(key.h_id),
        from_tag: tags[0].into(),
        to_tag: tags[1].into(),
        what,
    }
}

pub fn leg(cseq: u32, contact: &str) -> LegSeen {
    LegSeen {
        cseq,
        contact: contact.as_bytes().into(),
        route_set: (*b"<sip:192.0.2.10;lr>").into(),
    }
}

pub fn invited() -> Observed {
    Observed::Invited {
        from_uri: (*b"sip:alice@example.com").into(),
        to_uri: (*b"sip:bob@example.net").into(),
        request_uri: (*b"sip:bob@example.net;user=phone").into(),
        caller: leg(1, "sip:alice@192.0.2.1:5060"),
    }
}

/// What the answer to a KDMQ request takes, amply.
const ANSWER_BYTES: u64 = 350;

/// Tells whether a datagram carries `Root`, `Partitions`, or `Keys` that lists nothing.
fn is_digest(bytes: &[u8]) -> bool {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
    let body = end.map(|end| &bytes[end + 4..]).unwrap_or_default();
    match body {
        [8, 1, 34 | 42, ..] => true,
        [8, 1, 50, ..] => body.len() < 64,
        _ => false,
    }
}

/// A Tandem node.
pub struct Node {
    pub replica: Replica,
    pub channel: Channel,
    pub bus: Bus,
    /// Every change, whoever made it.
    pub changes: Vec<Change>,
}

/// What runs at an address.
enum Running {
    Nothing,
    Tandem(Box<Node>),
    /// A Kamailio that only joins the bus, and what it has heard on other channels.
    Stock(Box<Bus>, Vec<(String, Vec<u8>)>),
}

struct Place {
    running: Running,
    /// Of its wall clock, in milliseconds.
    wall_offset: i64,
    /// When what runs there wants to be called next.
    due: Option<Instant>,
}

/// Nodes 0, 1, 2, ... of one cell.
pub struct World {
    pub now: Instant,
    start: Instant,
    pub seed: u64,
    pub rng: SmallRng,
    places: Vec<Place>,
    in_flight: BTreeMap<(Instant, u64), (usize, usize, Vec<u8>)>,
    datagrams: u64,
    lives: u64,
    /// Of ten thousand.
    pub loss: u32,
    /// In microseconds.
    pub delay: std::ops::Range<u64>,
    /// Pairs that do not hear each other.
    pub cut: BTreeSet<(usize, usize)>,
    pub dialogs: DialogsConfig,
    pub tables: Vec<Definition>,
    /// Bytes of periodic digests between two nodes: whole messages with their answers, repeats included.
    pub digests: BTreeMap<(usize, usize), u64>,
    /// The largest of each, seen at any node at any time.
    pub largest_dirty: usize,
    pub largest_in_flight: usize,
}

impl World {
    /// `count` nodes, none of them running.
    pub fn new(seed: u64, count: usize) -> Self {
        let now = origin();
        let places = (0..count).map(|_| Place {
            running: Running::Nothing,
            wall_offset: 0,
            due: None,
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
            delay: 200..2_000,
            cut: BTreeSet::new(),
            dialogs: DialogsConfig::default(),
            tables: Vec::new(),
            digests: BTreeMap::new(),
            largest_dirty: 0,
            largest_in_flight: 0,
        }
    }

    /// All run and have compared what they hold.
    pub fn running(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed, count);
        world.start_all();
        world
    }

    pub fn start_all(&mut self) {
        for i in 0..self.places.len() {
            self.start(i);
        }
        self.run(seconds(4));
    }

    pub fn count(&self) -> usize {
        self.places.len()
    }

    fn others(&self, i: usize) -> BTreeSet<SocketAddr> {
        let all = (0..self.places.len()).filter(|other| *other != i);
        all.map(address).collect()
    }

    fn new_bus(&mut self, i: usize) -> Bus {
        self.lives += 1;
        let seed = self.seed ^ self.lives << 32;
        let mut bus = Bus::new(BusConfig::new(address(i), FlowId(0)), seed);
        bus.set_allowed(self.now, self.others(i), Vec::new());
        bus.set_notification(self.now, self.others(i));
        bus
    }

    /// Starts a Tandem node with nothing in memory; instead of what ran there.
    pub fn start(&mut self, i: usize) {
        let bus = self.new_bus(i);
        let mut replica = Replica::new(address(i), CELL_KEY, self.dialogs);
        replica.set_members(&self.others(i));
        for table in &self.tables {
            replica.define(table.clone()).unwrap();
        }
        let hello = HelloData {
            node_id: format!("node-{i}"),
            incarnation: self.lives,
            hash_size: 4096,
        };
        let channel = Channel::new(self.time(i), hello, address(i), self.seed ^ self.lives);
        self.places[i].running = Running::Tandem(Box::new(Node {
            replica,
            channel,
            bus,
            changes: Vec::new(),
        }));
        self.settle(i);
    }

    /// Starts a Kamailio there instead of what ran.
    pub fn start_stock(&mut self, i: usize) {
        let bus = self.new_bus(i);
        self.places[i].running = Running::Stock(Box::new(bus), Vec::new());
        self.settle(i);
    }

    pub fn stop(&mut self, i: usize) {
        self.places[i].running = Running::Nothing;
        self.places[i].due = None;
    }

    pub fn is_running(&self, i: usize) -> bool {
        matches!(self.places[i].running, Running::Tandem(_))
    }

    /// What the Kamailio at `i` has heard on channels other than that of notifications.
    pub fn heard(&self, i: usize) -> &[(String, Vec<u8>)] {
        match &self.places[i].running {
            Running::Stock(_, heard) => heard,
            Running::Nothing | Running::Tandem(_) => panic!("no Kamailio"),
        }
    }

    pub fn node(&self, i: usize) -> &Node {
        match &self.places[i].running {
            Running::Tandem(node) => node,
            Running::Nothing | Running::Stock(..) => panic!("node {i} does not run"),
        }
    }

    fn node_mut(&mut self, i: usize) -> &mut Node {
        match &mut self.places[i].running {
            Running::Tandem(node) => node,
            Running::Nothing | Running::Stock(..) => panic!("node {i} does not run"),
        }
    }

    pub fn replica(&self, i: usize) -> &Replica {
        &self.node(i).replica
    }

    pub fn kind(&self, i: usize, other: usize) -> Kind {
        self.node(i).channel.kind(address(other))
    }

    pub fn status_of(&self, i: usize, other: usize) -> NodeStatus {
        let status = self.node(i).channel.status(self.now);
        let mut nodes = status.nodes.into_iter();
        nodes.find(|node| node.address == address(other)).unwrap()
    }

    /// What time it is at node `i`.
    pub fn time(&self, i: usize) -> Now {
        let run = (self.now - self.start).as_millis() as u64;
        let wall = (WALL + run).saturating_add_signed(self.places[i].wall_offset);
        Now {
            monotonic: self.now,
            wall,
        }
    }

    /// Sets the wall clock of a node so many milliseconds off.
    pub fn set_wall(&mut self, i: usize, offset: i64) {
        self.places[i].wall_offset = offset;
    }

    /// Cuts all links between the two groups.
    pub fn part(&mut self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Does something with a replica and lets everybody hear of it.
    pub fn write<T>(&mut self, i: usize, write: impl FnOnce(Now, &mut Replica) -> T) -> T {
        let now = self.time(i);
        let result = write(now, &mut self.node_mut(i).replica);
        self.settle(i);
        result
    }

    pub fn observe(&mut self, i: usize, key: &DialogKey, by_callee: bool, what: Observed) {
        let seen = seen(key, by_callee, what);
        self.write(i, |now, replica| replica.observe(now, seen));
    }

    /// A call that node `i` serves until its ACK.
    pub fn establish(&mut self, i: usize, key: &DialogKey) {
        self.observe(i, key, false, invited());
        let contact = "sip:bob@192.0.2.2:5060";
        self.observe(i, key, false, Observed::Rang(leg(0, contact)));
        self.observe(i, key, false, Observed::Answered(leg(0, contact)));
        self.observe(i, key, false, Observed::Acked);
    }

    pub fn hang_up(&mut self, i: usize, key: &DialogKey) {
        self.observe(i, key, true, Observed::Ended(Cause::Bye));
    }

    pub fn record(&self, i: usize, key: &DialogKey) -> Option<&DialogRecord> {
        self.replica(i)
            .dialogs()
            .dialog(key)
            .map(|held| &held.record)
    }

    /// Whether node `i` holds the dialog as one that goes on.
    pub fn lives(&self, i: usize, key: &DialogKey) -> bool {
        self.record(i, key).is_some_and(|record| !record.is_ended())
    }

    /// Whether all nodes hold the same, and know it.
    pub fn agrees(&self) -> bool {
        let running: Vec<_> = (0..self.count()).filter(|i| self.is_running(*i)).collect();
        let first = self.replica(running[0]).digests();
        running.iter().all(|i| {
            let status = self.node(*i).channel.status(self.now);
            self.replica(*i).digests() == first && status.divergence == 0
        })
    }

    /// Compares everything, key by key, and the sums with what they are sums of.
    pub fn check_equal(&mut self) {
        let running: Vec<_> = (0..self.count()).filter(|i| self.is_running(*i)).collect();
        let contents = |world: &Self, i: usize| {
            let replica = world.replica(i);
            let all = (0..=u8::MAX).flat_map(|partition| replica.living(partition));
            all.collect::<BTreeMap<_, _>>()
        };
        let first = contents(self, running[0]);
        for i in running {
            let own = contents(self, i);
            let differing = first
                .iter()
                .filter(|(key, hash)| own.get(key) != Some(hash));
            let missing = differing.count();
            let (seed, count) = (self.seed, first.len());
            assert!(
                own == first,
                "node {i}: {missing} of {count} differ, {} here, seed {seed}",
                own.len()
            );
            assert_eq!(self.node_mut(i).replica.verify(), 0, "seed {seed}");
        }
    }

    /// Runs until all agree; returns how long that took.
    pub fn run_until_agreed(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while !self.agrees() {
            let took = self.now - start;
            assert!(
                took < limit,
                "no agreement in {took:?}: {}",
                self.describe()
            );
            self.run(ms(100));
        }
        self.now - start
    }

    pub fn describe(&self) -> String {
        let mut text = format!("seed {}", self.seed);
        for i in (0..self.count()).filter(|i| self.is_running(*i)) {
            let status = self.node(i).channel.status(self.now);
            let root = self.replica(i).digests().root() as u16;
            text += &format!(
                "\nnode {i} root {root:04x} {:?}",
                self.node(i).channel.counters()
            );
            for node in status.nodes {
                text += &format!("\n  {node:?}");
            }
        }
        text
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
        self.measure();
    }

    fn measure(&mut self) {
        let running: Vec<_> = (0..self.count()).filter(|i| self.is_running(*i)).collect();
        for i in running {
            for status in self.node(i).channel.status(self.now).nodes {
                self.largest_dirty = self.largest_dirty.max(status.dirty);
                self.largest_in_flight = self.largest_in_flight.max(status.in_flight);
            }
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let timers = self.places.iter().filter_map(|place| place.due);
        let first = self.in_flight.keys().next();
        timers.chain(first.map(|(at, _)| *at)).min()
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
            if self.places[i].due.is_none_or(|at| at > self.now) {
                continue;
            }
            let now = self.time(i);
            match &mut self.places[i].running {
                Running::Nothing => {}
                Running::Tandem(node) => node.handle_timeout(now),
                Running::Stock(bus, _) => bus.handle_timeout(now.monotonic),
            }
            self.settle(i);
            assert!(
                self.places[i].due.is_none_or(|at| at > self.now),
                "a timer stays due: {}",
                self.describe()
            );
        }
    }

    fn deliver(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let now = self.time(to);
        let source = address(from);
        let mut index = Index::new();
        let message = Message::parse(bytes, &mut index).unwrap();
        match &mut self.places[to].running {
            Running::Nothing => return,
            Running::Stock(bus, heard) => {
                if let Some(delivery) = bus.handle_message(now.monotonic, source, &message) {
                    heard.push((delivery.channel.to_owned(), delivery.body.to_vec()));
                    bus.reply(now.monotonic, source, &message, 404);
                }
            }
            Running::Tandem(node) => {
                let Node {
                    replica,
                    channel,
                    bus,
                    ..
                } = &mut **node;
                if let Some(delivery) = bus.handle_message(now.monotonic, source, &message) {
                    assert_eq!(delivery.channel, "tandem");
                    let status = channel.handle(now, replica, delivery.node, delivery.body);
                    assert!(matches!(status, 200 | 202), "{status}");
                    bus.reply(now.monotonic, source, &message, status);
                }
            }
        }
        self.settle(to);
    }

    /// Lets the parts of node `i` hear of each other, and puts on the network what it sends.
    fn settle(&mut self, i: usize) {
        let now = self.time(i);
        let bus = match &mut self.places[i].running {
            Running::Nothing => return,
            Running::Stock(bus, _) => {
                while bus.poll_event().is_some() {}
                bus
            }
            Running::Tandem(node) => {
                node.settle(now);
                &mut node.bus
            }
        };
        let outbox = bus.outbox();
        let sent: Vec<_> = outbox
            .iter()
            .map(|transmit| (transmit.destination, transmit.bytes.to_vec()))
            .collect();
        outbox.clear();
        for (destination, bytes) in sent {
            let to = (0..self.places.len()).find(|to| address(*to) == destination);
            if let Some(to) = to
                && is_digest(&bytes)
            {
                *self.digests.entry((i.min(to), i.max(to))).or_default() +=
                    bytes.len() as u64 + ANSWER_BYTES;
            }
            let is_lost = self.rng.random_range(0..10_000) < self.loss;
            let Some(to) = to.filter(|to| !is_lost && !self.cut.contains(&(i, *to))) else {
                continue;
            };
            let delay = Duration::from_micros(self.rng.random_range(self.delay.clone()));
            self.datagrams += 1;
            let key = (self.now + delay, self.datagrams);
            self.in_flight.insert(key, (i, to, bytes));
        }
        self.places[i].due = match &self.places[i].running {
            Running::Nothing => None,
            Running::Stock(bus, _) => bus.poll_timeout(),
            Running::Tandem(node) => node.poll_timeout(),
        };
    }

    /// Nothing that waits has outgrown its limit.
    pub fn check_bounds(&self) {
        assert!(self.largest_dirty <= 2 * PENDING_MAX);
        assert!(self.largest_in_flight <= WINDOW * replication::tandem::RECORDS_MAX);
        for i in (0..self.count()).filter(|i| self.is_running(*i)) {
            let counters = self.node(i).channel.counters();
            assert_eq!(
                counters.queue_dropped,
                0,
                "more than {QUEUE_MAX}: {}",
                self.describe()
            );
        }
    }
}

impl Node {
    fn poll_timeout(&self) -> Option<Instant> {
        let parts = [
            self.bus.poll_timeout(),
            self.replica.poll_timeout(),
            self.channel.poll_timeout(),
        ];
        parts.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.bus.handle_timeout(now.monotonic);
        self.replica.handle_timeout(now);
        self.channel.handle_timeout(now, &mut self.replica);
    }

    fn settle(&mut self, now: Now) {
        while let Some(event) = self.bus.poll_event() {
            let (channel, replica) = (&mut self.channel, &mut self.replica);
            match event {
                Event::NodeUp { node } => channel.node_up(now, node),
                Event::NodeDown { node } => channel.node_down(now, replica, node),
                Event::Listed { .. } => {}
                Event::NodeRemoved { node } => channel.node_removed(now, node),
                Event::Answered {
                    node,
                    request,
                    status,
                    ..
                } => channel.answered(now, replica, node, request, status),
            }
        }
        while let Some(change) = self.replica.poll_change() {
            self.channel.note(now, &change);
            self.changes.push(change);
        }
        self.channel.run(now, &mut self.replica, &mut self.bus);
        assert_eq!(self.bus.poll_event(), None, "sending causes no event");
    }
}
