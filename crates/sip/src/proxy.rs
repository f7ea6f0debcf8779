//! The proxy core: RFC 3261 section 16 over the four transaction machines. Sans-IO.
//!
//! A [`Proxy`] holds the response contexts of one shard (section 16.2): the server transaction of a
//! request and a client transaction for each try. What goes where is its user's business: the user
//! hands in messages, is told what arrived, and says `forward`, `retry`, `cancel`, `respond`.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::{FlowId, Outbox};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use sip_types::{HeaderName, Index, Message, Method, ResponseHead, Splice};
use siphasher::sip::SipHasher13;
use slab::Slab;

use crate::branch::{self, BranchId, ContextId};
use crate::context::{Branch, Cancel, Context, Target, Upstream};
use crate::server_invite::Ack;
use crate::timers::{Deadlines, TimerConfig};
use crate::transaction::{Client, Due, Reaction, Server, ServerKey};

/// How many tries one request gets. At the limit it is answered with the best failure so far.
pub const TRIES_MAX: usize = 32;

/// The settings of a proxy core.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The listen addresses in the order of their [`FlowId`]s: what stands in Via.
    pub listen: Vec<SocketAddr>,
    /// The RFC's timers.
    pub timers: TimerConfig,
    /// Timer C: how long an INVITE may ring on without a provisional response. Over 3 minutes
    /// (RFC 3261 section 16.6 step 11). Shorter ends calls of slow callees.
    pub timer_c: Duration,
    /// How many response contexts may be alive; at the limit new requests are refused. A call makes
    /// four on its way through an SBC, each for 32 s.
    pub contexts_max: usize,
}

/// What became of a request that was offered to the transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It repeats what is known, or is the ACK of a failure: dealt with.
    Absorbed,
    /// CANCEL of this context's request: answered with 200; the rest is up to the user.
    Cancel(ContextId),
    /// Nothing here knows it.
    New(ServerKey),
    /// It cannot name a transaction: no usable Via.
    Unanswerable,
}

/// A response that a try has delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The try it answers.
    pub branch: BranchId,
    /// Its status code.
    pub status: u16,
}

/// What became of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// New: for the user.
    Delivered(Delivered),
    /// A repeat, a 100, or the answer to our CANCEL: dealt with.
    Absorbed,
    /// No transaction here sent what it answers.
    Stray,
}

/// What a timer asks the user to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Timer B or F: no final answer came.
    TimedOut(BranchId),
    /// Timer C: it rang for too long and has been cancelled; a final answer may still come.
    RangTooLong(BranchId),
    /// Timer A or E: the request was sent again.
    Repeated(BranchId),
    /// Nothing came within the time given to [`Proxy::expect_answer`].
    Silent(BranchId),
}

/// Counters of one proxy core, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProxyCounters {
    /// Requests sent again by Timers A and E.
    pub repeats_sent: u64,
    /// Requests absorbed because they repeat a known one.
    pub repeats_absorbed: u64,
    /// Responses that matched nothing.
    pub stray_responses: u64,
}

/// Changes a stored request before another try: see [`Proxy::retry`].
pub type Edit<'a> = dyn FnMut(&Message<'_>, &mut Splice) + 'a;

/// Response contexts of one shard. `C` is what the user keeps with each context, `B` with each try.
///
/// After any call that takes `now`, drain `poll_event`, then send what `outbox` holds.
#[derive(Debug)]
pub struct Proxy<C, B> {
    config: ProxyConfig,
    hash_key: [u8; 16],
    /// How our Via begins, by flow: everything up to the branch.
    vias: Box<[Box<[u8]>]>,
    contexts: Slab<Context<C, B>>,
    servers: HashMap<ServerKey, ContextId>,
    deadlines: Deadlines<ContextId>,
    events: VecDeque<Event>,
    outbox: Outbox,
    rng: SmallRng,
    splice: Splice,
    buffer: Vec<u8>,
    index: Index,
    counters: ProxyCounters,
}

