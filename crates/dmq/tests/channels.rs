//! Channel requests: who may send them, how they are repeated, answered and bounded.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use std::net::SocketAddr;
use std::time::Instant;

use dmq::{
    BODY_BYTES_MAX, Bus, Event, IN_FLIGHT_BYTES_MAX, Kind, NODES_MAX, Network, NodeState,
    REPLIES_MAX, Schedule, WINDOW,
};
use world::{World, bus, events, ms, node, nodes, origin, sent, with_message};

/// A request as node `from` would write it, to node 0.
fn request(from: SocketAddr, channel: &str, call_id: &str, body: &str) -> String {
    format!(
        "KDMQ sip:{channel}@10.0.0.1:5060 SIP/2.0\r\n\
         Via: SIP/2.0/UDP {from};branch=z9hG4bK{call_id}\r\n\
         To: <sip:{channel}@10.0.0.1:5060>\r\n\
         From: <sip:{channel}@{from}>;tag=1\r\n\
         CSeq: 10 KDMQ\r\nCall-ID: {call_id}\r\nContent-Length: {}\r\n\
         Max-Forwards: 1\r\n\r\n{body}",
        body.len()
    )
}

/// Gives a request to a bus; channel and body if it is delivered.
fn receive(
    bus: &mut Bus,
    now: Instant,
    source: SocketAddr,
    text: &str,
) -> Option<(String, Vec<u8>)> {
    with_message(text.as_bytes(), |message| {
        let delivery = bus.handle_message(now, source, message)?;
        Some((delivery.channel.to_owned(), delivery.body.to_vec()))
    })
}

fn reply(bus: &mut Bus, now: Instant, source: SocketAddr, text: &str, status: u16) {
    with_message(text.as_bytes(), |message| {
        bus.reply(now, source, message, status)
    });
}

/// Answers a request of ours.
fn answer(bus: &mut Bus, now: Instant, source: SocketAddr, request: &[u8], status: u16) {
    let request = String::from_utf8_lossy(request);
    let (head, _) = request.split_once("Content-Length").unwrap();
    let (_, head) = head.split_once("\r\n").unwrap();
    let text = format!("SIP/2.0 {status} Whatever\r\n{head}Content-Length: 0\r\n\r\n");
    assert_eq!(receive(bus, now, source, &text), None);
}

/// Node 0, to which node 1 is active and owes nothing.
fn pair(now: Instant) -> Bus {
    let mut bus = bus(node(0), 1);
    bus.set_allowed(now, nodes(0..40), Vec::new());
    assert!(
        receive(
            &mut bus,
            now,
            node(1),
            &request(node(1), "tandem", "hello", "x")
        )
        .is_some()
    );
    reply(
        &mut bus,
        now,
        node(1),
        &request(node(1), "tandem", "hello", "x"),
        200,
    );
    answer_pings(&mut bus, now);
    events(&mut bus);
    bus
}

fn answer_pings(bus: &mut Bus, now: Instant) {
    for (to, bytes) in sent(bus) {
        if bytes.starts_with(b"KDMQ sip:notification_peer") {
            answer(bus, now, to, &bytes, 200);
        }
    }
}

#[test]
fn a_stranger_and_who_speaks_for_another_get_nothing_and_teach_nothing() {
    let now = origin();
    let mut bus = bus(node(0), 1);
    let network = Network {
        address: "10.9.0.0".parse().unwrap(),
        prefix: 16,
    };
    bus.set_allowed(now, nodes(1..3), vec![network]);
    let other_port = "10.0.0.2:5061".parse().unwrap();
    let stranger = node(7);
    let list = "sip:10.0.0.3:5060;status=active\r\n";
    for channel in ["tandem", "notification_peer"] {
        for (source, from) in [
            (stranger, stranger),
            (stranger, node(1)),
            (node(1), node(2)),
            (node(1), other_port),
            (other_port, other_port),
            (other_port, node(1)),
            (node(0), node(0)),
        ] {
            let text = request(from, channel, "forged", list);
            assert_eq!(
                receive(&mut bus, now, source, &text),
                None,
                "{source} {from}"
            );
        }
    }
    let by_name = request(node(1), "tandem", "n", "x").replace("@10.0.0.2:5060>;", "@n2.example>;");
    assert_eq!(receive(&mut bus, now, node(1), &by_name), None);
    assert_eq!(bus.counters().refused, 15);
    assert_eq!(bus.nodes().count(), 0);
    assert!(sent(&mut bus).is_empty() && events(&mut bus).is_empty());

    let friend = "10.9.8.7:6060".parse().unwrap();
    let text = request(friend, "tandem", "one", "x");
    assert!(receive(&mut bus, now, friend, &text).is_some());
    assert_eq!(events(&mut bus), [Event::NodeUp { node: friend }]);
}

