//! A tap on an element for readers far away: what each is shown, how far one may fall behind, and how
//! it is told that it was cut. A slow reader is cut with a reason and never slows the packet path.
//!
//! Not here: what a reader wants and what a message looks like to it; that is a service's [`Lens`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use control::shutdown::Shutdown;
use element::{FlowId, Tap, TapPoint};
use parking_lot::Mutex;
use sip_types::{Index, Message};
use tokio::sync::mpsc;
use tokio_stream::Stream;

/// How many messages one reader may be behind before it is cut.
pub const BEHIND_MAX: usize = 16_384;

/// How many bytes of messages one reader may be behind before it is cut.
pub const BEHIND_BYTES_MAX: usize = 32 << 20;

/// How many readers there may be at once.
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
pub enum TapEvent<T> {
    /// One message.
    Message(T),
    /// The last event.
    Cut {
        /// Why there are no more.
        reason: CutReason,
        /// How many messages it wanted and was not shown.
        missed: u64,
    },
}

/// There are [`READERS_MAX`] readers already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{READERS_MAX} readers are here already: end one of them")]
pub struct TooManyReaders;

/// Puts a tap on an element, or takes it off.
type Switch = Box<dyn Fn(Option<Arc<dyn Tap>>) + Send + Sync>;

/// Everybody who reads what passes through one element. The tap is on while there is a reader.
pub struct Readers<L: Lens> {
    lens: L,
    readers: Mutex<Vec<Reader<L>>>,
    switch: Switch,
}

/// One reader, as the workers see it.
struct Reader<L: Lens> {
    filter: L::Filter,
    queue: mpsc::Sender<Queued<L::Item>>,
    fate: Arc<Fate>,
}

/// An item with the length of its message.
struct Queued<T> {
    item: T,
    bytes: usize,
}

/// What became of a reader, and how far it is behind.
#[derive(Default)]
struct Fate {
    cut: AtomicBool,
    missed: AtomicU64,
    bytes: AtomicUsize,
}

impl<L: Lens> Readers<L> {
    /// Makes room for readers of the element whose tap `switch` sets.
    #[must_use]
    pub fn new(
        lens: L,
        switch: impl Fn(Option<Arc<dyn Tap>>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            lens,
            readers: Mutex::default(),
            switch: Box::new(switch),
        })
    }

    /// Adds a reader: it is shown what passes from now on, until it falls behind, `shutdown` is
    /// cancelled or the stream is dropped.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn read(
        self: &Arc<Self>,
        filter: L::Filter,
        shutdown: &Shutdown,
    ) -> Result<TapStream<L>, TooManyReaders> {
        let (queue, messages) = mpsc::channel(BEHIND_MAX);
        let fate = Arc::new(Fate::default());
        let mut readers = self.readers.lock();
        if readers.len() >= READERS_MAX {
            return Err(TooManyReaders);
        }
        readers.push(Reader {
            filter,
            queue,
            fate: fate.clone(),
        });
        (self.switch)(Some(self.clone()));
        drop(readers);
        let shutdown = shutdown.clone();
        Ok(TapStream {
            messages,
            stopped: Box::pin(async move { shutdown.cancelled().await }),
            ended: false,
            leave: Leave {
                readers: self.clone(),
                fate,
            },
        })
    }
}

impl<L: Lens> Tap for Readers<L> {
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
        let readers = self.readers.lock();
        for reader in readers.iter() {
            if self.lens.wants(&reader.filter, &passed) {
                reader.take(bytes.len(), || self.lens.show(&passed));
            }
        }
    }
}

