//! The request route: every request that is not the node's own business starts here.

use std::net::SocketAddr;
use std::time::Instant;

use element::FlowId;
use sip::Offered;
use sip_types::{HeaderName, Index, Message, Method};

use crate::shard::Shard;
use crate::view::View;
use sip::Drop;

/// One request and where it came from.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) flow: FlowId,
    pub(crate) source: SocketAddr,
    pub(crate) from_router: bool,
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
        from_router: bool,
        message: &Message<'_>,
    ) {
        if !from_router && !view.allows(source) {
            return self.counters.drops.count(Drop::NotAllowed);
        }
        let key = match self.proxy.offer_request(now, flow, source, message) {
            Offered::New(key) => key,
            Offered::Absorbed => return,
            Offered::Cancel(context) => return self.cancel(now, context),
            Offered::Unanswerable => return self.counters.drops.count(Drop::Unanswerable),
        };
        if let Some(meant) = sip::route::undo_strict(message, |uri| view.is_own_uri(uri)) {
            let mut index = Index::new();
            if let Ok(message) = Message::parse(&meant, &mut index) {
                return self.handle_request(now, view, flow, source, from_router, &message);
            }
        }
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
        let loop_key = sip::loop_key(self.proxy.hash_key(), message, from_router);
        if self.proxy.is_loop(message, loop_key) {
            self.counters.drops.count(Drop::Loop);
            return refuse(self, 482, &[]);
        }
        let request = Request {
            flow,
            source,
            from_router,
            message,
            loop_key,
        };
        if from_router && let Some(first) = self.bound_to(message) {
            return self.second_pass(now, view, key, &request, first);
        }
        if message.to_tag().is_some() {
            return self.within_dialog(now, view, key, &request);
        }
        if message.method() == Method::Ack {
            return self.counters.drops.count(Drop::StrayAck);
        }
        if from_router {
            // A router decides where new requests go; we never ask another one on its behalf.
            return self.originated_by_router(now, view, key, &request);
        }
        self.dispatch(now, view, key, &request);
    }
}
