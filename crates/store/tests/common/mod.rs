//! What the tests of both stores share.

#![allow(dead_code, reason = "every test file uses its own part")]

pub(crate) mod etcd;

use std::time::Duration;

use store::{Commit, Point, Store, Watch, Write};
use tokio::time::timeout;

/// How long anything may take that should take a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: key.into(),
        value: value.into(),
    }
}

pub(crate) fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

pub(crate) async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let listing = store.list(prefix).await.unwrap();
    listing.entries.into_iter().map(|entry| entry.key).collect()
}

/// Where the store stands.
pub(crate) async fn now(store: &dyn Store) -> Point {
    store.list("").await.unwrap().at
}

/// Commits at wherever the store stands; returns the new point.
pub(crate) async fn write(store: &dyn Store, writes: Vec<Write>) -> Point {
    store.commit(now(store).await, writes).await.unwrap()
}

/// The next commit, which must come soon.
pub(crate) async fn next(watch: &mut Watch) -> Commit {
    let next = timeout(PATIENCE, watch.next()).await;
    next.expect("a commit comes").unwrap()
}
