//! What is true of the embedded store alone: its file, and a process that dies while it writes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: panics are its verdict, and one of its processes talks to the other"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{keys, now, put, write};
use store::{Embedded, OpenError, Store, Write};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const LEASE: Duration = Duration::from_millis(300);

fn put_leased(key: &str, value: &str) -> Write {
    Write::PutLeased {
        key: key.into(),
        value: value.into(),
        lease: LEASE,
    }
}

async fn open(directory: &TempDir) -> Embedded {
    Embedded::open(&file(directory), "test").await.unwrap()
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("registry/store.redb")
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
async fn a_restart_keeps_everything_and_gives_leases_their_full_time() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let at = write(
        &store,
        vec![put("config/a", "1"), put_leased("alive/a", "1")],
    )
    .await;
    sleep(LEASE / 3).await;
    drop(store);
    let store = reopen(&directory).await;
    let reopened = Instant::now();
    assert_eq!(keys(&store, "").await, ["alive/a", "config/a"]);
    assert_eq!(now(&store).await, at);
    let mut watch = store.watch("", at);
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

/// Kills a writer with SIGKILL again and again: every generation it announced must be there, whole.
#[tokio::test]
async fn a_killed_writer_loses_nothing_that_it_announced() {
    let directory = TempDir::new().unwrap();
    let mut total = 0;
    for round in 0..5 {
        let announced = kill_a_writer(&file(&directory), Duration::from_millis(60 + 35 * round));
        let store = reopen(&directory).await;
        let listing = store.list("").await.unwrap();
        let generation = listing.at.generation;
        assert!(
            generation >= announced,
            "{announced} announced, {generation} found"
        );
        if generation > 0 {
            let halves: Vec<_> = listing
                .entries
                .iter()
                .map(|entry| entry.value.clone())
                .collect();
            let whole = generation.to_string().into_bytes();
            assert_eq!(
                halves,
                [whole.clone(), whole],
                "both halves of the last commit"
            );
        }
        total = generation;
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
    let mut at = now(&store).await;
    loop {
        let next = (at.generation + 1).to_string();
        let writes = vec![put("a", &next), put("b", &next)];
        at = store.commit(at, writes).await.unwrap();
        println!("committed {next}.");
    }
}
