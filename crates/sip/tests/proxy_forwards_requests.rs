//! The proxy core as its user meets it: RFC 3261 sections 16 and 17 over one shard's contexts.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::FlowId;
use sip::{
    Answer, BranchId, ContextId, Event, Offered, Proxy, ProxyConfig, Target, TimerConfig, loop_key,
};
use sip_types::{Index, Message, Splice};

const FLOW: FlowId = FlowId(0);

struct Bench {
    proxy: Proxy<(), ()>,
    now: Instant,
    own: SocketAddr,
    caller: SocketAddr,
    callee: SocketAddr,
}

impl Bench {
    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn new() -> Self {
        let own = "127.0.0.1:5060".parse().unwrap();
        let config = ProxyConfig {
            listen: vec![own],
            timers: TimerConfig::default(),
            timer_c: Duration::from_secs(185),
            contexts_max: 4,
        };
        Self {
            proxy: Proxy::new(config, 7),
            now: Instant::now(),
            own,
            caller: "127.0.0.2:5070".parse().unwrap(),
            callee: "127.0.0.3:5060".parse().unwrap(),
        }
    }

    fn request(&self, method: &str, branch: &str) -> String {
        format!(
            "{method} sip:b@127.0.0.3 SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{branch}\r\n\
             From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>\r\nCall-ID: x\r\nCSeq: 1 {method}\r\n\
             Max-Forwards: 70\r\nSubject: \u{fc}n\u{ef}code\r\nContent-Length: 0\r\n\r\n",
            self.caller
        )
    }

    fn offer(&mut self, text: &str) -> Offered {
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        self.proxy
            .offer_request(self.now, FLOW, self.caller, &message)
    }

    /// Opens a context for a request and sends it to the callee.
    fn forward(&mut self, text: &str) -> (ContextId, BranchId) {
        self.forward_edited(text, |_, _| ())
    }

    fn forward_edited(
        &mut self,
        text: &str,
        edit: impl FnOnce(&mut Splice, &Message<'_>),
    ) -> (ContextId, BranchId) {
        let Offered::New(key) = self.offer(text) else {
            panic!("not new")
        };
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        let id = self
            .proxy
            .open(self.now, key, FLOW, self.caller, &message, ())
            .unwrap();
        let loop_key = loop_key(self.proxy.hash_key(), &message, false);
        let target = Target {
            flow: FLOW,
            destination: self.callee,
        };
        let mut edits = Splice::new();
        edit(&mut edits, &message);
        let branch = self
            .proxy
            .forward(
                self.now,
                id,
                self.caller,
                &message,
                &mut edits,
                loop_key,
                target,
                (),
            )
            .unwrap();
        (id, branch)
    }

    fn sent(&mut self) -> Vec<(SocketAddr, String)> {
        let outbox = self.proxy.outbox();
        let sent = outbox.iter();
        let sent = sent.map(|sent| {
            (
                sent.destination,
                String::from_utf8(sent.bytes.to_vec()).unwrap(),
            )
        });
        let sent = sent.collect();
        outbox.clear();
        sent
    }

    /// Answers a request as the callee does, and hands the answer to the proxy's user.
    fn answer(&mut self, request: &str, status: u16) -> Answer {
        let response = response(request, status);
        let mut index = Index::new();
        let message = Message::parse(response.as_bytes(), &mut index).unwrap();
        let answer = self.proxy.handle_response(self.now, &message);
        if let Answer::Delivered(delivered) = answer {
            let mut edits = Splice::new();
            self.proxy
                .forward_response(self.now, delivered.branch.context, &message, &mut edits);
        }
        answer
    }

    fn pass(&mut self, time: Duration) -> Vec<Event> {
        self.now += time;
        self.proxy.handle_timeout(self.now);
        std::iter::from_fn(|| self.proxy.poll_event()).collect()
    }
}

fn response(request: &str, status: u16) -> String {
    let mut index = Index::new();
    let message = Message::parse(request.as_bytes(), &mut index).unwrap();
    let head = sip_types::ResponseHead {
        status,
        reason: sip_types::reason_phrase(status).as_bytes(),
        to_tag: Some(b"callee"),
        headers: &[],
    };
    let mut out = Vec::new();
    sip_types::respond(&message, &head, &mut out);
    String::from_utf8(out).unwrap()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap()
}

#[test]
fn an_invite_is_answered_with_100_and_leaves_with_our_via_and_one_hop_less() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    bench.forward(&invite);
    let sent = bench.sent();
    assert_eq!(sent[0].0, bench.caller);
    assert_eq!(first_line(&sent[0].1), "SIP/2.0 100 Trying");
    let (to, forwarded) = &sent[1];
    assert_eq!(*to, bench.callee);
    let (via, rest) = forwarded
        .split_once("\r\n")
        .unwrap()
        .1
        .split_once("\r\n")
        .unwrap();
    assert!(
        via.starts_with(&format!("Via: SIP/2.0/UDP {};branch=z9hG4bK", bench.own)),
        "{via}"
    );
    let expected = invite
        .split_once("\r\n")
        .unwrap()
        .1
        .replace("Max-Forwards: 70", "Max-Forwards: 69");
    assert_eq!(rest, expected, "everything else leaves as it came");
}

