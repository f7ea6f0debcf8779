//! Via: where a request came from and where its responses go. RFC 3261 sections 18.2 and 20.42, RFC 3581.

use std::net::SocketAddr;
use std::ops::Range;

use crate::params::RawParams;
use crate::token::{Cursor, DIGIT, HOST, LWS, TOKEN, host_addr, is_host, port, trim};

/// The port of a sent-by without one, over UDP and TCP.
const DEFAULT_PORT: u16 = 5060;

/// One element of a Via list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, ..., as written.
    pub transport: &'a [u8],
    /// The host of sent-by; IPv6 keeps its brackets.
    pub host: &'a [u8],
    /// The port of sent-by.
    pub port: Option<u16>,
    /// The `branch` parameter.
    pub branch: Option<&'a [u8]>,
    /// The `received` parameter, as written.
    pub received: Option<&'a [u8]>,
    /// The `rport` parameter: `None` absent, `Some(None)` the flag, `Some(Some(_))` filled in.
    pub rport: Option<Option<u16>>,
    /// The `maddr` parameter, as written.
    pub maddr: Option<&'a [u8]>,
    /// This element in `message.bytes()`; a parameter can be appended at its end.
    pub range: Range<usize>,
    /// The whole `rport` parameter, without its semicolon, in `message.bytes()`.
    pub rport_range: Option<Range<usize>>,
    /// The whole `received` parameter, without its semicolon, in `message.bytes()`.
    pub received_range: Option<Range<usize>>,
}

impl<'a> Via<'a> {
    /// Reads the element that is all of `range`; `None` if it is broken.
    pub(crate) fn parse_at(bytes: &'a [u8], range: Range<usize>) -> Option<Self> {
        let (start, end) = trim(bytes, range.start, range.end);
        let mut cursor = Cursor {
            bytes: &bytes[..end],
            at: start,
        };
        let transport = sent_protocol(&mut cursor)?;
        let (host, port) = sent_by(&mut cursor)?;
        let mut via = Via {
            transport,
            host,
            port,
            branch: None,
            received: None,
            rport: None,
            maddr: None,
            range: start..end,
            rport_range: None,
            received_range: None,
        };
        for param in RawParams::new(cursor.bytes, cursor.at) {
            let param = param.ok()?;
            match param.name.len() {
                6 if param.name.eq_ignore_ascii_case(b"branch") => via.branch = param.value,
                5 if param.name.eq_ignore_ascii_case(b"maddr") => via.maddr = param.value,
                5 if param.name.eq_ignore_ascii_case(b"rport") => {
                    via.rport = Some(rport(param.value)?);
                    via.rport_range = Some(param.range);
                }
                8 if param.name.eq_ignore_ascii_case(b"received") => {
                    via.received = param.value;
                    via.received_range = Some(param.range);
                }
                _ => {}
            }
        }
        Some(via)
    }

    /// Returns the offset in `message.bytes()` where a parameter, semicolon first, can be inserted.
    pub fn params_end(&self) -> usize {
        self.range.end
    }

    /// Returns sent-by when it spells out an address, port 5060 unless it says otherwise.
    pub fn sent_by_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(
            host_addr(self.host)?,
            self.port.unwrap_or(DEFAULT_PORT),
        ))
    }

    /// Returns where a response over an unreliable transport goes; `None` if that is a name.
    ///
    /// `maddr`, else `received` with the port of `rport`, else of sent-by: RFC 3261 section 18.2.2,
    /// RFC 3581 section 4.
    pub fn response_addr(&self) -> Option<SocketAddr> {
        let sent_by_port = self.port.unwrap_or(DEFAULT_PORT);
        if let Some(maddr) = self.maddr {
            return Some(SocketAddr::new(host_addr(maddr)?, sent_by_port));
        }
        let host = self.received.unwrap_or(self.host);
        let port = self.rport.flatten().unwrap_or(sent_by_port);
        Some(SocketAddr::new(host_addr(host)?, port))
    }
}

/// `SIP / 2.0 / UDP`, white space and folds around the slashes; the transport.
fn sent_protocol<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    const USUAL: &[u8] = b"SIP/2.0/";
    if cursor.bytes[cursor.at..].starts_with(USUAL) {
        cursor.at += USUAL.len();
    } else {
        for part in [&b"SIP"[..], b"2.0"] {
            if !cursor.run(TOKEN).eq_ignore_ascii_case(part) {
                return None;
            }
            cursor.skip_lws();
            if !cursor.take(b'/') {
                return None;
            }
            cursor.skip_lws();
        }
    }
    cursor.skip_lws();
    let transport = cursor.run(TOKEN);
    let spaced = cursor.next_is(LWS);
    cursor.skip_lws();
    (!transport.is_empty() && spaced).then_some(transport)
}