#[test]
fn a_list_widens_nothing_and_is_not_believed() {
    let now = origin();
    let mut bus = bus(node(0), 1);
    bus.set_allowed(now, nodes(1..4), Vec::new());
    let list = "sip:10.0.0.2:5060;status=active\r\nsip:10.0.0.99:5060;status=active\r\n\
                sip:10.0.0.3:5060;status=active\r\nsip:n9.example:5060;status=active\r\n\
                sip:10.0.0.4:5060;status=disabled\r\n";
    let text = request(node(1), "notification_peer", "one", list);
    assert_eq!(receive(&mut bus, now, node(1), &text), None);
    assert_eq!(bus.counters().lines_not_allowed, 1);
    assert_eq!(bus.counters().lines_skipped, 1);
    let known: Vec<_> = bus.nodes().map(|node| (node.address, node.state)).collect();
    assert_eq!(
        known,
        [(node(1), NodeState::Active), (node(2), NodeState::Pending)]
    );
    let sent = sent(&mut bus);
    let to: Vec<_> = sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [node(1), node(1), node(2)], "a reply and two pings");
    for (_, bytes) in sent {
        let text = String::from_utf8(bytes).unwrap();
        let (_, list) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            list,
            "sip:10.0.0.1:5060;status=active\r\nsip:10.0.0.2:5060;status=active\r\n"
        );
    }
}

#[test]
fn a_retransmission_is_answered_again_and_not_delivered_again() {
    let now = origin();
    let mut bus = pair(now);
    let text = request(node(1), "dialog", "one", "{\"action\":9}");
    assert!(receive(&mut bus, now, node(1), &text).is_some());
    assert_eq!(receive(&mut bus, now, node(1), &text), None);
    assert!(sent(&mut bus).is_empty(), "no answer yet");
    reply(&mut bus, now, node(1), &text, 500);
    let first = sent(&mut bus);
    assert!(
        first[0]
            .1
            .starts_with(b"SIP/2.0 500 Server Internal Error\r\n")
    );
    assert_eq!(receive(&mut bus, now + ms(27_500), node(1), &text), None);
    assert_eq!(sent(&mut bus), first);
    assert_eq!(bus.counters().repeats_received, 2);

    let later = request(node(1), "dialog", "later", "{\"action\":9}");
    assert!(receive(&mut bus, now, node(1), &later).is_some());
    with_message(later.as_bytes(), |message| {
        bus.leave_unanswered(node(1), message)
    });
    assert!(
        receive(&mut bus, now, node(1), &later).is_some(),
        "news again"
    );
    assert!(sent(&mut bus).is_empty());
    assert_eq!(receive(&mut bus, now, node(1), &later), None);

    // Each of these makes it another request.
    for other in [
        text.replace("Call-ID: one", "Call-ID: two"),
        text.replace("CSeq: 10", "CSeq: 11"),
        text.replace("z9hG4bKone", "z9hG4bKtwo"),
        request(node(2), "dialog", "one", "{\"action\":9}"),
    ] {
        let source = if other.contains("10.0.0.3") {
            node(2)
        } else {
            node(1)
        };
        assert!(receive(&mut bus, now, source, &other).is_some(), "{other}");
    }
    assert!(
        receive(&mut bus, now + ms(33_000), node(1), &text).is_some(),
        "long forgotten"
    );
}

#[test]
fn a_repeated_notification_is_answered_with_a_list_and_is_no_news() {
    let now = origin();
    let mut bus = pair(now);
    let leaves = "sip:10.0.0.3:5060;status=disabled\r\n";
    let leaves = request(node(2), "notification_peer", "one", leaves);
    receive(&mut bus, now, node(2), &leaves);
    receive(
        &mut bus,
        now,
        node(2),
        &request(node(2), "notification_peer", "two", ""),
    );
    sent(&mut bus);
    receive(&mut bus, now, node(2), &leaves);
    let answers = sent(&mut bus);
    assert_eq!(answers.len(), 1);
    assert!(
        answers[0]
            .1
            .ends_with(b"sip:10.0.0.3:5060;status=active\r\n"),
        "still up"
    );
}

