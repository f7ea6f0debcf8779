//! What the registry may rely on, whichever store it has. Each test runs on both.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::etcd::{Etcds, Setup};
use common::{PATIENCE, delete, keys, next, now, put, write};
use store::{
    COMMIT_BYTES_MAX, COMMIT_WRITES_MAX, CommitError, Embedded, Etcd, EtcdConfig,
    HISTORY_COMMITS_MAX, Health, KEY_BYTES_MAX, RefreshError, Store, VALUE_BYTES_MAX, WatchError,
    Write,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// A new store, and what ends with it.
struct Fresh {
    store: Arc<dyn Store>,
    /// What it grants as a lease.
    lease: Duration,
    _directory: Option<TempDir>,
    _etcds: Option<Etcds>,
}

impl Fresh {
    async fn embedded() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("registry/store.redb");
        Some(Self {
            store: Arc::new(Embedded::open(&file, "test").await.unwrap()),
            lease: Duration::from_millis(300),
            _directory: Some(directory),
            _etcds: None,
        })
    }

    async fn etcd() -> Option<Self> {
        let etcds = Etcds::start(
            1,
            Setup {
                hasty: true,
                ..Setup::default()
            },
        )?;
        let config = EtcdConfig {
            endpoints: etcds.endpoints(),
            ..EtcdConfig::default()
        };
        Some(Self {
            store: Arc::new(Etcd::open(&config, "test")),
            lease: Duration::from_secs(1),
            _directory: None,
            _etcds: Some(etcds),
        })
    }

    fn put_leased(&self, key: &str, value: &str) -> Write {
        Write::PutLeased {
            key: key.into(),
            value: value.into(),
            lease: self.lease,
        }
    }
}

macro_rules! on_both {
    ($($test:ident)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Fresh::embedded().await.unwrap()).await;
            })*
        }
        mod etcd {
            $(#[tokio::test]
            async fn $test() {
                if let Some(fresh) = super::Fresh::etcd().await {
                    super::$test(fresh).await;
                }
            })*
        }
    };
}

on_both! {
    a_commit_takes_the_next_generation_or_is_refused_whole
    of_many_racing_writers_one_wins_each_generation
    a_version_changes_with_every_write
    a_prefix_lists_only_its_own_keys
    a_long_listing_is_whole
    a_watch_sees_every_commit_in_order
    a_watch_from_an_earlier_point_sees_what_followed_it
    a_watcher_that_falls_behind_is_told_to_list_again
    a_watch_from_a_point_that_never_was_is_told_to_list_again
    a_watch_ends_with_its_store
    a_lease_that_nobody_refreshes_takes_its_key_with_a_generation
    a_lease_that_is_granted_again_lasts_from_then_on
    a_plain_put_detaches_the_lease
    a_note_takes_no_generation_and_runs_out
    a_note_in_a_commit_is_made_with_it_or_not_at_all
    limits_are_kept
    it_is_up
}

async fn a_commit_takes_the_next_generation_or_is_refused_whole(fresh: Fresh) {
    let store = &*fresh.store;
    let start = now(store).await;
    assert_eq!(start.generation, 0);
    let writes = vec![put("config/a", "1"), put("config/b", "1")];
    let first = store.commit(start, writes).await.unwrap();
    assert_eq!(first.generation, 1);
    let writes = vec![put("config/a", "2"), delete("config/b")];
    let refused = store.commit(start, writes).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Conflict { expected, current } if (expected, current) == (start, first)),
        "{refused}"
    );
    let listing = store.list("config/").await.unwrap();
    let values: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| (entry.key.as_str(), entry.value.as_slice()))
        .collect();
    let one = b"1".as_slice();
    assert_eq!(values, [("config/a", one), ("config/b", one)]);
    assert_eq!(listing.at, first);
    let nothing = store.commit(first, vec![]).await.unwrap();
    assert_eq!(nothing.generation, 2, "an empty commit counts, too");
}

