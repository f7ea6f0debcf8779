//! Arbitrary bytes never panic, what is not edited leaves as it came, edits match a naive model.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::Range;
use std::path::Path;

use proptest::prelude::*;
use sip_types::{
    HEADERS_MAX, HeaderName, Index, Message, NameAddr, ResponseHead, Splice, Uri, ack_for,
    cancel_for, respond_from,
};

const LISTS: [HeaderName; 4] = [
    HeaderName::Via,
    HeaderName::Route,
    HeaderName::RecordRoute,
    HeaderName::Contact,
];

/// Reads everything there is to read and checks what must hold of any message.
fn exercise(datagram: &[u8]) {
    let mut index = Index::new();
    let Ok(message) = Message::parse(datagram, &mut index) else {
        return;
    };
    let bytes = message.bytes();
    let checked = message.check();
    // The lines follow each other from the start line to the empty line.
    let mut at = message.headers_start();
    for header in message.headers() {
        assert_eq!(header.line_range().start, at);
        assert!(header.value_range().end <= header.line_range().end);
        at = header.line_range().end;
    }
    assert_eq!(at, message.headers_end());
    assert!(bytes.ends_with(message.body()));

    for name in LISTS {
        for element in message.elements(name) {
            assert!(element.start <= element.end && element.end <= message.headers_end());
        }
        for address in message.addresses(name).flatten() {
            let _ = address
                .parsed_uri()
                .map(|uri| (uri.socket_addr(5060), uri.is_loose()));
            assert_eq!(&bytes[address.uri_range.clone()], address.uri);
        }
    }
    for via in message.vias().flatten() {
        let _ = (via.response_addr(), via.sent_by_addr());
        for range in [&via.rport_range, &via.received_range]
            .into_iter()
            .flatten()
        {
            assert!(via.range.start < range.start && range.end <= via.range.end);
        }
    }
    let _ = (
        message.method(),
        message.status(),
        message.reason(),
        message.request_uri(),
    );
    let _ = (
        message.from_tag(),
        message.to_tag(),
        message.max_forwards(),
        message.content_length(),
    );
    if checked.is_ok() {
        assert!(message.top_via().is_some() && message.cseq().is_some());
        assert!(
            message.from().is_some() && message.to().is_some() && !message.call_id().is_empty()
        );
    }

    let mut same = Vec::new();
    Splice::new().apply(bytes, &mut same);
    assert_eq!(same, bytes);

    edits_hold_their_promise(&message);
    if message.headers().count() == HEADERS_MAX {
        return; // A response would have one header more than can be framed.
    }
    let mut out = Vec::new();
    let head = ResponseHead {
        status: 400,
        reason: b"Bad",
        to_tag: Some(b"t"),
        headers: &[],
    };
    respond_from(&message, "192.0.2.1:5060".parse().unwrap(), &head, &mut out);
    assert_eq!(reparsed(&out, |response| response.status()), Some(400));
    if checked.is_ok() {
        assert!(reparsed(&out, |response| response.check().is_ok()));
        if message.is_request() {
            out.clear();
            cancel_for(&message, &[], &mut out);
            assert!(reparsed(&out, |cancel| cancel.check().is_ok()));
            out.clear();
            ack_for(&message, &message, &mut out);
            assert!(reparsed(&out, |ack| ack.check().is_ok()));
        }
    }
}

