//! The non-INVITE server transaction: RFC 3261 section 17.2.2, with RFC 4320.

use std::time::Instant;

use crate::timers::TimerConfig;
use crate::transaction::Due;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// One non-INVITE request that was received and is not forgotten yet.
///
/// Timer J absorbs repeats after the final response. RFC 4320: 100 is not said before the client's
/// Timer E has reached T2, no other provisional ever, and no 408.
#[derive(Debug)]
pub struct ServerNonInvite {
    state: State,
    trying: Option<Instant>,
    ends: Option<Instant>,
}

impl ServerNonInvite {
    /// Starts in Trying.
    #[must_use]
    pub fn new(now: Instant, timers: &TimerConfig) -> Self {
        Self {
            state: State::Trying,
            trying: Some(now + timers.non_invite_trying()),
            ends: None,
        }
    }

    /// Takes note of a response of the transaction user; tells whether it may be sent.
    pub fn handle_response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> bool {
        match (self.state, status) {
            (State::Trying | State::Proceeding, 100) => {
                self.state = State::Proceeding;
                self.trying = None;
                true
            }
            (State::Trying | State::Proceeding, 200..) => {
                let speaks = status != 408;
                if speaks {
                    self.state = State::Completed;
                    self.ends = Some(now + timers.transaction());
                } else {
                    self.state = State::Terminated;
                }
                self.trying = None;
                speaks
            }
            (State::Trying | State::Proceeding | State::Completed | State::Terminated, _) => false,
        }
    }

    /// Takes a repeat of the request; tells whether the last response is sent again.
    #[must_use]
    pub fn handle_repeat(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }

    /// Runs what is due: `Due::Repeat` asks for the 100 of RFC 4320.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        if self.ends.is_some_and(|at| at <= now) {
            self.terminate();
            return None;
        }
        self.trying.take_if(|at| *at <= now).map(|_| Due::Repeat)
    }

    /// Ends it at once.
    pub fn terminate(&mut self) {
        self.state = State::Terminated;
        self.trying = None;
        self.ends = None;
    }

    /// Tells whether no final response has been sent.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    /// Tells whether it can be forgotten.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        crate::timers::earlier(self.trying, self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timers::origin;

    #[test]
    fn one_final_response_then_silence_for_64_t1() {
        let now = origin();
        let timers = TimerConfig::default();
        let mut bye = ServerNonInvite::new(now, &timers);
        assert!(!bye.handle_repeat(), "nothing has been said");
        assert!(
            !bye.handle_response(now, &timers, 180),
            "RFC 4320: 100 only"
        );
        assert!(bye.handle_response(now, &timers, 200));
        assert!(bye.handle_repeat());
        assert!(!bye.handle_response(now, &timers, 200));
        assert_eq!(bye.handle_timeout(now + timers.transaction()), None);
        assert!(bye.is_terminated());
    }

    #[test]
    fn says_100_late_and_408_never() {
        let now = origin();
        let timers = TimerConfig::default();
        let mut bye = ServerNonInvite::new(now, &timers);
        assert_eq!(bye.poll_timeout(), Some(now + timers.t1 * 7));
        assert_eq!(bye.handle_timeout(now + timers.t1 * 7), Some(Due::Repeat));
        assert!(!bye.handle_response(now, &timers, 408));
        assert!(bye.is_terminated());
    }
}
