//! A router may name the next hop by host name: it is looked up off the packet path.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Bench, starts};
use element::Element;
use tandem_sbc::{Node, PATIENCE};

fn asked(bench: &mut Bench) -> Option<Box<str>> {
    bench
        .sbc
        .with_node(bench.now, &mut bench.turn, Node::poll_lookup)
}

#[test]
fn a_call_waits_for_the_name_of_its_next_hop_and_goes_on_when_it_is_known() {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:PBX.example:5080");
    let router = bench.router;
    assert!(bench.receive(router, &second).is_empty());
    assert!(
        bench.receive(router, &second).is_empty(),
        "a repeat waits as well"
    );
    assert_eq!(asked(&mut bench).as_deref(), Some("pbx.example"));
    assert_eq!(asked(&mut bench), None, "asked once");
    let address = "127.0.0.77".parse().unwrap();
    let now = bench.now;
    bench.sbc.with_node(now, &mut bench.turn, |node| {
        node.handle_lookup(now, "pbx.example".into(), Some(address));
    });
    let sent = bench.flush();
    let invites: Vec<_> = sent
        .iter()
        .filter(|(_, text)| text.starts_with("INVITE"))
        .collect();
    assert_eq!(invites.len(), 1, "{sent:?}");
    assert_eq!(invites[0].0, "127.0.0.77:5080".parse().unwrap());
    assert!(!invites[0].1.contains("X-Destination-URI"));
}

#[test]
fn a_name_that_nobody_knows_is_refused_at_once_and_one_that_nobody_answers_for_after_2_s() {
    for answered in [true, false] {
        let mut bench = Bench::new();
        let second = bench.second_pass("sip:PBX.example:5080");
        let router = bench.router;
        bench.receive(router, &second);
        let now = bench.now;
        if answered {
            bench.sbc.with_node(now, &mut bench.turn, |node| {
                node.handle_lookup(now, "pbx.example".into(), None)
            });
        } else {
            bench
                .sbc
                .handle_timeout(now + PATIENCE / 2, 0, 1, &mut bench.turn);
            assert!(!bench.flush().iter().any(|(_, text)| text.contains(" 503 ")));
            bench
                .sbc
                .handle_timeout(now + PATIENCE, 0, 1, &mut bench.turn);
        }
        let refused = bench
            .flush()
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
    bench.receive(router, &second);
    bench.receive(router, &second);
    let cancel = second
        .replacen("INVITE", "CANCEL", 1)
        .replace("1 INVITE", "1 CANCEL");
    let other = cancel.replace("z9hG4bKr", "z9hG4bKother");
    let sent = bench.receive(router, &other);
    assert_eq!(starts(&sent), ["SIP/2.0 481"], "of another request");
    let sent = bench.receive(router, &cancel);
    assert_eq!(starts(&sent), ["SIP/2.0 200", "SIP/2.0 487"]);
    let sent = bench.receive(router, &second);
    assert_eq!(starts(&sent), ["SIP/2.0 487"], "to a repeat as well");
    let tag = sent[0].1.split_once("To: <sip:b@b>;tag=").unwrap().1;
    let tag = tag.split_once("\r\n").unwrap().0;
    let ack = second
        .replacen("INVITE", "ACK", 1)
        .replace("1 INVITE", "1 ACK")
        .replace("To: <sip:b@b>", &format!("To: <sip:b@b>;tag={tag}"));
    assert!(bench.receive(router, &ack).is_empty());
    let now = bench.now;
    bench.sbc.with_node(now, &mut bench.turn, |node| {
        node.handle_lookup(now, "pbx.example".into(), Some([127, 0, 0, 77].into()));
    });
    let sent = bench.flush();
    assert!(sent.iter().all(|(to, _)| *to == router), "{sent:?}");
}
