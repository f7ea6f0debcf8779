//! One other node: its state, what was sent to it, and whether its silence means that it is dead.
//!
//! Stock nodes find each other dead after 30 to 90 s and send every message ten times until then
//! (Kamailio dmq, `notification_peer.c`). Here a node is suspected while it owes an answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::request::{Purpose, Request, RequestId, Schedule, TANDEM_WAIT_MIN};

/// What runs at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// A Kamailio, or nobody knows: it may be busy for hundreds of milliseconds.
    #[default]
    Stock,
    /// A Tandem node.
    Tandem,
}

/// What is believed of a node, in Kamailio's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Configured or heard of from others; it has not answered yet.
    Pending,
    /// It takes data.
    Active,
    /// It was active and fell silent; it is pinged until it answers.
    NotActive,
    /// It said that it leaves.
    Disabled,
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Where it is, and its identity.
    pub address: SocketAddr,
    /// What runs there, as far as the owner of the bus has said.
    pub kind: Kind,
    /// What is believed of it.
    pub state: NodeState,
    /// Since when.
    pub since: Instant,
    /// When the last KDMQ message came from it.
    pub last_heard: Option<Instant>,
    /// Channel requests to it that wait for their answer.
    pub in_flight: usize,
    /// Time to an answer, smoothed with a gain of 1/8. That of a repeated request, which counts from
    /// its first transmission, is taken only while nothing better is known (Karn's rule).
    pub smoothed_rtt: Option<Duration>,
    /// Requests sent to it, notifications included, repeats not.
    pub sent: u64,
    /// Repeats of them.
    pub repeated: u64,
    /// Those that a final response ended.
    pub answered: u64,
    /// Those that were given up.
    pub unanswered: u64,
    /// Requests received from it, repeats included.
    pub received: u64,
}

/// Silence of so long, with so many repeats, and the last of them with a chance to be answered:
/// dead. The repeats keep a pause of our own from being taken for a death.
const STOCK_SILENCE: Duration = Duration::from_secs(2);
const STOCK_REPEATS: u32 = 2;
const TANDEM_SILENCE: Duration = Duration::from_millis(750);
const TANDEM_REPEATS: u32 = 3;
/// Repeats within so long of each other count as one: many requests may wait.
const REPEAT_SPACING: Duration = Duration::from_millis(25);
/// So many ICMP refusals without a message in between, each so long after the last: dead.
const REFUSALS_TO_LOST: u32 = 3;
const REFUSAL_SPACING: Duration = Duration::from_millis(15);
/// What took longer, or was repeated and took as long as the longest wait, says little of the network.
const RTT_MAX: Duration = Duration::from_secs(1);
const REPEATED_RTT_MAX: Duration = Duration::from_millis(500);
/// So many requests, each sent after the answer to the one before, and all of them repeated: not
/// loss, the way has become longer than the first wait.
const REPEATED_TO_SLOWER: u32 = 4;

/// Something is owed, and nothing has been heard since `since`.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    repeats: u32,
    last_repeat: Instant,
    refusals: u32,
    last_refusal: Option<Instant>,
}

/// One node of the bus.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) status: NodeStatus,
    /// A notification address: never removed while it is configured.
    pub(crate) is_seed: bool,
    /// In the order in which they were sent.
    pub(crate) requests: BTreeMap<RequestId, Request>,
    /// The notification that waits for its answer: one at a time.
    pub(crate) notification: Option<RequestId>,
    /// When the next one is due, if none waits.
    pub(crate) next_ping: Instant,
    /// News to be told before that, and how far they travel.
    pub(crate) announcement: Option<u8>,
    /// Whether the last list that it sent had us as active.
    pub(crate) lists_us: Option<bool>,
    silence: Option<Silence>,
    repeated: Repeated,
}

/// Answers to repeated requests since one that was not repeated.
#[derive(Clone, Copy, Debug, Default)]
struct Repeated {
    in_a_row: u32,
    last: Option<Instant>,
}

