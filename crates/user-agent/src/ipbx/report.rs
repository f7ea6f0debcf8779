//! What the callee decided, and what became of it.

use std::time::Instant;

use crate::message::Method;
use crate::plan::CalleePlan;

/// How a call ended for the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CalleeOutcome {
    /// It was answered, acknowledged and ended by a BYE that was answered.
    Completed,
    /// It was refused with this status, as planned.
    Rejected(u16),
    /// It was cancelled while it rang.
    Cancelled,
    /// No ACK came for a 2xx in 32 s.
    NoAck,
    /// A request of the callee was answered with this status, 300 to 699.
    Refused(Method, u16),
    /// A request of the callee got no answer in 32 s.
    Timeout(Method),
    /// The dialog leads to no numeric address.
    NoRoute,
}

/// What the callee knows of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalleeRecord {
    /// What it decided, or was told to do.
    pub plan: CalleePlan,
    /// When the first INVITE came.
    pub received: Instant,
    /// When the 2xx was first sent.
    pub answered: Option<Instant>,
    /// When its ACK came.
    pub acknowledged: Option<Instant>,
    /// How it ended; `None` while it lasts.
    pub outcome: Option<CalleeOutcome>,
    /// Whether the caller sent a BYE.
    pub caller_hung_up: bool,
}

impl CalleeRecord {
    pub(super) fn new(plan: CalleePlan, received: Instant) -> Self {
        Self {
            plan,
            received,
            answered: None,
            acknowledged: None,
            outcome: None,
            caller_hung_up: false,
        }
    }
}

/// Totals over all calls, forgotten ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpbxReport {
    /// Calls that rang, or were refused as planned.
    pub received: u64,
    /// Calls answered 503 because there were too many.
    pub turned_away: u64,
    /// Of the received ones [`CalleeOutcome::Completed`].
    pub completed: u64,
    /// Of them [`CalleeOutcome::Rejected`].
    pub rejected: u64,
    /// Of them [`CalleeOutcome::Cancelled`].
    pub cancelled: u64,
    /// Of them any other end.
    pub failed: u64,
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

impl IpbxReport {
    pub(super) fn count(&mut self, outcome: CalleeOutcome) {
        match outcome {
            CalleeOutcome::Completed => self.completed += 1,
            CalleeOutcome::Rejected(_) => self.rejected += 1,
            CalleeOutcome::Cancelled => self.cancelled += 1,
            CalleeOutcome::NoAck
            | CalleeOutcome::Refused(..)
            | CalleeOutcome::Timeout(_)
            | CalleeOutcome::NoRoute => self.failed += 1,
        }
    }
}
