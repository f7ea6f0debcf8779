//! What the user wants: open, forward, try again, give up, cancel, respond. RFC 3261 sections 16.6 and 16.10.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use element::FlowId;
use rand::RngCore;
use sip_types::{HeaderName, Message, Method, ResponseHead, Splice};
use smallvec::SmallVec;

use super::wire::{add_via, branch_offset, response_address, write_via};
use super::{Edit, Proxy, TRIES_MAX, live};
use crate::branch::{BranchId, ContextId};
use crate::context::{Branch, Cancel, Context, Silence, Target, Upstream};
use crate::decided;
use crate::transaction::{Client, Server, ServerKey};

impl<C, B> Proxy<C, B> {
    /// Opens a context for a new request; an INVITE is answered with 100 (section 16.2).
    ///
    /// Returns `None` at `contexts_max`. `forward` or `respond` must follow.
    pub fn open(
        &mut self,
        now: Instant,
        key: ServerKey,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        data: C,
    ) -> Option<ContextId> {
        let id = self.insert(message.method() == Method::Invite, data)?;
        let timers = self.config.timers;
        let invite = message.method() == Method::Invite;
        let server = Server::new(now, &timers, invite);
        let peer = response_address(message, source);
        self.servers.insert(key, id);
        let context = self.context_mut(id)?;
        context.upstreams.push(Upstream {
            server,
            key,
            flow,
            peer,
            via: None,
        });
        if invite {
            let head = ResponseHead {
                status: 100,
                reason: b"Trying",
                to_tag: None,
                headers: &[],
            };
            let mut response = Vec::new();
            sip_types::respond_from(message, source, &head, &mut response);
            self.outbox.push(flow, peer, &response);
            if let Some(context) = self.context_mut(id) {
                context.response = response;
                context.response_status = 100;
            }
        }
        Some(id)
    }

    /// Sets how long an INVITE of this context may ring on: Timer C.
    pub fn set_timer_c(&mut self, id: ContextId, timer_c: Duration) {
        if let Some(context) = self.context_mut(id) {
            context.timer_c = timer_c;
        }
    }

    /// Opens a context that answers nobody: an ACK of a 2xx whose way must be watched.
    pub fn open_ack(&mut self, data: C) -> Option<ContextId> {
        self.insert(false, data)
    }

    pub(super) fn insert(&mut self, invite: bool, data: C) -> Option<ContextId> {
        if self.contexts.len() >= self.config.contexts_max {
            return None;
        }
        let generation = self.rng.next_u32();
        let slot =
            self.contexts
                .insert(Context::new(generation, invite, self.config.timer_c, data));
        Some(ContextId {
            slot: u32::try_from(slot).ok()?,
            generation,
        })
    }

    /// Lets a second copy of a context's request share its fate: same responses, nothing sent on.
    pub fn join(
        &mut self,
        now: Instant,
        id: ContextId,
        key: ServerKey,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let timers = self.config.timers;
        let Some(via) = message.top_via() else { return };
        let own_via = message.bytes()[via.range].to_vec().into_boxed_slice();
        let peer = response_address(message, source);
        let Some(context) = self.context_mut(id) else {
            return;
        };
        if context.upstreams.len() >= TRIES_MAX {
            return;
        }
        let server = Server::new(now, &timers, context.invite);
        context.upstreams.push(Upstream {
            server,
            key,
            flow,
            peer,
            via: Some(own_via),
        });
        let position = context.upstreams.len() - 1;
        let status = context.response_status;
        self.servers.insert(key, id);
        if status > 0
            && self.context_mut(id).is_some_and(|context| {
                context.upstreams[position]
                    .server
                    .handle_response(now, &timers, status)
            })
        {
            self.send_response(id, position);
        }
        self.settle(id);
    }

    /// Sends the request of a context on: RFC 3261 section 16.6.
    ///
    /// `edits` holds what the user changes in `message`; Via, Max-Forwards and `received` are added
    /// here. The message is copied once, and later tries are made from the copy.
    #[allow(clippy::too_many_arguments)] // the RFC's own list
    pub fn forward(
        &mut self,
        now: Instant,
        id: ContextId,
        source: SocketAddr,
        message: &Message<'_>,
        edits: &mut Splice,
        loop_key: u32,
        target: Target,
        data: B,
    ) -> Option<BranchId> {
        let own = self.next_branch(id)?;
        let via = self.vias.get(usize::from(target.flow.0))?;
        add_via(edits, message, source, via, &own.write(loop_key));
        let mut sent = Vec::with_capacity(message.bytes().len() + 256);
        edits.apply(message.bytes(), &mut sent);
        edits.clear();
        let branch_at = branch_offset(&sent, via)?;
        let client = self.config.client(now, message.method());
        let context = self.context_mut(id)?;
        context.sent = Some(sent.into_boxed_slice());
        context.branch_at = branch_at;
        context.loop_key = loop_key;
        self.start(own, target, None, client, data)
    }

