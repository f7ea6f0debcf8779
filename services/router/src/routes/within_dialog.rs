//! A request inside a dialog, along its route set: RFC 3261 section 16.4. Back to the SBC, which
//! follows the rest of the route set, or straight along it: `sip.egress`.
//!
//! Every router address of the cluster counts as own for Route, so that an heir serves the dialogs of
//! the dead, and one it has never seen just as well.

use std::time::Instant;

use host::Egress;
use sip::transaction::ServerKey;
use sip::{Drop, RETRY_AFTER, decided};
use sip_types::{HeaderName, Method};

use crate::routes::request::Request;
use crate::seen::named_dialog;
use crate::shard::{Call, Shard};
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
            message,
            loop_key,
        } = request;
        let own = view.own_routes(message);
        let mut target = Self::back(request);
        match view.egress {
            Egress::Sbc if own > 0 => self.edits.remove_leading(message, HeaderName::Route, own),
            Egress::Sbc => {}
            Egress::Direct => {
                let Some(destination) = view.next_hop(message, own) else {
                    self.counters
                        .drops
                        .count(Drop::Unresolvable, source, message);
                    return self.proxy.respond_stateless(
                        now,
                        flow,
                        source,
                        message,
                        503,
                        &[RETRY_AFTER],
                    );
                };
                target.destination = destination;
                sip::private::strip(&mut self.edits, message);
                sip::route::pass_routes(&mut self.edits, message, own);
            }
        }
        decided!(message, destination = %target.destination, "passed on within its dialog");
        let within = named_dialog(message);
        self.saw_request(within, message);
        if message.method() == Method::Ack {
            self.proxy
                .forward_stateless(source, message, &mut self.edits, target);
            return self.edits.clear();
        }
        let call = Call {
            hops: [].into(),
            came_as: None,
            at: 0,
            cancelled: false,
            h_id: None,
            within,
        };
        match self.proxy.open(now, key, flow, source, message, call) {
            Some(id) => {
                self.proxy.forward(
                    now,
                    id,
                    source,
                    message,
                    &mut self.edits,
                    loop_key,
                    target,
                    (),
                );
            }
            None => self
                .proxy
                .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]),
        }
        self.edits.clear();
    }
}
