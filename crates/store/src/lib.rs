//! The registry's storage: keys and values under one prefix, changed one generation at a time.
//!
//! A *generation* is the store's own counter of commits. A commit names the [`Point`] it was made for
//! and takes the next generation, or is refused: so no two writers change the same thing unseen, and
//! no reader sees half a commit. A key may be leased: it goes, with a generation of its own, when
//! nobody refreshes it in time. A *note* is a key that takes no generation: what is only looked up, and
//! changes too often to tell everybody.
//!
//! Two implementations of [`Store`]: [`Embedded`], a file for one registry, and [`Etcd`] for as many
//! as you like. Nothing but this crate knows either. Not here: what keys and values mean.

mod embedded;
mod etcd;
mod history;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use embedded::Embedded;
pub use etcd::{Etcd, EtcdConfig};
pub use history::{Watch, WatchError};

/// Commits that a watcher may be behind before it has to list again.
pub const HISTORY_COMMITS_MAX: usize = 1024;
/// Most writes in one commit; etcd takes 128 operations, ours beside them included.
pub const COMMIT_WRITES_MAX: usize = 124;
/// Most bytes of keys and values in one commit; etcd takes requests of 1.5 MiB.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;
/// Longest key below the prefix, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// Most keys.
pub const KEYS_MAX: usize = 100_000;

/// Keys that begin like this are notes: no listing and no watch shows them, they take no generation, not
/// even when they run out. [`Store::notes`] reads them.
pub const NOTES: [&str; 2] = ["requests/", "status/"];

fn is_note(key: &str) -> bool {
    NOTES.iter().any(|prefix| key.starts_with(prefix))
}

/// A point in the life of a store: all commits up to one.
///
/// Equal points have equal contents, even in a store that was restored from a backup and then took
/// the same number of commits again: there the mark differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Number of the last commit; 0 before the first.
    pub generation: u64,
    /// Random, drawn with each commit; 0 in a store that only one process writes.
    pub mark: u64,
}

/// Whether a store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It did when it was asked last.
    Up,
    /// It does not, for this reason.
    Down(String),
}

/// A value under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, below the cluster's prefix, such as `config/sets/1`.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Differs from what the key had before, whenever it was written; the same for every reader.
    pub version: u64,
}

/// All entries but notes, with a prefix at one point, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The last commit that is in it.
    pub at: Point,
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
        /// How long it lasts at least, from now and from every refresh. etcd counts in seconds and has a
        /// minimum of its own, 2 s with its defaults.
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

    /// Returns how many bytes it takes of a commit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key().len() + self.value().len()
    }

    fn value(&self) -> &[u8] {
        match self {
            Self::Put { value, .. } | Self::PutLeased { value, .. } => value,
            Self::Delete { .. } => &[],
        }
    }
}

/// What one commit did to the watched keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the store stands with it.
    pub at: Point,
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
        "{path}: written in schema {found}, this version reads up to {known}; use a newer version, or go \
         back as docs/registry.md says"
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
    /// No member of etcd answered in time. Whether a commit was made is not known.
    #[error("no member of etcd answers")]
    Unavailable(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// etcd answers, and does not want to: user, password, permissions, or space.
    #[error("etcd refuses")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// A key of the store itself holds what nobody wrote.
    #[error("{key} in the store is damaged")]
    Damaged {
        /// The key.
        key: &'static str,
    },
    /// A newer version wrote it.
    #[error(
        "written in schema {found}, this version reads up to {known}; use a newer version, or go back as \
         docs/registry.md says"
    )]
    Schema {
        /// What the store says.
        found: u64,
        /// What this version knows.
        known: u64,
    },
    /// The process is ending.
    #[error("the store is closing")]
    Closing,
}

impl StoreError {
    /// Tells whether the same may go well later, without anybody touching this process.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Refused(_) => true,
            Self::Database(_) | Self::Damaged { .. } | Self::Schema { .. } | Self::Closing => false,
        }
    }
}

/// Why a commit was not made. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Something else was written first: read again and decide again.
    #[error("the store is at generation {}, not at what was seen of {}", current.generation, expected.generation)]
    Conflict {
        /// What the commit was made for.
        expected: Point,
        /// Where the store stands. The same as `expected` if a key was written by hand that has no
        /// generation yet.
        current: Point,
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
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The key is not leased, or not there.
    #[error("no lease on this key")]
    NoLease,
    /// The store failed; the lease may be as it was.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the registry needs of a storage. Shared by every task.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Lists every entry but notes whose key starts with `prefix`, as of the last commit of anybody.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Returns where the store stands: with every commit of anybody that was answered before this call.
    async fn point(&self) -> Result<Point, StoreError>;

    /// Makes all `writes` and takes the next generation, if the store is at `at`.
    ///
    /// Returns the new point once it would survive a power cut.
    async fn commit(&self, at: Point, writes: Vec<Write>) -> Result<Point, CommitError>;

    /// Writes notes, all or none, whatever was written meanwhile. They may stand in a commit, too, which is
    /// then refused if one of them was touched since.
    ///
    /// # Panics
    ///
    /// For a key that is no note.
    async fn note(&self, writes: Vec<Write>) -> Result<(), CommitError>;

    /// Lists the notes whose key starts with `prefix`, as they are now.
    async fn notes(&self, prefix: &str) -> Result<Vec<Entry>, StoreError>;

    /// Gives a leased key its full time again. A note is written again instead.
    async fn refresh(&self, key: &str) -> Result<(), RefreshError>;

    /// Watches every commit after `after`, with what it did to keys with `prefix`.
    fn watch(&self, prefix: &str, after: Point) -> Watch;

    /// Tells whether the store answers, now and whenever that changes.
    fn health(&self) -> watch::Receiver<Health>;
}

/// The schema this version writes and reads.
const SCHEMA: u64 = 1;
const GENERATION: &str = "generation";
const SCHEMA_KEY: &str = "schema";
/// Keys of the store itself, which no listing shows.
const OWN_KEYS: [&str; 2] = [GENERATION, SCHEMA_KEY];

/// Returns where the keys of a cluster begin.
fn prefix_of(cluster: &str) -> String {
    format!("/tandem/v1/{cluster}/")
}

fn check_notes(writes: &[Write]) -> Result<(), CommitError> {
    let stray = writes.iter().find(|write| !is_note(write.key()));
    assert!(stray.is_none(), "{stray:?} is no note");
    check_limits(writes)
}

fn check_limits(writes: &[Write]) -> Result<(), CommitError> {
    let too_large = |what, max| Err(CommitError::TooLarge { what, max });
    if writes.len() > COMMIT_WRITES_MAX {
        return too_large("writes in a commit", COMMIT_WRITES_MAX);
    }
    for write in writes {
        if write.key().len() > KEY_BYTES_MAX {
            return too_large("bytes of a key", KEY_BYTES_MAX);
        }
        if write.value().len() > VALUE_BYTES_MAX {
            return too_large("bytes of a value", VALUE_BYTES_MAX);
        }
    }
    if writes.iter().map(Write::bytes).sum::<usize>() > COMMIT_BYTES_MAX {
        return too_large("bytes of a commit", COMMIT_BYTES_MAX);
    }
    Ok(())
}
