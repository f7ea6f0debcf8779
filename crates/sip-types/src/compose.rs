//! Messages made from messages: a response, the ACK of a failed INVITE, a CANCEL.
//!
//! What has to be equal is copied as it was written. RFC 3261 sections 8.2.6, 9.1 and 17.1.1.3.

use std::net::SocketAddr;

use crate::message::Message;
use crate::name::HeaderName;
use crate::splice::{Splice, append};

/// What a response says beyond what it copies from its request.
#[derive(Copy, Clone, Debug)]
pub struct ResponseHead<'a> {
    /// 100 to 699.
    pub status: u16,
    /// The reason phrase, without CR and LF; [`reason_phrase`] has the usual ones.
    pub reason: &'a [u8],
    /// Added to To if the request has no tag there and the status is over 100.
    pub to_tag: Option<&'a [u8]>,
    /// More headers, names and values, without CR and LF.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Appends a response without a body to a request whose Via already says where it came from.
///
/// Via, From, To, Call-ID and CSeq are copied as they came, Timestamp too for 100. What the request
/// lacks the response lacks.
pub fn respond(request: &Message<'_>, head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    status_line(head, out);
    copy_lines(request, HeaderName::Via, out);
    rest_of_response(request, head, out);
}

/// Appends a response as [`respond`] does, with `received` and `rport` of the sender on the top Via.
pub fn respond_from(
    request: &Message<'_>,
    source: SocketAddr,
    head: &ResponseHead<'_>,
    out: &mut Vec<u8>,
) {
    let Some(via) = request.top_via() else {
        return respond(request, head, out);
    };
    status_line(head, out);
    let mut splice = Splice::new();
    splice.add_received(&via, source);
    let mut vias = request.headers_named(HeaderName::Via);
    if let Some(first) = vias.next() {
        splice.apply_to(request.bytes(), first.line_range(), out);
    }
    for header in vias {
        out.extend_from_slice(header.line());
    }
    rest_of_response(request, head, out);
}

fn status_line(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    debug_assert!(
        (100..700).contains(&head.status),
        "a status has three digits"
    );
    append(out, format_args!("SIP/2.0 {} ", head.status));
    out.extend_from_slice(head.reason);
    out.extend_from_slice(b"\r\n");
}

fn rest_of_response(request: &Message<'_>, head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    copy_lines(request, HeaderName::From, out);
    match head.to_tag {
        Some(tag) if head.status > 100 && request.to_tag().is_none() => {
            for to in request.headers_named(HeaderName::To) {
                line("To", &[to.value(), b";tag=", tag], out);
            }
        }
        Some(_) | None => copy_lines(request, HeaderName::To, out),
    }
    copy_lines(request, HeaderName::CallId, out);
    copy_lines(request, HeaderName::CSeq, out);
    if head.status == 100 {
        copy_lines(request, HeaderName::Timestamp, out);
    }
    for (name, value) in head.headers {
        line(name, &[value], out);
    }
    end(out);
}

/// Appends the ACK of a final response other than 2xx, for the client transaction of `invite`.
pub fn ack_for(invite: &Message<'_>, response: &Message<'_>, out: &mut Vec<u8>) {
    request_head(invite, b"ACK", out);
    copy_lines(response, HeaderName::To, out);
    end(out);
}

/// Appends the CANCEL of `invite`, which is the INVITE as it was sent, with more headers.
pub fn cancel_for(invite: &Message<'_>, headers: &[(&str, &[u8])], out: &mut Vec<u8>) {
    request_head(invite, b"CANCEL", out);
    copy_lines(invite, HeaderName::To, out);
    for (name, value) in headers {
        line(name, &[value], out);
    }
    end(out);
}

/// What ACK and CANCEL have in common: all but To.
fn request_head(invite: &Message<'_>, method: &[u8], out: &mut Vec<u8>) {
    for part in [method, b" ", invite.request_uri(), b" SIP/2.0\r\n"] {
        out.extend_from_slice(part);
    }
    if let Some(via) = invite.elements(HeaderName::Via).next() {
        line("Via", &[&invite.bytes()[via]], out);
    }
    copy_lines(invite, HeaderName::Route, out);
    out.extend_from_slice(b"Max-Forwards: 70\r\n");
    copy_lines(invite, HeaderName::From, out);
    copy_lines(invite, HeaderName::CallId, out);
    if let Some(cseq) = invite.cseq() {
        append(out, format_args!("CSeq: {} ", cseq.number));
        out.extend_from_slice(method);
        out.extend_from_slice(b"\r\n");
    }
}

fn copy_lines(message: &Message<'_>, name: HeaderName, out: &mut Vec<u8>) {
    for header in message.headers_named(name) {
        out.extend_from_slice(header.line());
    }
}

fn line(name: &str, value: &[&[u8]], out: &mut Vec<u8>) {
    debug_assert!(
        !value.concat().ends_with(b"\n"),
        "a value carries no line end"
    );
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for part in value {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Returns the usual reason phrase of a status, of its class if the status has none of its own.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        430 => "Flow Failed",
        433 => "Anonymity Disallowed",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => match status / 100 {
            1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}
