//! The carrier: places calls and ends them.

mod call;
mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use report::{
    CallRecord, CarrierReport, Failure, Outcome, REQUESTS_REMEMBERED_MAX, RequestRecord,
    SOURCES_REMEMBERED_MAX,
};

use crate::message::{Extra, Message, Method, NewRequest, Request};
use crate::plan::{CALLEE_PLAN_HEADER, CallPlan, InDialog};
use crate::queue::Queue;
use crate::records::{CallId, Records};
use crate::stack::{Input, PATIENCE, Stack};
use crate::timers::Timers;
use call::{Call, Cancelling, Phase, Step};

/// How a [`Carrier`] behaves.
#[derive(Clone, Debug)]
pub struct CarrierConfig {
    /// The address that the carrier sends from; IPv4.
    pub local: SocketAddr,
    /// Where new calls are sent to; IPv4.
    pub proxy: SocketAddr,
    /// Makes tags, branches and Call-IDs. Two carriers need two seeds.
    pub seed: u64,
    /// The most calls at a time; 20 000.
    pub calls_max: usize,
    /// The most calls whose records are kept; 50 000, the oldest make room.
    pub records_max: usize,
    /// How long a call may ring before it is cancelled and counts as failed; 200 s.
    pub ring_max: Duration,
}

impl CarrierConfig {
    /// Returns the defaults for a carrier at `local` that calls through `proxy`.
    #[must_use]
    pub fn new(local: SocketAddr, proxy: SocketAddr, seed: u64) -> Self {
        let ring_max = Duration::from_secs(200);
        Self {
            local,
            proxy,
            seed,
            calls_max: 20_000,
            records_max: 50_000,
            ring_max,
        }
    }
}

/// Why a call was not placed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceCallError {
    /// `calls_max` is reached.
    #[error("{0} calls are in progress, which is the most")]
    TooManyCalls(usize),
    /// The caller or called number makes no URI that rsip can read.
    #[error("{0:?} cannot be the user of a SIP URI")]
    Number(String),
}

/// What a carrier tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarrierEvent {
    /// The first 101 to 199 came.
    CallRinging {
        /// The call.
        call: CallId,
    },
    /// A 2xx came.
    CallAnswered {
        /// The call.
        call: CallId,
    },
    /// The call is over.
    CallEnded {
        /// The call.
        call: CallId,
        /// How.
        outcome: Outcome,
    },
    /// The first response that counts: 101 or more to an INVITE, a final one to others.
    RequestFinished {
        /// The call.
        call: CallId,
        /// The request.
        request: RequestRecord,
    },
    /// A datagram could not be read.
    Garbage {
        /// Who sent it.
        source: SocketAddr,
    },
}

#[derive(Debug)]
enum Timer {
    Cancel(CallId),
    RingsTooLong(CallId),
    CancelUnanswered(CallId),
    Step(CallId, Step),
    Forget(CallId),
}

/// The calling end of every call it places.
///
/// After any call that takes `now`, drain `poll_transmit`, then `poll_event`, to `None`; then sleep
/// until `poll_timeout` or the next datagram. `now` never goes backwards.
#[derive(Debug)]
pub struct Carrier {
    config: CarrierConfig,
    stack: Stack<CallId>,
    calls: BTreeMap<CallId, Call>,
    /// Calls that are not over.
    open: usize,
    timers: Timers<Timer>,
    events: Queue<CarrierEvent>,
    records: Records<CallRecord>,
    report: CarrierReport,
}

impl Carrier {
    /// Creates a carrier without calls.
    #[must_use]
    pub fn new(config: CarrierConfig) -> Self {
        Self {
            stack: Stack::new(config.local, config.seed),
            calls: BTreeMap::new(),
            open: 0,
            timers: Timers::new(),
            events: Queue::new(),
            records: Records::new(config.records_max),
            report: CarrierReport::default(),
            config,
        }
    }

