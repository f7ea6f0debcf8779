//! Byte classes of the SIP grammar and the cursor that walks them. RFC 3261 section 25.1.
//!
//! Bytes, never `str`: anything above 0x7f passes as an opaque byte of the text it stands in.

use std::net::IpAddr;

const TOKEN: u8 = 1;
const HOST: u8 = 2;

/// The classes of every byte.
static CLASS: [u8; 256] = {
    let mut class = [0_u8; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        if c.is_ascii_alphanumeric() || one_of(c, b"-.!%*_+`'~") {
            class[byte] |= TOKEN;
        }
        if c.is_ascii_alphanumeric() || one_of(c, b"-._") {
            class[byte] |= HOST;
        }
        byte += 1;
    }
    class
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

pub(crate) fn is_token_byte(byte: u8) -> bool {
    CLASS[usize::from(byte)] & TOKEN != 0
}

pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
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
        [] => false,
        [b'[', inner @ .., b']'] => {
            !inner.is_empty()
                && inner
                    .iter()
                    .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => name
            .iter()
            .all(|byte| CLASS[usize::from(*byte)] & HOST != 0),
    }
}

/// Whether this byte is white space inside a header value; CR and LF occur there only in folds.
pub(crate) fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
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
    while start < end && is_lws(bytes[start]) {
        start += 1;
    }
    while start < end && is_lws(bytes[end - 1]) {
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
        while self.peek().is_some_and(is_lws) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    /// Takes the longest run of bytes that `class` accepts.
    pub(crate) fn run(&mut self, class: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|byte| !class(*byte))
            .unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
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
