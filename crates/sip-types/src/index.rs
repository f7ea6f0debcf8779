//! Framing: one pass over a datagram that notes where everything is.
//!
//! Nothing is copied and nothing is decoded but names and the Content-Length; what the lines mean
//! is read when asked for (`message.rs`, `check.rs`). RFC 3261 sections 7 and 18.3.

use std::ops::Range;

use crate::check::Fault;
use crate::name::{HEADER_NAMES, HeaderName};
use crate::token::{TOKEN, is, is_all, number, trim};
use crate::{HEADERS_MAX, MESSAGE_BYTES_MAX};

/// Why a datagram cannot be framed, or if framed neither be used nor answered.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing but CRLFs: a keep-alive (RFC 5626 section 3.5.1), or an empty datagram.
    #[error("keep-alive")]
    KeepAlive,
    /// More than [`MESSAGE_BYTES_MAX`] bytes.
    #[error("message too long")]
    TooLong,
    /// The first line is no SIP request line and no status line.
    #[error("start line is not sip")]
    StartLine,
    /// The status of a response is not a number from 100 to 699.
    #[error("status out of range")]
    Status,
    /// No empty line ends the headers.
    #[error("headers do not end")]
    Unterminated,
    /// More than [`HEADERS_MAX`] headers.
    #[error("too many headers")]
    TooManyHeaders,
}

/// One header: where its line starts, its name ends, and its trimmed value lies.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) line: u16,
    pub(crate) name_end: u16,
    pub(crate) value: u16,
    pub(crate) value_end: u16,
    pub(crate) name: HeaderName,
}

const EMPTY: Entry = Entry {
    line: 0,
    name_end: 0,
    value: 0,
    value_end: 0,
    name: HeaderName::Other,
};
const NONE: u8 = u8::MAX;

/// Where everything is in one message. Reused from datagram to datagram; holds no heap memory.
#[derive(Clone, Debug)]
pub struct Index {
    /// Zero for a request.
    pub(crate) status: u16,
    /// Method of a request.
    pub(crate) method_end: u16,
    /// Request-URI, or reason phrase.
    pub(crate) subject: (u16, u16),
    pub(crate) headers_start: u16,
    pub(crate) headers_end: u16,
    pub(crate) body: u16,
    /// The Content-Length that was read, whether or not it fits.
    pub(crate) content_length: Option<Result<usize, Fault>>,
    /// The first thing seen wrong while framing.
    pub(crate) fault: Option<Fault>,
    count: u8,
    /// For every name the entry of its first header.
    first: [u8; HEADER_NAMES],
    /// One more than there may be headers: the last in use marks where the header lines end.
    entries: [Entry; HEADERS_MAX + 1],
}

impl Default for Index {
    fn default() -> Self {
        Index {
            status: 0,
            method_end: 0,
            subject: (0, 0),
            headers_start: 0,
            headers_end: 0,
            body: 0,
            content_length: None,
            fault: None,
            count: 0,
            first: [NONE; HEADER_NAMES],
            entries: [EMPTY; HEADERS_MAX + 1],
        }
    }
}

