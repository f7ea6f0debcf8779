//! The request route: every request that is not the node's own business starts here.

use std::net::SocketAddr;
use std::time::Instant;

use element::FlowId;
use sip::{Admission, BranchId, Drop, RETRY_AFTER};
use sip_types::{Message, Method};

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

impl Shard {
    pub(crate) fn handle_request(
        &mut self,
        now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let drops = &mut self.counters.drops;
        let admission = self.proxy.admit(now, flow, source, message, false, drops);
        let (key, loop_key) = match admission {
            Admission::New { key, loop_key } => (key, loop_key),
            Admission::Cancel(context) => return self.cancel(now, context),
            Admission::Dealt => return,
        };
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
            return self.counters.drops.count(Drop::StrayAck, source, message);
        }
        let refuse = |shard: &mut Self, status, headers: &[(&str, &[u8])]| {
            shard
                .proxy
                .respond_stateless(now, flow, source, message, status, headers);
        };
        if view.draining || !view.configured || view.full || !self.proxy.has_room() {
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
                self.counters.drops.count(Drop::NoRoute, source, message);
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
        self.cancel_all(now, id);
    }

    /// Cancels every try of a context that still waits for a final response.
    pub(crate) fn cancel_all(&mut self, now: Instant, id: sip::ContextId) {
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
