//! What waits for one node: keys that changed, keys that it asked for, and other bodies.
//!
//! A key that changed is told as it is when it is sent: what happens while it waits costs nothing. Of
//! each key one request is under way at most.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use dmq::{Bus, RequestId, Schedule};
use prost::Message;

use super::convert;
use super::messages::{
    BODY_BYTES_MAX, BODY_BYTES_TARGET, Content, RECORDS_MAX, Record, Records, encode,
};
use super::pair::Pair;
use super::status::{Counters, Kind, NodeStatus, Sent};
use crate::change::Key;
use crate::clock::Now;
use crate::replica::Replica;

/// Keys that wait for one node because they changed, and as many because it asked for them; what is
/// beyond is left to repair, counted.
pub const PENDING_MAX: usize = 131_072;

/// Other bodies that wait for one node; what is beyond is left to the next round, counted.
pub const QUEUE_MAX: usize = 16_384;

/// Bodies on their way to one node.
pub const WINDOW: usize = 60;

/// Of these, what repair may take.
const WINDOW_OF_REPAIR: usize = WINDOW - 12;

/// So many bodies on their way, and a body waits until it is full or one of them is answered: what changed
/// may then leave after the message that changed it.
const SMALL_BODIES_MAX: usize = 32;

/// What a record needs in its body besides itself, and a body besides its records.
const RECORD_OVERHEAD: usize = 4;
const BODY_OVERHEAD: usize = 12;

/// A node is asked who it is this often.
const HELLO_INTERVAL: Duration = Duration::from_secs(30);
/// And so long after it did not answer.
const HELLO_AGAIN: Duration = Duration::from_secs(2);

/// Who a node said that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) node_id: String,
    pub(crate) incarnation: u64,
    pub(crate) hash_size: u32,
}

/// What kind of traffic a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Digest,
    Repair,
}

/// What a request that is on its way says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Hello,
    /// The beginning of this round.
    Root(u64),
    Records {
        keys: Vec<Key>,
        /// When the first of these changes was made; `None` for what was asked for.
        since: Option<Instant>,
    },
    Other,
}

/// Keys that wait, each once, taken in turns.
#[derive(Debug, Default)]
struct Lane {
    /// With when each began to wait.
    keys: BTreeMap<Key, Instant>,
    last: Option<Key>,
    /// None of them can be sent before another comes or a request is answered.
    is_held: bool,
}