    /// Tries again, elsewhere: the same request under a new branch.
    ///
    /// With `edit`, the request is changed first: it is given the stored message, whose first Via is
    /// ours, and an empty list of edits. Returns `None` at [`TRIES_MAX`].
    pub fn retry(
        &mut self,
        now: Instant,
        id: ContextId,
        target: Target,
        data: B,
        edit: Option<&mut Edit<'_>>,
    ) -> Option<BranchId> {
        let own = self.next_branch(id)?;
        let context = live(&self.contexts, id)?;
        let first_flow = context.branches.first()?.target.flow;
        let sent = context.sent.as_deref()?;
        let message = Message::parse(sent, &mut self.index).ok()?;
        let client = self.config.client(now, message.method());
        let mut own_copy = None;
        if edit.is_some() || target.flow != first_flow {
            // Another side has another Via; and behind an edited start line it stands elsewhere.
            let via = self.vias.get(usize::from(target.flow.0))?;
            self.splice.clear();
            if target.flow != first_flow {
                let ours = message.headers().next()?;
                self.splice.replace_with(ours.line_range(), |out| {
                    write_via(out, via, &own.write(context.loop_key));
                });
            }
            if let Some(edit) = edit {
                edit(&message, &mut self.splice);
            }
            let mut bytes = Vec::with_capacity(sent.len() + 256);
            self.splice.apply(sent, &mut bytes);
            self.splice.clear();
            let branch_at = branch_offset(&bytes, via)?;
            own_copy = Some((bytes.into_boxed_slice(), branch_at));
        }
        self.start(own, target, own_copy, client, data)
    }

    pub(super) fn next_branch(&self, id: ContextId) -> Option<BranchId> {
        let context = self.context(id)?;
        if context.branches.len() >= TRIES_MAX {
            return None;
        }
        Some(BranchId {
            context: id,
            index: u8::try_from(context.branches.len()).ok()?,
        })
    }

    fn start(
        &mut self,
        id: BranchId,
        target: Target,
        bytes: Option<(Box<[u8]>, u16)>,
        client: Client,
        data: B,
    ) -> Option<BranchId> {
        let context = self.context_mut(id.context)?;
        context.branches.push(Branch {
            client,
            target,
            cancel: Cancel::None,
            timer_c: None,
            silence: None,
            given_up: false,
            bytes,
            data,
        });
        self.send_request(id);
        self.settle(id.context);
        Some(id)
    }

    /// Asks for [`Event::Silent`](super::Event::Silent) when the try has got no response at all by `at`.
    pub fn expect_answer(&mut self, id: BranchId, at: Instant) {
        self.expect(id, at, true);
    }

    /// Asks for the same when it has got nothing but 100 by `at`: a 100 goes from hop to hop and says
    /// nothing of who is behind the next one.
    pub fn expect_word(&mut self, id: BranchId, at: Instant) {
        self.expect(id, at, false);
    }

    fn expect(&mut self, id: BranchId, until: Instant, trying_counts: bool) {
        if let Some(branch) = self
            .branch_mut(id)
            .filter(|branch| branch.client.is_unanswered())
        {
            branch.silence = Some(Silence {
                until,
                trying_counts,
            });
            self.settle(id.context);
        }
    }

    /// Forgets what [`Proxy::expect_answer`] or [`Proxy::expect_word`] asked for.
    pub fn expect_no_answer(&mut self, id: BranchId) {
        if let Some(branch) = self.branch_mut(id) {
            branch.silence = None;
        }
    }

    /// Goes on repeating a try's INVITE, of which its peer has only said that it is trying (section 17.1.1.2 says
    /// SHOULD NOT): a peer that was started anew since has forgotten it, and any other is not disturbed by a repeat.
    pub fn repeat_past_trying(&mut self, now: Instant, id: BranchId) {
        let timers = self.config.timers;
        if let Some(branch) = self.branch_mut(id) {
            branch.client.repeat_past_trying(now, &timers);
            self.settle(id.context);
        }
    }

