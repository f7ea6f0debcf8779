//! Carrier and IPBX over a pipe that delays, loses and repeats datagrams by its seed: every call
//! ends as its plan says, and both ends say so.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use user_agent::{
    CallId, CallPlan, CalleeOutcome, CalleePlan, Carrier, CarrierConfig, CarrierEvent, Failure,
    InDialog, Ipbx, IpbxConfig, IpbxEvent, Method, Outcome, PlaceCallError,
};

const CARRIER: &str = "127.0.0.1:5080";
const IPBX: &str = "127.0.0.2:5060";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
fn start() -> Instant {
    Instant::now()
}

/// What the pipe does to a datagram on its way: any number of datagrams leave for each that comes.
type Meddle = Box<dyn FnMut(Duration, &Datagram) -> Vec<Datagram>>;

#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    text: String,
}

impl Datagram {
    fn starts(&self, line: &str) -> bool {
        self.text.starts_with(line)
    }

    fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.text.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(found, _)| *found == name)
            .map(|(_, value)| value)
            .collect()
    }
}

/// Both ends and the way between them. Addresses that are neither lead to the other end.
struct Pipe {
    carrier: Carrier,
    ipbx: Ipbx,
    start: Instant,
    now: Instant,
    rng: StdRng,
    loss_percent: u32,
    meddle: Option<Meddle>,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    sent: u64,
    seen: Vec<Datagram>,
    carrier_events: Vec<(Duration, CarrierEvent)>,
    ipbx_events: Vec<IpbxEvent>,
}

impl Pipe {
    fn new(seed: u64, loss_percent: u32) -> Self {
        let start = start();
        let config = CarrierConfig::new(address(CARRIER), address(IPBX), seed);
        Self {
            carrier: Carrier::new(config),
            ipbx: Ipbx::new(IpbxConfig::new(address(IPBX), seed)),
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            loss_percent,
            meddle: None,
            under_way: BTreeMap::new(),
            sent: 0,
            seen: vec![],
            carrier_events: vec![],
            ipbx_events: vec![],
        }
    }

    fn meddled(
        seed: u64,
        meddle: impl FnMut(Duration, &Datagram) -> Vec<Datagram> + 'static,
    ) -> Self {
        Self {
            meddle: Some(Box::new(meddle)),
            ..Self::new(seed, 0)
        }
    }

    fn place(&mut self, plan: CallPlan) -> CallId {
        let call = self.carrier.place_call(self.now, plan).unwrap();
        self.drain();
        call
    }

    fn drain(&mut self) {
        while let Some((to, bytes)) = self.carrier.poll_transmit() {
            self.convey(Datagram::new(CARRIER, to, bytes));
        }
        while let Some((to, bytes)) = self.ipbx.poll_transmit() {
            self.convey(Datagram::new(IPBX, to, bytes));
        }
        let at = self.now - self.start;
        self.carrier_events
            .extend(std::iter::from_fn(|| self.carrier.poll_event()).map(|e| (at, e)));
        self.ipbx_events
            .extend(std::iter::from_fn(|| self.ipbx.poll_event()));
    }

    fn convey(&mut self, datagram: Datagram) {
        let at = self.now - self.start;
        let datagrams = match &mut self.meddle {
            Some(meddle) => meddle(at, &datagram),
            None => vec![datagram.clone()],
        };
        self.seen.push(datagram);
        for datagram in datagrams {
            if self.rng.random_range(0..100) < self.loss_percent {
                continue;
            }
            let jitter = if self.loss_percent > 0 {
                self.rng.random_range(0..10)
            } else {
                0
            };
            self.sent += 1;
            self.under_way
                .insert((self.now + ms(5 + jitter), self.sent), datagram);
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let timeouts = [self.carrier.poll_timeout(), self.ipbx.poll_timeout()];
            let next = timeouts.into_iter().flatten().chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, datagram) = self.under_way.pop_first().unwrap();
                let Datagram { from, to, text } = datagram;
                let to_carrier =
                    to == address(CARRIER) || to != address(IPBX) && from == address(IPBX);
                match to_carrier {
                    true => self
                        .carrier
                        .handle_datagram(self.now, from, text.as_bytes()),
                    false => self.ipbx.handle_datagram(self.now, from, text.as_bytes()),
                }
            } else {
                self.carrier.handle_timeout(self.now);
                self.ipbx.handle_timeout(self.now);
            }
            self.drain();
        }
        self.now = end;
    }

    fn outcome(&self, call: &CallId) -> Option<Outcome> {
        self.carrier.record(call).unwrap().outcome
    }

    fn callee(&self, call: &CallId) -> Option<CalleeOutcome> {
        self.ipbx.record(call).unwrap().outcome
    }
}

