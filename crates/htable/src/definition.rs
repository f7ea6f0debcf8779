//! What an operator says about a table; it never travels between nodes.

use std::time::Duration;

use bytes::Bytes;

use crate::Value;

/// The longest name of a table, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// How many entries a table holds unless its definition says otherwise.
pub const ENTRIES_DEFAULT: usize = 100_000;

/// The definition of one table: the parameters of Kamailio's `htable` modparam.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name, 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: Bytes,
    /// How long a key lives after it was set (`autoexpire`); `None`: for ever, and no key can be
    /// given a lifetime.
    pub autoexpire: Option<Duration>,
    /// Whether changes go to other nodes (`dmqreplicate`). Kept for the caller: changes from other
    /// nodes are taken either way.
    pub replicate: bool,
    /// Whether setting a key that exists restarts its lifetime (`updateexpire`).
    pub update_expire: bool,
    /// What a key that does not exist reads as (`initval`).
    pub initial: Option<Value>,
    /// How many entries the table holds; at the limit new keys are refused and counted.
    pub entries_max: usize,
}

impl Definition {
    /// Creates the definition of a table with Kamailio's defaults: nothing expires, nothing travels.
    #[must_use]
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            autoexpire: None,
            replicate: false,
            update_expire: true,
            initial: None,
            entries_max: ENTRIES_DEFAULT,
        }
    }
}

/// Why a table cannot be defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefineError {
    /// There are [`TABLES_MAX`](crate::TABLES_MAX) tables.
    #[error("there are too many tables")]
    TooManyTables,
    /// The name is empty or longer than [`NAME_BYTES_MAX`].
    #[error("the name of a table has 1 to {NAME_BYTES_MAX} bytes")]
    Name,
    /// The initial value is longer than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
    #[error("the initial value is too long")]
    Initial,
}
