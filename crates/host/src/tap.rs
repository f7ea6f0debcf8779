//! Readers far away, of what passes through an element or of anything else: who wants what, how far
//! one may fall behind, and how it is told that it was cut. A slow reader slows nobody down.
//!
//! Not here: what a reader may ask for and what it is shown; of packets that is a service's [`Lens`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use control::shutdown::Shutdown;
use element::{FlowId, Tap, TapPoint};
use parking_lot::Mutex;
use sip_types::{Index, Message};
use tokio::sync::mpsc;
use tokio_stream::Stream;

/// How many items one reader may be behind before it is cut.
pub const BEHIND_MAX: usize = 16_384;

/// How many bytes of items one reader may be behind before it is cut.
pub const BEHIND_BYTES_MAX: usize = 32 << 20;

/// How many readers of one kind there may be at once.
pub const READERS_MAX: usize = 16;

/// One message as it passed.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    /// When, in nanoseconds since 1970.
    pub at_nanos: u64,
    /// Which way it went.
    pub point: TapPoint,
    /// The listen address.
    pub flow: FlowId,
    /// The other end.
    pub remote: SocketAddr,
    /// The message, with its bytes.
    pub message: &'a Message<'a>,
}

/// How a service looks at what passes. All of it runs on the packet path: it must be quick.
pub trait Lens: Send + Sync + 'static {
    /// What one reader asked for.
    type Filter: Send + 'static;
    /// What a message looks like to a reader.
    type Item: Send + 'static;

    /// Tells whether anything on this listen address may be of interest, before it is read.
    fn looks_at(&self, flow: FlowId) -> bool;

    /// Tells whether a reader wants a message.
    fn wants(&self, filter: &Self::Filter, passed: &Passed<'_>) -> bool;

    /// Returns what a reader is shown of a message.
    fn show(&self, passed: &Passed<'_>) -> Self::Item;
}

/// Makes room for readers of the element whose tap `set` sets: on while there is a reader.
#[must_use]
pub fn of_element<L: Lens>(
    lens: L,
    set: impl Fn(Option<Arc<dyn Tap>>) + Send + Sync + 'static,
) -> Arc<Readers<L::Filter, L::Item>> {
    let lens = Arc::new(lens);
    Arc::new_cyclic(|readers: &std::sync::Weak<Readers<L::Filter, L::Item>>| {
        let readers = readers.clone();
        Readers::with_switch(move |on| {
            let readers = readers.upgrade().filter(|_| on);
            set(readers.map(|readers| {
                let lens = lens.clone();
                Arc::new(Packets { lens, readers }) as Arc<dyn Tap>
            }));
        })
    })
}

/// The tap of an element: shows readers its packets through a lens.
struct Packets<L: Lens> {
    lens: Arc<L>,
    readers: Arc<Readers<L::Filter, L::Item>>,
}

impl<L: Lens> Tap for Packets<L> {
    fn message(
        &self,
        _now: Instant,
        point: TapPoint,
        flow: FlowId,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        if !self.lens.looks_at(flow) {
            return;
        }
        let mut index = Index::new();
        let Ok(message) = Message::parse(bytes, &mut index) else {
            return;
        };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let passed = Passed {
            at_nanos: since_1970.unwrap_or_default().as_nanos() as u64,
            point,
            flow,
            remote,
            message: &message,
        };
        self.readers.offer(
            bytes.len(),
            |filter| self.lens.wants(filter, &passed),
            || self.lens.show(&passed),
        );
    }
}

/// Why a reader gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// It fell behind.
    SlowReader,
    /// The process is about to end.
    Shutdown,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    /// One item.
    Item(T),
    /// The last that it gets.
    Cut {
        /// Why there is no more.
        reason: CutReason,
        /// How many items it wanted and was not shown.
        missed: u64,
    },
}

/// There are [`READERS_MAX`] readers already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{READERS_MAX} readers are here already: end one of them")]
pub struct TooManyReaders;

/// Everybody who reads one kind of item.
pub struct Readers<F, T> {
    readers: Mutex<Vec<Reader<F, T>>>,
    switch: Box<dyn Fn(bool) + Send + Sync>,
}

/// One reader, as seen by who has items.
struct Reader<F, T> {
    filter: F,
    /// `None` once it is cut: what it gets has no gaps.
    queue: Option<mpsc::Sender<(T, usize)>>,
    behind: Arc<Behind>,
}

