//! Limits and defaults of the fields of resources. Each has its one home here: values are checked
//! by it (`convert.rs`) and it is what docs/configuration.md says (`fields.rs`).

use std::fmt::Display;
use std::time::Duration;

/// From the least good value to the greatest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: PartialOrd> Range<T> {
    pub(super) fn contains(&self, value: &T) -> bool {
        (&self.min..=&self.max).contains(&value)
    }
}

const fn range<T>(min: T, max: T) -> Range<T> {
    Range { min, max }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Longest text in any field, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 512;

/// Slots of a cell's dialog table: a power of two.
pub(super) const HASH_SIZE: Range<u32> = range(1, 1 << 20);
/// Most stock nodes of a cell.
pub(super) const STOCK_NODES_MAX: usize = 16;
/// Most notification addresses of a cell.
pub(super) const NOTIFICATION_ADDRESSES_MAX: usize = 16;
/// How long a dialog of a cell may go on once it is answered.
pub(super) const DIALOG_LIFETIME: Range<Duration> = range(seconds(60), seconds(7 * 24 * 3600));

/// SIP addresses of a member.
pub(super) const SIP_ENDPOINTS: Range<usize> = range(1, 8);
/// The port of a member for KDMQ; 0 for none.
pub(super) const DMQ_PORT: Range<u32> = range(0, 65_535);
/// The cell of a member that names none.
pub(super) const CELL: &str = "default";
/// Most tags of a member or selector.
pub(super) const TAGS_MAX: usize = 32;
/// Most rules of a selector.
pub(super) const RULES_MAX: usize = 16;

/// How long a destination may take to its first response.
pub(super) const FIRST_RESPONSE: Range<Duration> = range(ms(100), seconds(32));
/// Longest time from death to being found dead: room for eight probes.
pub(super) const DETECT_WITHIN: Range<Duration> = range(ms(200), seconds(60));
/// That of a set that says nothing.
pub(super) const DETECT_WITHIN_DEFAULT: Duration = ms(200);
/// Time between two background OPTIONS.
pub(super) const PROBE_INTERVAL: Range<Duration> = range(ms(100), seconds(600));
/// That of a set that says nothing.
pub(super) const PROBE_INTERVAL_DEFAULT: Duration = seconds(1);
/// Failures or answers in a row.
pub(super) const IN_A_ROW: Range<u32> = range(1, 100);
/// Failures to inactive of a set that says nothing.
pub(super) const FAILURES_DEFAULT: u32 = 1;
/// Answers to active of a set that says nothing.
pub(super) const SUCCESSES_DEFAULT: u32 = 2;

/// Requests that a destination gets while another gets one.
pub(super) const WEIGHT: Range<u32> = range(0, 1000);
/// That of a destination, or a rule, that says nothing.
pub(super) const WEIGHT_DEFAULT: u32 = 1;

/// Results of a route.
pub(super) const ROUTE_RESULTS: Range<usize> = range(1, 16);
/// Most headers a route result adds.
pub(super) const ROUTE_HEADERS_MAX: usize = 16;

/// Length of the name of a table on the bus, in bytes.
pub(super) const TABLE_BYTES: Range<usize> = range(1, 64);
/// How long a key may live: Kamailio's lifetimes are signed 32-bit numbers of seconds.
pub(super) const AUTOEXPIRE: Range<Duration> = range(seconds(1), seconds(i32::MAX as u64));
/// Entries that a table may be allowed.
pub(super) const ENTRIES: Range<u32> = range(1, 1_000_000);
/// Those of a table that says nothing.
pub(super) const ENTRIES_DEFAULT: u32 = 65_536;

/// Whether a table that says nothing is shared.
pub(super) const REPLICATE: bool = true;
/// Whether in one that says nothing a key that is set again lives anew.
pub(super) const UPDATE_EXPIRE: bool = true;

/// Networks of a trunk.
pub(super) const TRUNK_NETWORKS: Range<usize> = range(1, 64);

/// How long a node that was told to end may wait.
pub(super) const DRAIN_TIMEOUT: Range<Duration> = range(seconds(1), seconds(24 * 3600));

/// A limit as people read it.
pub(super) trait Said {
    fn said(&self) -> String;
}

impl Said for u32 {
    fn said(&self) -> String {
        self.to_string()
    }
}

impl Said for usize {
    fn said(&self) -> String {
        self.to_string()
    }
}

impl Said for bool {
    fn said(&self) -> String {
        self.to_string()
    }
}

/// A word of the configuration, as it stands there.
impl Said for &str {
    fn said(&self) -> String {
        (*self).to_owned()
    }
}

impl Said for Duration {
    fn said(&self) -> String {
        let with = |number: u128, unit: &dyn Display| format!("{number} {unit}");
        match self.as_millis() {
            n if n < 1_000 => with(n, &"ms"),
            n if n % 3_600_000 == 0 => with(n / 3_600_000, &"h"),
            n if n > 60_000 && n % 60_000 == 0 => with(n / 60_000, &"min"),
            n => with(n / 1_000, &"s"),
        }
    }
}

impl<T: Said> Said for Range<T> {
    fn said(&self) -> String {
        format!("{} to {}", self.min.said(), self.max.said())
    }
}
