//! One KDMQ request that was sent: when it is repeated and when it is given up.
//!
//! The client transaction of RFC 3261 section 17.1.2 without its Completed state: a repeated answer
//! matches nothing and changes nothing.

use std::time::{Duration, Instant};

/// Names a channel request; grows with every request of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// How a channel request is repeated until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// As Kamailio does: after 500 ms, doubling to 4 s, given up after 30 s.
    Stock,
    /// Between Tandem nodes: after four round trips, 50 ms at least, doubling to 500 ms, given up
    /// after 5 s.
    Tandem,
}

/// The first wait of a request to a Tandem node whose round trip is short or unknown.
pub(crate) const TANDEM_WAIT_MIN: Duration = Duration::from_millis(50);
const TANDEM_WAIT_MAX: Duration = Duration::from_millis(500);

/// The waits of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    first: Duration,
    longest: Duration,
    total: Duration,
}

impl Waits {
    pub(crate) fn of(schedule: Schedule, smoothed_rtt: Option<Duration>) -> Self {
        match schedule {
            Schedule::Stock => Self {
                first: Duration::from_millis(500),
                longest: Duration::from_secs(4),
                total: Duration::from_secs(30),
            },
            Schedule::Tandem => Self {
                first: (smoothed_rtt.unwrap_or_default() * 4)
                    .clamp(TANDEM_WAIT_MIN, TANDEM_WAIT_MAX),
                longest: TANDEM_WAIT_MAX,
                total: Duration::from_secs(5),
            },
        }
    }

    /// To a node that is not active: brisk, so that its return is seen, and never two at once.
    pub(crate) const SEARCH: Self = Self {
        first: Duration::from_millis(500),
        longest: Duration::from_secs(1),
        total: Duration::from_secs(5),
    };

    /// The last word of a node that leaves: it does not stay for longer.
    pub(crate) const FAREWELL: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_millis(400),
        total: Duration::from_secs(1),
    };
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A body of a channel: its owner is told how it ended.
    Data,
    /// A ping or an announcement.
    Notification,
    /// The notification that says we leave.
    Farewell,
}

/// One request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) purpose: Purpose,
    pub(crate) bytes: Box<[u8]>,
    /// Comes back in the branch: what only an addressee can know.
    pub(crate) token: u64,
    pub(crate) sent: Instant,
    pub(crate) repeats: u32,
    wait: Duration,
    longest: Duration,
    repeat_at: Instant,
    ends: Instant,
}

impl Request {
    /// It has just been sent.
    pub(crate) fn new(
        now: Instant,
        purpose: Purpose,
        bytes: Box<[u8]>,
        token: u64,
        waits: Waits,
    ) -> Self {
        Self {
            purpose,
            bytes,
            token,
            sent: now,
            repeats: 0,
            wait: waits.first,
            longest: waits.longest,
            repeat_at: now + waits.first,
            ends: now + waits.total,
        }
    }

    /// Tells whether it is to be sent again now, and sets the next time.
    pub(crate) fn take_repeat(&mut self, now: Instant) -> bool {
        if now < self.repeat_at {
            return false;
        }
        self.repeats += 1;
        self.wait = (self.wait * 2).min(self.longest);
        self.repeat_at = now + self.wait;
        true
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.ends
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        self.repeat_at.min(self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn repeats_of(waits: Waits) -> (Vec<u64>, u64) {
        let start = Instant::now();
        let mut request = Request::new(start, Purpose::Data, Box::default(), 0, waits);
        let mut repeats = Vec::new();
        loop {
            let now = request.poll_timeout();
            let after = u64::try_from((now - start).as_millis()).unwrap();
            if request.is_over(now) {
                return (repeats, after);
            }
            assert!(request.take_repeat(now) && !request.take_repeat(now));
            repeats.push(after);
        }
    }

    #[test]
    fn requests_are_repeated_and_given_up_as_their_schedule_says() {
        let stock = vec![500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500];
        assert_eq!(
            repeats_of(Waits::of(Schedule::Stock, None)),
            (stock, 30_000)
        );

        let (repeats, end) = repeats_of(Waits::of(Schedule::Tandem, None));
        assert_eq!(
            (&repeats[..6], end),
            (&[50, 150, 350, 750, 1250, 1750][..], 5000)
        );
        let slow = Waits::of(Schedule::Tandem, Some(Duration::from_millis(40)));
        assert_eq!(repeats_of(slow).0[..4], [160, 480, 980, 1480]);
        let slower = Waits::of(Schedule::Tandem, Some(Duration::from_secs(3)));
        assert_eq!(repeats_of(slower).0[..2], [500, 1000]);

        assert_eq!(
            repeats_of(Waits::SEARCH),
            (vec![500, 1500, 2500, 3500, 4500], 5000)
        );
        assert_eq!(repeats_of(Waits::FAREWELL), (vec![100, 300, 700], 1000));
    }
}
