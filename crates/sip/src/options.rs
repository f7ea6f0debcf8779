//! OPTIONS between nodes: the probe that one sends and the answer of the other. RFC 3261 section 11.

use std::net::SocketAddr;

use element::{FlowId, Outbox};
use sip_types::{Message, Method, ResponseHead, Uri};

/// How a probe's branch begins: its answer is known by it.
const PROBE_BRANCH: &[u8] = b"z9hG4bKprobe";

/// One OPTIONS to send.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The listen address it leaves from.
    pub flow: FlowId,
    /// That address.
    pub own: SocketAddr,
    /// Whom it asks.
    pub to: SocketAddr,
    /// Its CSeq number: comes back with the answer.
    pub seq: u32,
    /// Makes branch and Call-ID its own.
    pub random: u64,
    /// The sender's From tag.
    pub tag: u64,
}

/// Queues a probe.
pub fn send_probe(outbox: &mut Outbox, probe: &Probe) {
    let &Probe {
        flow,
        own,
        to,
        seq,
        random,
        tag,
    } = probe;
    outbox.push_with(flow, to, |out| {
        use std::io::Write as _;
        write!(
            out,
            "OPTIONS sip:{to} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {own};branch=z9hG4bKprobe{random:016x}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{own}>;tag={tag:016x}\r\n\
             To: <sip:{to}>\r\n\
             Call-ID: {random:016x}@probe\r\n\
             CSeq: {seq} OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        )
        .expect("writing into memory does not fail");
    });
}

/// Tells whether a message answers a probe, or is an OPTIONS to one of the addresses in `listen`.
#[must_use]
pub fn is_for_node(listen: &[SocketAddr], message: &Message<'_>) -> bool {
    if message.method() != Method::Options {
        return false;
    }
    if message.is_response() {
        return message
            .top_via()
            .and_then(|via| via.branch)
            .is_some_and(|branch| branch.starts_with(PROBE_BRANCH));
    }
    Uri::parse(message.request_uri()).is_ok_and(|uri| {
        uri.user.is_none()
            && uri
                .socket_addr(5060)
                .is_some_and(|address| listen.contains(&address))
    })
}

/// Queues the answer to an OPTIONS: 200 when `ready`, else 503 with Retry-After, which says "alive,
/// no new calls".
pub fn answer(
    outbox: &mut Outbox,
    flow: FlowId,
    source: SocketAddr,
    message: &Message<'_>,
    ready: bool,
    tag: u64,
) {
    let (status, headers): (_, &[(&str, &[u8])]) = if ready {
        (200, &[("Accept", b"application/sdp")])
    } else {
        (503, &[("Retry-After", b"2")])
    };
    let tag = format!("{tag:016x}");
    let reason = sip_types::reason_phrase(status).as_bytes();
    let head = ResponseHead {
        status,
        reason,
        to_tag: Some(tag.as_bytes()),
        headers,
    };
    let to = crate::proxy::response_address(message, source);
    outbox.push_with(flow, to, |out| {
        sip_types::respond_from(message, source, &head, out)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip_types::Index;

    #[test]
    fn a_probe_is_for_the_node_it_asks_and_its_answer_for_the_one_that_asked() {
        let (own, to) = (
            "127.0.0.1:5060".parse().unwrap(),
            "127.0.0.2:5060".parse().unwrap(),
        );
        let mut outbox = Outbox::new();
        send_probe(
            &mut outbox,
            &Probe {
                flow: FlowId(0),
                own,
                to,
                seq: 7,
                random: 1,
                tag: 2,
            },
        );
        let bytes = outbox.last().unwrap().bytes.to_vec();
        let mut index = Index::new();
        let probe = Message::parse(&bytes, &mut index).unwrap();
        assert_eq!(probe.check(), Ok(()));
        assert!(is_for_node(&[to], &probe) && !is_for_node(&[own], &probe));
        for (ready, status) in [(true, 200), (false, 503)] {
            answer(&mut outbox, FlowId(0), own, &probe, ready, 3);
            let sent = outbox.last().unwrap();
            assert_eq!(sent.destination, own);
            let bytes = sent.bytes.to_vec();
            let mut index = Index::new();
            let answer = Message::parse(&bytes, &mut index).unwrap();
            assert_eq!(
                (answer.status(), answer.cseq().unwrap().number),
                (Some(status), 7)
            );
            assert!(is_for_node(&[own], &answer));
        }
    }
}
