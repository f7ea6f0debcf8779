//! JSON as Kamailio reads and writes it: bytes instead of UTF-8, and of equal keys the last.
//!
//! What follows the document is ignored, `\u0000` and surrogates without partner vanish, bytes from
//! 0x80 on are kept as they are. A NUL byte in the body is refused: it ends the text for a Kamailio.
//! Not a general reader: no streams, no numbers beyond `f64`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;

use bytes::Bytes;

use crate::{DecodeError, EncodeError};

/// The longest body, in bytes: what fits a UDP datagram.
pub const BODY_BYTES_MAX: usize = 65_507;

/// How deep arrays and objects may nest. Messages need 3.
pub const DEPTH_MAX: usize = 16;

/// How many values a body may have, containers included. What Kamailio writes needs 7 bytes each.
pub const VALUES_MAX: usize = 16_384;

/// A value as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, [u8]>),
    Array(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// An object with its fields as they were written, repeated keys included.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a> {
    fields: Vec<(Cow<'a, [u8]>, Json<'a>)>,
}

impl<'a> Object<'a> {
    /// Reads a body that must be an object.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let Json::Object(object) = read(body)? else {
            return Err(DecodeError::NotAnObject);
        };
        Ok(object)
    }

    /// Returns the field that was written first.
    pub(crate) fn first(&self) -> Option<(&[u8], &Json<'a>)> {
        let (name, value) = self.fields.first()?;
        Some((name, value))
    }

    /// Returns each field once, with its last value, in the order of these.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &Json<'a>)> {
        let mut seen = BTreeSet::new();
        let mut last: Vec<_> = self
            .fields
            .iter()
            .rev()
            .filter(|(name, _)| seen.insert(name))
            .collect();
        last.reverse();
        last.into_iter().map(|(name, value)| (&**name, value))
    }

    /// Returns the last value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&Json<'a>> {
        let mut newest = self.fields.iter().rev();
        newest
            .find(|(own, _)| **own == *name.as_bytes())
            .map(|(_, value)| value)
    }

    /// Returns a text field, if it is there.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<Bytes>, DecodeError> {
        match self.field(name) {
            None => Ok(None),
            Some(value) => value.as_text(name).map(Some),
        }
    }

    /// Returns a text field that must be there.
    pub(crate) fn required_text(&self, name: &'static str) -> Result<Bytes, DecodeError> {
        self.text(name)?.ok_or(DecodeError::Missing(name))
    }

    /// Returns a number without its fraction, if it is there.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<f64>, DecodeError> {
        match self.field(name) {
            None => Ok(None),
            Some(Json::Number(number)) => Ok(Some(number.trunc())),
            Some(_) => Err(DecodeError::WrongType(name)),
        }
    }

    /// Returns a number that must be there and fit 32 bits without a sign.
    pub(crate) fn required_u32(&self, name: &'static str) -> Result<u32, DecodeError> {
        self.u32(name)?.ok_or(DecodeError::Missing(name))
    }

    /// Returns a number that fits 32 bits without a sign, if it is there.
    pub(crate) fn u32(&self, name: &'static str) -> Result<Option<u32>, DecodeError> {
        match self.u64(name)?.map(u32::try_from) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => Err(DecodeError::OutOfRange(name)),
        }
    }

    /// Returns a number that fits 64 bits without a sign, if it is there.
    pub(crate) fn u64(&self, name: &'static str) -> Result<Option<u64>, DecodeError> {
        match self.number(name)? {
            None => Ok(None),
            // 2^64 is a double, 2^64 - 1 is not.
            Some(number) if (0.0..18_446_744_073_709_551_616.0).contains(&number) => {
                Ok(Some(number as u64))
            }
            Some(_) => Err(DecodeError::OutOfRange(name)),
        }
    }
}

impl<'a> Json<'a> {
    /// Returns the text, or that field `name` has the wrong type.
    pub(crate) fn as_text(&self, name: &'static str) -> Result<Bytes, DecodeError> {
        let Self::Text(text) = self else {
            return Err(DecodeError::WrongType(name));
        };
        Ok(Bytes::copy_from_slice(text))
    }

    /// Returns the object, or that field `name` has the wrong type.
    pub(crate) fn as_object(&self, name: &'static str) -> Result<&Object<'a>, DecodeError> {
        let Self::Object(object) = self else {
            return Err(DecodeError::WrongType(name));
        };
        Ok(object)
    }

    /// Reads each element of an array of objects, or tells that field `name` has the wrong type.
    pub(crate) fn objects<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Object<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let Self::Array(elements) = self else {
            return Err(DecodeError::WrongType(name));
        };
        elements
            .iter()
            .map(|element| read(element.as_object(name)?))
            .collect()
    }
}

