//! Whatever comes in, nothing panics; whatever goes out, no stock node stumbles over it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use std::net::{IpAddr, SocketAddr};

use dmq::list::{self, Status};
use dmq::{BODY_BYTES_MAX, Bus, BusConfig, Schedule};
use element::FlowId;
use proptest::prelude::*;
use sip_types::{HeaderName, Index, Message, Uri};
use world::{node, nodes, origin, sent, with_message};

/// What a stock node has for its own list, and keeps free besides each line.
const STOCK_BUFFER: usize = 1022;
const STOCK_SPARE: usize = 32;

/// A stock node takes this list without a complaint, and can write it into its own.
fn assert_stock_takes_list(body: &[u8], own: SocketAddr, may_leave: bool) {
    assert!(body.len() < 1000 && body.ends_with(b"\r\n"));
    let text = std::str::from_utf8(body).unwrap();
    let mut free = STOCK_BUFFER;
    for (i, line) in text.split_terminator("\r\n").enumerate() {
        assert!(i < 28);
        let (uri, status) = line.split_once(";status=").unwrap();
        let address: SocketAddr = uri.strip_prefix("sip:").unwrap().parse().unwrap();
        assert_eq!(format!("sip:{address}"), uri, "one spelling");
        assert_eq!(i == 0, address == own);
        assert!(status == "active" || status == "disabled" && i == 0 && may_leave);
        assert!(free >= line.len() + STOCK_SPARE);
        free -= line.len() + 2;
    }
}

/// A stock node takes this request without a complaint.
fn assert_stock_takes(to: SocketAddr, bytes: &[u8], own: SocketAddr) {
    assert!(bytes.len() <= 65_507);
    with_message(bytes, |message| {
        assert_eq!(message.check(), Ok(()));
        assert_eq!(message.bytes(), bytes);
        let mut names: Vec<_> = message
            .headers()
            .map(|header| header.name_bytes())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 9, "each header once");
        assert_eq!(message.content_length(), Some(Ok(message.body().len())));
        assert_eq!(
            message.header(HeaderName::CSeq).unwrap().value(),
            b"10 KDMQ"
        );
        assert_eq!(message.top_via().unwrap().sent_by_addr(), Some(own));
        let from = message.from().unwrap().parsed_uri().unwrap();
        let uri = Uri::parse(message.request_uri()).unwrap();
        assert!(message.from_tag().is_some() && message.to_tag().is_none());
        assert_eq!(
            (from.socket_addr(0), uri.socket_addr(0)),
            (Some(own), Some(to))
        );
        assert_eq!(
            (from.user, message.to().unwrap().uri),
            (uri.user, message.request_uri())
        );
        let hops = message.max_forwards().unwrap().unwrap();
        let body = message.body();
        match uri.user.unwrap() {
            b"notification_peer" => {
                assert!(hops == 1 || hops == 2);
                assert_stock_takes_list(body, own, true);
            }
            b"dialog" | b"htable" | b"usrloc" => {
                assert!(hops == 1 && body.len() > 2);
                assert!(body.starts_with(b"{\"") && body.ends_with(b"}"));
            }
            _ => assert!(hops == 1 && !body.is_empty()),
        }
    });
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
    let mapped =
        any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_ipv6_mapped().into());
    let ip = prop_oneof![4 => v4, 4 => v6, 1 => mapped];
    (ip, 1..u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "(sip:[a-z0-9.\\[\\]:;=_%]{0,40}(;status=(active|disabled|pending|x))?\r?\n?){0,60}"
            .prop_map(String::into_bytes),
        Just(b"{\"action\":4}".to_vec()),
        Just(b"{}".to_vec()),
        (BODY_BYTES_MAX - 1..BODY_BYTES_MAX + 2).prop_map(|length| vec![b'x'; length]),
    ]
}

fn channel() -> impl Strategy<Value = String> {
    prop_oneof![
        "dialog|htable|usrloc|tandem|notification_peer",
        "[a-z_.-]{0,70}",
        any::<String>(),
    ]
}

/// A bus that knows two nodes, and hears of more.
fn bus(server: String) -> Bus {
    let now = origin();
    let config = BusConfig {
        server,
        ..BusConfig::new(node(0), FlowId(0))
    };
    let mut bus = Bus::new(config, 1);
    bus.set_allowed(now, nodes(0..50), Vec::new());
    for i in 1..3 {
        let from = node(i);
        feed(&mut bus, from, &request(from, "tandem", "hello", b"x"));
    }
    bus
}