#[test]
fn news_travel_one_hop_less_and_never_far() {
    let now = origin();
    for (received, announced) in [
        ("0", None),
        ("1", None),
        ("2", Some(1)),
        ("3", Some(2)),
        ("70", Some(2)),
    ] {
        let mut bus = pair(now);
        let text = request(node(2), "notification_peer", "one", "");
        let text = text.replace("Max-Forwards: 1", &format!("Max-Forwards: {received}"));
        receive(&mut bus, now, node(2), &text);
        let to_the_other = sent(&mut bus).into_iter().find(|(to, _)| *to == node(1));
        let hops = to_the_other.map(|(_, bytes)| {
            with_message(&bytes, |message| message.max_forwards().unwrap().unwrap())
        });
        assert_eq!(hops, announced, "{received}");
    }
}

#[test]
fn data_of_a_node_that_has_left_are_executed_but_do_not_bring_it_back() {
    let now = origin();
    let mut bus = pair(now);
    let leaves = "sip:10.0.0.2:5060;status=disabled\r\n";
    let leaves = request(node(1), "notification_peer", "one", leaves);
    receive(&mut bus, now, node(1), &leaves);
    sent(&mut bus);
    let text = request(node(1), "tandem", "two", "late");
    assert!(receive(&mut bus, now, node(1), &text).is_some());
    assert_eq!(events(&mut bus), [Event::NodeDown { node: node(1) }]);
    let (_, ping) = sent(&mut bus).swap_remove(0);
    assert!(
        ping.starts_with(b"KDMQ sip:notification_peer"),
        "it is asked"
    );
    answer(&mut bus, now, node(1), &ping, 200);
    assert_eq!(events(&mut bus), [Event::NodeUp { node: node(1) }]);
}

#[test]
fn what_cannot_be_delivered_is_answered_as_kamailio_does() {
    let now = origin();
    let mut bus = pair(now);
    let no_length = request(node(1), "htable", "one", "{}").replace("Content-Length: 2\r\n", "");
    let no_body = request(node(1), "htable", "two", "");
    for text in [no_length, no_body] {
        assert_eq!(receive(&mut bus, now, node(1), &text), None);
        let (to, bytes) = sent(&mut bus).swap_remove(0);
        assert_eq!(to, node(1));
        assert!(bytes.starts_with(b"SIP/2.0 400 Bad Request\r\n"));
    }
    let no_channel = request(node(1), "x", "three", "{}").replacen("sip:x@", "sip:", 1);
    assert_eq!(receive(&mut bus, now, node(1), &no_channel), None);
    let no_call_id = request(node(1), "x", "four", "{}").replace("Call-ID: four\r\n", "");
    assert_eq!(receive(&mut bus, now, node(1), &no_call_id), None);
    assert!(sent(&mut bus).is_empty());
    assert_eq!(bus.counters().malformed, 2);
    let options = request(node(1), "x", "five", "{}").replace("KDMQ", "OPTIONS");
    assert_eq!(receive(&mut bus, now, node(1), &options), None);
}

#[test]
fn replies_go_to_the_source_at_the_port_of_the_via() {
    let now = origin();
    let mut bus = pair(now);
    let text = request(node(1), "x", "one", "x");
    for (via, to) in [
        ("10.0.0.2:5070", "10.0.0.2:5070"),
        ("10.0.0.2", "10.0.0.2:5060"),
        ("192.0.2.1:5061", "10.0.0.2:5061"),
        ("192.0.2.1:5061;rport", "10.0.0.2:5060"),
    ] {
        let text = text.replace("UDP 10.0.0.2:5060", &format!("UDP {via}"));
        reply(&mut bus, now, node(1), &text, 202);
        let (destination, bytes) = sent(&mut bus).swap_remove(0);
        assert_eq!(destination, to.parse().unwrap(), "{via}");
        assert!(bytes.starts_with(b"SIP/2.0 202 Accepted DMQ\r\n"));
    }
}

