//! A cell of whole routers and Kamailios, of which each may take the place of another at one address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use element::FlowId;
use htable::Value;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replication::{
    CellConfig, DialogsConfig, Now, Observed, Origin, Replica, Replication, ReplicationConfig,
};

use super::kamailio::{Kamailio, Version};
use super::{
    HASH_SIZE, Said, WALL, definitions, entry, ms, observation, origin, rules, text, with_message,
};

/// The address of place `i`.
pub fn address(i: usize) -> SocketAddr {
    format!("10.0.0.{}:5060", i + 1).parse().unwrap()
}

/// What runs at an address.
enum Running {
    Nothing,
    Tandem(Box<Replication>),
    Stock(Box<Kamailio>),
}

/// Places 0, 1, 2, ... of one cell and one clock: everything random comes of one seed.
pub struct Cell {
    pub seed: u64,
    pub now: Instant,
    start: Instant,
    places: Vec<Running>,
    /// What the registry says of them.
    members: BTreeSet<usize>,
    stock: BTreeSet<usize>,
    /// What Tandem nodes said first on Kamailio's channels, with who said it.
    pub said: Vec<(usize, Said)>,
    /// When anything was sent there, repeats included.
    pub sent: Vec<(Instant, usize, usize)>,
    /// Of ten thousand datagrams.
    pub loss: u32,
    /// Places that nobody hears and that hear nobody.
    pub cut: BTreeSet<usize>,
    rng: SmallRng,
    network: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    datagrams: u64,
    lives: u64,
    requests_seen: BTreeSet<Vec<u8>>,
}

impl Cell {
    /// Places where nothing runs.
    pub fn new(seed: u64, count: usize) -> Self {
        let start = origin();
        Self {
            seed,
            now: start,
            start,
            places: (0..count).map(|_| Running::Nothing).collect(),
            members: BTreeSet::new(),
            stock: BTreeSet::new(),
            said: Vec::new(),
            sent: Vec::new(),
            loss: 0,
            cut: BTreeSet::new(),
            rng: SmallRng::seed_from_u64(seed),
            network: BTreeMap::new(),
            datagrams: 0,
            lives: 0,
            requests_seen: BTreeSet::new(),
        }
    }

    /// Two Tandem nodes and after them Kamailios, all of them settled.
    pub fn settled(seed: u64, versions: &[Version]) -> Self {
        let mut cell = Self::new(seed, 2 + versions.len());
        for (i, version) in versions.iter().enumerate() {
            cell.start_stock(2 + i, *version);
        }
        cell.start_tandem(0);
        cell.start_tandem(1);
        cell.run(ms(20_000));
        cell.said.clear();
        cell
    }

    pub fn clock(&self) -> Now {
        let run = (self.now - self.start).as_millis() as u64;
        Now {
            monotonic: self.now,
            wall: WALL + run,
        }
    }

    /// Starts a Tandem node with nothing in memory; instead of what ran there.
    pub fn start_tandem(&mut self, i: usize) {
        self.lives += 1;
        let config = ReplicationConfig {
            own: address(i),
            flow: FlowId(0),
            node_id: format!("node-{i}"),
            incarnation: self.lives,
            cell_key: [7; 16],
            hash_size: HASH_SIZE,
            dialogs: DialogsConfig::default(),
        };
        let node = Replication::new(self.clock(), config, self.seed ^ self.lives << 32);
        self.places[i] = Running::Tandem(Box::new(node));
        self.members.insert(i);
        self.configure();
    }

    /// Starts a Kamailio with nothing in memory; instead of what ran there.
    pub fn start_stock(&mut self, i: usize, version: Version) {
        self.lives += 1;
        let others = (0..self.places.len()).filter(|other| *other != i);
        let others = others.map(address).collect();
        let kamailio = Kamailio::new(address(i), version, others, self.seed ^ self.lives);
        self.places[i] = Running::Stock(Box::new(kamailio));
        self.stock.insert(i);
        self.configure();
    }