impl Lane {
    /// Returns the keys that wait, those first that come after the one taken last.
    fn in_turn(&self) -> impl Iterator<Item = (&Key, &Instant)> {
        let from = match &self.last {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let later = self.keys.range((from, Bound::Unbounded));
        let earlier = self.last.as_ref().map(|last| self.keys.range(..=last));
        later.chain(earlier.into_iter().flatten())
    }

    /// Lets a key wait; tells whether there was room.
    fn insert(&mut self, now: Instant, key: Key) -> bool {
        let has_room = self.keys.len() < PENDING_MAX || self.keys.contains_key(&key);
        if has_room {
            self.keys.entry(key).or_insert(now);
            self.is_held = false;
        }
        has_room
    }

    /// Tells whether something of it may be sent now.
    fn can_move(&self) -> bool {
        !self.is_held && !self.keys.is_empty()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Records that fit one body.
#[derive(Debug, Default)]
struct Batch {
    keys: Vec<Key>,
    records: Vec<Record>,
    /// When the first of them began to wait.
    since: Option<Instant>,
    is_full: bool,
}

/// This node's end of the channel to one node.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    pub(crate) is_up: bool,
    /// It went down and has not said since who it is.
    is_lost: bool,
    pub(crate) kind: Kind,
    pub(crate) peer: Option<Peer>,
    pub(crate) pair: Pair,
    /// The bus has not been told yet what kind it is.
    kind_is_new: bool,
    hello_at: Instant,
    dirty: Lane,
    wanted: Lane,
    in_flight: BTreeSet<Key>,
    queue: VecDeque<(Class, Said, Vec<u8>)>,
    requests: BTreeMap<RequestId, Said>,
    /// What is on its way and of no use any more.
    withdrawn: Vec<RequestId>,
    sent: Sent,
}

impl Link {
    pub(crate) fn new(now: Instant, address: SocketAddr) -> Self {
        Self {
            address,
            is_up: false,
            is_lost: false,
            kind: Kind::Unknown,
            peer: None,
            pair: Pair::default(),
            kind_is_new: false,
            hello_at: now,
            dirty: Lane::default(),
            wanted: Lane::default(),
            in_flight: BTreeSet::new(),
            queue: VecDeque::new(),
            requests: BTreeMap::new(),
            withdrawn: Vec::new(),
            sent: Sent::default(),
        }
    }

    pub(crate) fn is_tandem(&self) -> bool {
        self.is_up && self.kind == Kind::Tandem
    }

    /// The bus reaches it: who is it?
    pub(crate) fn handle_up(&mut self, now: Instant) {
        self.is_up = true;
        self.hello_at = now;
    }

    /// The bus does not reach it any more.
    pub(crate) fn handle_down(&mut self) {
        self.is_up = false;
        self.is_lost = true;
        self.set_kind(Kind::Unknown);
        self.reset();
    }

    /// Forgets everything that was under way; a first round finds what was lost.
    pub(crate) fn reset(&mut self) {
        self.forget_changes();
        self.wanted.clear();
        self.queue.clear();
        let requests = std::mem::take(&mut self.requests);
        self.withdrawn.extend(requests.into_keys());
        self.pair = Pair::default();
    }

    /// Forgets what changed and what was told of it.
    fn forget_changes(&mut self) {
        self.dirty.clear();
        self.in_flight.clear();
    }

    fn set_kind(&mut self, kind: Kind) {
        self.kind_is_new |= kind != self.kind;
        self.kind = kind;
    }

    /// It answered hello, or the hello was given up.
    pub(crate) fn handle_hello_answer(&mut self, now: Instant, status: u16) {
        let kind = match status {
            200 => Kind::Tandem,
            404 => Kind::Stock,
            _ => Kind::Unknown,
        };
        match kind {
            Kind::Tandem => self.pair.connect(now),
            Kind::Stock => self.reset(),
            Kind::Unknown => {
                self.reset();
                self.hello_at = now + HELLO_AGAIN;
            }
        }
        self.set_kind(kind);
    }

    /// It spoke on the channel, so it is worth asking.
    pub(crate) fn handle_word(&mut self, now: Instant) {
        let is_asked = self.requests.values().any(|said| *said == Said::Hello);
        if self.kind != Kind::Tandem && !is_asked {
            self.hello_at = now;
        }
    }

    /// It spoke on another channel than a Tandem node would, so it is asked again, if that was not just done.
    pub(crate) fn doubt(&mut self, now: Instant) {
        let is_asked = self.requests.values().any(|said| *said == Said::Hello);
        let again = self.hello_at.checked_sub(HELLO_INTERVAL - HELLO_AGAIN);
        if !is_asked && let Some(again) = again {
            self.hello_at = self.hello_at.min(again.max(now));
        }
    }

    /// It said who it is; tells whether it is another than before, and nobody has noticed.
    pub(crate) fn handle_peer(&mut self, now: Instant, peer: Peer) -> bool {
        let same = |own: &Peer| own.node_id == peer.node_id && own.incarnation == peer.incarnation;
        let is_another = self.peer.as_ref().is_some_and(|own| !same(own));
        if is_another {
            self.reset();
            self.hello_at = now;
            if self.kind == Kind::Tandem {
                self.pair.connect(now);
            }
        }
        self.peer = Some(peer);
        let is_noticed = std::mem::take(&mut self.is_lost);
        is_another && !is_noticed
    }

    /// A key changed here; tells whether there was room for it.
    pub(crate) fn change(&mut self, now: Instant, key: &Key) -> bool {
        self.dirty.insert(now, key.clone())
    }

    /// It wants a key; tells whether there was room for it.
    pub(crate) fn want(&mut self, now: Instant, key: Key) -> bool {
        self.dirty.keys.contains_key(&key) || self.wanted.insert(now, key)
    }

    /// Tells whether a key is still to be told or to be acknowledged.
    pub(crate) fn is_pending(&self, key: &Key) -> bool {
        self.dirty.keys.contains_key(key)
            || self.wanted.keys.contains_key(key)
            || self.in_flight.contains(key)
    }

    /// Lets a body wait; tells whether there was room for it.
    pub(crate) fn say(&mut self, class: Class, said: Said, content: Content) -> bool {
        let has_room = self.queue.len() < QUEUE_MAX;
        if has_room {
            self.queue.push_back((class, said, encode(content)));
        }
        has_room
    }

    /// A request is done; returns what it said, unless that has been forgotten since.
    pub(crate) fn handle_answer(&mut self, request: RequestId, status: u16) -> Option<Said> {
        let said = self.requests.remove(&request)?;
        self.dirty.is_held = false;
        self.wanted.is_held = false;
        if let Said::Records { keys, .. } = &said {
            for key in keys {
                self.in_flight.remove(key);
            }
            if status == 408 {
                self.forget_changes();
            }
        }
        Some(said)
    }

    /// Hands to the bus what may be sent now.
    pub(crate) fn run(
        &mut self,
        now: Now,
        hello: impl FnOnce() -> Content,
        replica: &Replica,
        bus: &mut Bus,
        counters: &mut Counters,
    ) {
        if std::mem::take(&mut self.kind_is_new) {
            let kind = match self.kind {
                Kind::Tandem => dmq::Kind::Tandem,
                Kind::Stock | Kind::Unknown => dmq::Kind::Stock,
            };
            bus.set_kind(self.address, kind);
        }
        for request in self.withdrawn.drain(..) {
            bus.cancel(now.monotonic, self.address, request);
        }
        if !self.is_up {
            return;
        }
        if self.hello_at <= now.monotonic {
            self.hello_at = match self.send(now, bus, Said::Hello, &encode(hello())) {
                true => now.monotonic + HELLO_INTERVAL,
                false => now.monotonic + HELLO_AGAIN,
            };
        }
        if self.kind == Kind::Tandem {
            self.send_queue(now, bus);
            self.send_records(now, replica, bus, counters, true);
            self.send_records(now, replica, bus, counters, false);
        }
    }

    fn send_queue(&mut self, now: Now, bus: &mut Bus) {
        while self.requests.len() < WINDOW
            && let Some((class, said, body)) = self.queue.pop_front()
        {
            let bytes = body.len() as u64;
            if !self.send(now, bus, said.clone(), &body) {
                self.queue.push_front((class, said, body));
                return;
            }
            match class {
                Class::Digest => self.sent.digests += bytes,
                Class::Repair => self.sent.repair += bytes,
            }
        }
    }

    /// Sends what changed, or else what was asked for.
    fn send_records(
        &mut self,
        now: Now,
        replica: &Replica,
        bus: &mut Bus,
        counters: &mut Counters,
        changes: bool,
    ) {
        let window = match changes {
            true => WINDOW,
            false => WINDOW_OF_REPAIR,
        };
        while self.requests.len() < window && self.lane(changes).can_move() {
            let batch = self.batch(now, replica, counters, changes);
            let is_small = !batch.is_full && self.requests.len() >= SMALL_BODIES_MAX;
            if batch.keys.is_empty() || is_small {
                self.lane(changes).is_held = true;
                return;
            }
            let records = Records {
                records: batch.records,
            };
            let body = encode(Content::Records(records));
            let bytes = body.len() as u64;
            let said = Said::Records {
                keys: batch.keys.clone(),
                since: batch.since.filter(|_| changes),
            };
            if !self.send(now, bus, said, &body) {
                return;
            }
            match changes {
                true => self.sent.changes += bytes,
                false => self.sent.repair += bytes,
            }
            let lane = self.lane(changes);
            for key in &batch.keys {
                lane.keys.remove(key);
            }
            lane.last = batch.keys.last().cloned();
            self.in_flight.extend(batch.keys);
        }
    }

    fn lane(&mut self, changes: bool) -> &mut Lane {
        match changes {
            true => &mut self.dirty,
            false => &mut self.wanted,
        }
    }

    /// Takes from a lane what fits one body. What nothing is known of any more leaves the lane.
    fn batch(
        &mut self,
        now: Now,
        replica: &Replica,
        counters: &mut Counters,
        changes: bool,
    ) -> Batch {
        let lane = match changes {
            true => &mut self.dirty,
            false => &mut self.wanted,
        };
        let (mut batch, mut unsendable) = (Batch::default(), Vec::new());
        let mut bytes = BODY_OVERHEAD;
        for (key, since) in lane.in_turn() {
            if self.in_flight.contains(key) {
                continue;
            }
            let record = replica.record(now.monotonic, key);
            let Some(record) = record.and_then(|record| convert::to_wire(key, record)) else {
                unsendable.push(key.clone());
                continue;
            };
            let more = record.encoded_len() + RECORD_OVERHEAD;
            if BODY_OVERHEAD + more > BODY_BYTES_MAX {
                counters.oversized += 1;
                unsendable.push(key.clone());
                continue;
            }
            if !batch.keys.is_empty() && bytes + more > BODY_BYTES_TARGET {
                batch.is_full = true;
                break;
            }
            bytes += more;
            batch.keys.push(key.clone());
            batch.since = Some(batch.since.map_or(*since, |first| first.min(*since)));
            batch.records.push(record);
            if bytes > BODY_BYTES_TARGET || batch.keys.len() >= RECORDS_MAX {
                batch.is_full = true;
                break;
            }
        }
        for key in unsendable {
            lane.keys.remove(&key);
        }
        batch
    }

    fn send(&mut self, now: Now, bus: &mut Bus, said: Said, body: &[u8]) -> bool {
        let channel = dmq::TANDEM_CHANNEL;
        let request = bus.send(now.monotonic, self.address, channel, body, Schedule::Tandem);
        request
            .map(|request| self.requests.insert(request, said))
            .is_some()
    }

    /// Returns when something is due that nothing else brings about.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.is_up.then_some(self.hello_at)
    }

    pub(crate) fn status(&self, now: Instant, hash_size: u32) -> NodeStatus {
        let peer = self.peer.as_ref();
        let finished = self.pair.finished_at();
        NodeStatus {
            address: self.address,
            node_id: peer.map(|peer| peer.node_id.clone()).unwrap_or_default(),
            incarnation: peer.map_or(0, |peer| peer.incarnation),
            kind: self.kind,
            is_up: self.is_up,
            dirty: self.dirty.keys.len() + self.wanted.keys.len(),
            in_flight: self.in_flight.len(),
            divergence: self.pair.divergence,
            verify_age: finished.map(|at| now.saturating_duration_since(at)),
            hash_size_differs: peer.is_some_and(|peer| peer.hash_size != hash_size),
            sent: self.sent,
        }
    }
}
