//! Follows etcd's events and makes commits of them, in the order of their generations.
//!
//! A generation is everything that happened up to the revision in which the counter took its value.
//! What changes without the counter, because a lease ran out or a hand wrote, waits for the next
//! generation; if nobody makes one, this does. After every interruption the counter is read again:
//! where it says something else than was seen last, everybody has to list again. A watch is never
//! resumed by revision: after a restore from a backup it would skip changes in silence.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{sleep, timeout};

use super::{Head, MESSAGE_BYTES_MAX, Shared, parse_point};
use crate::{Commit, CommitError, Entry, GENERATION, Health, OWN_KEYS, StoreError, is_note};

/// How long a watch may take to be created.
const CREATED_WITHIN: Duration = Duration::from_secs(2);
/// Wait before following is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Why following ended, for now.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the watch was not created in time")]
    NotCreated,
    #[error("the watch ended")]
    Ended,
    #[error("etcd ended the watch: {0}")]
    Cancelled(String),
    #[error("the counter of generations was written by somebody else")]
    Doubt,
}

impl From<etcd_client::Error> for Interruption {
    fn from(error: etcd_client::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Follows until the task is aborted.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        let Err(interruption) = follow_on(&shared).await;
        tracing::debug!(%interruption, "following etcd was interrupted");
        sleep(RETRY).await;
    }
}

enum Never {}

impl Shared {
    fn see(&self, head: Head) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(head);
    }
}

async fn follow_on(shared: &Shared) -> Result<Never, Interruption> {
    let head = match shared.head().await {
        Ok(head) => head,
        Err(error) => {
            shared.members.note_health(Health::Down(explain(&error)));
            return Err(error.into());
        }
    };
    let (chosen, mut watch, first) = open(shared, head).await?;
    shared.members.note_health(Health::Up);
    shared.see(head);
    if head.point != shared.history.latest() {
        let generation = head.point.generation;
        tracing::info!(generation, "etcd is to be listed, by whom it is watched");
        shared.history.restart(head.point);
    }
    let end = read_on(shared, &mut watch, first).await;
    shared.members.leave(chosen);
    end
}

/// Opens a watch from the counter's revision on; returns where, and the first answer.
async fn open(
    shared: &Shared,
    head: Head,
) -> Result<(usize, WatchStream, WatchResponse), Interruption> {
    let (chosen, client) = shared.members.chosen().await?;
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(head.revision + 1);
    let opening = async {
        let mut watching = client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut watch = watching
            .watch(shared.prefix.as_str(), Some(options))
            .await?;
        let first = watch.message().await?.ok_or(Interruption::Ended)?;
        Ok((chosen, watch, first))
    };
    let opened = timeout(CREATED_WITHIN, opening).await;
    let opened = opened.unwrap_or(Err(Interruption::NotCreated));
    if opened.is_err() {
        shared.members.leave(chosen);
    }
    opened
}

async fn read_on(
    shared: &Shared,
    watch: &mut WatchStream,
    mut response: WatchResponse,
) -> Result<Never, Interruption> {
    let mut pending = Pending::default();
    loop {
        if response.canceled() {
            if response.compact_revision() > 0 {
                // What followed the counter is forgotten; a new generation tells everybody.
                bump(shared).await?;
            }
            let reason = response.cancel_reason().to_owned();
            return Err(Interruption::Cancelled(reason));
        }
        for revision in response
            .events()
            .chunk_by(|a, b| revision_of(a) == revision_of(b))
        {
            if let Some(head) = pending.take(&shared.prefix, revision)? {
                let at = head.point;
                if at.generation != shared.history.latest().generation + 1 {
                    return Err(Interruption::Doubt);
                }
                shared.see(head);
                let changes = std::mem::take(&mut pending.changes).into_iter().collect();
                shared.history.push(Commit { at, changes });
            }
        }
        if !pending.changes.is_empty() {
            bump(shared).await?;
        }
        response = watch.message().await?.ok_or(Interruption::Ended)?;
    }
}

/// Gives what changed without a generation one of its own, unless somebody else does.
async fn bump(shared: &Shared) -> Result<(), StoreError> {
    match shared.commit(shared.history.latest(), &[]).await {
        Ok(_) | Err(CommitError::Conflict { .. } | CommitError::TooLarge { .. }) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    }
}

/// What changed since the last generation.
#[derive(Debug, Default)]
struct Pending {
    changes: BTreeMap<String, Option<Entry>>,
}

impl Pending {
    /// Takes the events of one revision; returns the counter, if it counted.
    fn take(&mut self, prefix: &str, events: &[Event]) -> Result<Option<Head>, Interruption> {
        let mut made = None;
        for event in events {
            let Some(kv) = event.kv() else { continue };
            // Nobody writes a key that is not text; a hand that does is ignored.
            let Some(key) = kv.key_str().ok().and_then(|key| key.strip_prefix(prefix)) else {
                continue;
            };
            let deleted = event.event_type() == EventType::Delete;
            if key == GENERATION {
                let point = (!deleted).then(|| parse_point(kv.value())).flatten();
                made = Some(Head {
                    point: point.ok_or(Interruption::Doubt)?,
                    revision: kv.mod_revision(),
                });
            } else if !OWN_KEYS.contains(&key) && !is_note(key) {
                let entry = (!deleted).then(|| super::entry(key, kv));
                self.changes.insert(key.to_owned(), entry);
            }
        }
        Ok(made)
    }
}

fn revision_of(event: &Event) -> Option<i64> {
    event.kv().map(etcd_client::KeyValue::mod_revision)
}

/// Says an error with its causes, in one line.
fn explain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
