//! What arrives: requests that repeat, answer or cancel, responses, and time. RFC 3261 sections 16.7 and 17.

use std::net::SocketAddr;
use std::time::Instant;

use element::FlowId;
use sip_types::{Message, Method};

use super::{Answer, Delivered, Event, Offered, Proxy};
use crate::branch::{BranchId, ContextId};
use crate::context::Cancel;
use crate::server_invite::Ack;
use crate::transaction::{Due, Reaction, Server, ServerKey};

impl<C, B> Proxy<C, B> {
    /// Offers a request to the transactions: RFC 3261 section 17.2.3 and, for CANCEL, 9.2.
    pub fn offer_request(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) -> Offered {
        let method = message.method();
        let about = if method == Method::Ack {
            Method::Invite
        } else {
            method
        };
        let Some(key) = ServerKey::of(&self.hash_key, message, about) else {
            return Offered::Unanswerable;
        };
        if let Some(&id) = self.servers.get(&key) {
            return self.offer_repeat(now, id, key, method);
        }
        if about == Method::Invite
            && let Some(status) = self.refused.status(now, key)
        {
            self.counters.repeats_absorbed += u64::from(method == Method::Invite);
            self.respond_stateless(now, flow, source, message, status, &[]);
            return Offered::Absorbed;
        }
        if method == Method::Ack && message.to_tag() == Some(&self.stateless_tag(message)) {
            // Section 8.2.7: of a failure that was answered without a transaction.
            return Offered::Absorbed;
        }
        if method == Method::Cancel {
            let invite = ServerKey::of(&self.hash_key, message, Method::Invite);
            if let Some(&id) = invite.and_then(|key| self.servers.get(&key)) {
                self.respond_stateless(now, flow, source, message, 200, &[]);
                return Offered::Cancel(id);
            }
        }
        Offered::New(key)
    }

    pub(super) fn offer_repeat(
        &mut self,
        now: Instant,
        id: ContextId,
        key: ServerKey,
        method: Method<'_>,
    ) -> Offered {
        let timers = self.config.timers;
        let Some(context) = self.context_mut(id) else {
            return Offered::New(key);
        };
        let Some(position) = context
            .upstreams
            .iter()
            .position(|upstream| upstream.key == key)
        else {
            return Offered::New(key);
        };
        if method == Method::Ack {
            let ack = context.upstreams[position].server.handle_ack(now, &timers);
            self.settle(id);
            return match ack {
                Ack::Absorbed => Offered::Absorbed,
                Ack::EndToEnd => Offered::New(key),
            };
        }
        if context.upstreams[position].server.handle_repeat() {
            self.send_response(id, position);
        }
        self.counters.repeats_absorbed += 1;
        Offered::Absorbed
    }

    /// Takes a response: RFC 3261 sections 16.7 and 17.1.
    pub fn handle_response(&mut self, now: Instant, message: &Message<'_>) -> Answer {
        let (Some(status), Some(via)) = (message.status(), message.top_via()) else {
            return self.stray();
        };
        let Some((id, loop_key)) = via.branch.and_then(BranchId::read) else {
            return self.stray();
        };
        // The loop key is keyed: who has not seen the branch cannot make one up.
        if self
            .context(id.context)
            .is_none_or(|context| context.loop_key != loop_key)
        {
            return self.stray();
        }
        if !via
            .sent_by_addr()
            .is_some_and(|addr| self.config.listen.contains(&addr))
        {
            return self.stray();
        }
        if message.method() == Method::Cancel {
            let timers = self.config.timers;
            let Some(branch) = self.branch_mut(id) else {
                return self.stray();
            };
            if let Cancel::Sent(client) = &mut branch.cancel {
                client.handle_response(now, &timers, status);
                self.settle(id.context);
            }
            return Answer::Absorbed;
        }
        self.handle_answer(now, id, status, Some(message))
    }