impl<C, B> Proxy<C, B> {
    /// Creates a proxy core; `seed` feeds branches, tags and the hash key.
    #[must_use]
    pub fn new(config: ProxyConfig, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut hash_key = [0; 16];
        rng.fill_bytes(&mut hash_key);
        let vias = config.listen.iter();
        let vias = vias
            .map(|listen| {
                format!("Via: SIP/2.0/UDP {listen};branch=")
                    .into_bytes()
                    .into_boxed_slice()
            })
            .collect();
        Self {
            config,
            hash_key,
            vias,
            contexts: Slab::new(),
            servers: HashMap::new(),
            deadlines: Deadlines::new(),
            events: VecDeque::new(),
            outbox: Outbox::new(),
            rng,
            splice: Splice::new(),
            buffer: Vec::new(),
            index: Index::new(),
            counters: ProxyCounters::default(),
        }
    }

    // What arrives.

    /// Offers a request to the transactions: RFC 3261 section 17.2.3 and, for CANCEL, 9.2.
    pub fn offer_request(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) -> Offered {
        let method = message.method();
        let about = if method == Method::Ack {
            Method::Invite
        } else {
            method
        };
        let Some(key) = ServerKey::of(&self.hash_key, message, about) else {
            return Offered::Unanswerable;
        };
        if let Some(&id) = self.servers.get(&key) {
            return self.offer_repeat(now, id, key, method);
        }
        if method == Method::Ack && message.to_tag() == Some(&self.stateless_tag(message)) {
            // Section 8.2.7: of a failure that was answered without a transaction.
            return Offered::Absorbed;
        }
        if method == Method::Cancel {
            let invite = ServerKey::of(&self.hash_key, message, Method::Invite);
            if let Some(&id) = invite.and_then(|key| self.servers.get(&key)) {
                self.respond_stateless(flow, source, message, 200, &[]);
                return Offered::Cancel(id);
            }
        }
        Offered::New(key)
    }

    fn offer_repeat(
        &mut self,
        now: Instant,
        id: ContextId,
        key: ServerKey,
        method: Method<'_>,
    ) -> Offered {
        let timers = self.config.timers;
        let Some(context) = self.context_mut(id) else {
            return Offered::New(key);
        };
        let Some(position) = context
            .upstreams
            .iter()
            .position(|upstream| upstream.key == key)
        else {
            return Offered::New(key);
        };
        if method == Method::Ack {
            let ack = context.upstreams[position].server.handle_ack(now, &timers);
            self.settle(id);
            return match ack {
                Ack::Absorbed => Offered::Absorbed,
                Ack::EndToEnd => Offered::New(key),
            };
        }
        if context.upstreams[position].server.handle_repeat() {
            self.send_response(id, position);
        }
        self.counters.repeats_absorbed += 1;
        Offered::Absorbed
    }

    /// Takes a response: RFC 3261 sections 16.7 and 17.1.
    pub fn handle_response(&mut self, now: Instant, message: &Message<'_>) -> Answer {
        let (Some(status), Some(via)) = (message.status(), message.top_via()) else {
            return self.stray();
        };
        let Some((id, _)) = via.branch.and_then(BranchId::read) else {
            return self.stray();
        };
        if !via
            .sent_by_addr()
            .is_some_and(|addr| self.config.listen.contains(&addr))
        {
            return self.stray();
        }
        if message.method() == Method::Cancel {
            let timers = self.config.timers;
            let Some(branch) = self.branch_mut(id) else {
                return self.stray();
            };
            if let Cancel::Sent(client) = &mut branch.cancel {
                client.handle_response(now, &timers, status);
                self.settle(id.context);
            }
            return Answer::Absorbed;
        }
        self.handle_answer(now, id, status, Some(message))
    }

    /// Takes a response that did not come from the try's own peer, in its stead: the peer is dead.
    ///
    /// Nothing is acknowledged towards the peer, and nothing is repeated to it any more.
    pub fn handle_response_in_stead(&mut self, now: Instant, id: BranchId, status: u16) -> Answer {
        self.handle_answer(now, id, status, None)
    }

