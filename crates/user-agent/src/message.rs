//! SIP messages as the two ends read and write them: a thin layer over rsip.
//!
//! Strict: what RFC 3261 section 8.1.1 makes mandatory must be there and must be readable for rsip.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rsip::headers::{ToTypedHeader as _, UntypedHeader as _};

use crate::records::CallId;

/// The methods that the two ends tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// RFC 3261.
    Invite,
    /// RFC 3261.
    Ack,
    /// RFC 3261.
    Bye,
    /// RFC 3261.
    Cancel,
    /// RFC 6086.
    Info,
    /// RFC 3261.
    Options,
    /// RFC 3262.
    Prack,
    /// RFC 3311.
    Update,
    /// Any other that rsip knows.
    Other,
}

impl Method {
    fn of(method: rsip::Method) -> Self {
        match method {
            rsip::Method::Invite => Self::Invite,
            rsip::Method::Ack => Self::Ack,
            rsip::Method::Bye => Self::Bye,
            rsip::Method::Cancel => Self::Cancel,
            rsip::Method::Info => Self::Info,
            rsip::Method::Options => Self::Options,
            rsip::Method::PRack => Self::Prack,
            rsip::Method::Update => Self::Update,
            rsip::Method::Message
            | rsip::Method::Notify
            | rsip::Method::Publish
            | rsip::Method::Refer
            | rsip::Method::Register
            | rsip::Method::Subscribe => Self::Other,
        }
    }

    fn to_rsip(self) -> rsip::Method {
        match self {
            Self::Invite => rsip::Method::Invite,
            Self::Ack => rsip::Method::Ack,
            Self::Bye => rsip::Method::Bye,
            Self::Cancel => rsip::Method::Cancel,
            Self::Info => rsip::Method::Info,
            Self::Options => rsip::Method::Options,
            Self::Prack => rsip::Method::PRack,
            Self::Update => rsip::Method::Update,
            Self::Other => unreachable!("no request of an unnamed method is ever made"),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Info => "INFO",
            Self::Options => "OPTIONS",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Other => "other",
        })
    }
}

/// A datagram that is no SIP message.
#[derive(Debug)]
pub(crate) struct Garbage;

impl From<rsip::Error> for Garbage {
    fn from(_: rsip::Error) -> Self {
        Self
    }
}

/// What requests and responses have in common. Values are as they came.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) vias: Vec<String>,
    /// Branch of the topmost Via.
    pub(crate) branch: String,
    /// `host` or `host:port` of the topmost Via.
    pub(crate) sent_by: String,
    pub(crate) from: String,
    pub(crate) from_tag: String,
    pub(crate) to: String,
    pub(crate) to_tag: Option<String>,
    pub(crate) call_id: CallId,
    pub(crate) cseq: u32,
    pub(crate) method: Method,
    /// Every Record-Route entry, in the order of the message.
    pub(crate) record_route: Vec<String>,
    /// The URI of the Contact.
    pub(crate) contact: Option<String>,
    headers: rsip::Headers,
}

/// A request that was received.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) source: SocketAddr,
}

/// A response that was received.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) status: u16,
}

/// A message that was received.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Request(Request),
    Response(Response),
}

impl Message {
    pub(crate) fn parse(source: SocketAddr, bytes: &[u8]) -> Result<Self, Garbage> {
        match rsip::SipMessage::try_from(bytes)? {
            rsip::SipMessage::Request(request) => {
                let head = Head::read(&request)?;
                let is_consistent = head.method == Method::of(request.method);
                is_consistent
                    .then_some(Self::Request(Request { head, source }))
                    .ok_or(Garbage)
            }
            rsip::SipMessage::Response(response) => {
                let status = response.status_code.code();
                Ok(Self::Response(Response {
                    head: Head::read(&response)?,
                    status,
                }))
            }
        }
    }
}

