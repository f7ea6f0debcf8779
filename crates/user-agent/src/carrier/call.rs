//! One call of the carrier, and what answers do to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::{Carrier, CarrierEvent, Failure, Outcome, RequestRecord, Timer};
use crate::dialog::Dialog;
use crate::message::{Extra, Head, Method, Response};
use crate::plan::{CallPlan, InDialog};
use crate::records::CallId;
use crate::stack::Answer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Inviting,
    Established,
    HangingUp,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancelling {
    No,
    /// Waits for the first provisional response.
    Wanted,
    Sent,
}

/// What is left to do of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    InDialog(InDialog),
    HangUp,
}

/// The ACK of a 2xx, sent again for each repetition of it.
type SentAck = (SocketAddr, Vec<u8>);

#[derive(Debug)]
pub(super) struct Call {
    plan: CallPlan,
    pub(super) contact: String,
    /// Of the first INVITE.
    pub(super) branch: String,
    pub(super) phase: Phase,
    pub(super) cancelling: Cancelling,
    pub(super) is_provisional: bool,
    pub(super) dialog: Option<Dialog>,
    pub(super) failure: Option<Failure>,
    /// A request within the dialog waits for its final response.
    pub(super) is_busy: bool,
    /// What waits for that; never more than the plan has.
    pub(super) steps: VecDeque<Step>,
    /// Of each callee's 2xx, by the callee's tag and the CSeq of the INVITE.
    acks: Vec<((String, u32), SentAck)>,
    /// The reliable provisional responses that got their PRACK: the callee's tag and the RSeq.
    pracked: Vec<(String, u32)>,
}

/// More reliable provisional responses, or INVITEs, than a sane call has.
const ACKS_REMEMBERED_MAX: usize = 16;

impl Call {
    pub(super) fn new(plan: CallPlan, branch: String, contact: String) -> Self {
        Self {
            plan,
            contact,
            branch,
            phase: Phase::Inviting,
            cancelling: Cancelling::No,
            is_provisional: false,
            dialog: None,
            failure: None,
            is_busy: false,
            steps: VecDeque::new(),
            acks: Vec::new(),
            pracked: Vec::new(),
        }
    }

    pub(super) fn is_inviting(&self) -> bool {
        self.phase == Phase::Inviting
    }

    /// Tells whether a request from a callee belongs to the dialog.
    pub(super) fn owns(&self, request: &Head) -> bool {
        self.dialog
            .as_ref()
            .is_some_and(|dialog| dialog.owns(request))
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}

/// The CSeq of the INVITE that makes the call.
const FIRST_CSEQ: u32 = 1;

impl Carrier {
    pub(super) fn handle_answer(&mut self, now: Instant, answer: Answer<CallId>) {
        let call_id = answer.purpose.clone();
        if answer.is_first {
            self.note_finished(&call_id, &answer);
        }
        let method = answer.method;
        let Some(response) = answer.response else {
            self.handle_no_answer(now, &call_id, method);
            return;
        };
        match (method, response.status) {
            (Method::Invite, 100..=199) => self.handle_provisional(now, &call_id, &response),
            (Method::Invite, 200..=299) => self.handle_success(now, &call_id, &response),
            (Method::Invite, _) if response.head.cseq == FIRST_CSEQ => {
                self.handle_rejection(now, &call_id, response.status);
            }
            (Method::Bye, 200..) => self.handle_bye_answer(now, &call_id, &response),
            (Method::Cancel, _) | (_, ..200) => {}
            (_, 200..=299) => self.go_on(now, &call_id),
            (_, status) => self.fail_request(now, &call_id, Failure::Refused(method, status)),
        }
    }

    /// A request within the dialog failed: the call has, but it goes on to its end.
    fn fail_request(&mut self, now: Instant, call_id: &CallId, failure: Failure) {
        if let Some(call) = self.calls.get_mut(call_id) {
            call.fail(failure);
        }
        self.go_on(now, call_id);
    }