impl<L: Lens> Reader<L> {
    /// Queues what is shown, or cuts the reader for good: what it gets has no gaps.
    fn take(&self, bytes: usize, show: impl FnOnce() -> L::Item) {
        let Fate {
            cut,
            missed,
            bytes: behind,
        } = &*self.fate;
        let has_room = behind.load(Ordering::Relaxed) + bytes <= BEHIND_BYTES_MAX;
        if !cut.load(Ordering::Relaxed) && has_room {
            // Before it is queued: its reader subtracts it at once.
            behind.fetch_add(bytes, Ordering::Relaxed);
            let item = show();
            if self.queue.try_send(Queued { item, bytes }).is_ok() {
                return;
            }
        }
        cut.store(true, Ordering::Relaxed);
        missed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes a reader off the list when its stream is dropped, and the tap off with the last one.
struct Leave<L: Lens> {
    readers: Arc<Readers<L>>,
    fate: Arc<Fate>,
}

impl<L: Lens> Drop for Leave<L> {
    fn drop(&mut self) {
        let mut readers = self.readers.readers.lock();
        readers.retain(|reader| !Arc::ptr_eq(&reader.fate, &self.fate));
        if readers.is_empty() {
            (self.readers.switch)(None);
        }
    }
}

/// What one reader gets: messages, and at the end why there are no more.
pub struct TapStream<L: Lens> {
    messages: mpsc::Receiver<Queued<L::Item>>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    leave: Leave<L>,
}

impl<L: Lens> Stream for TapStream<L> {
    type Item = TapEvent<L::Item>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.messages.poll_recv(context) {
            Poll::Ready(Some(Queued { item, bytes })) => {
                self.leave.fate.bytes.fetch_sub(bytes, Ordering::Relaxed);
                return Poll::Ready(Some(TapEvent::Message(item)));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            // A busy task is made to wait with messages at hand; the end comes after them.
            Poll::Pending if !self.messages.is_empty() => return Poll::Pending,
            Poll::Pending => {}
        }
        let reason = if self.leave.fate.cut.load(Ordering::Relaxed) {
            CutReason::SlowReader
        } else {
            ready!(self.stopped.as_mut().poll(context));
            CutReason::Shutdown
        };
        self.ended = true;
        let missed = self.leave.fate.missed.load(Ordering::Relaxed);
        Poll::Ready(Some(TapEvent::Cut { reason, missed }))
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

    fn pass(readers: &Readers<Bodies>, flow: u16, body: &str) {
        let remote = SocketAddr::from(([192, 0, 2, 1], 5060));
        let bytes = message(body);
        #[allow(clippy::disallowed_methods)] // an Instant can be had from nowhere else
        readers.message(Instant::now(), TapPoint::In, FlowId(flow), remote, &bytes);
    }

    fn readers() -> (Arc<Readers<Bodies>>, Arc<AtomicBool>) {
        let on = Arc::new(AtomicBool::new(false));
        let switch = on.clone();
        let readers = Readers::new(Bodies, move |tap| {
            switch.store(tap.is_some(), Ordering::Relaxed);
        });
        (readers, on)
    }

    #[tokio::test]
    async fn a_reader_is_shown_what_it_wants_and_the_tap_leaves_with_the_last() {
        let (readers, on) = readers();
        let shutdown = Shutdown::new();
        let mut all = readers.read(vec![], &shutdown).unwrap();
        let mut some = readers.read(b"b".to_vec(), &shutdown).unwrap();
        assert!(on.load(Ordering::Relaxed));
        pass(&readers, 1, "a");
        pass(&readers, 0, "bbb");
        pass(&readers, 1, "bb");
        assert_eq!(all.next().await, Some(TapEvent::Message(1)));
        assert_eq!(all.next().await, Some(TapEvent::Message(2)));
        assert_eq!(some.next().await, Some(TapEvent::Message(2)));
        drop(all);
        assert!(on.load(Ordering::Relaxed));
        shutdown.cancel();
        let (reason, missed) = (CutReason::Shutdown, 0);
        assert_eq!(some.next().await, Some(TapEvent::Cut { reason, missed }));
        assert_eq!(some.next().await, None);
        drop(some);
        assert!(!on.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_last_what_it_missed() {
        let (readers, _) = readers();
        let mut slow = readers.read(vec![], &Shutdown::new()).unwrap();
        for _ in 0..BEHIND_MAX + 3 {
            pass(&readers, 1, "a");
        }
        // Room again is no way back: what it gets has no gaps.
        assert_eq!(slow.next().await, Some(TapEvent::Message(1)));
        pass(&readers, 1, "a");
        let rest = slow.collect::<Vec<_>>().await;
        assert_eq!(rest.len(), BEHIND_MAX);
        let (reason, missed) = (CutReason::SlowReader, 4);
        assert_eq!(rest.last(), Some(&TapEvent::Cut { reason, missed }));
    }

    #[tokio::test]
    async fn bytes_count_as_well_as_messages() {
        let (readers, _) = readers();
        let mut reader = readers.read(vec![], &Shutdown::new()).unwrap();
        let body = "a".repeat(60_000);
        let fitting = BEHIND_BYTES_MAX / message(&body).len();
        pass(&readers, 1, &body);
        assert_eq!(reader.next().await, Some(TapEvent::Message(body.len())));
        for _ in 0..fitting + 1 {
            pass(&readers, 1, &body);
        }
        let shown = reader.collect::<Vec<_>>().await;
        assert_eq!(shown.len(), fitting + 1);
        let (reason, missed) = (CutReason::SlowReader, 1);
        assert_eq!(shown.last(), Some(&TapEvent::Cut { reason, missed }));
    }

    #[test]
    fn there_is_a_limit_to_readers() {
        let (readers, _) = readers();
        let read = || readers.read(vec![], &Shutdown::new());
        let held: Vec<_> = (0..READERS_MAX).map(|_| read().unwrap()).collect();
        assert_eq!(read().err(), Some(TooManyReaders));
        drop(held);
        assert!(read().is_ok());
    }
}