impl Node {
    /// A node nobody has heard of: pinged at once.
    pub(crate) fn new(now: Instant, address: SocketAddr) -> Self {
        Self {
            status: NodeStatus {
                address,
                kind: Kind::default(),
                state: NodeState::Pending,
                since: now,
                last_heard: None,
                in_flight: 0,
                smoothed_rtt: None,
                sent: 0,
                repeated: 0,
                answered: 0,
                unanswered: 0,
                received: 0,
            },
            is_seed: false,
            requests: BTreeMap::new(),
            notification: None,
            next_ping: now,
            announcement: None,
            lists_us: None,
            silence: None,
            repeated: Repeated::default(),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.status.state == NodeState::Active
    }

    pub(crate) fn enter(&mut self, now: Instant, state: NodeState) {
        self.status.state = state;
        self.status.since = now;
        self.silence = None;
        self.owe(now);
    }

    /// The schedule of pings to it, while it is active.
    pub(crate) fn ping_schedule(&self) -> Schedule {
        match self.status.kind {
            Kind::Stock => Schedule::Stock,
            Kind::Tandem => Schedule::Tandem,
        }
    }

    /// A message came from it.
    pub(crate) fn handle_sign_of_life(&mut self, now: Instant) {
        self.status.last_heard = Some(now);
        self.silence = None;
        self.owe(now);
    }

    /// A request was sent to it.
    pub(crate) fn insert(&mut self, now: Instant, id: RequestId, request: Request) {
        self.status.sent += 1;
        self.status.in_flight += usize::from(request.purpose == Purpose::Data);
        self.requests.insert(id, request);
        self.owe(now);
    }

    /// A request ended, one way or the other.
    pub(crate) fn remove(&mut self, now: Instant, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.status.in_flight -= usize::from(request.purpose == Purpose::Data);
        if self.notification == Some(id) {
            self.notification = None;
        }
        if self.requests.is_empty() {
            self.silence = None;
        }
        self.owe(now);
        Some(request)
    }

    fn owe(&mut self, now: Instant) {
        if self.is_active() && !self.requests.is_empty() {
            self.silence.get_or_insert(Silence {
                since: now,
                repeats: 0,
                last_repeat: now,
                refusals: 0,
                last_refusal: None,
            });
        }
    }

    /// A final response ended a request.
    pub(crate) fn handle_answer(&mut self, now: Instant, request: &Request) {
        self.status.answered += 1;
        let took = now.duration_since(request.sent);
        if !self.is_sample(now, request, took) {
            return;
        }
        let took = took.min(RTT_MAX);
        self.status.smoothed_rtt = Some(match self.status.smoothed_rtt {
            None => took,
            Some(smoothed) => (smoothed * 7 + took) / 8,
        });
    }

    /// Tells whether the time to an answer says how long the way is. Nobody knows which of several
    /// transmissions was answered, and what loss adds would make all later requests wait.
    fn is_sample(&mut self, now: Instant, request: &Request, took: Duration) -> bool {
        if request.repeats == 0 {
            self.repeated = Repeated::default();
            return true;
        }
        if self.repeated.last.is_none_or(|last| request.sent >= last) {
            self.repeated.in_a_row += 1;
            self.repeated.last = Some(now);
        }
        let is_best =
            self.status.smoothed_rtt.is_none() || self.repeated.in_a_row > REPEATED_TO_SLOWER;
        is_best && took < REPEATED_RTT_MAX
    }

    /// Some request was repeated.
    pub(crate) fn handle_repeat(&mut self, now: Instant) {
        self.status.repeated += 1;
        if let Some(silence) = &mut self.silence
            && now >= silence.last_repeat + REPEAT_SPACING
        {
            silence.repeats += 1;
            silence.last_repeat = now;
        }
    }

    /// Takes the news that it cannot be reached; tells whether that is the end of it.
    pub(crate) fn handle_refusal(&mut self, now: Instant) -> bool {
        let Some(silence) = &mut self.silence else {
            return false;
        };
        if silence
            .last_refusal
            .is_none_or(|last| now >= last + REFUSAL_SPACING)
        {
            silence.refusals += 1;
            silence.last_refusal = Some(now);
        }
        silence.refusals >= REFUSALS_TO_LOST
    }

    /// When its silence makes it dead; `None` while something else has to happen first.
    fn lost_at(&self) -> Option<Instant> {
        let (patience, repeats) = match self.status.kind {
            Kind::Stock => (STOCK_SILENCE, STOCK_REPEATS),
            Kind::Tandem => (TANDEM_SILENCE, TANDEM_REPEATS),
        };
        let silence = self.silence.filter(|silence| silence.repeats >= repeats)?;
        let chance = (self.status.smoothed_rtt.unwrap_or_default() * 4).max(TANDEM_WAIT_MIN);
        Some((silence.since + patience).max(silence.last_repeat + chance))
    }

    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        self.lost_at().is_some_and(|at| at <= now)
    }