impl Index {
    /// Makes an index to be filled by [`Message::parse`](crate::Message::parse).
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries[..usize::from(self.count)]
    }

    /// Position of the first header of that name in `entries`.
    pub(crate) fn first(&self, name: HeaderName) -> Option<usize> {
        let first = self.first[name as usize];
        (first != NONE).then_some(usize::from(first))
    }

    pub(crate) fn line_end(&self, position: usize) -> u16 {
        self.entries[position + 1].line
    }

    /// Fills the index and returns the message: `datagram` without leading CRLFs and without what
    /// follows the body.
    pub(crate) fn fill<'a>(&mut self, datagram: &'a [u8]) -> Result<&'a [u8], ParseError> {
        let blank = datagram
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let bytes = &datagram[blank..];
        if bytes.is_empty() {
            return Err(ParseError::KeepAlive);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ParseError::TooLong);
        }
        self.status = 0;
        self.count = 0;
        self.content_length = None;
        self.fault = None;
        self.first = [NONE; HEADER_NAMES];

        let start_line = line_end(bytes, 0)?;
        self.headers_start = offset(start_line);
        self.start_line(&bytes[..without_crlf(bytes, 0, start_line)])?;
        self.headers(bytes, start_line)?;
        Ok(&bytes[..self.frame_body(bytes)])
    }

    /// Notes the first fault; later ones are mostly its consequences.
    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn start_line(&mut self, line: &[u8]) -> Result<(), ParseError> {
        if line
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"))
        {
            return self.status_line(line);
        }
        let method_end = memchr::memchr(b' ', line).ok_or(ParseError::StartLine)?;
        let (_, trimmed) = trim(line, method_end, line.len());
        let last = memchr::memrchr(b' ', &line[..trimmed]).ok_or(ParseError::StartLine)?;
        let version = &line[last + 1..trimmed];
        let (uri, uri_end) = trim(line, method_end, last.max(method_end));
        let is_sip = version
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"));
        if !is_sip || !is_all(&line[..method_end], TOKEN) || uri == uri_end {
            return Err(ParseError::StartLine);
        }
        self.method_end = offset(method_end);
        self.subject = (offset(uri), offset(uri_end));
        if !version[4..].eq_ignore_ascii_case(b"2.0") {
            self.note(Fault::Version);
        }
        // One space, twice, and none at the end: RFC 3261 section 7.1.
        if uri != method_end + 1 || uri_end != last || trimmed != line.len() {
            self.note(Fault::RequestLine);
        }
        Ok(())
    }

    fn status_line(&mut self, line: &[u8]) -> Result<(), ParseError> {
        let version = memchr::memchr(b' ', line).ok_or(ParseError::StartLine)?;
        let rest = &line[version + 1..];
        let code_end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        self.status = number(&rest[..code_end], 699)
            .filter(|status| *status >= 100)
            .and_then(|status| u16::try_from(status).ok())
            .ok_or(ParseError::Status)?;
        self.method_end = 0;
        let reason = (version + 1 + code_end + 1).min(line.len());
        self.subject = (offset(reason), offset(line.len()));
        if !line[4..version].eq_ignore_ascii_case(b"2.0") {
            self.note(Fault::Version);
        }
        Ok(())
    }

    fn headers(&mut self, bytes: &[u8], start: usize) -> Result<(), ParseError> {
        let mut at = start;
        loop {
            let blank = match bytes.get(at..) {
                Some([b'\r', b'\n', ..]) => 2,
                Some([b'\n', ..]) => 1,
                _ => 0,
            };
            if blank > 0 {
                self.entries[usize::from(self.count)] = Entry {
                    line: offset(at),
                    ..EMPTY
                };
                self.headers_end = offset(at);
                self.body = offset(at + blank);
                return Ok(());
            }
            // No name holds an LF: the search for it starts behind the name.
            let name = bytes[at..].iter().take_while(|byte| is(**byte, TOKEN));
            let name_end = at + name.count();
            let mut end = line_end(bytes, name_end)?;
            while matches!(bytes.get(end), Some(b' ' | b'\t')) {
                end = line_end(bytes, end)?;
            }
            if usize::from(self.count) == HEADERS_MAX {
                return Err(ParseError::TooManyHeaders);
            }
            self.header(bytes, at, name_end, end);
            at = end;
        }
    }

    /// Indexes the header whose line, folds included, is `start..end`.
    fn header(&mut self, bytes: &[u8], start: usize, mut name_end: usize, end: usize) {
        let mut colon = name_end;
        while matches!(bytes[colon], b' ' | b'\t') {
            colon += 1;
        }
        let mut name = HeaderName::Other;
        let mut value = colon + 1;
        if bytes[colon] == b':' && name_end > start {
            name = HeaderName::from_bytes(&bytes[start..name_end]);
        } else {
            self.note(Fault::HeaderLine);
            (name_end, value) = (start, start);
        }
        let (value, value_end) = trim(bytes, value, end);
        let first = &mut self.first[name as usize];
        if *first == NONE {
            *first = self.count;
        } else if name.is_single() {
            self.note(Fault::Duplicate(name));
        }
        self.entries[usize::from(self.count)] = Entry {
            line: offset(start),
            name_end: offset(name_end),
            value: offset(value),
            value_end: offset(value_end),
            name,
        };
        self.count += 1;
    }

    /// Returns where the body ends. A Content-Length that cannot be followed takes all there is.
    fn frame_body(&mut self, bytes: &[u8]) -> usize {
        let Some(position) = self.first(HeaderName::ContentLength) else {
            return bytes.len();
        };
        let entry = self.entries[position];
        let value = &bytes[usize::from(entry.value)..usize::from(entry.value_end)];
        let body = usize::from(self.body);
        let length = number(value, u64::from(u32::MAX))
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(Fault::Malformed(HeaderName::ContentLength));
        self.content_length = Some(length);
        match length {
            Ok(length) if length <= bytes.len() - body => body + length,
            Ok(_) => {
                self.note(Fault::BodyTruncated);
                bytes.len()
            }
            Err(fault) => {
                self.note(fault);
                bytes.len()
            }
        }
    }
}

/// Returns the offset after the next LF. A bare LF ends a line too, as most implementations have it.
fn line_end(bytes: &[u8], start: usize) -> Result<usize, ParseError> {
    memchr::memchr(b'\n', &bytes[start..])
        .map(|length| start + length + 1)
        .ok_or(ParseError::Unterminated)
}

fn without_crlf(bytes: &[u8], start: usize, end: usize) -> usize {
    match &bytes[start..end] {
        [.., b'\r', b'\n'] => end - 2,
        _ => end - 1,
    }
}

/// Offsets fit: a message has at most `MESSAGE_BYTES_MAX` bytes.
fn offset(at: usize) -> u16 {
    debug_assert!(at <= MESSAGE_BYTES_MAX);
    at as u16
}

pub(crate) fn range(start: u16, end: u16) -> Range<usize> {
    usize::from(start)..usize::from(end)
}
