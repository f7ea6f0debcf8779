//! The IPBX: answers calls, or does not, as their plan or its seed says.

mod call;
mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

pub use report::{CalleeOutcome, CalleeRecord, IpbxReport};

use crate::copies::{CopyCounter, Duplicate};
use crate::message::{Extra, Message, Method, Request};
use crate::plan::{CALLEE_PLAN_HEADER, CalleePlan};
use crate::queue::Queue;
use crate::records::{CallId, Records};
use crate::stack::{Input, Stack};
use crate::timers::Timers;
use call::{Call, Phase};

/// How an [`Ipbx`] behaves.
#[derive(Clone, Debug)]
pub struct IpbxConfig {
    /// The address that the IPBX answers at; IPv4.
    pub local: SocketAddr,
    /// Makes tags and branches, and decides about calls without a plan.
    pub seed: u64,
    /// The most calls at a time; 20 000, further ones are answered 503.
    pub calls_max: usize,
    /// The most calls whose records and copies are kept; 50 000, the oldest make room.
    pub records_max: usize,
}

impl IpbxConfig {
    /// Returns the defaults for an IPBX at `local`.
    #[must_use]
    pub fn new(local: SocketAddr, seed: u64) -> Self {
        Self {
            local,
            seed,
            calls_max: 20_000,
            records_max: 50_000,
        }
    }
}

/// What an IPBX tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpbxEvent {
    /// An INVITE that is no repeat makes it ring, or refuse at once.
    CallRinging {
        /// The call.
        call: CallId,
        /// What will become of it.
        plan: CalleePlan,
    },
    /// The ACK of its 2xx arrived.
    CallAnswered {
        /// The call.
        call: CallId,
    },
    /// The call is over.
    CallEnded {
        /// The call.
        call: CallId,
        /// How.
        outcome: CalleeOutcome,
    },
    /// A datagram could not be read.
    Garbage {
        /// Who sent it.
        source: SocketAddr,
    },
}

#[derive(Debug)]
enum Timer {
    Final(CallId),
    RepeatProvisional(CallId, Duration),
    /// The 2xx to the INVITE of this CSeq.
    RepeatAnswer(CallId, u32, Duration),
    NoAck(CallId, u32),
    HangUp(CallId),
    AnswerBye(CallId, Box<Request>),
    Forget(CallId),
}

/// The answering end of every call that reaches it.
///
/// After any call that takes `now`, drain `poll_transmit`, then `poll_event`, to `None`; then sleep
/// until `poll_timeout` or the next datagram. `now` never goes backwards.
#[derive(Debug)]
pub struct Ipbx {
    config: IpbxConfig,
    stack: Stack<CallId>,
    calls: BTreeMap<CallId, Call>,
    open: usize,
    timers: Timers<Timer>,
    events: Queue<IpbxEvent>,
    records: Records<CalleeRecord>,
    copies: CopyCounter,
    report: IpbxReport,
}

impl Ipbx {
    /// Creates an IPBX without calls.
    #[must_use]
    pub fn new(config: IpbxConfig) -> Self {
        Self {
            stack: Stack::new(config.local, config.seed),
            calls: BTreeMap::new(),
            open: 0,
            timers: Timers::new(),
            events: Queue::new(),
            records: Records::new(config.records_max),
            copies: CopyCounter::new(config.records_max),
            report: IpbxReport::default(),
            config,
        }
    }

