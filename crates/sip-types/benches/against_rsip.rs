//! How long it takes to index and to forward an INVITE, beside rsip 0.4, in one run.
//!
//! 512 different messages in turn, so that no branch predictor knows the next one by heart. Exits with 1
//! if indexing takes more than a fifth, or a whole forward more than a quarter, of rsip's time.

// A benchmark reads the clock, prints, and may panic.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rsip::headers::{Header, ToTypedHeader, UntypedHeader};
use rsip::message::{HasHeaders, HeadersExt};
use sip_types::{HeaderName, Index, Message, Splice};

const MESSAGES: usize = 512;
const ROUNDS: usize = 60;
const INDEX_SHARE_MAX: f64 = 1.0 / 5.0;
const FORWARD_SHARE_MAX: f64 = 1.0 / 4.0;

fn main() -> ExitCode {
    let messages: Vec<Vec<u8>> = (0..MESSAGES).map(invite).collect();
    let bytes: usize = messages.iter().map(Vec::len).sum();
    println!(
        "{MESSAGES} different INVITEs in turn, {} bytes on average",
        bytes / MESSAGES
    );
    compare(&messages);

    let (mut index, mut splice, mut out) = (Index::new(), Splice::new(), Vec::new());
    let mut index_only = |message: &[u8]| {
        black_box(
            Message::parse(black_box(message), &mut index)
                .unwrap()
                .headers_end(),
        )
    };
    let mut index_and_check = {
        let mut index = Index::new();
        move |message: &[u8]| {
            let message = Message::parse(black_box(message), &mut index).unwrap();
            message.check().unwrap();
            black_box(message.headers_end())
        }
    };
    let mut rsip_parse = |message: &[u8]| {
        black_box(
            rsip::Request::try_from(black_box(message))
                .unwrap()
                .body
                .len(),
        )
    };
    let mut forward = {
        let mut index = Index::new();
        move |message: &[u8]| {
            black_box(forward_ours(
                black_box(message),
                &mut index,
                &mut splice,
                &mut out,
            ))
        }
    };
    let mut rsip_forward = |message: &[u8]| black_box(forward_rsip(black_box(message)).len());

    // All in one loop: whatever disturbs the machine disturbs them all.
    let mut samples: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        samples[0].push(time(&messages, &mut index_only));
        samples[1].push(time(&messages, &mut index_and_check));
        samples[2].push(time(&messages, &mut rsip_parse));
        samples[3].push(time(&messages, &mut forward));
        samples[4].push(time(&messages, &mut rsip_forward));
    }
    let [index, checked, rsip_index, forward, rsip_forward] = samples.map(median_nanos);

    println!(
        "{:<32} {:>9} {:>9} {:>7} {:>7}",
        "ns per message", "ours", "rsip", "share", "at most"
    );
    // rsip's parse reads less than a check does: that row is only shown.
    let ok = [
        row("index", index, rsip_index, Some(INDEX_SHARE_MAX)),
        row("index and check", checked, rsip_index, None),
        row(
            "parse, check, key, edit, print",
            forward,
            rsip_forward,
            Some(FORWARD_SHARE_MAX),
        ),
    ];
    if ok == [true; 3] {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn row(what: &str, ours: f64, theirs: f64, share_max: Option<f64>) -> bool {
    let share = ours / theirs;
    let kept = share_max.is_none_or(|max| share <= max);
    let limit = share_max.map_or(String::new(), |max| format!("{max:.3}"));
    let verdict = if kept { "" } else { "MISSED" };
    println!("{what:<32} {ours:>9.0} {theirs:>9.0} {share:>7.3} {limit:>7} {verdict}");
    kept
}

fn time(messages: &[Vec<u8>], work: &mut impl FnMut(&[u8]) -> usize) -> Duration {
    let start = Instant::now();
    for message in messages {
        work(message);
    }
    start.elapsed()
}

fn median_nanos(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples[samples.len() / 2].as_nanos() as f64 / MESSAGES as f64
}

const VIA: &str = "SIP/2.0/UDP 203.0.113.1:5060;branch=z9hG4bKours";
const RECORD_ROUTE: &str = "<sip:203.0.113.1:5060;lr>";

fn forward_ours(
    datagram: &[u8],
    index: &mut Index,
    splice: &mut Splice,
    out: &mut Vec<u8>,
) -> usize {
    let message = Message::parse(datagram, index).unwrap();
    message.check().unwrap();
    let via = message.top_via().unwrap();
    black_box((via.branch, via.host, message.call_id(), message.cseq()));
    black_box((message.from_tag(), message.to_tag()));

    splice.clear();
    out.clear();
    let line = |out: &mut Vec<u8>, name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    };
    splice.insert_with(message.insertion_point(HeaderName::Via), |out| {
        line(out, "Via", VIA)
    });
    let routes = message.insertion_point(HeaderName::RecordRoute);
    splice.insert_with(routes, |out| line(out, "Record-Route", RECORD_ROUTE));
    let hops = message.max_forwards().unwrap().unwrap() - 1;
    let range = message
        .header(HeaderName::MaxForwards)
        .unwrap()
        .value_range();
    splice.replace(range, hops.to_string().as_bytes());
    splice.apply(message.bytes(), out);
    out.len()
}

