//! Byte classes of the SIP grammar and the cursor that walks them. RFC 3261 section 25.1.
//!
//! Bytes, never `str`: anything above 0x7f passes as an opaque byte of the text it stands in.

use std::net::IpAddr;

/// Bytes of a token.
pub(crate) const TOKEN: u8 = 1;
/// Bytes of a host name or an IPv4 address; the underscore is a liberty that many take.
pub(crate) const HOST: u8 = 1 << 1;
/// Bytes of an IPv6 address between its brackets.
pub(crate) const IPV6: u8 = 1 << 2;
/// Decimal digits.
pub(crate) const DIGIT: u8 = 1 << 3;
/// White space inside a header value; CR and LF occur there only in folds.
pub(crate) const LWS: u8 = 1 << 4;
/// What can stand in the name of a parameter without ending it.
pub(crate) const PARAM_NAME: u8 = 1 << 5;
/// What can stand in the value of a parameter without ending it.
pub(crate) const PARAM_VALUE: u8 = 1 << 6;

/// The classes of every byte.
static CLASSES: [u8; 256] = {
    let mut classes = [0_u8; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        let lws = one_of(byte, b" \t\r\n");
        let members = [
            (TOKEN, alphanumeric || one_of(byte, b"-.!%*_+`'~")),
            (HOST, alphanumeric || one_of(byte, b"-._")),
            (IPV6, byte.is_ascii_hexdigit() || one_of(byte, b":.")),
            (DIGIT, byte.is_ascii_digit()),
            (LWS, lws),
            (PARAM_NAME, !lws && !one_of(byte, b";=\"")),
            (PARAM_VALUE, !lws && byte != b';'),
        ];
        let mut member = 0;
        while member < members.len() {
            if members[member].1 {
                classes[at] |= members[member].0;
            }
            member += 1;
        }
        at += 1;
    }
    classes
};

const fn one_of(byte: u8, set: &[u8]) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether the byte belongs to the class.
pub(crate) fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Whether there is anything, and all of it belongs to the class.
pub(crate) fn is_all(bytes: &[u8], class: u8) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is(*byte, class))
}

/// Whether every byte can stand in a URI. Lenient: whatever does not end one.
///
/// Looks at all bytes, whatever it finds, so that the compiler looks at many at once.
pub(crate) fn is_uri_text(bytes: &[u8]) -> bool {
    let ends = |byte: u8| byte <= b' ' || byte == 0x7f || matches!(byte, b'<' | b'>' | b'"');
    !bytes.iter().fold(false, |found, byte| found | ends(*byte))
}

/// Whether this is a host as a URI or a Via writes it: a name, an IPv4 address, or `[IPv6]`.
pub(crate) fn is_host(bytes: &[u8]) -> bool {
    match bytes {
        [b'[', inner @ .., b']'] => is_all(inner, IPV6),
        name => is_all(name, HOST),
    }
}

/// Returns the value of a run of digits, `None` if there is anything else or more than `max`.
pub(crate) fn number(digits: &[u8], max: u64) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = u64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        let value = value.checked_mul(10)?.checked_add(digit)?;
        (value <= max).then_some(value)
    })
}

/// Returns a port, 1 to 65535.
pub(crate) fn port(digits: &[u8]) -> Option<u16> {
    let port = number(digits, u64::from(u16::MAX))?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Returns the address that a host spells out, with or without brackets around IPv6.
pub(crate) fn host_addr(host: &[u8]) -> Option<IpAddr> {
    let bare = match host {
        [b'[', inner @ .., b']'] => inner,
        bare => bare,
    };
    // Most names end in a letter: no need to try them.
    let last = *bare.last()?;
    if !last.is_ascii_hexdigit() && last != b':' {
        return None;
    }
    std::str::from_utf8(bare).ok()?.parse().ok()
}

/// Cuts white space and folds off both ends of `start..end`.
pub(crate) fn trim(bytes: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    while start < end && is(bytes[start], LWS) {
        start += 1;
    }
    while start < end && is(bytes[end - 1], LWS) {
        end -= 1;
    }
    (start, end)
}

/// Returns the offset after the closing quote of the string that opens at `open`.
pub(crate) fn quoted_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// A position in a value.
pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn skip_lws(&mut self) {
        while self.next_is(LWS) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    /// Whether there is a next byte and it belongs to the class.
    pub(crate) fn next_is(&self, class: u8) -> bool {
        self.peek().is_some_and(|byte| is(byte, class))
    }

    /// Takes the longest run of bytes of the class, which may be empty.
    pub(crate) fn run(&mut self, class: u8) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| !is(*byte, class));
        let (run, _) = rest.split_at(length.unwrap_or(rest.len()));
        self.at += run.len();
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(number(b"0068", 255), Some(68));
        assert_eq!(number(b"256", 255), None);
        assert_eq!(number(b"36893488147419103232", u64::MAX), None);
        assert_eq!(number(b"", 9), None);
        assert_eq!(number(b"-1", 9), None);
        assert_eq!(port(b"0"), None);
        assert_eq!(port(b"65535"), Some(65_535));
        assert_eq!(port(b"65536"), None);
    }

    #[test]
    fn a_quoted_string_ends_at_the_first_bare_quote() {
        assert_eq!(quoted_end(br#""a\"b" c"#, 0), Some(6));
        assert_eq!(quoted_end(br#""a\\" c"#, 0), Some(5));
        assert_eq!(quoted_end(br#""a"#, 0), None);
        assert_eq!(quoted_end(br#""a\"#, 0), None);
    }

    #[test]
    fn addresses_are_read_with_and_without_brackets() {
        assert_eq!(host_addr(b"192.0.2.1"), "192.0.2.1".parse().ok());
        assert_eq!(host_addr(b"[2001:db8::1]"), "2001:db8::1".parse().ok());
        assert_eq!(host_addr(b"2001:db8::"), "2001:db8::".parse().ok());
        assert_eq!(host_addr(b"face"), None);
        assert_eq!(host_addr(b""), None);
    }
}
