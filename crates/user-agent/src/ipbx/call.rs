//! One call of the IPBX: ringing, answering, hanging up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{CalleeOutcome, Ipbx, IpbxEvent, Timer};
use crate::dialog::Dialog;
use crate::message::{Extra, Method, Request};
use crate::plan::CalleePlan;
use crate::records::CallId;
use crate::stack::{Answer, PATIENCE, T1, T2};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Ringing,
    Answered,
    HangingUp,
    Ended,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) invite: Request,
    pub(super) plan: CalleePlan,
    pub(super) phase: Phase,
    pub(super) dialog: Dialog,
    /// Of the caller's last request.
    pub(super) remote_cseq: u32,
    /// The reliable 180 that waits for its PRACK.
    pub(super) provisional: Option<(SocketAddr, Vec<u8>)>,
    /// The 2xx to an INVITE that wait for their ACK, by CSeq.
    unacknowledged: Vec<(u32, (SocketAddr, Vec<u8>))>,
}

/// The most INVITEs of one call that wait for an ACK; further ones are answered once.
const UNACKNOWLEDGED_MAX: usize = 8;

impl Call {
    pub(super) fn new(invite: Request, plan: CalleePlan, tag: String) -> Option<Self> {
        Some(Self {
            dialog: Dialog::of_callee(&invite.head, &tag)?,
            remote_cseq: invite.head.cseq,
            invite,
            plan,
            phase: Phase::Ringing,
            provisional: None,
            unacknowledged: Vec::new(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase != Phase::Ended
    }
}

impl Ipbx {
    /// Sends the 180; reliably (RFC 3262) if the caller offers that.
    pub(super) fn ring(&mut self, now: Instant, call_id: &CallId) {
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let is_reliable = call.invite.head.names_100rel();
        let mut extra = Extra::default();
        if is_reliable {
            extra = extra.header("Require", "100rel").header("RSeq", 1);
        }
        let contact = self.stack.contact("ipbx");
        let tag = call.dialog.local_tag.clone();
        let sent = self
            .stack
            .respond(now, &call.invite, 180, &tag, Some(&contact), extra);
        if is_reliable {
            call.provisional = Some(sent);
            self.timers
                .schedule(now + T1, Timer::RepeatProvisional(call_id.clone(), T1));
        }
        self.timers
            .schedule(now + call.plan.ring, Timer::Final(call_id.clone()));
    }

    pub(super) fn repeat_provisional(&mut self, now: Instant, call_id: CallId, wait: Duration) {
        let call = self
            .calls
            .get(&call_id)
            .filter(|call| call.phase == Phase::Ringing);
        let Some(sent) = call.and_then(|call| call.provisional.clone()) else {
            return;
        };
        self.stack.repeat(sent);
        let wait = wait * 2; // RFC 3262 section 3: doubles without a limit
        self.timers
            .schedule(now + wait, Timer::RepeatProvisional(call_id, wait));
    }

    pub(super) fn give_final(&mut self, now: Instant, call_id: &CallId) {
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.phase == Phase::Ringing)
        else {
            return;
        };
        if !call.plan.is_answer() {
            let (status, tag) = (call.plan.status, call.dialog.local_tag.clone());
            self.stack
                .respond(now, &call.invite, status, &tag, None, Extra::default());
            self.end(now, call_id, CalleeOutcome::Rejected(status));
            return;
        }
        call.phase = Phase::Answered;
        let invite = call.invite.clone();
        if let Some(record) = self.records.get_mut(call_id) {
            record.answered = Some(now);
        }
        self.answer_invite(now, call_id, &invite);
    }

    /// Sends the 2xx to the first or a later INVITE, again and again until its ACK
    /// (RFC 3261 section 13.3.1.4).
    pub(super) fn answer_invite(&mut self, now: Instant, call_id: &CallId, invite: &Request) {
        let Some(call) = self.calls.get_mut(call_id) else {
            return;
        };
        let contact = self.stack.contact("ipbx");
        let extra = Extra::default().session(self.stack.local());
        let tag = call.dialog.local_tag.clone();
        let sent = self
            .stack
            .respond(now, invite, 200, &tag, Some(&contact), extra);
        if call.unacknowledged.len() < UNACKNOWLEDGED_MAX {
            let cseq = invite.head.cseq;
            call.unacknowledged.push((cseq, sent));
            self.timers
                .schedule(now + T1, Timer::RepeatAnswer(call_id.clone(), cseq, T1));
            self.timers
                .schedule(now + PATIENCE, Timer::NoAck(call_id.clone(), cseq));
        }
    }

    pub(super) fn repeat_answer(
        &mut self,
        now: Instant,
        call_id: CallId,
        cseq: u32,
        wait: Duration,
    ) {
        let Some(call) = self.calls.get(&call_id).filter(|call| call.is_open()) else {
            return;
        };
        let Some((_, sent)) = call.unacknowledged.iter().find(|(of, _)| *of == cseq) else {
            return;
        };
        self.stack.repeat(sent.clone());
        let wait = (wait * 2).min(T2);
        self.timers
            .schedule(now + wait, Timer::RepeatAnswer(call_id, cseq, wait));
    }

    pub(super) fn end_without_ack(&mut self, now: Instant, call_id: &CallId, cseq: u32) {
        let Some(call) = self.calls.get(call_id).filter(|call| call.is_open()) else {
            return;
        };
        if call.unacknowledged.iter().any(|(of, _)| *of == cseq) {
            self.send_bye(now, call_id);
            self.end(now, call_id, CalleeOutcome::NoAck);
        }
    }

    pub(super) fn handle_ack(&mut self, now: Instant, ack: &Request) {
        let call_id = &ack.head.call_id;
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.dialog.owns(&ack.head))
        else {
            return;
        };
        let waiting = call.unacknowledged.len();
        call.unacknowledged
            .retain(|(cseq, _)| *cseq != ack.head.cseq);
        let is_first = ack.head.cseq == call.invite.head.cseq;
        if !is_first || waiting == call.unacknowledged.len() {
            return;
        }
        if let Some(after) = call.plan.hang_up_after {
            self.timers
                .schedule(now + after, Timer::HangUp(call_id.clone()));
        }
        if let Some(record) = self.records.get_mut(call_id) {
            record.acknowledged = Some(now);
        }
        self.events.push(IpbxEvent::CallAnswered {
            call: call_id.clone(),
        });
    }

    pub(super) fn hang_up(&mut self, now: Instant, call_id: &CallId) {
        let Some(call) = self
            .calls
            .get_mut(call_id)
            .filter(|call| call.phase == Phase::Answered)
        else {
            return;
        };
        call.phase = Phase::HangingUp;
        if !self.send_bye(now, call_id) {
            self.end(now, call_id, CalleeOutcome::NoRoute);
        }
    }

    fn send_bye(&mut self, now: Instant, call_id: &CallId) -> bool {
        let contact = self.stack.contact("ipbx");
        let Some(call) = self.calls.get_mut(call_id) else {
            return false;
        };
        let bye = call.dialog.request(Method::Bye, &contact, Extra::default());
        let Some((to, bye)) = bye else { return false };
        self.stack.send(now, to, bye, call_id.clone());
        true
    }

    /// Answers the caller's BYE; one that comes while it rings also ends the INVITE.
    pub(super) fn answer_bye(&mut self, now: Instant, call_id: &CallId, bye: &Request) {
        let Some(call) = self.calls.get(call_id) else {
            return;
        };
        let tag = call.dialog.local_tag.clone();
        let outcome = match call.phase {
            Phase::Ringing => {
                let invite = call.invite.clone();
                self.stack
                    .respond(now, &invite, 487, &tag, None, Extra::default());
                CalleeOutcome::Cancelled
            }
            Phase::Answered | Phase::HangingUp | Phase::Ended => CalleeOutcome::Completed,
        };
        self.stack
            .respond(now, bye, 200, &tag, None, Extra::default());
        self.end(now, call_id, outcome);
    }

    pub(super) fn handle_answer(&mut self, now: Instant, answer: &Answer<CallId>) {
        let status = answer.response.as_ref().map(|response| response.status);
        let outcome = match status {
            Some(..200) => return,
            Some(200..300) => CalleeOutcome::Completed,
            Some(status) => CalleeOutcome::Refused(answer.method, status),
            None => CalleeOutcome::Timeout(answer.method),
        };
        self.end(now, &answer.purpose, outcome);
    }

    pub(super) fn end(&mut self, now: Instant, call_id: &CallId, outcome: CalleeOutcome) {
        let Some(call) = self.calls.get_mut(call_id).filter(|call| call.is_open()) else {
            return;
        };
        call.phase = Phase::Ended;
        self.open -= 1;
        self.timers
            .schedule(now + PATIENCE, Timer::Forget(call_id.clone()));
        self.report.count(outcome);
        if let Some(record) = self.records.get_mut(call_id) {
            record.outcome = Some(outcome);
        }
        self.events.push(IpbxEvent::CallEnded {
            call: call_id.clone(),
            outcome,
        });
    }
}