async fn of_many_racing_writers_one_wins_each_generation(fresh: Fresh) {
    let start = now(&*fresh.store).await;
    let racer = |i: usize| {
        let store = Arc::clone(&fresh.store);
        tokio::spawn(async move {
            let mut won = Vec::new();
            let mut at = start;
            while won.len() < 5 {
                let write = put(&format!("k{i}"), &won.len().to_string());
                match store.commit(at, vec![write]).await {
                    Ok(made) => {
                        won.push(made.generation);
                        at = made;
                    }
                    Err(CommitError::Conflict { current, .. }) => at = current,
                    Err(error) => panic!("{error}"),
                }
            }
            won
        })
    };
    let racers: Vec<_> = (0..8).map(racer).collect();
    let mut won = Vec::new();
    for racer in racers {
        won.extend(timeout(PATIENCE * 3, racer).await.unwrap().unwrap());
    }
    won.sort_unstable();
    assert_eq!(won, (1..=40).collect::<Vec<u64>>());
    assert_eq!(keys(&*fresh.store, "").await.len(), 8);
}

async fn a_version_changes_with_every_write(fresh: Fresh) {
    let store = &*fresh.store;
    let mut seen = Vec::new();
    for value in ["1", "2", "2"] {
        write(store, vec![put("a", value), put("b", "")]).await;
        let entries = store.list("a").await.unwrap().entries;
        assert!(!seen.contains(&entries[0].version), "{seen:?}");
        seen.push(entries[0].version);
    }
    let before = store.list("a").await.unwrap().entries;
    write(store, vec![put("b", "other")]).await;
    assert_eq!(store.list("a").await.unwrap().entries, before);
}

async fn a_prefix_lists_only_its_own_keys(fresh: Fresh) {
    let store = &*fresh.store;
    let writes = vec![
        put("config/sets/1", ""),
        put("config/sets/10", ""),
        put("config/sets/1/a", ""),
        put("d", ""),
    ];
    write(store, writes).await;
    assert_eq!(keys(store, "config/sets/1/").await, ["config/sets/1/a"]);
    assert_eq!(
        keys(store, "").await,
        ["config/sets/1", "config/sets/1/a", "config/sets/10", "d"],
        "in order, and the store's own keys stay hidden"
    );
}

async fn a_long_listing_is_whole(fresh: Fresh) {
    let store = &*fresh.store;
    let mut all = Vec::new();
    for batch in 0..6 {
        let keys = (0..100).map(|i| format!("config/{batch}-{i:02}"));
        let keys: Vec<_> = keys.collect();
        write(store, keys.iter().map(|key| put(key, "x")).collect()).await;
        all.extend(keys);
    }
    assert_eq!(keys(store, "config/").await, all);
}

async fn a_watch_sees_every_commit_in_order(fresh: Fresh) {
    let at = write(&*fresh.store, vec![put("config/old", "")]).await;
    let mut watch = fresh.store.watch("config/", at);
    let writer = Arc::clone(&fresh.store);
    let writing = tokio::spawn(async move {
        let mut at = at;
        for value in 1..=50 {
            let writes = vec![put("config/a", &value.to_string())];
            at = writer.commit(at, writes).await.unwrap();
        }
        let writes = vec![
            delete("config/a"),
            delete("config/none"),
            put("other/x", ""),
        ];
        writer.commit(at, writes).await.unwrap()
    });
    for value in 1..=50 {
        let commit = next(&mut watch).await;
        assert_eq!(commit.at.generation, value + 1);
        let entry = commit.changes[0].1.as_ref().unwrap();
        assert_eq!(entry.value, value.to_string().into_bytes());
    }
    let last = next(&mut watch).await;
    let gone = ("config/a".to_owned(), None);
    assert_eq!(last.changes, [gone], "only what was there, and is watched");
    assert_eq!(last.at, writing.await.unwrap());
}

