//! The INVITE server transaction: RFC 3261 section 17.2.1, as corrected by RFC 6026 section 7.1.

use std::time::{Duration, Instant};

use crate::timers::{TimerConfig, earlier};
use crate::transaction::Due;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
    Terminated,
}

/// What an ACK with the transaction's own branch means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It acknowledges our failure response, or repeats such an ACK: done.
    Absorbed,
    /// It acknowledges a 2xx and travels end to end.
    EndToEnd,
}

/// One INVITE that was received and is not forgotten yet.
///
/// Timers: G repeats a failure response, H ends the wait for its ACK, I absorbs repeated ACKs, L
/// absorbs repeated INVITEs after a 2xx. The 2xx itself is repeated by the callee, end to end.
#[derive(Debug)]
pub struct ServerInvite {
    state: State,
    repeat: Option<(Instant, Duration)>,
    ends: Option<Instant>,
}

impl ServerInvite {
    /// Starts in Proceeding: 100 is sent by the owner.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Proceeding,
            repeat: None,
            ends: None,
        }
    }

    /// Takes note of a response of the transaction user; tells whether it may be sent.
    pub fn handle_response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> bool {
        match (self.state, status) {
            (State::Proceeding, ..200) => true,
            (State::Proceeding, 200..300) => {
                self.state = State::Accepted;
                self.ends = Some(now + timers.transaction());
                true
            }
            (State::Accepted, 200..300) => true,
            (State::Proceeding, 300..) => {
                self.state = State::Completed;
                self.repeat = Some((now + timers.t1, timers.t1));
                self.ends = Some(now + timers.transaction());
                true
            }
            (State::Accepted | State::Completed | State::Confirmed | State::Terminated, _) => false,
        }
    }

    /// Takes a repeat of the INVITE; tells whether the last response is sent again.
    ///
    /// In Accepted the callee repeats its 2xx by itself (RFC 6026 section 7.1).
    #[must_use]
    pub fn handle_repeat(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }

    /// Takes an ACK with the branch of this transaction.
    pub fn handle_ack(&mut self, now: Instant, timers: &TimerConfig) -> Ack {
        match self.state {
            State::Completed => {
                self.state = State::Confirmed;
                self.repeat = None;
                self.ends = Some(now + timers.t4);
                Ack::Absorbed
            }
            State::Proceeding | State::Confirmed | State::Terminated => Ack::Absorbed,
            State::Accepted => Ack::EndToEnd,
        }
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant, timers: &TimerConfig) -> Option<Due> {
        if self.ends.is_some_and(|at| at <= now) {
            self.terminate();
            return None;
        }
        let (at, interval) = self.repeat?;
        if at > now {
            return None;
        }
        let next = (interval * 2).min(timers.t2);
        self.repeat = Some((now + next, next));
        Some(Due::Repeat)
    }

    /// Ends it at once.
    pub fn terminate(&mut self) {
        self.state = State::Terminated;
        self.repeat = None;
        self.ends = None;
    }

    /// Tells whether no final response has been sent.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.state == State::Proceeding
    }

    /// Tells whether it can be forgotten.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        earlier(self.repeat.map(|(at, _)| at), self.ends)
    }
}

impl Default for ServerInvite {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timers::origin;

    #[test]
    fn a_failure_is_repeated_until_its_ack() {
        let now = origin();
        let timers = TimerConfig::default();
        let mut invite = ServerInvite::new();
        assert!(invite.handle_response(now, &timers, 100));
        assert!(invite.handle_response(now, &timers, 486));
        assert!(
            !invite.handle_response(now, &timers, 200),
            "a final response was sent"
        );
        assert_eq!(
            invite.handle_timeout(now + timers.t1, &timers),
            Some(Due::Repeat)
        );
        assert_eq!(invite.handle_ack(now, &timers), Ack::Absorbed);
        assert_eq!(invite.poll_timeout(), Some(now + timers.t4));
        assert_eq!(invite.handle_timeout(now + timers.t4, &timers), None);
        assert!(invite.is_terminated());
    }

    #[test]
    fn after_a_2xx_repeats_are_absorbed_and_further_2xx_go_out() {
        let now = origin();
        let timers = TimerConfig::default();
        let mut invite = ServerInvite::new();
        assert!(invite.handle_repeat());
        assert!(invite.handle_response(now, &timers, 200));
        assert!(!invite.handle_repeat());
        assert!(invite.handle_response(now, &timers, 200));
        assert!(!invite.handle_response(now, &timers, 180));
        assert_eq!(invite.handle_ack(now, &timers), Ack::EndToEnd);
        assert_eq!(invite.poll_timeout(), Some(now + timers.transaction()));
    }
}