#[test]
fn our_via_stands_first_whatever_is_put_before_the_first_line() {
    let mut bench = Bench::new();
    let own_route = "Record-Route: <sip:127.0.0.1;lr>\r\n";
    // As Kamailio sends its requests.
    let invite = bench.request("INVITE", "1").replacen(
        "Via:",
        "Record-Route: <sip:127.0.0.9;lr>\r\nVia:",
        1,
    );
    let (_, branch) = bench.forward_edited(&invite, |edits, message| {
        edits.insert(message.headers_start(), own_route.as_bytes());
    });
    let forwarded = bench.sent().pop().unwrap().1;
    let via = format!("Via: SIP/2.0/UDP {};branch=z9hG4bK", bench.own);
    let lines: Vec<_> = forwarded.lines().collect();
    assert!(lines[1].starts_with(&via), "{forwarded}");
    assert_eq!(lines[2], own_route.trim_end(), "{forwarded}");
    assert!(lines[3].contains("127.0.0.9"), "{forwarded}");
    let Answer::Delivered(delivered) = bench.answer(&forwarded, 180) else {
        panic!("its own branch is not known:\n{forwarded}");
    };
    assert_eq!(delivered.branch, branch);
}

#[test]
fn responses_go_back_without_our_via_and_a_repeat_of_the_request_gets_the_last_one() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    bench.forward(&invite);
    let forwarded = bench.sent().pop().unwrap().1;
    assert!(matches!(
        bench.answer(&forwarded, 180),
        Answer::Delivered(_)
    ));
    let ringing = bench.sent().pop().unwrap();
    assert_eq!(ringing.0, bench.caller);
    assert!(
        first_line(&ringing.1).contains("180") && !ringing.1.contains(&bench.own.to_string()),
        "{}",
        ringing.1
    );
    assert_eq!(bench.offer(&invite), Offered::Absorbed);
    assert_eq!(bench.sent(), [ringing]);
}

#[test]
fn a_failure_is_acknowledged_to_the_callee_and_repeated_to_the_caller_until_its_ack() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    bench.forward(&invite);
    let forwarded = bench.sent().pop().unwrap().1;
    bench.answer(&forwarded, 486);
    let sent = bench.sent();
    assert_eq!((sent[0].0, &sent[0].1[..3]), (bench.callee, "ACK"));
    assert_eq!(sent[1].0, bench.caller);
    bench.answer(&forwarded, 486);
    assert_eq!(
        bench.sent().len(),
        1,
        "a repeat is acknowledged again and not forwarded again"
    );
    bench.pass(Duration::from_millis(500));
    assert!(first_line(&bench.sent()[0].1).contains("486"));
    let ack = bench.request("ACK", "1");
    assert_eq!(bench.offer(&ack), Offered::Absorbed);
    bench.pass(Duration::from_secs(64));
    assert!(
        bench.sent().is_empty() && bench.proxy.is_empty(),
        "and nothing is left behind"
    );
}