    pub fn stop(&mut self, i: usize) {
        self.places[i] = Running::Nothing;
    }

    fn configure(&mut self) {
        let now = self.clock();
        let addresses = |places: &BTreeSet<usize>| places.iter().copied().map(address).collect();
        let config = CellConfig {
            members: addresses(&self.members),
            stock_nodes: addresses(&self.stock),
            tables: definitions().to_vec(),
            ..CellConfig::default()
        };
        for place in &mut self.places {
            if let Running::Tandem(node) = place {
                assert!(node.configure(now, config.clone()).is_empty());
            }
        }
        self.flush();
    }

    pub fn tandem(&self, i: usize) -> &Replication {
        match &self.places[i] {
            Running::Tandem(node) => node,
            Running::Nothing | Running::Stock(_) => panic!("no Tandem node at {i}"),
        }
    }

    pub fn kamailio(&self, i: usize) -> &Kamailio {
        match &self.places[i] {
            Running::Stock(kamailio) => kamailio,
            Running::Nothing | Running::Tandem(_) => panic!("no Kamailio at {i}"),
        }
    }

    /// Changes what a Tandem node holds, as that node.
    pub fn write<T>(&mut self, i: usize, write: impl FnOnce(Now, &mut Replica) -> T) -> T {
        let now = self.clock();
        let Running::Tandem(node) = &mut self.places[i] else {
            panic!("no Tandem node at {i}");
        };
        let done = node.write(now, |replica| write(now, replica));
        self.flush();
        done
    }

    /// Has the tables of all Kamailios compared by a Tandem node; returns what their comparisons are after it.
    pub fn repair(&mut self, i: usize) -> Vec<(SocketAddr, u64)> {
        let now = self.clock();
        let Running::Tandem(node) = &mut self.places[i] else {
            panic!("no Tandem node at {i}");
        };
        let asked = node.repair_stock(now, None);
        self.flush();
        asked
    }

    /// Has a Kamailio do something.
    pub fn act<T>(&mut self, i: usize, act: impl FnOnce(Now, &mut Kamailio) -> T) -> T {
        let now = self.clock();
        let Running::Stock(kamailio) = &mut self.places[i] else {
            panic!("no Kamailio at {i}");
        };
        let done = act(now, kamailio);
        self.flush();
        done
    }

    /// Has a router see something of a call, sent by the caller.
    pub fn see(&mut self, i: usize, call_id: &str, what: Observed) {
        let seen = observation(call_id, true, what);
        self.write(i, |now, replica| replica.observe(now, seen));
    }

    /// Sets a key, whatever runs there.
    pub fn set(&mut self, i: usize, table: &str, key: &str, value: &str) {
        if matches!(self.places[i], Running::Stock(_)) {
            return self.act(i, |now, it| it.set(now, table, key, value));
        }
        let (key, value) = (entry(table, key), text(value));
        self.write(i, |now, replica| {
            replica.set(now, &key, value, Origin::Local)
        })
        .unwrap();
    }

    /// Deletes a key, whatever runs there.
    pub fn delete(&mut self, i: usize, table: &str, key: &str) {
        if matches!(self.places[i], Running::Stock(_)) {
            return self.act(i, |now, it| it.delete(now, table, key));
        }
        let key = entry(table, key);
        self.write(i, |now, replica| replica.delete(now, &key, Origin::Local))
            .unwrap();
    }

    /// What a table holds, whatever runs there.
    pub fn values(&self, i: usize, table: &str) -> BTreeMap<Bytes, Value> {
        if let Running::Stock(kamailio) = &self.places[i] {
            return kamailio.values(table);
        }
        let tables = self.tandem(i).replica().entries().tables();
        let entries = tables.table(table.as_bytes()).unwrap().iter(self.now);
        entries
            .map(|(key, entry)| (key.clone(), entry.value.clone()))
            .collect()
    }