impl Datagram {
    fn new(from: &str, to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self {
            from: address(from),
            to,
            text: String::from_utf8(bytes).unwrap(),
        }
    }
}

fn told(callee: CalleePlan) -> CallPlan {
    CallPlan {
        callee: Some(callee),
        ..CallPlan::new("200", ms(2_000))
    }
}

/// Every kind of call, with the ends that both sides must come to.
fn every_plan() -> Vec<(CallPlan, Outcome, CalleeOutcome)> {
    let answer = CalleePlan::answer(ms(1_500));
    let completed = |plan| (plan, Outcome::Completed, CalleeOutcome::Completed);
    let mut plans = vec![
        completed(told(answer)),
        completed(told(CalleePlan::answer(Duration::ZERO))),
        completed(told(CalleePlan {
            bye_delay: ms(1_700),
            ..answer
        })),
        completed(told(CalleePlan {
            hang_up_after: Some(ms(900)),
            ..answer
        })),
        completed(CallPlan {
            reliable: true,
            ..told(answer)
        }),
        completed(CallPlan {
            hold: ms(9_000),
            in_dialog: vec![
                (ms(500), InDialog::Info),
                (ms(2_500), InDialog::Reinvite),
                (ms(6_000), InDialog::Update),
            ],
            reliable: true,
            ..told(answer)
        }),
        (
            CallPlan {
                cancel_after: Some(ms(700)),
                ..told(CalleePlan::answer(ms(120_000)))
            },
            Outcome::Cancelled,
            CalleeOutcome::Cancelled,
        ),
    ];
    for status in [404, 486, 500, 603] {
        for ring in [0, 800] {
            plans.push((
                told(CalleePlan::refuse(ms(ring), status)),
                Outcome::Rejected(status),
                CalleeOutcome::Rejected(status),
            ));
        }
    }
    plans
}

#[test]
fn every_plan_ends_as_decided_without_loss() {
    let mut pipe = Pipe::new(1, 0);
    let calls: Vec<_> = every_plan()
        .into_iter()
        .map(|(plan, a, b)| (pipe.place(plan), a, b))
        .collect();
    pipe.run(ms(30_000));
    for (call, caller, callee) in &calls {
        let plan = &pipe.carrier.record(call).unwrap().plan;
        assert_eq!(pipe.outcome(call), Some(*caller), "{plan:?}");
        assert_eq!(pipe.callee(call), Some(*callee), "{plan:?}");
    }
    let (carrier, ipbx) = (pipe.carrier.report(), pipe.ipbx.report());
    assert_eq!(
        (carrier.placed, carrier.failed, carrier.completed),
        (15, 0, 6)
    );
    assert_eq!((ipbx.received, ipbx.failed, ipbx.cancelled), (15, 0, 1));
    assert_eq!((carrier.garbage, ipbx.garbage), (0, 0));
    assert_eq!((pipe.carrier.open_calls(), pipe.ipbx.open_calls()), (0, 0));
    assert_eq!(pipe.ipbx.delivered_twice().count(), 0);
    pipe.run(ms(250_000));
    assert_eq!(pipe.carrier.poll_timeout(), None, "nothing is left");
    assert_eq!(pipe.ipbx.poll_timeout(), None, "nothing is left");
}

#[test]
fn every_plan_ends_as_decided_when_datagrams_are_lost() {
    for seed in 0..20 {
        let mut pipe = Pipe::new(seed, 15);
        let calls: Vec<_> = every_plan()
            .into_iter()
            .map(|(plan, a, b)| (pipe.place(plan), a, b))
            .collect();
        pipe.run(ms(150_000));
        for (call, caller, callee) in &calls {
            let plan = &pipe.carrier.record(call).unwrap().plan;
            assert_eq!(pipe.outcome(call), Some(*caller), "seed {seed}: {plan:?}");
            assert_eq!(pipe.callee(call), Some(*callee), "seed {seed}: {plan:?}");
        }
        assert_eq!(
            pipe.ipbx.delivered_twice().count(),
            0,
            "retransmissions keep their branch"
        );
        assert!(
            pipe.carrier.report().retransmissions > 0 && pipe.ipbx.report().retransmissions > 0
        );
    }
}

