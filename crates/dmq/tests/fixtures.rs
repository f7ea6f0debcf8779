//! Captures of Kamailio: all of them are understood, and where we say the same, we say it the same.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use dmq::list::{self, Fault, Line, Status};
use dmq::{Bus, Event};
use sip_types::{HeaderName, Message};
use world::{bus, events, ms, origin, sent, with_message};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dmq")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(format!("{name}.sip"))).unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Nodes A, B and C of the captures.
fn abc() -> [SocketAddr; 3] {
    ["127.0.1.1:5060", "127.0.1.2:5060", "127.0.1.3:5060"].map(address)
}

/// What a message says, whatever tags, branches, order of headers and lines, and who built it.
#[derive(Debug, PartialEq)]
struct Meaning {
    start: String,
    to: String,
    from: String,
    cseq: String,
    max_forwards: Option<u8>,
    content_type: String,
    via_port: u16,
    list: BTreeSet<String>,
}

fn meaning(bytes: &[u8]) -> Meaning {
    with_message(bytes, |message| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let header = |name| message.header(name).map(|header| text(header.value()));
        let body = text(message.body());
        assert_eq!(message.content_length(), Some(Ok(body.len())));
        assert!(message.from_tag().is_some() && !message.call_id().is_empty());
        assert!(body.is_empty() || body.ends_with("\r\n"));
        Meaning {
            start: text(bytes).lines().next().unwrap().to_owned(),
            to: text(message.to().unwrap().uri),
            from: text(message.from().unwrap().uri),
            cseq: header(HeaderName::CSeq).unwrap(),
            max_forwards: message.max_forwards().map(Result::unwrap),
            content_type: header(HeaderName::ContentType).unwrap_or_default(),
            via_port: message.top_via().unwrap().port.unwrap_or(5060),
            list: body.lines().map(str::to_owned).collect(),
        }
    })
}

fn receive(bus: &mut Bus, now: Instant, source: SocketAddr, bytes: &[u8]) {
    with_message(bytes, |message| {
        assert_eq!(bus.handle_message(now, source, message), None);
    });
}

/// Answers every request of ours to a node with 200 and a list, as that node would.
fn answer_all(bus: &mut Bus, now: Instant, nodes: &[SocketAddr]) {
    for (to, request) in sent(bus) {
        let is_request = with_message(&request, |message| message.is_request());
        if is_request && nodes.contains(&to) {
            let request = String::from_utf8(request).unwrap();
            let (head, _) = request.split_once("Content-Length").unwrap();
            let (_, head) = head.split_once("\r\n").unwrap();
            let answer = format!("SIP/2.0 200 OK\r\n{head}Content-Length: 0\r\n\r\n");
            receive(bus, now, to, answer.as_bytes());
        }
    }
}

#[test]
fn every_captured_list_is_read() {
    let active = |text: &str| Line {
        node: address(text),
        status: Status::Active,
    };
    let [a, b, c] = ["127.0.1.1:5060", "127.0.1.2:5060", "127.0.1.3:5060"].map(active);
    let (a90, b90) = (active("127.0.1.1:5090"), active("127.0.1.2:5090"));
    let b_leaves = Line {
        status: Status::Disabled,
        ..b
    };
    for (name, lines) in [
        ("01-notify-join", &[b][..]),
        ("01-notify-join.reply", &[b, a]),
        ("02-notify-answering-broadcast", &[b, a]),
        ("02-notify-answering-broadcast.reply", &[a, b]),
        ("03-notify-join-third", &[c]),
        ("03-notify-join-third.reply", &[c, a, b]),
        ("04-notify-relayed-to-third", &[c, a, b]),
        ("04-notify-relayed-to-third.reply", &[c, b, a]),
        ("05-ping", &[c, b, a]),
        ("05-ping.reply", &[a, b, c]),
        ("06-notify-leave-disabled", &[a, b_leaves]),
        ("07-notify-join-new-style", &[a, b]),
        ("07-notify-join-new-style.reply", &[b, a]),
        ("08-notify-join-port5090", &[b90]),
        ("08-notify-join-port5090.reply", &[b90, a90]),
    ] {
        with_message(&fixture(name), |message| {
            let read: Result<Vec<_>, _> = list::decode(message.body()).collect();
            assert_eq!(read.as_deref(), Ok(lines), "{name}");
        });
    }
    with_message(&fixture("91-notify-join-tcp"), |message| {
        let read: Vec<_> = list::decode(message.body()).collect();
        assert_eq!(read, [Err(Fault::Transport)]);
    });
}

#[test]
fn a_join_is_asked_for_as_kamailio_does() {
    for (name, own, seed) in [
        ("01-notify-join", "127.0.1.2:5060", "127.0.1.1:5060"),
        (
            "08-notify-join-port5090",
            "127.0.1.2:5090",
            "127.0.1.1:5090",
        ),
    ] {
        let now = origin();
        let mut bus = bus(address(own), 1);
        bus.set_allowed(now, [address(seed)], Vec::new());
        bus.set_notification(now, [address(seed)]);
        let sent = sent(&mut bus);
        assert_eq!((sent.len(), sent[0].0), (1, address(seed)));
        assert_eq!(meaning(&sent[0].1), meaning(&fixture(name)), "{name}");
    }
}

