//! Requests back to the SBC they came from, responses likewise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use element::FlowId;
use host::Egress;
use sip::transaction::ServerKey;
use sip::{Answer, BranchId, Drop, RETRY_AFTER, Target, decided};
use sip_types::{HeaderName, Message, Method, Splice};

use crate::decision::Hop;
use crate::routes::request::Request;
use crate::shard::{Call, Shard};
use crate::view::View;

impl Shard {
    /// Returns the SBC that a request came from: it goes back there, whichever SBC its Route names.
    pub(crate) fn back(request: &Request<'_>) -> Target {
        Target {
            flow: request.flow,
            destination: request.source,
        }
    }

    pub(crate) fn relay_new(
        &mut self,
        now: Instant,
        view: &View,
        key: ServerKey,
        request: &Request<'_>,
        hops: Arc<[Hop]>,
    ) {
        let &Request {
            flow,
            source,
            message,
            loop_key,
        } = request;
        let own = view.own_routes(message);
        if own > 0 {
            self.edits.remove_leading(message, HeaderName::Route, own);
        }
        let did =
            (message.method() == Method::Invite).then(|| self.draw_did(view, message.call_id()));
        if message.method() != Method::Register
            && let Some(listen) = view.listen.get(usize::from(flow.0))
        {
            let at = message.insertion_point(HeaderName::RecordRoute);
            let direct = match view.egress {
                Egress::Sbc => "",
                Egress::Direct => ";direct",
            };
            self.edits.insert_with(at, |out| {
                write(out, format_args!("Record-Route: <sip:{listen};lr{direct}"));
                if let Some(did) = did {
                    write(out, format_args!(";did={did}"));
                }
                out.extend_from_slice(b">\r\n");
            });
        }
        let mut target = Self::back(request);
        if let Some(hop) = hops.first() {
            target = towards(hop, target);
            decided!(message, destination = &*hop.uri, "routed");
            if hop.direct.is_some() {
                sip::private::strip(&mut self.edits, message);
            }
            name_hop(&mut self.edits, message, hop);
        }
        let rewritten = hops.first().is_some_and(|hop| hop.request_uri.is_some());
        let call = Call {
            hops,
            came_as: rewritten.then(|| message.request_uri().into()),
            at: 0,
            cancelled: false,
            h_id: did.map(|did| did.h_id),
            within: None,
        };
        match self.proxy.open(now, key, flow, source, message, call) {
            Some(id) => {
                self.counters.calls += u64::from(message.method() == Method::Invite);
                let sent = self.proxy.forward(
                    now,
                    id,
                    source,
                    message,
                    &mut self.edits,
                    loop_key,
                    target,
                    (),
                );
                if let Some(branch) = sent {
                    self.expect_word(now, branch);
                    if let Some(did) = did {
                        self.saw_invite(did.h_id, message);
                    }
                }
            }
            None => {
                self.counters.calls_refused += 1;
                self.proxy
                    .respond_stateless(now, flow, source, message, 503, &[RETRY_AFTER]);
            }
        }
        self.edits.clear();
    }

    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        view: &View,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        match self.proxy.handle_response(now, message) {
            Answer::Delivered(delivered) => {
                self.answered(now, delivered.branch, delivered.status, message)
            }
            Answer::Absorbed => {}
            Answer::Stray if view.may_pass_statelessly(source, message) => {
                if self.proxy.forward_response_stateless(flow, message) {
                    self.counters.passed_statelessly += 1;
                }
            }
            Answer::Stray => self
                .counters
                .drops
                .count(Drop::StrayResponse, source, message),
        }
    }

    fn answered(&mut self, now: Instant, branch: BranchId, status: u16, message: &Message<'_>) {
        let is_success = (200..300).contains(&status);
        if !is_success && self.is_given_up(branch) {
            // Another place has it. A provisional has set off its CANCEL, a failure has been acknowledged.
            return;
        }
        if matches!(status, 408 | 502 | 503 | 504) && self.try_next_hop(now, branch.context) {
            return;
        }
        if is_success {
            // RFC 3261 section 16.7 step 10: what a place that kept silent for too long has begun.
            self.cancel_all(now, branch.context);
        }
        self.saw_response(branch.context, status, message);
        self.proxy
            .forward_response(now, branch.context, message, &mut self.edits);
        self.edits.clear();
        if status >= 300 {
            self.saw_failure(branch.context, message);
        }
    }
}

/// Returns where a request for `hop` is sent; `back` is its SBC.
pub(crate) fn towards(hop: &Hop, back: Target) -> Target {
    let destination = hop.direct.unwrap_or(back.destination);
    Target {
        destination,
        ..back
    }
}

/// Tells the SBC where to send a request, and changes what the rule says.
pub(crate) fn name_hop(edits: &mut Splice, message: &Message<'_>, hop: &Hop) {
    match message.header(HeaderName::XDestinationUri) {
        _ if hop.direct.is_some() => {}
        Some(header) => edits.replace(header.value_range(), hop.uri.as_bytes()),
        None => edits.insert_with(message.headers_end(), |out| {
            write(out, format_args!("X-Destination-URI: {}\r\n", hop.uri));
        }),
    }
    if let Some(uri) = &hop.request_uri {
        edits.replace(message.request_uri_range(), uri.as_bytes());
    }
    for (name, value) in headers_of(hop) {
        edits.insert_with(message.headers_end(), |out| {
            write(out, format_args!("{name}: {value}\r\n"))
        });
    }
}

/// Returns the headers that a place adds: those for the SBC only if it gets to see them.
fn headers_of(hop: &Hop) -> impl DoubleEndedIterator<Item = &(String, String)> {
    let is_private = |name: &str| sip::private::is_private(HeaderName::from_bytes(name.as_bytes()));
    let leaves = move |name: &str| hop.direct.is_none() || !is_private(name);
    hop.headers.iter().filter(move |(name, _)| leaves(name))
}

/// Takes off the headers that [`name_hop`] added: the last ones, in their order. What came with the
/// request stays, be it of the same name.
pub(crate) fn unname_hop(edits: &mut Splice, message: &Message<'_>, hop: &Hop) {
    let lines: Vec<_> = message.headers().collect();
    let mut added = headers_of(hop).rev().peekable();
    for line in lines.iter().rev() {
        let is_next = |(name, value): &&(String, String)| {
            line.name_bytes().eq_ignore_ascii_case(name.as_bytes())
                && line.value() == value.trim().as_bytes()
        };
        if added.next_if(is_next).is_some() {
            edits.remove_header(line);
        }
    }
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    out.write_fmt(text)
        .expect("writing into memory does not fail");
}
