//! The non-INVITE client transaction: RFC 3261 section 17.1.2.

use std::time::{Duration, Instant};

use crate::timers::{TimerConfig, earlier};
use crate::transaction::{Due, Reaction};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// One non-INVITE request that was sent and is not forgotten yet.
///
/// Timers: E repeats the request, F ends the wait, K absorbs repeated responses.
#[derive(Debug)]
pub struct ClientNonInvite {
    state: State,
    repeat: Option<(Instant, Duration)>,
    ends: Option<Instant>,
}

impl ClientNonInvite {
    /// Starts in Trying: the request has just been sent.
    #[must_use]
    pub fn new(now: Instant, timers: &TimerConfig) -> Self {
        Self {
            state: State::Trying,
            repeat: Some((now + timers.t1, timers.t1)),
            ends: Some(now + timers.transaction()),
        }
    }

    /// Takes a response with this status.
    pub fn handle_response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> Reaction {
        match (self.state, status) {
            (State::Trying | State::Proceeding, 100..200) => {
                self.state = State::Proceeding;
                Reaction::Deliver
            }
            (State::Trying | State::Proceeding, 200..) => {
                self.state = State::Completed;
                self.repeat = None;
                self.ends = Some(now + timers.t4);
                Reaction::Deliver
            }
            (State::Trying | State::Proceeding, _) | (State::Completed | State::Terminated, _) => {
                Reaction::Absorb
            }
        }
    }

    /// Runs what is due. Timer E doubles up to T2; in Proceeding it stays at T2.
    pub fn handle_timeout(&mut self, now: Instant, timers: &TimerConfig) -> Option<Due> {
        if self.ends.is_some_and(|at| at <= now) {
            let waited_in_vain = matches!(self.state, State::Trying | State::Proceeding);
            self.terminate();
            return waited_in_vain.then_some(Due::TimedOut);
        }
        let (at, interval) = self.repeat?;
        if at > now {
            return None;
        }
        let next = match self.state {
            State::Proceeding => timers.t2,
            State::Trying | State::Completed | State::Terminated => (interval * 2).min(timers.t2),
        };
        self.repeat = Some((now + next, next));
        Some(Due::Repeat)
    }

    /// Stops Timer E; responses are taken until `until`.
    pub fn stop_repeating(&mut self, until: Instant) {
        self.repeat = None;
        if self.is_pending() {
            self.ends = Some(until);
        }
    }

    /// Ends it at once.
    pub fn terminate(&mut self) {
        self.state = State::Terminated;
        self.repeat = None;
        self.ends = None;
    }

    /// Tells whether no final response has come yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    /// Tells whether no response at all has come yet.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.state == State::Trying
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timers::origin;

    #[test]
    fn repeats_up_to_t2_and_gives_up_after_64_t1() {
        let start = origin();
        let timers = TimerConfig::default();
        let mut request = ClientNonInvite::new(start, &timers);
        let mut sent = vec![];
        loop {
            let now = request.poll_timeout().unwrap();
            match request.handle_timeout(now, &timers) {
                Some(Due::Repeat) => sent.push((now - start).as_millis()),
                Some(Due::TimedOut) => break,
                None => panic!("woken for nothing"),
            }
        }
        assert_eq!(sent[..5], [500, 1500, 3500, 7500, 11500]);
    }

    #[test]
    fn a_final_response_is_delivered_once_and_repeats_are_absorbed_for_t4() {
        let now = origin();
        let timers = TimerConfig::default();
        let mut request = ClientNonInvite::new(now, &timers);
        assert_eq!(
            request.handle_response(now, &timers, 200),
            Reaction::Deliver
        );
        assert_eq!(request.handle_response(now, &timers, 200), Reaction::Absorb);
        assert_eq!(request.poll_timeout(), Some(now + timers.t4));
        assert_eq!(request.handle_timeout(now + timers.t4, &timers), None);
        assert!(request.is_terminated());
    }
}
