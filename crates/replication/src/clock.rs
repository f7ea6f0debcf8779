//! Time as replication needs it: timers go by the monotonic half, stamps by a hybrid clock.
//!
//! A hybrid clock follows the wall clock while that is sane and never runs behind what it has seen;
//! a neighbour whose wall clock is a day ahead does not take it along.

use std::time::{Duration, Instant};

/// How far a stamp may be ahead of the wall clock and still advance ours; also the most that a step
/// of our own wall clock advances us at once.
pub const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Low bits of a clock reading that count events within one millisecond.
const COUNTER_BITS: u32 = 16;

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For timers; never goes backwards.
    pub monotonic: Instant,
    /// For the wire, for records and for stamps: milliseconds since 1970.
    pub wall: u64,
}

impl Now {
    /// Returns the wall clock in the unit of Kamailio's dialog channel: seconds since 1970.
    #[must_use]
    pub fn wall_seconds(self) -> u64 {
        self.wall / 1000
    }
}

/// When something was written, and by whom: a total order over all writes of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Milliseconds since 1970 times 2^16, plus a counter.
    pub clock: u64,
    /// Number of the node that wrote, [`node_number`].
    pub node: u64,
}

impl Stamp {
    /// Returns the wall clock of the stamp, milliseconds since 1970.
    #[must_use]
    pub fn wall(self) -> u64 {
        self.clock >> COUNTER_BITS
    }
}

/// Returns the number of a node in stamps: its DMQ address, which names it on the bus.
///
/// IPv6 addresses are folded, so two could share a number; then a tie between writes of the same
/// millisecond is broken by their content instead.
#[must_use]
pub fn node_number(address: std::net::SocketAddr) -> u64 {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            (bits >> 64) as u64 ^ bits as u64 | 1 << 63
        }
    };
    ip << 16 | u64::from(address.port())
}

/// Makes stamps that grow, and that are greater than every sane stamp seen.
#[derive(Debug)]
pub struct HybridClock {
    node: u64,
    last: u64,
    /// The wall clock as it is believed, and when that was.
    physical: Option<(Instant, u64)>,
}

impl HybridClock {
    /// Creates the clock of the node with this number.
    #[must_use]
    pub fn new(node: u64) -> Self {
        Self {
            node,
            last: 0,
            physical: None,
        }
    }

    /// Returns a new stamp, greater than all before it and than `over`, what is to be overwritten.
    pub fn stamp(&mut self, now: Now, over: Stamp) -> Stamp {
        let physical = self.physical(now) << COUNTER_BITS;
        self.last = self.last.saturating_add(1).max(physical);
        Stamp {
            clock: self.last.max(over.clock.saturating_add(1)),
            node: self.node,
        }
    }

    /// Takes note of another node's stamp: ours will be greater, unless that one is insane.
    pub fn observe(&mut self, now: Now, seen: Stamp) {
        let ahead = AHEAD_MAX.as_millis() as u64;
        if seen.wall() <= self.physical(now).saturating_add(ahead) {
            self.last = self.last.max(seen.clock);
        }
    }

    /// Returns the wall clock, which a step takes along by at most [`AHEAD_MAX`] at a time.
    fn physical(&mut self, now: Now) -> u64 {
        let believed = match self.physical {
            None => now.wall,
            Some((at, wall)) => {
                let run = now.monotonic.saturating_duration_since(at);
                now.wall.min(wall + (run + AHEAD_MAX).as_millis() as u64)
            }
        };
        // A reading is only renewed once a minute: or many small steps would make a large one.
        let renew = self
            .physical
            .is_none_or(|(at, _)| now.monotonic.saturating_duration_since(at) >= AHEAD_MAX);
        if renew {
            self.physical = Some((now.monotonic, believed));
        }
        believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    #[allow(clippy::disallowed_methods)]
    fn now(wall: u64) -> Now {
        Now {
            monotonic: Instant::now(),
            wall,
        }
    }

    #[test]
    fn stamps_grow_although_the_wall_clock_falls_back() {
        let mut clock = HybridClock::new(1);
        let first = clock.stamp(now(DAY), Stamp::default());
        assert_eq!(first.wall(), DAY);
        let second = clock.stamp(now(5), Stamp::default());
        assert!(second > first && second.wall() == DAY);
    }

    #[test]
    fn a_stamp_a_day_ahead_is_exceeded_and_does_not_advance_us() {
        let mut clock = HybridClock::new(1);
        let start = now(DAY);
        let insane = Stamp {
            clock: (2 * DAY) << 16,
            node: 2,
        };
        clock.observe(start, insane);
        assert!(clock.stamp(start, insane) > insane);
        assert_eq!(clock.stamp(start, Stamp::default()).wall(), DAY);
        let sane = Stamp {
            clock: (DAY + 59_000) << 16,
            node: 2,
        };
        clock.observe(start, sane);
        assert!(clock.stamp(start, Stamp::default()) > sane);
    }

    #[test]
    fn a_step_of_the_own_clock_advances_stamps_by_a_minute_at_most() {
        let mut clock = HybridClock::new(1);
        let start = now(DAY);
        clock.stamp(start, Stamp::default());
        let stepped = Now {
            wall: 2 * DAY,
            ..start
        };
        let stamp = clock.stamp(stepped, Stamp::default());
        assert_eq!(stamp.wall(), DAY + 60_000);
    }

    #[test]
    fn node_numbers_tell_nodes_apart() {
        let number = |text: &str| node_number(text.parse().unwrap());
        assert_ne!(number("127.0.0.1:5062"), number("127.0.0.2:5062"));
        assert_ne!(number("127.0.0.1:5062"), number("127.0.0.1:5063"));
    }
}
