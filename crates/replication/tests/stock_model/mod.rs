//! A Kamailio node as others see it, and a network of some of them with one node of ours.
//!
//! The model executes what it is told as PROTOCOL 4, 5.4 and 8 say of 5.6.3 and of 6.2: by two workers
//! that change the order of what comes close together, without regard to retransmissions, and with a
//! line in its log for whatever Kamailio logs an ERROR or CRITICAL for.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    reason = "a failed unwrap is a failed test; each test takes what it needs of this"
)]

pub mod cell;
pub mod kamailio;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dmq::{Bus, BusConfig, Event};
use dmq_bodies::{DialogMessage, TableMessage};
use element::FlowId;
use htable::{Definition, Value};
use kamailio::{Kamailio, Version};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replication::stock::Channel;
use replication::{
    Cause, Change, DialogKey, DialogsConfig, EntryKey, LegSeen, Now, Observation, Observed, Origin,
    Replica,
};
use sip_types::{Index, Message};

/// The wall clock at the beginning of every test, milliseconds since 1970.
pub const WALL: u64 = 1_795_420_000_000;
pub const HASH_SIZE: u32 = 4096;
/// The table that expires, and its lifetime in seconds.
pub const SHORT: &str = "short";
pub const SHORT_SECONDS: u64 = 600;
/// The table that does not.
pub const LONG: &str = "long";

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn ours() -> SocketAddr {
    "10.0.0.1:5062".parse().unwrap()
}

