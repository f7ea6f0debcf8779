//! URIs: sip, sips and tel taken apart, any other scheme opaque. RFC 3261 section 19.1, RFC 3966.

use std::net::{IpAddr, SocketAddr};

use crate::params::Params;
use crate::token::{host_addr, is_host, is_uri_text, port};

/// Why a URI, or an address around one, cannot be read.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No scheme and colon at the start.
    #[error("no scheme")]
    Scheme,
    /// White space, a control character, a quote or an angle bracket.
    #[error("character not allowed")]
    Character,
    /// An `@` with nothing before it.
    #[error("empty user")]
    User,
    /// The host is absent or not a name, an IPv4 address or a bracketed IPv6 address.
    #[error("malformed host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("malformed port")]
    Port,
    /// A display name, quote or angle bracket around the URI is broken.
    #[error("malformed address")]
    Address,
}

/// The scheme of a URI.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scheme<'a> {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// Any other, as written, without the colon.
    Other(&'a [u8]),
}

/// A URI in its parts. Nothing is unescaped: `%61` stays `%61`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// The scheme.
    pub scheme: Scheme<'a>,
    /// The user, with parameters of its own if it has any; the number of a `tel:` URI.
    pub user: Option<&'a [u8]>,
    /// What follows a colon in the user part.
    pub password: Option<&'a [u8]>,
    /// A name, an IPv4 address, or IPv6 in brackets; empty unless the scheme is sip or sips.
    pub host: &'a [u8],
    /// The port, if there is one.
    pub port: Option<u16>,
    /// The URI's own parameters.
    pub params: Params<'a>,
    /// What follows the question mark.
    pub headers: Option<&'a [u8]>,
    /// Everything after the scheme's colon.
    pub opaque: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Takes a URI apart; `bytes` is the URI and nothing around it.
    pub fn parse(bytes: &'a [u8]) -> Result<Uri<'a>, UriError> {
        let (scheme, rest) = scheme(bytes)?;
        if !is_uri_text(rest) {
            return Err(UriError::Character);
        }
        let opaque = Uri {
            scheme,
            user: None,
            password: None,
            host: b"",
            port: None,
            params: Params::default(),
            headers: None,
            opaque: rest,
        };
        match scheme {
            Scheme::Sip | Scheme::Sips => opaque.with_authority(rest),
            Scheme::Tel => {
                let (number, params) = split_at_byte(rest, b';');
                Ok(Uri {
                    user: Some(number),
                    params: Params::new(params),
                    ..opaque
                })
            }
            Scheme::Other(_) => Ok(opaque),
        }
    }

    /// Reads `[user[:password]@]host[:port][;params][?headers]`.
    fn with_authority(self, rest: &'a [u8]) -> Result<Self, UriError> {
        // A user may hold `;`, `?` and `/`, but no part before the host may hold a bare `@`.
        let (user, password, rest) = match memchr::memchr(b'@', rest) {
            None => (None, None, rest),
            Some(at) => {
                let (user, password) = split_at_byte(&rest[..at], b':');
                if user.is_empty() {
                    return Err(UriError::User);
                }
                (Some(user), password.get(1..), &rest[at + 1..])
            }
        };
        let (rest, headers) = split_at_byte(rest, b'?');
        let (hostport, params) = split_at_byte(rest, b';');
        let (host, port) = host_and_port(hostport)?;
        let headers = headers.get(1..);
        Ok(Uri {
            user,
            password,
            host,
            port,
            params: Params::new(params),
            headers,
            ..self
        })
    }

    /// Returns the address that the host spells out; `None` for a name.
    pub fn host_addr(&self) -> Option<IpAddr> {
        host_addr(self.host)
    }

    /// Returns the address to send to when the host spells one out; `None` for a name.
    pub fn socket_addr(&self, default_port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::new(
            self.host_addr()?,
            self.port.unwrap_or(default_port),
        ))
    }

    /// Whether the element named here routes loosely: the `lr` parameter, RFC 3261 section 19.1.1.
    pub fn is_loose(&self) -> bool {
        self.params.get("lr").is_some()
    }
}