impl Head {
    fn read(message: &impl rsip::message::HeadersExt) -> Result<Self, Garbage> {
        let headers = message.headers();
        let vias: Vec<&rsip::headers::Via> = rsip::all_headers!(headers.iter(), rsip::Header::Via);
        let vias: Vec<_> = vias
            .iter()
            .flat_map(|via| split_list(via.value()))
            .collect();
        let top = rsip::headers::Via::new(vias.first().ok_or(Garbage)?.as_str()).into_typed()?;
        let routes: Vec<&rsip::headers::RecordRoute> =
            rsip::all_headers!(headers.iter(), rsip::Header::RecordRoute);
        let (from, to) = (message.from_header()?, message.to_header()?);
        let cseq = message.cseq_header()?.typed()?;
        let contact = rsip::header_opt!(headers.iter(), rsip::Header::Contact);
        let contact = contact.map(|contact| uri_of(contact.value()).to_owned());
        if let Some(uri) = &contact {
            rsip::Uri::try_from(uri.as_str())?;
        }
        Ok(Self {
            branch: top.branch().ok_or(Garbage)?.value().to_owned(),
            sent_by: top.uri.host_with_port.to_string(),
            from: from.value().to_owned(),
            from_tag: from.typed()?.tag().ok_or(Garbage)?.value().to_owned(),
            to: to.value().to_owned(),
            to_tag: to.typed()?.tag().map(|tag| tag.value().to_owned()),
            call_id: CallId::new(message.call_id_header()?.value()),
            cseq: cseq.seq,
            method: Method::of(cseq.method),
            record_route: routes
                .iter()
                .flat_map(|route| split_list(route.value()))
                .collect(),
            contact,
            headers: headers.clone(),
            vias,
        })
    }

    /// Returns the value of the first header of a name that rsip has no type for.
    pub(crate) fn other(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let rsip::Header::Other(found, value) = header else {
                return None;
            };
            found.eq_ignore_ascii_case(name).then_some(value.as_str())
        })
    }

    /// Tells whether Supported or Require names 100rel, RFC 3262.
    pub(crate) fn names_100rel(&self) -> bool {
        let supported = rsip::header_opt!(self.headers.iter(), rsip::Header::Supported);
        let require = rsip::header_opt!(self.headers.iter(), rsip::Header::Require);
        [
            supported.map(|value| value.value()),
            require.map(|value| value.value()),
        ]
        .into_iter()
        .flatten()
        .flat_map(|value| value.split(','))
        .any(|option| option.trim() == "100rel")
    }
}

/// Something to say besides the headers that every message has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) headers: Vec<(&'static str, String)>,
    /// A session description.
    pub(crate) body: Option<String>,
}

impl Extra {
    pub(crate) fn header(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Offers or answers a call without media: both ends only signal.
    pub(crate) fn session(mut self, local: SocketAddr) -> Self {
        let ip = local.ip();
        self.body = Some(format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio 40000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
        ));
        self
    }

    fn append_to(self, headers: &mut rsip::Headers) -> Vec<u8> {
        for (name, value) in self.headers {
            headers.push(rsip::Header::Other(name.to_owned(), value));
        }
        if self.body.is_some() {
            headers.push(rsip::headers::ContentType::new("application/sdp").into());
        }
        let body = self.body.unwrap_or_default().into_bytes();
        headers.push(rsip::headers::ContentLength::new(body.len().to_string()).into());
        body
    }
}

/// The parts of a request that is going to be sent.
#[derive(Clone, Debug)]
pub(crate) struct NewRequest {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) call_id: CallId,
    pub(crate) cseq: u32,
    pub(crate) routes: Vec<String>,
    pub(crate) contact: Option<String>,
    pub(crate) extra: Extra,
}

impl NewRequest {
    /// Prints the request with a Via of `local` and `branch`.
    pub(crate) fn print(self, local: SocketAddr, branch: &str) -> Vec<u8> {
        let mut headers = rsip::Headers::default();
        let via = format!("SIP/2.0/UDP {local};branch={branch};rport");
        headers.push(rsip::headers::Via::new(via).into());
        headers.push(rsip::headers::MaxForwards::new("70").into());
        for route in self.routes {
            headers.push(rsip::headers::Route::new(route).into());
        }
        headers.push(rsip::headers::From::new(self.from).into());
        headers.push(rsip::headers::To::new(self.to).into());
        headers.push(rsip::headers::CallId::new(self.call_id.as_str()).into());
        let cseq = format!("{} {}", self.cseq, self.method);
        headers.push(rsip::headers::CSeq::new(cseq).into());
        if let Some(contact) = self.contact {
            headers.push(rsip::headers::Contact::new(format!("<{contact}>")).into());
        }
        let body = self.extra.append_to(&mut headers);
        let uri = rsip::Uri::try_from(self.uri.as_str()).expect("a URI that was read or made here");
        let version = rsip::Version::V2;
        rsip::Request {
            method: self.method.to_rsip(),
            uri,
            version,
            headers,
            body,
        }
        .into()
    }
}

