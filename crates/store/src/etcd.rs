//! The store in etcd, for a cluster with any number of registries.
//!
//! The counter of generations is a key like the others, `generation`: the number, and a random mark
//! that tells two commits of one number apart. A commit is one transaction: if the counter is what
//! the writer saw and no touched key was written since, write and count. So an attempt whose answer
//! was lost can be made again: finding its own mark it knows that it was made.
//!
//! A listing is read at the revision in which the counter got its value, and is therefore exactly
//! one generation. Revisions stay in here: after a restore from a backup they fall back and climb
//! again.

mod follow;
mod members;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::history::{History, Watch};
use crate::{
    CommitError, Entry, GENERATION, Health, KEYS_MAX, Listing, OWN_KEYS, Point, RefreshError,
    SCHEMA, SCHEMA_KEY, Store, StoreError, Write, check_limits, check_notes, is_note, prefix_of,
};
use members::Members;

/// Keys in one answer while listing.
const PAGE_KEYS: i64 = 256;
/// Largest answer that is taken from etcd: a page of the largest values, and room.
const MESSAGE_BYTES_MAX: usize = 96 * 1024 * 1024;
/// How often a listing is begun again, because etcd compacted meanwhile or a member is behind.
const LIST_ATTEMPTS_MAX: usize = 5;
/// Wait for a member that has not seen yet what another one told.
const MEMBER_BEHIND_PAUSE: Duration = Duration::from_millis(50);
/// How long our own watch may take to show what was committed or listed.
const REACH_MAX: Duration = Duration::from_secs(2);

/// Where etcd is and how it knows us.
#[derive(Clone, Default)]
pub struct EtcdConfig {
    /// Client addresses of the members, as `10.0.0.1:2379` or with `http://` or `https://`. At least
    /// one; a member that is missing here is not asked.
    pub endpoints: Vec<String>,
    /// User and password, if etcd wants them.
    pub user: Option<(String, String)>,
    /// Certificates, in PEM, of those who may have signed the members'. Needed for `https://`.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, in PEM, if etcd wants one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        if let Some((user, password)) = &self.user {
            options = options.with_user(user, password);
        }
        let Some(ca) = &self.ca else { return options };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        options.with_tls(tls)
    }
}

/// A store in etcd.
#[derive(Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
    follower: AbortHandle,
}

struct Shared {
    prefix: String,
    members: Members,
    history: Arc<History>,
    /// The counter as it was seen last.
    seen: Mutex<Option<Head>>,
    /// Keys that there were when they were counted last.
    keys: AtomicUsize,
}

/// The counter of generations and the revision that wrote it.
#[derive(Clone, Copy, Debug)]
struct Head {
    point: Point,
    revision: i64,
}

/// What became of one attempt at a commit.
enum Attempt {
    Made,
    Conflict(Point),
}

impl Etcd {
    /// Begins to follow the store of `cluster`, which need not be there yet: [`Store::health`] tells.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Without endpoints.
    #[must_use]
    pub fn open(config: &EtcdConfig, cluster: &str) -> Self {
        assert!(!config.endpoints.is_empty(), "etcd has an address");
        let shared = Arc::new(Shared {
            prefix: prefix_of(cluster),
            members: Members::new(&config.endpoints, config.options()),
            history: Arc::new(History::starting_at(Point::default())),
            seen: Mutex::default(),
            keys: AtomicUsize::new(0),
        });
        let follower = tokio::spawn(follow::follow(Arc::clone(&shared))).abort_handle();
        Self { shared, follower }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[async_trait]
impl Store for Etcd {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let listing = self.shared.list(prefix).await?;
        // Whoever watches from a listing must find it in the history.
        match timeout(REACH_MAX, self.shared.history.reaches(listing.at)).await {
            Ok(()) => Ok(listing),
            Err(_elapsed) => Err(StoreError::Unavailable(None)),
        }
    }

    async fn point(&self) -> Result<Point, StoreError> {
        // Once etcd is known to be gone nobody is kept waiting to find that out again.
        if *self.shared.members.health().borrow() != Health::Up {
            return Err(StoreError::Unavailable(None));
        }
        Ok(self.shared.head().await?.point)
    }

    async fn commit(&self, at: Point, writes: Vec<Write>) -> Result<Point, CommitError> {
        check_limits(&writes)?;
        let made = self.shared.commit(at, &writes).await?;
        // It is made, whether or not our own watch is there yet.
        let _reached = timeout(REACH_MAX, self.shared.history.reaches(made)).await;
        Ok(made)
    }

    async fn note(&self, writes: Vec<Write>) -> Result<(), CommitError> {
        check_notes(&writes)?;
        let operations = &self.shared.puts(&writes).await?;
        let write = |client: Client| async move {
            let write = Txn::new().and_then(operations.as_slice());
            client.kv_client().txn(write).await.map(drop)
        };
        let written = self.shared.members.ask(write).await;
        written.map_err(|error| CommitError::Store(error.into()))
    }

    async fn notes(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let read = |client| self.shared.read_all(client, prefix, None);
        let mut notes = self.shared.members.ask(read).await?;
        notes.retain(|entry| is_note(&entry.key));
        Ok(notes)
    }

    async fn refresh(&self, key: &str) -> Result<(), RefreshError> {
        let key = &self.shared.full(key);
        let refreshed = self.shared.members.ask(|client| async move {
            let mut lease = lease_of(&client, key, GetOptions::new().with_serializable()).await?;
            if lease == 0 {
                // The member may just be behind.
                lease = lease_of(&client, key, GetOptions::new()).await?;
            }
            if lease == 0 {
                return Ok(false);
            }
            let kept = client.lease_client().keep_alive(lease).await;
            kept.map(|_keeper_and_answers| true)
        });
        match refreshed.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(Error::LeaseKeepAliveError(_)) => Err(RefreshError::NoLease),
            Err(error) => Err(RefreshError::Store(error.into())),
        }
    }

