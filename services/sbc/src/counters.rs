//! What a shard of the SBC counts.

use sip::Drops;

/// The counters of one shard.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Messages that were not forwarded, by reason.
    pub drops: Drops,
    /// INVITEs that opened a call.
    pub calls: u64,
    /// Requests answered with 503.
    pub calls_refused: u64,
    /// Requests sent to another router than the first.
    pub failovers: u64,
    /// Responses given to a first pass in a dead router's stead.
    pub answered_in_stead: u64,
    /// Requests in a dialog delivered past all routers: none was left.
    pub delivered_without_router: u64,
    /// Second passes that came too late and were kept from the callee.
    pub late_second_passes: u64,
    /// Requests answered 503 because the network cannot reach their callee.
    pub unreachable: u64,
    /// Requests sent to another address of the name that they go to.
    pub next_addresses: u64,
}

impl Counters {
    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        self.drops.add(&other.drops);
        self.calls += other.calls;
        self.calls_refused += other.calls_refused;
        self.failovers += other.failovers;
        self.answered_in_stead += other.answered_in_stead;
        self.delivered_without_router += other.delivered_without_router;
        self.late_second_passes += other.late_second_passes;
        self.unreachable += other.unreachable;
        self.next_addresses += other.next_addresses;
    }
}
