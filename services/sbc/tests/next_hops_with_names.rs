//! A router may name the next hop by host name: it is looked up off the packet path.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Bench, starts};
use host::{Answer, Name};
use tandem_sbc::{MARKED_FOR, PATIENCE, SILENT_AFTER};
use workbench::{Sent, answer};

const A: &str = "127.0.0.77:5080";
const B: &str = "127.0.0.78:5080";

fn asked(bench: &mut Bench) -> Option<Name> {
    bench.sbc.with_node(|_, node| node.poll_lookup())
}

fn pbx() -> Name {
    Name {
        host: "pbx.example".into(),
        port: Some(5080),
    }
}

/// Answers the question for the IPBX; it counts for a minute.
fn resolve(bench: &mut Bench, addresses: &[&str]) -> Vec<Sent> {
    let answer = Answer {
        addresses: addresses.iter().map(|text| at(text)).collect(),
        fresh_for: Duration::from_secs(60),
    };
    bench
        .sbc
        .with_node(|now, node| node.handle_lookup(now, pbx(), &answer));
    bench.sbc.flush()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns whom INVITEs went to.
fn invited(sent: &[Sent]) -> Vec<SocketAddr> {
    let invites = sent.iter().filter(|(_, text)| text.starts_with("INVITE"));
    invites.map(|(to, _)| *to).collect()
}

/// Returns the first INVITE among what was sent.
fn invite(sent: &[Sent]) -> &str {
    let mut sent = sent.iter();
    &sent.find(|(_, text)| text.starts_with("INVITE")).unwrap().1
}

/// A call to the IPBX by name, which has both addresses: returns what was delivered, and to A.
fn delivered() -> (Bench, String) {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:PBX.example:5080");
    bench.sbc.receive(bench.router, &second);
    let sent = resolve(&mut bench, &[A, B]);
    assert_eq!(invited(&sent), [at(A)]);
    let invite = invite(&sent).to_owned();
    (bench, invite)
}

/// Places another call to the IPBX, and returns where it goes.
fn another(bench: &mut Bench, call_id: &str) -> Vec<SocketAddr> {
    let second = bench.second_pass_of(call_id, "sip:PBX.example:5080");
    let sent = bench.sbc.receive(bench.router, &second);
    invited(&sent)
}

#[test]
fn a_call_waits_for_the_name_of_its_next_hop_and_goes_on_when_it_is_known() {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:PBX.example:5080");
    let router = bench.router;
    assert!(bench.sbc.receive(router, &second).is_empty());
    assert!(
        bench.sbc.receive(router, &second).is_empty(),
        "a repeat waits as well"
    );
    assert_eq!(asked(&mut bench), Some(pbx()));
    assert_eq!(asked(&mut bench), None, "asked once");
    let sent = resolve(&mut bench, &[A]);
    let invites: Vec<_> = sent
        .iter()
        .filter(|(_, text)| text.starts_with("INVITE"))
        .collect();
    assert_eq!(invites.len(), 1, "{sent:?}");
    assert_eq!(invites[0].0, at(A));
    assert!(!invites[0].1.contains("X-Destination-URI"));
}

#[test]
fn a_name_that_nobody_knows_is_refused_at_once_and_one_that_nobody_answers_for_after_2_s() {
    for answered in [true, false] {
        let mut bench = Bench::new();
        let second = bench.second_pass("sip:PBX.example:5080");
        let router = bench.router;
        bench.sbc.receive(router, &second);
        let sent = if answered {
            resolve(&mut bench, &[])
        } else {
            let early = bench.sbc.pass(PATIENCE / 2);
            assert!(!early.iter().any(|(_, text)| text.contains(" 503 ")));
            bench.sbc.pass(PATIENCE / 2)
        };
        let refused = sent
            .into_iter()
            .find(|(to, text)| *to == router && text.starts_with("SIP/2.0 503"));
        assert!(
            refused.is_some_and(|(_, text)| text.contains("Retry-After")),
            "answered: {answered}"
        );
    }
}

#[test]
fn a_call_that_waits_for_a_name_can_be_cancelled_and_goes_nowhere() {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:PBX.example:5080");
    let router = bench.router;
    bench.sbc.receive(router, &second);
    bench.sbc.receive(router, &second);
    let cancel = second
        .replacen("INVITE", "CANCEL", 1)
        .replace("1 INVITE", "1 CANCEL");
    let other = cancel.replace("z9hG4bKr", "z9hG4bKother");
    let sent = bench.sbc.receive(router, &other);
    assert_eq!(starts(&sent), ["SIP/2.0 481"], "of another request");
    let sent = bench.sbc.receive(router, &cancel);
    assert_eq!(starts(&sent), ["SIP/2.0 200", "SIP/2.0 487"]);
    let sent = bench.sbc.receive(router, &second);
    assert_eq!(starts(&sent), ["SIP/2.0 487"], "to a repeat as well");
    let tag = sent[0].1.split_once("To: <sip:b@b>;tag=").unwrap().1;
    let tag = tag.split_once("\r\n").unwrap().0;
    let ack = second
        .replacen("INVITE", "ACK", 1)
        .replace("1 INVITE", "1 ACK")
        .replace("To: <sip:b@b>", &format!("To: <sip:b@b>;tag={tag}"));
    assert!(bench.sbc.receive(router, &ack).is_empty());
    let sent = resolve(&mut bench, &[A]);
    assert!(sent.iter().all(|(to, _)| *to == router), "{sent:?}");
}

#[test]
fn a_uri_without_a_port_is_asked_for_as_such_and_goes_to_the_port_of_the_answer() {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:pbx.example");
    bench.sbc.receive(bench.router, &second);
    let name = Name {
        port: None,
        ..pbx()
    };
    assert_eq!(asked(&mut bench), Some(name.clone()));
    let answer = Answer {
        addresses: vec![at("127.0.0.77:5099"), at(B)],
        fresh_for: Duration::from_secs(60),
    };
    bench
        .sbc
        .with_node(|now, node| node.handle_lookup(now, name, &answer));
    assert_eq!(invited(&bench.sbc.flush()), [at("127.0.0.77:5099")]);
}

#[test]
fn addresses_that_the_socket_cannot_reach_and_its_own_are_passed_over() {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:pbx.example:5080");
    bench.sbc.receive(bench.router, &second);
    let sent = resolve(&mut bench, &["[::1]:5080", "127.0.0.20:5060", B]);
    assert_eq!(invited(&sent), [at(B)]);
}

#[test]
fn a_503_lets_the_call_go_on_to_the_next_address_at_once_and_new_calls_go_there() {
    let (mut bench, invite_a) = delivered();
    let refused = answer(&invite_a, "503 Service Unavailable");
    let sent = bench.sbc.receive(at(A), &refused);
    assert_eq!(starts(&sent), ["ACK", "INVITE"]);
    assert_eq!(invited(&sent), [at(B)]);
    let invite_b = invite(&sent).to_owned();
    let below = |invite: &str| invite.splitn(3, "\r\n").last().unwrap().to_owned();
    assert_eq!(below(&invite_b), below(&invite_a), "all but our Via");
    assert_ne!(invite_b, invite_a, "another branch");
    assert_eq!(another(&mut bench, "y"), [at(B)]);
    let ringing = bench.sbc.receive(at(B), &answer(&invite_b, "180 Ringing"));
    assert_eq!(starts(&ringing), ["SIP/2.0 180"]);
    bench.sbc.pass(MARKED_FOR);
    assert_eq!(another(&mut bench, "z"), [at(A)], "after its time");
}

#[test]
fn when_every_address_says_503_so_does_the_name_and_the_one_refused_longest_ago_is_tried() {
    let (mut bench, invite_a) = delivered();
    let sent = bench
        .sbc
        .receive(at(A), &answer(&invite_a, "503 Service Unavailable"));
    let invite_b = invite(&sent).to_owned();
    bench.sbc.pass(Duration::from_millis(100));
    let sent = bench
        .sbc
        .receive(at(B), &answer(&invite_b, "503 Service Unavailable"));
    assert_eq!(starts(&sent), ["ACK", "SIP/2.0 503"]);
    assert_eq!(sent[1].0, bench.router);
    assert_eq!(another(&mut bench, "y"), [at(A)]);
}

#[test]
fn who_has_rung_does_not_lose_the_call_to_another_address() {
    let (mut bench, invite_a) = delivered();
    bench.sbc.receive(at(A), &answer(&invite_a, "180 Ringing"));
    let sent = bench
        .sbc
        .receive(at(A), &answer(&invite_a, "503 Service Unavailable"));
    assert_eq!(starts(&sent), ["ACK", "SIP/2.0 503"]);
}

#[test]
fn a_cancelled_call_goes_to_no_other_address() {
    let (mut bench, invite_a) = delivered();
    let cancel = bench.carrier_request("CANCEL");
    bench.sbc.receive(bench.carrier(), &cancel);
    let sent = bench
        .sbc
        .receive(at(A), &answer(&invite_a, "503 Service Unavailable"));
    assert_eq!(invited(&sent), []);
    assert!(starts(&sent).contains(&"SIP/2.0 503"), "{sent:?}");
}

#[test]
fn an_address_that_the_network_refuses_twice_gives_the_call_to_the_next() {
    let (mut bench, invite_a) = delivered();
    assert!(
        bench.sbc.unreachable(at(A)).is_empty(),
        "it may be restarting"
    );
    assert_eq!(another(&mut bench, "y"), [at(B)], "others need not wait");
    bench.sbc.pass(Duration::from_millis(500));
    let sent = bench.sbc.unreachable(at(A));
    assert_eq!(invited(&sent), [at(B)]);
    // What was refused was its repeats: it has the request, and is not to have it.
    let sent = bench.sbc.receive(at(A), &answer(&invite_a, "180 Ringing"));
    assert_eq!(starts(&sent), ["CANCEL"]);
    assert_eq!(sent[0].0, at(A));
    let sent = bench
        .sbc
        .receive(at(A), &answer(&invite_a, "487 Request Terminated"));
    assert_eq!(starts(&sent), ["ACK"], "nobody else hears of it");
}

#[test]
fn of_two_addresses_that_answer_all_the_same_the_first_success_cancels_the_other() {
    let (mut bench, invite_a) = delivered();
    bench.sbc.unreachable(at(A));
    bench.sbc.pass(Duration::from_millis(500));
    let sent = bench.sbc.unreachable(at(A));
    let invite_b = invite(&sent).to_owned();
    bench.sbc.receive(at(B), &answer(&invite_b, "180 Ringing"));
    let sent = bench.sbc.receive(at(A), &answer(&invite_a, "200 OK"));
    let cancelled = sent.iter().find(|(_, text)| text.starts_with("CANCEL"));
    assert_eq!(cancelled.map(|(to, _)| *to), Some(at(B)));
    assert!(starts(&sent).contains(&"SIP/2.0 200"));
}

#[test]
fn a_silent_address_keeps_the_call_and_loses_the_next_one() {
    let (mut bench, _) = delivered();
    let sent = bench.sbc.pass(SILENT_AFTER - Duration::from_millis(1));
    assert!(invited(&sent).contains(&at(A)));
    assert!(!invited(&sent).contains(&at(B)));
    assert_eq!(another(&mut bench, "y"), [at(A)]);
    bench.sbc.pass(Duration::from_millis(1));
    assert_eq!(another(&mut bench, "z"), [at(B)]);
    let sent = bench.sbc.pass(Duration::from_secs(31));
    let to_a = |(to, text): &&Sent| *to == at(A) && text.contains("Call-ID: x\r");
    assert!(sent.iter().any(|sent| to_a(&sent)), "still repeated");
    let to_b = |(to, text): &Sent| *to == at(B) && text.contains("Call-ID: x\r");
    assert!(!sent.iter().any(to_b), "it may have it");
}

#[test]
fn what_a_name_stands_for_is_asked_again_after_its_time_and_used_meanwhile() {
    let (mut bench, _) = delivered();
    assert_eq!(asked(&mut bench), Some(pbx()));
    bench.sbc.pass(Duration::from_secs(30));
    assert_eq!(another(&mut bench, "w"), [at(B)], "A said nothing");
    bench.sbc.pass(Duration::from_secs(29));
    assert_eq!(asked(&mut bench), None);
    bench.sbc.pass(Duration::from_secs(1));
    assert_eq!(asked(&mut bench), Some(pbx()));
    assert_eq!(another(&mut bench, "y").len(), 1, "nobody waits");
    resolve(&mut bench, &[B]);
    assert_eq!(another(&mut bench, "z"), [at(B)]);
}
