//! What the network says of callees that are not there: ICMP errors, at a rate that shards can bear.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often the shards hear of one address; every time each looks through all its requests.
pub const NOTICE_INTERVAL: Duration = Duration::from_millis(100);

/// How many addresses they may hear of in one [`NOTICE_INTERVAL`]; what exceeds it is counted and
/// ignored. The requests in question then end by Timers B and F.
pub const NOTICED_MAX: usize = 16;

/// Which addresses the shards have just heard of.
#[derive(Debug, Default)]
pub(crate) struct Unreachable {
    noticed: BTreeMap<SocketAddr, Instant>,
    ignored: u64,
}

impl Unreachable {
    /// Takes an ICMP error; tells whether the shards shall hear of it.
    pub(crate) fn note(&mut self, now: Instant, address: SocketAddr) -> bool {
        self.noticed
            .retain(|_, noticed| *noticed + NOTICE_INTERVAL > now);
        if self.noticed.contains_key(&address) {
            return false;
        }
        if self.noticed.len() >= NOTICED_MAX {
            self.ignored += 1;
            return false;
        }
        self.noticed.insert(address, now);
        true
    }

    /// Returns how many errors found no room.
    pub(crate) fn ignored(&self) -> u64 {
        self.ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_noticed_once_in_an_interval_and_few_of_them() {
        let (mut unreachable, now) = (Unreachable::default(), Instant::now());
        let address = |number: usize| SocketAddr::from(([127, 0, 2, number as u8], 5060));
        assert!(unreachable.note(now, address(0)));
        assert!(!unreachable.note(now + NOTICE_INTERVAL / 2, address(0)));
        for number in 1..NOTICED_MAX {
            assert!(unreachable.note(now, address(number)));
        }
        assert!(!unreachable.note(now, address(NOTICED_MAX)));
        assert_eq!(unreachable.ignored(), 1);
        assert!(unreachable.note(now + NOTICE_INTERVAL, address(NOTICED_MAX)));
        assert!(unreachable.note(now + NOTICE_INTERVAL, address(0)));
    }
}
