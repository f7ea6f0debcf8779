//! Which places a router tries, what it makes of the request for each, and whom it listens to.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::view::{
    Algorithm, Destination, DestinationSet, DestinationState, Liveness, Member, MemberKind,
    MemberState, NextHop, Route, RouteMatch, RouteResult, Side, SipEndpoint, View,
};
use element::{Datagram, Element, FlowId, Outbox, Sender, Sharded, Turn};
use sip::{ProxyConfig, TimerConfig};
use tandem_router::{Node, Shard};

const ROUTER: &str = "127.0.0.31:5060";
const SBC: &str = "127.0.0.20:5060";

struct Bench {
    router: Sharded<Shard, Node>,
    turn: Turn,
    now: Instant,
}

#[derive(Default)]
struct Wire(Vec<(SocketAddr, String)>);

impl Sender for Wire {
    fn send(&mut self, outboxes: &[Outbox]) {
        for sent in outboxes.iter().flat_map(Outbox::iter) {
            let text = String::from_utf8(sent.bytes.to_vec()).unwrap();
            self.0.push((sent.destination, text));
        }
    }
}

fn member(id: &str, kind: MemberKind, address: &str) -> Member {
    let address: SocketAddr = address.parse().unwrap();
    Member {
        id: id.into(),
        kind,
        address: address.ip(),
        sip: vec![SipEndpoint {
            side: Side::Both,
            address,
        }],
        dmq: None,
        cell: "a".into(),
        zone: String::new(),
        tags: vec![],
        desired_state: MemberState::Active,
        incarnation: 1,
        liveness: Liveness::Alive,
    }
}

fn place(uri: &str, request_uri: Option<&str>, headers: &[(&str, &str)]) -> RouteResult {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    RouteResult {
        next_hop: NextHop::Uri(uri.to_owned()),
        request_uri: request_uri.map(str::to_owned),
        headers: headers.iter().map(owned).collect(),
    }
}

fn view(results: Vec<RouteResult>) -> View {
    View {
        generation: 1,
        members: vec![
            member("r", MemberKind::Router, ROUTER),
            member("s", MemberKind::Sbc, SBC),
        ],
        routes: vec![Route {
            id: "all".into(),
            priority: 0,
            matches: RouteMatch::default(),
            results,
        }],
        ..View::default()
    }
}

fn invite(call: &str) -> String {
    format!(
        "INVITE sip:123@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {SBC};branch=z9hG4bK{call}\r\n\
         From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>\r\nCall-ID: {call}\r\nCSeq: 1 INVITE\r\n\
         X-Trunk: theirs\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Returns the values of a header, in order.
fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let lines = message.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(written, _)| *written == name)
        .map(|(_, value)| value)
        .collect()
}

fn refusal(request: &str) -> String {
    answer(request, "503 Service Unavailable")
}

fn answer(request: &str, status: &str) -> String {
    let line = |name| {
        let values = values(request, name);
        let line = |value| format!("{name}: {value}\r\n");
        values.into_iter().map(line).collect::<String>()
    };
    let lines: String = ["Via", "From", "To", "Call-ID", "CSeq"].map(line).concat();
    format!("SIP/2.0 {status}\r\n{lines}Content-Length: 0\r\n\r\n")
}

impl Bench {
    fn new(view: &View) -> Self {
        let own: SocketAddr = ROUTER.parse().unwrap();
        let proxy = ProxyConfig {
            listen: vec![own],
            timers: TimerConfig::default(),
            timer_c: Duration::from_secs(190),
            contexts_max: 100,
        };
        let node = Node::new(vec![own].into(), Arc::new([]), 1);
        let initial = Arc::new(node.view());
        let shard = Shard::new(proxy, 2);
        let mut bench = Self {
            router: Sharded::new(vec![shard], node, initial, [0; 16]),
            turn: Turn::new(),
            now: Instant::now(),
        };
        bench.configure(view);
        bench
    }

