//! The latest commits, and watchers that follow them in the order of their generations.
//!
//! A watcher holds no queue: it remembers a generation and reads from the one shared ring. One that
//! falls out of the ring is told to list again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{Commit, HISTORY_COMMITS_MAX};

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The commits after the watcher's generation are forgotten: list again, watch from there.
    #[error("the history does not reach back to generation {0}")]
    HistoryLost(u64),
    /// The store is gone.
    #[error("the store is closing")]
    Closing,
}

#[derive(Debug)]
pub(crate) struct History {
    ring: Mutex<VecDeque<Arc<Commit>>>,
    latest: watch::Sender<u64>,
}

impl History {
    pub(crate) fn starting_at(generation: u64) -> Self {
        Self {
            ring: Mutex::default(),
            latest: watch::Sender::new(generation),
        }
    }

    /// Adds a commit; the caller keeps them in order.
    pub(crate) fn push(&self, commit: Commit) {
        let generation = commit.generation;
        let mut ring = self.ring();
        if ring.len() == HISTORY_COMMITS_MAX {
            ring.pop_front();
        }
        ring.push_back(Arc::new(commit));
        drop(ring);
        self.latest.send_replace(generation);
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, generation: u64) -> Watch {
        let latest = self.latest.subscribe();
        Watch {
            ring: Arc::downgrade(self),
            latest,
            prefix: prefix.to_owned(),
            generation,
        }
    }

    /// Returns the commit after `generation`: `Ok(None)` when there is none yet.
    fn after(&self, generation: u64) -> Result<Option<Arc<Commit>>, WatchError> {
        let latest = *self.latest.borrow();
        if generation == latest {
            return Ok(None);
        }
        let ring = self.ring();
        let next = ring
            .iter()
            .find(|commit| commit.generation == generation + 1);
        next.map(|commit| Some(Arc::clone(commit)))
            .ok_or(WatchError::HistoryLost(generation))
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Arc<Commit>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the commits of a store. Ends when the store is dropped.
#[derive(Debug)]
pub struct Watch {
    ring: std::sync::Weak<History>,
    latest: watch::Receiver<u64>,
    prefix: String,
    generation: u64,
}

impl Watch {
    /// Waits for the next commit.
    ///
    /// Commits that touch no key with the prefix come too, with no changes: they move the
    /// generation. May be cancelled at any await without losing one.
    ///
    /// # Errors
    ///
    /// See [`WatchError`]; the watch is over.
    pub async fn next(&mut self) -> Result<Commit, WatchError> {
        loop {
            self.latest.borrow_and_update();
            let next = self
                .ring
                .upgrade()
                .ok_or(WatchError::Closing)?
                .after(self.generation)?;
            if let Some(commit) = next {
                self.generation = commit.generation;
                let watched = commit
                    .changes
                    .iter()
                    .filter(|(key, _)| key.starts_with(&self.prefix));
                return Ok(Commit {
                    generation: commit.generation,
                    changes: watched.cloned().collect(),
                });
            }
            self.latest
                .changed()
                .await
                .map_err(|_| WatchError::Closing)?;
        }
    }
}