#[test]
fn cancel_waits_for_the_first_provisional_and_goes_out_once() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    let (context, branch) = bench.forward(&invite);
    let forwarded = bench.sent().pop().unwrap().1;
    let cancel = bench.request("CANCEL", "1");
    assert_eq!(bench.offer(&cancel), Offered::Cancel(context));
    assert!(
        first_line(&bench.sent()[0].1).contains("200"),
        "the CANCEL itself is answered"
    );
    bench.proxy.cancel(bench.now, branch);
    assert!(bench.sent().is_empty(), "nothing has rung yet");
    bench.answer(&forwarded, 100);
    let sent = bench.sent();
    assert_eq!((sent.len(), &sent[0].1[..6]), (1, "CANCEL"));
    bench.proxy.cancel(bench.now, branch);
    assert!(bench.sent().is_empty());
    bench.answer(&sent[0].1, 200);
    bench.answer(&forwarded, 487);
    assert!(
        bench
            .sent()
            .iter()
            .any(|(to, text)| *to == bench.caller && text.contains("487"))
    );
}

#[test]
fn another_try_differs_in_its_branch_alone_and_a_late_2xx_of_the_first_still_passes() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    let (context, branch) = bench.forward(&invite);
    let first = bench.sent().pop().unwrap().1;
    bench.proxy.give_up(bench.now, branch);
    let other = Target {
        flow: FLOW,
        destination: "127.0.0.4:5060".parse().unwrap(),
    };
    bench
        .proxy
        .retry(bench.now, context, other, (), None)
        .unwrap();
    let (to, second) = bench.sent().pop().unwrap();
    assert_eq!(to, other.destination);
    assert_eq!(first.len(), second.len());
    let differing = first.lines().zip(second.lines()).filter(|(a, b)| a != b);
    let differing: Vec<_> = differing.map(|(a, _)| a.to_owned()).collect();
    assert!(
        differing.len() == 1 && differing[0].starts_with("Via: "),
        "{differing:?}"
    );
    bench.answer(&second, 486);
    bench.sent();
    bench.answer(&first, 200);
    let sent = bench.sent();
    assert!(
        sent.iter()
            .any(|(to, text)| *to == bench.caller && text.starts_with("SIP/2.0 200")),
        "{sent:?}"
    );
}

#[test]
fn an_edited_try_is_answered_under_its_own_branch_wherever_that_stands() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    let (context, branch) = bench.forward(&invite);
    bench.sent();
    bench.proxy.give_up(bench.now, branch);
    let other = Target {
        flow: FLOW,
        destination: "127.0.0.4:5060".parse().unwrap(),
    };
    let mut longer = |message: &Message<'_>, edits: &mut Splice| {
        edits.replace(
            message.request_uri_range(),
            b"sip:a-much-longer-user@127.0.0.4:5099",
        );
    };
    let edited = bench
        .proxy
        .retry(bench.now, context, other, (), Some(&mut longer))
        .unwrap();
    let (_, sent) = bench.sent().pop().unwrap();
    assert!(sent.starts_with("INVITE sip:a-much-longer-user@127.0.0.4:5099 SIP/2.0\r\nVia: "));
    assert_eq!(
        bench.answer(&sent, 180),
        Answer::Delivered(sip::Delivered {
            branch: edited,
            status: 180
        })
    );
    bench.proxy.cancel(bench.now, edited);
    let sent = bench.sent();
    assert!(
        sent.iter()
            .any(|(_, text)| text.starts_with("CANCEL sip:a-much-longer-user")),
        "{sent:?}"
    );
}