    fn handle_answer(
        &mut self,
        now: Instant,
        id: BranchId,
        status: u16,
        from_peer: Option<&Message<'_>>,
    ) -> Answer {
        let timers = self.config.timers;
        let Some(timer_c) = self
            .context(id.context)
            .map(|context| now + context.timer_c)
        else {
            return self.stray();
        };
        let Some(branch) = self.branch_mut(id) else {
            return self.stray();
        };
        let reaction = branch.client.handle_response(now, &timers, status);
        branch.silent_at = None;
        if (100..200).contains(&status) && branch.client.may_be_cancelled() {
            // RFC 3261 section 16.7 step 2: each 101 to 199 starts Timer C anew.
            if status > 100 || branch.timer_c.is_none() {
                branch.timer_c = Some(timer_c);
            }
        } else if status >= 200 {
            branch.timer_c = None;
            if let Cancel::Wanted = branch.cancel {
                branch.cancel = Cancel::None;
            }
        }
        if let (Reaction::Acknowledge | Reaction::AcknowledgeAndDeliver, Some(response)) =
            (reaction, from_peer)
        {
            self.acknowledge(id, response);
        }
        if self.branch(id).is_some_and(|branch| {
            matches!(branch.cancel, Cancel::Wanted) && branch.client.may_be_cancelled()
        }) {
            self.send_cancel(now, id);
        }
        self.settle(id.context);
        match reaction {
            Reaction::Deliver | Reaction::AcknowledgeAndDeliver if status > 100 => {
                Answer::Delivered(Delivered { branch: id, status })
            }
            Reaction::Deliver
            | Reaction::AcknowledgeAndDeliver
            | Reaction::Acknowledge
            | Reaction::Absorb => Answer::Absorbed,
        }
    }

    fn stray(&mut self) -> Answer {
        self.counters.stray_responses += 1;
        Answer::Stray
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.pop_due(now) {
            let Some(context) = self.context_mut(id) else {
                continue;
            };
            // An entry that an earlier one has replaced: run for nothing, it would be armed again.
            if context.armed.take_if(|armed| *armed == at).is_none() {
                continue;
            }
            let upstreams = context.upstreams.len();
            let branches = context.branches.len();
            for position in 0..upstreams {
                self.run_server(now, id, position);
            }
            for index in 0..branches {
                // TRIES_MAX bounds the number of branches.
                self.run_branch(
                    now,
                    BranchId {
                        context: id,
                        index: index as u8,
                    },
                );
            }
            self.settle(id);
        }
    }

    fn run_server(&mut self, now: Instant, id: ContextId, position: usize) {
        let timers = self.config.timers;
        let Some(context) = self.context_mut(id) else {
            return;
        };
        let server = &mut context.upstreams[position].server;
        match server.handle_timeout(now, &timers) {
            Some(Due::Repeat) if matches!(server, Server::NonInvite(_)) => {
                self.respond(now, id, 100, &[]);
            }
            Some(Due::Repeat) => self.send_response(id, position),
            Some(Due::TimedOut) | None => {}
        }
    }

    fn run_branch(&mut self, now: Instant, id: BranchId) {
        let timers = self.config.timers;
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if branch.silent_at.take_if(|at| *at <= now).is_some() {
            self.events.push_back(Event::Silent(id));
        }
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if branch.timer_c.take_if(|at| *at <= now).is_some() {
            branch.client.stop_repeating(now + timers.transaction());
            self.cancel(now, id);
            self.events.push_back(Event::RangTooLong(id));
        }
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        match branch.client.handle_timeout(now, &timers) {
            Some(Due::Repeat) => {
                self.counters.repeats_sent += 1;
                self.send_request(id);
                self.events.push_back(Event::Repeated(id));
            }
            Some(Due::TimedOut) => self.events.push_back(Event::TimedOut(id)),
            None => {}
        }
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if let Cancel::Sent(client) = &mut branch.cancel
            && client.handle_timeout(now, &timers) == Some(Due::Repeat)
        {
            self.write_cancel(id);
        }
    }

    // What the user wants.

    /// Opens a context for a new request; an INVITE is answered with 100 (section 16.2).
    ///
    /// Returns `None` at `contexts_max`. `forward` or `respond` must follow.
    pub fn open(
        &mut self,
        now: Instant,
        key: ServerKey,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        data: C,
    ) -> Option<ContextId> {
        let id = self.insert(message.method() == Method::Invite, data)?;
        let timers = self.config.timers;
        let invite = message.method() == Method::Invite;
        let server = Server::new(now, &timers, invite);
        let peer = response_address(message, source);
        self.servers.insert(key, id);
        let context = self.context_mut(id)?;
        context.upstreams.push(Upstream {
            server,
            key,
            flow,
            peer,
            via: None,
        });
        if invite {
            let head = ResponseHead {
                status: 100,
                reason: b"Trying",
                to_tag: None,
                headers: &[],
            };
            let mut response = Vec::new();
            sip_types::respond_from(message, source, &head, &mut response);
            self.outbox.push(flow, peer, &response);
            if let Some(context) = self.context_mut(id) {
                context.response = response;
                context.response_status = 100;
            }
        }
        Some(id)
    }

