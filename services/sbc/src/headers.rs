//! The headers that SBC and routers tell each other, and the Record-Route.
//!
//! They count from a member alone, and leave to a router alone: docs/failover.md, "Who is believed".

use std::net::SocketAddr;

use element::FlowId;
pub(crate) use sip::private::strip;
use sip_types::{HeaderName, Message, Method, Splice};

use crate::view::{PASS_PARAM, View};

/// Tells the router who sent a request.
pub(crate) fn add_forwarded_for(edits: &mut Splice, message: &Message<'_>, source: SocketAddr) {
    edits.insert_with(message.headers_end(), |out| {
        write(out, format_args!("X-Forwarded-For: {source}\r\n"))
    });
}

/// Adds our Record-Route: one for each of our sides that the request crosses, the far one on top.
pub(crate) fn add_record_route(
    edits: &mut Splice,
    message: &Message<'_>,
    view: &View,
    arrived: FlowId,
    leaves: FlowId,
) {
    if message.method() == Method::Register {
        return;
    }
    let pass = view.pass(message.call_id());
    let pass = std::str::from_utf8(&pass).unwrap_or_default();
    let at = message.insertion_point(HeaderName::RecordRoute);
    let sides = if arrived == leaves {
        &[leaves][..]
    } else {
        &[leaves, arrived]
    };
    for side in sides {
        let Some(own) = view.listen.get(usize::from(side.0)) else {
            continue;
        };
        edits.insert_with(at, |out| {
            write(
                out,
                format_args!("Record-Route: <sip:{own};lr;{PASS_PARAM}={pass}>\r\n"),
            );
        });
    }
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    out.write_fmt(text)
        .expect("writing into memory does not fail");
}