fn forward_rsip(datagram: &[u8]) -> Vec<u8> {
    let mut request = rsip::Request::try_from(datagram).unwrap();
    let via = request.via_header().unwrap().typed().unwrap();
    black_box((
        via.branch(),
        via.sent_by(),
        request.call_id_header().unwrap().value(),
    ));
    black_box(request.cseq_header().unwrap().typed().unwrap());
    black_box(request.from_header().unwrap().typed().unwrap().tag());
    black_box(request.to_header().unwrap().typed().unwrap().tag());

    let hops = request.max_forwards_header().unwrap().num().unwrap() - 1;
    request
        .max_forwards_header_mut()
        .unwrap()
        .replace(hops.to_string());
    let mut headers = vec![
        Header::Via(rsip::headers::Via::new(VIA)),
        Header::RecordRoute(rsip::headers::RecordRoute::new(RECORD_ROUTE)),
    ];
    headers.extend(std::mem::take(request.headers_mut()));
    request.headers = headers.into();
    request.into()
}

/// Makes sure that both sides do the same work before it is timed.
fn compare(messages: &[Vec<u8>]) {
    for datagram in messages {
        let (mut index, mut splice, mut ours) = (Index::new(), Splice::new(), Vec::new());
        forward_ours(datagram, &mut index, &mut splice, &mut ours);
        let theirs = forward_rsip(datagram);
        assert_eq!(ours.len(), theirs.len());
        let (mut one, mut two) = (Index::new(), Index::new());
        let ours = Message::parse(&ours, &mut one).unwrap();
        let theirs = Message::parse(&theirs, &mut two).unwrap();
        for name in [
            HeaderName::Via,
            HeaderName::RecordRoute,
            HeaderName::MaxForwards,
            HeaderName::Contact,
        ] {
            let values = |message: &Message<'_>| -> Vec<Vec<u8>> {
                message
                    .headers_named(name)
                    .map(|header| header.value().to_vec())
                    .collect()
            };
            assert_eq!(values(&ours), values(&theirs));
        }
        assert_eq!(ours.body(), theirs.body());
    }
}

/// Returns the `n`th INVITE: other values, another order, more or fewer headers.
fn invite(n: usize) -> Vec<u8> {
    let mut state = n as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let number = 555_000_000 + random() % 999_999;
    let carrier = format!("192.0.2.{}", random() % 250 + 1);
    let mut headers = vec![
        format!(
            "Via: SIP/2.0/UDP {carrier}:5060;branch=z9hG4bK{:x};rport",
            random()
        ),
        "Max-Forwards: 70".to_owned(),
        format!(
            "From: \"Line {n}\" <sip:+33{}@{carrier};user=phone>;tag={:x}",
            random() % 1_000_000_000,
            random()
        ),
        format!("To: <sip:+33{number}@203.0.113.1;user=phone>"),
        format!("Call-ID: {:x}-{:x}@{carrier}", random(), random()),
        format!("CSeq: {} INVITE", random() % 100_000),
        format!(
            "Contact: <sip:+33{}@{carrier}:5060;transport=udp>",
            random() % 1_000_000_000
        ),
        "Content-Type: application/sdp".to_owned(),
    ];
    let optional = [
        "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, UPDATE, PRACK",
        "Supported: 100rel, timer, replaces",
        "User-Agent: carrier gateway 4.2.1",
        "Session-Expires: 1800;refresher=uac",
        "P-Asserted-Identity: <sip:+33155500001@carrier.example.net>",
        "X-Carrier-Trunk: paris-north-2",
        "Accept: application/sdp",
    ];
    headers.extend(
        optional
            .iter()
            .filter(|_| random() % 4 != 0)
            .map(|&header| header.to_owned()),
    );
    if random().is_multiple_of(2) {
        headers.insert(
            1,
            "Via: SIP/2.0/UDP 198.51.100.2:5060;branch=z9hG4bK1;received=198.51.100.2".to_owned(),
        );
    }
    // The topmost Via stays on top; the rest in any order.
    for at in (2..headers.len()).rev() {
        headers.swap(at, 2 + random() as usize % (at - 1));
    }
    let body = format!(
        "v=0\r\no=- {0} {0} IN IP4 {carrier}\r\ns=-\r\nc=IN IP4 {carrier}\r\nt=0 0\r\nm=audio {1} RTP/AVP 8 0 101\r\n\
         a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na=sendrecv\r\n",
        random() % 1_000_000,
        random() % 30_000 + 20_000,
    );
    let start = format!("INVITE sip:+33{number}@203.0.113.1:5060;user=phone SIP/2.0");
    let length = format!("Content-Length: {}", body.len());
    format!(
        "{start}\r\n{}\r\n{length}\r\n\r\n{body}",
        headers.join("\r\n")
    )
    .into_bytes()
}
