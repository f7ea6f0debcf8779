//! This node's end of the channel `tandem`.
//!
//! Who is a Tandem node is asked of everybody on the bus; a Kamailio answers 404 and logs nothing.
//! Nobody else is told anything. A record received is merged, and told to nobody: whoever wrote it
//! tells everybody itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmq::{Bus, RequestId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::convert;
use super::link::{Link, Peer, Said};
use super::messages::{BodyError, Content, Hello, NODE_ID_BYTES_MAX, RECORDS_MAX, Records, decode};
use super::repair::{Pulls, Repair};
use super::status::{Counters, Kind, Status};
use crate::change::{Change, Key, Origin, Record};
use crate::clock::Now;
use crate::lag::Lag;
use crate::record::{Cause, DialogState, End};
use crate::replica::Replica;

/// Between two rounds with one node, lengthened by up to a tenth at random.
const ROUND: Duration = Duration::from_secs(1);

/// When nobody has answered after so long, there is nobody.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// After so long this node is ready although it may lack something.
const DEGRADED_AFTER: Duration = Duration::from_secs(10);

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloData {
    /// Its id in the registry, at most [`NODE_ID_BYTES_MAX`].
    pub node_id: String,
    /// Which start of it this is.
    pub incarnation: u64,
    /// How many slots Kamailio's dialog hash has here.
    pub hash_size: u32,
}

/// The channel to all Tandem nodes of a cell.
///
/// After any call that takes `now`: pass on with [`Channel::note`] what [`Replica::poll_change`] says,
/// then call [`Channel::run`], then come back at [`Channel::poll_timeout`].
#[derive(Debug)]
pub struct Channel {
    own: SocketAddr,
    hello: HelloData,
    started: Now,
    links: BTreeMap<SocketAddr, Link>,
    pulls: Pulls,
    lag: Lag,
    counters: Counters,
    rng: SmallRng,
    is_ready: bool,
    is_degraded: bool,
}

impl Channel {
    /// Creates the channel of a node that starts now and whose DMQ address is `own`.
    #[must_use]
    pub fn new(now: Now, hello: HelloData, own: SocketAddr, seed: u64) -> Self {
        Self {
            own,
            hello,
            started: now,
            links: BTreeMap::new(),
            pulls: Pulls::default(),
            lag: Lag::default(),
            counters: Counters::default(),
            rng: SmallRng::seed_from_u64(seed),
            is_ready: false,
            is_degraded: false,
        }
    }

    /// The bus reaches a node.
    pub fn node_up(&mut self, now: Now, node: SocketAddr) {
        if let Some(link) = self.link(now, node) {
            link.handle_up(now.monotonic);
        }
    }

    /// The bus does not reach a node any more.
    pub fn node_down(&mut self, now: Now, replica: &mut Replica, node: SocketAddr) {
        self.pulls.forget(node);
        if let Some(link) = self.links.get_mut(&node) {
            link.handle_down();
        }
        replica.handle_lost(now.monotonic, node);
    }

    /// A node is no longer on the bus.
    pub fn node_removed(&mut self, _now: Now, node: SocketAddr) {
        self.pulls.forget(node);
        self.links.remove(&node);
    }

    /// Returns what runs at an address.
    #[must_use]
    pub fn kind(&self, node: SocketAddr) -> Kind {
        self.links
            .get(&node)
            .map_or(Kind::Unknown, |link| link.kind)
    }

    /// A node has spoken as a Kamailio does: it may have become one.
    pub(crate) fn doubt(&mut self, now: Now, node: SocketAddr) {
        if let Some(link) = self.link(now, node) {
            link.doubt(now.monotonic);
        }
    }

    /// Takes note of a change: what this node wrote is told to every Tandem node.
    pub fn note(&mut self, now: Now, change: &Change) {
        if change.origin != Origin::Local {
            return;
        }
        for link in self.links.values_mut().filter(|link| link.is_tandem()) {
            self.counters.pending_dropped += u64::from(!link.change(now.monotonic, &change.key));
        }
    }

    /// Takes a body that came from a node on this channel; returns the status to answer with.
    pub fn handle(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        body: &[u8],
    ) -> u16 {
        let status = match decode(body) {
            Ok(content) => self.handle_content(now, replica, node, content),
            Err(BodyError::Schema(_)) => {
                self.counters.schema_refused += 1;
                return 400;
            }
            Err(BodyError::Unreadable(_) | BodyError::Nothing | BodyError::Record(_)) => 400,
        };
        self.counters.malformed += u64::from(status == 400);
        status
    }

