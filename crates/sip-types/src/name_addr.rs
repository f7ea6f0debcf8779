//! Addresses as From, To, Contact, Route and Record-Route write them: `"Name" <uri>;params` or `uri;params`.
//!
//! RFC 3261 section 20.10: without angle brackets, parameters belong to the header, and a URI with a
//! comma or a question mark cannot be written.

use std::ops::Range;

use crate::params::Params;
use crate::token::{LWS, is, is_uri_text, quoted_end, trim};
use crate::uri::{Uri, UriError, scheme};

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, quotes included; empty if there is none.
    pub display: &'a [u8],
    /// The URI without its brackets. Its scheme and characters are known to be sound, no more.
    pub uri: &'a [u8],
    /// The parameters of the header, such as `tag`.
    pub params: Params<'a>,
    /// Where this address is in `message.bytes()`.
    pub range: Range<usize>,
    /// Where the URI, without its brackets, is in `message.bytes()`.
    pub uri_range: Range<usize>,
}

impl<'a> NameAddr<'a> {
    /// Reads one address that is not part of a message; ranges count from the start of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UriError> {
        Self::parse_at(bytes, 0..bytes.len())
    }

    /// Reads the address that is all of `range`.
    pub(crate) fn parse_at(bytes: &'a [u8], range: Range<usize>) -> Result<Self, UriError> {
        let (start, end) = trim(bytes, range.start, range.end);
        let text = &bytes[start..end];
        let open = match text.first() {
            None => return Err(UriError::Address),
            Some(b'"') => {
                let display_end = quoted_end(text, 0).ok_or(UriError::Address)?;
                let (open, _) = trim(text, display_end, text.len());
                if text.get(open) != Some(&b'<') {
                    return Err(UriError::Address);
                }
                Some(open)
            }
            Some(_) => memchr::memchr2(b'<', b';', text).filter(|at| text[*at] == b'<'),
        };
        let (display, uri, params) = match open {
            Some(open) => in_brackets(text, open)?,
            None => bare(text)?,
        };
        scheme(&text[uri.clone()])?;
        if !is_uri_text(&text[uri.clone()]) {
            return Err(UriError::Character);
        }
        Ok(NameAddr {
            display,
            uri: &text[uri.clone()],
            params: Params::new(params),
            range: start..end,
            uri_range: start + uri.start..start + uri.end,
        })
    }

    /// Returns the `tag` parameter.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.params.get("tag").flatten()
    }

    /// Takes the URI apart.
    pub fn parsed_uri(&self) -> Result<Uri<'a>, UriError> {
        Uri::parse(self.uri)
    }
}

/// Display name, place of the URI, parameters.
type Parts<'a> = (&'a [u8], Range<usize>, &'a [u8]);

fn in_brackets(text: &[u8], open: usize) -> Result<Parts<'_>, UriError> {
    let close = open + memchr::memchr(b'>', &text[open..]).ok_or(UriError::Address)?;
    let (params, end) = trim(text, close + 1, text.len());
    if params < end && text[params] != b';' {
        return Err(UriError::Address);
    }
    let display = &text[..trim(text, 0, open).1];
    if display.first() != Some(&b'"') && !is_plain_display(display) {
        return Err(UriError::Address);
    }
    Ok((display, open + 1..close, &text[params..end]))
}

fn bare(text: &[u8]) -> Result<Parts<'_>, UriError> {
    let params = memchr::memchr(b';', text).unwrap_or(text.len());
    let (_, end) = trim(text, 0, params);
    if memchr::memchr2(b'?', b',', &text[..end]).is_some() {
        return Err(UriError::Address);
    }
    Ok((b"", 0..end, &text[params..]))
}

/// More than the tokens of the grammar, since nobody reads it: only what delimits is refused.
fn is_plain_display(display: &[u8]) -> bool {
    display.iter().all(|byte| {
        is(*byte, LWS) || !(byte.is_ascii_control() || matches!(byte, b'"' | b',' | b'>' | b'\\'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let full = NameAddr::parse(br#" "J \"x\" <y>" <sip:a@example.com;lr> ; tag = 1 "#).unwrap();
        assert_eq!(full.display, br#""J \"x\" <y>""#);
        assert_eq!(full.uri, b"sip:a@example.com;lr");
        assert_eq!(full.tag(), Some(&b"1"[..]));
        assert!(full.parsed_uri().unwrap().is_loose());
        let bare = NameAddr::parse(b"sip:a@example.com ; tag=2;x=\"<\"").unwrap();
        assert_eq!(
            (bare.uri, bare.tag()),
            (&b"sip:a@example.com"[..], Some(&b"2"[..]))
        );
        let plain = NameAddr::parse(b"caller\xff one<tel:+12125550100>").unwrap();
        assert_eq!((plain.display, plain.tag()), (&b"caller\xff one"[..], None));
    }

    #[test]
    fn broken_addresses_are_refused() {
        for text in [
            "",
            "\"open <sip:a@example.com>",
            "\"Name\" sip:a@example.com",
            "Bell, A <sip:a@example.com>",
            "<sip:a@example.com",
            "< sip:a@example.com>",
            "<sip:a@example.com> tag=1",
            "sip:a@example.com?Route=b",
            "sip:a b@example.com",
            "<>",
            "nothing",
        ] {
            assert!(NameAddr::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
