//! The request route: every request that is not the node's own business starts here.

use std::net::SocketAddr;
use std::time::Instant;

use element::FlowId;
use sip::{BranchId, Drop, Offered};
use sip_types::{HeaderName, Message, Method};

use crate::shard::Shard;
use crate::view::View;

/// One request and where it came from.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) flow: FlowId,
    pub(crate) source: SocketAddr,
    pub(crate) message: &'a Message<'a>,
    pub(crate) loop_key: u32,
}

/// What `Retry-After` says when a call is refused for now, in seconds.
pub(crate) const RETRY_AFTER: (&str, &[u8]) = ("Retry-After", b"2");

impl Shard {
    pub(crate) fn handle_request(
        &mut self,
        now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let key = match self.proxy.offer_request(now, flow, source, message) {
            Offered::New(key) => key,
            Offered::Absorbed => return,
            Offered::Cancel(context) => return self.cancel(now, context),
            Offered::Unanswerable => return self.counters.drops.count(Drop::Unanswerable),
        };
        if let Err(fault) = message.check() {
            self.counters.drops.count(Drop::Insane);
            return self.proxy.respond_stateless_because(
                flow,
                source,
                message,
                fault.status(),
                fault.reason(),
                &[],
            );
        }
        let refuse = |shard: &mut Self, status, headers: &[(&str, &[u8])]| {
            shard
                .proxy
                .respond_stateless(flow, source, message, status, headers);
        };
        if message.method() == Method::Cancel {
            return refuse(self, 481, &[]);
        }
        if !sip::leaves_room(message) {
            return refuse(self, 513, &[]);
        }
        if matches!(message.max_forwards(), Some(Ok(0))) {
            return refuse(self, 483, &[]);
        }
        if let Some(required) = message.header(HeaderName::ProxyRequire) {
            return refuse(self, 420, &[("Unsupported", required.value())]);
        }
        let loop_key = sip::loop_key(self.proxy.hash_key(), message, false);
        if self.proxy.is_loop(message, loop_key) {
            self.counters.drops.count(Drop::Loop);
            return refuse(self, 482, &[]);
        }
        let request = Request {
            flow,
            source,
            message,
            loop_key,
        };
        if message.to_tag().is_some() {
            return self.within_dialog(now, view, key, &request);
        }
        if message.method() == Method::Ack {
            return self.counters.drops.count(Drop::StrayAck);
        }
        if view.draining || !view.ready || !self.dialogs.has_room() || !self.proxy.has_room() {
            self.counters.calls_refused += 1;
            return refuse(self, 503, &[RETRY_AFTER]);
        }
        self.turn = self.turn.wrapping_add(1);
        match view.rules.decide(
            &view.sets,
            view.first_sender(source, message),
            self.turn,
            message,
        ) {
            None => {
                self.counters.drops.count(Drop::NoRoute);
                refuse(self, 404, &[]);
            }
            Some(hops) if hops.is_empty() => {
                self.counters.calls_refused += 1;
                refuse(self, 503, &[RETRY_AFTER]);
            }
            Some(hops) => self.relay_new(now, view, key, &request, hops),
        }
    }

    /// Cancels a request; the CANCEL itself has been answered.
    fn cancel(&mut self, now: Instant, id: sip::ContextId) {
        let Some(call) = self.proxy.data_mut(id) else {
            return;
        };
        call.cancelled = true;
        let tries = self
            .proxy
            .context(id)
            .map_or(0, |context| context.branches().len());
        for index in 0..tries {
            self.proxy.cancel(
                now,
                BranchId {
                    context: id,
                    index: index as u8,
                },
            );
        }
    }
}
