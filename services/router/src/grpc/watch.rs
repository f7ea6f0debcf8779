//! Watches of dialogs and tables: what changes is found by looking, and shown to who wants it.
//!
//! The node keeps no readers. While there are any, its partitions are compared with what was seen of
//! them last, [`INTERVAL`] after the last time or later: looking takes at most a twentieth of the
//! time, one partition at a time, however much there is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::router::v1::{Dialog, TableEntry, WatchCut, WatchCutReason};
use control::shutdown::Shutdown;
use host::tap::{CutReason, ReadStream, Readers};
use prost::Message as _;
use replication::{Key, PARTITIONS, Replication};
use tokio::sync::Mutex;
use tonic::Status;

use super::cell::Cell;
use super::{dialogs, entries};

/// How long a change may wait until it is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// Looking is followed by a pause of so many times as long.
const PAUSE_FACTOR: u32 = 20;

/// How many records are copied while the node is locked once.
const CHUNK: usize = 256;

/// Who watches, and what was seen last.
pub(super) struct Watch {
    cell: Cell,
    /// They want one Call-ID, or all.
    dialogs: Arc<Readers<Vec<u8>, Dialog>>,
    /// They want one table, or all.
    entries: Arc<Readers<String, TableEntry>>,
    /// Each partition; `None` while nobody watches.
    seen: Mutex<Option<Vec<Seen>>>,
    shutdown: Shutdown,
}

/// A partition as it was.
#[derive(Default)]
struct Seen {
    mark: Mark,
    /// Every key with the hash of its record; 0 for what is over or gone.
    keys: BTreeMap<Key, u128>,
}

/// What differs when anything in a partition has changed.
type Mark = (u128, Option<Instant>);

impl Watch {
    /// Makes it, and a task that looks until `shutdown` is cancelled.
    pub(super) fn start(cell: Cell, shutdown: Shutdown) -> Arc<Self> {
        let watch = Arc::new(Self {
            cell,
            dialogs: Arc::default(),
            entries: Arc::default(),
            seen: Mutex::default(),
            shutdown,
        });
        let looking = watch.clone();
        tokio::spawn(async move {
            let shutdown = looking.shutdown.clone();
            shutdown.run_until_cancelled(looking.run()).await;
        });
        watch
    }

    /// Adds a reader of dialogs with this Call-ID, or of all.
    pub(super) async fn dialogs(
        &self,
        call_id: Vec<u8>,
    ) -> Result<ReadStream<Vec<u8>, Dialog>, Status> {
        let stream = self.dialogs.read(call_id, &self.shutdown);
        let stream = stream.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.begin().await?;
        Ok(stream)
    }

    /// Adds a reader of the entries of this table, or of all.
    pub(super) async fn entries(
        &self,
        table: String,
    ) -> Result<ReadStream<String, TableEntry>, Status> {
        let stream = self.entries.read(table, &self.shutdown);
        let stream = stream.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.begin().await?;
        Ok(stream)
    }

    /// Sees everything as it is, unless it was seen already.
    async fn begin(&self) -> Result<(), Status> {
        let mut seen = self.seen.lock().await;
        if seen.is_none() {
            let look = |partition| self.cell.look(|replication| see(replication, partition));
            let first: Result<Vec<_>, _> = (0..=u8::MAX).map(look).collect();
            *seen = Some(first?.into_iter().map(Seen::from).collect());
        }
        Ok(())
    }

    async fn run(&self) {
        let mut pause = INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let mut seen = self.seen.lock().await;
            if self.dialogs.is_empty() && self.entries.is_empty() {
                *seen = None;
            }
            for (partition, seen) in (0..=u8::MAX).zip(seen.iter_mut().flatten()) {
                // Once it is on a bus it stays there.
                if let Err(error) = self.look(partition, seen) {
                    tracing::warn!(%error, "watches");
                }
                tokio::task::yield_now().await;
            }
            pause = INTERVAL.max(began.elapsed() * PAUSE_FACTOR);
        }
    }

    /// Shows what has changed in a partition since it was seen.
    fn look(&self, partition: u8, seen: &mut Seen) -> Result<(), Status> {
        let changed = |replication: &Replication| {
            let is_new = mark(replication, partition) != seen.mark;
            is_new.then(|| see(replication, partition))
        };
        let Some(now) = self.cell.look(changed)?.map(Seen::from) else {
            return Ok(());
        };
        let is_changed = |(key, hash): &(&Key, &u128)| seen.keys.get(key) != Some(hash);
        let changed = now.keys.iter().filter(is_changed).map(|(key, _)| key);
        let gone = seen.keys.keys();
        let gone = gone.filter(|key| !now.keys.contains_key(key) && seen.keys[key] != 0);
        let news: Vec<_> = changed.chain(gone).cloned().collect();
        for keys in news.chunks(CHUNK) {
            self.show(keys)?;
        }
        *seen = now;
        Ok(())
    }

    fn show(&self, keys: &[Key]) -> Result<(), Status> {
        let clock = self.cell.clock();
        let (dialogs, entries, hash_size) = self.cell.look(|replication| {
            let replica = replication.replica();
            let (mut dialogs, mut entries) = (Vec::new(), Vec::new());
            for key in keys {
                match key {
                    Key::Dialog(key) => {
                        let held = replica.dialogs().dialog(key);
                        dialogs.extend(held.map(|held| (key, held.clone())));
                    }
                    Key::Entry(key) => {
                        entries.push((key, replica.entries().record(clock.now, key)));
                    }
                }
            }
            (dialogs, entries, replication.config().hash_size)
        })?;
        for (key, held) in dialogs {
            let dialog = dialogs::shown(key, &held, hash_size, clock.now);
            let wants = |call_id: &Vec<u8>| call_id.is_empty() || *call_id == *key.call_id;
            self.dialogs
                .offer(dialog.encoded_len(), wants, || dialog.clone());
        }
        for (key, record) in entries {
            let entry = entries::shown(key, record.as_ref());
            let wants = |table: &String| table.is_empty() || *table == entry.table;
            self.entries
                .offer(entry.encoded_len(), wants, || entry.clone());
        }
        Ok(())
    }
}

fn mark(replication: &Replication, partition: u8) -> Mark {
    let replica = replication.replica();
    const { assert!(PARTITIONS == 256) };
    let digest = replica.digests().partitions()[usize::from(partition)];
    (digest, replica.changed_at(partition))
}

/// Copies what there is in a partition; quick, since the node is locked meanwhile.
fn see(replication: &Replication, partition: u8) -> (Mark, Vec<(Key, u128)>) {
    let replica = replication.replica();
    let dead = replica.dead(partition).map(|key| (key, 0));
    let keys = replica.living(partition).chain(dead);
    (mark(replication, partition), keys.collect())
}

impl From<(Mark, Vec<(Key, u128)>)> for Seen {
    fn from((mark, keys): (Mark, Vec<(Key, u128)>)) -> Self {
        let keys = keys.into_iter().collect();
        Self { mark, keys }
    }
}

/// Returns the last word of a watch.
pub(super) fn cut(reason: CutReason, missed: u64) -> WatchCut {
    let reason = match reason {
        CutReason::SlowReader => WatchCutReason::SlowReader,
        CutReason::Shutdown => WatchCutReason::Shutdown,
    };
    let reason = reason.into();
    WatchCut { reason, missed }
}