#[test]
fn calls_without_a_plan_are_decided_by_the_seed_and_end_alike_on_both_ends() {
    let run = |seed| {
        let mut pipe = Pipe::new(seed, 5);
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let call = pipe.place(CallPlan::new("200", ms(1_500)));
                pipe.run(ms(20));
                call
            })
            .collect();
        pipe.run(ms(120_000));
        for call in &calls {
            let record = pipe.ipbx.record(call).unwrap();
            let expected = match record.plan.is_answer() {
                true => (Outcome::Completed, CalleeOutcome::Completed),
                false => (
                    Outcome::Rejected(record.plan.status),
                    CalleeOutcome::Rejected(record.plan.status),
                ),
            };
            assert_eq!(
                (pipe.outcome(call), record.outcome),
                (Some(expected.0), Some(expected.1))
            );
        }
        let report = pipe.carrier.report();
        assert!(report.rejected > 5 && report.completed > 150, "{report:?}");
        let trace: Vec<_> = pipe
            .seen
            .iter()
            .map(|datagram| datagram.text.clone())
            .collect();
        (report, trace)
    };
    assert_eq!(run(42), run(42), "one seed, one run");
    assert_ne!(run(42).1, run(43).1);
}

#[test]
fn events_tell_a_call_from_ringing_to_its_end() {
    let mut pipe = Pipe::new(3, 0);
    let call = pipe.place(told(CalleePlan::answer(ms(1_000))));
    pipe.run(ms(10_000));
    let told: Vec<_> = pipe
        .carrier_events
        .iter()
        .map(|(at, event)| match event {
            CarrierEvent::CallRinging { .. } => (*at, "ringing".to_owned()),
            CarrierEvent::CallAnswered { .. } => (*at, "answered".to_owned()),
            CarrierEvent::CallEnded { outcome, .. } => (*at, format!("{outcome:?}")),
            CarrierEvent::RequestFinished { request, .. } => {
                let took = request.elapsed.as_millis();
                (
                    *at,
                    format!("{} {} in {took} ms", request.method, request.status),
                )
            }
            CarrierEvent::Garbage { .. } => (*at, "garbage".to_owned()),
        })
        .collect();
    assert_eq!(
        told,
        [
            (ms(10), "INVITE 180 in 10 ms".to_owned()),
            (ms(10), "ringing".to_owned()),
            (ms(1_010), "answered".to_owned()),
            (ms(3_020), "BYE 200 in 10 ms".to_owned()),
            (ms(3_020), "Completed".to_owned()),
        ]
    );
    let record = pipe.carrier.record(&call).unwrap();
    assert_eq!(record.sources, [address(IPBX)]);
    assert_eq!(record.slowest.unwrap().elapsed, ms(10));
    assert_eq!(pipe.ipbx.copies(&call, 1, Method::Invite), 1);
    assert_eq!(pipe.ipbx_events.len(), 3);
}