/// How far a reader is behind, and what it has missed.
#[derive(Default)]
struct Behind {
    bytes: AtomicUsize,
    missed: AtomicU64,
}

impl<F, T> Default for Readers<F, T> {
    fn default() -> Self {
        Self::with_switch(|_| ())
    }
}

impl<F, T> Readers<F, T> {
    /// Makes room for readers; `switch` hears when there is one, and when there is none again.
    fn with_switch(switch: impl Fn(bool) + Send + Sync + 'static) -> Self {
        Self {
            readers: Mutex::default(),
            switch: Box::new(switch),
        }
    }

    /// Tells whether nobody reads.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readers.lock().is_empty()
    }

    /// Adds a reader: it is shown what comes from now on, until it falls behind, `shutdown` is
    /// cancelled or the stream is dropped.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn read(
        self: &Arc<Self>,
        filter: F,
        shutdown: &Shutdown,
    ) -> Result<ReadStream<F, T>, TooManyReaders> {
        let (queue, items) = mpsc::channel(BEHIND_MAX);
        let behind = Arc::new(Behind::default());
        let mut readers = self.readers.lock();
        if readers.len() >= READERS_MAX {
            return Err(TooManyReaders);
        }
        readers.push(Reader {
            filter,
            queue: Some(queue),
            behind: behind.clone(),
        });
        (self.switch)(true);
        drop(readers);
        let shutdown = shutdown.clone();
        Ok(ReadStream {
            items,
            stopped: Box::pin(async move { shutdown.cancelled().await }),
            ended: false,
            leave: Leave {
                readers: self.clone(),
                behind,
            },
        })
    }

    /// Shows an item of so many bytes to every reader that wants it; cuts those that have no room.
    pub fn offer(&self, bytes: usize, wants: impl Fn(&F) -> bool, show: impl Fn() -> T) {
        for reader in self.readers.lock().iter_mut() {
            if wants(&reader.filter) && !reader.take(bytes, &show) {
                reader.cut();
            }
        }
    }
}

impl<F, T> Reader<F, T> {
    /// Queues an item; tells whether there was room.
    fn take(&self, bytes: usize, show: impl FnOnce() -> T) -> bool {
        let Some(queue) = &self.queue else {
            return false;
        };
        if self.behind.bytes.load(Ordering::Relaxed) + bytes > BEHIND_BYTES_MAX {
            return false;
        }
        // Before it is queued: its reader subtracts it at once.
        self.behind.bytes.fetch_add(bytes, Ordering::Relaxed);
        queue.try_send((show(), bytes)).is_ok()
    }

    /// Takes note of an item that it misses; it gets no more.
    fn cut(&mut self) {
        self.behind.missed.fetch_add(1, Ordering::Relaxed);
        self.queue = None;
    }
}

/// Takes a reader off the list when its stream is dropped.
struct Leave<F, T> {
    readers: Arc<Readers<F, T>>,
    behind: Arc<Behind>,
}

impl<F, T> Drop for Leave<F, T> {
    fn drop(&mut self) {
        let mut readers = self.readers.readers.lock();
        readers.retain(|reader| !Arc::ptr_eq(&reader.behind, &self.behind));
        if readers.is_empty() {
            (self.readers.switch)(false);
        }
    }
}

/// What one reader gets: items, and at the end why there are no more.
pub struct ReadStream<F, T> {
    items: mpsc::Receiver<(T, usize)>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    leave: Leave<F, T>,
}

impl<F, T> Stream for ReadStream<F, T> {
    type Item = Reading<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let reason = match self.items.poll_recv(context) {
            Poll::Ready(Some((item, bytes))) => {
                self.leave.behind.bytes.fetch_sub(bytes, Ordering::Relaxed);
                return Poll::Ready(Some(Reading::Item(item)));
            }
            Poll::Ready(None) => CutReason::SlowReader,
            // A busy task is made to wait with items at hand; the end comes after them.
            Poll::Pending if !self.items.is_empty() => return Poll::Pending,
            Poll::Pending => {
                ready!(self.stopped.as_mut().poll(context));
                CutReason::Shutdown
            }
        };
        self.ended = true;
        let missed = self.leave.behind.missed.load(Ordering::Relaxed);
        Poll::Ready(Some(Reading::Cut { reason, missed }))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// Shows bodies of one flow; a reader wants them to begin with its filter.
    struct Bodies;

