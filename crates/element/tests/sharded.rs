//! What drivers may rely on: kept order, news in both directions, timers, OPTIONS first.

#![allow(clippy::disallowed_methods)] // threads and a clock stand in for the drivers here
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use element::{
    Datagram, Element, FlowId, Node, Outbox, Sender, Shard, Sharded, Tap, TapPoint, Turn,
};
use sip_types::{Message, ParseError};

const KEY: [u8; 16] = *b"sixteen bytes ok";

fn remote() -> SocketAddr {
    "127.0.0.1:5060".parse().unwrap()
}

fn message(method: &str, call_id: &str) -> Vec<u8> {
    format!(
        "{method} sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\nFrom: <sip:b@127.0.0.1>;tag=1\r\n\
         To: <sip:a@127.0.0.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn batch(messages: &[Vec<u8>]) -> Vec<Datagram<'_>> {
    messages
        .iter()
        .map(|bytes| Datagram {
            flow: FlowId(0),
            source: remote(),
            bytes,
        })
        .collect()
}

/// Numbers what it takes and sends the numbers; a message of call "sign" is a sign for the node.
#[derive(Default)]
struct ToyShard {
    taken: u64,
    signs: u64,
    unparsable: u64,
    notices: Vec<(u64, u64)>,
    due: Option<Instant>,
    latest: Option<Instant>,
    fired: u64,
    outbox: Outbox,
}

impl ToyShard {
    fn advance(&mut self, now: Instant) {
        assert!(self.latest <= Some(now), "time went backwards");
        self.latest = Some(now);
    }
}

impl Shard for ToyShard {
    type View = u64;
    type Notice = u64;
    type Outcomes = u64;

    fn handle_message(
        &mut self,
        now: Instant,
        _: &u64,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        self.advance(now);
        self.taken += 1;
        self.signs += u64::from(message.call_id() == b"sign");
        if message.call_id() == b"later" {
            self.due = Some(now + Duration::from_secs(1));
        }
        let text = format!(
            "{} {}",
            self.taken,
            String::from_utf8_lossy(&message.bytes()[..6])
        );
        self.outbox.push(flow, source, text.as_bytes());
    }

    fn handle_unparsable(
        &mut self,
        now: Instant,
        _: &u64,
        _: FlowId,
        _: SocketAddr,
        _: &[u8],
        _: &ParseError,
    ) {
        self.advance(now);
        self.unparsable += 1;
    }

    fn handle_notice(&mut self, now: Instant, view: &u64, notice: &u64) {
        self.advance(now);
        self.notices.push((*notice, *view));
    }

    fn handle_timeout(&mut self, now: Instant, _: &u64) {
        self.advance(now);
        self.fired += 1;
        self.due = None;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn take_outcomes(&mut self, into: &mut u64) -> bool {
        *into += std::mem::take(&mut self.signs);
        *into > 0
    }
}

/// Publishes its number of signs as view and notice; claims the call "node" and answers it.
#[derive(Default)]
struct ToyNode {
    signs: u64,
    claimed: u64,
    unreachable: Vec<SocketAddr>,
    view: Option<Arc<u64>>,
    notice: Option<u64>,
    due: Option<Instant>,
    fired: u64,
    outbox: Outbox,
}

impl ToyNode {
    fn add(&mut self, signs: u64) {
        if signs > 0 {
            self.signs += signs;
            self.view = Some(Arc::new(self.signs));
            self.notice = Some(self.signs);
        }
    }
}

impl Node for ToyNode {
    type View = u64;
    type Notice = u64;
    type Outcomes = u64;

    fn claims(_: &u64, message: &Message<'_>) -> bool {
        message.call_id() == b"node"
    }

    fn handle_message(&mut self, _: Instant, flow: FlowId, source: SocketAddr, _: &Message<'_>) {
        self.claimed += 1;
        self.outbox.push(flow, source, b"from the node");
    }

    fn handle_outcomes(&mut self, _: Instant, outcomes: &mut u64) {
        self.add(std::mem::take(outcomes));
    }

    fn handle_unreachable(&mut self, _: Instant, _: FlowId, destination: SocketAddr) {
        self.unreachable.push(destination);
        self.add(100);
    }

    fn handle_timeout(&mut self, _: Instant) {
        self.fired += 1;
        self.due = None;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn poll_notice(&mut self) -> Option<u64> {
        self.notice.take()
    }

    fn poll_view(&mut self) -> Option<Arc<u64>> {
        self.view.take()
    }
}

fn sharded(shards: usize) -> Sharded<ToyShard, ToyNode> {
    let shards = std::iter::repeat_with(ToyShard::default)
        .take(shards)
        .collect();
    Sharded::new(shards, ToyNode::default(), Arc::new(0), KEY)
}

fn notices(element: &Sharded<ToyShard, ToyNode>) -> Vec<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    element.for_each_shard(|shard| all.push(shard.notices.clone()));
    all
}

#[derive(Default)]
struct Record(Vec<String>);

impl Sender for Record {
    fn send(&mut self, outboxes: &[Outbox]) {
        self.0.extend(
            outboxes
                .iter()
                .flat_map(Outbox::iter)
                .map(|t| String::from_utf8_lossy(t.bytes).into_owned()),
        );
    }
}

/// A wire that several workers share and that is slow every now and then.
struct Wire<'a> {
    log: &'a Mutex<Vec<u64>>,
    sends: u32,
}

impl Sender for Wire<'_> {
    fn send(&mut self, outboxes: &[Outbox]) {
        self.sends += 1;
        if self.sends.is_multiple_of(7) {
            std::thread::sleep(Duration::from_micros(200));
        }
        let number = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        for transmit in outboxes.iter().flat_map(Outbox::iter) {
            self.log.lock().unwrap().push(number(transmit.bytes));
        }
    }
}

