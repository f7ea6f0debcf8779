//! The INVITE client transaction: RFC 3261 section 17.1.1, as corrected by RFC 6026 section 7.2.

use std::time::{Duration, Instant};

use crate::timers::{TimerConfig, earlier};
use crate::transaction::{Due, Reaction};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calling,
    Proceeding,
    Completed,
    Accepted,
    Terminated,
}

/// One INVITE that was sent and is not forgotten yet.
///
/// Timers: A repeats the request, B ends the wait for any response, D absorbs repeated failures,
/// M lets repeated and late 2xx through. Timer C belongs to the proxy (section 16.6 step 11).
#[derive(Debug)]
pub struct ClientInvite {
    state: State,
    repeat: Option<(Instant, Duration)>,
    ends: Option<Instant>,
    /// Nothing but 100 has come, and nobody has said that the peer has done more.
    is_only_trying: bool,
}

impl ClientInvite {
    /// Starts in Calling: the request has just been sent.
    #[must_use]
    pub fn new(now: Instant, timers: &TimerConfig) -> Self {
        Self {
            state: State::Calling,
            repeat: Some((now + timers.t1, timers.t1)),
            ends: Some(now + timers.transaction()),
            is_only_trying: false,
        }
    }

    /// Takes a response with this status.
    pub fn handle_response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> Reaction {
        match (self.state, status) {
            (State::Calling, 100..200) => {
                self.state = State::Proceeding;
                self.is_only_trying = status == 100;
                self.repeat = None;
                self.ends = None;
                Reaction::Deliver
            }
            (State::Proceeding, 100) => Reaction::Deliver,
            // A limit that was set meanwhile stands: `stop_repeating`.
            (State::Proceeding, 101..200) => {
                self.repeat_no_more();
                Reaction::Deliver
            }
            (State::Calling | State::Proceeding | State::Accepted, 200..300) => {
                if self.state != State::Accepted {
                    self.state = State::Accepted;
                    self.repeat = None;
                    self.ends = Some(now + timers.transaction());
                }
                Reaction::Deliver
            }
            (State::Calling | State::Proceeding, 300..) => {
                self.state = State::Completed;
                self.repeat = None;
                self.ends = Some(now + timers.transaction());
                Reaction::AcknowledgeAndDeliver
            }
            (State::Completed, 300..) => Reaction::Acknowledge,
            (State::Calling | State::Proceeding, _)
            | (State::Completed | State::Accepted, _)
            | (State::Terminated, _) => Reaction::Absorb,
        }
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        if self.ends.is_some_and(|at| at <= now) {
            let waited_in_vain = matches!(self.state, State::Calling | State::Proceeding);
            self.terminate();
            return waited_in_vain.then_some(Due::TimedOut);
        }
        let (at, interval) = self.repeat?;
        if at > now {
            return None;
        }
        self.repeat = Some((now + interval * 2, interval * 2));
        Some(Due::Repeat)
    }

    /// Repeats the request although a 100 has come, until something more comes or [`ClientInvite::repeat_no_more`]:
    /// whoever said it may have forgotten.
    pub fn repeat_past_trying(&mut self, now: Instant, timers: &TimerConfig) {
        let is_proceeding = self.state == State::Proceeding && self.ends.is_none();
        if is_proceeding && self.is_only_trying {
            self.repeat.get_or_insert((now + timers.t1, timers.t1));
        }
    }

    /// Ends what [`ClientInvite::repeat_past_trying`] began.
    pub fn repeat_no_more(&mut self) {
        if self.state == State::Proceeding {
            self.is_only_trying = false;
            self.repeat = None;
        }
    }

    /// Stops Timers A and B: somebody else answers for the peer, or nobody will.
    ///
    /// The transaction goes on taking responses until `until`.
    pub fn stop_repeating(&mut self, until: Instant) {
        self.repeat = None;
        if matches!(self.state, State::Calling | State::Proceeding) {
            self.ends = Some(until);
        }
    }

    /// Ends it at once.
    pub fn terminate(&mut self) {
        self.state = State::Terminated;
        self.repeat = None;
        self.ends = None;
    }