/// Prints a response to `request`, and returns it with its destination (RFC 3261 section 18.2.2,
/// RFC 3581 section 4).
///
/// `to_tag` is added unless the request has one. Record-Route goes back where it makes a dialog.
pub(crate) fn respond(
    request: &Request,
    status: u16,
    to_tag: &str,
    contact: Option<&str>,
    extra: Extra,
) -> (SocketAddr, Vec<u8>) {
    let head = &request.head;
    let (top, destination) = answer_via(&head.vias[0], &head.sent_by, request.source);
    let mut headers = rsip::Headers::default();
    headers.push(rsip::headers::Via::new(top).into());
    for via in &head.vias[1..] {
        headers.push(rsip::headers::Via::new(via.as_str()).into());
    }
    if (101..300).contains(&status) {
        for route in &head.record_route {
            headers.push(rsip::headers::RecordRoute::new(route.as_str()).into());
        }
    }
    headers.push(rsip::headers::From::new(head.from.as_str()).into());
    let to = match &head.to_tag {
        None if status > 100 => format!("{};tag={to_tag}", head.to),
        Some(_) | None => head.to.clone(),
    };
    headers.push(rsip::headers::To::new(to).into());
    headers.push(rsip::headers::CallId::new(head.call_id.as_str()).into());
    headers.push(rsip::headers::CSeq::new(format!("{} {}", head.cseq, head.method)).into());
    if let Some(contact) = contact {
        headers.push(rsip::headers::Contact::new(format!("<{contact}>")).into());
    }
    let body = extra.append_to(&mut headers);
    let status_code = rsip::StatusCode::from(status);
    let response = rsip::Response {
        status_code,
        version: rsip::Version::V2,
        headers,
        body,
    };
    (destination, response.into())
}

/// Fills in `received` and `rport` of the topmost Via, and says where its sender waits.
fn answer_via(via: &str, sent_by: &str, source: SocketAddr) -> (String, SocketAddr) {
    let (sent_protocol, parameters) = via.split_once(';').unwrap_or((via, ""));
    let mut filled = sent_protocol.to_owned();
    let mut wants_port = false;
    for parameter in parameters
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        filled.push(';');
        match parameter.eq_ignore_ascii_case("rport") {
            true => filled.push_str(&format!("rport={}", source.port())),
            false => filled.push_str(parameter),
        }
        wants_port |= parameter.eq_ignore_ascii_case("rport");
    }
    let port = sent_by
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let host = sent_by.split(':').next().unwrap_or_default();
    if wants_port || host.parse() != Ok(source.ip()) {
        filled.push_str(&format!(";received={}", source.ip()));
    }
    let port = if wants_port {
        source.port()
    } else {
        port.unwrap_or(DEFAULT_PORT)
    };
    (filled, SocketAddr::new(source.ip(), port))
}

const DEFAULT_PORT: u16 = 5060;

/// Returns the address that the URI in a header value names, if it names a numeric one.
pub(crate) fn address_of(value: &str) -> Option<SocketAddr> {
    let uri = rsip::Uri::try_from(uri_of(value)).ok()?;
    let ip: IpAddr = uri.host().to_string().parse().ok()?;
    let port = uri.port().map_or(DEFAULT_PORT, |port| *port.value());
    Some(SocketAddr::new(ip, port))
}

/// Returns the URI of a value such as `"Name" <sip:a@b>;tag=1`, or of a bare URI.
pub(crate) fn uri_of(value: &str) -> &str {
    match value.rsplit_once('<') {
        Some((_, uri)) => uri.split('>').next().unwrap_or(uri),
        None => value.split(';').next().unwrap_or(value).trim(),
    }
}