    /// Takes a response that did not come from the try's own peer, in its stead: the peer is dead.
    ///
    /// Nothing is acknowledged towards the peer, and nothing is repeated to it any more.
    pub fn handle_response_in_stead(&mut self, now: Instant, id: BranchId, status: u16) -> Answer {
        self.handle_answer(now, id, status, None)
    }

    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        id: BranchId,
        status: u16,
        from_peer: Option<&Message<'_>>,
    ) -> Answer {
        let timers = self.config.timers;
        let Some(timer_c) = self
            .context(id.context)
            .map(|context| now + context.timer_c)
        else {
            return self.stray();
        };
        let Some(branch) = self.branch_mut(id) else {
            return self.stray();
        };
        let reaction = branch.client.handle_response(now, &timers, status);
        branch
            .silence
            .take_if(|silence| status > 100 || silence.trying_counts);
        if (100..200).contains(&status) && branch.client.may_be_cancelled() {
            // RFC 3261 section 16.7 step 2: each 101 to 199 starts Timer C anew. After CANCEL the
            // limit of section 9.1 stands.
            let cancelled = matches!(branch.cancel, Cancel::Sent(_));
            if !cancelled && (status > 100 || branch.timer_c.is_none()) {
                branch.timer_c = Some(timer_c);
            }
        } else if status >= 200 {
            branch.timer_c = None;
            if let Cancel::Wanted = branch.cancel {
                branch.cancel = Cancel::None;
            }
        }
        if let (Reaction::Acknowledge | Reaction::AcknowledgeAndDeliver, Some(response)) =
            (reaction, from_peer)
        {
            self.acknowledge(id, response);
        }
        if self.branch(id).is_some_and(|branch| {
            matches!(branch.cancel, Cancel::Wanted) && branch.client.may_be_cancelled()
        }) {
            self.send_cancel(now, id);
        }
        self.settle(id.context);
        match reaction {
            Reaction::Deliver | Reaction::AcknowledgeAndDeliver if status > 100 => {
                Answer::Delivered(Delivered { branch: id, status })
            }
            Reaction::Deliver
            | Reaction::AcknowledgeAndDeliver
            | Reaction::Acknowledge
            | Reaction::Absorb => Answer::Absorbed,
        }
    }

    pub(super) fn stray(&mut self) -> Answer {
        self.counters.stray_responses += 1;
        Answer::Stray
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.pop_due(now) {
            let Some(context) = self.context_mut(id) else {
                continue;
            };
            // An entry that an earlier one has replaced: run for nothing, it would be armed again.
            if context.armed.take_if(|armed| *armed == at).is_none() {
                continue;
            }
            let upstreams = context.upstreams.len();
            let branches = context.branches.len();
            for position in 0..upstreams {
                self.run_server(now, id, position);
            }
            for index in 0..branches {
                // TRIES_MAX bounds the number of branches.
                self.run_branch(
                    now,
                    BranchId {
                        context: id,
                        index: index as u8,
                    },
                );
            }
            self.settle(id);
        }
    }

    pub(super) fn run_server(&mut self, now: Instant, id: ContextId, position: usize) {
        let timers = self.config.timers;
        let Some(context) = self.context_mut(id) else {
            return;
        };
        let server = &mut context.upstreams[position].server;
        match server.handle_timeout(now, &timers) {
            Some(Due::Repeat) if matches!(server, Server::NonInvite(_)) => {
                self.respond(now, id, 100, &[]);
            }
            Some(Due::Repeat) => self.send_response(id, position),
            Some(Due::TimedOut) | None => {}
        }
    }

    pub(super) fn run_branch(&mut self, now: Instant, id: BranchId) {
        let timers = self.config.timers;
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if branch
            .silence
            .take_if(|silence| silence.until <= now)
            .is_some()
        {
            self.events.push_back(Event::Silent(id));
        }
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if branch.timer_c.take_if(|at| *at <= now).is_some() {
            branch.client.stop_repeating(now + timers.transaction());
            self.cancel(now, id);
            self.events.push_back(Event::RangTooLong(id));
        }
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        match branch.client.handle_timeout(now, &timers) {
            Some(Due::Repeat) => {
                self.counters.repeats_sent += 1;
                self.send_request(id);
                self.events.push_back(Event::Repeated(id));
            }
            Some(Due::TimedOut) => self.events.push_back(Event::TimedOut(id)),
            None => {}
        }
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if let Cancel::Sent(client) = &mut branch.cancel
            && client.handle_timeout(now, &timers) == Some(Due::Repeat)
        {
            self.write_cancel(id);
        }
    }
}
