//! What the registry may rely on, on the embedded store.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: panics are its verdict, and one of its processes talks to the other"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use store::{
    COMMIT_WRITES_MAX, CommitError, Embedded, HISTORY_COMMITS_MAX, OpenError, Store,
    VALUE_BYTES_MAX, WatchError, Write,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const LEASE: Duration = Duration::from_millis(300);

fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.into(),
        value: value.into(),
    }
}

fn put_leased(key: &str, value: &str) -> Write {
    Write::PutLeased {
        key: key.into(),
        value: value.into(),
        lease: LEASE,
    }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

async fn open(directory: &TempDir) -> Embedded {
    Embedded::open(&file(directory), "test").await.unwrap()
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("registry/store.redb")
}

async fn keys(store: &Embedded, prefix: &str) -> Vec<String> {
    store
        .list(prefix)
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| entry.key)
        .collect()
}

/// Waits until every clone is gone, which the expiry task may hold for a moment.
async fn reopen(directory: &TempDir) -> Embedded {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match Embedded::open(&file(directory), "test").await {
            Ok(store) => return store,
            Err(OpenError::Held { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_commit_takes_the_next_generation_or_is_refused_whole() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    assert_eq!(
        store
            .commit(0, vec![put("config/a", "1"), put("config/b", "1")])
            .await
            .unwrap(),
        1
    );
    let refused = store
        .commit(0, vec![put("config/a", "2"), delete("config/b")])
        .await;
    assert!(matches!(
        refused,
        Err(CommitError::Conflict {
            expected: 0,
            current: 1
        })
    ));
    let listing = store.list("config/").await.unwrap();
    let values: Vec<_> = listing
        .entries
        .iter()
        .map(|e| (e.key.as_str(), e.value.as_slice(), e.generation))
        .collect();
    assert_eq!(
        values,
        [
            ("config/a", b"1".as_slice(), 1),
            ("config/b", b"1".as_slice(), 1)
        ]
    );
    assert_eq!(listing.generation, 1);
}

#[tokio::test]
async fn of_many_racing_writers_one_wins_each_generation() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let racers: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .commit(0, vec![put(&format!("k{i}"), "")])
                    .await
                    .is_ok()
            })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        winners += usize::from(racer.await.unwrap());
    }
    assert_eq!((winners, keys(&store, "").await.len()), (1, 1));
}

#[tokio::test]
async fn a_prefix_lists_only_its_own_keys() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let writes = vec![
        put("config/sets/1", ""),
        put("config/sets/10", ""),
        put("config/sets/1/a", ""),
        put("d", ""),
    ];
    store.commit(0, writes).await.unwrap();
    assert_eq!(keys(&store, "config/sets/1/").await, ["config/sets/1/a"]);
    assert_eq!(
        keys(&store, "").await.len(),
        4,
        "the store's own keys stay hidden"
    );
}

#[tokio::test]
async fn a_watch_sees_every_commit_in_order() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    store.commit(0, vec![put("config/old", "")]).await.unwrap();
    let mut watch = store.watch("config/", 1);
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for generation in 1..=50 {
            writer
                .commit(generation, vec![put("config/a", &generation.to_string())])
                .await
                .unwrap();
        }
        writer
            .commit(51, vec![delete("config/a"), put("other/x", "")])
            .await
            .unwrap();
    });
    for generation in 2..=51 {
        let commit = watch.next().await.unwrap();
        assert_eq!(commit.generation, generation);
        let value = commit.changes[0].1.as_ref().unwrap();
        assert_eq!(value.value, (generation - 1).to_string().into_bytes());
    }
    let last = watch.next().await.unwrap();
    assert_eq!(
        last.changes,
        [("config/a".to_owned(), None)],
        "only the watched prefix"
    );
    writing.await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_to_list_again() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let mut behind = store.watch("", 0);
    let commits = HISTORY_COMMITS_MAX as u64 + 1;
    for generation in 0..commits {
        store.commit(generation, vec![put("k", "")]).await.unwrap();
    }
    assert_eq!(behind.next().await, Err(WatchError::HistoryLost(0)));
    let mut just_in_time = store.watch("", 1);
    assert_eq!(just_in_time.next().await.unwrap().generation, 2);
    let mut from_the_future = store.watch("", commits + 5);
    assert!(matches!(
        from_the_future.next().await,
        Err(WatchError::HistoryLost(_))
    ));
}

#[tokio::test]
async fn a_watch_ends_with_its_store() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let mut watch = store.watch("", 0);
    drop(store);
    let end = timeout(Duration::from_secs(5), watch.next())
        .await
        .expect("the watch ends");
    assert_eq!(end, Err(WatchError::Closing));
}

