//! The store in one file on this machine, for a cluster with one registry. redb, ACID, one writer.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::history::{History, Watch};
use crate::{
    COMMIT_WRITES_MAX, Commit, CommitError, Entry, GENERATION, Health, KEYS_MAX, Listing, OWN_KEYS,
    OpenError, Point, RefreshError, SCHEMA, SCHEMA_KEY, Store, StoreError, Write, check_limits,
    check_notes, is_note, prefix_of,
};

/// Full key to: generation that wrote it, lease in milliseconds (0 for none), value.
const TABLE: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("tandem");
/// What the database may keep of its file in memory. Everything is read once, at the start, and only
/// written later.
const CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Wait before an expiry that failed is tried again.
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

/// A store in one file. The file is this process's alone while it is open.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    path: PathBuf,
    prefix: String,
    database: Database,
    /// Held from before a commit until it is in the history, so that both have the same order.
    writer: Mutex<()>,
    leases: Mutex<BTreeMap<String, Lease>>,
    leases_changed: Notify,
    history: Arc<History>,
    health: watch::Sender<Health>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    length: Duration,
    ends: Instant,
}

impl Embedded {
    /// Opens the store of `cluster` in the file `path`; makes it, and its directory, if it is new.
    ///
    /// Leases start again in full. Must be called inside a tokio runtime, which then runs expiry for
    /// as long as a clone of the store is alive.
    ///
    /// # Errors
    ///
    /// Names the path and the remedy; [`OpenError::Held`] when another process has it open.
    pub async fn open(path: &Path, cluster: &str) -> Result<Self, OpenError> {
        let (path, prefix) = (path.to_owned(), prefix_of(cluster));
        let inner = tokio::task::spawn_blocking(move || Inner::open(path, prefix));
        let inner = Arc::new(inner.await.expect("opening a store does not panic")?);
        tokio::spawn(expire(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// Returns the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|_| StoreError::Closing)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        let listed = self
            .blocking(move |inner| inner.list(&prefix))
            .await?
            .map_err(database);
        self.0.note_health(listed.as_ref().err());
        listed
    }

    async fn point(&self) -> Result<Point, StoreError> {
        Ok(self.0.history.latest())
    }

    async fn commit(&self, at: Point, writes: Vec<Write>) -> Result<Point, CommitError> {
        let committed = self
            .blocking(move |inner| inner.commit(Some(at), writes))
            .await?;
        match &committed {
            Err(CommitError::Store(error)) => self.0.note_health(Some(error)),
            Ok(_) | Err(CommitError::Conflict { .. } | CommitError::TooLarge { .. }) => {
                self.0.note_health(None);
            }
        }
        committed
    }

    async fn note(&self, writes: Vec<Write>) -> Result<(), CommitError> {
        check_notes(&writes)?;
        self.blocking(move |inner| inner.note(&writes)).await?
    }

    async fn notes(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let prefix = prefix.to_owned();
        let noted = self.blocking(move |inner| inner.entries(&prefix, is_note));
        noted.await?.map_err(database)
    }

    async fn refresh(&self, key: &str) -> Result<(), RefreshError> {
        let mut leases = self.0.leases();
        let lease = leases.get_mut(key).ok_or(RefreshError::NoLease)?;
        lease.ends = Instant::now() + lease.length;
        Ok(())
    }

    fn watch(&self, prefix: &str, after: Point) -> Watch {
        self.0.history.watch(prefix, after)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }
}

/// Only this process writes: a generation says it all.
fn point(generation: u64) -> Point {
    Point {
        generation,
        mark: 0,
    }
}

impl Inner {
    fn open(path: PathBuf, prefix: String) -> Result<Self, OpenError> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|source| OpenError::Directory {
                path: directory.to_owned(),
                source,
            })?;
        }
        let failed = |error: redb::Error| OpenError::Database {
            path: path.clone(),
            source: Box::new(error),
        };
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES_MAX);
        let database = match builder.create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(OpenError::Held { path }),
            Err(error) => return Err(failed(error.into())),
        };
        // There are secrets in it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(|error| failed(redb::Error::Io(error)))?;
        let schema = read_or_write_schema(&database, &prefix).map_err(failed)?;
        if schema > SCHEMA {
            return Err(OpenError::Schema {
                path,
                found: schema,
                known: SCHEMA,
            });
        }
        let (generation, leases) =
            read_generation_and_leases(&database, &prefix).map_err(failed)?;
        Ok(Self {
            path,
            prefix,
            database,
            writer: Mutex::default(),
            leases: Mutex::new(leases),
            leases_changed: Notify::new(),
            history: Arc::new(History::starting_at(point(generation))),
            health: watch::Sender::new(Health::Up),
        })
    }

    fn list(&self, prefix: &str) -> Result<Listing, redb::Error> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let listed = |key: &str| !OWN_KEYS.contains(&key) && !is_note(key);
        Ok(Listing {
            entries: entries(&table, &self.prefix, prefix, listed)?,
            at: point(number_at(&table, &self.prefix, GENERATION)?),
        })
    }

    fn entries(
        &self,
        prefix: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, redb::Error> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        entries(&table, &self.prefix, prefix, wanted)
    }

    fn note_health(&self, error: Option<&StoreError>) {
        let health = match error {
            None => Health::Up,
            Some(error) => Health::Down(error.to_string()),
        };
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            *current = health;
            changed
        });
    }

    /// Commits at `expected`, or at whatever point the store has when it is `None`.
    fn commit(&self, expected: Option<Point>, writes: Vec<Write>) -> Result<Point, CommitError> {
        check_limits(&writes)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let commit = self.write(expected, &writes)?;
        self.note_leases(&writes);
        let at = commit.at;
        self.history.push(commit);
        Ok(at)
    }

    fn write(&self, expected: Option<Point>, writes: &[Write]) -> Result<Commit, CommitError> {
        // Dropping a transaction that was not committed undoes it.
        let transaction = self.database.begin_write().map_err(failed)?;
        let mut table = transaction.open_table(TABLE).map_err(failed)?;
        let current = point(number_at(&table, &self.prefix, GENERATION).map_err(failed)?);
        if let Some(expected) = expected.filter(|expected| *expected != current) {
            return Err(CommitError::Conflict { expected, current });
        }
        let generation = current.generation + 1;
        let mut changes = put_all(&mut table, &self.prefix, generation, writes)?;
        changes.retain(|(key, _)| !is_note(key));
        put_number(&mut table, &self.prefix, GENERATION, generation).map_err(failed)?;
        drop(table);
        transaction.commit().map_err(failed)?;
        Ok(Commit {
            at: point(generation),
            changes,
        })
    }

    fn note(&self, writes: &[Write]) -> Result<(), CommitError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.database.begin_write().map_err(failed)?;
        let mut table = transaction.open_table(TABLE).map_err(failed)?;
        let generation = number_at(&table, &self.prefix, GENERATION).map_err(failed)?;
        put_all(&mut table, &self.prefix, generation, writes)?;
        drop(table);
        transaction.commit().map_err(failed)?;
        self.note_leases(writes);
        Ok(())
    }

    fn note_leases(&self, writes: &[Write]) {
        let mut leases = self.leases();
        for write in writes {
            match write {
                Write::PutLeased { key, lease, .. } => {
                    leases.insert(
                        key.clone(),
                        Lease {
                            length: *lease,
                            ends: Instant::now() + *lease,
                        },
                    );
                }
                // A plain put detaches the lease, as etcd's does.
                Write::Put { key, .. } | Write::Delete { key } => {
                    leases.remove(key);
                }
            }
        }
        drop(leases);
        self.leases_changed.notify_one();
    }

    /// Deletes what has run out, all of it in one commit.
    fn expire(&self, now: Instant) -> Result<(), CommitError> {
        let over: Vec<_> = self.over(now).into_iter().take(COMMIT_WRITES_MAX).collect();
        if over.is_empty() {
            return Ok(());
        }
        let over = over.into_iter().map(|key| Write::Delete { key });
        let (notes, keys): (Vec<_>, Vec<_>) = over.partition(|write| is_note(write.key()));
        if !notes.is_empty() {
            self.note(&notes)?;
        }
        if !keys.is_empty() {
            self.commit(None, keys)?;
        }
        Ok(())
    }

    fn over(&self, now: Instant) -> Vec<String> {
        let leases = self.leases();
        leases
            .iter()
            .filter(|(_, lease)| lease.ends <= now)
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn next_end(&self) -> Option<Instant> {
        self.leases().values().map(|lease| lease.ends).min()
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<String, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Runs expiry until the store is dropped.
async fn expire(store: Weak<Inner>) {
    /// Longest sleep, so that a dropped store is noticed.
    const SLEEP_MAX: Duration = Duration::from_millis(500);
    loop {
        let Some(inner) = store.upgrade() else { return };
        let now = Instant::now();
        let mut wake = inner
            .next_end()
            .map_or(now + SLEEP_MAX, |end| end.min(now + SLEEP_MAX));
        if wake <= now {
            let expired = tokio::task::spawn_blocking(move || inner.expire(now)).await;
            if let Ok(Err(error)) = expired {
                tracing::warn!(%error, "expiry of leases failed");
                wake = now + EXPIRY_RETRY;
            }
        } else {
            drop(inner);
        }
        tokio::time::sleep_until(wake).await;
    }
}

fn read_or_write_schema(database: &Database, prefix: &str) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let mut table = transaction.open_table(TABLE)?;
    let schema = match number_at(&table, prefix, SCHEMA_KEY)? {
        0 => {
            put_number(&mut table, prefix, SCHEMA_KEY, SCHEMA)?;
            SCHEMA
        }
        found => found,
    };
    drop(table);
    transaction.commit()?;
    Ok(schema)
}

fn read_generation_and_leases(
    database: &Database,
    prefix: &str,
) -> Result<(u64, BTreeMap<String, Lease>), redb::Error> {
    let table = database.begin_read()?.open_table(TABLE)?;
    let mut leases = BTreeMap::new();
    for row in table.range(prefix..)? {
        let (key, value) = row?;
        let Some(key) = key.value().strip_prefix(prefix) else {
            break;
        };
        let (_generation, lease, _value) = value.value();
        if lease > 0 {
            let length = Duration::from_millis(lease);
            leases.insert(
                key.to_owned(),
                Lease {
                    length,
                    ends: Instant::now() + length,
                },
            );
        }
    }
    Ok((number_at(&table, prefix, GENERATION)?, leases))
}

fn entries(
    table: &impl ReadableTable<&'static str, (u64, u64, &'static [u8])>,
    prefix: &str,
    from: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Entry>, redb::Error> {
    let full = format!("{prefix}{from}");
    let mut entries = Vec::new();
    for row in table.range(full.as_str()..)? {
        let (key, value) = row?;
        if !key.value().starts_with(&full) {
            break;
        }
        let (version, _lease, value) = value.value();
        let key = &key.value()[prefix.len()..];
        if wanted(key) {
            entries.push(Entry {
                key: key.to_owned(),
                value: value.to_owned(),
                version,
            });
        }
    }
    Ok(entries)
}

/// Makes the writes; returns what each key that changed holds now.
fn put_all(
    table: &mut redb::Table<'_, &'static str, (u64, u64, &'static [u8])>,
    prefix: &str,
    generation: u64,
    writes: &[Write],
) -> Result<Vec<(String, Option<Entry>)>, CommitError> {
    let mut changes = Vec::new();
    let before = table.len().map_err(failed)?;
    for write in writes {
        let full = format!("{prefix}{}", write.key());
        let entry = match write {
            Write::Put { value, .. } => Some((value, 0)),
            Write::PutLeased { value, lease, .. } => Some((value, millis(*lease))),
            Write::Delete { .. } => None,
        };
        match entry {
            Some((value, lease)) => {
                table
                    .insert(full.as_str(), (generation, lease, value.as_slice()))
                    .map_err(failed)?;
                let entry = Entry {
                    key: write.key().to_owned(),
                    value: value.clone(),
                    version: generation,
                };
                changes.push((write.key().to_owned(), Some(entry)));
            }
            None => {
                if table.remove(full.as_str()).map_err(failed)?.is_some() {
                    changes.push((write.key().to_owned(), None));
                }
            }
        }
    }
    let after = table.len().map_err(failed)?;
    if after > (KEYS_MAX + OWN_KEYS.len()) as u64 && after > before {
        return Err(CommitError::TooLarge {
            what: "keys in the store",
            max: KEYS_MAX,
        });
    }
    Ok(changes)
}

fn failed(error: impl Into<redb::Error>) -> CommitError {
    CommitError::Store(database(error.into()))
}

/// Reads a number that is stored as decimal text; 0 when there is none.
fn number_at(
    table: &impl ReadableTable<&'static str, (u64, u64, &'static [u8])>,
    prefix: &str,
    key: &str,
) -> Result<u64, redb::Error> {
    let Some(row) = table.get(format!("{prefix}{key}").as_str())? else {
        return Ok(0);
    };
    let (_generation, _lease, text) = row.value();
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| redb::Error::Corrupted(format!("{prefix}{key} is not a number")))
}

fn put_number(
    table: &mut redb::Table<'_, &'static str, (u64, u64, &'static [u8])>,
    prefix: &str,
    key: &str,
    number: u64,
) -> Result<(), redb::Error> {
    table.insert(
        format!("{prefix}{key}").as_str(),
        (number, 0, number.to_string().as_bytes()),
    )?;
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn database(error: redb::Error) -> StoreError {
    StoreError::Database(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_left_as_it_is_and_the_error_tells_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let newer = SCHEMA + 1;
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(TABLE).unwrap();
        put_number(&mut table, &prefix_of("test"), SCHEMA_KEY, newer).unwrap();
        drop(table);
        transaction.commit().unwrap();
        drop(database);

        for _ in 0..2 {
            let error = Embedded::open(&path, "test").await.unwrap_err().to_string();
            assert!(error.contains(&format!("schema {newer}")), "{error}");
            assert!(error.contains("a newer version, or go back"), "{error}");
        }
    }
}
