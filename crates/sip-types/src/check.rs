//! What an element must be able to read before it acts on a message, and how to say what is wrong.
//!
//! Refused is only what routing, transactions or dialogs have to read; a Date in a foreign time zone
//! or a body nobody understands passes. RFC 3261 sections 8.1.1, 8.2 and 16.3; RFC 4475.

use crate::message::Message;
use crate::method::Method;
use crate::name::HeaderName;
use crate::name_addr::NameAddr;
use crate::token::{LWS, is};
use crate::uri::Uri;
use crate::{BRANCH_BYTES_MAX, CALL_ID_BYTES_MAX, LIST_ELEMENTS_MAX, TAG_BYTES_MAX, URI_BYTES_MAX};

/// What is wrong with a message that could be framed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The version is not SIP/2.0.
    #[error("sip version not supported")]
    Version,
    /// Spaces in the request line other than the two that belong there.
    #[error("malformed request line")]
    RequestLine,
    /// The Request-URI is no URI, or carries headers (RFC 3261 section 19.1.1).
    #[error("malformed request-uri")]
    RequestUri,
    /// The Request-URI is longer than [`URI_BYTES_MAX`].
    #[error("request-uri too long")]
    RequestUriTooLong,
    /// A header line without a name or a colon.
    #[error("malformed header line")]
    HeaderLine,
    /// A header that every message has is absent.
    #[error("missing {}", .0.as_str())]
    Missing(HeaderName),
    /// A header that may occur once occurs again.
    #[error("more than one {}", .0.as_str())]
    Duplicate(HeaderName),
    /// A header that has to be read cannot be.
    #[error("malformed {}", .0.as_str())]
    Malformed(HeaderName),
    /// A URI, tag, branch, Call-ID or list is longer than its limit.
    #[error("{} too long", .0.as_str())]
    TooLong(HeaderName),
    /// The method of CSeq is not the method of the request.
    #[error("method mismatch")]
    MethodMismatch,
    /// Content-Length counts more bytes than there are.
    #[error("body shorter than content-length")]
    BodyTruncated,
}

impl Fault {
    /// Returns the status to answer a request with: 400, 414, or 505.
    pub const fn status(&self) -> u16 {
        match self {
            Fault::Version => 505,
            Fault::RequestUriTooLong => 414,
            Fault::RequestLine
            | Fault::RequestUri
            | Fault::HeaderLine
            | Fault::Missing(_)
            | Fault::Duplicate(_)
            | Fault::Malformed(_)
            | Fault::TooLong(_)
            | Fault::MethodMismatch
            | Fault::BodyTruncated => 400,
        }
    }

    /// Returns a reason phrase for that status, fit for the wire and for a metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Fault::Version => "Version Not Supported",
            Fault::RequestLine => "Bad Request Line",
            Fault::RequestUri => "Bad Request-URI",
            Fault::RequestUriTooLong => "Request-URI Too Long",
            Fault::HeaderLine => "Bad Header Line",
            Fault::MethodMismatch => "CSeq Method Mismatch",
            Fault::BodyTruncated => "Content-Length Beyond Message",
            Fault::Missing(name) => name.phrases().missing,
            Fault::Duplicate(name) => name.phrases().duplicate,
            Fault::Malformed(name) => name.phrases().malformed,
            Fault::TooLong(name) => name.phrases().too_long,
        }
    }
}

impl<'a> Message<'a> {
    /// Checks everything that an element has to read, so that what reads it later cannot fail.
    ///
    /// The URIs that route a request (Request-URI, Route, Record-Route) are taken apart; those that name
    /// somebody (From, To, Contact) need only a scheme and sound characters. Max-Forwards may be absent:
    /// RFC 2543 had none, and a proxy adds it. For a response only what transactions and response routing
    /// read is checked.
    pub fn check(&self) -> Result<(), Fault> {
        if let Some(fault) = self.index.fault {
            return Err(fault);
        }
        for name in MANDATORY {
            if self.index.first(name).is_none() {
                return Err(Fault::Missing(name));
            }
        }
        self.check_call_id()?;
        self.check_party(HeaderName::From)?;
        self.check_party(HeaderName::To)?;
        self.check_vias()?;
        let cseq = self.cseq().ok_or(Fault::Malformed(HeaderName::CSeq))?;
        if self.is_request() {
            self.check_request(cseq.method)?;
        }
        Ok(())
    }

    fn check_request(&self, cseq_method: Method<'a>) -> Result<(), Fault> {
        self.check_request_uri()?;
        if cseq_method != self.method() {
            return Err(Fault::MethodMismatch);
        }
        self.max_forwards().transpose()?;
        self.check_addresses(HeaderName::Route, route_is_readable)?;
        self.check_addresses(HeaderName::RecordRoute, route_is_readable)?;
        self.check_addresses(HeaderName::Contact, |_| true)
    }

    fn check_request_uri(&self) -> Result<(), Fault> {
        let text = self.request_uri();
        if text.len() > URI_BYTES_MAX {
            return Err(Fault::RequestUriTooLong);
        }
        match Uri::parse(text) {
            Ok(uri) if uri.headers.is_none() => Ok(()),
            Ok(_) | Err(_) => Err(Fault::RequestUri),
        }
    }

    fn check_call_id(&self) -> Result<(), Fault> {
        let call_id = self.call_id();
        if call_id.is_empty() || call_id.iter().any(|byte| is(*byte, LWS)) {
            return Err(Fault::Malformed(HeaderName::CallId));
        }
        within(call_id.len(), CALL_ID_BYTES_MAX, HeaderName::CallId)
    }