    /// Sets how long an INVITE of this context may ring on: Timer C.
    pub fn set_timer_c(&mut self, id: ContextId, timer_c: Duration) {
        if let Some(context) = self.context_mut(id) {
            context.timer_c = timer_c;
        }
    }

    /// Opens a context that answers nobody: an ACK of a 2xx whose way must be watched.
    pub fn open_ack(&mut self, data: C) -> Option<ContextId> {
        self.insert(false, data)
    }

    fn insert(&mut self, invite: bool, data: C) -> Option<ContextId> {
        if self.contexts.len() >= self.config.contexts_max {
            return None;
        }
        let generation = self.rng.next_u32();
        let slot =
            self.contexts
                .insert(Context::new(generation, invite, self.config.timer_c, data));
        Some(ContextId {
            slot: u32::try_from(slot).ok()?,
            generation,
        })
    }

    /// Lets a second copy of a context's request share its fate: same responses, nothing sent on.
    pub fn join(
        &mut self,
        now: Instant,
        id: ContextId,
        key: ServerKey,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let timers = self.config.timers;
        let Some(via) = message.top_via() else { return };
        let own_via = message.bytes()[via.range].to_vec().into_boxed_slice();
        let peer = response_address(message, source);
        let Some(context) = self.context_mut(id) else {
            return;
        };
        if context.upstreams.len() >= TRIES_MAX {
            return;
        }
        let server = Server::new(now, &timers, context.invite);
        context.upstreams.push(Upstream {
            server,
            key,
            flow,
            peer,
            via: Some(own_via),
        });
        let position = context.upstreams.len() - 1;
        let status = context.response_status;
        self.servers.insert(key, id);
        if status > 0
            && self.context_mut(id).is_some_and(|context| {
                context.upstreams[position]
                    .server
                    .handle_response(now, &timers, status)
            })
        {
            self.send_response(id, position);
        }
        self.settle(id);
    }

    /// Sends the request of a context on: RFC 3261 section 16.6.
    ///
    /// `edits` holds what the user changes in `message`; Via, Max-Forwards and `received` are added
    /// here. The message is copied once, and later tries are made from the copy.
    #[allow(clippy::too_many_arguments)] // the RFC's own list
    pub fn forward(
        &mut self,
        now: Instant,
        id: ContextId,
        source: SocketAddr,
        message: &Message<'_>,
        edits: &mut Splice,
        loop_key: u32,
        target: Target,
        data: B,
    ) -> Option<BranchId> {
        let own = self.next_branch(id)?;
        let via = self.vias.get(usize::from(target.flow.0))?;
        add_via(edits, message, source, via, &own.write(loop_key));
        let mut sent = Vec::with_capacity(message.bytes().len() + 256);
        edits.apply(message.bytes(), &mut sent);
        edits.clear();
        let at = sent.iter().position(|byte| *byte == b'\n')? + 1 + via.len();
        let context = self.context_mut(id)?;
        context.sent = Some(sent.into_boxed_slice());
        context.branch_at = u16::try_from(at).ok()?;
        context.loop_key = loop_key;
        self.start(now, own, target, None, message.method(), data)
    }

    /// Tries again, elsewhere: the same request under a new branch.
    ///
    /// With `edit`, the request is changed first: it is given the stored message, whose first Via is
    /// ours, and an empty list of edits. Returns `None` at [`TRIES_MAX`].
    pub fn retry(
        &mut self,
        now: Instant,
        id: ContextId,
        target: Target,
        data: B,
        edit: Option<&mut Edit<'_>>,
    ) -> Option<BranchId> {
        let own = self.next_branch(id)?;
        let context = self
            .contexts
            .get(id.slot as usize)
            .filter(|context| context.generation == id.generation)?;
        let sent = context.sent.as_deref()?;
        let message = Message::parse(sent, &mut self.index).ok()?;
        let method = message.method();
        let is_ack = method == Method::Ack;
        let mut bytes = None;
        if let Some(edit) = edit {
            self.splice.clear();
            edit(&message, &mut self.splice);
            let mut own_copy = Vec::with_capacity(sent.len());
            self.splice.apply(sent, &mut own_copy);
            self.splice.clear();
            bytes = Some(own_copy.into_boxed_slice());
        }
        let method = if is_ack {
            Method::Ack
        } else if context.invite {
            Method::Invite
        } else {
            Method::Bye
        };
        self.start(now, own, target, bytes, method, data)
    }

