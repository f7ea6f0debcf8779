//! Parameters: `;name`, `;name=value`, `;name="value"`, with white space and folds around each part.

use std::ops::Range;

use crate::token::{Cursor, PARAM_NAME, PARAM_VALUE, quoted_end};

/// The parameters of a URI, of an address or of another header value, read when asked for.
///
/// Broken or empty ones (`;;`) are passed over: nobody reads them, and whoever does will not find
/// them. A Via is stricter.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    bytes: &'a [u8],
}

impl<'a> Params<'a> {
    /// Reads parameters from text that is empty or starts with a semicolon.
    pub fn new(bytes: &'a [u8]) -> Self {
        Params { bytes }
    }

    /// Returns the parameters as they are written, semicolons included.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the parameter of that name, in any case: `None` absent, `Some(None)` without value.
    ///
    /// A quoted value is returned with its quotes.
    pub fn get(&self, name: &str) -> Option<Option<&'a [u8]>> {
        if self.bytes.is_empty() {
            return None;
        }
        self.iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Iterates over names and values in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone + use<'a> {
        RawParams::new(self.bytes, 0)
            .flatten()
            .map(|param| (param.name, param.value))
    }
}

/// One parameter with its place.
#[derive(Clone, Debug)]
pub(crate) struct RawParam<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
    /// From the name to the end of the value.
    pub(crate) range: Range<usize>,
}

/// A parameter that is empty, or followed by something that is no semicolon.
#[derive(Copy, Clone, Debug)]
pub(crate) struct BadParam;

/// Walks parameters; a bad one is reported, and the walk goes on after its semicolon.
#[derive(Clone)]
pub(crate) struct RawParams<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> RawParams<'a> {
    /// Walks `bytes` from `at`, which is the end or a semicolon, white space before it allowed.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        RawParams { bytes, at }
    }
}

impl<'a> Iterator for RawParams<'a> {
    type Item = Result<RawParam<'a>, BadParam>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut cursor = Cursor {
            bytes: self.bytes,
            at: self.at,
        };
        cursor.skip_lws();
        cursor.peek()?;
        let param = read(&mut cursor);
        if param.is_none() {
            let rest = &self.bytes[cursor.at..];
            cursor.at += memchr::memchr(b';', rest).unwrap_or(rest.len());
        }
        self.at = cursor.at;
        Some(param.ok_or(BadParam))
    }
}

fn read<'a>(cursor: &mut Cursor<'a>) -> Option<RawParam<'a>> {
    if !cursor.take(b';') {
        return None;
    }
    cursor.skip_lws();
    let start = cursor.at;
    let name = cursor.run(PARAM_NAME);
    if name.is_empty() {
        return None;
    }
    let mut end = cursor.at;
    cursor.skip_lws();
    let mut value = None;
    if cursor.take(b'=') {
        cursor.skip_lws();
        let from = cursor.at;
        if cursor.peek() == Some(b'"') {
            cursor.at = quoted_end(cursor.bytes, from)?;
        } else {
            cursor.run(PARAM_VALUE);
        }
        value = Some(&cursor.bytes[from..cursor.at]);
        end = cursor.at;
        cursor.skip_lws();
    }
    match cursor.peek() {
        None | Some(b';') => Some(RawParam {
            name,
            value,
            range: start..end,
        }),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_white_space_does_not_count() {
        let params = Params::new(b" ;\r\n  TAG = 98asjd8 ;lr; q=\"a;b=\\\"c\" ;empty=");
        assert_eq!(params.get("tag"), Some(Some(&b"98asjd8"[..])));
        assert_eq!(params.get("lr"), Some(None));
        assert_eq!(params.get("Q"), Some(Some(&br#""a;b=\"c""#[..])));
        assert_eq!(params.get("empty"), Some(Some(&b""[..])));
        assert_eq!(params.get("b"), None);
    }

    #[test]
    fn broken_parameters_hide_only_themselves() {
        let params = Params::new(b";;=x;two words;tag=1;q=\"open;never");
        assert_eq!(params.iter().count(), 2);
        assert_eq!(params.get("tag"), Some(Some(&b"1"[..])));
        assert_eq!(params.get("never"), Some(None));
    }
}
