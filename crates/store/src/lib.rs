//! The registry's storage: keys and values under one prefix, changed one generation at a time.
//!
//! A *generation* is the store's own counter of commits. A commit names the generation it was made
//! for and takes the next one, or is refused: so no two writers change the same thing unseen, and no
//! reader sees half a commit. A key may be leased: it goes, with a generation of its own, when
//! nobody refreshes it in time.
//!
//! Not here: what keys and values mean.

mod embedded;
mod history;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub use embedded::Embedded;
pub use history::{Watch, WatchError};

/// Commits that a watcher may be behind before it has to list again.
pub const HISTORY_COMMITS_MAX: usize = 1024;
/// Most writes in one commit.
pub const COMMIT_WRITES_MAX: usize = 128;
/// Longest key below the prefix, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// Most keys.
pub const KEYS_MAX: usize = 100_000;

/// A value and the generation that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, below the cluster's prefix, such as `config/sets/1`.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The commit that wrote it.
    pub generation: u64,
}

/// All entries with a prefix at one generation, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The last commit that is in it.
    pub generation: u64,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// One write of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key that stays until it is deleted.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Sets a key that goes when it is not refreshed for as long as the lease.
    PutLeased {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// How long it lasts from now and from every refresh; whole milliseconds.
        lease: Duration,
    },
    /// Deletes a key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
}

impl Write {
    /// Returns the key that is written.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::PutLeased { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What one commit did to the watched keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its generation.
    pub generation: u64,
    /// The keys it touched and what they hold now; `None` for deleted.
    pub changes: Vec<(String, Option<Entry>)>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path}: another process holds this store; stop it or give this one another state_dir")]
    Held {
        /// The file.
        path: PathBuf,
    },
    /// The directory is missing and cannot be made.
    #[error("{path}: cannot be made")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A newer version wrote it.
    #[error(
        "{path}: written in schema {found}, this version reads up to {known}; use a newer version"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: u64,
        /// What this version knows.
        known: u64,
    },
    /// It is no store, or cannot be read.
    #[error("{path}: cannot be opened; check the permissions, or restore it from a backup")]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
}

/// Why a store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the file is at fault.
    #[error("the store failed")]
    Database(#[source] Box<redb::Error>),
    /// The process is ending.
    #[error("the store is closing")]
    Closing,
}

/// Why a commit was not made. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else committed first: read again and decide again.
    #[error("the store is at generation {current}, not {expected}")]
    Conflict {
        /// What the commit was made for.
        expected: u64,
        /// Where the store stands.
        current: u64,
    },
    /// A limit of this crate.
    #[error("{what}: at most {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a lease was not refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no lease on this key")]
pub struct RefreshError;

/// What the registry needs of a storage. Shared by every task.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Lists every entry whose key starts with `prefix`, as of the last commit.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Makes all `writes` and takes the next generation, if the store is at `generation`.
    ///
    /// Returns the new generation once it would survive a power cut.
    async fn commit(&self, generation: u64, writes: Vec<Write>) -> Result<u64, CommitError>;

    /// Gives a leased key its full time again.
    async fn refresh(&self, key: &str) -> Result<(), RefreshError>;

    /// Watches every commit after `generation` that touches a key with `prefix`.
    fn watch(&self, prefix: &str, generation: u64) -> Watch;
}
