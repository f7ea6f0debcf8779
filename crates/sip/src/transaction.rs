//! The two sides of a transaction, whichever method it has, and how it is found again.

use std::hash::Hasher;
use std::time::Instant;

use sip_types::{Message, Method};
use siphasher::sip::SipHasher13;

use crate::client_invite::ClientInvite;
use crate::client_non_invite::ClientNonInvite;
use crate::server_invite::{Ack, ServerInvite};
use crate::server_non_invite::ServerNonInvite;
use crate::timers::TimerConfig;

/// What a client transaction does with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Hand it to the transaction user.
    Deliver,
    /// Send ACK and hand it to the transaction user.
    AcknowledgeAndDeliver,
    /// Send ACK: it repeats a failure.
    Acknowledge,
    /// Nothing: it repeats what is known or comes too late.
    Absorb,
}

/// What a timer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send the last message again.
    Repeat,
    /// The transaction ended without an answer.
    TimedOut,
}

/// A client transaction.
#[derive(Debug)]
pub(crate) enum Client {
    Invite(ClientInvite),
    NonInvite(ClientNonInvite),
    /// ACK of a 2xx, which nobody answers: remembered until this moment, or `None` when it has arrived.
    Acknowledgement(Option<Instant>),
}

impl Client {
    pub(crate) fn new(now: Instant, timers: &TimerConfig, invite: bool) -> Self {
        if invite {
            Self::Invite(ClientInvite::new(now, timers))
        } else {
            Self::NonInvite(ClientNonInvite::new(now, timers))
        }
    }

    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        timers: &TimerConfig,
        status: u16,
    ) -> Reaction {
        match self {
            Self::Invite(client) => client.handle_response(now, timers, status),
            Self::NonInvite(client) => client.handle_response(now, timers, status),
            Self::Acknowledgement(_) => Reaction::Absorb,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, timers: &TimerConfig) -> Option<Due> {
        match self {
            Self::Invite(client) => client.handle_timeout(now),
            Self::NonInvite(client) => client.handle_timeout(now, timers),
            Self::Acknowledgement(until) => {
                until.take_if(|at| *at <= now);
                None
            }
        }
    }

    pub(crate) fn stop_repeating(&mut self, until: Instant) {
        match self {
            Self::Invite(client) => client.stop_repeating(until),
            Self::NonInvite(client) => client.stop_repeating(until),
            Self::Acknowledgement(_) => {}
        }
    }

    pub(crate) fn repeat_past_trying(&mut self, now: Instant, timers: &TimerConfig) {
        if let Self::Invite(client) = self {
            client.repeat_past_trying(now, timers);
        }
    }

    pub(crate) fn repeat_no_more(&mut self) {
        if let Self::Invite(client) = self {
            client.repeat_no_more();
        }
    }

    pub(crate) fn terminate(&mut self) {
        match self {
            Self::Invite(client) => client.terminate(),
            Self::NonInvite(client) => client.terminate(),
            Self::Acknowledgement(until) => *until = None,
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        match self {
            Self::Invite(client) => client.is_pending(),
            Self::NonInvite(client) => client.is_pending(),
            Self::Acknowledgement(until) => until.is_some(),
        }
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        match self {
            Self::Invite(client) => client.is_unanswered(),
            Self::NonInvite(client) => client.is_unanswered(),
            Self::Acknowledgement(until) => until.is_some(),
        }
    }

    /// It is pending, or it is an INVITE whose every 2xx is handed on.
    pub(crate) fn takes_responses(&self) -> bool {
        self.is_pending() || matches!(self, Self::Invite(client) if client.is_accepted())
    }

    /// An INVITE that rings: RFC 3261 section 9.1 allows CANCEL only now.
    pub(crate) fn may_be_cancelled(&self) -> bool {
        matches!(self, Self::Invite(client) if client.is_proceeding())
    }

    /// A failure of an INVITE may come again, and is acknowledged again.
    pub(crate) fn acknowledges(&self) -> bool {
        matches!(self, Self::Invite(client) if client.is_completed())
    }

    pub(crate) fn is_terminated(&self) -> bool {
        match self {
            Self::Invite(client) => client.is_terminated(),
            Self::NonInvite(client) => client.is_terminated(),
            Self::Acknowledgement(until) => until.is_none(),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Invite(client) => client.poll_timeout(),
            Self::NonInvite(client) => client.poll_timeout(),
            Self::Acknowledgement(until) => *until,
        }
    }
}

/// A server transaction.
#[derive(Debug)]
pub(crate) enum Server {
    Invite(ServerInvite),
    NonInvite(ServerNonInvite),
}

impl Server {
    pub(crate) fn new(now: Instant, timers: &TimerConfig, invite: bool) -> Self {
        if invite {
            Self::Invite(ServerInvite::new())
        } else {
            Self::NonInvite(ServerNonInvite::new(now, timers))
        }
    }

    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        timers: &TimerConfig,
        status: u16,
    ) -> bool {
        match self {
            Self::Invite(server) => server.handle_response(now, timers, status),
            Self::NonInvite(server) => server.handle_response(now, timers, status),
        }
    }

    pub(crate) fn handle_repeat(&self) -> bool {
        match self {
            Self::Invite(server) => server.handle_repeat(),
            Self::NonInvite(server) => server.handle_repeat(),
        }
    }

    pub(crate) fn handle_ack(&mut self, now: Instant, timers: &TimerConfig) -> Ack {
        match self {
            Self::Invite(server) => server.handle_ack(now, timers),
            Self::NonInvite(_) => Ack::Absorbed,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, timers: &TimerConfig) -> Option<Due> {
        match self {
            Self::Invite(server) => server.handle_timeout(now, timers),
            Self::NonInvite(server) => server.handle_timeout(now),
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        match self {
            Self::Invite(server) => server.is_pending(),
            Self::NonInvite(server) => server.is_pending(),
        }
    }

    pub(crate) fn is_terminated(&self) -> bool {
        match self {
            Self::Invite(server) => server.is_terminated(),
            Self::NonInvite(server) => server.is_terminated(),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Invite(server) => server.poll_timeout(),
            Self::NonInvite(server) => server.poll_timeout(),
        }
    }
}

/// Names a server transaction: a keyed hash of what RFC 3261 section 17.2.3 compares.
///
/// 64 bits under a key that is random per process: nobody outside can make two requests meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey(u64);

/// The branch prefix of RFC 3261 section 8.1.1.7.
pub(crate) const COOKIE: &[u8] = b"z9hG4bK";

impl ServerKey {
    /// Returns the key of the transaction that `request` creates or repeats; ACK and CANCEL give the
    /// key of the INVITE they are about when `as_invite`.
    pub(crate) fn of(
        hash_key: &[u8; 16],
        request: &Message<'_>,
        method: Method<'_>,
    ) -> Option<Self> {
        let via = request.top_via()?;
        let mut hasher = SipHasher13::new_with_key(hash_key);
        write(&mut hasher, method.as_bytes());
        write(&mut hasher, via.host);
        hasher.write_u16(via.port.unwrap_or(5060));
        match via.branch {
            Some(branch) if branch.starts_with(COOKIE) => write(&mut hasher, branch),
            // RFC 2543: no branch that is unique. Section 17.2.3 lists what stands in for it.
            branch => {
                write(&mut hasher, branch.unwrap_or_default());
                write(&mut hasher, request.request_uri());
                write(&mut hasher, request.call_id());
                write(&mut hasher, request.from_tag().unwrap_or_default());
                hasher.write_u32(request.cseq()?.number);
            }
        }
        Some(Self(hasher.finish()))
    }

    /// Returns a branch for what is sent on without a transaction: RFC 3261 section 16.11.
    pub(crate) fn stateless_branch(self) -> [u8; COOKIE.len() + 17] {
        use std::io::Write as _;
        let mut branch = [0; COOKIE.len() + 17];
        branch[..COOKIE.len()].copy_from_slice(COOKIE);
        write!(&mut branch[COOKIE.len()..], "s{:016x}", self.0).expect("17 characters fit");
        branch
    }
}

fn write(hasher: &mut SipHasher13, bytes: &[u8]) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}