    /// Takes a datagram that arrived at `local`.
    pub fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        let Some(message) = self.stack.parse(source, bytes) else {
            self.events.push(IpbxEvent::Garbage { source });
            return;
        };
        if let Message::Request(request) = &message {
            let head = &request.head;
            self.copies
                .count(&head.call_id, head.cseq, head.method, &head.branch);
        }
        match self.stack.receive(now, message) {
            Input::Absorbed => {}
            Input::Request(request) => self.handle_request(now, request),
            Input::Answer(answer) => self.handle_answer(now, &answer),
        }
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        while let Some(answer) = self.stack.poll_unanswered() {
            self.handle_answer(now, &answer);
        }
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Final(call) => self.give_final(now, &call),
                Timer::RepeatProvisional(call, wait) => self.repeat_provisional(now, call, wait),
                Timer::RepeatAnswer(call, cseq, wait) => self.repeat_answer(now, call, cseq, wait),
                Timer::NoAck(call, cseq) => self.end_without_ack(now, &call, cseq),
                Timer::HangUp(call) => self.hang_up(now, &call),
                Timer::AnswerBye(call, bye) => self.answer_bye(now, &call, &bye),
                Timer::Forget(call) => {
                    self.calls.remove(&call);
                }
            }
        }
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.stack.poll_timeout(), self.timers.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the next datagram to send from `local`, and where to.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.stack.poll_transmit()
    }

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<IpbxEvent> {
        self.events.pop()
    }

    /// Returns every request but ACK that arrived under more than one branch: what a fabric that
    /// tries a second way has delivered twice. A retransmission keeps its branch and is none.
    pub fn delivered_twice(&self) -> impl Iterator<Item = Duplicate> {
        self.copies.delivered_twice()
    }

    /// Returns how many copies of a request arrived, retransmissions included.
    #[must_use]
    pub fn copies(&self, call: &CallId, cseq: u32, method: Method) -> u32 {
        self.copies.copies(call, cseq, method)
    }

    /// Returns how many calls are not over.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.open
    }

    /// Returns the totals.
    #[must_use]
    pub fn report(&self) -> IpbxReport {
        IpbxReport {
            retransmissions: self.stack.counts.retransmissions,
            garbage: self.stack.counts.garbage,
            overflows: self.stack.counts.overflows,
            events_dropped: self.events.dropped(),
            records_forgotten: self.records.forgotten(),
            ..self.report
        }
    }

    /// Returns the record of a call, unless it never came or was forgotten.
    #[must_use]
    pub fn record(&self, call: &CallId) -> Option<&CalleeRecord> {
        self.records.get(call)
    }

    /// Returns all records, the oldest call first.
    pub fn records(&self) -> impl Iterator<Item = (&CallId, &CalleeRecord)> {
        self.records.iter()
    }

    fn handle_request(&mut self, now: Instant, request: Request) {
        let head = &request.head;
        let is_initial = head.to_tag.is_none();
        match head.method {
            Method::Invite if is_initial => self.handle_invite(now, request),
            Method::Cancel => self.handle_cancel(now, &request),
            Method::Ack => self.handle_ack(now, &request),
            Method::Options if is_initial => self.reply(now, &request, 200),
            Method::Other => self.reply(now, &request, 501),
            Method::Invite
            | Method::Bye
            | Method::Info
            | Method::Options
            | Method::Prack
            | Method::Update => self.handle_in_dialog(now, request),
        }
    }

    fn handle_invite(&mut self, now: Instant, request: Request) {
        let head = &request.head;
        let call_id = head.call_id.clone();
        if self.calls.contains_key(&call_id) {
            // The same request by another way: RFC 3261 section 8.2.2.2.
            self.reply(now, &request, 482);
            return;
        }
        if self.open >= self.config.calls_max {
            self.report.turned_away += 1;
            self.reply(now, &request, 503);
            return;
        }
        let told = head.other(CALLEE_PLAN_HEADER).map(str::parse::<CalleePlan>);
        let plan = match told {
            Some(Ok(plan)) => plan,
            Some(Err(_)) => {
                self.reply(now, &request, 400);
                return;
            }
            None => decide(self.config.seed, &call_id),
        };
        let tag = self.stack.token();
        let Some(call) = Call::new(request, plan, tag) else {
            return; // an INVITE without Contact; its sender hears nothing, as from a dead phone
        };
        self.calls.insert(call_id.clone(), call);
        self.open += 1;
        self.report.received += 1;
        self.records
            .entry(&call_id, || CalleeRecord::new(plan, now));
        self.events.push(IpbxEvent::CallRinging {
            call: call_id.clone(),
            plan,
        });
        match plan.ring.is_zero() {
            true => self.give_final(now, &call_id),
            false => self.ring(now, &call_id),
        }
    }

    fn handle_cancel(&mut self, now: Instant, cancel: &Request) {
        let call_id = &cancel.head.call_id;
        let call = self.calls.get(call_id);
        let Some(call) = call.filter(|call| call.invite.head.branch == cancel.head.branch) else {
            self.reply(now, cancel, 481);
            return;
        };
        let (invite, tag) = (call.invite.clone(), call.dialog.local_tag.clone());
        let is_ringing = call.phase == Phase::Ringing;
        self.stack
            .respond(now, cancel, 200, &tag, None, Extra::default());
        if is_ringing {
            self.stack
                .respond(now, &invite, 487, &tag, None, Extra::default());
            self.end(now, call_id, CalleeOutcome::Cancelled);
        }
    }

    fn handle_in_dialog(&mut self, now: Instant, request: Request) {
        let head = &request.head;
        let call_id = head.call_id.clone();
        let call = self.calls.get_mut(&call_id);
        let Some(call) = call.filter(|call| call.is_open() && call.dialog.owns(head)) else {
            self.reply(now, &request, 481);
            return;
        };
        if head.cseq < call.remote_cseq {
            self.reply(now, &request, 500); // RFC 3261 section 12.2.2
            return;
        }
        call.remote_cseq = head.cseq;
        match head.method {
            Method::Bye => self.handle_bye(now, &call_id, request),
            Method::Invite => {
                call.dialog.refresh(head);
                self.answer_invite(now, &call_id, &request);
            }
            Method::Prack => {
                call.provisional = None;
                self.reply(now, &request, 200);
            }
            Method::Update => {
                call.dialog.refresh(head);
                self.reply(now, &request, 200);
            }
            Method::Info | Method::Options | Method::Ack | Method::Cancel | Method::Other => {
                self.reply(now, &request, 200);
            }
        }
    }

    fn handle_bye(&mut self, now: Instant, call_id: &CallId, bye: Request) {
        if let Some(record) = self.records.get_mut(call_id) {
            record.caller_hung_up = true;
        }
        let Some(call) = self.calls.get(call_id) else {
            return;
        };
        match call.plan.bye_delay.is_zero() {
            true => self.answer_bye(now, call_id, &bye),
            false => {
                let answer = Timer::AnswerBye(call_id.clone(), Box::new(bye));
                self.timers.schedule(now + call.plan.bye_delay, answer);
            }
        }
    }

    /// Answers what needs no more than a status.
    fn reply(&mut self, now: Instant, request: &Request, status: u16) {
        let tag = self.stack.token();
        let contact = self.stack.contact("ipbx");
        let contact = (status < 300).then_some(contact.as_str());
        self.stack
            .respond(now, request, status, &tag, contact, Extra::default());
    }
}

/// Decides about a call that brought no plan: by the seed and the Call-ID alone, so that neither
/// the order of calls nor a repetition changes it. Nine of ten are answered; of those one in four
/// is ended by the callee. It rings for 0 to 3 s.
fn decide(seed: u64, call: &CallId) -> CalleePlan {
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325; // FNV-1a
    for byte in call.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut rng = StdRng::seed_from_u64(hash);
    let ring = Duration::from_millis(rng.random_range(0..3_000));
    if rng.random_ratio(1, 10) {
        return CalleePlan::refuse(ring, [486, 603, 500, 404][rng.random_range(0..4)]);
    }
    let hang_up_after = rng
        .random_ratio(1, 4)
        .then(|| Duration::from_millis(rng.random_range(500..5_000)));
    let bye_delay = match rng.random_ratio(1, 10) {
        true => Duration::from_millis(rng.random_range(100..2_000)),
        false => Duration::ZERO,
    };
    CalleePlan {
        hang_up_after,
        bye_delay,
        ..CalleePlan::answer(ring)
    }
}
