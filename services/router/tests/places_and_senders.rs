//! Which places a router tries, what it makes of the request for each, and whom it listens to.

#![allow(clippy::unwrap_used)] // helpers of tests

mod bench;

use std::net::SocketAddr;
use std::time::Duration;

use bench::{Bench, ROUTER, SBC, invite, place, refusal, values, view};
use control::view::{Algorithm, Destination, DestinationSet, NextHop, RouteResult};
use tandem_router::Node;
use workbench::{answer, destination_set};

#[test]
fn each_place_gets_the_request_as_it_came_with_its_own_changes_only() {
    let places = vec![
        place(
            "sip:127.0.0.1:1",
            Some("sip:a-much-longer-user@first.example.com"),
            &[("X-Trunk", "one"), ("X-Trunk", "uno"), ("X-First", "1")],
        ),
        place("sip:127.0.0.1:2", Some("sip:2@b"), &[("X-Second", "2")]),
        place("sip:127.0.0.1:3", None, &[("X-Trunk", "three")]),
        place("sip:127.0.0.1:4", Some("sip:4@d"), &[]),
    ];
    let mut bench = Bench::new(&view(places));
    let first = bench.call("x");
    let second = bench.refuse(&first);
    let third = bench.refuse(&second);
    let fourth = bench.refuse(&third);
    let of = |request: &str| {
        let list = |name| values(request, name).join(" ");
        let start = request.lines().next().unwrap().to_owned();
        let headers = ["X-Destination-URI", "X-Trunk", "X-First", "X-Second"].map(list);
        (start, headers)
    };
    let wanted = |uri: &str, headers: [&str; 4]| {
        let start = format!("INVITE {uri} SIP/2.0");
        (start, headers.map(str::to_owned))
    };
    assert_eq!(
        of(&first),
        wanted(
            "sip:a-much-longer-user@first.example.com",
            ["sip:127.0.0.1:1", "theirs one uno", "1", ""]
        )
    );
    assert_eq!(
        of(&second),
        wanted("sip:2@b", ["sip:127.0.0.1:2", "theirs", "", "2"])
    );
    assert_eq!(
        of(&third),
        wanted(
            "sip:123@example.com",
            ["sip:127.0.0.1:3", "theirs three", "", ""]
        )
    );
    assert_eq!(
        of(&fourth),
        wanted("sip:4@d", ["sip:127.0.0.1:4", "theirs", "", ""])
    );
}

fn two_places() -> Bench {
    let place = |uri| place(uri, None, &[]);
    Bench::new(&view(vec![
        place("sip:127.0.0.1:1"),
        place("sip:127.0.0.1:2"),
    ]))
}

fn starts(sent: &[String]) -> Vec<&str> {
    let word = |text: &String| text.find(' ').unwrap();
    let status = |text: &String| text.starts_with("SIP/2.0").then_some(11);
    let start = |text| status(text).unwrap_or_else(|| word(text));
    sent.iter().map(|text| &text[..start(text)]).collect()
}

#[test]
fn a_place_that_says_nothing_but_100_is_passed_over_and_cancelled() {
    let mut bench = two_places();
    let first = bench.call("x");
    bench.receive(SBC, &answer(&first, "100 Trying"));
    assert!(bench.pass(Duration::from_millis(1999)).is_empty());
    let sent = bench.pass(Duration::from_millis(1));
    assert_eq!(starts(&sent), ["INVITE", "CANCEL"]);
    assert_eq!(values(&sent[0], "X-Destination-URI"), ["sip:127.0.0.1:2"]);
    assert_eq!(values(&sent[1], "Via"), values(&first, "Via")[..1]);
    let ringing = answer(&first, "180 Ringing");
    assert!(bench.receive(SBC, &ringing).is_empty(), "it comes too late");
    let ended = bench.receive(SBC, &answer(&first, "487 Request Terminated"));
    assert_eq!(starts(&ended), ["ACK"], "and the carrier hears nothing");
    let answered = bench.receive(SBC, &answer(&sent[0], "200 OK"));
    assert_eq!(starts(&answered), ["SIP/2.0 200"]);
}

#[test]
fn a_2xx_of_a_place_passed_over_goes_on_and_cancels_the_next_one() {
    let mut bench = two_places();
    let first = bench.call("x");
    let sent = bench.pass(Duration::from_secs(2));
    let second = sent.iter().find(|text| text.contains("127.0.0.1:2"));
    let second = second.expect("the second place").clone();
    bench.receive(SBC, &answer(&second, "180 Ringing"));
    let answered = bench.receive(SBC, &answer(&first, "200 OK"));
    assert_eq!(starts(&answered), ["CANCEL", "SIP/2.0 200"]);
    assert_eq!(values(&answered[0], "Via"), values(&second, "Via")[..1]);
}