/// Reads the document at the beginning of `body`.
fn read(body: &[u8]) -> Result<Json<'_>, DecodeError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(DecodeError::TooLong);
    }
    let mut reader = Reader {
        body,
        at: 0,
        depth: 0,
        values: 0,
    };
    reader.value()
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Json<'a>, DecodeError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(DecodeError::TooManyValues);
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.text().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            _ => Err(self.error()),
        }
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Json<'a>, DecodeError>,
    ) -> Result<Json<'a>, DecodeError> {
        if self.depth == DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        self.at += 1;
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Json<'a>, DecodeError> {
        let mut fields = Vec::new();
        if self.takes(b'}') {
            return Ok(Json::Object(Object { fields }));
        }
        loop {
            self.skip_space();
            let name = self.text()?;
            self.expect(b':')?;
            fields.push((name, self.value()?));
            if !self.takes(b',') {
                self.expect(b'}')?;
                return Ok(Json::Object(Object { fields }));
            }
        }
    }

    fn array(&mut self) -> Result<Json<'a>, DecodeError> {
        let mut values = Vec::new();
        if self.takes(b']') {
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value()?);
            if !self.takes(b',') {
                self.expect(b']')?;
                return Ok(Json::Array(values));
            }
        }
    }

    fn number(&mut self) -> Result<Json<'a>, DecodeError> {
        let rest = &self.body[self.at..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let end = rest.iter().position(|byte| !is_part(byte));
        let digits = &rest[..end.unwrap_or(rest.len())];
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| self.error())?;
        self.at += digits.len();
        Ok(Json::Number(number))
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, DecodeError> {
        if !self.body[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error());
        }
        self.at += word.len();
        Ok(value)
    }

    fn text(&mut self) -> Result<Cow<'a, [u8]>, DecodeError> {
        if self.peek() != Some(b'"') {
            return Err(self.error());
        }
        self.at += 1;
        let plain = self.plain()?;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_vec();
        while self.peek() == Some(b'\\') {
            self.escape(&mut text)?;
            text.extend_from_slice(self.plain()?);
        }
        self.at += 1;
        Ok(Cow::Owned(text))
    }

    /// Reads up to the next quote or backslash, which is there if this succeeds.
    fn plain(&mut self) -> Result<&'a [u8], DecodeError> {
        let rest = &self.body[self.at..];
        let stop = rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\' | 0));
        self.at += stop.unwrap_or(rest.len());
        match self.peek() {
            Some(b'"' | b'\\') => Ok(&rest[..stop.unwrap_or(0)]),
            _ => Err(self.error()),
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.at += 1;
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode(text),
            _ => return Err(self.error()),
        };
        self.at += 1;
        text.push(byte);
        Ok(())
    }

    fn unicode(&mut self, text: &mut Vec<u8>) -> Result<(), DecodeError> {
        let first = self.hex4()?;
        let mut code = first;
        if (0xd800..0xdc00).contains(&first) && self.body[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 1;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            } else {
                self.at = back;
            }
        }
        if let Some(character) = char::from_u32(code).filter(|&character| character != '\0') {
            let mut buffer = [0; 4];
            text.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        }
        Ok(())
    }

    /// Reads `u` and the four digits behind it.
    fn hex4(&mut self) -> Result<u32, DecodeError> {
        self.at += 1;
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = (code << 4) | digit.ok_or_else(|| self.error())?;
            self.at += 1;
        }
        Ok(code)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| (1..=b' ').contains(&byte)) {
            self.at += 1;
        }
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), DecodeError> {
        if self.takes(byte) {
            return Ok(());
        }
        Err(self.error())
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn error(&self) -> DecodeError {
        DecodeError::NotJson { at: self.at }
    }
}