    /// Ends what [`Proxy::repeat_past_trying`] began: the peer has done more than trying.
    pub fn repeat_no_more(&mut self, id: BranchId) {
        if let Some(branch) = self.branch_mut(id) {
            branch.client.repeat_no_more();
            self.settle(id.context);
        }
    }

    /// Stops repeating a try's request: its peer is dead, or was given up. Late answers still count.
    pub fn stop_repeating(&mut self, now: Instant, id: BranchId, until: Duration) {
        if let Some(branch) = self.branch_mut(id) {
            branch.client.stop_repeating(now + until);
            branch.silence = None;
            self.settle(id.context);
        }
    }

    /// Gives a try up: it no longer decides anything, is not repeated, and is cancelled as soon as it
    /// shows life.
    pub fn give_up(&mut self, now: Instant, id: BranchId) {
        let until = self.config.timers.transaction();
        if let Some(branch) = self.branch_mut(id) {
            branch.given_up = true;
        }
        self.stop_repeating(now, id, until);
        self.cancel(now, id);
    }

    /// Ends a try at once and forgets it: its purpose is fulfilled.
    pub fn conclude(&mut self, id: BranchId) {
        if let Some(branch) = self.branch_mut(id) {
            branch.client.terminate();
            self.settle(id.context);
        }
    }

    /// Cancels an INVITE's try: now if it rings, else with its first provisional (section 9.1). Once.
    pub fn cancel(&mut self, now: Instant, id: BranchId) {
        let Some(branch) = self.branch_mut(id) else {
            return;
        };
        if !matches!(branch.client, Client::Invite(_))
            || !matches!(branch.cancel, Cancel::None)
            || !branch.client.is_pending()
        {
            return;
        }
        branch.cancel = Cancel::Wanted;
        if branch.client.may_be_cancelled() {
            self.send_cancel(now, id);
            self.settle(id.context);
        }
    }

    pub(super) fn send_cancel(&mut self, now: Instant, id: BranchId) {
        let timers = self.config.timers;
        if let Some(branch) = self.branch_mut(id) {
            branch.cancel = Cancel::Sent(Client::new(now, &timers, false));
            branch.timer_c = None;
            // Section 9.1: without a final answer to the INVITE the transaction ends after 64 * T1.
            branch.client.stop_repeating(now + timers.transaction());
            self.write_cancel(id);
        }
    }

    /// Sends a response of a try upstream: RFC 3261 section 16.7 steps 3 and 8.
    ///
    /// `edits` holds what the user changes; the topmost Via is taken off here.
    pub fn forward_response(
        &mut self,
        now: Instant,
        id: ContextId,
        message: &Message<'_>,
        edits: &mut Splice,
    ) {
        edits.remove_leading(message, HeaderName::Via, 1);
        let mut response = std::mem::take(&mut self.spare);
        response.clear();
        edits.apply(message.bytes(), &mut response);
        edits.clear();
        self.deliver(now, id, message.status().unwrap_or(500), response);
    }

    /// Answers the request of a context ourselves.
    pub fn respond(&mut self, now: Instant, id: ContextId, status: u16, headers: &[(&str, &[u8])]) {
        let tag = self.tag();
        let Some(context) = live(&self.contexts, id) else {
            return;
        };
        let Some(sent) = context.sent.as_deref() else {
            return;
        };
        let Ok(message) = Message::parse(sent, &mut self.index) else {
            return;
        };
        self.splice.clear();
        self.splice.remove_leading(&message, HeaderName::Via, 1);
        self.buffer.clear();
        self.splice.apply(sent, &mut self.buffer);
        self.splice.clear();
        let Ok(message) = Message::parse(&self.buffer, &mut self.index) else {
            return;
        };
        if status >= 300 {
            decided!(message, status, "answered without the callee");
        }
        let head = ResponseHead {
            status,
            reason: sip_types::reason_phrase(status).as_bytes(),
            to_tag: Some(&tag),
            headers,
        };
        let mut response = std::mem::take(&mut self.spare);
        response.clear();
        sip_types::respond(&message, &head, &mut response);
        self.deliver(now, id, status, response);
    }