/// `host` or `host : port`.
fn sent_by<'a>(cursor: &mut Cursor<'a>) -> Option<(&'a [u8], Option<u16>)> {
    let host = if cursor.peek() == Some(b'[') {
        let length = memchr::memchr(b']', &cursor.bytes[cursor.at..])? + 1;
        let start = cursor.at;
        cursor.at += length;
        &cursor.bytes[start..cursor.at]
    } else {
        cursor.run(HOST)
    };
    if !is_host(host) {
        return None;
    }
    cursor.skip_lws();
    if !cursor.take(b':') {
        return Some((host, None));
    }
    cursor.skip_lws();
    let port = port(cursor.run(DIGIT))?;
    Some((host, Some(port)))
}

/// An empty `rport=` counts as the flag: some write it.
fn rport(value: Option<&[u8]>) -> Option<Option<u16>> {
    match value {
        None | Some(b"") => Some(None),
        Some(digits) => Some(Some(port(digits)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Option<Via<'_>> {
        Via::parse_at(text.as_bytes(), 0..text.len())
    }

    #[test]
    fn an_element_comes_apart() {
        let text = "SIP/2.0/UDP [2001:db8::9]:5062;rport;branch=z9hG4bK1;received=192.0.2.9";
        let via = via(text).unwrap();
        assert_eq!(
            (via.transport, via.host, via.port),
            (&b"UDP"[..], &b"[2001:db8::9]"[..], Some(5062))
        );
        assert_eq!(
            (via.branch, via.rport),
            (Some(&b"z9hG4bK1"[..]), Some(None))
        );
        assert_eq!(&text[via.rport_range.clone().unwrap()], "rport");
        assert_eq!(
            &text[via.received_range.clone().unwrap()],
            "received=192.0.2.9"
        );
        assert_eq!(via.sent_by_addr(), "[2001:db8::9]:5062".parse().ok());
    }

    #[test]
    fn white_space_may_stand_around_every_part() {
        let via = via("sip  /   2.0\r\n /UDP\r\n    192.0.2.2 : 5070 ;branch = 390skdjuw").unwrap();
        assert_eq!(
            (via.host, via.port, via.branch),
            (&b"192.0.2.2"[..], Some(5070), Some(&b"390skdjuw"[..]))
        );
    }

    #[test]
    fn responses_go_where_the_request_came_from() {
        for (text, address) in [
            ("SIP/2.0/UDP 192.0.2.1", Some("192.0.2.1:5060")),
            ("SIP/2.0/UDP 192.0.2.1:5070;rport", Some("192.0.2.1:5070")),
            (
                "SIP/2.0/UDP host:5070;received=192.0.2.9",
                Some("192.0.2.9:5070"),
            ),
            (
                "SIP/2.0/UDP host:5070;rport=9;received=192.0.2.9",
                Some("192.0.2.9:9"),
            ),
            (
                "SIP/2.0/UDP host;received=2001:db8::1",
                Some("[2001:db8::1]:5060"),
            ),
            (
                "SIP/2.0/UDP 192.0.2.1;maddr=192.0.2.7;received=192.0.2.9",
                Some("192.0.2.7:5060"),
            ),
            ("SIP/2.0/UDP host", None),
        ] {
            let expected = address.map(|address| address.parse().unwrap());
            assert_eq!(via(text).unwrap().response_addr(), expected, "{text}");
        }
    }

    #[test]
    fn broken_elements_are_refused() {
        for text in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP192.0.2.1",
            "SIP/3.0/UDP 192.0.2.1",
            "HTTP/2.0/UDP 192.0.2.1",
            "SIP/2.0/UDP 192.0.2.1:0",
            "SIP/2.0/UDP 192.0.2.1:65536",
            "SIP/2.0/UDP 192.0.2.1;;",
            "SIP/2.0/UDP 192.0.2.1;branch=a b",
            "SIP/2.0/UDP 192.0.2.1;rport=x",
            "SIP/2.0/UDP [::1",
            "SIP/2.0/UDP ho$t;branch=1",
            "SIP/2.0/UDP ;branch=1",
        ] {
            assert_eq!(via(text), None, "{text}");
        }
    }
}
