//! The calls of one shard of a router: their transactions. Their dialogs are the node's, which shares
//! them with the cell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use element::{FlowId, Outbox};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use replication::Observation;
use sip::{Drops, Event, Proxy, ProxyConfig};
use sip_types::{Message, ParseError, Splice};

use crate::decision::Hop;
use crate::view::View;

/// What a router keeps with each request: where else it may go.
#[derive(Debug)]
pub(crate) struct Call {
    /// The places of the route decision; empty inside a dialog.
    pub(crate) hops: Arc<[Hop]>,
    /// The Request-URI as it came, when the first place rewrote it.
    pub(crate) came_as: Option<Box<[u8]>>,
    /// Which of them is being tried.
    pub(crate) at: usize,
    /// It was cancelled: no further place.
    pub(crate) cancelled: bool,
    /// The number of the dialog that it may make; `None` unless it is an INVITE that opens a call.
    pub(crate) h_id: Option<u32>,
    /// The number of the dialog that it was sent inside, if its Route names one.
    pub(crate) within: Option<u32>,
}

/// What a shard of a router counts.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Messages that were not forwarded, by reason.
    pub drops: Drops,
    /// INVITEs that opened a call.
    pub calls: u64,
    /// New requests answered with 503.
    pub calls_refused: u64,
    /// Requests that went on to a further place.
    pub next_hops: u64,
    /// Responses forwarded without a transaction: they were a dead router's.
    pub passed_statelessly: u64,
}

impl Counters {
    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        self.drops.add(&other.drops);
        self.calls += other.calls;
        self.calls_refused += other.calls_refused;
        self.next_hops += other.next_hops;
        self.passed_statelessly += other.passed_statelessly;
    }
}

/// One shard of a router. Worker threads and the simulator drive it through [`element::Sharded`].
#[derive(Debug)]
pub struct Shard {
    pub(crate) proxy: Proxy<Call, ()>,
    /// What passed of dialogs since the node was told.
    pub(crate) seen: Vec<Observation>,
    pub(crate) rng: SmallRng,
    pub(crate) counters: Counters,
    /// Counts new requests, for round robin; every shard starts somewhere else.
    pub(crate) turn: usize,
    /// Edits of the message at hand: empty between messages.
    pub(crate) edits: Splice,
}

impl Shard {
    /// Creates an empty shard; `seed` feeds everything random in it.
    #[must_use]
    pub fn new(proxy: ProxyConfig, seed: u64) -> Self {
        Self {
            proxy: Proxy::new(proxy, seed),
            seen: Vec::new(),
            rng: SmallRng::seed_from_u64(!seed),
            counters: Counters::default(),
            turn: seed as usize,
            edits: Splice::new(),
        }
    }

    /// Returns how many response contexts are alive.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.proxy.len()
    }

    /// Tells whether a request still waits for its final response: a router that drains waits for it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.proxy.is_busy()
    }

    /// Returns what it has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns what its proxy core has counted.
    #[must_use]
    pub fn proxy_counters(&self) -> sip::ProxyCounters {
        self.proxy.counters()
    }

    fn run_events(&mut self, now: Instant) {
        while let Some(event) = self.proxy.poll_event() {
            match event {
                Event::TimedOut(branch) => self.timed_out(now, branch),
                Event::Silent(branch) => self.silent(now, branch),
                // Cancelled or sent again by the proxy core; what follows ends it.
                Event::RangTooLong(_) | Event::Repeated(_) => {}
            }
        }
    }
}

impl element::Shard for Shard {
    type View = View;
    type Notice = ();
    type Outcomes = Vec<Observation>;

    fn handle_message(
        &mut self,
        now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let may_send = match message.is_request() {
            true => view.allows(source),
            false => view.may_answer(source),
        };
        if !may_send {
            return self
                .counters
                .drops
                .count(sip::Drop::NotAllowed, source, message);
        }
        if message.is_request() {
            self.handle_request(now, view, flow, source, message);
        } else {
            self.handle_response(now, view, flow, source, message);
        }
        self.run_events(now);
    }

    fn handle_unparsable(
        &mut self,
        _now: Instant,
        _view: &View,
        _flow: FlowId,
        source: SocketAddr,
        _bytes: &[u8],
        error: &ParseError,
    ) {
        self.counters.drops.count_unparsable(source, error);
    }

    fn handle_notice(&mut self, _now: Instant, _view: &View, _notice: &()) {}

    fn handle_timeout(&mut self, now: Instant, _view: &View) {
        self.proxy.handle_timeout(now);
        self.run_events(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.proxy.poll_timeout()
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.proxy.outbox()
    }

    fn take_outcomes(&mut self, into: &mut Vec<Observation>) -> bool {
        into.append(&mut self.seen);
        !into.is_empty()
    }
}