    fn next_branch(&self, id: ContextId) -> Option<BranchId> {
        let context = self.context(id)?;
        if context.branches.len() >= TRIES_MAX {
            return None;
        }
        Some(BranchId {
            context: id,
            index: u8::try_from(context.branches.len()).ok()?,
        })
    }

    fn start(
        &mut self,
        now: Instant,
        id: BranchId,
        target: Target,
        bytes: Option<Box<[u8]>>,
        method: Method<'_>,
        data: B,
    ) -> Option<BranchId> {
        let timers = self.config.timers;
        let client = if method == Method::Ack {
            Client::Acknowledgement(Some(now + timers.transaction()))
        } else {
            Client::new(now, &timers, method == Method::Invite)
        };
        let context = self.context_mut(id.context)?;
        context.branches.push(Branch {
            client,
            target,
            cancel: Cancel::None,
            timer_c: None,
            silent_at: None,
            given_up: false,
            bytes,
            data,
        });
        self.send_request(id);
        self.settle(id.context);
        Some(id)
    }

    /// Asks for [`Event::Silent`] when the try has got no response at all by `at`.
    pub fn expect_answer(&mut self, id: BranchId, at: Instant) {
        if let Some(branch) = self
            .branch_mut(id)
            .filter(|branch| branch.client.is_unanswered())
        {
            branch.silent_at = Some(at);
            self.settle(id.context);
        }
    }

    /// Forgets what [`Proxy::expect_answer`] asked for.
    pub fn expect_no_answer(&mut self, id: BranchId) {
        if let Some(branch) = self.branch_mut(id) {
            branch.silent_at = None;
        }
    }

    /// Stops repeating a try's request: its peer is dead, or was given up. Late answers still count.
    pub fn stop_repeating(&mut self, now: Instant, id: BranchId, until: Duration) {
        if let Some(branch) = self.branch_mut(id) {
            branch.client.stop_repeating(now + until);
            branch.silent_at = None;
            self.settle(id.context);
        }
    }

    /// Gives a try up: it no longer decides anything, is not repeated, and is cancelled as soon as it
    /// shows life.
    pub fn give_up(&mut self, now: Instant, id: BranchId) {
        let until = self.config.timers.transaction();
        if let Some(branch) = self.branch_mut(id) {
            branch.given_up = true;
        }
        self.stop_repeating(now, id, until);
        self.cancel(now, id);
    }

    /// Ends a try at once and forgets it: its purpose is fulfilled.
    pub fn conclude(&mut self, id: BranchId) {
        if let Some(branch) = self.branch_mut(id) {
            branch.client.terminate();
            self.settle(id.context);
        }
    }

    /// Cancels an INVITE's try: now if it rings, else with its first provisional (section 9.1). Once.
    pub fn cancel(&mut self, now: Instant, id: BranchId) {
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if !matches!(branch.client, Client::Invite(_))
            || !matches!(branch.cancel, Cancel::None)
            || !branch.client.is_pending()
        {
            return;
        }
        branch.cancel = Cancel::Wanted;
        if branch.client.may_be_cancelled() {
            self.send_cancel(now, id);
            self.settle(id.context);
        }
    }

    fn send_cancel(&mut self, now: Instant, id: BranchId) {
        let timers = self.config.timers;
        if let Some(branch) = self.branch_mut(id) {
            branch.cancel = Cancel::Sent(Client::new(now, &timers, false));
            branch.timer_c = None;
            // Section 9.1: without a final answer to the INVITE the transaction ends after 64 * T1.
            branch.client.stop_repeating(now + timers.transaction());
            self.write_cancel(id);
        }
    }

    /// Sends a response of a try upstream: RFC 3261 section 16.7 steps 3 and 8.
    ///
    /// `edits` holds what the user changes; the topmost Via is taken off here.
    pub fn forward_response(
        &mut self,
        now: Instant,
        id: ContextId,
        message: &Message<'_>,
        edits: &mut Splice,
    ) {
        edits.remove_leading(message, HeaderName::Via, 1);
        let mut response = match self.context_mut(id) {
            Some(context) => std::mem::take(&mut context.response),
            None => return edits.clear(),
        };
        response.clear();
        edits.apply(message.bytes(), &mut response);
        edits.clear();
        self.deliver(now, id, message.status().unwrap_or(500), response);
    }