#[test]
fn a_join_is_answered_and_told_on_as_kamailio_does() {
    let [a, b, c] = abc();
    let now = origin();

    // At A: B joins.
    let mut at_a = bus(a, 1);
    at_a.set_allowed(now, [b, c], Vec::new());
    receive(&mut at_a, now, b, &fixture("01-notify-join"));
    assert_eq!(events(&mut at_a), [Event::NodeUp { node: b }]);
    let said = sent(&mut at_a);
    assert_eq!(said.len(), 2);
    for ((to, bytes), name) in said
        .iter()
        .zip(["01-notify-join.reply", "02-notify-answering-broadcast"])
    {
        assert_eq!(*to, b);
        assert_eq!(meaning(bytes), meaning(&fixture(name)), "{name}");
    }

    // At B, which knows A: C joins.
    let mut at_b = bus(b, 2);
    at_b.set_allowed(now, [a, c], Vec::new());
    receive(&mut at_b, now, a, &fixture("02-notify-answering-broadcast"));
    answer_all(&mut at_b, now, &[a]);
    receive(&mut at_b, now, c, &fixture("03-notify-join-third"));
    let said = sent(&mut at_b);
    assert_eq!(
        said.iter().map(|(to, _)| *to).collect::<Vec<_>>(),
        [c, a, c]
    );
    for ((_, bytes), name) in said
        .iter()
        .zip(["03-notify-join-third.reply", "04-notify-relayed-to-third"])
    {
        assert_eq!(meaning(bytes), meaning(&fixture(name)), "{name}");
    }

    // At C: A pings with a list of three; B answers once it is asked.
    let mut at_c = bus(c, 3);
    at_c.set_allowed(now, [a, b], Vec::new());
    receive(&mut at_c, now, b, &fixture("03-notify-join-third.reply"));
    assert_eq!(at_c.counters().responses_unmatched, 1);
    let to_c = String::from_utf8(fixture("04-notify-relayed-to-third")).unwrap();
    receive(
        &mut at_c,
        now,
        b,
        to_c.replace("127.0.1.1:5060", "127.0.1.3:5060").as_bytes(),
    );
    answer_all(&mut at_c, now, &[a, b]);
    receive(&mut at_c, now, a, &fixture("05-ping"));
    let (to, reply) = sent(&mut at_c).swap_remove(0);
    assert_eq!(
        (to, meaning(&reply)),
        (a, meaning(&fixture("05-ping.reply")))
    );
    let later = now + ms(5_000);
    at_c.handle_timeout(later);
    let pings = sent(&mut at_c);
    assert_eq!(pings.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [a, b]);
    let ping = meaning(&pings[0].1);
    let theirs = meaning(&fixture("05-ping"));
    assert_eq!(ping.list, theirs.list);
    assert_eq!(
        (ping.max_forwards, ping.content_type),
        (Some(1), theirs.content_type)
    );
}

#[test]
fn a_goodbye_is_said_and_taken_as_kamailio_did() {
    let [a, b, _] = abc();
    let now = origin();
    let mut at_b = bus(b, 1);
    at_b.set_allowed(now, [a], Vec::new());
    at_b.set_notification(now, [a]);
    answer_all(&mut at_b, now, &[a]);
    at_b.leave(now);
    let said = sent(&mut at_b);
    assert_eq!((said.len(), said[0].0), (1, a));
    assert_eq!(
        meaning(&said[0].1),
        meaning(&fixture("06-notify-leave-disabled"))
    );

    let mut at_a = bus(a, 2);
    at_a.set_allowed(now, [b], Vec::new());
    receive(&mut at_a, now, b, &fixture("07-notify-join-new-style"));
    receive(&mut at_a, now, b, &fixture("06-notify-leave-disabled"));
    assert_eq!(
        events(&mut at_a),
        [Event::NodeUp { node: b }, Event::NodeDown { node: b }]
    );
}

#[test]
fn a_node_on_tcp_is_not_believed() {
    let [a, b, _] = abc();
    let mut bus = bus(a, 1);
    bus.set_allowed(origin(), [b], Vec::new());
    receive(&mut bus, origin(), b, &fixture("91-notify-join-tcp"));
    assert_eq!((bus.counters().refused, bus.nodes().count()), (1, 0));
}

#[test]
fn every_captured_channel_request_is_delivered_whole_and_answered_as_it_was() {
    let names = std::fs::read_dir(directory()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (mut delivered, mut answered) = (0, 0);
    for name in names.filter(|name| name.ends_with(".sip")) {
        let name = name.trim_end_matches(".sip");
        let bytes = fixture(name);
        if !bytes.starts_with(b"KDMQ ") || bytes.starts_with(b"KDMQ sip:notification_peer@") {
            continue;
        }
        delivered += 1;
        let reply = std::fs::read(directory().join(format!("{name}.reply.sip"))).ok();
        with_message(&bytes, |message| {
            let (now, source) = (origin(), node_in_from(message));
            let mut bus = bus(address("127.0.1.200:5060"), 1);
            bus.set_allowed(now, [source], Vec::new());
            let delivery = bus.handle_message(now, source, message).unwrap();
            let start = format!("KDMQ sip:{}@", delivery.channel);
            assert!(bytes.starts_with(start.as_bytes()), "{name}");
            assert_eq!(
                (delivery.node, delivery.body),
                (source, message.body()),
                "{name}"
            );
            let Some(reply) = reply else { return };
            let status = with_message(&reply, |reply| reply.status().unwrap());
            sent(&mut bus);
            bus.reply(now, source, message, status);
            let (to, ours) = sent(&mut bus).swap_remove(0);
            // The phrase of 404 differs between versions of Kamailio.
            let theirs = String::from_utf8(reply).unwrap();
            let theirs = theirs.replace("404 Not Found Peer ID", "404 User Not Found");
            assert_eq!(to, source, "{name}");
            assert_eq!(meaning(&ours), meaning(theirs.as_bytes()), "{name}");
            answered += 1;
        });
    }
    assert!(delivered > 60 && answered > 55, "{delivered} {answered}");
}

fn node_in_from(message: &Message<'_>) -> SocketAddr {
    let from = message.from().unwrap();
    from.parsed_uri().unwrap().socket_addr(5060).unwrap()
}