    fn note_finished(&mut self, call_id: &CallId, answer: &Answer<CallId>) {
        let status = answer
            .response
            .as_ref()
            .map_or(408, |response| response.status);
        let request = RequestRecord {
            method: answer.method,
            elapsed: answer.elapsed,
            status,
        };
        if let Some(record) = self.records.get_mut(call_id) {
            record.note_request(request);
        }
        if self
            .report
            .slowest
            .is_none_or(|slowest| slowest.elapsed < request.elapsed)
        {
            self.report.slowest = Some(request);
        }
        self.events.push(CarrierEvent::RequestFinished {
            call: call_id.clone(),
            request,
        });
    }

    fn handle_no_answer(&mut self, now: Instant, call_id: &CallId, method: Method) {
        let Some(call) = self.calls.get(call_id) else {
            return;
        };
        match (method, call.phase) {
            // The callee hung up first: its BYE crossed ours, or ours found nobody.
            (_, Phase::Ended) => {}
            (Method::Invite, Phase::Inviting) | (Method::Bye, Phase::HangingUp) => {
                self.end(now, call_id, Outcome::Failed(Failure::Timeout(method)));
            }
            (Method::Cancel, _) => {} // the INVITE decides
            (Method::Bye, _) => {}    // of a callee that was turned away
            (_, Phase::Inviting | Phase::Established | Phase::HangingUp) => {
                self.fail_request(now, call_id, Failure::Timeout(method));
            }
        }
    }

    fn handle_provisional(&mut self, now: Instant, call_id: &CallId, response: &Response) {
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.is_inviting())
        else {
            return;
        };
        call.is_provisional = true;
        let is_cancel_wanted = call.cancelling == Cancelling::Wanted;
        if response.status > 100
            && let Some(record) = self.records.get_mut(call_id)
            && record.ringing.is_none()
        {
            record.ringing = Some(now);
            self.events.push(CarrierEvent::CallRinging {
                call: call_id.clone(),
            });
        }
        self.acknowledge_provisional(now, call_id, response);
        if is_cancel_wanted {
            self.cancel(now, call_id);
        }
    }

    /// Sends the PRACK that a reliable provisional response asks for, RFC 3262 section 4.
    fn acknowledge_provisional(&mut self, now: Instant, call_id: &CallId, response: &Response) {
        let head = &response.head;
        let sequence = head.other("RSeq").filter(|_| head.names_100rel());
        let Some(sequence) = sequence.and_then(|value| value.trim().parse::<u32>().ok()) else {
            return;
        };
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let key = (head.to_tag.clone().unwrap_or_default(), sequence);
        if call.pracked.contains(&key) || call.pracked.len() >= ACKS_REMEMBERED_MAX {
            return;
        }
        call.pracked.push(key);
        let early = call
            .dialog
            .take()
            .filter(|dialog| Some(&dialog.remote_tag) == head.to_tag.as_ref());
        call.dialog = early.or_else(|| Dialog::of_caller(head));
        let rack = format!("{sequence} {} INVITE", head.cseq);
        self.request(
            now,
            call_id,
            Method::Prack,
            Extra::default().header("RAck", rack),
        );
    }

    fn handle_success(&mut self, now: Instant, call_id: &CallId, response: &Response) {
        let head = &response.head;
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let key = (head.to_tag.clone().unwrap_or_default(), head.cseq);
        if let Some((_, ack)) = call.acks.iter().find(|(acked, _)| *acked == key) {
            self.stack.repeat(ack.clone());
            return;
        }
        if head.cseq != FIRST_CSEQ {
            let dialog = call.dialog.as_mut();
            if let Some(dialog) = dialog.filter(|dialog| dialog.remote_tag == key.0) {
                dialog.refresh(head);
                self.acknowledge(call_id, key);
                self.go_on(now, call_id);
            }
            return;
        }
        match call.phase {
            Phase::Inviting => self.establish(now, call_id, response),
            Phase::Established | Phase::HangingUp | Phase::Ended => {
                self.turn_away(now, call_id, head);
            }
        }
    }