/// Splits a header value at its commas, but not within quotes or angle brackets.
fn split_list(value: &str) -> Vec<String> {
    let (mut parts, mut start, mut quoted, mut bracketed) = (Vec::new(), 0, false, false);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            b',' if !quoted && !bracketed => {
                parts.push(value[start..at].trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(value[start..].trim().to_owned());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SocketAddr {
        "127.0.0.9:7000".parse().unwrap()
    }

    const INVITE: &str = "INVITE sip:1@127.0.0.2 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 127.0.0.3;branch=z9hG4bKtop;rport, SIP/2.0/UDP 127.0.0.4:5099;branch=z9hG4bKa\r\n\
        Via: SIP/2.0/UDP 127.0.0.5;branch=z9hG4bKb\r\n\
        Record-Route: <sip:127.0.0.3;lr;did=4f>, <sip:127.0.0.4:5099;r2=on;lr>\r\n\
        Record-Route: <sip:127.0.0.5;lr>\r\n\
        From: \"A, B\" <sip:a@127.0.0.5>;tag=f\r\nTo: <sip:1@127.0.0.2>\r\nCall-ID: c\r\n\
        CSeq: 7 INVITE\r\nContact: <sip:a@127.0.0.5:5070;ob>\r\nSupported: timer, 100rel\r\n\
        X-Callee-Plan: status=200\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";

    fn invite() -> Request {
        match Message::parse(source(), INVITE.as_bytes()).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => panic!("a request"),
        }
    }

    #[test]
    fn a_request_is_read_with_its_lists() {
        let head = invite().head;
        assert_eq!((head.vias.len(), head.branch.as_str()), (3, "z9hG4bKtop"));
        assert_eq!(
            (head.from_tag.as_str(), head.to_tag.as_deref()),
            ("f", None)
        );
        assert_eq!((head.cseq, head.method), (7, Method::Invite));
        assert_eq!(
            head.record_route,
            [
                "<sip:127.0.0.3;lr;did=4f>",
                "<sip:127.0.0.4:5099;r2=on;lr>",
                "<sip:127.0.0.5;lr>"
            ]
        );
        assert_eq!(head.contact.as_deref(), Some("sip:a@127.0.0.5:5070;ob"));
        assert_eq!(head.other("x-callee-plan"), Some("status=200"));
        assert!(head.names_100rel());
        assert_eq!(
            address_of(&head.record_route[1]),
            "127.0.0.4:5099".parse().ok()
        );
        assert_eq!(
            address_of(&head.record_route[2]),
            "127.0.0.5:5060".parse().ok()
        );
    }

    #[test]
    fn a_response_goes_back_to_where_the_request_came_from() {
        let (to, bytes) = respond(&invite(), 180, "t", None, Extra::default());
        assert_eq!(to, source());
        let Message::Response(response) = Message::parse(source(), &bytes).unwrap() else {
            panic!("a response")
        };
        assert_eq!(
            (response.status, response.head.to_tag.as_deref()),
            (180, Some("t"))
        );
        assert_eq!(
            response.head.vias[0],
            "SIP/2.0/UDP 127.0.0.3;branch=z9hG4bKtop;rport=7000;received=127.0.0.9"
        );
        assert_eq!(response.head.vias[1..], invite().head.vias[1..]);
        assert_eq!(response.head.record_route, invite().head.record_route);
        let without_rport = "SIP/2.0/UDP 127.0.0.3:5080;branch=b";
        let (via, to) = answer_via(without_rport, "127.0.0.3:5080", source());
        assert_eq!(via, format!("{without_rport};received=127.0.0.9"));
        assert_eq!(to, "127.0.0.9:5080".parse().unwrap());
    }

    #[test]
    fn what_lacks_a_mandatory_part_is_garbage() {
        for missing in ["Via", "From", "To", "Call-ID", "CSeq"] {
            let text: String = INVITE
                .split_inclusive("\r\n")
                .filter(|line| !line.starts_with(&format!("{missing}:")))
                .collect();
            assert!(
                Message::parse(source(), text.as_bytes()).is_err(),
                "{missing}"
            );
        }
        let inconsistent = INVITE.replace("CSeq: 7 INVITE", "CSeq: 7 BYE");
        assert!(Message::parse(source(), inconsistent.as_bytes()).is_err());
        assert!(Message::parse(source(), b"\xff\x00").is_err());
        assert!(Message::parse(source(), b"").is_err());
    }
}
