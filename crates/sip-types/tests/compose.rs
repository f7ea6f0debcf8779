//! Responses, ACK and CANCEL made from the messages they belong to.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use sip_types::{
    HeaderName, Index, Message, Method, ResponseHead, ack_for, cancel_for, reason_phrase, respond,
    respond_from,
};

const INVITE: &[u8] = b"INVITE sip:a@example.org;x=1 SIP/2.0\r\n\
    v: SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK1, SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK2\r\n\
    Via: SIP/2.0/UDP 192.0.2.3;branch=z9hG4bK3\r\n\
    Max-Forwards: 5\r\nRoute: <sip:r1;lr>\r\nRoute: <sip:r2;lr>\r\n\
    f: \"A\" <sip:a@example.com>;tag=from\r\nTo:\r\n sip:b@example.org\r\n\
    i: call\r\nCSeq: 7 INVITE\r\nTimestamp: 54\r\nContent-Length: 4\r\n\r\nbody";

fn parsed(bytes: &[u8], index: &mut Index, look: impl FnOnce(&Message<'_>)) {
    let mut own = index.clone();
    let message = Message::parse(bytes, &mut own).unwrap();
    assert_eq!(
        message.check(),
        Ok(()),
        "{}",
        String::from_utf8_lossy(bytes)
    );
    assert_eq!(message.bytes().len(), bytes.len());
    look(&message);
    *index = own;
}

fn response(head: &ResponseHead<'_>) -> Vec<u8> {
    let mut index = Index::new();
    let invite = Message::parse(INVITE, &mut index).unwrap();
    let mut out = Vec::new();
    respond(&invite, head, &mut out);
    out
}

const TRYING: ResponseHead<'_> = ResponseHead {
    status: 100,
    reason: b"Trying",
    to_tag: Some(b"ours"),
    headers: &[],
};

#[test]
fn a_final_response_copies_what_names_the_transaction_and_tags_to() {
    let head = ResponseHead {
        status: 503,
        reason: b"Gone fishing",
        headers: &[("Retry-After", b"5")],
        ..TRYING
    };
    parsed(&response(&head), &mut Index::new(), |m| {
        assert_eq!((m.status(), m.reason()), (Some(503), &b"Gone fishing"[..]));
        let branches: Vec<_> = m.vias().map(|via| via.unwrap().branch.unwrap()).collect();
        assert_eq!(branches, [b"z9hG4bK1", b"z9hG4bK2", b"z9hG4bK3"]);
        assert_eq!(
            (m.from_tag(), m.to_tag()),
            (Some(&b"from"[..]), Some(&b"ours"[..]))
        );
        assert_eq!((m.call_id(), m.method()), (&b"call"[..], Method::Invite));
        assert_eq!(m.header(HeaderName::RetryAfter).unwrap().value(), b"5");
        assert_eq!(m.content_length(), Some(Ok(0)));
        assert!(m.header(HeaderName::Timestamp).is_none());
    });
}

#[test]
fn trying_has_no_tag_and_returns_the_timestamp() {
    parsed(&response(&TRYING), &mut Index::new(), |m| {
        assert_eq!(m.to_tag(), None);
        assert_eq!(m.header(HeaderName::Timestamp).unwrap().value(), b"54");
    });
}

#[test]
fn a_tag_of_the_request_is_kept() {
    let text = String::from_utf8(INVITE.to_vec())
        .unwrap()
        .replace("b@example.org", "b@example.org;tag=theirs");
    let mut index = Index::new();
    let invite = Message::parse(text.as_bytes(), &mut index).unwrap();
    let mut out = Vec::new();
    respond(
        &invite,
        &ResponseHead {
            status: 404,
            ..TRYING
        },
        &mut out,
    );
    parsed(&out, &mut Index::new(), |m| {
        assert_eq!(m.to_tag(), Some(&b"theirs"[..]))
    });
}

#[test]
fn a_response_can_note_its_source_on_the_top_via() {
    let mut index = Index::new();
    let invite = Message::parse(INVITE, &mut index).unwrap();
    let source = "198.51.100.4:5999".parse().unwrap();
    let mut out = Vec::new();
    respond_from(
        &invite,
        source,
        &ResponseHead {
            status: 400,
            ..TRYING
        },
        &mut out,
    );
    parsed(&out, &mut Index::new(), |m| {
        assert_eq!(m.top_via().unwrap().response_addr(), Some(source));
        assert_eq!(m.vias().count(), 3);
    });
}

#[test]
fn a_request_without_anything_is_answered_without_anything() {
    let mut index = Index::new();
    let broken = Message::parse(b"OPTIONS sip:a SIP/2.0\r\nVia\r\n\r\n", &mut index).unwrap();
    let fault = broken.check().unwrap_err();
    assert_eq!((fault.status(), fault.reason()), (400, "Bad Header Line"));
    let head = ResponseHead {
        status: fault.status(),
        reason: fault.reason().as_bytes(),
        ..TRYING
    };
    let mut out = Vec::new();
    respond(&broken, &head, &mut out);
    assert_eq!(
        out,
        b"SIP/2.0 400 Bad Header Line\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn an_ack_belongs_to_the_client_transaction_of_its_invite() {
    let busy = response(&ResponseHead {
        status: 486,
        reason: reason_phrase(486).as_bytes(),
        ..TRYING
    });
    let (mut first, mut second) = (Index::new(), Index::new());
    let invite = Message::parse(INVITE, &mut first).unwrap();
    let busy = Message::parse(&busy, &mut second).unwrap();
    let mut out = Vec::new();
    ack_for(&invite, &busy, &mut out);
    parsed(&out, &mut Index::new(), |m| {
        assert_eq!(
            (m.method(), m.request_uri()),
            (Method::Ack, invite.request_uri())
        );
        assert_eq!(
            (m.vias().count(), m.top_via().unwrap().branch),
            (1, Some(&b"z9hG4bK1"[..]))
        );
        assert_eq!((m.routes().count(), m.cseq().unwrap().number), (2, 7));
        assert_eq!(
            (m.to_tag(), m.max_forwards()),
            (Some(&b"ours"[..]), Some(Ok(70)))
        );
    });
}

#[test]
fn a_cancel_copies_its_invite_and_takes_more_headers() {
    let mut index = Index::new();
    let invite = Message::parse(INVITE, &mut index).unwrap();
    let mut out = Vec::new();
    cancel_for(
        &invite,
        &[
            ("Reason", b"SIP;cause=200"),
            ("X-Destination-URI", b"sip:b"),
        ],
        &mut out,
    );
    parsed(&out, &mut Index::new(), |m| {
        assert_eq!(
            (m.method(), m.request_uri()),
            (Method::Cancel, invite.request_uri())
        );
        assert_eq!(
            (
                m.vias().count(),
                m.routes().count(),
                m.cseq().unwrap().number
            ),
            (1, 2, 7)
        );
        assert_eq!((m.to_tag(), m.from_tag()), (None, Some(&b"from"[..])));
        assert_eq!(
            m.header(HeaderName::Reason).unwrap().value(),
            b"SIP;cause=200"
        );
        assert!(m.header(HeaderName::XDestinationUri).is_some() && m.body().is_empty());
    });
}

#[test]
fn every_status_has_a_phrase() {
    assert!((100..700).all(|status| !reason_phrase(status).is_empty()));
    assert_eq!(reason_phrase(481), "Call/Transaction Does Not Exist");
}
