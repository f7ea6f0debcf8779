//! The bus: who is on it, what is asked and answered.
//!
//! Kamailio dmq: `dmq_funcs.c`, `notification_peer.c`, `dmqnode.c`. It differs where Kamailio is known
//! to be weak: it listens to allowed nodes alone, believes nobody about a third node, finds the dead
//! itself, pings what it has lost, and answers a retransmission without executing it again.

mod life;
mod receive;
mod transmit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::{FlowId, Outbox};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sip_types::{Message, Method};

use crate::address::{Network, canonical};
use crate::node::{Kind, Node, NodeStatus};
use crate::replies::Replies;
use crate::request::{Purpose, RequestId, Schedule, Waits};
use crate::wire;
use crate::{IN_FLIGHT_BYTES_MAX, NODES_MAX, NOTIFICATION_CHANNEL, WINDOW};

/// Max-Forwards of a notification by which a node joins: told on by whom it reaches, and no further.
const JOIN_MAX_FORWARDS: u8 = 2;
/// Max-Forwards of everything else.
const MAX_FORWARDS: u8 = 1;

/// How a bus is set up.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// Where the others reach this node: numeric and with a port, its identity on the bus.
    pub own: SocketAddr,
    /// The listen address that sends; it must send from `own`, or nobody will believe it.
    pub flow: FlowId,
    /// Between two pings of a node, shortened by up to a fifth at random; 5 s. Too small: traffic.
    /// Too large: the death of an idle node is seen late.
    pub ping_interval: Duration,
    /// The value of User-Agent and Server; control characters are left out.
    pub server: String,
}

impl BusConfig {
    /// Sets up a bus with the usual values.
    #[must_use]
    pub fn new(own: SocketAddr, flow: FlowId) -> Self {
        Self {
            own,
            flow,
            ping_interval: Duration::from_secs(5),
            server: "tandem".to_owned(),
        }
    }
}

/// A channel request that wants to be executed; [`Bus::reply`] answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Who sent it: From and the packet agree on that.
    pub node: SocketAddr,
    /// The channel, any name.
    pub channel: &'a str,
    /// The body, not empty.
    pub body: &'a [u8],
}

/// What the owner of the bus has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node takes data from now on.
    NodeUp {
        /// Its address.
        node: SocketAddr,
    },
    /// A node takes no more data: it fell silent, left, or may not speak any longer. What it has not
    /// answered is answered with 408 right after.
    NodeDown {
        /// Its address.
        node: SocketAddr,
    },
    /// A node is no longer listed. It may come back.
    NodeRemoved {
        /// Its address.
        node: SocketAddr,
    },
    /// A node lists us whose last list had not: what it told everybody before, it did not tell us.
    Listed {
        /// Its address.
        node: SocketAddr,
    },
    /// A request is done: exactly one for each that [`Bus::send`] took and [`Bus::cancel`] did not end.
    Answered {
        /// Whom it was sent to.
        node: SocketAddr,
        /// What `send` returned.
        request: RequestId,
        /// The final status; 408 when nobody answered.
        status: u16,
    },
}

/// What a bus counts; all of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// KDMQ requests that nobody could read, or without a channel.
    pub malformed: u64,
    /// KDMQ requests of somebody who may not speak, or for whom somebody else spoke. Not answered.
    pub refused: u64,
    /// Nodes, or requests of them, for which there was no room in the list.
    pub nodes_refused: u64,
    /// Notification addresses that may not speak and are therefore left alone.
    pub notification_not_allowed: u64,
    /// Lines of received lists about nodes that may not speak.
    pub lines_not_allowed: u64,
    /// Lines of received lists that cannot be used.
    pub lines_skipped: u64,
    /// Nodes left off our own list because it was full.
    pub lines_left_off: u64,
    /// Retransmissions that were answered again, or not yet.
    pub repeats_received: u64,
    /// Replies that were forgotten before their time.
    pub replies_forgotten: u64,
    /// Responses that answer nothing: late, repeated or forged.
    pub responses_unmatched: u64,
    /// Requests that `send` refused because window or bus were full.
    pub window_full: u64,
    /// Requests that `send` refused because the node is not active, or we leave.
    pub node_unavailable: u64,
    /// Requests that `send` refused for what they are.
    pub unsendable: u64,
}

