//! SIP messages: framed, checked, looked at, edited and answered.

use std::net::SocketAddr;

use sip_types::{
    HEADERS_MAX, HeaderName, Index, MESSAGE_BYTES_MAX, Message, ResponseHead, Splice, respond_from,
};

const VIA: &[u8] = b"Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK8\r\n";

/// A datagram.
pub(crate) fn message(data: &[u8]) {
    let mut index = Index::new();
    let Ok(message) = Message::parse(data, &mut index) else {
        return;
    };
    look_at(&message);
    let mut same = Vec::new();
    Splice::new().apply(message.bytes(), &mut same);
    assert_eq!(same, message.bytes(), "what is not edited stays");
    if message.check().is_ok() && message.is_request() {
        forward(&message);
        answer(&message);
    }
}

/// Reads all that can be read of it; what of it is good says `check`.
fn look_at(message: &Message<'_>) {
    let _ = (message.method(), message.status(), message.call_id());
    let _ = (message.cseq(), message.from_tag(), message.to_tag());
    let _ = (message.max_forwards(), message.content_length());
    for header in message.headers() {
        let _ = (header.name(), header.name_bytes());
        assert!(header.line().len() >= header.value().len());
    }
    let vias = message.vias().filter(Result::is_ok).count();
    let addresses = [
        HeaderName::Route,
        HeaderName::RecordRoute,
        HeaderName::Contact,
    ]
    .into_iter()
    .flat_map(|name| message.addresses(name));
    for address in addresses
        .flatten()
        .chain(message.from())
        .chain(message.to())
    {
        let _ = address.parsed_uri().map(|uri| (uri.user, uri.host));
    }
    assert!(vias <= message.bytes().len());
    assert!(message.headers_start() <= message.headers_end());
    assert!(message.body().len() <= message.bytes().len() - message.headers_end());
}

/// A proxy puts its Via on top and writes where the request came from: what was good stays good.
fn forward(message: &Message<'_>) {
    let has_room =
        message.headers().count() < HEADERS_MAX && message.bytes().len() + 256 < MESSAGE_BYTES_MAX;
    let Some(via) = message.top_via().filter(|_| has_room) else {
        return;
    };
    let mut splice = Splice::new();
    splice.add_received(&via, SocketAddr::from(([192, 0, 2, 1], 5060)));
    splice.insert(message.insertion_point(HeaderName::Via), VIA);
    let mut bytes = Vec::new();
    splice.apply(message.bytes(), &mut bytes);
    let mut index = Index::new();
    let forwarded = Message::parse(&bytes, &mut index).expect("it is framed as before");
    assert_eq!(forwarded.call_id(), message.call_id());
    assert_eq!(forwarded.body(), message.body());
    assert_eq!(
        forwarded.top_via().and_then(|via| via.branch),
        Some(&b"z9hG4bK8"[..])
    );
}

fn answer(message: &Message<'_>) {
    let head = ResponseHead {
        status: 503,
        reason: b"Service Unavailable",
        to_tag: Some(b"t"),
        headers: &[("Retry-After", b"1")],
    };
    let mut bytes = Vec::new();
    respond_from(
        message,
        SocketAddr::from(([192, 0, 2, 1], 5060)),
        &head,
        &mut bytes,
    );
    if bytes.len() > MESSAGE_BYTES_MAX {
        return;
    }
    let mut index = Index::new();
    let response =
        Message::parse(&bytes, &mut index).expect("what answers a good request is framed");
    assert_eq!(response.status(), Some(503));
    assert_eq!(response.call_id(), message.call_id());
    assert!(response.to_tag().is_some());
}