/// Writes one object as Kamailio does: no space, fields in the order of the calls.
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { out: vec![b'{'] }
    }

    pub(crate) fn text(&mut self, name: &str, text: &[u8]) {
        self.key(name.as_bytes());
        self.quote(text);
    }

    pub(crate) fn number(&mut self, name: &str, number: impl Into<i128> + Display) {
        self.key(name.as_bytes());
        write!(self.out, "{number}").expect("a vector takes every byte");
    }

    /// Writes a field whose value is an object of texts.
    pub(crate) fn texts(&mut self, name: &str, texts: &[(Bytes, Bytes)]) {
        let mut inner = Self::new();
        for (name, text) in texts {
            inner.key(name);
            inner.quote(text);
        }
        self.key(name.as_bytes());
        self.out.extend_from_slice(&inner.finish());
    }

    /// Writes a field whose value is an array of objects.
    pub(crate) fn objects(&mut self, name: &str, objects: impl IntoIterator<Item = Vec<u8>>) {
        self.key(name.as_bytes());
        self.out.push(b'[');
        for (index, object) in objects.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(&object);
        }
        self.out.push(b']');
    }

    /// Ends the object, of any length.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }

    /// Ends the object that is a whole body.
    pub(crate) fn body(self) -> Result<Bytes, EncodeError> {
        let body = self.finish();
        if body.len() > BODY_BYTES_MAX {
            return Err(EncodeError::TooLong);
        }
        Ok(body.into())
    }

    fn key(&mut self, name: &[u8]) {
        if self.out.len() > 1 {
            self.out.push(b',');
        }
        self.quote(name);
        self.out.push(b':');
    }

    fn quote(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for &byte in text {
            self.escape(byte);
        }
        self.out.push(b'"');
    }

    fn escape(&mut self, byte: u8) {
        let letter = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => {
                write!(self.out, "\\u{byte:04x}").expect("a vector takes every byte");
                return;
            }
            _ => return self.out.push(byte),
        };
        self.out.extend_from_slice(&[b'\\', letter]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(document: &[u8]) -> Vec<u8> {
        match read(document) {
            Ok(Json::Text(text)) => text.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn number(document: &[u8]) -> f64 {
        match read(document) {
            Ok(Json::Number(number)) => number,
            other => panic!("{other:?}"),
        }
    }

    fn refused_at(document: &[u8]) -> usize {
        match read(document) {
            Err(DecodeError::NotJson { at }) => at,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        let object = Object::read(br#"{"a":"1","b":"2","a":"3"}"#).unwrap();
        assert_eq!(object.text("a"), Ok(Some(Bytes::from("3"))));
        let names: Vec<_> = object.fields().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [b"b", b"a"]);
        assert_eq!(object.first().map(|(name, _)| name), Some(&b"a"[..]));
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(text(br#""\"\\\/\b\f\n\r\t""#), b"\"\\/\x08\x0c\n\r\t");
        assert_eq!(text(br#""a\u00e9\u20AC\ud83d\ude00""#), "aé€😀".as_bytes());
    }

    #[test]
    fn what_is_no_character_vanishes() {
        assert_eq!(text(br#""a\u0000b""#), b"ab");
        assert_eq!(text(br#""a\ud83db\ude00c""#), b"abc");
        assert_eq!(text(br#""\ud83d\u0041""#), b"A");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_kept() {
        assert_eq!(text(b"\"\xe9\xe8tel\""), b"\xe9\xe8tel");
        assert_eq!(text(b"\"\xe9\\n\xff\""), b"\xe9\n\xff");
        assert_eq!(text(b"\"tab\tand\nline\""), b"tab\tand\nline");
    }

    #[test]
    fn space_is_skipped_and_what_follows_ignored() {
        let object = Object::read(b" \r\n{ \"a\" :\t1 , \"b\" : [ ] } trailing \0").unwrap();
        assert_eq!(object.number("a"), Ok(Some(1.0)));
        assert_eq!(object.field("b"), Some(&Json::Array(Vec::new())));
    }

    #[test]
    fn numbers_are_doubles_and_lose_their_fraction() {
        assert_eq!(number(b"-7"), -7.0);
        assert_eq!(number(b"1e3"), 1000.0);
        assert_eq!(number(b"1e999"), f64::INFINITY);
        let object = Object::read(br#"{"a":2.9,"b":-0.5,"c":-1,"d":4294967296,"e":1e30}"#).unwrap();
        assert_eq!(object.u32("a"), Ok(Some(2)));
        assert_eq!(object.u32("b"), Ok(Some(0)));
        assert_eq!(object.u32("c"), Err(DecodeError::OutOfRange("c")));
        assert_eq!(object.u32("d"), Err(DecodeError::OutOfRange("d")));
        assert_eq!(object.u64("d"), Ok(Some(1 << 32)));
        assert_eq!(object.u64("e"), Err(DecodeError::OutOfRange("e")));
        assert_eq!(object.required_u32("f"), Err(DecodeError::Missing("f")));
    }

    #[test]
    fn bad_documents_are_refused_where_they_go_wrong() {
        assert_eq!(refused_at(b""), 0);
        assert_eq!(refused_at(b"{bad"), 1);
        assert_eq!(refused_at(b"{\"a\" 1}"), 5);
        assert_eq!(refused_at(b"{\"a\":1,}"), 7);
        assert_eq!(refused_at(b"[1 2]"), 3);
        assert_eq!(refused_at(b"\"open"), 5);
        assert_eq!(refused_at(b"\"nul\0\""), 4);
        assert_eq!(refused_at(b"\"\\x\""), 2);
        assert_eq!(refused_at(b"\"\\u12g4\""), 5);
        assert_eq!(refused_at(b"-"), 0);
        assert_eq!(refused_at(b"nul"), 0);
    }

    #[test]
    fn limits_hold() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(read(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(read(&nested(DEPTH_MAX + 1)), Err(DecodeError::TooDeep));

        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert!(read(list(VALUES_MAX - 1).as_bytes()).is_ok());
        let many = list(VALUES_MAX);
        assert_eq!(read(many.as_bytes()), Err(DecodeError::TooManyValues));

        let mut long = vec![b' '; BODY_BYTES_MAX];
        long[0] = b'1';
        assert!(read(&long).is_ok());
        long.push(b' ');
        assert_eq!(read(&long), Err(DecodeError::TooLong));
    }

    #[test]
    fn writing_escapes_as_kamailio_does() {
        let mut writer = Writer::new();
        writer.text("k", b"q\"b\\/\x08\x0c\n\r\t\x01\x1f\x7f\xe9");
        writer.number("n", -7);
        assert_eq!(
            writer.finish(),
            b"{\"k\":\"q\\\"b\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xe9\",\"n\":-7}"
        );
    }
}