/// One node's part in a bus.
///
/// After any call that takes `now`: send what is in the outbox and clear it, drain `poll_event`, sleep
/// until `poll_timeout` or the next message. `now` never goes backwards. Outbox and events are bounded
/// by what one call can cause.
#[derive(Debug)]
pub struct Bus {
    config: BusConfig,
    allowed: BTreeSet<SocketAddr>,
    networks: Vec<Network>,
    seeds: BTreeSet<SocketAddr>,
    nodes: BTreeMap<SocketAddr, Node>,
    replies: Replies,
    events: VecDeque<Event>,
    outbox: Outbox,
    counters: Counters,
    rng: SmallRng,
    tag: u64,
    requests: u64,
    bytes_in_flight: usize,
    is_leaving: bool,
}

impl Bus {
    /// Creates a bus without other nodes. `seed` makes tags, branches and Call-IDs.
    #[must_use]
    pub fn new(config: BusConfig, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let server = config.server.chars().filter(|c| !c.is_control()).collect();
        Self {
            config: BusConfig {
                own: canonical(config.own),
                server,
                ..config
            },
            allowed: BTreeSet::new(),
            networks: Vec::new(),
            seeds: BTreeSet::new(),
            nodes: BTreeMap::new(),
            replies: Replies::default(),
            events: VecDeque::new(),
            outbox: Outbox::new(),
            counters: Counters::default(),
            tag: rng.random(),
            rng,
            requests: 0,
            bytes_in_flight: 0,
            is_leaving: false,
        }
    }

    /// Says who may speak: these addresses, and any of these networks. Nothing received widens it.
    ///
    /// A node that may no longer speak is removed. Addresses are not contacted for being allowed.
    pub fn set_allowed(
        &mut self,
        now: Instant,
        addresses: impl IntoIterator<Item = SocketAddr>,
        networks: Vec<Network>,
    ) {
        self.allowed = addresses.into_iter().map(canonical).collect();
        self.networks = networks;
        for address in self.addresses() {
            if !self.may_speak(address) {
                self.remove(now, address);
            }
        }
        self.add_seeds(now);
    }

    /// Says where to join: addresses that are pinged until they answer, and always again.
    ///
    /// Names are resolved by the caller. An address that may not speak is left alone until it may; the
    /// own address is passed over. What is no longer named stays as any other node.
    pub fn set_notification(
        &mut self,
        now: Instant,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) {
        self.seeds = addresses.into_iter().map(canonical).collect();
        self.seeds.remove(&self.config.own);
        for (address, node) in &mut self.nodes {
            node.is_seed = self.seeds.contains(address);
        }
        self.add_seeds(now);
    }

    /// Says what runs at a node, until it is removed; without effect on one that is not listed.
    pub fn set_kind(&mut self, node: SocketAddr, kind: Kind) {
        if let Some(node) = self.nodes.get_mut(&canonical(node)) {
            node.status.kind = kind;
        }
    }

