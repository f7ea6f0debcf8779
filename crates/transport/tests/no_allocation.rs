//! In steady state a worker allocates nothing.
#![allow(unsafe_code)] // a counting allocator can be had in no other way
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use element::{Datagram, Element, FlowId, Outbox, Sender, Turn};
use transport::{RunningClock, Sockets, Workers};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise holds for the callee.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise holds for the callee.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Echo(Mutex<Outbox>);

impl Element for Echo {
    fn handle_batch(&self, _: Instant, batch: &[Datagram<'_>], _: &mut Turn) {
        let mut outbox = self.0.lock().unwrap();
        for datagram in batch {
            outbox.push(datagram.flow, datagram.source, datagram.bytes);
        }
    }

    fn handle_unreachable(&self, _: Instant, _: FlowId, _: SocketAddr, _: &mut Turn) {}

    fn handle_timeout(&self, _: Instant, _: usize, _: usize, _: &mut Turn) {}

    fn poll_timeout(&self, _: usize, _: usize) -> Option<Instant> {
        None
    }

    fn flush(&self, _: &mut Turn, sender: &mut dyn Sender) {
        let mut outbox = self.0.lock().unwrap();
        sender.send(std::slice::from_ref(&outbox));
        outbox.clear();
    }
}

#[test]
fn a_worker_in_steady_state_allocates_nothing() {
    let sockets = Sockets::bind(&["127.0.9.30:0".parse().unwrap()], NonZeroUsize::MIN).unwrap();
    let address = sockets.addresses()[0];
    let echo = Arc::new(Echo(Mutex::new(Outbox::new())));
    let workers = Workers::start(echo, sockets, Arc::new(RunningClock::new())).unwrap();
    let client = UdpSocket::bind("127.0.9.31:0").unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut buffer = [0; 1024];
    let mut round = |datagrams: usize| {
        for _ in 0..datagrams {
            client.send_to(&[b'x'; 900], address).unwrap();
        }
        for _ in 0..datagrams {
            assert_eq!(client.recv(&mut buffer).unwrap(), 900);
        }
    };
    for _ in 0..100 {
        round(64);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..500 {
        round(8);
    }
    std::thread::sleep(Duration::from_millis(50));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0);
    assert_eq!(workers.counters()[0].datagrams_in(), 100 * 64 + 500 * 8);
}
