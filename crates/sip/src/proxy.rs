//! The proxy core: RFC 3261 section 16 over the four transaction machines. Sans-IO.
//!
//! A [`Proxy`] holds the response contexts of one shard (section 16.2): the server transaction of a
//! request and a client transaction for each try. What goes where is its user's business: the user
//! hands in messages, is told what arrived, and says `forward`, `retry`, `cancel`, `respond`.

mod act;
mod admit;
mod receive;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::Outbox;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sip_types::{HEADERS_MAX, Index, MESSAGE_BYTES_MAX, Message, Method, Splice};
use slab::Slab;

use crate::branch::{BranchId, ContextId};
use crate::context::{Branch, Context};
use crate::refused::Refused;
use crate::timers::{Deadlines, TimerConfig};
use crate::transaction::{Client, ServerKey};

pub use admit::Admission;
pub(crate) use wire::response_address;

/// What `Retry-After` says when a request is refused for now, in seconds.
pub const RETRY_AFTER: (&str, &[u8]) = ("Retry-After", b"2");

/// How many tries one request gets; a further one is refused to the user.
pub const TRIES_MAX: usize = 32;

/// The settings of a proxy core.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The listen addresses in the order of their [`FlowId`](element::FlowId)s: what stands in Via.
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

impl ProxyConfig {
    fn client(&self, now: Instant, method: Method<'_>) -> Client {
        if method == Method::Ack {
            Client::Acknowledgement(Some(now + self.timers.transaction()))
        } else {
            Client::new(now, &self.timers, method == Method::Invite)
        }
    }
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
    /// Nothing came within the time given to [`Proxy::expect_answer`] or [`Proxy::expect_word`].
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
    /// Refused INVITEs forgotten before their time: see [`crate::refused::REFUSED_MAX`].
    pub refused_forgotten: u64,
}

impl ProxyCounters {
    /// Adds another core's.
    pub fn add(&mut self, other: &Self) {
        self.repeats_sent += other.repeats_sent;
        self.repeats_absorbed += other.repeats_absorbed;
        self.stray_responses += other.stray_responses;
        self.refused_forgotten += other.refused_forgotten;
    }
}

/// Changes a stored request before another try: see [`Proxy::retry`].
pub type Edit<'a> = dyn FnMut(&Message<'_>, &mut Splice) + 'a;

/// How many header lines an element may add to a message on its way.
const HEADERS_ADDED_MAX: usize = 8;

/// How many bytes it may add.
const BYTES_ADDED_MAX: usize = 4096;

/// Tells whether a request can still be read after an element has added its own lines to it.
///
/// One that cannot is refused (513) instead of being sent on to somebody who has to drop it.
#[must_use]
pub fn leaves_room(message: &Message<'_>) -> bool {
    message.headers().count() + HEADERS_ADDED_MAX <= HEADERS_MAX
        && message.bytes().len() + BYTES_ADDED_MAX <= MESSAGE_BYTES_MAX
}

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
    refused: Refused,
    deadlines: Deadlines<ContextId>,
    events: VecDeque<Event>,
    outbox: Outbox,
    rng: StdRng,
    splice: Splice,
    buffer: Vec<u8>,
    /// What the next response is written into.
    spare: Vec<u8>,
    index: Index,
    counters: ProxyCounters,
}

impl<C, B> Proxy<C, B> {
    /// Creates a proxy core; `seed` feeds branches, tags and the hash key.
    #[must_use]
    pub fn new(config: ProxyConfig, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
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
            refused: Refused::default(),
            deadlines: Deadlines::new(),
            events: VecDeque::new(),
            outbox: Outbox::new(),
            rng,
            splice: Splice::new(),
            buffer: Vec::new(),
            spare: Vec::new(),
            index: Index::new(),
            counters: ProxyCounters::default(),
        }
    }

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
        live(&self.contexts, id)
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

    /// Tells whether a new request has room: an eighth is kept for what belongs to requests that are
    /// under way and for established dialogs.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.contexts.len() < self.config.contexts_max / 8 * 7
    }

    /// Returns how many contexts are alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    /// Tells whether a request still waits for its final response.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let mut contexts = self.contexts();
        contexts.any(|(_, context)| context.is_pending())
    }

    /// Tells whether nothing is going on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// Returns the key of the INVITE that a request is, acknowledges after a failure, or cancels.
    #[must_use]
    pub fn invite_key(&self, message: &Message<'_>) -> Option<ServerKey> {
        ServerKey::of(&self.hash_key, message, Method::Invite)
    }

    /// Returns the key under which this proxy hashes: random, its own.
    #[must_use]
    pub fn hash_key(&self) -> &[u8; 16] {
        &self.hash_key
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> ProxyCounters {
        ProxyCounters {
            refused_forgotten: self.refused.forgotten(),
            ..self.counters
        }
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
}

/// Finds a context that has not ended. Apart from [`Proxy::context`], so that it borrows the contexts alone.
fn live<C, B>(contexts: &Slab<Context<C, B>>, id: ContextId) -> Option<&Context<C, B>> {
    contexts
        .get(id.slot as usize)
        .filter(|context| context.generation == id.generation)
}
