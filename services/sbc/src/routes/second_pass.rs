//! A request that a router sends back to us: bound to the first pass under whose branch it comes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sip::transaction::ServerKey;
use sip::{BranchId, Drop, RETRY_AFTER, Target, decided};
use sip_types::{HeaderName, Message, Method, Uri};

use crate::headers;
use crate::names::{Hop, NextHop};
use crate::pass::{Pass, Try};
use crate::routes::request::Request;
use crate::shard::Shard;
use crate::view::View;
use element::FlowId;

/// Timer C of a second pass: the router and then the first pass give up before it does.
const TIMER_C: Duration = Duration::from_secs(195);

impl Shard {
    /// Returns the branch of ours that a request from a router has come back under, live or not.
    ///
    /// By the Via below the topmost, never by Call-ID: a call may hairpin twice.
    pub(crate) fn bound_to(&self, message: &Message<'_>) -> Option<BranchId> {
        let below = message.vias().nth(1)?.ok()?;
        if !below
            .sent_by_addr()
            .is_some_and(|address| self.proxy.is_listen_address(address))
        {
            return None;
        }
        below
            .branch
            .and_then(BranchId::read)
            .map(|(branch, _)| branch)
    }

    pub(crate) fn second_pass(
        &mut self,
        now: Instant,
        view: &View,
        key: ServerKey,
        request: &Request<'_>,
        first: BranchId,
    ) {
        let &Request {
            flow,
            source,
            message,
            ..
        } = request;
        if let Some(same) = self.copy_of(first, request) {
            return self.proxy.join(now, same, key, flow, source, message);
        }
        if !self.is_live(first, source) {
            self.counters.late_second_passes += 1;
            if message.method() != Method::Ack {
                self.proxy
                    .respond_stateless(now, flow, source, message, 482, &[]);
                self.signs.owing(source);
            }
            return;
        }
        let in_dialog = message.to_tag().is_some();
        if message.method() == Method::Ack {
            return self.forward_ack(now, view, request, first);
        }
        let Some(hop) = self.next_hop(now, view, request, in_dialog) else {
            return;
        };
        let Some(context) =
            self.proxy
                .open(now, key, flow, source, message, Pass::Second { first })
        else {
            return self
                .proxy
                .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]);
        };
        if let Some(data) = self.proxy.branch_data_mut(first) {
            data.bound.push(context);
        }
        self.proxy.set_timer_c(context, TIMER_C);
        self.proxy.expect_no_answer(first);
        self.proxy.repeat_no_more(first);
        self.send_outward(now, view, context, request, hop);
    }

    /// A new request that a router makes by itself goes where the router says, or nowhere.
    pub(crate) fn originated_by_router(
        &mut self,
        now: Instant,
        view: &View,
        key: ServerKey,
        request: &Request<'_>,
    ) {
        let &Request {
            flow,
            source,
            message,
            ..
        } = request;
        let Some(hop) = self.next_hop(now, view, request, false) else {
            return;
        };
        match self
            .proxy
            .open(now, key, flow, source, message, Pass::Plain)
        {
            Some(context) => self.send_outward(now, view, context, request, hop),
            None => self
                .proxy
                .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]),
        }
    }

    /// Sends the second pass of an ACK on: nothing of it is remembered.
    fn forward_ack(&mut self, now: Instant, view: &View, request: &Request<'_>, first: BranchId) {
        let &Request {
            source, message, ..
        } = request;
        let Some(hop) = self.next_hop(now, view, request, true) else {
            return;
        };
        self.proxy.conclude(first);
        self.edit_outward(view, message);
        self.proxy.forward_stateless(
            source,
            message,
            &mut self.edits,
            Self::outward(view, hop.address),
        );
        self.edits.clear();
    }

    pub(crate) fn send_outward(
        &mut self,
        now: Instant,
        view: &View,
        context: sip::ContextId,
        request: &Request<'_>,
        hop: Hop,
    ) {
        let &Request {
            source,
            message,
            loop_key,
            ..
        } = request;
        decided!(message, destination = %hop.address, "delivered");
        self.edit_outward(view, message);
        let target: Target = Self::outward(view, hop.address);
        let sent = self.proxy.forward(
            now,
            context,
            source,
            message,
            &mut self.edits,
            loop_key,
            target,
            Try::at_address_of(hop.name),
        );
        self.edits.clear();
        if let Some(branch) = sent {
            self.watch_address(now, branch);
        }
    }

    /// Edits what leaves to anything but a router.
    fn edit_outward(&mut self, view: &View, message: &Message<'_>) {
        headers::strip(&mut self.edits, message);
        sip::route::pass_routes(&mut self.edits, message, view.own_routes(message));
        if message.to_tag().is_none() {
            headers::add_record_route(&mut self.edits, message, view, view.inside, view.outside);
        }
    }

    /// Returns where a request from a router goes; lets it wait or answers it when that is not known.
    fn next_hop(
        &mut self,
        now: Instant,
        view: &View,
        request: &Request<'_>,
        in_dialog: bool,
    ) -> Option<Hop> {
        let &Request {
            flow,
            source,
            message,
            ..
        } = request;
        let next = if in_dialog {
            view.next_hop(message, view.own_routes(message))
        } else {
            let Some(header) = message.header(HeaderName::XDestinationUri) else {
                self.counters
                    .drops
                    .count(Drop::NoDestination, source, message);
                self.proxy
                    .respond_stateless(now, flow, source, message, 500, &[]);
                return None;
            };
            Uri::parse(header.value()).map_or(NextHop::Nowhere, |uri| view.resolve(&uri))
        };
        self.address_of(now, next, request)
    }

    /// Returns the address of a next hop; lets the request wait for a name, or refuses it.
    pub(crate) fn address_of(
        &mut self,
        now: Instant,
        next: NextHop,
        request: &Request<'_>,
    ) -> Option<Hop> {
        let &Request {
            flow,
            source,
            message,
            ..
        } = request;
        match next {
            NextHop::Known(hop) => {
                if let Some(name) = &hop.name {
                    self.signs.need(name);
                }
                return Some(hop);
            }
            NextHop::Ask(name) => {
                if !self.wait_for_name(now, name, flow, source, message) {
                    self.refuse_unresolvable(now, flow, source, message);
                }
            }
            NextHop::Insecure => self.refuse_insecure(now, flow, source, message),
            NextHop::Nowhere => self.refuse_unresolvable(now, flow, source, message),
        }
        None
    }

    pub(crate) fn refuse_unresolvable(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        self.counters
            .drops
            .count(Drop::Unresolvable, source, message);
        self.proxy
            .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]);
    }

    /// A next hop that must be reached over TLS is no next hop: RFC 3261 section 26.2.2.
    fn refuse_insecure(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        self.counters.drops.count(Drop::Insecure, source, message);
        let reason = "No TLS For A sips Next Hop";
        self.proxy
            .respond_stateless_because(now, flow, source, message, 503, reason, &[]);
    }

    /// Returns the bound second pass that a request repeats under another branch: its router was
    /// restarted in between, and the copy shares the first one's fate. A fork goes elsewhere, which
    /// the loop key tells.
    fn copy_of(&self, first: BranchId, request: &Request<'_>) -> Option<sip::ContextId> {
        let branch = self.proxy.branch(first)?;
        let in_dialog = request.message.to_tag().is_some();
        let is_same =
            |context: &sip::Context<Pass, Try>| in_dialog || context.loop_key() == request.loop_key;
        let mut bound = branch.data.bound.iter().copied();
        bound.find(|id| self.proxy.context(*id).is_some_and(is_same))
    }

    /// Tells whether something may still be delivered under a branch of ours.
    fn is_live(&self, first: BranchId, source: SocketAddr) -> bool {
        let Some(context) = self.proxy.context(first.context) else {
            return false;
        };
        let Some(branch) = self.proxy.branch(first) else {
            return false;
        };
        let Pass::First(pass) = &context.data else {
            return false;
        };
        branch.data.router
            && branch.target.destination == source
            && branch.is_pending()
            && !branch.is_given_up()
            && !branch.data.lost
            && !pass.cancelled
    }
}
