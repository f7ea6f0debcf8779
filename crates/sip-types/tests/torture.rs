//! RFC 4475, section by section: what is accepted and forwarded byte for byte, and what is refused.
//!
//! Every section is tried with a message of our own (`torture/own`), and with the RFC's originals where
//! they lie beside the repository, in `../shared/torture`. Run with `--nocapture` to see the table.

// Test helpers may panic, and print the table.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

use sip_types::{Fault, HeaderName, Index, Message, ParseError, Scheme, Splice, Uri};

/// What happens to a message.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Outcome {
    /// Readable, and leaves as it came.
    Accepted,
    /// Answered with the fault's status if it is a request, dropped if it is a response.
    Refused(Fault),
    /// Not even framed.
    Dropped(ParseError),
}
use Outcome::{Accepted, Dropped, Refused};

/// RFC 4475's own division: 3.1.1, 3.1.2, 3.2, 3.3, 3.4.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Class {
    Valid,
    Invalid,
    Transaction,
    Application,
    BackwardCompatibility,
}
use Class::{Application, BackwardCompatibility, Invalid, Transaction, Valid};

struct Case {
    section: &'static str,
    original: &'static str,
    own: &'static str,
    class: Class,
    outcome: Outcome,
    /// What reading the message must give, beyond its acceptance.
    look: fn(&Message<'_>),
    /// Why an invalid message is accepted all the same.
    liberty: &'static str,
}

const fn case(
    section: &'static str,
    original: &'static str,
    own: &'static str,
    class: Class,
    outcome: Outcome,
) -> Case {
    Case {
        section,
        original,
        own,
        class,
        outcome,
        look: |_| {},
        liberty: "",
    }
}

impl Case {
    const fn look(self, look: fn(&Message<'_>)) -> Case {
        Case { look, ..self }
    }

    const fn liberty(self, liberty: &'static str) -> Case {
        Case { liberty, ..self }
    }
}

const BAD_VIA: Fault = Fault::Malformed(HeaderName::Via);
const BAD_TO: Fault = Fault::Malformed(HeaderName::To);
const BAD_FROM: Fault = Fault::Malformed(HeaderName::From);
const BAD_CSEQ: Fault = Fault::Malformed(HeaderName::CSeq);
const BAD_LENGTH: Fault = Fault::Malformed(HeaderName::ContentLength);
const BAD_CONTACT: Fault = Fault::Malformed(HeaderName::Contact);

// One line is one section.
#[rustfmt::skip]
const CASES: [Case; 49] = [
    case("3.1.1.1", "wsinv", "white-space", Valid, Accepted).look(|m| {
        assert_eq!(m.vias().count(), 3);
        assert!(m.vias().all(|via| via.unwrap().branch.is_some()));
        assert_eq!(m.max_forwards(), Some(Ok(68)));
        assert!(m.to_tag().is_some() && m.from_tag().is_some());
        assert!(
            m.routes()
                .next()
                .unwrap()
                .unwrap()
                .parsed_uri()
                .unwrap()
                .is_loose()
        );
        assert!(m.header(HeaderName::Subject).unwrap().value().is_empty());
        assert_eq!(m.contacts().count(), 1);
    }),
    case("3.1.1.2", "intmeth", "unusual-characters", Valid, Accepted).look(|m| {
        assert!(m.method().as_bytes().contains(&b'~'));
        assert!(Uri::parse(m.request_uri()).unwrap().password.is_some());
        assert_eq!(m.max_forwards(), Some(Ok(255)));
        assert!(m.from_tag().is_some_and(|tag| tag.contains(&b'~')));
    }),
    case("3.1.1.3", "esc01", "escapes", Valid, Accepted).look(|m| {
        assert!(
            !m.contacts()
                .next()
                .unwrap()
                .unwrap()
                .parsed_uri()
                .unwrap()
                .is_loose()
        );
        assert!(
            Uri::parse(m.request_uri())
                .unwrap()
                .user
                .unwrap()
                .contains(&b'%')
        );
    }),
    case("3.1.1.4", "escnull", "escaped-nul", Valid, Accepted)
        .look(|m| assert_eq!(m.contacts().count(), 2)),
    case("3.1.1.5", "esc02", "percent-is-no-escape", Valid, Accepted)
        .look(|m| assert_eq!(m.contacts().count(), 2)),
    case("3.1.1.6", "lwsdisp", "no-space-before-bracket", Valid, Accepted)
    .look(|m| assert!(!m.from().unwrap().display.is_empty())),
    case("3.1.1.7", "longreq", "long-values", Valid, Accepted)
        .look(|m| assert!(m.vias().count() > 30)),
    case("3.1.1.8", "dblreq", "second-request-behind", Valid, Accepted)
    .look(|m| assert!(m.body().is_empty() && m.bytes().ends_with(b"\r\n\r\n"))),
    case("3.1.1.9", "semiuri", "semicolon-in-user", Valid, Accepted).look(|m| {
        let uri = Uri::parse(m.request_uri()).unwrap();
        assert!(uri.user.unwrap().contains(&b';') && uri.params.iter().count() == 0);
    }),
    case("3.1.1.10", "transports", "many-transports", Valid, Accepted)
        .look(|m| assert_eq!(m.vias().filter(Result::is_ok).count(), 5)),
    case("3.1.1.11", "mpart01", "binary-multipart", Valid, Accepted)
        .look(|m| assert_eq!(m.content_length(), Some(Ok(m.body().len())))),
    case("3.1.1.12", "unreason", "unusual-reason", Valid, Accepted)
        .look(|m| assert!(m.status() == Some(200) && m.reason().starts_with(b"= "))),
    case("3.1.1.13", "noreason", "empty-reason", Valid, Accepted)
        .look(|m| assert!(m.status() < Some(200) && m.reason().is_empty())),
    case("3.1.2.1", "badinv01", "separators-in-via", Invalid, Refused(BAD_VIA)),
    case("3.1.2.2", "clerr", "length-too-large", Invalid, Refused(Fault::BodyTruncated)),
    case("3.1.2.3", "ncl", "length-negative", Invalid, Refused(BAD_LENGTH)),
    case("3.1.2.4", "scalar02", "request-scalars-too-large", Invalid, Refused(BAD_CSEQ)),
    case("3.1.2.5", "scalarlg", "response-scalars-too-large", Invalid, Refused(BAD_CSEQ)),
    case("3.1.2.6", "quotbal", "open-quote", Invalid, Refused(BAD_TO)),
    case("3.1.2.7", "ltgtruri", "bracketed-request-uri", Invalid, Refused(Fault::RequestUri)),
    case("3.1.2.8", "lwsruri", "space-in-request-uri", Invalid, Refused(Fault::RequestUri)),
    case("3.1.2.9", "lwsstart", "spaces-in-request-line", Invalid, Refused(Fault::RequestLine)),
    case("3.1.2.10", "trws", "space-behind-request-line", Invalid, Refused(Fault::RequestLine)),
    case("3.1.2.11", "escruri", "headers-in-request-uri", Invalid, Refused(Fault::RequestUri)),
    case("3.1.2.12", "baddate", "bad-date", Invalid, Accepted)
        .liberty("an element that does not read Date need not refuse it"),
    case("3.1.2.13", "regbadct", "unbracketed-contact-headers", Invalid, Refused(BAD_CONTACT)),
    case("3.1.2.14", "badaspec", "space-in-brackets", Invalid, Refused(BAD_TO)),
    case("3.1.2.15", "baddn", "unquoted-comma-in-name", Invalid, Refused(BAD_FROM)),
    case("3.1.2.16", "badvers", "unknown-version", Invalid, Refused(Fault::Version)),
    case("3.1.2.17", "mismatch01", "method-mismatch", Invalid, Refused(Fault::MethodMismatch)),
    case("3.1.2.18", "mismatch02", "unknown-method-mismatch", Invalid, Refused(Fault::MethodMismatch)),
    case("3.1.2.19", "bigcode", "status-overflows", Invalid, Dropped(ParseError::Status)),
    case("3.2.1", "badbranch", "branch-only-cookie", Transaction, Accepted)
    .look(|m| assert_eq!(m.top_via().unwrap().branch, Some(&b"z9hG4bK"[..]))),
    case("3.3.1", "insuf", "missing-headers", Application, Refused(Fault::Missing(HeaderName::From))),
    case("3.3.2", "unkscm", "unknown-scheme", Application, Accepted).look(other_scheme),
    case("3.3.3", "novelsc", "known-scheme-not-sip", Application, Accepted)
    .look(other_scheme),
    case("3.3.4", "unksm2", "other-schemes-in-headers", Application, Accepted)
    .look(|m| {
        let scheme = m.to().unwrap().parsed_uri().unwrap().scheme;
        assert!(matches!(scheme, Scheme::Other(_)), "{scheme:?}");
    }),
    case("3.3.5", "bext01", "unknown-extensions", Application, Accepted)
    .look(|m| {
        assert_eq!(m.elements(HeaderName::Require).count(), 2);
        assert!(m.header(HeaderName::ProxyRequire).is_some());
    }),
    case("3.3.6", "invut", "unknown-content-type", Application, Accepted)
    .look(|m| assert!(!m.body().is_empty())),
    case("3.3.7", "regaut01", "unknown-authorization", Application, Accepted)
    .look(|m| assert!(m.header(HeaderName::Authorization).is_some())),
    case("3.3.8", "multi01", "repeated-single-headers", Application, Refused(Fault::Duplicate(HeaderName::CSeq))),
    case("3.3.9", "mcl01", "two-lengths", Application, Refused(Fault::Duplicate(HeaderName::ContentLength))),
    case("3.3.10", "bcast", "broadcast-via", Application, Accepted).look(|m| {
        let second = m.vias().nth(1).unwrap().unwrap();
        assert_eq!(second.response_addr(), "255.255.255.255:5060".parse().ok());
    }),
    case("3.3.11", "zeromf", "zero-max-forwards", Application, Accepted)
    .look(|m| assert_eq!(m.max_forwards(), Some(Ok(0)))),
    case("3.3.12", "cparam01", "contact-parameter-outside", Application, Accepted)
    .look(|m| {
        let contact = m.contacts().next().unwrap().unwrap();
        assert_eq!(contact.params.iter().count(), 1);
        assert_eq!(contact.parsed_uri().unwrap().params.iter().count(), 0);
    }),
    case("3.3.13", "cparam02", "contact-parameter-inside", Application, Accepted)
    .look(|m| {
        let contact = m.contacts().next().unwrap().unwrap();
        assert_eq!(contact.params.iter().count(), 0);
        assert_eq!(contact.parsed_uri().unwrap().params.iter().count(), 1);
    }),
    case("3.3.14", "regescrt", "contact-uri-with-headers", Application, Accepted)
    .look(|m| {
        let contact = m.contacts().next().unwrap().unwrap();
        assert!(contact.parsed_uri().unwrap().headers.is_some());
    }),
    case("3.3.15", "sdp01", "accept-without-sdp", Application, Accepted)
    .look(|m| assert!(m.header(HeaderName::Accept).is_some())),
    case("3.4.1", "inv2543", "old-invite", BackwardCompatibility, Accepted)
    .look(|m| {
        assert!(m.top_via().unwrap().branch.is_none() && m.max_forwards().is_none());
        assert!(m.content_length().is_none() && !m.body().is_empty());
    }),
];

fn other_scheme(message: &Message<'_>) {
    let scheme = Uri::parse(message.request_uri()).unwrap().scheme;
    assert!(matches!(scheme, Scheme::Other(_)), "{scheme:?}");
}

#[test]
fn every_section_has_the_outcome_that_the_rfc_asks_for() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = here.join("tests/torture/own");
    let originals = here.join("../../../shared/torture");