    fn handle_content(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        content: Content,
    ) -> u16 {
        let Some(link) = self.link(now, node) else {
            return 500;
        };
        link.handle_word(now.monotonic);
        if let Content::Hello(hello) = content {
            return self.handle_hello(now, replica, node, hello);
        }
        if let Content::Records(records) = content {
            return self.handle_records(now, replica, node, records);
        }
        // Of two nodes the one with the lower address drives.
        let is_driver = self.own < node;
        let Some(mut repair) = self.repair(now, replica, node) else {
            return 500;
        };
        match content {
            Content::Root(root) if !is_driver => repair.handle_root(&root),
            Content::Partitions(sums) if !is_driver => repair.handle_partitions(&sums),
            Content::Keys(keys) if is_driver => repair.handle_keys(&keys),
            Content::Offer(offer) if !is_driver => repair.handle_offer(&offer),
            Content::Pull(pull) => repair.handle_pull(&pull),
            Content::Root(_)
            | Content::Partitions(_)
            | Content::Keys(_)
            | Content::Offer(_)
            | Content::Hello(_)
            | Content::Records(_) => 400,
        }
    }

    fn handle_hello(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        hello: Hello,
    ) -> u16 {
        if hello.node_id.len() > NODE_ID_BYTES_MAX {
            return 400;
        }
        let differs = hello.hash_size != self.hello.hash_size;
        self.counters.hash_size_differs += u64::from(differs);
        let peer = Peer {
            node_id: hello.node_id,
            incarnation: hello.incarnation,
            hash_size: hello.hash_size,
        };
        if let Some(link) = self.links.get_mut(&node)
            && link.handle_peer(now.monotonic, peer)
        {
            self.pulls.forget(node);
            replica.handle_lost(now.monotonic, node);
        }
        200
    }

    /// Merges all records of a body, or none.
    fn handle_records(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        records: Records,
    ) -> u16 {
        if records.records.len() > RECORDS_MAX {
            return 400;
        }
        let records = records.records.into_iter().map(convert::from_wire);
        let Ok(records) = records.collect::<Result<Vec<_>, _>>() else {
            return 400;
        };
        self.pulls.handle_records(now.monotonic, node);
        for (key, record) in records {
            self.merge(now, replica, node, &key, record);
        }
        200
    }

    fn merge(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        key: &Key,
        mut record: Record,
    ) {
        self.counters.records_received += 1;
        let origin = match self.disown(now, replica, key, &mut record) {
            true => Origin::Local,
            false => Origin::Tandem(node),
        };
        let is_alive = match &record {
            Record::Dialog(record, _) => !record.is_ended(),
            Record::Entry(record) => record.value.is_some(),
        };
        let slot = (replica.partition(key), replica.key_hash(key));
        let is_news = is_alive && matches!(key, Key::Entry(_));
        let is_united = is_news
            && self.is_ready
            && self.pulls.is_asked(now.monotonic, slot)
            && replica.record(now.monotonic, key).is_none();
        self.counters.united += u64::from(is_united);
        let merged = replica.merge(now, key, record, origin);
        self.counters.records_taken += u64::from(merged == Ok(true));
        // A write that we know to be over counts as held; one that finds no place does not.
        let is_held = !is_alive || replica.record(now.monotonic, key).is_some();
        self.counters.records_refused += u64::from(!is_held);
        self.pulls.handle_record(now.monotonic, slot, is_held);
    }

    /// Ends a dialog that is said to be ours and that we do not hold: the word of a living owner is
    /// final. One from before our start is taken back instead: we have lost our memory.
    fn disown(&mut self, now: Now, replica: &Replica, key: &Key, record: &mut Record) -> bool {
        let (Key::Dialog(key), Record::Dialog(record, _)) = (key, record) else {
            return false;
        };
        let is_ours = record.ownership.owner == self.own;
        if !is_ours || record.is_ended() || replica.dialogs().dialog(key).is_some() {
            return false;
        }
        // Not the wall clock of our start: that one may have been wrong.
        let age = now
            .monotonic
            .saturating_duration_since(self.started.monotonic);
        let began = now.wall_seconds().saturating_sub(age.as_secs());
        let lived = began + 1..=now.wall_seconds();
        if !lived.contains(&record.created) {
            self.counters.taken_back += 1;
            return false;
        }
        self.counters.disowned += 1;
        record.state = DialogState::Ended;
        record.end = Some(End {
            at: now.wall_seconds(),
            cause: match record.answered {
                0 => Cause::Failed,
                _ => Cause::Expired,
            },
        });
        true
    }

    /// A request that `run` handed to the bus is done.
    pub fn answered(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        request: RequestId,
        status: u16,
    ) {
        let Some(link) = self.links.get_mut(&node) else {
            return;
        };
        let Some(said) = link.handle_answer(request, status) else {
            return;
        };
        if said == Said::Hello || status == 404 {
            let was_tandem = link.is_tandem();
            link.handle_hello_answer(now.monotonic, status);
            if link.is_tandem() {
                replica.handle_up(node);
            } else {
                self.pulls.forget(node);
                if was_tandem {
                    replica.handle_lost(now.monotonic, node);
                }
            }
            return;
        }
        self.counters.refused += u64::from(!matches!(status, 200 | 202 | 408));
        match said {
            Said::Records {
                since: Some(since), ..
            } if status == 200 => {
                self.lag
                    .note(now.monotonic.saturating_duration_since(since));
            }
            Said::Root(round) => {
                if let Some(mut repair) = self.repair(now, replica, node) {
                    repair.handle_root_answer(round, status);
                }
            }
            Said::Hello | Said::Records { .. } | Said::Other => {}
        }
    }