/// The address of Kamailio `i`.
pub fn stock(i: usize) -> SocketAddr {
    format!("10.0.0.{}:5060", i + 2).parse().unwrap()
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
pub fn origin() -> Instant {
    Instant::now()
}

pub fn with_message<T>(bytes: &[u8], read: impl FnOnce(&Message<'_>) -> T) -> T {
    let mut index = Index::new();
    let message = Message::parse(bytes, &mut index).unwrap();
    read(&message)
}

pub fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

pub fn entry(table: &str, key: &str) -> EntryKey {
    EntryKey {
        table: Bytes::copy_from_slice(table.as_bytes()),
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

pub fn definitions() -> [Definition; 2] {
    [
        Definition {
            replicate: true,
            autoexpire: Some(Duration::from_secs(SHORT_SECONDS)),
            ..Definition::new(SHORT)
        },
        Definition {
            replicate: true,
            ..Definition::new(LONG)
        },
    ]
}

/// What was said first to a Kamailio, repeats left out.
#[derive(Clone, Debug)]
pub struct Said {
    pub at: Instant,
    pub to: SocketAddr,
    pub channel: String,
    pub body: Vec<u8>,
}

impl Said {
    /// In one word: `UPDATE(1)`, `STATE(4)`, `RM`, `SET k`, ...
    pub fn word(&self) -> String {
        let name = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        if self.channel == "dialog" {
            return match DialogMessage::decode(&self.body).unwrap() {
                DialogMessage::None => "NONE".to_owned(),
                DialogMessage::Update(update) => format!("UPDATE({})", update.state as u8),
                DialogMessage::State(change) => format!("STATE({})", change.change.state() as u8),
                DialogMessage::Remove(_) => "RM".to_owned(),
                DialogMessage::Sync => "SYNC".to_owned(),
            };
        }
        match TableMessage::decode(&self.body).unwrap().0 {
            TableMessage::Sync { .. } => "SYNC".to_owned(),
            TableMessage::Set { key, .. } => format!("SET {}", name(&key)),
            TableMessage::SetExpire { key, seconds, .. } => {
                format!("SET_EXPIRE {} {seconds}", name(&key))
            }
            TableMessage::Delete { key, .. } => format!("DELETE {}", name(&key)),
            TableMessage::RemoveMatching { .. } => "RM_*".to_owned(),
            TableMessage::Cells(cells) => format!("CELLS {}", cells.len()),
        }
    }

    /// The `last_modified` of a message about a dialog, in seconds, or of a SET, in milliseconds.
    pub fn last_modified(&self) -> Option<u64> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["last_modified"].as_u64()
    }
}

/// One node of ours.
pub struct Ours {
    pub bus: Bus,
    pub replica: Replica,
    pub channel: Channel,
    pub changes: Vec<Change>,
}

/// One node of ours, some Kamailios, a network and one clock: everything random comes of one seed.
pub struct World {
    pub seed: u64,
    pub start: Instant,
    pub now: Instant,
    pub ours: Ours,
    pub kamailios: Vec<Kamailio>,
    pub said: Vec<Said>,
    /// Of ten thousand datagrams.
    pub loss: u32,
    /// Nodes that nobody hears and that hear nobody.
    pub cut: BTreeSet<SocketAddr>,
    /// A wall clock that does not move.
    pub wall_stands_at: Option<u64>,
    rng: SmallRng,
    network: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    datagrams: u64,
    requests_seen: BTreeSet<Vec<u8>>,
}

impl World {
    /// Kamailios of these versions, none of them heard of yet.
    pub fn new(seed: u64, versions: &[Version]) -> Self {
        let start = origin();
        let mut bus = Bus::new(BusConfig::new(ours(), FlowId(0)), seed);
        let addresses: Vec<_> = (0..versions.len()).map(stock).collect();
        bus.set_allowed(start, addresses.iter().copied(), Vec::new());
        let mut replica = Replica::new(ours(), [7; 16], DialogsConfig::default());
        for definition in definitions() {
            replica.define(definition).unwrap();
        }
        let kamailios = versions.iter().enumerate().map(|(i, version)| {
            let others = addresses.iter().copied().filter(|other| *other != stock(i));
            let nodes = others.chain([ours()]).collect();
            Kamailio::new(stock(i), *version, nodes, seed ^ (i as u64 + 1))
        });
        Self {
            seed,
            start,
            now: start,
            ours: Ours {
                bus,
                replica,
                channel: Channel::new(ours(), HASH_SIZE, seed),
                changes: Vec::new(),
            },
            kamailios: kamailios.collect(),
            said: Vec::new(),
            loss: 0,
            cut: BTreeSet::new(),
            wall_stands_at: None,
            rng: SmallRng::seed_from_u64(seed),
            network: BTreeMap::new(),
            datagrams: 0,
            requests_seen: BTreeSet::new(),
        }
    }

    /// The same, all of them heard of and asked, and their answers are long over.
    pub fn settled(seed: u64, versions: &[Version]) -> Self {
        let mut world = Self::new(seed, versions);
        world.join();
        world.run(ms(50_000));
        world.said.clear();
        world
    }

    pub fn join(&mut self) {
        let nodes: Vec<_> = self.kamailios.iter().map(|it| it.address).collect();
        self.ours.bus.set_notification(self.now, nodes);
        self.settle();
    }

    pub fn clock(&self) -> Now {
        let run = (self.now - self.start).as_millis() as u64;
        Now {
            monotonic: self.now,
            wall: self.wall_stands_at.unwrap_or(WALL + run),
        }
    }

    /// Changes what we hold, as this node.
    pub fn write<T>(&mut self, write: impl FnOnce(Now, &mut Replica) -> T) -> T {
        let now = self.clock();
        let done = write(now, &mut self.ours.replica);
        self.settle();
        done
    }

    pub fn set(&mut self, table: &str, key: &str, value: &str) {
        let key = entry(table, key);
        let value = text(value);
        self.write(|now, replica| replica.set(now, &key, value, Origin::Local))
            .unwrap();
    }

    pub fn delete(&mut self, table: &str, key: &str) {
        let key = entry(table, key);
        self.write(|now, replica| replica.delete(now, &key, Origin::Local))
            .unwrap();
    }

    /// Has our router see something of a call, and tells it.
    pub fn see(&mut self, call_id: &str, from_caller: bool, what: Observed) {
        let seen = observation(call_id, from_caller, what);
        self.write(|now, replica| replica.observe(now, seen));
    }

    /// Has our router see something of a dialog that a Kamailio made.
    pub fn see_as(&mut self, key: &DialogKey, what: Observed) {
        let seen = Observation {
            call_id: key.call_id.as_ref().into(),
            h_id: Some(key.h_id),
            from_tag: (*b"caller").into(),
            to_tag: (*b"callee").into(),
            what,
        };
        self.write(|now, replica| replica.observe(now, seen));
    }

    pub fn invite(&mut self, call_id: &str) {
        self.see(call_id, true, invited());
    }

    pub fn ring(&mut self, call_id: &str) {
        // A response has the tags of its request.
        self.see(call_id, true, Observed::Rang(leg(0, "sip:bob@10.9.0.2")));
    }

    pub fn answer(&mut self, call_id: &str) {
        self.see(
            call_id,
            true,
            Observed::Answered(leg(0, "sip:bob@10.9.0.2")),
        );
    }

    pub fn ack(&mut self, call_id: &str) {
        self.see(call_id, true, Observed::Acked);
    }

    pub fn bye(&mut self, call_id: &str) {
        self.see(call_id, true, Observed::Ended(Cause::Bye));
    }

    /// A call that goes on, with time between its messages.
    pub fn call(&mut self, call_id: &str) {
        self.invite(call_id);
        self.run(ms(100));
        self.ring(call_id);
        self.run(ms(100));
        self.answer(call_id);
        self.ack(call_id);
        self.run(ms(100));
    }

    /// What was told Kamailio `i`, word by word.
    pub fn words(&self, i: usize) -> Vec<String> {
        let said = self.said.iter().filter(|said| said.to == stock(i));
        let words = said.map(Said::word);
        words.filter(|word| word != "SYNC").collect()
    }

    /// How often Kamailio `i` was asked for everything.
    pub fn asked(&self, i: usize) -> usize {
        let said = self.said.iter().filter(|said| said.to == stock(i));
        said.filter(|said| said.word() == "SYNC").count()
    }

    /// Has Kamailio `i` do something and sends what comes of it.
    pub fn kamailio<T>(&mut self, i: usize, act: impl FnOnce(Now, &mut Kamailio) -> T) -> T {
        let now = self.clock();
        let done = act(now, &mut self.kamailios[i]);
        self.settle();
        done
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
        let ours = [
            self.ours.bus.poll_timeout(),
            self.ours.replica.poll_timeout(),
            self.ours.channel.poll_timeout(),
        ];
        let network = self.network.keys().next().map(|(at, _)| *at);
        let kamailios = self.kamailios.iter().filter_map(Kamailio::poll_timeout);
        ours.into_iter()
            .flatten()
            .chain(network)
            .chain(kamailios)
            .min()
    }

    fn step(&mut self) {
        while let Some(datagram) = self
            .network
            .first_entry()
            .filter(|it| it.key().0 <= self.now)
        {
            let (from, to, bytes) = datagram.remove();
            self.deliver(from, to, &bytes);
        }
        let now = self.clock();
        for kamailio in &mut self.kamailios {
            kamailio.run(now);
        }
        let ours = &mut self.ours;
        ours.bus.handle_timeout(now.monotonic);
        ours.replica.handle_timeout(now);
        ours.channel.handle_timeout(now, &mut ours.replica);
        self.settle();
        let due = self.ours.channel.poll_timeout();
        assert!(
            due.is_none_or(|at| at > self.now),
            "a timer stays due, seed {}",
            self.seed
        );
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.cut.contains(&from) || self.cut.contains(&to) {
            return;
        }
        let now = self.clock();
        if let Some(kamailio) = self.kamailios.iter_mut().find(|it| it.address == to) {
            kamailio.receive(now, from, bytes);
            return;
        }
        let ours = &mut self.ours;
        with_message(bytes, |message| {
            let Some(delivery) = ours.bus.handle_message(now.monotonic, from, message) else {
                return;
            };
            let (channel, body) = (delivery.channel, delivery.body);
            let replica = &mut ours.replica;
            let status = ours
                .channel
                .handle(now, replica, delivery.node, channel, body);
            ours.bus.reply(now.monotonic, from, message, status);
        });
        self.settle();
    }

    /// Lets every part of our node act on the others, and puts on the network what anybody sends.
    fn settle(&mut self) {
        let now = self.clock();
        let node = &mut self.ours;
        while let Some(event) = node.bus.poll_event() {
            let (channel, replica) = (&mut node.channel, &mut node.replica);
            match event {
                Event::NodeUp { node } => channel.node_up(now, replica, node),
                Event::NodeDown { node } => channel.node_down(now, node),
                Event::Listed { node } => channel.node_lists_us(now, node),
                Event::NodeRemoved { node } => channel.node_removed(now, node),
                Event::Answered {
                    node,
                    request,
                    status,
                    ..
                } => channel.answered(now, replica, node, request, status),
            }
        }
        while let Some(change) = node.replica.poll_change() {
            node.channel.note(now, &node.replica, &change);
            node.changes.push(change);
        }
        while let Some(key) = node.replica.poll_inherited() {
            node.channel.note_inherited(now, &key);
        }
        node.channel.run(now, &mut node.replica, &mut node.bus);
        let outbox = node.bus.outbox();
        let mut sent: Vec<_> = outbox
            .iter()
            .map(|transmit| (ours(), transmit.destination, transmit.bytes.to_vec()))
            .collect();
        outbox.clear();
        for (_, to, bytes) in &sent {
            self.note_said(*to, bytes);
        }
        for kamailio in &mut self.kamailios {
            let from = kamailio.address;
            let out = kamailio.outbox.drain(..);
            sent.extend(out.map(|(to, bytes)| (from, to, bytes)));
        }
        for (from, to, bytes) in sent {
            if self.rng.random_range(0..10_000) < self.loss {
                continue;
            }
            let delay = Duration::from_micros(self.rng.random_range(200..2_000));
            self.datagrams += 1;
            let slot = (self.now + delay, self.datagrams);
            self.network.insert(slot, (from, to, bytes));
        }
    }

    fn note_said(&mut self, to: SocketAddr, bytes: &[u8]) {
        let said = with_message(bytes, |message| {
            let is_new = message.is_request() && !self.requests_seen.contains(message.call_id());
            let uri = sip_types::Uri::parse(message.request_uri()).ok()?;
            let channel = String::from_utf8_lossy(uri.user?).into_owned();
            if !is_new || channel == dmq::NOTIFICATION_CHANNEL {
                return None;
            }
            self.requests_seen.insert(message.call_id().to_vec());
            rules::check(&channel, message.body());
            Some(Said {
                at: self.now,
                to,
                channel,
                body: message.body().to_vec(),
            })
        });
        self.said.extend(said);
    }
}

pub fn leg(cseq: u32, contact: &str) -> LegSeen {
    LegSeen {
        cseq,
        contact: contact.as_bytes().into(),
        route_set: Box::default(),
    }
}

/// What a router sees of a call of ours.
pub fn observation(call_id: &str, from_caller: bool, what: Observed) -> Observation {
    let tags = match from_caller {
        true => ("caller", "callee"),
        false => ("callee", "caller"),
    };
    let to_tag = match what {
        Observed::Invited { .. } => "",
        _ => tags.1,
    };
    Observation {
        call_id: call_id.as_bytes().into(),
        h_id: Some(h_id(call_id)),
        from_tag: tags.0.as_bytes().into(),
        to_tag: to_tag.as_bytes().into(),
        what,
    }
}

pub fn invited() -> Observed {
    Observed::Invited {
        from_uri: (*b"sip:alice@lab.example").into(),
        to_uri: (*b"sip:bob@lab.example").into(),
        request_uri: (*b"sip:bob@10.9.0.2").into(),
        caller: leg(1, "sip:alice@10.9.0.1"),
    }
}

/// The number of a call of ours: of the upper half, as our numbers are.
pub fn h_id(call_id: &str) -> u32 {
    let sum = call_id
        .bytes()
        .fold(7u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
    sum | 1 << 31
}

pub fn key(call_id: &str) -> DialogKey {
    DialogKey {
        call_id: call_id.as_bytes().into(),
        h_id: h_id(call_id),
    }
}
