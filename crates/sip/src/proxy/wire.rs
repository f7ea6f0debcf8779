//! How it is written: tries out of the stored request, responses past our Via, the end of a context.

use std::hash::Hasher as _;
use std::net::SocketAddr;

use rand::RngCore;
use sip_types::{HeaderName, Message, Splice};
use siphasher::sip::SipHasher13;

use super::{Proxy, live};
use crate::branch::{self, BranchId, ContextId};
use crate::context::Target;

impl<C, B> Proxy<C, B> {
    pub(super) fn tag(&mut self) -> [u8; 16] {
        write_tag(self.rng.next_u64())
    }

    /// Returns the To tag of what is answered without a transaction: its ACK is known by it.
    pub(super) fn stateless_tag(&self, message: &Message<'_>) -> [u8; 16] {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(b"stateless");
        hasher.write(message.call_id());
        write_tag(hasher.finish())
    }

    /// Writes a try's request, as it was sent, into `self.buffer`; tells whether there is one.
    pub(super) fn write_request(&mut self, id: BranchId) -> Option<Target> {
        let context = live(&self.contexts, id.context)?;
        let branch = context.branches.get(usize::from(id.index))?;
        let (bytes, branch_at) = match &branch.bytes {
            Some((bytes, branch_at)) => (&**bytes, *branch_at),
            None => (context.sent.as_deref()?, context.branch_at),
        };
        self.buffer.clear();
        self.buffer.extend_from_slice(bytes);
        let at = usize::from(branch_at);
        self.buffer[at..at + branch::LENGTH].copy_from_slice(&id.write(context.loop_key));
        Some(branch.target)
    }

    pub(super) fn send_request(&mut self, id: BranchId) {
        if let Some(target) = self.write_request(id) {
            self.outbox
                .push(target.flow, target.destination, &self.buffer);
        }
    }

    pub(super) fn acknowledge(&mut self, id: BranchId, response: &Message<'_>) {
        self.send_about(id, |invite, out| sip_types::ack_for(invite, response, out));
    }

    pub(super) fn write_cancel(&mut self, id: BranchId) {
        self.send_about(id, |invite, out| {
            let destination = invite
                .header(HeaderName::XDestinationUri)
                .map(|header| ("X-Destination-URI", header.value()));
            sip_types::cancel_for(invite, destination.as_slice(), out);
        });
    }

    /// Sends to where a try went what `write` makes of the request as it was sent there.
    fn send_about(&mut self, id: BranchId, write: impl FnOnce(&Message<'_>, &mut Vec<u8>)) {
        let Some(target) = self.write_request(id) else {
            return;
        };
        let Self {
            index,
            buffer,
            outbox,
            ..
        } = self;
        if let Ok(request) = Message::parse(buffer, index) {
            outbox.push_with(target.flow, target.destination, |out| write(&request, out));
        }
    }

    pub(super) fn send_response(&mut self, id: ContextId, position: usize) {
        let Some(context) = live(&self.contexts, id) else {
            return;
        };
        let upstream = &context.upstreams[position];
        let Some(own_via) = &upstream.via else {
            if !context.response.is_empty() {
                self.outbox
                    .push(upstream.flow, upstream.peer, &context.response);
            }
            return;
        };
        // A copy that joined: its own topmost Via in place of the first one's.
        let Self {
            index,
            splice,
            outbox,
            ..
        } = self;
        let Ok(response) = Message::parse(&context.response, index) else {
            return;
        };
        let Some(via) = response.top_via() else {
            return;
        };
        splice.clear();
        splice.replace(via.range, own_via);
        outbox.push_with(upstream.flow, upstream.peer, |out| {
            splice.apply(&context.response, out)
        });
        splice.clear();
    }

    /// Forgets what has ended, and arms the context's next deadline.
    pub(super) fn settle(&mut self, id: ContextId) {
        let Some(context) = self.context_mut(id) else {
            return;
        };
        if context.is_terminated() {
            let context = self.contexts.remove(id.slot as usize);
            for upstream in &context.upstreams {
                self.servers.remove(&upstream.key);
            }
            return;
        }
        context.release();
        let Some(next) = context.poll_timeout() else {
            return;
        };
        if context.armed.is_none_or(|armed| next < armed) {
            context.armed = Some(next);
            self.deadlines.arm(next, id);
        }
    }
}

/// Returns where responses to a request go: RFC 3261 section 18.2.2, RFC 3581 section 4.
pub(crate) fn response_address(message: &Message<'_>, source: SocketAddr) -> SocketAddr {
    let Some(via) = message.top_via() else {
        return source;
    };
    if via.rport.is_some() {
        return source;
    }
    SocketAddr::new(source.ip(), via.port.unwrap_or(5060))
}

/// Adds our Via in front, `received` and `rport` to the one below, and counts Max-Forwards down.
pub(super) fn add_via(
    edits: &mut Splice,
    message: &Message<'_>,
    source: SocketAddr,
    via: &[u8],
    branch: &[u8],
) {
    // The first line may be one that another has been put before, such as a Record-Route.
    edits.insert_foremost_with(message.headers_start(), |out| {
        write_via(out, via, branch);
    });
    if let Some(via) = message.top_via() {
        edits.add_received(&via, source);
    }
    match (
        message.header(HeaderName::MaxForwards),
        message.max_forwards(),
    ) {
        (Some(header), Some(Ok(hops))) => edits.replace_with(header.value_range(), |out| {
            write_text(out, format_args!("{}", hops.saturating_sub(1)));
        }),
        (None, _) => edits.insert(message.headers_end(), b"Max-Forwards: 70\r\n"),
        (Some(_), _) => {}
    }
}

/// Writes our Via line: how it begins, and the branch.
pub(super) fn write_via(out: &mut Vec<u8>, via: &[u8], branch: &[u8]) {
    out.extend_from_slice(via);
    out.extend_from_slice(branch);
    out.extend_from_slice(b"\r\n");
}

/// Returns where the branch stands in a request whose first header is our Via.
pub(super) fn branch_offset(request: &[u8], via: &[u8]) -> Option<u16> {
    let start_line = request.iter().position(|byte| *byte == b'\n')? + 1;
    u16::try_from(start_line + via.len()).ok()
}

/// A tag of `t` and 60 of these bits.
pub(super) fn write_tag(mut bits: u64) -> [u8; 16] {
    let mut tag = *b"t000000000000000";
    for byte in &mut tag[1..] {
        *byte = b"0123456789abcdef"[(bits & 15) as usize];
        bits >>= 4;
    }
    tag
}

pub(super) fn write_text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    out.write_fmt(text)
        .expect("writing into memory does not fail");
}