    fn check_party(&self, name: HeaderName) -> Result<(), Fault> {
        let party = self.name_addr(name).ok_or(Fault::Malformed(name))?;
        within(party.uri.len(), URI_BYTES_MAX, name)?;
        within(party.tag().map_or(0, <[u8]>::len), TAG_BYTES_MAX, name)
    }

    fn check_vias(&self) -> Result<(), Fault> {
        for (count, via) in self.vias().enumerate() {
            within(count + 1, LIST_ELEMENTS_MAX, HeaderName::Via)?;
            within(
                via?.branch.map_or(0, <[u8]>::len),
                BRANCH_BYTES_MAX,
                HeaderName::Via,
            )?;
        }
        Ok(())
    }

    fn check_addresses(
        &self,
        name: HeaderName,
        readable: fn(&NameAddr<'_>) -> bool,
    ) -> Result<(), Fault> {
        for (count, address) in self.addresses(name).enumerate() {
            within(count + 1, LIST_ELEMENTS_MAX, name)?;
            let address = address?;
            within(address.uri.len(), URI_BYTES_MAX, name)?;
            if !readable(&address) {
                return Err(Fault::Malformed(name));
            }
        }
        Ok(())
    }
}

fn route_is_readable(address: &NameAddr<'_>) -> bool {
    address.parsed_uri().is_ok()
}

/// What every message carries: RFC 3261 section 8.1.1, Max-Forwards aside.
const MANDATORY: [HeaderName; 5] = [
    HeaderName::Via,
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
];

fn within(length: usize, max: usize, name: HeaderName) -> Result<(), Fault> {
    if length > max {
        Err(Fault::TooLong(name))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;

    /// Checks a sound request in which `from` was replaced by `to`.
    fn changed(from: &str, to: &str) -> Result<(), Fault> {
        let text = "INVITE sip:b@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
            Route: <sip:r.example.org;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:a@example.org>;tag=1\r\n\
            To: <sip:b@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.1>\r\n\r\n";
        assert!(text.contains(from), "{from}");
        let text = text.replacen(from, to, 1);
        let mut index = Index::new();
        Message::parse(text.as_bytes(), &mut index).unwrap().check()
    }

    #[test]
    fn what_has_to_be_read_is_refused_when_it_cannot_be() {
        use HeaderName::{CSeq, CallId, From, MaxForwards, Route, To, Via};
        assert_eq!(changed("Max-Forwards: 70\r\n", ""), Ok(()));
        assert_eq!(changed("Contact: <sip:a@192.0.2.1>", "m: *"), Ok(()));
        for (from, to, fault) in [
            (
                "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n",
                "",
                Fault::Missing(Via),
            ),
            ("192.0.2.1;branch", ";branch", Fault::Malformed(Via)),
            ("CSeq: 1", "CSeq: 1x", Fault::Malformed(CSeq)),
            ("CSeq: 1 INVITE", "CSeq: 1 ACK", Fault::MethodMismatch),
            ("Call-ID: c", "Call-ID:", Fault::Malformed(CallId)),
            ("Call-ID: c", "Call-ID: c d", Fault::Malformed(CallId)),
            ("Call-ID: c", "Call-ID: c\r\ni: d", Fault::Duplicate(CallId)),
            ("From: <sip:a", "From: <a", Fault::Malformed(From)),
            ("To: <sip:b", "To: \"b <sip:b", Fault::Malformed(To)),
            (
                "Max-Forwards: 70",
                "Max-Forwards: 256",
                Fault::Malformed(MaxForwards),
            ),
            (
                "<sip:r.example.org;lr>",
                "<sip:r.example.org:port;lr>",
                Fault::Malformed(Route),
            ),
            (
                "<sip:r.example.org;lr>",
                "<sip:r;lr>,,<sip:s;lr>",
                Fault::Malformed(Route),
            ),
            (
                "sip:b@example.org SIP/2.0",
                "sip:b@ SIP/2.0",
                Fault::RequestUri,
            ),
            (
                "sip:b@example.org SIP/2.0",
                "sip:b@example.org SIP/1.0",
                Fault::Version,
            ),
            ("Route: ", "Route ", Fault::HeaderLine),
        ] {
            assert_eq!(changed(from, to), Err(fault), "{to}");
            assert!(!fault.reason().is_empty() && fault.status() >= 400);
        }
    }

    #[test]
    fn limits_hold() {
        let long = |length: usize| "x".repeat(length);
        assert_eq!(
            changed(
                "Call-ID: c",
                &format!("Call-ID: {}", long(CALL_ID_BYTES_MAX))
            ),
            Ok(())
        );
        for (from, to, fault) in [
            (
                "Call-ID: c",
                format!("Call-ID: {}", long(CALL_ID_BYTES_MAX + 1)),
                Fault::TooLong(HeaderName::CallId),
            ),
            (
                "tag=1",
                format!("tag={}", long(TAG_BYTES_MAX + 1)),
                Fault::TooLong(HeaderName::From),
            ),
            (
                "z9hG4bK1",
                long(BRANCH_BYTES_MAX + 1),
                Fault::TooLong(HeaderName::Via),
            ),
            (
                "sip:b@",
                format!("sip:{}@", long(URI_BYTES_MAX)),
                Fault::RequestUriTooLong,
            ),
            (
                "<sip:b@",
                format!("<sip:{}@", long(URI_BYTES_MAX)),
                Fault::TooLong(HeaderName::To),
            ),
            (
                "<sip:r",
                format!("{}<sip:r", "<sip:s>,".repeat(LIST_ELEMENTS_MAX)),
                Fault::TooLong(HeaderName::Route),
            ),
        ] {
            assert_eq!(changed(from, &to), Err(fault));
        }
        assert_eq!(Fault::RequestUriTooLong.status(), 414);
    }
}
