//! What operators and tests see of the channel.

use std::net::SocketAddr;
use std::time::Duration;

use crate::lag::Lag;

/// What runs at an address of the bus, as far as it has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It has not answered yet.
    #[default]
    Unknown,
    /// A Kamailio.
    Stock,
    /// A Tandem node.
    Tandem,
}

/// Bytes of bodies sent, repeats not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Records told because they changed here.
    pub changes: u64,
    /// Sums that are compared every second, and which of them differ.
    pub digests: u64,
    /// Lists of keys, and records sent because they were missed.
    pub repair: u64,
}

impl Sent {
    /// Returns all of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.changes + self.digests + self.repair
    }
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its DMQ address.
    pub address: SocketAddr,
    /// Its id in the registry; empty until it has said it.
    pub node_id: String,
    /// Which start of it that was; 0 until it has said it.
    pub incarnation: u64,
    /// What runs there.
    pub kind: Kind,
    /// Whether the bus reaches it.
    pub is_up: bool,
    /// Keys that it is still to be told.
    pub dirty: usize,
    /// Keys that it has been told and has not acknowledged.
    pub in_flight: usize,
    /// Keys that differed in the last finished round with it.
    pub divergence: u64,
    /// How long ago that round was finished; `None`: none was since it came.
    pub verify_age: Option<Duration>,
    /// Whether its dialog hash has another size than ours: stock nodes will not take both.
    pub hash_size_differs: bool,
    /// What was sent to it.
    pub sent: Sent,
}

/// How replication between Tandem nodes stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whether this node has what the others had when it came, as far as that could be known.
    pub ready: bool,
    /// Whether it became ready for want of time.
    pub degraded: bool,
    /// Whether some node's dialog hash has another size than ours: an error of configuration.
    pub hash_size_differs: bool,
    /// Keys that differed in the last finished rounds, of all nodes together.
    pub divergence: u64,
    /// How long ago the oldest of these rounds was finished; `None` without any.
    pub verify_age: Option<Duration>,
    /// The nodes, in the order of their addresses.
    pub nodes: Vec<NodeStatus>,
    /// From a change here to its acknowledgement.
    pub lag: Lag,
}

/// What the channel counts; all of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bodies that could not be read or made no sense.
    pub malformed: u64,
    /// Bodies of another schema.
    pub schema_refused: u64,
    /// Bodies of ours that were answered with anything but 200, 202, 404 or 408.
    pub refused: u64,
    /// Hellos of nodes whose dialog hash has another size.
    pub hash_size_differs: u64,
    /// Nodes for which there was no room.
    pub nodes_refused: u64,
    /// Changes that were not told because too many waited; repair finds them.
    pub pending_dropped: u64,
    /// Bodies that were not sent because too many waited.
    pub queue_dropped: u64,
    /// Records that are too large to travel.
    pub oversized: u64,
    /// Differences beyond those that are remembered; a later round finds them.
    pub candidates_dropped: u64,
    /// Records asked for beyond those that may be under way; a later round finds them.
    pub pulls_dropped: u64,
    /// Records received.
    pub records_received: u64,
    /// Records received that changed something.
    pub records_taken: u64,
    /// Records received for which there was no table or no room.
    pub records_refused: u64,
    /// Dialogs of ours that we no longer had and had another node end.
    pub disowned: u64,
    /// Dialogs of ours from before our start, taken back.
    pub taken_back: u64,
    /// Entries that repair brought and of which nothing was known here: not told while nodes did not hear each
    /// other, or deleted so long ago that nobody remembers. What the first rounds bring is not counted.
    pub united: u64,
    /// Rounds begun.
    pub rounds: u64,
    /// Rounds that were given up.
    pub rounds_abandoned: u64,
    /// Keys found divergent.
    pub divergent: u64,
}