async fn a_watch_from_an_earlier_point_sees_what_followed_it(fresh: Fresh) {
    let store = &*fresh.store;
    let mut points = vec![now(store).await];
    for value in ["1", "2", "3"] {
        let at = *points.last().unwrap();
        points.push(store.commit(at, vec![put("k", value)]).await.unwrap());
    }
    for (seen, from) in points.iter().enumerate() {
        let mut watch = store.watch("", *from);
        for point in &points[seen + 1..] {
            assert_eq!(next(&mut watch).await.at, *point);
        }
        let more = timeout(Duration::from_millis(50), watch.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

async fn a_watcher_that_falls_behind_is_told_to_list_again(fresh: Fresh) {
    let store = &*fresh.store;
    let start = now(store).await;
    let mut behind = store.watch("", start);
    let first = store.commit(start, vec![put("k", "")]).await.unwrap();
    let mut at = first;
    for _ in 0..HISTORY_COMMITS_MAX {
        at = store.commit(at, vec![put("k", "")]).await.unwrap();
    }
    assert_eq!(behind.next().await, Err(WatchError::HistoryLost(0)));
    let mut just_in_time = store.watch("", first);
    assert_eq!(next(&mut just_in_time).await.at.generation, 2);
}

async fn a_watch_from_a_point_that_never_was_is_told_to_list_again(fresh: Fresh) {
    let other = Fresh::embedded().await.unwrap();
    let mut elsewhere = now(&*other.store).await;
    for _ in 0..5 {
        elsewhere = write(&*other.store, vec![put("k", "")]).await;
    }
    write(&*fresh.store, vec![put("k", "")]).await;
    let end = fresh.store.watch("", elsewhere).next().await;
    assert_eq!(end, Err(WatchError::HistoryLost(5)));
}

async fn a_watch_ends_with_its_store(fresh: Fresh) {
    let at = now(&*fresh.store).await;
    let mut watch = fresh.store.watch("", at);
    drop(fresh.store);
    let end = timeout(PATIENCE, watch.next()).await;
    assert_eq!(end.expect("the watch ends"), Err(WatchError::Closing));
}

async fn a_lease_that_nobody_refreshes_takes_its_key_with_a_generation(fresh: Fresh) {
    let lease = fresh.lease;
    let writes = ["alive/a", "alive/b"].map(|key| fresh.put_leased(key, "1"));
    let started = Instant::now();
    let at = write(&*fresh.store, writes.to_vec()).await;
    let refresher = Arc::clone(&fresh.store);
    let refreshing = tokio::spawn(async move {
        loop {
            refresher.refresh("alive/b").await.unwrap();
            sleep(lease / 4).await;
        }
    });
    let mut watch = fresh.store.watch("alive/", at);
    let expired = next(&mut watch).await;
    assert_eq!(expired.at.generation, at.generation + 1);
    assert_eq!(expired.changes, [("alive/a".to_owned(), None)]);
    assert!(started.elapsed() >= lease, "{:?}", started.elapsed());
    sleep(lease * 2).await;
    assert_eq!(keys(&*fresh.store, "alive/").await, ["alive/b"]);
    let refused = fresh.store.refresh("alive/a").await;
    assert!(matches!(refused, Err(RefreshError::NoLease)), "{refused:?}");
    refreshing.abort();
}

async fn a_lease_that_is_granted_again_lasts_from_then_on(fresh: Fresh) {
    let store = &*fresh.store;
    write(store, vec![fresh.put_leased("a", "1")]).await;
    sleep(fresh.lease * 2 / 3).await;
    let again = Instant::now();
    let at = write(store, vec![fresh.put_leased("a", "2")]).await;
    let mut watch = store.watch("", at);
    assert_eq!(next(&mut watch).await.changes, [("a".to_owned(), None)]);
    assert!(again.elapsed() >= fresh.lease, "{:?}", again.elapsed());
}

async fn a_plain_put_detaches_the_lease(fresh: Fresh) {
    let store = &*fresh.store;
    write(store, vec![fresh.put_leased("a", "1")]).await;
    write(store, vec![put("a", "2")]).await;
    let refused = store.refresh("a").await;
    assert!(matches!(refused, Err(RefreshError::NoLease)), "{refused:?}");
    sleep(fresh.lease * 3).await;
    assert_eq!(keys(store, "").await, ["a"]);
}

/// Keys and values of the notes with a prefix.
async fn notes(store: &dyn Store, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let notes = store.notes(prefix).await.unwrap();
    notes
        .into_iter()
        .map(|note| (note.key, note.value))
        .collect()
}

async fn a_note_takes_no_generation_and_runs_out(fresh: Fresh) {
    let store = &*fresh.store;
    let at = write(store, vec![put("config/a", "1")]).await;
    let mut watch = store.watch("", at);
    let writes = vec![
        fresh.put_leased("status/a", "1"),
        fresh.put_leased("status/b", "1"),
    ];
    store.note(writes).await.unwrap();
    store.note(vec![put("status/a", "2")]).await.unwrap();
    let [a, b] = [("status/a", "2"), ("status/b", "1")].map(|(k, v)| (k.to_owned(), v.into()));
    assert_eq!(notes(store, "status/").await, [a.clone(), b.clone()]);
    assert_eq!(notes(store, "status/b").await, [b]);
    assert_eq!(keys(store, "").await, ["config/a"]);
    assert_eq!(now(store).await, at);
    sleep(fresh.lease * 3).await;
    assert_eq!(
        notes(store, "status/").await,
        [a],
        "a plain put has no lease"
    );
    assert_eq!(now(store).await, at, "running out takes no generation");
    // Nothing but the next commit is seen.
    let after = write(store, vec![delete("config/a")]).await;
    let seen = next(&mut watch).await;
    assert_eq!(
        (seen.at, seen.changes),
        (after, vec![("config/a".to_owned(), None)])
    );
}

async fn a_note_in_a_commit_is_made_with_it_or_not_at_all(fresh: Fresh) {
    let store = &*fresh.store;
    let at = now(store).await;
    let writes = |value| vec![put("config/a", value), put("requests/a", value)];
    let made = store.commit(at, writes("1")).await.unwrap();
    let refused = store.commit(at, writes("2")).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict { .. }), "{refused}");
    let one = ("requests/a".to_owned(), b"1".to_vec());
    assert_eq!(notes(store, "requests/").await, [one]);
    let seen = next(&mut store.watch("", at)).await;
    let keys: Vec<_> = seen.changes.into_iter().map(|(key, _)| key).collect();
    assert_eq!((seen.at, keys), (made, vec!["config/a".to_owned()]));
}

async fn limits_are_kept(fresh: Fresh) {
    let store = &*fresh.store;
    let at = now(store).await;
    let long = |key: usize, value: usize| Write::Put {
        key: "k".repeat(key),
        value: vec![0; value],
    };
    let (many, big) = (0..=COMMIT_WRITES_MAX, COMMIT_BYTES_MAX / VALUE_BYTES_MAX);
    for writes in [
        many.map(|i| put(&i.to_string(), "")).collect(),
        vec![long(1, VALUE_BYTES_MAX + 1)],
        vec![long(KEY_BYTES_MAX + 1, 1)],
        (1..=big + 1).map(|i| long(i, VALUE_BYTES_MAX)).collect(),
    ] {
        let refused = store.commit(at, writes).await;
        assert!(matches!(refused, Err(CommitError::TooLarge { .. })));
    }
    assert_eq!(now(store).await, at);
    let most = (1..=COMMIT_WRITES_MAX).map(|i| long(i, 8000)).collect();
    let made = store.commit(at, most).await.unwrap();
    assert_eq!(made.generation, 1, "the largest commit is taken");
}

async fn it_is_up(fresh: Fresh) {
    let mut health = fresh.store.health();
    let up = timeout(PATIENCE, health.wait_for(|health| *health == Health::Up));
    up.await.expect("it comes up").unwrap();
}
