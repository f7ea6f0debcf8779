//! The latest commits, and watchers that follow them in the order of their generations.
//!
//! A watcher holds no queue: it remembers a point and reads from the one shared ring. One whose point is
//! not in the ring is told to list again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use crate::{Commit, HISTORY_COMMITS_MAX, Point};

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// What followed the watcher's point is not known, or was undone: list again, watch from there.
    #[error("nothing is known about what followed generation {0}")]
    HistoryLost(u64),
    /// The store is gone.
    #[error("the store is closing")]
    Closing,
}

#[derive(Debug)]
pub(crate) struct History {
    ring: Mutex<VecDeque<Step>>,
    latest: watch::Sender<Point>,
}

#[derive(Debug)]
struct Step {
    before: Point,
    commit: Arc<Commit>,
}

impl History {
    pub(crate) fn starting_at(point: Point) -> Self {
        Self {
            ring: Mutex::default(),
            latest: watch::Sender::new(point),
        }
    }

    pub(crate) fn latest(&self) -> Point {
        *self.latest.borrow()
    }

    /// Adds the commit that follows the latest point; the caller keeps them in order.
    pub(crate) fn push(&self, commit: Commit) {
        let at = commit.at;
        let mut ring = self.ring();
        if ring.len() == HISTORY_COMMITS_MAX {
            ring.pop_front();
        }
        ring.push_back(Step {
            before: self.latest(),
            commit: Arc::new(commit),
        });
        drop(ring);
        self.latest.send_replace(at);
    }

    /// Forgets everything and goes on from `point`: who watches from elsewhere must list again.
    pub(crate) fn restart(&self, point: Point) {
        self.ring().clear();
        self.latest.send_replace(point);
    }

    /// Tells whether the store is known to have been at `point`.
    pub(crate) fn knows(&self, point: Point) -> bool {
        let ring = self.ring();
        self.latest() == point || ring.iter().any(|step| step.before == point)
    }

    /// Waits until the store is known to have been at `point`.
    pub(crate) async fn reaches(&self, point: Point) {
        let mut latest = self.latest.subscribe();
        while !self.knows(point) {
            // The sender is here, so it cannot be gone.
            let _changed = latest.changed().await;
        }
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, after: Point) -> Watch {
        let latest = self.latest.subscribe();
        Watch {
            history: Arc::downgrade(self),
            latest,
            prefix: prefix.to_owned(),
            at: after,
        }
    }

    /// Returns the commit after `point`: `Ok(None)` when there is none yet.
    fn after(&self, point: Point) -> Result<Option<Arc<Commit>>, WatchError> {
        let ring = self.ring();
        if point == self.latest() {
            return Ok(None);
        }
        let next = ring.iter().find(|step| step.before == point);
        next.map(|step| Some(Arc::clone(&step.commit)))
            .ok_or(WatchError::HistoryLost(point.generation))
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Step>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the commits of a store. Ends when the store is dropped.
#[derive(Debug)]
pub struct Watch {
    history: Weak<History>,
    latest: watch::Receiver<Point>,
    prefix: String,
    at: Point,
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
                .history
                .upgrade()
                .ok_or(WatchError::Closing)?
                .after(self.at)?;
            if let Some(commit) = next {
                self.at = commit.at;
                let watched = commit
                    .changes
                    .iter()
                    .filter(|(key, _)| key.starts_with(&self.prefix));
                return Ok(Commit {
                    at: commit.at,
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