#[test]
fn requests_follow_the_route_set_in_both_directions() {
    let (near, far) = (
        "<sip:127.0.0.51:5060;lr;did=7>",
        "<sip:127.0.0.50:5099;r2=on;lr>",
    );
    let record_route = move |_: Duration, datagram: &Datagram| {
        let mut datagram = datagram.clone();
        if datagram.starts("INVITE") && datagram.header("Route").is_empty() {
            let routes = format!("\r\nRecord-Route: {far}, {near}\r\nMax-Forwards");
            datagram.text = datagram.text.replacen("\r\nMax-Forwards", &routes, 1);
        }
        vec![datagram]
    };
    for hang_up_after in [None, Some(ms(500))] {
        let mut pipe = Pipe::meddled(4, record_route);
        let callee = CalleePlan {
            hang_up_after,
            ..CalleePlan::answer(ms(100))
        };
        let in_dialog = vec![(ms(200), InDialog::Reinvite)];
        let call = pipe.place(CallPlan {
            in_dialog,
            reliable: true,
            ..told(callee)
        });
        pipe.run(ms(10_000));
        assert_eq!(pipe.outcome(&call), Some(Outcome::Completed));
        let mut methods = vec![];
        for datagram in pipe
            .seen
            .iter()
            .filter(|datagram| !datagram.starts("SIP/2.0"))
        {
            let method = datagram.text.split(' ').next().unwrap();
            let routes = datagram.header("Route");
            if method == "INVITE" && routes.is_empty() {
                continue;
            }
            methods.push(method);
            match datagram.from == address(CARRIER) {
                true => {
                    assert_eq!(routes, [near, far], "{method}");
                    assert_eq!(datagram.to, address("127.0.0.51:5060"), "{method}");
                    assert!(datagram.text.contains("sip:ipbx@127.0.0.2:5060 SIP/2.0"));
                }
                false => {
                    assert_eq!(routes, [far, near], "{method}");
                    assert_eq!(datagram.to, address("127.0.0.50:5099"), "{method}");
                    assert!(datagram.text.contains("sip:100@127.0.0.1:5080 SIP/2.0"));
                }
            }
        }
        assert_eq!(methods, ["PRACK", "ACK", "INVITE", "ACK", "BYE"]);
    }
}

#[test]
fn a_request_under_a_second_branch_is_delivered_twice() {
    for method in ["INVITE", "BYE", "INFO", "CANCEL"] {
        let line = format!("{method} sip");
        let mut pipe = Pipe::meddled(5, move |_, datagram| {
            let mut copies = vec![datagram.clone()];
            if datagram.starts(&line) {
                let mut second = datagram.clone();
                second.text = second
                    .text
                    .replacen("branch=z9hG4bK", "branch=z9hG4bKother", 1);
                copies.push(second);
            }
            copies
        });
        let in_dialog = vec![(ms(500), InDialog::Info)];
        let cancel_after = (method == "CANCEL").then_some(ms(300));
        let answer = told(CalleePlan::answer(ms(1_000)));
        let call = pipe.place(CallPlan {
            in_dialog,
            cancel_after,
            ..answer
        });
        pipe.run(ms(10_000));
        let twice: Vec<_> = pipe.ipbx.delivered_twice().collect();
        assert_eq!(twice.len(), 1, "{method}");
        assert_eq!(twice[0].call_id, call);
        assert_eq!(twice[0].method.to_string(), method);
        assert_eq!(twice[0].branches.len(), 2);
        assert_eq!(pipe.ipbx.copies(&call, twice[0].cseq, twice[0].method), 2);
    }
}

#[test]
fn a_lost_ack_is_sent_again_for_each_repeated_200() {
    let mut acks = 0;
    let mut pipe = Pipe::meddled(6, move |_, datagram| {
        acks += u32::from(datagram.starts("ACK"));
        let is_lost = datagram.starts("ACK") && acks <= 2;
        if is_lost {
            vec![]
        } else {
            vec![datagram.clone()]
        }
    });
    let call = pipe.place(told(CalleePlan::answer(Duration::ZERO)));
    pipe.run(ms(10_000));
    assert_eq!(pipe.callee(&call), Some(CalleeOutcome::Completed));
    let record = pipe.ipbx.record(&call).unwrap();
    // 200 at 5 ms, again after T1 and 2 T1; the ACK of the third one arrives.
    assert_eq!(
        record.acknowledged.unwrap() - pipe.start,
        ms(5 + 1_500 + 10)
    );
    let acks = pipe.seen.iter().filter(|datagram| datagram.starts("ACK"));
    let branches: Vec<_> = acks.map(|ack| ack.header("Via")[0].to_owned()).collect();
    assert_eq!(branches.len(), 3);
    assert!(branches.iter().all(|branch| *branch == branches[0]));
}

#[test]
fn an_invite_is_retransmitted_at_t1_doubling_and_given_up_after_32_s() {
    let mut pipe = Pipe::meddled(7, |_, _| vec![]);
    let call = pipe.place(CallPlan::new("200", ms(1_000)));
    pipe.run(ms(60_000));
    assert_eq!(
        pipe.seen.len(),
        7,
        "at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s"
    );
    assert_eq!(
        pipe.outcome(&call),
        Some(Outcome::Failed(Failure::Timeout(Method::Invite)))
    );
    let (at, event) = pipe.carrier_events.last().unwrap();
    assert!(matches!(event, CarrierEvent::CallEnded { .. }));
    assert_eq!(*at, ms(32_000));
}