    pub(super) fn deliver(&mut self, now: Instant, id: ContextId, status: u16, response: Vec<u8>) {
        let timers = self.config.timers;
        let Some(context) = self.context_mut(id) else {
            return;
        };
        if context.invite && (200..300).contains(&status) && context.response_status >= 300 {
            // Section 16.7 step 5: a 2xx always goes on, even behind a failure.
            if let Some(upstream) = context.upstreams.first() {
                let (flow, peer) = (upstream.flow, upstream.peer);
                self.outbox.push(flow, peer, &response);
            }
            return;
        }
        let accepted: SmallVec<[usize; 4]> = (0..context.upstreams.len())
            .filter(|position| {
                let server = &mut context.upstreams[*position].server;
                server.handle_response(now, &timers, status)
            })
            .collect();
        if accepted.is_empty() {
            // What was said before stays what is repeated.
            self.spare = response;
            return self.settle(id);
        }
        let before = std::mem::replace(&mut context.response, response);
        context.response_status = status;
        self.spare = before;
        for position in accepted {
            self.send_response(id, position);
        }
        self.settle(id);
    }

    /// Answers a request without a transaction: what must not cost memory.
    pub fn respond_stateless(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        status: u16,
        headers: &[(&str, &[u8])],
    ) {
        self.respond_stateless_because(
            now,
            flow,
            source,
            message,
            status,
            sip_types::reason_phrase(status),
            headers,
        );
    }

    /// Answers a request without a transaction, with a reason phrase of its own. ACK is never answered.
    ///
    /// The ACK of an INVITE refused so is absorbed: by the To tag given here, or, inside a dialog, by
    /// its branch, which is remembered for 64 * T1 ([`Proxy::remember_refused`]).
    #[allow(clippy::too_many_arguments)] // a request, whence it came, and an answer
    pub fn respond_stateless_because(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        status: u16,
        reason: &str,
        headers: &[(&str, &[u8])],
    ) {
        if message.method() == Method::Ack || message.is_response() {
            return;
        }
        if message.method() == Method::Invite && message.to_tag().is_some() && status >= 300 {
            self.remember_refused(now, message, status);
        }
        if status >= 300 {
            decided!(message, status, reason, remote_addr = %source, "refused");
        }
        let tag = self.stateless_tag(message);
        let peer = response_address(message, source);
        let head = ResponseHead {
            status,
            reason: reason.as_bytes(),
            to_tag: Some(&tag),
            headers,
        };
        self.outbox.push_with(flow, peer, |out| {
            sip_types::respond_from(message, source, &head, out)
        });
    }

    /// Remembers for 64 * T1 that an INVITE was refused: repeats get the same status, and the ACK is
    /// absorbed. At [`REFUSED_MAX`](crate::refused::REFUSED_MAX) the oldest is forgotten.
    pub fn remember_refused(&mut self, now: Instant, invite: &Message<'_>, status: u16) {
        let until = now + self.config.timers.transaction();
        if let Some(key) = self.invite_key(invite) {
            self.refused.remember(now, until, key, status);
        }
    }

    /// Sends a request on without remembering it: the second pass of an ACK.
    pub fn forward_stateless(
        &mut self,
        source: SocketAddr,
        message: &Message<'_>,
        edits: &mut Splice,
        target: Target,
    ) {
        let Some(via) = self.vias.get(usize::from(target.flow.0)) else {
            return edits.clear();
        };
        // Section 16.11: the same for a repeat, different for anything else.
        let Some(key) = ServerKey::of(&self.hash_key, message, Method::Ack) else {
            return edits.clear();
        };
        let branch = key.stateless_branch();
        add_via(edits, message, source, via, &branch);
        self.outbox
            .push_with(target.flow, target.destination, |out| {
                edits.apply(message.bytes(), out)
            });
        edits.clear();
    }

    /// Sends a response on without a transaction: off comes the topmost Via, the next says where to.
    pub fn forward_response_stateless(&mut self, flow: FlowId, message: &Message<'_>) -> bool {
        let Some(Ok(next)) = message.vias().nth(1) else {
            return false;
        };
        let Some(destination) = next.sent_by_addr() else {
            return false;
        };
        self.splice.clear();
        self.splice.remove_leading(message, HeaderName::Via, 1);
        let Self { splice, outbox, .. } = self;
        outbox.push_with(flow, destination, |out| splice.apply(message.bytes(), out));
        splice.clear();
        true
    }
}