    /// Places a call.
    ///
    /// # Errors
    /// If too many are in progress, or a number is none.
    pub fn place_call(&mut self, now: Instant, plan: CallPlan) -> Result<CallId, PlaceCallError> {
        if self.open >= self.config.calls_max {
            return Err(PlaceCallError::TooManyCalls(self.open));
        }
        for number in [&plan.caller, &plan.called] {
            if number.is_empty() || !number.bytes().all(is_user_byte) {
                return Err(PlaceCallError::Number(number.clone()));
            }
        }
        let local = self.config.local;
        let call_id = CallId::new(&format!("{}@{}", self.stack.token(), local.ip()));
        let uri = format!("sip:{}@{}", plan.called, self.config.proxy);
        let mut extra = Extra::default().session(local);
        if plan.reliable {
            extra = extra.header("Supported", "100rel");
        }
        if let Some(callee) = &plan.callee {
            extra = extra.header(CALLEE_PLAN_HEADER, callee);
        }
        let contact = self.stack.contact(&plan.caller);
        let invite = NewRequest {
            method: Method::Invite,
            from: format!("<sip:{}@{local}>;tag={}", plan.caller, self.stack.token()),
            to: format!("<{uri}>"),
            uri,
            call_id: call_id.clone(),
            cseq: 1,
            routes: Vec::new(),
            contact: Some(contact.clone()),
            extra,
        };
        let branch = self
            .stack
            .send(now, self.config.proxy, invite, call_id.clone());
        if let Some(after) = plan.cancel_after {
            self.timers
                .schedule(now + after, Timer::Cancel(call_id.clone()));
        }
        let too_long = Timer::RingsTooLong(call_id.clone());
        self.timers.schedule(now + self.config.ring_max, too_long);
        self.records.entry(&call_id, || CallRecord::new(&plan, now));
        self.calls
            .insert(call_id.clone(), Call::new(plan, branch, contact));
        self.open += 1;
        self.report.placed += 1;
        Ok(call_id)
    }

    /// Takes a datagram that arrived at `local`.
    pub fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        let Some(message) = self.stack.parse(source, bytes) else {
            self.events.push(CarrierEvent::Garbage { source });
            return;
        };
        if let Message::Response(response) = &message
            && let Some(record) = self.records.get_mut(&response.head.call_id)
        {
            record.note_source(source);
        }
        match self.stack.receive(now, message) {
            Input::Absorbed => {}
            Input::Request(request) => self.handle_request(now, &request),
            Input::Answer(answer) => self.handle_answer(now, answer),
        }
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        while let Some(answer) = self.stack.poll_unanswered() {
            self.handle_answer(now, answer);
        }
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Cancel(call) => self.cancel(now, &call),
                Timer::RingsTooLong(call) => self.give_up_ringing(now, &call),
                Timer::CancelUnanswered(call) => self.end_uncancelled(now, &call),
                Timer::Step(call, step) => self.take_step(now, &call, step),
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
    pub fn poll_event(&mut self) -> Option<CarrierEvent> {
        self.events.pop()
    }