#[test]
fn an_answer_ends_a_request_if_it_is_the_nodes_and_final() {
    let now = origin();
    let mut bus = pair(now);
    let id = bus
        .send(now, node(1), "tandem", b"x", Schedule::Tandem)
        .unwrap();
    let (to, bytes) = sent(&mut bus).swap_remove(0);
    assert_eq!(to, node(1));
    answer(&mut bus, now, node(2), &bytes, 200);
    answer(&mut bus, now, node(1), &bytes, 100);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let branch = with_message(&bytes, |message| {
        String::from_utf8(message.top_via().unwrap().branch.unwrap().to_vec()).unwrap()
    });
    let (number, token) = branch.split_once('.').unwrap();
    for guess in [
        format!("{number}.{:016x}", 7),
        format!("{number}0.{token}"),
        "z9hG4bK1".to_owned(),
    ] {
        let forged = text.replace(&branch, &guess);
        answer(&mut bus, now, node(1), forged.as_bytes(), 200);
    }
    assert_eq!(events(&mut bus), []);
    assert_eq!(bus.counters().responses_unmatched, 4);

    bus.handle_timeout(now + ms(50));
    assert_eq!(
        sent(&mut bus),
        [(node(1), bytes.clone())],
        "the very same bytes"
    );
    let later = now + ms(60);
    answer(&mut bus, later, node(1), &bytes, 404);
    let answered = Event::Answered {
        node: node(1),
        request: id,
        status: 404,
    };
    assert_eq!(events(&mut bus), [answered]);
    answer(&mut bus, later, node(1), &bytes, 404);
    assert_eq!(events(&mut bus), []);
    bus.handle_timeout(now + ms(1_000));
    assert!(sent(&mut bus).is_empty());
    let status = bus.nodes().next().unwrap();
    assert_eq!((status.in_flight, status.repeated), (0, 1));
}

#[test]
fn a_request_that_a_living_node_does_not_answer_ends_with_408() {
    for (schedule, end) in [(Schedule::Tandem, 5_000), (Schedule::Stock, 30_000)] {
        let now = origin();
        let mut bus = pair(now);
        let id = bus.send(now, node(1), "tandem", b"x", schedule).unwrap();
        let mut ended = None;
        for after in (100..=end).step_by(100) {
            let now = now + ms(after);
            let sign_of_life = request(node(1), "tandem", &format!("c{after}"), "x");
            receive(&mut bus, now, node(1), &sign_of_life);
            bus.handle_timeout(now);
            answer_pings(&mut bus, now);
            assert!(ended.is_none(), "{after}");
            ended = bus.poll_event();
        }
        let answered = Event::Answered {
            node: node(1),
            request: id,
            status: 408,
        };
        assert_eq!(ended, Some(answered), "{schedule:?}");
    }
}

#[test]
fn a_pause_of_our_own_is_no_death_of_the_other() {
    let now = origin();
    let mut bus = pair(now);
    bus.set_kind(node(1), Kind::Tandem);
    for _ in 0..10 {
        let id = bus.send(now, node(1), "tandem", b"x", Schedule::Tandem);
        assert!(id.is_some());
    }
    // Ten repeats at one time are one chance to answer.
    for after in [2_000, 2_010, 2_060, 2_100] {
        bus.handle_timeout(now + ms(after));
    }
    assert_eq!(events(&mut bus), []);
    for after in (2_150..=3_000).step_by(50) {
        bus.handle_timeout(now + ms(after));
    }
    assert_eq!(events(&mut bus)[0], Event::NodeDown { node: node(1) });
}

#[test]
fn a_window_and_the_bus_have_room_for_so_much() {
    let now = origin();
    let mut bus = pair(now);
    let send = |bus: &mut Bus, to, body: &[u8]| bus.send(now, to, "tandem", body, Schedule::Tandem);
    for _ in 0..WINDOW {
        assert!(send(&mut bus, node(1), b"x").is_some());
    }
    assert!(send(&mut bus, node(1), b"x").is_none());
    assert_eq!(bus.counters().window_full, 1);
    let (_, first) = sent(&mut bus).swap_remove(0);
    answer(&mut bus, now, node(1), &first, 200);
    assert!(
        send(&mut bus, node(1), b"x").is_some(),
        "an answer makes room"
    );

    let body = vec![0; BODY_BYTES_MAX];
    let mut bytes = 0;
    for i in 2..20 {
        receive(
            &mut bus,
            now,
            node(i),
            &request(node(i), "tandem", "up", "x"),
        );
        while send(&mut bus, node(i), &body).is_some() {
            bytes += body.len();
        }
    }
    assert!(
        bytes <= IN_FLIGHT_BYTES_MAX && bytes > IN_FLIGHT_BYTES_MAX * 9 / 10,
        "{bytes}"
    );

    assert!(send(&mut bus, node(30), b"x").is_none());
    assert_eq!(bus.counters().node_unavailable, 1);
    assert!(send(&mut bus, node(1), b"").is_none());
    assert!(
        bus.send(now, node(1), "htable", b"{}", Schedule::Stock)
            .is_none()
    );
    assert_eq!(bus.counters().unsendable, 2);
    bus.leave(now);
    assert!(send(&mut bus, node(1), b"x").is_none());
}

