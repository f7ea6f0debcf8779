//! Two registries over one store, in one process.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use store::{Embedded, Entry, RefreshError, Watch};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::catalog::decide::join;

/// A store that says where it stands when it may.
struct Slow {
    store: Embedded,
    /// How long it takes to say where it stands.
    pause: Duration,
    asked: AtomicUsize,
}

#[async_trait]
impl Store for Slow {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.store.list(prefix).await
    }

    async fn point(&self) -> Result<Point, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let point = self.store.point().await;
        sleep(self.pause).await;
        point
    }

    async fn commit(&self, at: Point, writes: Vec<Write>) -> Result<Point, CommitError> {
        self.store.commit(at, writes).await
    }

    async fn note(&self, writes: Vec<Write>) -> Result<(), CommitError> {
        self.store.note(writes).await
    }

    async fn notes(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        self.store.notes(prefix).await
    }

    async fn refresh(&self, key: &str) -> Result<(), RefreshError> {
        self.store.refresh(key).await
    }

    fn watch(&self, prefix: &str, after: Point) -> Watch {
        self.store.watch(prefix, after)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.store.health()
    }
}

/// A directory in memory, if there is one: a commit waits for the disk.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

async fn embedded(directory: &TempDir) -> Embedded {
    let path = directory.path().join("registry.redb");
    Embedded::open(&path, "tandem").await.unwrap()
}

async fn catalog(store: Arc<dyn Store>) -> Arc<Catalog> {
    let forget_after = Duration::from_secs(3600);
    let catalog = Catalog::open(store, "tandem".to_owned(), forget_after).await;
    Arc::new(catalog.unwrap())
}

fn follow(catalog: &Arc<Catalog>) -> JoinHandle<()> {
    let catalog = Arc::clone(catalog);
    tokio::spawn(async move { catalog.follow().await.unwrap() })
}

fn put(resource: v1::resource::Resource) -> Edit {
    Edit {
        at: join("", ""),
        what: What::Put {
            resource: Resource {
                resource: Some(resource),
            },
            mode: Mode::Update {
                allow_missing: true,
            },
        },
    }
}

fn set(id: &str) -> Edit {
    put(v1::resource::Resource::DestinationSet(v1::DestinationSet {
        name: format!("sets/{id}"),
        ..Default::default()
    }))
}

fn route(id: &str, set: &str) -> Edit {
    let next_hop = v1::route_result::NextHop::Set(format!("sets/{set}"));
    put(v1::resource::Resource::Route(v1::Route {
        name: format!("routes/{id}"),
        results: vec![v1::RouteResult {
            next_hop: Some(next_hop),
            ..Default::default()
        }],
        ..Default::default()
    }))
}

fn gone(name: &str) -> Edit {
    Edit {
        at: String::new(),
        what: What::Delete {
            name: name.to_owned(),
            etag: String::new(),
            allow_missing: true,
            node: Node::StaysOut,
        },
    }
}

async fn change(catalog: &Catalog, edits: Vec<Edit>) -> Result<Outcome, Refused> {
    let order = Order::default();
    catalog.change(&order, |_| Ok(edits.clone())).await
}

#[tokio::test]
async fn what_one_accepted_is_read_at_the_other_that_is_behind() {
    let directory = directory();
    let store = embedded(&directory).await;
    let [a, b] = [
        catalog(Arc::new(store.clone())).await,
        catalog(Arc::new(store)).await,
    ];
    let _follows = follow(&a);
    let made = change(&a, vec![set("2")]).await.unwrap().state.generation();
    let reading = tokio::spawn({
        let b = Arc::clone(&b);
        async move { b.latest().await }
    });
    sleep(Duration::from_millis(50)).await;
    assert!(b.state().generation() < made, "it does not follow yet");
    let _follows = follow(&b);
    let read = reading.await.unwrap();
    assert!(!read.is_stale);
    assert!(read.state.generation() >= made);
}

#[tokio::test]
async fn who_gets_no_answer_of_the_store_reads_from_memory_and_is_told() {
    let directory = directory();
    let slow = Slow {
        store: embedded(&directory).await,
        pause: Duration::from_secs(60),
        asked: AtomicUsize::new(0),
    };
    let catalog = catalog(Arc::new(slow)).await;
    let read = timeout(Duration::from_secs(5), catalog.latest()).await;
    let read = read.expect("soon");
    assert!(read.is_stale);
    assert_eq!(read.state.position, catalog.state().position);
}

#[tokio::test]
async fn one_reading_of_the_store_serves_all_who_wait() {
    let directory = directory();
    let slow = Arc::new(Slow {
        store: embedded(&directory).await,
        pause: Duration::from_millis(50),
        asked: AtomicUsize::new(0),
    });
    let catalog = catalog(Arc::clone(&slow) as Arc<dyn Store>).await;
    let readers = (0..100).map(|_| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move { catalog.latest().await.is_stale })
    });
    for reader in readers.collect::<Vec<_>>() {
        assert!(!reader.await.unwrap());
    }
    let asked = slow.asked.load(Ordering::SeqCst);
    assert!((1..=2).contains(&asked), "asked {asked} times");
}

/// `RACES=` says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_ever_refers_to_what_the_other_deleted() {
    let races = std::env::var("RACES").map_or(10_000, |text| text.parse().expect("a number"));
    let directory = directory();
    let store = embedded(&directory).await;
    let [a, b] = [
        catalog(Arc::new(store.clone())).await,
        catalog(Arc::new(store)).await,
    ];
    let follows = [follow(&a), follow(&b)];
    let mut referred = 0;
    for race in 0..races {
        let ready = vec![set("raced"), gone("routes/raced")];
        let ready = change(&a, ready).await.unwrap().state.generation();
        b.reach(ready).await.unwrap();
        let deleted = tokio::spawn({
            let a = Arc::clone(&a);
            async move { change(&a, vec![gone("sets/raced")]).await.is_ok() }
        });
        let made = change(&b, vec![route("raced", "raced")]).await.is_ok();
        let deleted = deleted.await.unwrap();
        assert_ne!(deleted, made, "one of them: race {race}");
        referred += usize::from(made);
        let state = a.latest().await.state;
        state.resources.to_view().expect("what counts is good");
    }
    follows.iter().for_each(JoinHandle::abort);
    assert!(referred > 0 && referred < races, "{referred} of {races}");
}
