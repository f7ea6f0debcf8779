//! Parsing, reading the keys and forwarding an ordinary INVITE allocate nothing.
//!
//! This file holds one test, because the count is of the whole process.

// A counting allocator cannot be written without `unsafe`; it only counts and passes on.
#![allow(unsafe_code)]
// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use sip_types::{HeaderName, Index, Message, Splice};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const INVITE: &[u8] = include_bytes!("corpus/invite.sip");

/// What a proxy does with a request; returns something of everything it read.
fn forward(datagram: &[u8], index: &mut Index, splice: &mut Splice, out: &mut Vec<u8>) -> usize {
    let message = Message::parse(datagram, index).unwrap();
    message.check().unwrap();

    let via = message.top_via().unwrap();
    let keys = via.branch.unwrap().len()
        + via.host.len()
        + message.call_id().len()
        + message.from_tag().unwrap().len()
        + message.to_tag().map_or(0, <[u8]>::len)
        + message.cseq().unwrap().number as usize;

    splice.clear();
    out.clear();
    splice.add_received(&via, "198.51.100.9:5080".parse().unwrap());
    splice.insert(
        message.insertion_point(HeaderName::Via),
        b"Via: SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKours\r\n",
    );
    splice.insert(
        message.insertion_point(HeaderName::RecordRoute),
        b"Record-Route: <sip:203.0.113.1;lr>\r\n",
    );
    splice.remove_leading(&message, HeaderName::Route, 1);
    let hops = message.max_forwards().unwrap().unwrap() - 1;
    let hops_range = message
        .header(HeaderName::MaxForwards)
        .unwrap()
        .value_range();
    splice.replace(hops_range, &[b'0' + hops / 10, b'0' + hops % 10]);
    splice.apply(message.bytes(), out);
    keys + out.len()
}

#[test]
fn an_ordinary_invite_is_forwarded_without_allocating() {
    let (mut index, mut splice, mut out) = (Index::new(), Splice::new(), Vec::new());
    // The buffers find their size once.
    let first = forward(INVITE, &mut index, &mut splice, &mut out);
    let warm_up = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(warm_up > 0, "the allocator counts");

    let second = forward(INVITE, &mut index, &mut splice, &mut out);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - warm_up;
    assert_eq!(allocations, 0);
    assert_eq!(first, second);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("Max-Forwards: 69\r\n"), "{text}");
    assert!(
        text.contains("rport=5080") && text.contains("received=198.51.100.9"),
        "{text}"
    );
}