#[test]
fn a_place_that_rings_and_the_last_one_keep_the_call() {
    let mut bench = two_places();
    let first = bench.call("x");
    bench.receive(SBC, &answer(&first, "180 Ringing"));
    assert!(bench.pass(Duration::from_secs(60)).is_empty());
    let second = bench.refuse(&first);
    bench.receive(SBC, &answer(&second, "100 Trying"));
    assert!(bench.pass(Duration::from_secs(60)).is_empty());
}

#[test]
fn a_destination_is_waited_for_as_its_set_says() {
    let set = |id: &str| RouteResult {
        next_hop: NextHop::Set(id.into()),
        request_uri: None,
        headers: vec![],
    };
    let mut view = view(vec![set("2"), place("sip:127.0.0.1:1", None, &[])]);
    view.sets = vec![DestinationSet {
        first_response: Duration::from_millis(300),
        ..destination_set("2")
    }];
    view.destinations = vec![destination(1)];
    let mut bench = Bench::new(&view);
    bench.call("x");
    assert!(bench.pass(Duration::from_millis(299)).is_empty());
    let sent = bench.pass(Duration::from_millis(1));
    assert_eq!(values(&sent[0], "X-Destination-URI"), ["sip:127.0.0.1:1"]);
}

fn destination(number: u8) -> Destination {
    let uri = format!("sip:127.0.0.4{number}:5060");
    Destination {
        probing: false,
        ..workbench::destination("2", &format!("d{number}"), &uri)
    }
}

#[test]
fn round_robin_goes_on_to_the_next_destination_with_each_call() {
    let mut view = view(vec![RouteResult {
        next_hop: NextHop::Set("2".into()),
        request_uri: None,
        headers: vec![],
    }]);
    view.sets = vec![DestinationSet {
        algorithm: Algorithm::RoundRobin,
        ..destination_set("2")
    }];
    view.destinations = (1..=3).map(destination).collect();
    let mut bench = Bench::new(&view);
    let places: Vec<String> = (0..6)
        .map(|n| values(&bench.call(&format!("call-{n}")), "X-Destination-URI").concat())
        .collect();
    let mut round = places[..3].to_vec();
    round.sort();
    round.dedup();
    assert_eq!(round.len(), 3, "each once: {places:?}");
    assert_eq!(places[..3], places[3..], "then from the start");
}

#[test]
fn an_sbc_that_is_no_member_any_more_may_answer_and_ask_for_nothing() {
    let mut bench = Bench::new(&view(vec![place("sip:127.0.0.1:1", None, &[])]));
    bench.call("x");
    let mut later = view(vec![place("sip:127.0.0.1:1", None, &[])]);
    later.members.retain(|member| member.id != "s");
    bench.configure(&later);
    assert!(bench.receive(SBC, &invite("y")).is_empty());
    let stray = refusal(&format!(
        "INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {ROUTER};branch=z9hG4bKr\r\n\
         Via: SIP/2.0/UDP {SBC};branch=z9hG4bKs\r\nFrom: <sip:a@a>;tag=a\r\n\
         To: <sip:b@b>;tag=b\r\nCall-ID: z\r\nCSeq: 1 INVITE\r\n"
    ));
    let passed = bench.receive(SBC, &stray);
    assert_eq!(passed.len(), 1, "a dead router's: {passed:?}");
    assert!(bench.receive("127.0.0.66:5060", &stray).is_empty());
}

#[test]
fn the_sender_that_a_former_sbc_tells_of_is_not_believed() {
    let told = "X-Forwarded-For: 10.1.1.1:5060\r\nContent-Length";
    let call = |id| invite(id).replace("Content-Length", told);
    let mut all = view(vec![place("sip:127.0.0.1:1", None, &[])]);
    all.routes[0].matches.source = Some("10.0.0.0/8".parse().unwrap());
    let own: SocketAddr = ROUTER.parse().unwrap();
    let mut bench = Bench::new(&all);
    let mut node = Node::new(
        vec![own].into(),
        vec!["127.0.0.0/8".parse().unwrap()].into(),
        1,
    );
    node.configure(bench.router.now, &all);
    let routed = bench.receive(SBC, &call("x"));
    assert!(routed[0].starts_with("INVITE"), "{routed:?}");
    all.members.retain(|member| member.id != "s");
    node.configure(bench.router.now, &all);
    bench.router.with_node(|_, running| *running = node);
    bench.router.flush();
    let refused = bench.receive(SBC, &call("y"));
    assert!(refused[0].starts_with("SIP/2.0 404"), "{refused:?}");
}
