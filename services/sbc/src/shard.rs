//! The calls of one shard of the SBC: transactions, dialogs, and what of them the node must know.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::{FlowId, Outbox};
use sip::{BranchId, DialogConfig, Dialogs, Event, Proxy, ProxyConfig};
use sip_types::{Message, ParseError, Splice};

use crate::counters::Counters;
use crate::names::Waiting;
use crate::pass::{Pass, Try};
use crate::signs::Signs;
use crate::view::View;

/// How many requests of a lost router one shard sends elsewhere at once, before it lets
/// [`FAILOVER_PAUSE`] pass: an heir is not flooded. 64 every 10 ms are 6 400 a second and shard.
pub const FAILOVER_BURST: usize = 64;

/// See [`FAILOVER_BURST`].
pub const FAILOVER_PAUSE: Duration = Duration::from_millis(10);

/// What every shard must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The router at this address was found dead, or has come back as another incarnation.
    RouterLost(SocketAddr),
    /// The network says that nobody is at this address, which is no router's.
    Unreachable(SocketAddr),
    /// A name has been looked up; the view says with what result.
    NamesKnown,
}

/// One shard of the SBC. Worker threads and the simulator drive it through [`element::Sharded`].
#[derive(Debug)]
pub struct Shard {
    pub(crate) proxy: Proxy<Pass, Try>,
    pub(crate) dialogs: Dialogs,
    pub(crate) signs: Signs,
    pub(crate) counters: Counters,
    /// Counts new requests, for round robin; every shard starts somewhere else.
    pub(crate) turn: usize,
    /// Edits of the message at hand: empty between messages.
    pub(crate) edits: Splice,
    /// Requests of lost routers that wait for their turn, and when it comes.
    pub(crate) moving: VecDeque<BranchId>,
    pub(crate) move_at: Option<Instant>,
    /// Requests that wait for a name, in the order of their coming.
    pub(crate) waiting: VecDeque<Waiting>,
}

impl Shard {
    /// Creates an empty shard; `seed` feeds everything random in it.
    #[must_use]
    pub fn new(proxy: ProxyConfig, dialogs: DialogConfig, seed: u64) -> Self {
        let proxy = Proxy::new(proxy, seed);
        let dialogs = Dialogs::new(dialogs, *proxy.hash_key());
        Self {
            proxy,
            dialogs,
            signs: Signs::default(),
            counters: Counters::default(),
            turn: seed as usize,
            edits: Splice::new(),
            moving: VecDeque::new(),
            move_at: None,
            waiting: VecDeque::new(),
        }
    }

    /// Returns how many dialogs it knows.
    #[must_use]
    pub fn dialogs(&self) -> usize {
        self.dialogs.len()
    }

    /// Returns how many response contexts are alive.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.proxy.len()
    }

    /// Tells whether a request still waits for its final response.
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

    fn run_events(&mut self, now: Instant, view: &View) {
        while let Some(event) = self.proxy.poll_event() {
            match event {
                Event::TimedOut(branch) => self.timed_out(now, view, branch),
                Event::RangTooLong(branch) => self.rang_too_long(now, branch),
                Event::Repeated(branch) => self.owed_by_router(branch),
                Event::Silent(branch) => self.silent(now, view, branch),
            }
        }
    }
}

impl element::Shard for Shard {
    type View = View;
    type Notice = Notice;
    type Outcomes = Signs;

    fn handle_message(
        &mut self,
        now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let from_router = view.is_router(flow, source);
        if from_router {
            self.signs.alive(source);
        }
        if message.is_request() {
            self.handle_request(now, view, flow, source, from_router, message);
        } else {
            self.handle_response(now, view, source, message);
        }
        self.run_events(now, view);
    }

    fn handle_unparsable(
        &mut self,
        _now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        _bytes: &[u8],
        error: &ParseError,
    ) {
        if view.is_router(flow, source) {
            self.signs.alive(source);
        }
        self.counters.drops.count_unparsable(source, error);
    }

    fn handle_notice(&mut self, now: Instant, view: &View, notice: &Notice) {
        match *notice {
            Notice::RouterLost(router) => self.router_lost(now, view, router),
            Notice::Unreachable(address) => self.unreachable(now, view, address),
            Notice::NamesKnown => self.names_known(now, view),
        }
        self.run_events(now, view);
    }

    fn handle_timeout(&mut self, now: Instant, view: &View) {
        self.proxy.handle_timeout(now);
        self.dialogs.handle_timeout(now);
        self.give_up_waiting(now);
        if self.move_at.take_if(|at| *at <= now).is_some() {
            self.move_on(now, view);
        }
        self.run_events(now, view);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.proxy.poll_timeout(),
            self.dialogs.poll_timeout(),
            self.move_at,
            self.patience_ends(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.proxy.outbox()
    }

    fn take_outcomes(&mut self, into: &mut Signs) -> bool {
        self.signs.take(into)
    }
}
