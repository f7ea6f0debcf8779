//! A new request from outside: set 1 by its Call-ID.

use std::time::Instant;

use element::FlowId;
use sip::transaction::ServerKey;
use sip::{RETRY_AFTER, Target, decided};
use sip_types::{HeaderName, Method};

use crate::headers;
use crate::pass::{First, Pass, Try};
use crate::routes::request::Request;
use crate::shard::Shard;
use crate::view::View;

impl Shard {
    pub(crate) fn dispatch(
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
            loop_key,
            ..
        } = request;
        let refuse = |shard: &mut Self| {
            shard.counters.calls_refused += 1;
            shard
                .proxy
                .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]);
        };
        if view.draining || !self.dialogs.has_room() || !self.proxy.has_room() {
            return refuse(self);
        }
        self.turn = self.turn.wrapping_add(1);
        let Some(router) = view.router_for(message.call_id(), self.turn, &[]) else {
            return refuse(self);
        };
        let pass = Pass::First(First::default());
        let Some(context) = self.proxy.open(now, key, flow, source, message, pass) else {
            return refuse(self);
        };
        if message.method() == Method::Invite {
            self.counters.calls += 1;
        }
        decided!(message, destination = %router, "dispatched");
        headers::strip(&mut self.edits, message);
        // A preloaded Route would let a stranger choose our next hop.
        self.edits.remove_headers(message, HeaderName::Route);
        headers::add_forwarded_for(&mut self.edits, message, source);
        headers::add_record_route(&mut self.edits, message, view, view.outside, view.inside);
        let target = Target {
            flow: view.inside,
            destination: router,
        };
        let sent = self.proxy.forward(
            now,
            context,
            source,
            message,
            &mut self.edits,
            loop_key,
            target,
            Try::at_router(),
        );
        self.edits.clear();
        if let Some(branch) = sent {
            self.given_to_router(now, view, branch, router);
        }
    }

    /// Takes note of a first pass that has just been sent to `router`.
    pub(crate) fn given_to_router(
        &mut self,
        now: Instant,
        view: &View,
        branch: sip::BranchId,
        router: std::net::SocketAddr,
    ) {
        self.signs.owing(router);
        if !self.is_direct(branch.context) || !view.lives(router) {
            self.proxy
                .expect_answer(branch, now + view.patience(router));
        }
    }

    /// Tells whether a request's router sends straight on, so that the callee may be the slow one.
    pub(crate) fn is_direct(&self, id: sip::ContextId) -> bool {
        matches!(self.proxy.data(id), Some(Pass::First(pass)) if pass.direct)
    }

    /// Returns the target for an address that is not a router's.
    pub(crate) fn outward(view: &View, destination: std::net::SocketAddr) -> Target {
        let flow: FlowId = view.outside;
        Target { flow, destination }
    }
}