    /// Hands to the bus what may be sent now.
    pub fn run(&mut self, now: Now, replica: &mut Replica, bus: &mut Bus) {
        let hello = || {
            Content::Hello(Hello {
                node_id: self.hello.node_id.clone(),
                incarnation: self.hello.incarnation,
                hash_size: self.hello.hash_size,
            })
        };
        for link in self.links.values_mut() {
            link.run(now, hello, replica, bus, &mut self.counters);
        }
        self.judge_readiness(now.monotonic, replica);
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Now, replica: &mut Replica) {
        for node in self.due(now.monotonic) {
            let extra = self.rng.random_range(0.0..0.1);
            let next = now.monotonic + ROUND + ROUND.mul_f64(extra);
            if let Some(mut repair) = self.repair(now, replica, node) {
                repair.begin(next);
            }
        }
    }

    /// Returns the nodes with which a round is due.
    fn due(&self, now: Instant) -> Vec<SocketAddr> {
        let rounds = self.rounds();
        rounds
            .filter(|(_, at)| *at <= now)
            .map(|(node, _)| node)
            .collect()
    }

    /// Returns when the next round is due with each node with which we drive them.
    fn rounds(&self) -> impl Iterator<Item = (SocketAddr, Instant)> {
        let links = self.links.values().filter(|link| link.is_tandem());
        links
            .filter(|link| self.own < link.address)
            .filter_map(|link| Some((link.address, link.pair.round_at()?)))
    }

    /// Returns when `handle_timeout` and `run` are due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rounds = self.rounds().map(|(_, at)| at);
        let links = self.links.values().filter_map(Link::poll_timeout);
        rounds.chain(links).chain(self.readiness_at()).min()
    }

    /// Tells whether this node knows what its cell knows, or cannot find out.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Returns how things stand.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let links = self.links.values();
        let nodes: Vec<_> = links
            .map(|link| link.status(now, self.hello.hash_size))
            .collect();
        let up = || nodes.iter().filter(|node| node.is_up);
        Status {
            ready: self.is_ready,
            degraded: self.is_degraded,
            hash_size_differs: up().any(|node| node.hash_size_differs),
            divergence: up().map(|node| node.divergence).sum(),
            verify_age: up().filter_map(|node| node.verify_age).max(),
            lag: self.lag.clone(),
            nodes,
        }
    }

    /// Returns what was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Decides whether this node has what the others had when it came.
    fn judge_readiness(&mut self, now: Instant, replica: &mut Replica) {
        if self.is_ready && !self.is_degraded {
            return;
        }
        let is_synced = |link: &Link| link.is_tandem() && link.pair.is_synced;
        let reached = self.links.values().filter(|link| link.is_tandem());
        let all_reached = reached.clone().all(|link| link.pair.is_synced);
        self.is_degraded &= !all_reached;
        if self.is_ready {
            return;
        }
        let age = now.saturating_duration_since(self.started.monotonic);
        let synced: BTreeSet<SocketAddr> = self
            .links
            .values()
            .filter(|link| is_synced(link))
            .map(|link| link.address)
            .collect();
        let all_members = replica.members().all(|member| synced.contains(&member));
        // With no other member there is nobody to ask.
        if all_members || all_reached && age >= ALONE_AFTER {
            self.is_ready = true;
        } else if age >= DEGRADED_AFTER {
            self.is_ready = true;
            self.is_degraded = true;
        }
        if self.is_ready {
            replica.handle_all_up();
        }
    }

    /// Returns when readiness is decided for want of news.
    fn readiness_at(&self) -> Option<Instant> {
        let started = self.started.monotonic;
        let all = self.links.values().filter(|link| link.is_tandem());
        let after = match all.clone().all(|link| link.pair.is_synced) {
            true => ALONE_AFTER,
            false => DEGRADED_AFTER,
        };
        (!self.is_ready).then_some(started + after)
    }

    fn link(&mut self, now: Now, node: SocketAddr) -> Option<&mut Link> {
        let has_room = self.links.len() < dmq::NODES_MAX || self.links.contains_key(&node);
        if !has_room {
            self.counters.nodes_refused += 1;
            return None;
        }
        let new = || Link::new(now.monotonic, node);
        Some(self.links.entry(node).or_insert_with(new))
    }

    fn repair<'a>(
        &'a mut self,
        now: Now,
        replica: &'a mut Replica,
        node: SocketAddr,
    ) -> Option<Repair<'a>> {
        Some(Repair {
            now,
            replica,
            link: self.links.get_mut(&node)?,
            pulls: &mut self.pulls,
            counters: &mut self.counters,
        })
    }
}