/// Splits `scheme:rest`.
pub(crate) fn scheme(bytes: &[u8]) -> Result<(Scheme<'_>, &[u8]), UriError> {
    if let [b's', b'i', b'p', b':', rest @ ..] = bytes
        && !rest.is_empty()
    {
        return Ok((Scheme::Sip, rest));
    }
    let colon = memchr::memchr(b':', bytes).ok_or(UriError::Scheme)?;
    let (scheme, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    let known = if scheme.eq_ignore_ascii_case(b"sip") {
        Scheme::Sip
    } else if scheme.eq_ignore_ascii_case(b"sips") {
        Scheme::Sips
    } else if scheme.eq_ignore_ascii_case(b"tel") {
        Scheme::Tel
    } else {
        let legal = scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        if !legal {
            return Err(UriError::Scheme);
        }
        Scheme::Other(scheme)
    };
    if rest.is_empty() {
        return Err(UriError::Host);
    }
    Ok((known, rest))
}

/// Splits `host[:port]`, IPv6 in brackets.
pub(crate) fn host_and_port(bytes: &[u8]) -> Result<(&[u8], Option<u16>), UriError> {
    let host_end = if bytes.first() == Some(&b'[') {
        memchr::memchr(b']', bytes).ok_or(UriError::Host)? + 1
    } else {
        memchr::memchr(b':', bytes).unwrap_or(bytes.len())
    };
    let (host, rest) = bytes.split_at(host_end);
    if !is_host(host) {
        return Err(UriError::Host);
    }
    match rest {
        [] => Ok((host, None)),
        [b':', digits @ ..] => Ok((host, Some(port(digits).ok_or(UriError::Port)?))),
        _ => Err(UriError::Host),
    }
}

/// Splits before the first `byte`; the second half is empty or starts with it.
fn split_at_byte(bytes: &[u8], byte: u8) -> (&[u8], &[u8]) {
    bytes.split_at(memchr::memchr(byte, bytes).unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Uri<'_> {
        Uri::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_sip_uri_comes_apart() {
        let uri = parse("SIP:al;day=mon:secret@[2001:db8::1]:5070;transport=UDP;LR?Subject=a%20b");
        assert_eq!(uri.scheme, Scheme::Sip);
        assert_eq!(uri.user, Some(&b"al;day=mon"[..]));
        assert_eq!(uri.password, Some(&b"secret"[..]));
        assert_eq!(uri.host, b"[2001:db8::1]");
        assert_eq!(uri.socket_addr(5060), "[2001:db8::1]:5070".parse().ok());
        assert_eq!(uri.params.get("transport"), Some(Some(&b"UDP"[..])));
        assert_eq!(uri.headers, Some(&b"Subject=a%20b"[..]));
        assert!(uri.is_loose());
    }

    #[test]
    fn the_user_may_hold_what_delimits_elsewhere() {
        let uri = parse("sip:a;b?c/d&e=f,g@example.com");
        assert_eq!(uri.user, Some(&b"a;b?c/d&e=f,g"[..]));
        assert_eq!(uri.host, b"example.com");
        assert_eq!(uri.headers, None);
        assert_eq!(uri.host_addr(), None);
    }

    #[test]
    fn other_schemes_stay_opaque() {
        let tel = parse("tel:+1-212-555-0100;phone-context=example.com");
        assert_eq!(
            (tel.scheme, tel.user),
            (Scheme::Tel, Some(&b"+1-212-555-0100"[..]))
        );
        assert_eq!(
            tel.params.get("phone-context"),
            Some(Some(&b"example.com"[..]))
        );
        let other = parse("soap.beep://192.0.2.1:3002");
        assert_eq!(other.scheme, Scheme::Other(b"soap.beep"));
        assert_eq!(
            (other.host, other.opaque),
            (&b""[..], &b"//192.0.2.1:3002"[..])
        );
    }

    #[test]
    fn broken_uris_are_refused() {
        for (text, error) in [
            ("", UriError::Scheme),
            ("example.com", UriError::Scheme),
            ("<sip:a@example.com>", UriError::Scheme),
            (":a", UriError::Scheme),
            ("sip:", UriError::Host),
            ("sip:@example.com", UriError::User),
            ("sip:a@", UriError::Host),
            ("sip:a@b@c", UriError::Host),
            ("sip:a@[::1", UriError::Host),
            ("sip:a@[::1]x", UriError::Host),
            ("sip:a@2001:db8::1", UriError::Port),
            ("sip:a@b:", UriError::Port),
            ("sip:a@b:65536", UriError::Port),
            ("sip:a@b; lr", UriError::Character),
            ("sip:a@b;x=\"y\"", UriError::Character),
        ] {
            assert_eq!(Uri::parse(text.as_bytes()), Err(error), "{text}");
        }
    }
}
