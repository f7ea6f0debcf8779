//! KDMQ on the wire: requests and replies as Kamailio writes them, and what is read of its own.
//!
//! Kamailio's order of headers; nothing in it depends on the order.

use std::io::Write as _;
use std::net::SocketAddr;

use sip_types::{HeaderName, Message, Uri};

use crate::address::node_of;
use crate::{BODY_BYTES_MAX, CHANNEL_BYTES_MAX, NOTIFICATION_CHANNEL};

/// How our branches begin; the number of the request and its token follow.
const BRANCH: &str = "z9hG4bKdmq";
/// The CSeq number of every request of Kamailio: a constant, not a count.
const CSEQ: u32 = 10;
/// The port of a Via that names none.
const DEFAULT_PORT: u16 = 5060;

/// A request to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) own: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) channel: &'a str,
    pub(crate) max_forwards: u8,
    /// With `token`: what makes branch and Call-ID its own.
    pub(crate) number: u64,
    pub(crate) token: u64,
    pub(crate) tag: u64,
    pub(crate) server: &'a str,
    pub(crate) body: &'a [u8],
}

/// Appends a request. The Via has its port even where it is 5060: replies of stock nodes go there.
pub(crate) fn write_request(request: &Outgoing<'_>, out: &mut Vec<u8>) {
    let &Outgoing {
        own,
        to,
        channel,
        max_forwards,
        number,
        token,
        tag,
        server,
        body,
    } = request;
    let (host, length) = (own.ip(), body.len());
    let content_type = content_type(channel);
    write!(
        out,
        "KDMQ sip:{channel}@{to} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {own};branch={BRANCH}{number:x}.{token:016x}\r\n\
         To: <sip:{channel}@{to}>\r\n\
         From: <sip:{channel}@{own}>;tag={tag:016x}\r\n\
         CSeq: {CSEQ} KDMQ\r\n\
         Call-ID: {token:016x}-{number:x}@{host}\r\n\
         Content-Length: {length}\r\n\
         User-Agent: {server}\r\n\
         Max-Forwards: {max_forwards}\r\n\
         Content-Type: {content_type}\r\n\r\n"
    )
    .expect("writing into memory does not fail");
    out.extend_from_slice(body);
}

fn content_type(channel: &str) -> &'static str {
    match channel {
        NOTIFICATION_CHANNEL => "text/plain",
        _ if is_json(channel) => "application/json",
        _ => "application/octet-stream",
    }
}

fn is_json(channel: &str) -> bool {
    matches!(channel, "dialog" | "htable" | "usrloc")
}

/// Tells whether a body may be sent on a channel to any node.
///
/// A stock node refuses an empty body, and on its own channels 5.6.3 dies of one that is no object
/// with a member. What stands in the object is its writer's care.
pub(crate) fn is_sendable(channel: &str, body: &[u8]) -> bool {
    let is_name = !channel.is_empty()
        && channel.len() <= CHANNEL_BYTES_MAX
        && channel
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    is_name
        && channel != NOTIFICATION_CHANNEL
        && (1..=BODY_BYTES_MAX).contains(&body.len())
        && (!is_json(channel) || body.starts_with(b"{\"") && body.ends_with(b"}"))
}

/// Returns number and token of the request that a response answers, if it is one of ours.
pub(crate) fn answered_request(response: &Message<'_>) -> Option<(u64, u64)> {
    let branch = std::str::from_utf8(response.top_via()?.branch?).ok()?;
    let (number, token) = branch.strip_prefix(BRANCH)?.split_once('.')?;
    Some((
        u64::from_str_radix(number, 16).ok()?,
        u64::from_str_radix(token, 16).ok()?,
    ))
}

/// Returns the node that a request says it is from.
pub(crate) fn claimed_node(request: &Message<'_>) -> Option<SocketAddr> {
    node_of(&request.from()?.parsed_uri().ok()?).ok()
}

/// Returns the channel that a request is for.
pub(crate) fn channel<'a>(request: &Message<'a>) -> Option<&'a [u8]> {
    Uri::parse(request.request_uri()).ok()?.user
}

/// Returns where the reply to a request goes: to the sender's address, at the port of its Via.
pub(crate) fn reply_address(request: &Message<'_>, source: SocketAddr) -> SocketAddr {
    match request.top_via() {
        Some(via) if via.rport.is_none() => {
            SocketAddr::new(source.ip(), via.port.unwrap_or(DEFAULT_PORT))
        }
        Some(_) | None => source,
    }
}

/// What a reply says beyond what it copies from its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) status: u16,
    pub(crate) tag: u64,
    pub(crate) server: &'a str,
    /// Only the notification channel has one.
    pub(crate) list: Option<&'a [u8]>,
}

/// Appends a reply.
pub(crate) fn write_reply(request: &Message<'_>, reply: &Reply<'_>, out: &mut Vec<u8>) {
    let &Reply {
        status,
        tag,
        server,
        list,
    } = reply;
    let promise = "writing into memory does not fail";
    write!(out, "SIP/2.0 {status} {}\r\n", reason(status)).expect(promise);
    copy(request, HeaderName::Via, out);
    if request.to_tag().is_some() {
        copy(request, HeaderName::To, out);
    } else if let Some(to) = request.header(HeaderName::To) {
        out.extend_from_slice(b"To: ");
        out.extend_from_slice(to.value());
        write!(out, ";tag={tag:016x}\r\n").expect(promise);
    }
    for name in [HeaderName::From, HeaderName::CSeq, HeaderName::CallId] {
        copy(request, name, out);
    }
    if list.is_some() {
        out.extend_from_slice(b"Content-Type: text/plain\r\n");
    }
    let body = list.unwrap_or_default();
    write!(
        out,
        "Server: {server}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .expect(promise);
    out.extend_from_slice(body);
}

fn copy(request: &Message<'_>, name: HeaderName, out: &mut Vec<u8>) {
    for header in request.headers_named(name) {
        out.extend_from_slice(header.line());
    }
}

/// Kamailio's phrases, where it has its own.
fn reason(status: u16) -> &'static str {
    match status {
        202 => "Accepted DMQ",
        404 => "User Not Found",
        _ => sip_types::reason_phrase(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_crash_or_confuse_a_stock_node_is_not_sendable() {
        for (channel, body, sendable) in [
            ("dialog", &b"{\"action\":4}"[..], true),
            ("tandem", b"\x00\xff", true),
            ("custom_1.x-y", b"hello", true),
            ("dialog", b"", false),
            ("htable", b"{}", false),
            ("htable", b"[1]", false),
            ("usrloc", b"null", false),
            ("htable", b"{\"action\":1", false),
            ("", b"x", false),
            ("a b", b"x", false),
            ("a@b", b"x", false),
            ("a\r\nVia: x", b"x", false),
            (NOTIFICATION_CHANNEL, b"sip:10.0.0.1:5060\r\n", false),
        ] {
            assert_eq!(is_sendable(channel, body), sendable, "{channel:?}");
        }
        assert!(is_sendable("tandem", &vec![0; BODY_BYTES_MAX]));
        assert!(!is_sendable("tandem", &vec![0; BODY_BYTES_MAX + 1]));
        assert!(!is_sendable(&"c".repeat(CHANNEL_BYTES_MAX + 1), b"x"));
    }
}