    /// Tells whether a provisional response has come and no final one.
    #[must_use]
    pub fn is_proceeding(&self) -> bool {
        self.state == State::Proceeding
    }

    /// Tells whether no final response has come yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }

    /// Tells whether no response at all has come yet.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.state == State::Calling
    }

    /// Tells whether a failure has come, whose repeats are still acknowledged.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.state == State::Completed
    }

    /// Tells whether a 2xx has come, whose repeats are handed on.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.state == State::Accepted
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

    fn start() -> (Instant, TimerConfig, ClientInvite) {
        let now = origin();
        let timers = TimerConfig::default();
        (now, timers, ClientInvite::new(now, &timers))
    }

    #[test]
    fn repeats_with_doubling_intervals_until_64_t1() {
        let (start, _, mut invite) = start();
        let mut sent = vec![];
        loop {
            let now = invite.poll_timeout().unwrap();
            match invite.handle_timeout(now) {
                Some(Due::Repeat) => sent.push((now - start).as_millis()),
                Some(Due::TimedOut) => break,
                None => panic!("woken for nothing"),
            }
        }
        assert_eq!(sent, [500, 1500, 3500, 7500, 15500, 31500]);
        assert!(invite.is_terminated());
    }

    #[test]
    fn a_provisional_stops_the_repeats_and_timer_b() {
        let (now, timers, mut invite) = start();
        assert_eq!(invite.handle_response(now, &timers, 180), Reaction::Deliver);
        assert_eq!(invite.poll_timeout(), None);
    }

    #[test]
    fn a_100_does_not_stop_the_repeats_where_it_is_not_believed() {
        let (now, timers, mut invite) = start();
        invite.repeat_past_trying(now, &timers);
        invite.handle_response(now, &timers, 100);
        assert_eq!(invite.poll_timeout(), None);
        let again = |invite: &mut ClientInvite| {
            let at = invite.poll_timeout().unwrap();
            assert_eq!(invite.handle_timeout(at), Some(Due::Repeat));
            (at - now).as_millis()
        };
        invite.repeat_past_trying(now, &timers);
        assert_eq!(again(&mut invite), 500);
        invite.handle_response(now, &timers, 100);
        invite.repeat_past_trying(now, &timers);
        assert_eq!(again(&mut invite), 1500);
        invite.repeat_no_more();
        invite.repeat_past_trying(now, &timers);
        assert_eq!(invite.poll_timeout(), None);

        let (_, _, mut invite) = start();
        invite.handle_response(now, &timers, 100);
        invite.repeat_past_trying(now, &timers);
        invite.handle_response(now, &timers, 180);
        invite.handle_response(now, &timers, 100);
        invite.repeat_past_trying(now, &timers);
        assert_eq!(invite.poll_timeout(), None, "a late 100 says nothing new");

        let (_, _, mut invite) = start();
        invite.handle_response(now, &timers, 100);
        invite.stop_repeating(now + timers.t1);
        invite.repeat_past_trying(now, &timers);
        assert_eq!(invite.handle_timeout(now + timers.t1), Some(Due::TimedOut));
    }

    #[test]
    fn a_failure_is_acknowledged_each_time_and_delivered_once() {
        let (now, timers, mut invite) = start();
        assert_eq!(
            invite.handle_response(now, &timers, 486),
            Reaction::AcknowledgeAndDeliver
        );
        assert_eq!(
            invite.handle_response(now, &timers, 486),
            Reaction::Acknowledge
        );
        assert_eq!(invite.handle_response(now, &timers, 200), Reaction::Absorb);
        assert_eq!(invite.handle_timeout(now + timers.transaction()), None);
        assert!(invite.is_terminated());
    }

    #[test]
    fn every_2xx_is_delivered_and_a_late_provisional_is_not() {
        let (now, timers, mut invite) = start();
        assert_eq!(invite.handle_response(now, &timers, 200), Reaction::Deliver);
        assert_eq!(invite.handle_response(now, &timers, 200), Reaction::Deliver);
        assert_eq!(invite.handle_response(now, &timers, 180), Reaction::Absorb);
    }
}