#[test]
fn the_list_of_nodes_is_bounded() {
    let now = origin();
    let mut bus = bus(node(0), 1);
    bus.set_allowed(now, nodes(0..40), Vec::new());
    for i in 1..40 {
        receive(
            &mut bus,
            now,
            node(i),
            &request(node(i), "tandem", "up", "x"),
        );
    }
    assert_eq!(bus.nodes().count(), NODES_MAX);
    assert_eq!(bus.counters().nodes_refused, 39 - NODES_MAX as u64);
    let (_, last) = sent(&mut bus).pop().unwrap();
    let text = String::from_utf8(last).unwrap();
    let (_, list) = text.split_once("\r\n\r\n").unwrap();
    assert!(list.lines().count() <= 28 && list.len() < 1000);
}

#[test]
fn remembered_replies_are_bounded() {
    let now = origin();
    let mut bus = pair(now);
    for i in 0..=REPLIES_MAX {
        let text = request(node(1), "tandem", &format!("c{i}"), "x");
        assert!(receive(&mut bus, now, node(1), &text).is_some());
    }
    // That of `pair` and the first of these.
    assert_eq!(bus.counters().replies_forgotten, 2);
    for (call_id, is_forgotten) in [("c1", false), ("c0", true)] {
        let text = request(node(1), "tandem", call_id, "x");
        let delivered = receive(&mut bus, now, node(1), &text);
        assert_eq!(delivered.is_some(), is_forgotten, "{call_id}");
    }
}

#[test]
fn every_request_is_executed_once_and_answered_once_through_loss() {
    for seed in 0..20 {
        let mut world = World::running(seed, 2);
        world.loss = 2_000;
        let mut bodies = Vec::new();
        for i in 0..400_u32 {
            if world.send(0, 1, &i.to_be_bytes()) {
                bodies.push(i.to_be_bytes().to_vec());
            }
            world.run(ms(5));
        }
        world.run(ms(6_000));
        assert!(!world.owes_answers(0), "seed {seed}");
        let mut delivered: Vec<_> = world
            .delivered(1)
            .into_iter()
            .map(|(_, body)| body)
            .collect();
        delivered.sort();
        let count = delivered.len();
        delivered.dedup();
        assert_eq!(delivered.len(), count, "executed twice, seed {seed}");
        let answered = world
            .events(0)
            .into_iter()
            .filter(|event| matches!(event, Event::Answered { status: 200, .. }));
        assert!(
            answered.count() <= count && count <= bodies.len(),
            "seed {seed}"
        );
        assert!(
            count > bodies.len() * 9 / 10,
            "{count} of {}, seed {seed}",
            bodies.len()
        );
    }
}

#[test]
fn a_withdrawn_request_is_neither_repeated_nor_answered() {
    let start = origin();
    let mut bus = pair(start);
    let id = bus
        .send(start, node(1), "htable", b"{\"action\":1}", Schedule::Stock)
        .unwrap();
    let request = sent(&mut bus).pop().unwrap().1;
    assert!(bus.cancel(start, node(1), id));
    assert!(!bus.cancel(start, node(1), id), "it is done");
    for step in 1..400 {
        bus.handle_timeout(start + ms(step * 10));
    }
    let repeats = sent(&mut bus)
        .into_iter()
        .filter(|(_, bytes)| *bytes == request);
    assert_eq!(repeats.count(), 0);
    answer(&mut bus, start + ms(5000), node(1), &request, 200);
    let answered = |event: &Event| matches!(event, Event::Answered { .. });
    assert!(!events(&mut bus).iter().any(answered));
}