    /// Answers the request of a context ourselves.
    pub fn respond(&mut self, now: Instant, id: ContextId, status: u16, headers: &[(&str, &[u8])]) {
        let tag = self.tag();
        let Some(context) = self
            .contexts
            .get(id.slot as usize)
            .filter(|context| context.generation == id.generation)
        else {
            return;
        };
        let Some(sent) = context.sent.as_deref() else {
            return;
        };
        let Ok(message) = Message::parse(sent, &mut self.index) else {
            return;
        };
        self.splice.clear();
        self.splice.remove_leading(&message, HeaderName::Via, 1);
        self.buffer.clear();
        self.splice.apply(sent, &mut self.buffer);
        self.splice.clear();
        let Ok(message) = Message::parse(&self.buffer, &mut self.index) else {
            return;
        };
        let head = ResponseHead {
            status,
            reason: sip_types::reason_phrase(status).as_bytes(),
            to_tag: Some(&tag),
            headers,
        };
        let mut response = Vec::new();
        sip_types::respond(&message, &head, &mut response);
        self.deliver(now, id, status, response);
    }

    fn deliver(&mut self, now: Instant, id: ContextId, status: u16, response: Vec<u8>) {
        let timers = self.config.timers;
        let Some(context) = self.context_mut(id) else {
            return;
        };
        if context.invite && (200..300).contains(&status) && context.response_status >= 300 {
            // Section 16.7 step 5: a 2xx always goes on, even behind a failure.
            if let Some(upstream) = context.upstreams.first() {
                let (flow, peer) = (upstream.flow, upstream.peer);
                self.outbox.push(flow, peer, &response);
            }
            return;
        }
        context.response = response;
        context.response_status = status;
        for position in 0..context.upstreams.len() {
            let Some(context) = self.context_mut(id) else {
                return;
            };
            if context.upstreams[position]
                .server
                .handle_response(now, &timers, status)
            {
                self.send_response(id, position);
            }
        }
        self.settle(id);
    }

    /// Answers a request without a transaction: what must not cost memory.
    pub fn respond_stateless(
        &mut self,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        status: u16,
        headers: &[(&str, &[u8])],
    ) {
        self.respond_stateless_because(
            flow,
            source,
            message,
            status,
            sip_types::reason_phrase(status),
            headers,
        );
    }

    /// Answers a request without a transaction, with a reason phrase of its own. ACK is never answered.
    pub fn respond_stateless_because(
        &mut self,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        status: u16,
        reason: &str,
        headers: &[(&str, &[u8])],
    ) {
        if message.method() == Method::Ack || message.is_response() {
            return;
        }
        let tag = self.stateless_tag(message);
        let peer = response_address(message, source);
        let head = ResponseHead {
            status,
            reason: reason.as_bytes(),
            to_tag: Some(&tag),
            headers,
        };
        self.outbox.push_with(flow, peer, |out| {
            sip_types::respond_from(message, source, &head, out)
        });
    }

    /// Sends a request on without remembering it: the second pass of an ACK.
    pub fn forward_stateless(
        &mut self,
        source: SocketAddr,
        message: &Message<'_>,
        edits: &mut Splice,
        target: Target,
    ) {
        let Some(via) = self.vias.get(usize::from(target.flow.0)) else {
            return edits.clear();
        };
        // Section 16.11: the same for a repeat, different for anything else.
        let Some(key) = ServerKey::of(&self.hash_key, message, Method::Ack) else {
            return edits.clear();
        };
        let branch = key.stateless_branch();
        add_via(edits, message, source, via, &branch);
        self.outbox
            .push_with(target.flow, target.destination, |out| {
                edits.apply(message.bytes(), out)
            });
        edits.clear();
    }

    /// Sends a response on without a transaction: off comes the topmost Via, the next says where to.
    pub fn forward_response_stateless(&mut self, flow: FlowId, message: &Message<'_>) -> bool {
        let Some(Ok(next)) = message.vias().nth(1) else {
            return false;
        };
        let Some(destination) = next.response_addr() else {
            return false;
        };
        self.splice.clear();
        self.splice.remove_leading(message, HeaderName::Via, 1);
        let Self { splice, outbox, .. } = self;
        outbox.push_with(flow, destination, |out| splice.apply(message.bytes(), out));
        splice.clear();
        true
    }