#[test]
fn a_later_batch_of_a_shard_never_overtakes_an_earlier_one() {
    const TURNS: u64 = 500;
    let element = sharded(1);
    let log = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut turn = Turn::new();
                let mut wire = Wire {
                    log: &log,
                    sends: 0,
                };
                let messages = vec![message("INFO", "one call"); 3];
                for _ in 0..TURNS {
                    element.handle_batch(Instant::now(), &batch(&messages), &mut turn);
                    element.flush(&mut turn, &mut wire);
                }
            });
        }
    });
    let log = log.into_inner().unwrap();
    assert_eq!(log, (1..=2 * TURNS * 3).collect::<Vec<_>>());
}

#[test]
fn a_notice_reaches_every_shard_with_its_view() {
    let element = sharded(8);
    let mut turn = Turn::new();
    element.handle_batch(
        Instant::now(),
        &batch(&[message("INFO", "sign"), message("INFO", "sign")]),
        &mut turn,
    );
    assert_eq!(notices(&element), vec![vec![(2, 2)]; 8]);
    assert_eq!(*element.view(), 2);
    element.handle_unreachable(Instant::now(), FlowId(0), remote(), &mut turn);
    assert_eq!(notices(&element), vec![vec![(2, 2), (102, 102)]; 8]);
    element.with_node(Instant::now(), &mut turn, |node| node.add(1));
    assert_eq!(*element.view(), 103);
    assert_eq!(
        element.inspect_node(|node| node.unreachable.clone()),
        [remote()]
    );
}

#[test]
fn notices_of_racing_workers_reach_every_shard_in_one_order() {
    let element = sharded(4);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut turn = Turn::new();
                for _ in 0..300 {
                    element.handle_batch(
                        Instant::now(),
                        &batch(&[message("INFO", "sign")]),
                        &mut turn,
                    );
                    element.flush(&mut turn, &mut Record::default());
                }
            });
        }
    });
    let all = notices(&element);
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(
        all[0].is_sorted() && all[0].last() == Some(&(600, 600)),
        "{:?}",
        all[0].last()
    );
    assert!(all[0].iter().all(|(notice, view)| view >= notice));
}

#[test]
fn options_are_answered_first_and_the_rest_keeps_its_order() {
    let element = sharded(1);
    let mut turn = Turn::new();
    let messages = [
        message("INVITE", "a"),
        message("BYE", "a"),
        message("OPTIONS", "a"),
        message("INFO", "a"),
    ];
    element.handle_batch(Instant::now(), &batch(&messages), &mut turn);
    let mut record = Record::default();
    element.flush(&mut turn, &mut record);
    assert_eq!(record.0, ["1 OPTION", "2 INVITE", "3 BYE si", "4 INFO s"]);
    element.flush(&mut turn, &mut record);
    assert_eq!(record.0.len(), 4, "nothing is sent twice");
}