#[test]
fn a_request_without_room_for_our_own_lines_is_known_before_it_is_sent() {
    let bench = Bench::new();
    let fits = |lines: usize| {
        let extra = "Subject: x\r\n".repeat(lines);
        let text = bench
            .request("INVITE", "1")
            .replace("Content-Length", &format!("{extra}Content-Length"));
        let mut index = Index::new();
        sip::leaves_room(&Message::parse(text.as_bytes(), &mut index).unwrap())
    };
    assert!(fits(100) && !fits(118));
}

#[test]
fn a_given_up_try_is_cancelled_when_it_shows_life() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    let (_, branch) = bench.forward(&invite);
    let forwarded = bench.sent().pop().unwrap().1;
    bench.proxy.give_up(bench.now, branch);
    assert!(
        bench.pass(Duration::from_secs(1)).is_empty() && bench.sent().is_empty(),
        "it is not repeated"
    );
    bench.answer(&forwarded, 100);
    assert_eq!(&bench.sent()[0].1[..6], "CANCEL");
}

#[test]
fn silence_is_told_when_it_was_asked_for_and_a_timeout_in_the_end() {
    let mut bench = Bench::new();
    let bye = bench.request("BYE", "1");
    let (context, branch) = bench.forward(&bye);
    bench
        .proxy
        .expect_answer(branch, bench.now + Duration::from_secs(2));
    assert_eq!(
        bench.pass(Duration::from_secs(2)),
        [Event::Silent(branch), Event::Repeated(branch)]
    );
    let rest = bench.pass(Duration::from_secs(30));
    assert_eq!(rest.last(), Some(&Event::TimedOut(branch)));
    bench.sent();
    bench.proxy.respond(bench.now, context, 408, &[]);
    assert!(bench.sent().is_empty(), "RFC 4320: no 408 to a non-INVITE");
    assert!(bench.proxy.is_empty());
}

#[test]
fn a_request_that_comes_back_as_it_left_is_a_loop_and_a_changed_one_is_a_spiral() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    bench.forward(&invite);
    let back = bench.sent().pop().unwrap().1;
    let is_loop = |bench: &Bench, text: &str, from_member| {
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        bench.proxy.is_loop(
            &message,
            loop_key(bench.proxy.hash_key(), &message, from_member),
        )
    };
    assert!(is_loop(&bench, &back, false));
    assert!(
        !is_loop(&bench, &back, true),
        "a router sent it: its second pass"
    );
    assert!(!is_loop(
        &bench,
        &back.replace("sip:b@127.0.0.3", "sip:c@127.0.0.3"),
        false
    ));
    assert!(!is_loop(&bench, &invite, false));
}

#[test]
fn at_the_limit_a_new_request_finds_no_room_and_those_that_are_there_stay() {
    let mut bench = Bench::new();
    for branch in 0..4 {
        let text = bench.request("INVITE", &branch.to_string());
        bench.forward(&text);
    }
    let text = bench.request("INVITE", "one-too-many");
    let Offered::New(key) = bench.offer(&text) else {
        panic!("not new")
    };
    let mut index = Index::new();
    let message = Message::parse(text.as_bytes(), &mut index).unwrap();
    assert_eq!(
        bench
            .proxy
            .open(bench.now, key, FLOW, bench.caller, &message, ()),
        None
    );
    assert_eq!(bench.proxy.len(), 4);
}

#[test]
fn a_response_that_matches_nothing_is_a_stray() {
    let mut bench = Bench::new();
    let invite = bench.request("INVITE", "1");
    bench.forward(&invite);
    let forwarded = bench.sent().pop().unwrap().1;
    for foreign in [
        response(&invite, 200),
        response(&forwarded, 200).replace("127.0.0.1:5060;branch", "127.0.0.9:5060;branch"),
    ] {
        let mut index = Index::new();
        let message = Message::parse(foreign.as_bytes(), &mut index).unwrap();
        assert_eq!(
            bench.proxy.handle_response(bench.now, &message),
            Answer::Stray
        );
    }
}
