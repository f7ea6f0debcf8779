//! Edits: where they land, in which order, and what stays.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use sip_types::{HeaderName, Index, Message, Splice};

const REQUEST: &[u8] = b"INVITE sip:a@example.org SIP/2.0\r\n\
    Route: <sip:one.example.org;lr>, <sip:two.example.org;lr>\r\n\
    Via: SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK1 ,\r\n SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2\r\n\
    route: \"x,y\" <sip:three.example.org;lr>\r\n\
    Max-Forwards: 70\r\n\
    \r\nbody";

fn edited(edit: impl FnOnce(&mut Splice, &Message<'_>)) -> String {
    let mut index = Index::new();
    let message = Message::parse(REQUEST, &mut index).unwrap();
    let mut splice = Splice::new();
    edit(&mut splice, &message);
    let mut out = b"kept ".to_vec();
    splice.apply(message.bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn no_edit_changes_nothing() {
    let out = edited(|splice, _| assert!(splice.is_empty()));
    assert_eq!(out.as_bytes(), [b"kept ", REQUEST].concat());
}

#[test]
fn inserts_at_one_place_keep_their_order_and_stand_before_a_replacement() {
    let mut splice = Splice::new();
    splice.replace(2..4, b"[r]");
    splice.insert(2, b"1");
    splice.insert(6, b"z");
    splice.insert(2, b"2");
    splice.remove(4..5);
    splice.insert_with(0, |out| out.push(b'a'));
    splice.replace_with(5..5, |out| out.extend_from_slice(b"w"));
    let mut out = Vec::new();
    splice.apply(b"012345", &mut out);
    assert_eq!(out, b"a0112[r]w5z");
    // Applying does not use the edits up; clearing does.
    splice.apply(b"012345", &mut out);
    assert_eq!(out, b"a0112[r]w5za0112[r]w5z");
    splice.clear();
    assert!(splice.is_empty());
}

#[test]
fn what_is_foremost_stands_before_what_was_inserted_there_before() {
    let out = edited(|splice, message| {
        let start = message.headers_start();
        splice.replace(start..start + 5, b"X");
        splice.insert(start, b"A: 1\r\n");
        splice.insert_foremost_with(start, |out| out.extend_from_slice(b"B: 2\r\n"));
        splice.insert(start, b"C: 3\r\n");
    });
    let lines: Vec<_> = out.lines().skip(1).take(4).collect();
    let route = "X: <sip:one.example.org;lr>, <sip:two.example.org;lr>";
    assert_eq!(lines, ["B: 2", "A: 1", "C: 3", route]);
}

#[test]
fn leading_elements_go_across_commas_and_lines() {
    let routes = |n| {
        let out = edited(|splice, message| splice.remove_leading(message, HeaderName::Route, n));
        let mut index = Index::new();
        let message = Message::parse(&out.as_bytes()[5..], &mut index).unwrap();
        assert_eq!(message.body(), b"body");
        let lines = message.headers_named(HeaderName::Route).count();
        let uris: Vec<_> = message
            .routes()
            .map(|route| String::from_utf8(route.unwrap().uri.to_vec()).unwrap())
            .collect();
        (lines, uris.len(), uris.first().cloned())
    };
    assert_eq!(routes(0), (2, 3, Some("sip:one.example.org;lr".into())));
    assert_eq!(routes(1), (2, 2, Some("sip:two.example.org;lr".into())));
    assert_eq!(routes(2), (1, 1, Some("sip:three.example.org;lr".into())));
    assert_eq!(routes(3), (0, 0, None));
    assert_eq!(routes(9), (0, 0, None));
}

#[test]
fn what_is_left_of_a_folded_list_keeps_its_bytes() {
    let out = edited(|splice, message| splice.remove_leading(message, HeaderName::Via, 1));
    assert!(
        out.contains("\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2\r\nroute:"),
        "{out}"
    );
}

#[test]
fn headers_go_with_their_folds() {
    let out = edited(|splice, message| splice.remove_headers(message, HeaderName::Via));
    assert!(
        out.contains("two.example.org;lr>\r\nroute: \"x,y\""),
        "{out}"
    );
}

#[test]
fn new_lines_stand_above_those_of_their_name() {
    let out = edited(|splice, message| {
        splice.insert(
            message.insertion_point(HeaderName::Route),
            b"Route: <sip:zero>\r\n",
        );
        splice.insert(
            message.insertion_point(HeaderName::RecordRoute),
            b"Record-Route: <sip:us>\r\n",
        );
    });
    assert!(
        out.contains(" SIP/2.0\r\nRoute: <sip:zero>\r\nRoute: <sip:one"),
        "{out}"
    );
    assert!(
        out.ends_with("Max-Forwards: 70\r\nRecord-Route: <sip:us>\r\n\r\nbody"),
        "{out}"
    );
}

#[test]
fn the_top_via_notes_where_the_request_came_from() {
    let stamped = |via: &str, source: &str| {
        let text = format!("OPTIONS sip:a SIP/2.0\r\nVia: {via}\r\n\r\n");
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        let top = message.top_via().unwrap();
        let mut splice = Splice::new();
        splice.add_received(&top, source.parse().unwrap());
        let mut out = Vec::new();
        splice.apply(message.bytes(), &mut out);
        let mut index = Index::new();
        let again = Message::parse(&out, &mut index).unwrap();
        let top = again.top_via().unwrap();
        String::from_utf8(again.bytes()[top.range].to_vec()).unwrap()
    };
    for (via, source, expected) in [
        (
            "SIP/2.0/UDP 192.0.2.1;branch=b",
            "192.0.2.1:9",
            "SIP/2.0/UDP 192.0.2.1;branch=b",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1",
            "192.0.2.7:9",
            "SIP/2.0/UDP 192.0.2.1;received=192.0.2.7",
        ),
        (
            "SIP/2.0/UDP host;rport;branch=b",
            "192.0.2.7:9",
            "SIP/2.0/UDP host;rport=9;branch=b;received=192.0.2.7",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1;rport",
            "192.0.2.1:9",
            "SIP/2.0/UDP 192.0.2.1;rport=9;received=192.0.2.1",
        ),
        (
            "SIP/2.0/UDP h;received=6.6.6.6;rport=66",
            "192.0.2.7:9",
            "SIP/2.0/UDP h;received=192.0.2.7;rport=9",
        ),
        (
            "SIP/2.0/UDP [2001:db8::1]",
            "[2001:db8::1]:9",
            "SIP/2.0/UDP [2001:db8::1]",
        ),
        (
            "SIP/2.0/UDP h",
            "[2001:db8::2]:9",
            "SIP/2.0/UDP h;received=2001:db8::2",
        ),
    ] {
        assert_eq!(stamped(via, source), expected);
    }
}