    /// Takes a KDMQ request or a response to one; any other message is passed over.
    ///
    /// A delivery is to be answered with [`Bus::reply`], now or later, or left to its repeats with
    /// [`Bus::leave_unanswered`]. Everything else is done here:
    /// notifications, retransmissions, a request without a body (400).
    pub fn handle_message<'a>(
        &mut self,
        now: Instant,
        source: SocketAddr,
        message: &'a Message<'_>,
    ) -> Option<Delivery<'a>> {
        if message.method() != Method::Kdmq {
            return None;
        }
        let source = canonical(source);
        if message.is_response() {
            self.handle_response(now, source, message);
            return None;
        }
        self.handle_request(now, source, message)
    }

    /// Answers a delivery; a retransmission of it will get the same.
    ///
    /// Kamailio knows 200 (done), 202, 400 (not readable), 404 (no such channel) and 500 (not
    /// possible), and does not try again after any of them.
    pub fn reply(&mut self, _now: Instant, source: SocketAddr, message: &Message<'_>, status: u16) {
        let source = canonical(source);
        self.replies.answer(source, message, status);
        self.write_reply(source, message, status, None);
    }

    /// Leaves a delivery as if it had not come: its next repeat is delivered again.
    pub fn leave_unanswered(&mut self, source: SocketAddr, message: &Message<'_>) {
        self.replies.forget(canonical(source), message);
    }

    /// Takes the news that a node cannot be reached (ICMP unreachable).
    pub fn handle_unreachable(&mut self, now: Instant, destination: SocketAddr) {
        let address = canonical(destination);
        let node = self.nodes.get_mut(&address);
        if node.is_some_and(|node| node.handle_refusal(now)) {
            self.lose(now, address);
            self.notify(now, address);
        }
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for address in self.addresses() {
            self.run(now, address);
        }
    }

    /// Returns when `handle_timeout` is due; never again for a node that has left and is done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let nodes = self.nodes.values();
        nodes
            .filter_map(|node| node.poll_timeout(!self.is_leaving))
            .min()
    }

    /// What waits to be sent; the driver clears it.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Returns what happened next, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Sends a body to one node; [`Event::Answered`] tells how it ended.
    ///
    /// `None`, counted under its reason, when the node is not active (wait for [`Event::NodeUp`]),
    /// when [`WINDOW`] or [`IN_FLIGHT_BYTES_MAX`] are full (wait for [`Event::Answered`]), after
    /// [`Bus::leave`], or for something that must never be sent: an empty body or one over
    /// [`BODY_BYTES_MAX`](crate::BODY_BYTES_MAX), on a channel of Kamailio's anything that does not
    /// begin `{"` and end `}`, a channel that is no name.
    pub fn send(
        &mut self,
        now: Instant,
        node: SocketAddr,
        channel: &str,
        body: &[u8],
        schedule: Schedule,
    ) -> Option<RequestId> {
        if !wire::is_sendable(channel, body) {
            self.counters.unsendable += 1;
            return None;
        }
        let address = canonical(node);
        let node = self.nodes.get(&address).filter(|node| node.is_active());
        let Some(node) = node.filter(|_| !self.is_leaving) else {
            self.counters.node_unavailable += 1;
            return None;
        };
        if node.status.in_flight >= WINDOW
            || self.bytes_in_flight + body.len() > IN_FLIGHT_BYTES_MAX
        {
            self.counters.window_full += 1;
            return None;
        }
        let waits = Waits::of(schedule, node.status.smoothed_rtt);
        Some(self.transmit(
            now,
            address,
            Purpose::Data,
            channel,
            MAX_FORWARDS,
            body,
            waits,
        ))
    }

    /// Withdraws a request: it is repeated no more, and no [`Event::Answered`] comes for it. Whether the
    /// node has got it, or will, is not known.
    ///
    /// Tells whether it was still waiting for its answer.
    pub fn cancel(&mut self, now: Instant, node: SocketAddr, request: RequestId) -> bool {
        self.take(now, canonical(node), request).is_some()
    }

    /// Returns what is known of every node, in the order of their addresses.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.values().map(|node| &node.status)
    }

    /// Says goodbye to every node, repeated for up to 1 s until it is answered. No ping follows and
    /// no data; requests are still answered, those in flight still end.
    pub fn leave(&mut self, now: Instant) {
        if self.is_leaving {
            return;
        }
        self.is_leaving = true;
        let list = self.own_list();
        for address in self.addresses() {
            self.drop_notification(now, address);
            self.transmit(
                now,
                address,
                Purpose::Farewell,
                NOTIFICATION_CHANNEL,
                MAX_FORWARDS,
                &list,
                Waits::FAREWELL,
            );
        }
    }

    /// Returns what was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.keys().copied().collect()
    }

    fn may_speak(&self, address: SocketAddr) -> bool {
        address != self.config.own
            && (self.allowed.contains(&address)
                || self
                    .networks
                    .iter()
                    .any(|network| network.contains(address.ip())))
    }

    /// Takes in the notification addresses that may speak, and pings what is new.
    fn add_seeds(&mut self, now: Instant) {
        for address in self.seeds.clone() {
            if !self.may_speak(address) {
                self.counters.notification_not_allowed += 1;
            } else if self.admit(now, address)
                && let Some(node) = self.nodes.get_mut(&address)
            {
                node.is_seed = true;
            }
        }
        for address in self.addresses() {
            self.notify(now, address);
        }
    }

    /// Makes sure that a node which may speak is listed; tells whether it is.
    fn admit(&mut self, now: Instant, address: SocketAddr) -> bool {
        if self.nodes.contains_key(&address) {
            return true;
        }
        if self.nodes.len() >= NODES_MAX {
            self.counters.nodes_refused += 1;
            return false;
        }
        let mut node = Node::new(now, address);
        node.is_seed = self.seeds.contains(&address);
        self.nodes.insert(address, node);
        true
    }
}
