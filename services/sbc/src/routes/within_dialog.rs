//! A request inside a dialog, along its route set: RFC 3261 section 16.4, and section 2 of docs/failover.md.

use std::time::Instant;

use sip::transaction::ServerKey;
use sip::{Drop, RETRY_AFTER, Target, decided};
use sip_types::Method;

use crate::headers;
use crate::pass::{First, Pass, Try};
use crate::routes::request::Request;
use crate::shard::Shard;
use crate::view::View;

impl Shard {
    pub(crate) fn within_dialog(
        &mut self,
        now: Instant,
        view: &View,
        key: ServerKey,
        request: &Request<'_>,
    ) {
        let &Request {
            flow,
            source,
            from_router,
            message,
            loop_key,
        } = request;
        let own = view.own_routes(message);
        if !from_router && !view.has_pass(message) && !self.dialogs.knows(message) {
            self.counters
                .drops
                .count(Drop::UnknownDialog, source, message);
            return self
                .proxy
                .respond_stateless(now, flow, source, message, 481, &[]);
        }
        let is_ack = message.method() == Method::Ack;
        let route = if from_router {
            None
        } else {
            view.router_route(message, own)
        };
        let router = route.and_then(|route| view.heir(message.call_id(), route, &[]));
        let direct = view.is_direct_route(message, own);
        let (pass, data, target, routes) = match router {
            Some(router) => {
                let pass = Pass::First(First {
                    route,
                    direct,
                    ..First::default()
                });
                (
                    pass,
                    Try::at_router(),
                    Target {
                        flow: view.inside,
                        destination: router,
                    },
                    own,
                )
            }
            None => {
                // No router has a part in it, or none is left: its Route is passed over.
                let passed_over = view.cluster_routes(message);
                let next = view.next_hop(message, passed_over);
                let Some(hop) = self.address_of(now, next, request) else {
                    return;
                };
                let target = Self::outward(view, hop.address);
                (
                    Pass::Plain,
                    Try::at_address_of(hop.name),
                    target,
                    passed_over,
                )
            }
        };
        decided!(message, destination = %target.destination, heir = router != route, "passed on within its dialog");
        headers::strip(&mut self.edits, message);
        sip::route::pass_routes(&mut self.edits, message, routes);
        if is_ack && (router.is_none() || direct) {
            // Nothing will come back that could be waited for.
            self.proxy
                .forward_stateless(source, message, &mut self.edits, target);
            return self.edits.clear();
        }
        let context = if is_ack {
            self.proxy.open_ack(pass)
        } else {
            self.proxy.open(now, key, flow, source, message, pass)
        };
        let Some(context) = context else {
            self.edits.clear();
            return self
                .proxy
                .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]);
        };
        let sent = self.proxy.forward(
            now,
            context,
            source,
            message,
            &mut self.edits,
            loop_key,
            target,
            data,
        );
        self.edits.clear();
        match (sent, router) {
            (Some(branch), Some(router)) => self.given_to_router(now, view, branch, router),
            (Some(branch), None) => self.watch_address(now, branch),
            (None, _) => {}
        }
    }
}
