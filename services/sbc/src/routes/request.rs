//! The request route: every request that is not the node's own business starts here.

use std::net::SocketAddr;
use std::time::Instant;

use element::FlowId;
use sip::{Admission, Drop};
use sip_types::{Index, Message, Method};

use crate::shard::Shard;
use crate::view::View;

/// One request and where it came from.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) flow: FlowId,
    pub(crate) source: SocketAddr,
    pub(crate) from_router: bool,
    pub(crate) message: &'a Message<'a>,
    pub(crate) loop_key: u32,
}

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
            return self.counters.drops.count(Drop::NotAllowed, source, message);
        }
        if let Some(meant) = sip::route::undo_strict(message, |uri| view.is_own_uri(uri))
            && let Ok(message) = Message::parse(&meant, &mut Index::new())
        {
            return self.route_request(now, view, flow, source, from_router, &message);
        }
        self.route_request(now, view, flow, source, from_router, message);
    }

    fn route_request(
        &mut self,
        now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        from_router: bool,
        message: &Message<'_>,
    ) {
        if self.cancel_waiting(now, flow, source, message) {
            return;
        }
        let drops = &mut self.counters.drops;
        let admission = self
            .proxy
            .admit(now, flow, source, message, from_router, drops);
        let (key, loop_key) = match admission {
            Admission::New { key, loop_key } => (key, loop_key),
            Admission::Cancel(context) => return self.cancel(now, context),
            Admission::Dealt => return,
        };
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
            return self.counters.drops.count(Drop::StrayAck, source, message);
        }
        if from_router {
            // A router decides where new requests go; we never ask another one on its behalf.
            return self.originated_by_router(now, view, key, &request);
        }
        self.dispatch(now, view, key, &request);
    }
}