fn reparsed<T>(bytes: &[u8], look: impl FnOnce(&Message<'_>) -> T) -> T {
    let mut index = Index::new();
    look(&Message::parse(bytes, &mut index).expect("what we make can be framed"))
}

/// Removing one element leaves one less, and what is left as it was.
fn edits_hold_their_promise(message: &Message<'_>) {
    for name in LISTS {
        let elements: Vec<&[u8]> = message
            .elements(name)
            .map(|range| &message.bytes()[range])
            .collect();
        let mut splice = Splice::new();
        splice.remove_leading(message, name, 1);
        let mut out = Vec::new();
        splice.apply(message.bytes(), &mut out);
        reparsed(&out, |edited| {
            let left: Vec<&[u8]> = edited
                .elements(name)
                .map(|range| &edited.bytes()[range])
                .collect();
            assert_eq!(left, elements.get(1..).unwrap_or_default());
        });
    }
}

/// Bytes that look like SIP often enough to get past the first lines.
fn sip_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "\r\n",
            "\r\n ",
            "\n",
            " ",
            "\t",
            ",",
            ";",
            ":",
            "=",
            "\"",
            "\\",
            "<",
            ">",
            "[",
            "]",
            "@",
            "?",
            "*",
            "%",
            "Via: ",
            "v:",
            "From: ",
            "To: ",
            "Route:",
            "Record-Route:",
            "m: ",
            "Call-ID: x",
            "CSeq: 1 INVITE",
            "Content-Length: ",
            "Max-Forwards: 70",
            "SIP/2.0/UDP ",
            "192.0.2.1",
            "[::1]",
            ";branch=z9hG4bK1",
            ";rport",
            ";received=1",
            ";tag=1",
            ";lr",
            "<sip:a@b;lr>",
            "sip:a@b",
            "tel:1",
            "\"x\" ",
            "65536",
            "7",
            "\r\n\r\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    (prop::bool::ANY, prop::collection::vec(piece, 0..60)).prop_map(|(request, pieces)| {
        let start: &[u8] = if request {
            b"INVITE sip:a@b SIP/2.0\r\n"
        } else {
            b"SIP/2.0 200 OK\r\n"
        };
        [start, &pieces.concat(), b"\r\n\r\n"].concat()
    })
}

const INVITE: &[u8] = include_bytes!("corpus/invite.sip");

/// A good message with a few bytes changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let spot = (
        0..INVITE.len(),
        prop_oneof![
            any::<u8>(),
            prop::sample::select(b"\r\n \",;<>:@[]".to_vec())
        ],
    );
    prop::collection::vec(spot, 1..6).prop_map(|spots| {
        let mut bytes = INVITE.to_vec();
        for (at, byte) in spots {
            bytes[at] = byte;
        }
        bytes
    })
}

type Edit = (Range<usize>, Vec<u8>);

/// Edits that do not overlap, in any order: gaps and lengths from left to right, then a shuffle.
fn edits() -> impl Strategy<Value = (Vec<u8>, Vec<Edit>)> {
    let edit = (
        0..9_usize,
        0..5_usize,
        prop::collection::vec(any::<u8>(), 0..6),
    );
    (
        prop::collection::vec(any::<u8>(), 0..120),
        prop::collection::vec(edit, 0..12),
    )
        .prop_map(|(message, steps)| {
            let mut at = 0;
            let mut edits = Vec::new();
            for (gap, length, text) in steps {
                // A range that follows an insert begins further right: its order is by place alone.
                let start = (at + gap + 1).min(message.len());
                let end = (start + length).min(message.len());
                if start > at {
                    edits.push((start..end, text));
                }
                at = end;
            }
            (message, edits)
        })
        .prop_flat_map(|(message, edits)| (Just(message), Just(edits).prop_shuffle()))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        exercise(&bytes);
        let _ = Uri::parse(&bytes).map(|uri| uri.host_addr());
        let _ = NameAddr::parse(&bytes).map(|address| address.tag().map(<[u8]>::len));
    }

    #[test]
    fn bytes_that_look_like_sip_never_panic(bytes in sip_like()) {
        exercise(&bytes);
    }

    #[test]
    fn a_damaged_message_never_panics(bytes in mutated()) {
        exercise(&bytes);
    }

    #[test]
    fn edits_equal_a_naive_model((message, edits) in edits()) {
        let mut splice = Splice::new();
        for (range, text) in &edits {
            splice.replace(range.clone(), text);
        }
        let mut out = Vec::new();
        splice.apply(&message, &mut out);

        // The model changes the message itself, from right to left.
        let mut model = message;
        let mut sorted = edits;
        sorted.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        for (range, text) in sorted {
            model.splice(range, text);
        }
        prop_assert_eq!(out, model);
    }
}

#[test]
fn the_corpus_replays() {
    let mut replayed = 0;
    for folder in ["tests/corpus", "tests/torture/own"] {
        for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "sip") {
                exercise(&fs::read(&path).unwrap());
                replayed += 1;
            }
        }
    }
    assert!(replayed > 60, "only {replayed} files found");
}