#[tokio::test]
async fn a_lease_that_nobody_refreshes_takes_its_key_with_a_generation() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    store
        .commit(
            0,
            vec![put_leased("alive/a", "1"), put_leased("alive/b", "1")],
        )
        .await
        .unwrap();
    let started = Instant::now();
    let refresher = store.clone();
    let refreshing = tokio::spawn(async move {
        loop {
            refresher.refresh("alive/b").await.unwrap();
            sleep(LEASE / 4).await;
        }
    });
    let mut watch = store.watch("alive/", 1);
    let expired = timeout(LEASE * 10, watch.next())
        .await
        .expect("the lease ends")
        .unwrap();
    assert_eq!(
        (expired.generation, expired.changes),
        (2, vec![("alive/a".to_owned(), None)])
    );
    assert!(started.elapsed() >= LEASE);
    sleep(LEASE * 2).await;
    assert_eq!(keys(&store, "alive/").await, ["alive/b"]);
    assert!(store.refresh("alive/a").await.is_err());
    refreshing.abort();
}

#[tokio::test]
async fn a_plain_put_detaches_the_lease() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    store.commit(0, vec![put_leased("a", "1")]).await.unwrap();
    store.commit(1, vec![put("a", "2")]).await.unwrap();
    sleep(LEASE * 2).await;
    assert_eq!(keys(&store, "").await, ["a"]);
    assert!(store.refresh("a").await.is_err());
}

#[tokio::test]
async fn a_restart_keeps_everything_and_gives_leases_their_full_time() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    store
        .commit(0, vec![put("config/a", "1"), put_leased("alive/a", "1")])
        .await
        .unwrap();
    sleep(LEASE / 3).await;
    drop(store);
    let store = reopen(&directory).await;
    let reopened = Instant::now();
    assert_eq!(keys(&store, "").await, ["alive/a", "config/a"]);
    assert_eq!(store.list("").await.unwrap().generation, 1);
    let mut watch = store.watch("", 1);
    let expired = timeout(LEASE * 10, watch.next())
        .await
        .expect("the lease ends")
        .unwrap();
    assert_eq!(expired.changes, [("alive/a".to_owned(), None)]);
    assert!(
        reopened.elapsed() >= LEASE * 9 / 10,
        "{:?}",
        reopened.elapsed()
    );
}

#[tokio::test]
async fn a_second_opening_fails_and_names_the_file() {
    let directory = TempDir::new().unwrap();
    let _store = open(&directory).await;
    let error = Embedded::open(&file(&directory), "test").await.unwrap_err();
    assert!(matches!(error, OpenError::Held { .. }));
    assert!(
        error
            .to_string()
            .contains(file(&directory).to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(
        &path,
        "not a database, but long enough to have a header".repeat(100),
    )
    .unwrap();
    let error = Embedded::open(&path, "test").await.unwrap_err();
    assert!(error.to_string().contains("store.redb"), "{error}");
}

#[tokio::test]
async fn limits_are_kept() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let many = (0..=COMMIT_WRITES_MAX)
        .map(|i| put(&i.to_string(), ""))
        .collect();
    assert!(matches!(
        store.commit(0, many).await,
        Err(CommitError::TooLarge { .. })
    ));
    let long = Write::Put {
        key: "k".into(),
        value: vec![0; VALUE_BYTES_MAX + 1],
    };
    assert!(matches!(
        store.commit(0, vec![long]).await,
        Err(CommitError::TooLarge { .. })
    ));
    assert_eq!(store.list("").await.unwrap().generation, 0);
}

/// Kills a writer with SIGKILL again and again: every generation it announced must be there, whole.
#[tokio::test]
async fn a_killed_writer_loses_nothing_that_it_announced() {
    let directory = TempDir::new().unwrap();
    let mut total = 0;
    for round in 0..5 {
        let announced = kill_a_writer(&file(&directory), Duration::from_millis(60 + 35 * round));
        let store = reopen(&directory).await;
        let listing = store.list("").await.unwrap();
        assert!(
            listing.generation >= announced,
            "{} announced, {} found",
            announced,
            listing.generation
        );
        if listing.generation > 0 {
            let halves: Vec<_> = listing
                .entries
                .iter()
                .map(|e| (e.value.clone(), e.generation))
                .collect();
            let whole = (
                listing.generation.to_string().into_bytes(),
                listing.generation,
            );
            assert_eq!(
                halves,
                [whole.clone(), whole],
                "both halves of the last commit"
            );
        }
        total = listing.generation;
    }
    assert!(total > 0, "the writers wrote");
}

fn kill_a_writer(path: &Path, after: Duration) -> u64 {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture"])
        .env("STORE_TEST_WRITER", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    writer.kill().unwrap();
    let output = writer.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let announced = text.lines().filter_map(|line| {
        line.strip_prefix("committed ")?
            .strip_suffix('.')?
            .parse()
            .ok()
    });
    announced.max().unwrap_or(0)
}

/// The process that the test above kills; does nothing in an ordinary run.
#[tokio::test]
async fn writer_process() {
    let Ok(path) = std::env::var("STORE_TEST_WRITER") else {
        return;
    };
    let store = Embedded::open(Path::new(&path), "test").await.unwrap();
    let mut generation = store.list("").await.unwrap().generation;
    loop {
        let next = (generation + 1).to_string();
        generation = store
            .commit(generation, vec![put("a", &next), put("b", &next)])
            .await
            .unwrap();
        println!("committed {generation}.");
    }
}
