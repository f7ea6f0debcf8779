//! Routers that share dialogs and tables: records that are merged, never overwritten.
//!
//! Sans-IO. docs/replication.md says what is told to whom and who is right.

mod change;
mod clock;
mod dialogs;
mod digest;
mod ended;
mod entries;
mod lag;
mod members;
mod numbers;
mod observation;
mod record;
mod replica;
mod replication;
pub mod stock;
pub mod tandem;
mod unplaced;

pub use change::{Change, Key, Origin, Record};
pub use clock::{AHEAD_MAX, HybridClock, Now, Stamp, node_number};
pub use dialogs::{Changed, Dialogs, DialogsConfig, Held};
pub use digest::{Digests, PARTITIONS};
pub use ended::{RECORDS_DUE_MAX, TOMBSTONE_MAX, TOMBSTONE_MIN, TOMBSTONES_MAX};
pub use entries::{Entries, EntryChanged, EntryError, EntryKey, EntryRecord, GONE_MAX, Write};
pub use lag::Lag;
pub use observation::{LegSeen, Observation, Observed};
pub use record::{
    Cause, DialogKey, DialogRecord, DialogState, End, IFLAGS, Leg, Lifetime, Ownership, Profile,
    Profiles, STOCK_EPOCH, Text, Variable,
};
pub use replica::Replica;
pub use replication::{CellConfig, Replication, ReplicationConfig};
pub use unplaced::UNPLACED_MAX;
