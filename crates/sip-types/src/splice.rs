//! Edits of one message, gathered in any order and applied in one copy.

use std::net::SocketAddr;
use std::ops::Range;

use crate::message::{Header, Message};
use crate::name::HeaderName;
use crate::token::host_addr;
use crate::via::Via;

/// One edit: `range` of the message gives way to `text` of the arena.
#[derive(Clone, Debug)]
struct Edit {
    range: Range<usize>,
    text: Range<usize>,
    /// Stands before what else is inserted there.
    foremost: bool,
}

/// Edits of one message. Reused from message to message: keeps its buffers, so that it stops
/// allocating after the first few.
///
/// Ranges count from the start of the message as it is, whatever edits were added before. Inserts at
/// one offset keep the order of the calls, the foremost excepted, and stand before what replaces the
/// bytes from there on. Edits that overlap are a mistake of the caller's.
#[derive(Clone, Debug, Default)]
pub struct Splice {
    edits: Vec<Edit>,
    text: Vec<u8>,
}

impl Splice {
    /// Makes a splice without edits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all edits, keeps the memory.
    pub fn clear(&mut self) {
        self.edits.clear();
        self.text.clear();
    }

    /// Whether there are no edits.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Replaces a range by `text`.
    pub fn replace(&mut self, range: Range<usize>, text: &[u8]) {
        self.replace_with(range, |out| out.extend_from_slice(text));
    }

    /// Inserts `text` before the byte at `at`.
    pub fn insert(&mut self, at: usize, text: &[u8]) {
        self.replace(at..at, text);
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<usize>) {
        self.replace(range, b"");
    }

    /// Inserts what `write` appends to the buffer it is given.
    pub fn insert_with(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace_with(at..at, write);
    }

    /// Inserts what `write` appends, before everything else that is inserted there.
    pub fn insert_foremost_with(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.insert_with(at, write);
        if let Some(edit) = self.edits.last_mut() {
            edit.foremost = true;
        }
    }

    /// Replaces a range by what `write` appends to the buffer it is given.
    pub fn replace_with(&mut self, range: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        write(&mut self.text);
        debug_assert!(self.text.len() >= start, "an edit only appends");
        self.edits.push(Edit {
            range,
            text: start..self.text.len(),
            foremost: false,
        });
    }

    /// Removes the whole line of a header.
    pub fn remove_header(&mut self, header: &Header<'_>) {
        self.remove(header.line_range());
    }

    /// Removes all headers of that name.
    pub fn remove_headers(&mut self, message: &Message<'_>, name: HeaderName) {
        for header in message.headers_named(name) {
            self.remove_header(&header);
        }
    }

    /// Removes the first `n` elements of a list header, across lines and commas.
    ///
    /// A line with nothing left goes whole; what is left of a line keeps its bytes.
    pub fn remove_leading(&mut self, message: &Message<'_>, name: HeaderName, n: usize) {
        let mut left = n;
        for header in message.headers_named(name) {
            if left == 0 {
                return;
            }
            let mut elements = message.elements_of(&header);
            let removed = elements.by_ref().take(left).count();
            left -= removed;
            match elements.next() {
                Some(kept) => self.remove(header.value_range().start..kept.start),
                None => self.remove_header(&header),
            }
        }
    }

    /// Notes on the topmost Via where the request came from, as a server must.
    ///
    /// `received` when sent-by differs or `rport` asks, and the port when `rport` asks; what the
    /// sender claimed there gives way. RFC 3261 section 18.2.1, RFC 3581 section 4.
    pub fn add_received(&mut self, via: &Via<'_>, source: SocketAddr) {
        let source_ip = source.ip().to_canonical();
        let wanted = via.rport.is_some() || host_addr(via.host) != Some(source_ip);
        if let Some(range) = &via.rport_range {
            self.replace_with(range.clone(), |out| {
                append(out, format_args!("rport={}", source.port()))
            });
        }
        match &via.received_range {
            Some(range) => {
                self.replace_with(range.clone(), |out| {
                    append(out, format_args!("received={source_ip}"))
                });
            }
            None if wanted => {
                self.insert_with(via.params_end(), |out| {
                    append(out, format_args!(";received={source_ip}"))
                });
            }
            None => {}
        }
    }

    /// Appends the edited message to `out`; the edits stay, until [`Splice::clear`].
    pub fn apply(&mut self, message: &[u8], out: &mut Vec<u8>) {
        self.apply_to(message, 0..message.len(), out);
    }

    /// Appends a part of the edited message to `out`; all edits lie in that part.
    pub(crate) fn apply_to(&mut self, message: &[u8], part: Range<usize>, out: &mut Vec<u8>) {
        // The arena grows with every call, so its offsets tell the order of inserts at one place.
        self.edits.sort_unstable_by_key(|edit| {
            let (insert, at) = (edit.range.is_empty(), edit.range.start);
            (at, !edit.foremost, !insert, edit.text.start)
        });
        out.reserve(part.len() + self.text.len());
        let mut at = part.start;
        for edit in &self.edits {
            debug_assert!(
                edit.range.start >= at && edit.range.end <= part.end,
                "edits overlap"
            );
            out.extend_from_slice(message.get(at..edit.range.start).unwrap_or_default());
            out.extend_from_slice(&self.text[edit.text.clone()]);
            at = at.max(edit.range.end);
        }
        out.extend_from_slice(message.get(at..part.end).unwrap_or_default());
    }
}

/// Formats into bytes without an intermediate string.
pub(crate) fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    out.write_fmt(text).expect("a Vec takes all it is given");
}
