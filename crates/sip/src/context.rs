//! Response contexts: one request, whom it came from, and every try to send it on. RFC 3261 section 16.2.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::FlowId;
use smallvec::SmallVec;

use crate::timers::earlier;
use crate::transaction::{Client, Server, ServerKey};

/// Where a try goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The listen address it leaves from, and which stands in its Via.
    pub flow: FlowId,
    /// Whom it is sent to.
    pub destination: SocketAddr,
}

/// One request on its way. `C` is what the user keeps with it, `B` what it keeps with each try.
#[derive(Debug)]
pub struct Context<C, B> {
    pub(crate) generation: u32,
    pub(crate) invite: bool,
    /// Timer C of its tries.
    pub(crate) timer_c: Duration,
    /// Whom it came from: one server transaction, more when copies have joined.
    pub(crate) upstreams: SmallVec<[Upstream; 1]>,
    /// The request as it was sent, our Via on top: every try differs from it in its branch alone.
    pub(crate) sent: Option<Box<[u8]>>,
    /// Where the branch stands in `sent`.
    pub(crate) branch_at: u16,
    pub(crate) loop_key: u32,
    pub(crate) branches: SmallVec<[Branch<B>; 1]>,
    /// The latest response sent upstream; empty when there was none.
    pub(crate) response: Vec<u8>,
    pub(crate) response_status: u16,
    /// When its entry in the queue of deadlines is due.
    pub(crate) armed: Option<Instant>,
    /// What the user keeps with it.
    pub data: C,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) server: Server,
    pub(crate) key: ServerKey,
    pub(crate) flow: FlowId,
    pub(crate) peer: SocketAddr,
    /// The topmost Via of a copy that joined; the first one's stands in the responses already.
    pub(crate) via: Option<Box<[u8]>>,
}

/// One try: a client transaction and its CANCEL.
#[derive(Debug)]
pub struct Branch<B> {
    pub(crate) client: Client,
    /// Where it was sent.
    pub target: Target,
    pub(crate) cancel: Cancel,
    pub(crate) timer_c: Option<Instant>,
    pub(crate) silence: Option<Silence>,
    pub(crate) given_up: bool,
    /// The request, where it differs from the context's in more than the branch.
    /// and where its branch stands.
    pub(crate) bytes: Option<(Box<[u8]>, u16)>,
    /// What the user keeps with it.
    pub data: B,
}

/// How long a try may get no response before its user is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    pub(crate) until: Instant,
    /// Whether a 100 ends it.
    pub(crate) trying_counts: bool,
}

#[derive(Debug)]
pub(crate) enum Cancel {
    None,
    /// As soon as a provisional response has come.
    Wanted,
    Sent(Client),
}

impl<C, B> Context<C, B> {
    pub(crate) fn new(generation: u32, invite: bool, timer_c: Duration, data: C) -> Self {
        Self {
            generation,
            invite,
            timer_c,
            upstreams: SmallVec::new(),
            sent: None,
            branch_at: 0,
            loop_key: 0,
            branches: SmallVec::new(),
            response: Vec::new(),
            response_status: 0,
            armed: None,
            data,
        }
    }

    /// Tells whether its request is an INVITE.
    #[must_use]
    pub fn is_invite(&self) -> bool {
        self.invite
    }

    /// Tells whether its request still waits for a final response.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.upstreams
            .iter()
            .any(|upstream| upstream.server.is_pending())
    }

    /// Returns what `forward` was told about where its request goes: see [`crate::loop_key`].
    #[must_use]
    pub fn loop_key(&self) -> u32 {
        self.loop_key
    }

    /// Returns the tries, in the order of their making.
    #[must_use]
    pub fn branches(&self) -> &[Branch<B>] {
        &self.branches
    }

    /// Returns the request as it was sent, our Via on top, while it is still needed.
    #[must_use]
    pub fn request(&self) -> Option<&[u8]> {
        self.sent.as_deref()
    }

    /// Returns the latest response that was sent upstream, and its status; `None` before the first.
    #[must_use]
    pub fn response(&self) -> Option<(u16, &[u8])> {
        (!self.response.is_empty()).then_some((self.response_status, &self.response[..]))
    }

    pub(crate) fn is_terminated(&self) -> bool {
        (!self.branches.is_empty() || !self.upstreams.is_empty())
            && self
                .upstreams
                .iter()
                .all(|upstream| upstream.server.is_terminated())
            && self.branches.iter().all(Branch::is_terminated)
    }

    /// Frees what no repeat, ACK, CANCEL or further try can need any more.
    pub(crate) fn release(&mut self) {
        if !self.branches.is_empty()
            && !self.is_pending()
            && self.branches.iter().all(Branch::needs_no_request)
        {
            self.sent = None;
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let servers = self
            .upstreams
            .iter()
            .map(|upstream| upstream.server.poll_timeout());
        let branches = self.branches.iter().map(Branch::poll_timeout);
        servers.chain(branches).fold(None, earlier)
    }
}

impl<B> Branch<B> {
    /// Tells whether no final response has come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.client.is_pending()
    }

    /// Tells whether no response at all has come.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.client.is_unanswered()
    }

    /// Tells whether a response to it may still count: a final one, or one more 2xx of an INVITE.
    #[must_use]
    pub fn takes_responses(&self) -> bool {
        self.client.takes_responses()
    }

    /// Tells whether it was given up: it no longer decides anything.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Tells whether it was cancelled, be it that its CANCEL still waits for a provisional response.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        !matches!(self.cancel, Cancel::None)
    }

    fn is_terminated(&self) -> bool {
        self.client.is_terminated()
            && match &self.cancel {
                Cancel::None | Cancel::Wanted => true,
                Cancel::Sent(client) => client.is_terminated(),
            }
    }

    fn needs_no_request(&self) -> bool {
        !self.is_pending()
            && !self.client.acknowledges()
            && match &self.cancel {
                Cancel::None | Cancel::Wanted => true,
                Cancel::Sent(client) => !client.is_pending(),
            }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let cancel = match &self.cancel {
            Cancel::None | Cancel::Wanted => None,
            Cancel::Sent(client) => client.poll_timeout(),
        };
        [
            self.client.poll_timeout(),
            self.timer_c,
            self.silence.map(|silence| silence.until),
            cancel,
        ]
        .into_iter()
        .fold(None, earlier)
    }
}