    fn watch(&self, prefix: &str, after: Point) -> Watch {
        self.shared.history.watch(prefix, after)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.members.health()
    }
}

impl Shared {
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Reads the counter, linearizably; a new store gets one first.
    ///
    /// Because it might write, etcd puts it through its log. A reading by itself may stall for seconds
    /// after an election (etcd issue 12680).
    async fn head(&self) -> Result<Head, StoreError> {
        let head = |client: Client| self.read_or_write_head(client);
        let (head, schema) = self.members.ask(head).await?;
        let damaged = |key| StoreError::Damaged { key };
        let schema = schema.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        match schema.ok_or(damaged(SCHEMA_KEY))? {
            found if found > SCHEMA => Err(StoreError::Schema {
                found,
                known: SCHEMA,
            }),
            _ => head.ok_or(damaged(GENERATION)),
        }
    }

    async fn read_or_write_head(
        &self,
        client: Client,
    ) -> Result<(Option<Head>, Option<Vec<u8>>), Error> {
        let (generation, schema) = (self.full(GENERATION), self.full(SCHEMA_KEY));
        let reads = [&generation, &schema].map(|key| TxnOp::get(key.as_str(), None));
        let writes = [
            TxnOp::put(generation.as_str(), text_of(new_point(0)), None),
            TxnOp::put(schema.as_str(), SCHEMA.to_string(), None),
        ];
        let is_new = Compare::create_revision(generation.as_str(), CompareOp::Equal, 0);
        let read = Txn::new()
            .when([is_new])
            .and_then([writes.as_slice(), &reads].concat())
            .or_else(reads);
        let answers = client.kv_client().txn(read).await?.op_responses();
        let mut found = answers.iter().filter_map(|answer| match answer {
            TxnOpResponse::Get(get) => Some(get.kvs().first().cloned()),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let head = found.next().flatten().and_then(|kv| {
            Some(Head {
                point: parse_point(kv.value())?,
                revision: kv.mod_revision(),
            })
        });
        let schema = found.next().flatten().map(|kv| kv.value().to_vec());
        Ok((head, schema))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        for _ in 0..LIST_ATTEMPTS_MAX {
            let head = self.head().await?;
            let read = self
                .members
                .ask(|client| self.read_all(client, prefix, Some(head.revision)));
            match read.await {
                Ok(mut entries) => {
                    entries.retain(|entry| !is_note(&entry.key));
                    return Ok(Listing {
                        at: head.point,
                        entries,
                    });
                }
                Err(Error::GRpcStatus(status))
                    if status.code() == Code::OutOfRange
                        && !status.message().contains("compacted") =>
                {
                    sleep(MEMBER_BEHIND_PAUSE).await;
                }
                // What the keys were at that revision is forgotten: a new generation has them as
                // they are. Somebody else's does as well.
                Err(Error::GRpcStatus(status)) if status.code() == Code::OutOfRange => {
                    match self.commit(head.point, &[]).await {
                        Err(CommitError::Store(error)) => return Err(error),
                        Ok(_)
                        | Err(CommitError::Conflict { .. } | CommitError::TooLarge { .. }) => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Unavailable(None))
    }

    /// Reads keys page by page as of a revision, or as they are now.
    async fn read_all(
        &self,
        client: Client,
        prefix: &str,
        revision: Option<i64>,
    ) -> Result<Vec<Entry>, Error> {
        let mut client = client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let prefix = self.full(prefix);
        let end = end_of(&prefix);
        let mut from = prefix.into_bytes();
        let mut entries = Vec::new();
        loop {
            let mut page = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(PAGE_KEYS);
            if let Some(revision) = revision {
                // The revision says it all; a member that is not there yet says so.
                page = page.with_revision(revision).with_serializable();
            }
            let page = client.get(from, Some(page)).await?;
            let keys = page.kvs().iter().filter_map(|kv| {
                let key = kv.key_str().ok()?.strip_prefix(&self.prefix)?;
                (!OWN_KEYS.contains(&key)).then(|| entry(key, kv))
            });
            entries.extend(keys);
            match page.kvs().last() {
                Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
                Some(_) | None => return Ok(entries),
            }
        }
    }

    async fn commit(&self, at: Point, writes: &[Write]) -> Result<Point, CommitError> {
        self.check_room(writes).await?;
        let made = new_point(at.generation + 1);
        let operations = &self.operations(made, writes).await?;
        let attempts = &AtomicU32::new(0);
        let attempt = self.members.ask(|client| async move {
            attempts.fetch_add(1, Ordering::Relaxed);
            self.attempt(client, at, made, writes, operations).await
        });
        match attempt.await.map_err(StoreError::from)? {
            Attempt::Made => Ok(made),
            Attempt::Conflict(current) => {
                // An attempt whose answer was lost may have been made, and others have followed.
                if attempts.load(Ordering::Relaxed) > 1 {
                    let _reached = timeout(REACH_MAX, self.history.reaches(current)).await;
                    if self.history.knows(made) {
                        return Ok(made);
                    }
                }
                Err(CommitError::Conflict {
                    expected: at,
                    current,
                })
            }
        }
    }

    /// Refuses what would make more keys than there may be. They are counted when that may be so by what
    /// is known of them, since others delete, too.
    async fn check_room(&self, writes: &[Write]) -> Result<(), CommitError> {
        let keys_max = KEYS_MAX + OWN_KEYS.len();
        let is_put = |write: &&Write| !matches!(write, Write::Delete { .. });
        let puts = writes.iter().filter(is_put).count();
        if self.keys.load(Ordering::Relaxed) + puts <= keys_max {
            return Ok(());
        }
        let count = GetOptions::new().with_count_only();
        let all = TxnOp::get(self.prefix.as_str(), Some(count.clone().with_prefix()));
        let each = writes
            .iter()
            .map(|write| TxnOp::get(self.full(write.key()), Some(count.clone())));
        let counts = &std::iter::once(all).chain(each).collect::<Vec<_>>();
        let count = |client: Client| async move {
            let read = Txn::new().and_then(counts.as_slice());
            client.kv_client().txn(read).await
        };
        let counted = self.members.ask(count).await.map_err(StoreError::from)?;
        let counted = counted.op_responses().into_iter();
        let mut counted = counted.map(|answer| match answer {
            TxnOpResponse::Get(get) => usize::try_from(get.count()).unwrap_or_default(),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => 0,
        });
        let before = counted.next().unwrap_or_default();
        self.keys.store(before, Ordering::Relaxed);
        let existing: usize = counted.sum();
        // What exists of them is written over, or deleted.
        let after = (before + puts).saturating_sub(existing);
        if after > keys_max && after > before {
            return Err(CommitError::TooLarge {
                what: "keys in the store",
                max: KEYS_MAX,
            });
        }
        Ok(())
    }

    /// Returns what is to be done in one transaction, at whose end all keys are counted.
    async fn operations(&self, made: Point, writes: &[Write]) -> Result<Vec<TxnOp>, StoreError> {
        let mut operations = vec![TxnOp::put(self.full(GENERATION), text_of(made), None)];
        operations.extend(self.puts(writes).await?);
        let all = GetOptions::new().with_prefix().with_count_only();
        operations.push(TxnOp::get(self.prefix.as_str(), Some(all)));
        Ok(operations)
    }

    /// Grants the leases that the writes need and returns what is to be done. Notes of one length share a
    /// lease: nobody refreshes one of them alone.
    async fn puts(&self, writes: &[Write]) -> Result<Vec<TxnOp>, StoreError> {
        let mut shared = BTreeMap::new();
        let mut operations = Vec::new();
        for write in writes {
            let key = self.full(write.key());
            operations.push(match write {
                Write::Put { value, .. } => TxnOp::put(key, value.clone(), None),
                Write::PutLeased { value, lease, .. } => {
                    let seconds =
                        i64::try_from(lease.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
                    let lease = match shared.get(&seconds) {
                        Some(lease) => *lease,
                        None => self.grant(seconds).await?,
                    };
                    if is_note(write.key()) {
                        shared.insert(seconds, lease);
                    }
                    let options = PutOptions::new().with_lease(lease);
                    TxnOp::put(key, value.clone(), Some(options))
                }
                Write::Delete { .. } => TxnOp::delete(key, None),
            });
        }
        Ok(operations)
    }

    /// Grants a lease; one that nobody comes to use runs out.
    async fn grant(&self, seconds: i64) -> Result<i64, StoreError> {
        let grant = |client: Client| async move {
            let granted = client.lease_client().grant(seconds, None).await?;
            Ok(granted.id())
        };
        Ok(self.members.ask(grant).await?)
    }

    async fn attempt(
        &self,
        client: Client,
        at: Point,
        made: Point,
        writes: &[Write],
        operations: &[TxnOp],
    ) -> Result<Attempt, Error> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let head = match seen {
            Some(head) if head.point == at => Some(head),
            Some(_) | None => self.read_or_write_head(client.clone()).await?.0,
        };
        let Some(head) = head.filter(|head| head.point == at) else {
            return Ok(Attempt::at(made, head.map(|head| head.point)));
        };
        let generation = self.full(GENERATION);
        let unchanged = Compare::value(generation.as_str(), CompareOp::Equal, text_of(at));
        let untouched = writes.iter().map(|write| {
            let key = self.full(write.key());
            Compare::mod_revision(key, CompareOp::Less, head.revision + 1)
        });
        let conditions: Vec<_> = std::iter::once(unchanged).chain(untouched).collect();
        let write = Txn::new()
            .when(conditions)
            .and_then(operations)
            .or_else([TxnOp::get(generation, None)]);
        let answer = client.kv_client().txn(write).await?;
        match &answer.op_responses()[..] {
            [.., TxnOpResponse::Get(count)] if answer.succeeded() => {
                let keys = usize::try_from(count.count()).unwrap_or(usize::MAX);
                self.keys.store(keys, Ordering::Relaxed);
                Ok(Attempt::Made)
            }
            [TxnOpResponse::Get(found)] => {
                let current = found.kvs().first().and_then(|kv| parse_point(kv.value()));
                Ok(Attempt::at(made, current))
            }
            _ => Ok(Attempt::Made),
        }
    }
}

impl Attempt {
    /// Tells what an attempt to make one point means where the store is at another.
    fn at(made: Point, current: Option<Point>) -> Self {
        match current {
            Some(current) if current == made => Self::Made,
            current => Self::Conflict(current.unwrap_or_default()),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Returns the lease of a key; 0 for none.
async fn lease_of(client: &Client, key: &str, options: GetOptions) -> Result<i64, Error> {
    let found = client.kv_client().get(key, Some(options)).await?;
    Ok(found.kvs().first().map_or(0, KeyValue::lease))
}

/// Returns the end of the range of keys that begin with `prefix`, which is ASCII.
fn end_of(prefix: &str) -> String {
    // Nothing that is written as UTF-8 sorts behind this.
    format!("{prefix}\u{10ffff}")
}

fn entry(key: &str, kv: &KeyValue) -> Entry {
    Entry {
        key: key.to_owned(),
        value: kv.value().to_vec(),
        version: u64::try_from(kv.version()).unwrap_or_default(),
    }
}

fn new_point(generation: u64) -> Point {
    Point {
        generation,
        mark: SmallRng::from_os_rng().random(),
    }
}

fn text_of(point: Point) -> String {
    format!("{} {:016x}", point.generation, point.mark)
}

/// Reads what [`text_of`] writes, and nothing else: a commit compares the text.
fn parse_point(text: &[u8]) -> Option<Point> {
    let text = std::str::from_utf8(text).ok()?;
    let (generation, mark) = text.split_once(' ')?;
    let point = Point {
        generation: generation.parse().ok()?,
        mark: u64::from_str_radix(mark, 16).ok()?,
    };
    (text_of(point) == text).then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_reads_as_it_is_written() {
        let point = new_point(7);
        assert_eq!(parse_point(text_of(point).as_bytes()), Some(point));
        assert_ne!(new_point(7), point, "two commits of one number differ");
        for damaged in ["", "7", "7 ", "7 0", "seven 0", "7 0 0"] {
            assert_eq!(parse_point(damaged.as_bytes()), None, "{damaged}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let config = EtcdConfig {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            user: Some(("tandem".to_owned(), "hidden".to_owned())),
            ..EtcdConfig::default()
        };
        let shown = format!("{config:?}");
        assert!(
            shown.contains("2379") && !shown.contains("hidden"),
            "{shown}"
        );
    }
}