    let mut wrong = run("own", &own, "sip", |case| case.own);
    if originals.is_dir() {
        wrong += run("originals", &originals, "dat", |case| case.original);
    } else {
        println!(
            "../shared/torture is absent: the RFC's originals were NOT tried, only our own messages"
        );
    }
    assert_eq!(wrong, 0, "outcomes differ from the table");
}

/// Tries one set of files, prints its table, and returns how many outcomes were wrong.
fn run(set: &str, folder: &Path, extension: &str, file: fn(&Case) -> &'static str) -> usize {
    println!("{set}:");
    println!("{:<28} {:<9} {:<22} outcome", "file", "section", "class");
    let (mut wrong, mut refused) = (0, 0);
    for case in &CASES {
        let path = folder.join(file(case)).with_extension(extension);
        let outcome = outcome(case, &path);
        let verdict = if outcome == case.outcome {
            case.liberty
        } else {
            "WRONG"
        };
        wrong += usize::from(outcome != case.outcome);
        refused += usize::from(case.class == Invalid && outcome != Accepted);
        let class = format!("{:?}", case.class);
        println!(
            "{:<28} {:<9} {class:<22} {outcome:?} {verdict}",
            file(case),
            case.section
        );
    }
    let of = |class| CASES.iter().filter(|case| case.class == class).count();
    println!(
        "{set}: {refused} of {} invalid refused, {wrong} outcomes wrong\n",
        of(Invalid)
    );
    assert!(refused >= 16, "too lenient");
    wrong
}

fn outcome(case: &Case, path: &PathBuf) -> Outcome {
    let datagram = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut index = Index::new();
    let message = match Message::parse(&datagram, &mut index) {
        Ok(message) => message,
        Err(error) => return Dropped(error),
    };
    if let Err(fault) = message.check() {
        return Refused(fault);
    }
    assert!(datagram.starts_with(message.bytes()), "{}", case.section);
    if case.section != "3.1.1.8" {
        assert_eq!(message.bytes().len(), datagram.len(), "{}", case.section);
    }
    (case.look)(&message);
    forwards_byte_for_byte(&message);
    Accepted
}

/// Puts a Via on top and a new hop count in place, and finds every other byte where it was.
fn forwards_byte_for_byte(message: &Message<'_>) {
    const VIA: &[u8] = b"Via: SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKours\r\n";
    let mut splice = Splice::new();
    let mut same = Vec::new();
    splice.apply(message.bytes(), &mut same);
    assert_eq!(same, message.bytes());

    let top = message.insertion_point(HeaderName::Via);
    splice.insert(top, VIA);
    let mut forwarded = Vec::new();
    splice.apply(message.bytes(), &mut forwarded);
    let (before, rest) = forwarded.split_at(top);
    assert_eq!(before, &message.bytes()[..top]);
    assert_eq!(rest.strip_prefix(VIA), Some(&message.bytes()[top..]));

    let mut index = Index::new();
    let again = Message::parse(&forwarded, &mut index).unwrap();
    assert_eq!(again.check(), Ok(()));
    assert_eq!(again.vias().count(), message.vias().count() + 1);
    assert_eq!(again.top_via().unwrap().branch, Some(&b"z9hG4bKours"[..]));
}