#[test]
fn a_bye_that_nobody_answers_is_retransmitted_up_to_t2_and_fails_the_call() {
    let mut pipe = Pipe::meddled(8, |_, datagram| {
        if datagram.starts("BYE") {
            vec![]
        } else {
            vec![datagram.clone()]
        }
    });
    let call = pipe.place(told(CalleePlan::answer(Duration::ZERO)));
    pipe.run(ms(60_000));
    assert_eq!(
        pipe.outcome(&call),
        Some(Outcome::Failed(Failure::Timeout(Method::Bye)))
    );
    let byes = pipe
        .seen
        .iter()
        .filter(|datagram| datagram.starts("BYE"))
        .count();
    assert_eq!(
        byes, 11,
        "at 0, 0.5, 1.5, 3.5 and then every 4 s up to 31.5 s"
    );
}

#[test]
fn an_answer_without_ack_ends_the_call_after_32_s() {
    let mut pipe = Pipe::meddled(9, |_, datagram| {
        if datagram.starts("ACK") {
            vec![]
        } else {
            vec![datagram.clone()]
        }
    });
    let plan = told(CalleePlan::answer(Duration::ZERO));
    let call = pipe.place(CallPlan {
        hold: ms(600_000),
        ..plan
    });
    pipe.run(ms(70_000));
    assert_eq!(pipe.callee(&call), Some(CalleeOutcome::NoAck));
    assert!(pipe.carrier.record(&call).unwrap().callee_hung_up);
}

#[test]
fn a_cancel_that_crosses_the_answer_becomes_a_bye() {
    let mut pipe = Pipe::new(10, 0);
    let plan = told(CalleePlan::answer(ms(500)));
    // The CANCEL leaves 3 ms before the 200 arrives.
    let call = pipe.place(CallPlan {
        cancel_after: Some(ms(507)),
        ..plan
    });
    pipe.run(ms(10_000));
    assert_eq!(pipe.outcome(&call), Some(Outcome::Completed));
    let record = pipe.carrier.record(&call).unwrap();
    let methods: Vec<_> = record
        .requests
        .iter()
        .map(|request| request.method)
        .collect();
    assert_eq!(methods, [Method::Invite, Method::Cancel, Method::Bye]);
    assert_eq!(pipe.callee(&call), Some(CalleeOutcome::Completed));
}

#[test]
fn a_cancel_waits_for_the_first_provisional_response() {
    let mut pipe = Pipe::meddled(11, |at, datagram| {
        let is_late = datagram.starts("SIP/2.0 180") && at < ms(400);
        if is_late {
            vec![]
        } else {
            vec![datagram.clone()]
        }
    });
    let plan = told(CalleePlan::answer(ms(60_000)));
    let call = pipe.place(CallPlan {
        cancel_after: Some(ms(100)),
        ..plan
    });
    pipe.run(ms(5_000));
    assert_eq!(pipe.outcome(&call), Some(Outcome::Cancelled));
    let cancel = pipe
        .seen
        .iter()
        .position(|datagram| datagram.starts("CANCEL"))
        .unwrap();
    let repeated = pipe
        .seen
        .iter()
        .rposition(|datagram| datagram.starts("SIP/2.0 180"))
        .unwrap();
    assert!(repeated < cancel);
}

#[test]
fn a_second_callee_that_answers_too_is_acknowledged_and_ended() {
    let mut pipe = Pipe::meddled(12, |_, datagram| {
        let mut copies = vec![datagram.clone()];
        if datagram.starts("SIP/2.0 200") && datagram.header("CSeq") == ["1 INVITE"] {
            let mut second = datagram.clone();
            let to = datagram.header("To")[0];
            second.text = second
                .text
                .replacen(to, "<sip:200@127.0.0.2:5060>;tag=second", 1);
            copies.push(second);
        }
        copies
    });
    let call = pipe.place(told(CalleePlan::answer(Duration::ZERO)));
    pipe.run(ms(60_000));
    assert_eq!(pipe.outcome(&call), Some(Outcome::Completed));
    assert_eq!(pipe.carrier.record(&call).unwrap().extra_answers, 1);
    let to_second = pipe.seen.iter().filter(|d| d.from == address(CARRIER));
    let to_second: Vec<_> = to_second
        .filter(|datagram| datagram.header("To")[0].ends_with("tag=second"))
        .map(|datagram| datagram.text.split(' ').next().unwrap())
        .collect();
    assert_eq!(to_second, ["ACK", "BYE"]);
}