    pub fn value(&self, i: usize, table: &str, key: &str) -> Option<Value> {
        self.values(i, table).remove(key.as_bytes())
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.step();
        }
        self.now = end;
    }

    fn next_event(&self) -> Option<Instant> {
        let timers = self.places.iter().filter_map(|place| match place {
            Running::Nothing => None,
            Running::Tandem(node) => node.poll_timeout(),
            Running::Stock(kamailio) => kamailio.poll_timeout(),
        });
        let network = self.network.keys().next().map(|(at, _)| *at);
        timers.chain(network).min()
    }

    fn step(&mut self) {
        let now = self.clock();
        while let Some(datagram) = self
            .network
            .first_entry()
            .filter(|it| it.key().0 <= self.now)
        {
            let (from, to, bytes) = datagram.remove();
            let place = (0..self.places.len()).find(|i| address(*i) == to);
            match place.map(|i| &mut self.places[i]) {
                None | Some(Running::Nothing) => {}
                Some(Running::Stock(kamailio)) => kamailio.receive(now, address(from), &bytes),
                Some(Running::Tandem(node)) => {
                    with_message(&bytes, |it| node.handle_message(now, address(from), it));
                }
            }
            self.flush();
        }
        for place in &mut self.places {
            match place {
                Running::Nothing => {}
                Running::Stock(kamailio) => kamailio.run(now),
                Running::Tandem(node) if node.poll_timeout().is_some_and(|at| at <= self.now) => {
                    node.handle_timeout(now);
                    let due = node.poll_timeout();
                    assert!(
                        due.is_none_or(|at| at > self.now),
                        "a timer stays due, seed {}",
                        self.seed
                    );
                }
                Running::Tandem(_) => {}
            }
        }
        self.flush();
    }

    /// Puts on the network what anybody sends.
    fn flush(&mut self) {
        let mut sent = Vec::new();
        for (i, place) in self.places.iter_mut().enumerate() {
            match place {
                Running::Nothing => {}
                Running::Tandem(node) => {
                    let outbox = node.outbox();
                    let out = outbox
                        .iter()
                        .map(|it| (i, it.destination, it.bytes.to_vec()));
                    sent.extend(out);
                    outbox.clear();
                }
                Running::Stock(kamailio) => {
                    let out = kamailio.outbox.drain(..);
                    sent.extend(out.map(|(to, bytes)| (i, to, bytes)));
                }
            }
        }
        for (from, to, bytes) in sent {
            self.note_said(from, to, &bytes);
            let is_cut = self.cut.iter().any(|i| *i == from || address(*i) == to);
            if is_cut || self.rng.random_range(0..10_000) < self.loss {
                continue;
            }
            let delay = Duration::from_micros(self.rng.random_range(200..2_000));
            self.datagrams += 1;
            let slot = (self.now + delay, self.datagrams);
            self.network.insert(slot, (from, to, bytes));
        }
    }

    fn note_said(&mut self, from: usize, to: SocketAddr, bytes: &[u8]) {
        if !matches!(self.places[from], Running::Tandem(_)) {
            return;
        }
        with_message(bytes, |message| {
            let uri = sip_types::Uri::parse(message.request_uri()).ok()?;
            let channel = String::from_utf8_lossy(uri.user?).into_owned();
            if !message.is_request() || !["dialog", "htable"].contains(&channel.as_str()) {
                return None;
            }
            let place = (0..self.places.len()).find(|i| address(*i) == to)?;
            self.sent.push((self.now, from, place));
            if self.requests_seen.insert(message.call_id().to_vec()) {
                rules::check(&channel, message.body());
                let body = message.body().to_vec();
                let said = Said {
                    at: self.now,
                    to,
                    channel,
                    body,
                };
                self.said.push((from, said));
            }
            Some(())
        });
    }
}
