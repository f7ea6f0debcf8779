//! What passes of a dialog, told to the node, which tells the cell.
//!
//! Kamailio's dialog module does the same on `dlg_manage()`. Nothing is looked up here: whether a
//! message belongs to a dialog, and whose, is the replica's business.

use dmq_bodies::{Did, slot};
use rand::RngCore;
use replication::{Cause, LegSeen, Observation, Observed, Text};
use sip::ContextId;
use sip_types::{Index, Message, Method, NameAddr};

use crate::shard::Shard;
use crate::view::View;

/// The name of the Record-Route parameter that names a dialog, as in Kamailio (`rr_param`).
const DID: &str = "did";

impl Shard {
    /// Draws the number of a new dialog: from the upper half, where no Kamailio node counts.
    pub(crate) fn draw_did(&mut self, view: &View, call_id: &[u8]) -> Did {
        Did {
            h_entry: slot(call_id, view.hash_size),
            h_id: self.rng.next_u32() | 1 << 31,
        }
    }

    /// An INVITE that opens a call is on its way.
    pub(crate) fn saw_invite(&mut self, h_id: u32, request: &Message<'_>) {
        let what = Observed::Invited {
            from_uri: uri_of(request.from()),
            to_uri: uri_of(request.to()),
            request_uri: request.request_uri().into(),
            caller: leg_of_request(request),
        };
        self.saw(Some(h_id), request, what);
    }

    /// An INVITE that opened a call goes on to another place.
    pub(crate) fn saw_next_hop(&mut self, id: ContextId) {
        let Some(context) = self.proxy.context(id) else {
            return;
        };
        let (Some(h_id), Some(request)) = (context.data.h_id, context.request()) else {
            return;
        };
        if let Ok(request) = Message::parse(request, &mut Index::default()) {
            let seen = observation(Some(h_id), &request, Observed::Tried);
            self.seen.push(seen);
        }
    }

    /// A response goes upstream: to an INVITE that opened a call, or inside a dialog.
    pub(crate) fn saw_response(&mut self, id: ContextId, status: u16, response: &Message<'_>) {
        let h_id = self.proxy.data(id).and_then(|call| call.h_id);
        match (h_id, status) {
            (Some(h_id), 101..200) => {
                let leg = leg_of_response(h_id, response);
                self.saw(Some(h_id), response, Observed::Rang(leg));
            }
            (Some(h_id), 200..300) => {
                let leg = leg_of_response(h_id, response);
                self.saw(Some(h_id), response, Observed::Answered(leg));
            }
            (None, 200..300) => self.saw_refresh(id, response),
            _ => {}
        }
    }

    /// A 2xx inside a dialog: that of a re-INVITE or UPDATE moves both legs (RFC 3261 section 12.2.1.2).
    fn saw_refresh(&mut self, id: ContextId, response: &Message<'_>) {
        if !matches!(response.method(), Method::Invite | Method::Update) {
            return;
        }
        let Some(context) = self.proxy.context(id) else {
            return;
        };
        let mut index = Index::default();
        let request = context
            .request()
            .map(|request| Message::parse(request, &mut index));
        let Some(Ok(request)) = request else { return };
        let within = context.data.within;
        let seen = |cseq, message: &Message<'_>| {
            Observed::Refreshed(LegSeen {
                cseq,
                contact: uri_of(message.contacts().find_map(Result::ok)),
                route_set: Text::default(),
            })
        };
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let sender = observation(within, response, seen(cseq, &request));
        let answerer = Observation {
            from_tag: sender.to_tag.clone(),
            to_tag: sender.from_tag.clone(),
            ..observation(within, response, seen(0, response))
        };
        self.seen.extend([sender, answerer]);
    }

    /// A call may have ended without a 2xx: its context says. `message` is any of the call's.
    pub(crate) fn saw_failure(&mut self, id: ContextId, message: &Message<'_>) {
        let Some(context) = self.proxy.context(id) else {
            return;
        };
        let (false, Some(h_id)) = (context.is_pending(), context.data.h_id) else {
            return;
        };
        let answer = context.response().map(|(status, _)| status);
        if answer.is_none_or(|status| status < 300) {
            return;
        }
        let cause = match context.data.cancelled {
            true => Cause::Cancelled,
            false => Cause::Failed,
        };
        // A failure of one of several tries carries its own tag.
        self.seen.push(Observation {
            to_tag: Text::default(),
            ..observation(Some(h_id), message, Observed::Ended(cause))
        });
    }

    /// A request inside a dialog goes on; `h_id` is what [`named_dialog`] says of it.
    pub(crate) fn saw_request(&mut self, h_id: Option<u32>, request: &Message<'_>) {
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let what = if request.method() == Method::Ack {
            Observed::Acked
        } else if request.method() == Method::Bye {
            Observed::Ended(Cause::Bye)
        } else {
            Observed::Requested { cseq }
        };
        self.saw(h_id, request, what);
    }

    fn saw(&mut self, h_id: Option<u32>, message: &Message<'_>, what: Observed) {
        self.seen.push(observation(h_id, message, what));
    }
}

fn observation(h_id: Option<u32>, message: &Message<'_>, what: Observed) -> Observation {
    Observation {
        call_id: message.call_id().into(),
        h_id,
        from_tag: message.from_tag().unwrap_or_default().into(),
        to_tag: message.to_tag().unwrap_or_default().into(),
        what,
    }
}

/// Returns the number in the topmost Route, which is ours or that of the router whose heir we are.
pub(crate) fn named_dialog(request: &Message<'_>) -> Option<u32> {
    let entry = request.routes().next()?.ok()?;
    did_in(&entry).map(|did| did.h_id)
}

fn did_in(entry: &NameAddr<'_>) -> Option<Did> {
    let uri = entry.parsed_uri().ok()?;
    Did::parse(uri.params.get(DID)??).ok()
}

fn leg_of_request(request: &Message<'_>) -> LegSeen {
    let route_set = request.record_routes().filter_map(Result::ok);
    LegSeen {
        cseq: request.cseq().map_or(0, |cseq| cseq.number),
        contact: uri_of(request.contacts().find_map(Result::ok)),
        route_set: entries(route_set),
    }
}

/// The route set towards the callee: what stands above our own entry, the nearest first. Others may name
/// a dialog of theirs in an entry, too.
fn leg_of_response(h_id: u32, response: &Message<'_>) -> LegSeen {
    let is_own = |entry: &NameAddr<'_>| did_in(entry).is_some_and(|did| did.h_id == h_id);
    let entries_above: Vec<_> = response
        .record_routes()
        .filter_map(Result::ok)
        .take_while(|entry| !is_own(entry))
        .collect();
    LegSeen {
        cseq: 0,
        contact: uri_of(response.contacts().find_map(Result::ok)),
        route_set: entries(entries_above.into_iter().rev()),
    }
}

/// Returns the entries in brackets, separated by commas.
fn entries<'a>(entries: impl Iterator<Item = NameAddr<'a>>) -> Text {
    let mut text = Vec::new();
    for entry in entries {
        if !text.is_empty() {
            text.push(b',');
        }
        text.push(b'<');
        text.extend_from_slice(entry.uri);
        text.push(b'>');
    }
    text.into()
}

fn uri_of(address: Option<NameAddr<'_>>) -> Text {
    address.map_or_else(Text::default, |address| address.uri.into())
}