    fn configure(&mut self, view: &View) {
        let now = self.now;
        self.router
            .with_node(now, &mut self.turn, |node| node.configure(now, view));
        self.router.flush(&mut self.turn, &mut Wire::default());
    }

    /// Hands in what somebody sent, and returns what goes out for it, 100 excepted.
    fn receive(&mut self, source: &str, text: &str) -> Vec<String> {
        let datagram = Datagram {
            flow: FlowId(0),
            source: source.parse().unwrap(),
            bytes: text.as_bytes(),
        };
        self.router
            .handle_batch(self.now, &[datagram], &mut self.turn);
        let mut wire = Wire::default();
        self.router.flush(&mut self.turn, &mut wire);
        let sent = wire.0.into_iter().map(|(_, text)| text);
        sent.filter(|text| !text.starts_with("SIP/2.0 100"))
            .collect()
    }

    /// Lets time pass, and returns what goes out meanwhile.
    fn pass(&mut self, time: Duration) -> Vec<String> {
        let until = self.now + time;
        let mut wire = Wire::default();
        while let Some(at) = self.router.poll_timeout(0, 1).filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.router.handle_timeout(self.now, 0, 1, &mut self.turn);
            self.router.flush(&mut self.turn, &mut wire);
        }
        self.now = until;
        wire.0.into_iter().map(|(_, text)| text).collect()
    }

    /// Sends a call in, and returns the request that comes of it.
    fn call(&mut self, id: &str) -> String {
        let sent = self.receive(SBC, &invite(id));
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.into_iter().next().unwrap()
    }

    /// Refuses a request, and returns the one that goes out to the next place.
    fn refuse(&mut self, request: &str) -> String {
        let sent = self.receive(SBC, &refusal(request));
        let mut requests = sent.into_iter().filter(|text| text.starts_with("INVITE"));
        requests.next().expect("a further place")
    }
}

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
        ..destination_set(Algorithm::CallIdHash)
    }];
    view.destinations = vec![destination(1)];
    let mut bench = Bench::new(&view);
    bench.call("x");
    assert!(bench.pass(Duration::from_millis(299)).is_empty());
    let sent = bench.pass(Duration::from_millis(1));
    assert_eq!(values(&sent[0], "X-Destination-URI"), ["sip:127.0.0.1:1"]);
}

fn destination_set(algorithm: Algorithm) -> DestinationSet {
    DestinationSet {
        id: "2".into(),
        algorithm,
        selector: None,
        first_response: DestinationSet::FIRST_RESPONSE,
        detect_within: Duration::from_millis(200),
        probe_interval: Duration::from_secs(1),
        failures_to_inactive: 1,
        successes_to_active: 2,
    }
}

fn destination(number: u8) -> Destination {
    Destination {
        set: "2".into(),
        id: format!("d{number}"),
        uri: format!("sip:127.0.0.4{number}:5060"),
        priority: 0,
        weight: 1,
        probing: false,
        desired_state: DestinationState::Active,
    }
}

#[test]
fn round_robin_goes_on_to_the_next_destination_with_each_call() {
    let mut view = view(vec![RouteResult {
        next_hop: NextHop::Set("2".into()),
        request_uri: None,
        headers: vec![],
    }]);
    view.sets = vec![destination_set(Algorithm::RoundRobin)];
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
    node.configure(bench.now, &all);
    let routed = bench.receive(SBC, &call("x"));
    assert!(routed[0].starts_with("INVITE"), "{routed:?}");
    all.members.retain(|member| member.id != "s");
    node.configure(bench.now, &all);
    bench
        .router
        .with_node(bench.now, &mut bench.turn, |running| *running = node);
    bench.router.flush(&mut bench.turn, &mut Wire::default());
    let refused = bench.receive(SBC, &call("y"));
    assert!(refused[0].starts_with("SIP/2.0 404"), "{refused:?}");
}