    impl Lens for Bodies {
        type Filter = Vec<u8>;
        type Item = usize;

        fn looks_at(&self, flow: FlowId) -> bool {
            flow == FlowId(1)
        }

        fn wants(&self, filter: &Vec<u8>, passed: &Passed<'_>) -> bool {
            passed.message.body().starts_with(filter)
        }

        fn show(&self, passed: &Passed<'_>) -> usize {
            passed.message.body().len()
        }
    }

    fn message(body: &str) -> Vec<u8> {
        format!(
            "OPTIONS sip:a@192.0.2.1 SIP/2.0\r\nCall-ID: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// The tap slot of an element, and who reads it.
    struct Bench {
        tap: Arc<Mutex<Option<Arc<dyn Tap>>>>,
        readers: Arc<Readers<Vec<u8>, usize>>,
    }

    impl Bench {
        fn new() -> Self {
            let tap = Arc::new(Mutex::new(None));
            let slot = tap.clone();
            let readers = of_element(Bodies, move |tap| *slot.lock() = tap);
            Self { tap, readers }
        }

        fn pass(&self, flow: u16, body: &str) {
            let remote = SocketAddr::from(([192, 0, 2, 1], 5060));
            let bytes = message(body);
            let tap = self.tap.lock().clone().expect("somebody reads");
            #[allow(clippy::disallowed_methods)] // an Instant can be had from nowhere else
            tap.message(Instant::now(), TapPoint::In, FlowId(flow), remote, &bytes);
        }
    }

    #[tokio::test]
    async fn a_reader_is_shown_what_it_wants_and_the_tap_leaves_with_the_last() {
        let bench = Bench::new();
        let shutdown = Shutdown::new();
        let mut all = bench.readers.read(vec![], &shutdown).unwrap();
        let mut some = bench.readers.read(b"b".to_vec(), &shutdown).unwrap();
        bench.pass(1, "a");
        bench.pass(0, "bbb");
        bench.pass(1, "bb");
        assert_eq!(all.next().await, Some(Reading::Item(1)));
        assert_eq!(all.next().await, Some(Reading::Item(2)));
        assert_eq!(some.next().await, Some(Reading::Item(2)));
        drop(all);
        assert!(bench.tap.lock().is_some());
        shutdown.cancel();
        let (reason, missed) = (CutReason::Shutdown, 0);
        assert_eq!(some.next().await, Some(Reading::Cut { reason, missed }));
        assert_eq!(some.next().await, None);
        drop(some);
        assert!(bench.tap.lock().is_none() && bench.readers.is_empty());
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_last_what_it_missed() {
        let bench = Bench::new();
        let mut slow = bench.readers.read(vec![], &Shutdown::new()).unwrap();
        for _ in 0..BEHIND_MAX + 3 {
            bench.pass(1, "a");
        }
        // Room again is no way back: what it gets has no gaps.
        assert_eq!(slow.next().await, Some(Reading::Item(1)));
        bench.pass(1, "a");
        let rest = slow.collect::<Vec<_>>().await;
        assert_eq!(rest.len(), BEHIND_MAX);
        let (reason, missed) = (CutReason::SlowReader, 4);
        assert_eq!(rest.last(), Some(&Reading::Cut { reason, missed }));
    }

    #[tokio::test]
    async fn bytes_count_as_well_as_items() {
        let bench = Bench::new();
        let mut reader = bench.readers.read(vec![], &Shutdown::new()).unwrap();
        let body = "a".repeat(60_000);
        let fitting = BEHIND_BYTES_MAX / message(&body).len();
        bench.pass(1, &body);
        assert_eq!(reader.next().await, Some(Reading::Item(body.len())));
        for _ in 0..fitting + 1 {
            bench.pass(1, &body);
        }
        let shown = reader.collect::<Vec<_>>().await;
        assert_eq!(shown.len(), fitting + 1);
        let (reason, missed) = (CutReason::SlowReader, 1);
        assert_eq!(shown.last(), Some(&Reading::Cut { reason, missed }));
    }

    #[test]
    fn there_is_a_limit_to_readers() {
        let readers = Arc::new(Readers::<(), ()>::default());
        let read = || readers.read((), &Shutdown::new());
        let held: Vec<_> = (0..READERS_MAX).map(|_| read().unwrap()).collect();
        assert_eq!(read().err(), Some(TooManyReaders));
        drop(held);
        assert!(read().is_ok());
    }
}