    fn establish(&mut self, now: Instant, call_id: &CallId, response: &Response) {
        let head = &response.head;
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let cseq = call.dialog.as_ref().map_or(head.cseq, |early| early.cseq);
        let Some(mut dialog) = Dialog::of_caller(head) else {
            self.end(now, call_id, Outcome::Failed(Failure::NoDialog));
            return;
        };
        dialog.cseq = cseq; // a PRACK may have come in between
        call.dialog = Some(dialog);
        call.phase = Phase::Established;
        let is_cancelled = call.cancelling != Cancelling::No;
        let (hold, in_dialog) = (call.plan.hold, call.plan.in_dialog.clone());
        self.acknowledge(
            call_id,
            (head.to_tag.clone().unwrap_or_default(), head.cseq),
        );
        if let Some(record) = self.records.get_mut(call_id) {
            record.answered = Some(now);
        }
        self.events.push(CarrierEvent::CallAnswered {
            call: call_id.clone(),
        });
        if is_cancelled {
            // The answer crossed the CANCEL: RFC 3261 section 9.1 leaves the BYE.
            self.take_step(now, call_id, Step::HangUp);
            return;
        }
        for (after, what) in in_dialog {
            self.timers.schedule(
                now + after,
                Timer::Step(call_id.clone(), Step::InDialog(what)),
            );
        }
        self.timers
            .schedule(now + hold, Timer::Step(call_id.clone(), Step::HangUp));
    }

    /// A 2xx of a further callee: acknowledged and ended, RFC 3261 section 13.2.2.4.
    fn turn_away(&mut self, now: Instant, call_id: &CallId, head: &Head) {
        if let Some(record) = self.records.get_mut(call_id) {
            record.extra_answers += 1;
        }
        let Some(mut dialog) = Dialog::of_caller(head) else {
            return;
        };
        let key = (dialog.remote_tag.clone(), head.cseq);
        if let Some((to, ack)) = dialog.ack(head.cseq) {
            let ack = self.stack.send_ack(to, ack);
            if let Some(call) = self.calls.get_mut(call_id)
                && call.acks.len() < ACKS_REMEMBERED_MAX
            {
                call.acks.push((key, ack));
            }
        }
        let Some(call) = self.calls.get(call_id) else {
            return;
        };
        if let Some((to, bye)) = dialog.request(Method::Bye, &call.contact, Extra::default()) {
            self.stack.send(now, to, bye, call_id.clone());
        }
    }

    fn acknowledge(&mut self, call_id: &CallId, key: (String, u32)) {
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let ack = call.dialog.as_ref().and_then(|dialog| dialog.ack(key.1));
        match ack {
            Some((to, ack)) => {
                let ack = self.stack.send_ack(to, ack);
                if call.acks.len() < ACKS_REMEMBERED_MAX {
                    call.acks.push((key, ack));
                }
            }
            None => call.fail(Failure::NoRoute(Method::Ack)),
        }
    }

    fn handle_rejection(&mut self, now: Instant, call_id: &CallId, status: u16) {
        let Some(call) = self.calls.get(call_id).filter(|call| call.is_inviting()) else {
            return;
        };
        let outcome = match (call.cancelling, status) {
            (Cancelling::Sent, 487) => Outcome::Cancelled,
            (Cancelling::No | Cancelling::Wanted | Cancelling::Sent, _) => {
                Outcome::Rejected(status)
            }
        };
        self.end(now, call_id, outcome);
    }

    fn handle_bye_answer(&mut self, now: Instant, call_id: &CallId, response: &Response) {
        let Some(call) = self.calls.get(call_id) else {
            return;
        };
        let confirmed = call
            .dialog
            .as_ref()
            .map(|dialog| dialog.remote_tag.as_str());
        if response.head.to_tag.as_deref() != confirmed {
            return; // the BYE of a callee that was turned away
        }
        let outcome = match response.status {
            200..=299 => Outcome::Completed,
            status => Outcome::Failed(Failure::Refused(Method::Bye, status)),
        };
        self.end(now, call_id, outcome);
    }
}