    /// Returns the requests that are to be given up.
    pub(crate) fn expired(&self, now: Instant) -> Vec<RequestId> {
        let over = self
            .requests
            .iter()
            .filter(|(_, request)| request.is_over(now));
        over.map(|(id, _)| *id).collect()
    }

    /// When something is due here. `pings` tells whether notifications are still sent.
    pub(crate) fn poll_timeout(&self, pings: bool) -> Option<Instant> {
        let ping = (pings && self.notification.is_none()).then_some(self.next_ping);
        let requests = self.requests.values().map(Request::poll_timeout);
        requests.chain(self.lost_at()).chain(ping).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Waits;

    /// A node whose requests are answered one after the other.
    struct Answered {
        now: Instant,
        node: Node,
    }

    impl Answered {
        #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
        fn new() -> Self {
            let now = Instant::now();
            let node = Node::new(now, SocketAddr::from(([10, 0, 0, 1], 5060)));
            Self { now, node }
        }

        fn send(&self) -> Request {
            let waits = Waits::of(Schedule::Tandem, self.node.status.smoothed_rtt);
            Request::new(self.now, Purpose::Data, Box::default(), 0, waits)
        }

        /// Some requests sent at once are answered so many milliseconds later; returns the round trip
        /// that is believed then.
        fn answer(&mut self, requests: Vec<Request>, after: u64) -> u128 {
            self.now += Duration::from_millis(after);
            for mut request in requests {
                while request.take_repeat(self.now) {}
                self.node.handle_answer(self.now, &request);
            }
            let believed = self.node.status.smoothed_rtt;
            believed.unwrap_or_default().as_millis()
        }
    }

    #[test]
    fn an_answer_to_a_repeated_request_says_nothing_of_a_known_way() {
        let mut answered = Answered::new();
        assert_eq!(answered.answer(vec![answered.send()], 8), 8);
        // Many that were lost at once are answered at once.
        let lost: Vec<_> = (0..50).map(|_| answered.send()).collect();
        assert_eq!(answered.answer(lost, 160), 8);
        for _ in 0..20 {
            for _ in 0..REPEATED_TO_SLOWER - 1 {
                assert_eq!(answered.answer(vec![answered.send()], 60), 8);
            }
            assert_eq!(answered.answer(vec![answered.send()], 8), 8);
        }
        assert_eq!(answered.node.status.answered, 1 + 50 + 20 * 4);
    }

    #[test]
    fn a_way_that_has_become_longer_is_believed_after_some_answers() {
        let mut answered = Answered::new();
        answered.answer(vec![answered.send()], 8);
        for _ in 0..REPEATED_TO_SLOWER {
            assert_eq!(answered.answer(vec![answered.send()], 200), 8);
        }
        // Until the first wait is long enough: from then on nothing is repeated.
        let believed: Vec<_> = (0..4)
            .map(|_| answered.answer(vec![answered.send()], 200))
            .collect();
        assert_eq!(believed, [32, 53, 71, 87]);
        let request = answered.send();
        answered.answer(vec![request], 200);
        assert_eq!(answered.node.repeated.in_a_row, 0);
    }

    #[test]
    fn a_way_longer_than_the_first_wait_is_known_at_once() {
        let mut answered = Answered::new();
        assert_eq!(answered.answer(vec![answered.send()], 300), 300);
        let mut answered = Answered::new();
        assert_eq!(answered.answer(vec![answered.send()], 600), 0);
    }
}