#[test]
fn a_call_that_rings_for_too_long_is_cancelled_and_failed() {
    let mut pipe = Pipe::new(13, 0);
    let mut config = CarrierConfig::new(address(CARRIER), address(IPBX), 13);
    config.ring_max = ms(5_000);
    pipe.carrier = Carrier::new(config);
    let call = pipe.place(told(CalleePlan::answer(ms(60_000))));
    pipe.run(ms(6_000));
    assert_eq!(
        pipe.outcome(&call),
        Some(Outcome::Failed(Failure::RangTooLong))
    );
    assert_eq!(pipe.callee(&call), Some(CalleeOutcome::Cancelled));
}

#[test]
fn an_in_dialog_request_that_is_refused_fails_the_call() {
    let mut pipe = Pipe::meddled(14, |_, datagram| {
        let mut datagram = datagram.clone();
        if datagram.starts("INFO") {
            let tag = datagram.header("To")[0]
                .rsplit_once("tag=")
                .unwrap()
                .1
                .to_owned();
            datagram.text = datagram.text.replace(&tag, "unknown");
        }
        vec![datagram]
    });
    let plan = told(CalleePlan::answer(Duration::ZERO));
    let call = pipe.place(CallPlan {
        in_dialog: vec![(ms(100), InDialog::Info)],
        ..plan
    });
    pipe.run(ms(10_000));
    assert_eq!(
        pipe.outcome(&call),
        Some(Outcome::Failed(Failure::Refused(Method::Info, 481)))
    );
}

#[test]
fn garbage_is_counted_and_told() {
    let mut pipe = Pipe::new(15, 0);
    let from = address("127.0.0.9:9");
    for bytes in [
        &b"\r\n\r\n"[..],
        b"\x00\xff",
        b"INVITE sip:x SIP/2.0\r\n\r\n",
    ] {
        pipe.carrier.handle_datagram(pipe.now, from, bytes);
        pipe.ipbx.handle_datagram(pipe.now, from, bytes);
    }
    pipe.drain();
    assert_eq!(
        (pipe.carrier.report().garbage, pipe.ipbx.report().garbage),
        (3, 3)
    );
    assert_eq!(
        pipe.ipbx_events,
        vec![IpbxEvent::Garbage { source: from }; 3]
    );
    assert_eq!(pipe.seen.len(), 0);
}

#[test]
fn a_call_too_many_is_refused_on_both_ends() {
    let mut pipe = Pipe::new(16, 0);
    let mut carrier = CarrierConfig::new(address(CARRIER), address(IPBX), 16);
    carrier.calls_max = 3;
    pipe.carrier = Carrier::new(carrier);
    let ipbx = IpbxConfig {
        calls_max: 2,
        ..IpbxConfig::new(address(IPBX), 16)
    };
    pipe.ipbx = Ipbx::new(ipbx);
    let calls: Vec<_> = (0..3)
        .map(|_| pipe.place(told(CalleePlan::answer(ms(100)))))
        .collect();
    assert_eq!(
        pipe.carrier
            .place_call(pipe.now, CallPlan::new("200", ms(1))),
        Err(PlaceCallError::TooManyCalls(3))
    );
    pipe.run(ms(10_000));
    assert_eq!(pipe.outcome(&calls[2]), Some(Outcome::Rejected(503)));
    assert_eq!(pipe.outcome(&calls[1]), Some(Outcome::Completed));
    assert_eq!(pipe.ipbx.report().turned_away, 1);
    pipe.place(CallPlan::new("200", ms(1)));
    assert_eq!(
        pipe.carrier
            .place_call(pipe.now, CallPlan::new("2 00", ms(1))),
        Err(PlaceCallError::Number("2 00".to_owned()))
    );
}