fn request(from: SocketAddr, channel: &str, call_id: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut bytes = format!(
        "KDMQ sip:{channel}@10.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{call_id}\r\n\
         To: <sip:{channel}@10.0.0.1:5060>\r\nFrom: <sip:{channel}@{from}>;tag=1\r\nCSeq: 10 KDMQ\r\n\
         Call-ID: {call_id}\r\nContent-Length: {length}\r\nMax-Forwards: 2\r\n\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn feed(bus: &mut Bus, source: SocketAddr, bytes: &[u8]) {
    let mut index = Index::new();
    if let Ok(message) = Message::parse(bytes, &mut index)
        && bus.handle_message(origin(), source, &message).is_some()
    {
        bus.reply(origin(), source, &message, 200);
    }
}

fn assert_stock_takes_all(bus: &mut Bus) {
    for (to, bytes) in sent(bus) {
        let is_request = with_message(&bytes, |message| message.is_request());
        if is_request {
            assert_stock_takes(to, &bytes, node(0));
        } else if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n")
            && bytes.len() > at + 4
        {
            assert_stock_takes_list(&bytes[at + 4..], node(0), true);
        }
    }
}

proptest! {
    #[test]
    fn any_list_is_one_that_stock_nodes_take(
        own in address(),
        others in proptest::collection::vec(address(), 0..60),
        leaves: bool,
    ) {
        let status = if leaves { Status::Disabled } else { Status::Active };
        let mut body = Vec::new();
        let left_off = list::encode(own, status, others.iter().copied(), &mut body);
        let own = SocketAddr::new(own.ip().to_canonical(), own.port());
        assert_stock_takes_list(&body, own, leaves);
        let lines: Result<Vec<_>, _> = list::decode(&body).collect();
        let lines = lines.unwrap();
        prop_assert_eq!((lines[0].node, lines[0].status), (own, status));
        prop_assert!(lines.len() + left_off <= others.len() + 1);
    }

    #[test]
    fn any_request_is_one_that_stock_nodes_take(
        channel in channel(),
        body in body(),
        server: String,
        leaves: bool,
    ) {
        let mut bus = bus(server);
        sent(&mut bus);
        let id = bus.send(origin(), node(1), &channel, &body, Schedule::Stock);
        prop_assert_eq!(id.is_some(), bus.outbox().len() == 1);
        prop_assert_eq!(id.is_none(), bus.counters().unsendable == 1);
        if id.is_some() {
            let bytes = bus.outbox().last().unwrap().bytes.to_vec();
            prop_assert!(bytes.ends_with(&body));
        }
        if leaves {
            bus.leave(origin());
        }
        assert_stock_takes_all(&mut bus);
    }

    #[test]
    fn any_body_is_survived_and_never_passed_on(bodies in proptest::collection::vec((channel(), body()), 1..6)) {
        let mut bus = bus("x".to_owned());
        for (i, (channel, body)) in bodies.iter().enumerate() {
            let _ = list::decode(body).count();
            let channel = if channel.is_empty() { "notification_peer" } else { channel };
            feed(&mut bus, node(1), &request(node(1), channel, &format!("c{i}"), body));
            feed(&mut bus, node(2), &request(node(2), "notification_peer", &format!("n{i}"), body));
        }
        assert_stock_takes_all(&mut bus);
    }

    #[test]
    fn any_datagram_is_survived(
        i in 0..3_usize,
        at in any::<prop::sample::Index>(),
        with in proptest::collection::vec(any::<u8>(), 0..6),
        cut in 0..6_usize,
        answers: bool,
    ) {
        let mut bus = bus("x".to_owned());
        let list = b"sip:10.0.0.3:5060;status=active\r\nsip:10.0.0.9:5060;status=disabled\r\n";
        let mut bytes = if answers {
            let (_, ping) = sent(&mut bus).into_iter().find(|(_, bytes)| bytes.starts_with(b"KDMQ")).unwrap();
            let text = String::from_utf8(ping).unwrap();
            text.replacen("KDMQ sip:notification_peer@10.0.0.2:5060 SIP/2.0", "SIP/2.0 200 OK", 1).into_bytes()
        } else {
            request(node(1), ["notification_peer", "htable", "tandem"][i], "c", list)
        };
        let at = at.index(bytes.len());
        bytes.splice(at..(at + cut).min(bytes.len()), with);
        feed(&mut bus, node(1), &bytes);
        feed(&mut bus, node(20), &bytes);
        assert_stock_takes_all(&mut bus);
        prop_assert!(bus.nodes().all(|known| nodes(1..50).contains(&known.address)));
    }
}