    /// Returns how many calls are not over.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.open
    }

    /// Returns the totals.
    #[must_use]
    pub fn report(&self) -> CarrierReport {
        CarrierReport {
            retransmissions: self.stack.counts.retransmissions,
            garbage: self.stack.counts.garbage,
            overflows: self.stack.counts.overflows,
            events_dropped: self.events.dropped(),
            records_forgotten: self.records.forgotten(),
            ..self.report
        }
    }

    /// Returns the record of a call, unless it was forgotten.
    #[must_use]
    pub fn record(&self, call: &CallId) -> Option<&CallRecord> {
        self.records.get(call)
    }

    /// Returns all records, the oldest call first.
    pub fn records(&self) -> impl Iterator<Item = (&CallId, &CallRecord)> {
        self.records.iter()
    }

    fn handle_request(&mut self, now: Instant, request: &Request) {
        let head = &request.head;
        let call = self.calls.get(&head.call_id);
        let is_ours = call.is_some_and(|call| call.owns(head));
        let status = match head.method {
            Method::Ack => return,
            Method::Options if head.to_tag.is_none() => 200,
            Method::Cancel => 481,
            Method::Invite
            | Method::Bye
            | Method::Info
            | Method::Options
            | Method::Prack
            | Method::Update
                if is_ours =>
            {
                200
            }
            Method::Invite
            | Method::Bye
            | Method::Info
            | Method::Options
            | Method::Prack
            | Method::Update => 481,
            Method::Other => 501,
        };
        let contact = call.map_or_else(
            || self.stack.contact("carrier"),
            |call| call.contact.clone(),
        );
        let mut extra = Extra::default();
        if head.method == Method::Invite && status == 200 {
            extra = extra.session(self.config.local);
        }
        let tag = self.stack.token();
        self.stack
            .respond(now, request, status, &tag, Some(&contact), extra);
        if head.method == Method::Bye && status == 200 {
            self.end_by_callee(now, &head.call_id.clone());
        }
    }

    fn end(&mut self, now: Instant, call_id: &CallId, outcome: Outcome) {
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.phase != Phase::Ended)
        else {
            return;
        };
        call.phase = Phase::Ended;
        // A failure on the way is what became of the call, whatever came after it.
        let outcome = call.failure.map_or(outcome, Outcome::Failed);
        self.open -= 1;
        self.timers
            .schedule(now + PATIENCE, Timer::Forget(call_id.clone()));
        self.report.count(outcome);
        if let Some(record) = self.records.get_mut(call_id) {
            record.outcome = Some(outcome);
        }
        self.events.push(CarrierEvent::CallEnded {
            call: call_id.clone(),
            outcome,
        });
    }

    fn give_up_ringing(&mut self, now: Instant, call_id: &CallId) {
        if let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.is_inviting())
        {
            call.fail(Failure::RangTooLong);
            self.cancel(now, call_id);
        }
    }

    fn cancel(&mut self, now: Instant, call_id: &CallId) {
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.is_inviting())
        else {
            return;
        };
        match (call.cancelling, call.is_provisional) {
            (Cancelling::Sent, _) => {}
            (Cancelling::No | Cancelling::Wanted, false) => call.cancelling = Cancelling::Wanted,
            (Cancelling::No | Cancelling::Wanted, true) => {
                call.cancelling = Cancelling::Sent;
                self.stack.cancel(now, &call.branch, call_id.clone());
                let unanswered = Timer::CancelUnanswered(call_id.clone());
                self.timers.schedule(now + PATIENCE, unanswered);
            }
        }
    }

    fn end_uncancelled(&mut self, now: Instant, call_id: &CallId) {
        if self.calls.get(call_id).is_some_and(Call::is_inviting) {
            self.end(now, call_id, Outcome::Failed(Failure::CancelUnanswered));
        }
    }

    fn end_by_callee(&mut self, now: Instant, call_id: &CallId) {
        if let Some(record) = self.records.get_mut(call_id) {
            record.callee_hung_up = true;
        }
        self.end(now, call_id, Outcome::Completed);
    }

    /// Takes a step of the plan, once the request before it is answered: a callee refuses requests
    /// that overtake each other.
    fn take_step(&mut self, now: Instant, call_id: &CallId, step: Step) {
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.phase == Phase::Established)
        else {
            return;
        };
        if call.is_busy {
            call.steps.push_back(step);
            return;
        }
        let session = Extra::default().session(self.config.local);
        let (method, extra) = match step {
            Step::InDialog(InDialog::Info) => (Method::Info, Extra::default()),
            Step::InDialog(InDialog::Update) => (Method::Update, Extra::default()),
            Step::InDialog(InDialog::Reinvite) => (Method::Invite, session),
            Step::HangUp => {
                call.phase = Phase::HangingUp;
                (Method::Bye, Extra::default())
            }
        };
        self.request(now, call_id, method, extra);
    }

    /// Notes that the last request within the dialog is done, and goes on with the plan.
    fn go_on(&mut self, now: Instant, call_id: &CallId) {
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        call.is_busy = false;
        if let Some(step) = call.steps.pop_front() {
            self.take_step(now, call_id, step);
        }
    }

    /// Sends a request within the confirmed dialog.
    fn request(&mut self, now: Instant, call_id: &CallId, method: Method, extra: Extra) {
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let dialog = call.dialog.as_mut();
        match dialog.and_then(|dialog| dialog.request(method, &call.contact, extra)) {
            Some((to, request)) => {
                call.is_busy = true;
                self.stack.send(now, to, request, call_id.clone());
            }
            None => self.end(now, call_id, Outcome::Failed(Failure::NoRoute(method))),
        }
    }
}

/// What stands unescaped in the user part of a URI and is read by every parser alike.
fn is_user_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-_.*".contains(&byte)
}