    // What there is.

    /// Returns what the user keeps with a context; `None` when it has ended.
    #[must_use]
    pub fn data(&self, id: ContextId) -> Option<&C> {
        self.context(id).map(|context| &context.data)
    }

    /// Returns what the user keeps with a context, to change it.
    pub fn data_mut(&mut self, id: ContextId) -> Option<&mut C> {
        self.context_mut(id).map(|context| &mut context.data)
    }

    /// Returns a context; `None` when it has ended.
    #[must_use]
    pub fn context(&self, id: ContextId) -> Option<&Context<C, B>> {
        self.contexts
            .get(id.slot as usize)
            .filter(|context| context.generation == id.generation)
    }

    fn context_mut(&mut self, id: ContextId) -> Option<&mut Context<C, B>> {
        self.contexts
            .get_mut(id.slot as usize)
            .filter(|context| context.generation == id.generation)
    }

    /// Returns a try; `None` when its context has ended.
    #[must_use]
    pub fn branch(&self, id: BranchId) -> Option<&Branch<B>> {
        self.context(id.context)?
            .branches
            .get(usize::from(id.index))
    }

    fn branch_mut(&mut self, id: BranchId) -> Option<&mut Branch<B>> {
        self.context_mut(id.context)?
            .branches
            .get_mut(usize::from(id.index))
    }

    /// Returns what the user keeps with a try, to change it.
    pub fn branch_data_mut(&mut self, id: BranchId) -> Option<&mut B> {
        self.branch_mut(id).map(|branch| &mut branch.data)
    }

    /// Returns every context, in the order of their slots.
    pub fn contexts(&self) -> impl Iterator<Item = (ContextId, &Context<C, B>)> {
        self.contexts.iter().filter_map(|(slot, context)| {
            Some((
                ContextId {
                    slot: u32::try_from(slot).ok()?,
                    generation: context.generation,
                },
                context,
            ))
        })
    }