#[test]
fn the_node_gets_what_it_claims_and_its_output_leaves() {
    let element = sharded(4);
    let mut turn = Turn::new();
    element.handle_batch(
        Instant::now(),
        &batch(&[message("INFO", "node"), b"garbage".to_vec()]),
        &mut turn,
    );
    let mut record = Record::default();
    element.flush(&mut turn, &mut record);
    assert_eq!(record.0, ["from the node"]);
    let (mut taken, mut unparsable) = (0, 0);
    element.for_each_shard(|shard| {
        taken += shard.taken;
        unparsable += shard.unparsable;
    });
    assert_eq!(
        (taken, unparsable, element.inspect_node(|node| node.claimed)),
        (0, 1, 1)
    );
}

#[test]
fn what_the_node_says_leaves_ahead_of_what_the_shards_say() {
    let element = sharded(4);
    let mut turn = Turn::new();
    let messages = [message("INFO", "a"), message("INFO", "node")];
    element.handle_batch(Instant::now(), &batch(&messages), &mut turn);
    let mut record = Record::default();
    element.flush(&mut turn, &mut record);
    assert_eq!(record.0, ["from the node", "1 INFO s"]);
}

#[test]
fn timers_run_when_due_at_the_worker_that_cares_for_the_shard() {
    let element = sharded(4);
    let mut turn = Turn::new();
    let start = Instant::now();
    let due = start + Duration::from_secs(1);
    let carer = element.shard_of(b"later") % 2;
    let fired = || {
        let mut fired = 0;
        element.for_each_shard(|shard| fired += shard.fired);
        fired
    };
    assert_eq!(element.poll_timeout(carer, 2), None);
    element.handle_batch(start, &batch(&[message("INFO", "later")]), &mut turn);
    assert_eq!(element.poll_timeout(carer, 2), Some(due));
    assert_eq!(element.poll_timeout(1 - carer, 2), None);
    element.handle_timeout(due, 1 - carer, 2, &mut turn);
    element.handle_timeout(due - Duration::from_nanos(1), carer, 2, &mut turn);
    assert_eq!(fired(), 0);
    element.handle_timeout(due, carer, 2, &mut turn);
    assert_eq!((fired(), element.poll_timeout(carer, 2)), (1, None));

    element.with_node(due, &mut turn, |node| node.due = Some(due));
    assert_eq!(element.poll_timeout(1, 2), None);
    assert_eq!(element.poll_timeout(0, 2), Some(due));
    element.handle_timeout(due, 0, 2, &mut turn);
    assert_eq!(
        (
            element.inspect_node(|node| node.fired),
            element.poll_timeout(0, 2)
        ),
        (1, None)
    );
}

#[test]
fn a_worker_with_an_older_clock_does_not_turn_time_back() {
    let element = sharded(1);
    let mut turn = Turn::new();
    let now = Instant::now() + Duration::from_secs(5);
    element.handle_batch(now, &batch(&[message("INFO", "a")]), &mut turn);
    element.handle_batch(
        now - Duration::from_millis(1),
        &batch(&[message("INFO", "a")]),
        &mut turn,
    );
    let mut taken = 0;
    element.for_each_shard(|shard| taken += shard.taken);
    assert_eq!(taken, 2);
}

#[derive(Default)]
struct Seen(Mutex<Vec<(TapPoint, Vec<u8>)>>);

impl Tap for Seen {
    fn message(&self, _: Instant, point: TapPoint, _: FlowId, _: SocketAddr, bytes: &[u8]) {
        self.0.lock().unwrap().push((point, bytes.to_vec()));
    }
}

#[test]
fn a_tap_sees_what_comes_and_what_leaves_while_it_is_set() {
    let element = sharded(2);
    let mut turn = Turn::new();
    let seen = Arc::new(Seen::default());
    let info = message("INFO", "a");
    let mut round = |tap: Option<Arc<dyn Tap>>| {
        element.set_tap(tap);
        element.handle_batch(
            Instant::now(),
            &batch(std::slice::from_ref(&info)),
            &mut turn,
        );
        element.flush(&mut turn, &mut Record::default());
    };
    round(None);
    round(Some(seen.clone()));
    round(None);
    let expected = [
        (TapPoint::In, info.clone()),
        (TapPoint::Out, b"2 INFO s".to_vec()),
    ];
    assert_eq!(*seen.0.lock().unwrap(), expected);
}
