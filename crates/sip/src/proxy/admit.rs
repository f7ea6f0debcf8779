//! What every element asks of a request before its routes see it: RFC 3261 sections 8.2 and 16.3.

use std::net::SocketAddr;
use std::time::Instant;

use element::FlowId;
use sip_types::{HeaderName, Message, Method, Scheme, Uri};

use super::{Offered, Proxy, leaves_room};
use crate::branch::{ContextId, loop_key};
use crate::drops::{Drop, Drops};
use crate::transaction::ServerKey;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// New and sound: for the routes.
    New {
        /// Names the transaction that [`Proxy::open`] would make of it.
        key: ServerKey,
        /// What goes into the branches under which it leaves.
        loop_key: u32,
    },
    /// CANCEL of this context's request: answered with 200; the rest is up to the user.
    Cancel(ContextId),
    /// It repeats what is known, or was refused: dealt with.
    Dealt,
}

impl<C, B> Proxy<C, B> {
    /// Takes a request as far as it goes the same way for everybody: own transactions, sanity, CANCEL
    /// of nothing (481), size (513), `sips:` (416), Max-Forwards (483), Proxy-Require (420), loops (482).
    ///
    /// `from_member` tells whether a router sent it: its second pass is no loop.
    pub fn admit(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
        from_member: bool,
        drops: &mut Drops,
    ) -> Admission {
        let key = match self.offer_request(now, flow, source, message) {
            Offered::New(key) => key,
            Offered::Absorbed => return Admission::Dealt,
            Offered::Cancel(context) => return Admission::Cancel(context),
            Offered::Unanswerable => {
                drops.count(Drop::Unanswerable, source, message);
                return Admission::Dealt;
            }
        };
        if let Err(fault) = message.check() {
            drops.count(Drop::Insane, source, message);
            let (status, reason) = (fault.status(), fault.reason());
            self.respond_stateless_because(now, flow, source, message, status, reason, &[]);
            return Admission::Dealt;
        }
        let loop_key = loop_key(self.hash_key(), message, from_member);
        let required = message.header(HeaderName::ProxyRequire);
        let unsupported = required.map(|required| ("Unsupported", required.value()));
        let status = if message.method() == Method::Cancel {
            481
        } else if !leaves_room(message) {
            513
        } else if is_sips(message) {
            drops.count(Drop::Insecure, source, message);
            416
        } else if matches!(message.max_forwards(), Some(Ok(0))) {
            483
        } else if unsupported.is_some() {
            420
        } else if self.is_loop(message, loop_key) {
            drops.count(Drop::Loop, source, message);
            482
        } else {
            return Admission::New { key, loop_key };
        };
        let headers = unsupported.filter(|_| status == 420);
        self.respond_stateless(now, flow, source, message, status, headers.as_slice());
        Admission::Dealt
    }
}

/// Tells whether a request must reach its end over TLS on every hop, RFC 3261 section 26.2.2: over UDP
/// it must not go on, and its scheme is one that we do not support (section 16.3 step 2).
fn is_sips(message: &Message<'_>) -> bool {
    Uri::parse(message.request_uri()).is_ok_and(|uri| uri.scheme == Scheme::Sips)
}