    /// Returns how many contexts are alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    /// Tells whether nothing is going on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// Returns the key under which this proxy hashes: random, its own.
    #[must_use]
    pub fn hash_key(&self) -> &[u8; 16] {
        &self.hash_key
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> ProxyCounters {
        self.counters
    }

    /// Tells whether `message` comes back to us as it was when it left: RFC 3261 section 16.3 step 4.
    #[must_use]
    pub fn is_loop(&self, message: &Message<'_>, loop_key: u32) -> bool {
        message.vias().flatten().any(|via| {
            via.branch
                .and_then(BranchId::read)
                .is_some_and(|(_, key)| key == loop_key)
                && via
                    .sent_by_addr()
                    .is_some_and(|addr| self.config.listen.contains(&addr))
        })
    }

    /// Tells whether an address is one of those we listen on.
    #[must_use]
    pub fn is_listen_address(&self, address: SocketAddr) -> bool {
        self.config.listen.contains(&address)
    }

    /// Returns the next decision that a timer asks for.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Returns the datagrams to send.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    // The wire.

    fn tag(&mut self) -> [u8; 16] {
        write_tag(self.rng.next_u64())
    }

    /// Returns the To tag of what is answered without a transaction: its ACK is known by it.
    fn stateless_tag(&self, message: &Message<'_>) -> [u8; 16] {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(b"stateless");
        hasher.write(message.call_id());
        write_tag(hasher.finish())
    }

    /// Writes a try's request, as it was sent, into `self.buffer`; tells whether there is one.
    fn write_request(&mut self, id: BranchId) -> Option<Target> {
        let context = self
            .contexts
            .get(id.context.slot as usize)
            .filter(|context| context.generation == id.context.generation)?;
        let branch = context.branches.get(usize::from(id.index))?;
        let bytes = branch.bytes.as_deref().or(context.sent.as_deref())?;
        self.buffer.clear();
        self.buffer.extend_from_slice(bytes);
        let at = usize::from(context.branch_at);
        self.buffer[at..at + branch::LENGTH].copy_from_slice(&id.write(context.loop_key));
        Some(branch.target)
    }

    fn send_request(&mut self, id: BranchId) {
        if let Some(target) = self.write_request(id) {
            self.outbox
                .push(target.flow, target.destination, &self.buffer);
        }
    }

    fn acknowledge(&mut self, id: BranchId, response: &Message<'_>) {
        let Some(target) = self.write_request(id) else {
            return;
        };
        let Self {
            index,
            buffer,
            outbox,
            ..
        } = self;
        if let Ok(invite) = Message::parse(buffer, index) {
            outbox.push_with(target.flow, target.destination, |out| {
                sip_types::ack_for(&invite, response, out)
            });
        }
    }

    fn write_cancel(&mut self, id: BranchId) {
        let Some(target) = self.write_request(id) else {
            return;
        };
        let Self {
            index,
            buffer,
            outbox,
            ..
        } = self;
        if let Ok(invite) = Message::parse(buffer, index) {
            let destination = invite
                .header(HeaderName::XDestinationUri)
                .map(|header| ("X-Destination-URI", header.value()));
            outbox.push_with(target.flow, target.destination, |out| {
                sip_types::cancel_for(&invite, destination.as_slice(), out);
            });
        }
    }

    fn send_response(&mut self, id: ContextId, position: usize) {
        let Some(context) = self
            .contexts
            .get(id.slot as usize)
            .filter(|context| context.generation == id.generation)
        else {
            return;
        };
        let upstream = &context.upstreams[position];
        let Some(own_via) = &upstream.via else {
            if !context.response.is_empty() {
                self.outbox
                    .push(upstream.flow, upstream.peer, &context.response);
            }
            return;
        };
        // A copy that joined: its own topmost Via in place of the first one's.
        let Self {
            index,
            splice,
            outbox,
            ..
        } = self;
        let Ok(response) = Message::parse(&context.response, index) else {
            return;
        };
        let Some(via) = response.top_via() else {
            return;
        };
        splice.clear();
        splice.replace(via.range, own_via);
        outbox.push_with(upstream.flow, upstream.peer, |out| {
            splice.apply(&context.response, out)
        });
        splice.clear();
    }

    /// Forgets what has ended, and arms the context's next deadline.
    fn settle(&mut self, id: ContextId) {
        let Some(context) = self.context_mut(id) else {
            return;
        };
        if context.is_terminated() {
            let context = self.contexts.remove(id.slot as usize);
            for upstream in &context.upstreams {
                self.servers.remove(&upstream.key);
            }
            return;
        }
        context.release();
        let Some(next) = context.poll_timeout() else {
            return;
        };
        if context.armed.is_none_or(|armed| next < armed) {
            context.armed = Some(next);
            self.deadlines.arm(next, id);
        }
    }
}

/// Returns where responses to a request go: RFC 3261 section 18.2.2, RFC 3581 section 4.
pub(crate) fn response_address(message: &Message<'_>, source: SocketAddr) -> SocketAddr {
    let Some(via) = message.top_via() else {
        return source;
    };
    if via.rport.is_some() {
        return source;
    }
    SocketAddr::new(source.ip(), via.port.unwrap_or(5060))
}

/// Adds our Via in front, `received` and `rport` to the one below, and counts Max-Forwards down.
fn add_via(
    edits: &mut Splice,
    message: &Message<'_>,
    source: SocketAddr,
    via: &[u8],
    branch: &[u8],
) {
    edits.insert_with(message.headers_start(), |out| {
        out.extend_from_slice(via);
        out.extend_from_slice(branch);
        out.extend_from_slice(b"\r\n");
    });
    if let Some(via) = message.top_via() {
        edits.add_received(&via, source);
    }
    match (
        message.header(HeaderName::MaxForwards),
        message.max_forwards(),
    ) {
        (Some(header), Some(Ok(hops))) => edits.replace_with(header.value_range(), |out| {
            write_text(out, format_args!("{}", hops.saturating_sub(1)));
        }),
        (None, _) => edits.insert(message.headers_end(), b"Max-Forwards: 70\r\n"),
        (Some(_), _) => {}
    }
}

/// A tag of `t` and 60 of these bits.
fn write_tag(mut bits: u64) -> [u8; 16] {
    let mut tag = *b"t000000000000000";
    for byte in &mut tag[1..] {
        *byte = b"0123456789abcdef"[(bits & 15) as usize];
        bits >>= 4;
    }
    tag
}

fn write_text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    out.write_fmt(text)
        .expect("writing into memory does not fail");
}
