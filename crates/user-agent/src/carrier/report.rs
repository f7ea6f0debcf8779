//! What the caller saw.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::message::Method;
use crate::plan::CallPlan;

/// The most requests that a record holds.
pub const REQUESTS_REMEMBERED_MAX: usize = 32;
/// The most senders of responses that a record holds.
pub const SOURCES_REMEMBERED_MAX: usize = 8;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered, everything in it was answered with 2xx, and so was the BYE that ended it.
    Completed,
    /// It was refused with this status, 300 to 699.
    Rejected(u16),
    /// It was cancelled, and ended with 487.
    Cancelled,
    /// It did not go as it should.
    Failed(Failure),
}

/// Why a call failed; the first thing that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No final response in 32 s; for an INVITE no response at all.
    Timeout(Method),
    /// A request other than the first INVITE was answered with this status, 300 to 699.
    Refused(Method, u16),
    /// The CANCEL came too late or in vain: no final response in 32 s after it.
    CancelUnanswered,
    /// It rang for longer than `ring_max`.
    RangTooLong,
    /// The 2xx came without a usable Contact or Record-Route.
    NoDialog,
    /// The dialog leads to no numeric address.
    NoRoute(Method),
}

/// A request and how it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its method.
    pub method: Method,
    /// From its first sending to the first response that counts: 101 or more for INVITE, a final
    /// one for others. Without any, to the end of waiting.
    pub elapsed: Duration,
    /// The status of that response; 408 without any (RFC 3261 section 8.1.3.1).
    pub status: u16,
}

/// What the caller saw of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// What was planned.
    pub plan: CallPlan,
    /// When it was placed.
    pub placed: Instant,
    /// When the first 101 to 199 came.
    pub ringing: Option<Instant>,
    /// When the first 2xx came.
    pub answered: Option<Instant>,
    /// How it ended; `None` while it lasts.
    pub outcome: Option<Outcome>,
    /// Whether the callee sent the BYE.
    pub callee_hung_up: bool,
    /// How many 2xx to the INVITE came from another callee than the first; each got a BYE.
    pub extra_answers: u32,
    /// Its requests in the order of their answers, at most [`REQUESTS_REMEMBERED_MAX`].
    pub requests: Vec<RequestRecord>,
    /// The slowest of all its requests.
    pub slowest: Option<RequestRecord>,
    /// Who sent it responses, at most [`SOURCES_REMEMBERED_MAX`], in the order of appearance.
    pub sources: Vec<SocketAddr>,
}

impl CallRecord {
    pub(super) fn new(plan: &CallPlan, placed: Instant) -> Self {
        Self {
            plan: plan.clone(),
            placed,
            ringing: None,
            answered: None,
            outcome: None,
            callee_hung_up: false,
            extra_answers: 0,
            requests: Vec::new(),
            slowest: None,
            sources: Vec::new(),
        }
    }

    pub(super) fn note_request(&mut self, request: RequestRecord) {
        if self.requests.len() < REQUESTS_REMEMBERED_MAX {
            self.requests.push(request);
        }
        if self
            .slowest
            .is_none_or(|slowest| slowest.elapsed < request.elapsed)
        {
            self.slowest = Some(request);
        }
    }

    pub(super) fn note_source(&mut self, source: SocketAddr) {
        if self.sources.len() < SOURCES_REMEMBERED_MAX && !self.sources.contains(&source) {
            self.sources.push(source);
        }
    }
}

/// Totals over all calls, forgotten ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarrierReport {
    /// Calls placed.
    pub placed: u64,
    /// Of them [`Outcome::Completed`].
    pub completed: u64,
    /// Of them [`Outcome::Rejected`].
    pub rejected: u64,
    /// Of them [`Outcome::Cancelled`].
    pub cancelled: u64,
    /// Of them [`Outcome::Failed`].
    pub failed: u64,
    /// The slowest request of all.
    pub slowest: Option<RequestRecord>,
    /// Datagrams sent again.
    pub retransmissions: u64,
    /// Datagrams that could not be read.
    pub garbage: u64,
    /// Requests dropped because the transaction table was full.
    pub overflows: u64,
    /// Events dropped because nobody drained them.
    pub events_dropped: u64,
    /// Records that made room for newer ones.
    pub records_forgotten: u64,
}

impl CarrierReport {
    pub(super) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Completed => self.completed += 1,
            Outcome::Rejected(_) => self.rejected += 1,
            Outcome::Cancelled => self.cancelled += 1,
            Outcome::Failed(_) => self.failed += 1,
        }
    }
}
