//! A message: a view of the datagram's bytes through an index. RFC 3261 sections 7 and 20.

use std::fmt;
use std::ops::Range;

use crate::check::Fault;
use crate::index::{Entry, Index, ParseError, range};
use crate::method::Method;
use crate::name::HeaderName;
use crate::name_addr::NameAddr;
use crate::token::{Cursor, DIGIT, LWS, TOKEN, is_all, number, quoted_end, trim};
use crate::via::Via;

/// A SIP request or response. Every offset and range counts from the start of [`Message::bytes`].
#[derive(Copy, Clone)]
pub struct Message<'a> {
    bytes: &'a [u8],
    pub(crate) index: &'a Index,
}

impl<'a> Message<'a> {
    /// Frames a datagram: skips leading CRLFs, indexes the lines, cuts the body by Content-Length.
    ///
    /// Fails only on what can be neither used nor answered. A request with any other fault can still
    /// be read as far as it goes, to answer what [`Message::check`] finds.
    pub fn parse(bytes: &'a [u8], index: &'a mut Index) -> Result<Message<'a>, ParseError> {
        let bytes = index.fill(bytes)?;
        Ok(Message { bytes, index })
    }

    /// Returns the message from its start line to the end of its body.
    ///
    /// Without Content-Length the body is the rest of the datagram; with it, the surplus is cut off
    /// (RFC 3261 section 18.3).
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether this is a request.
    pub fn is_request(&self) -> bool {
        self.index.status == 0
    }

    /// Whether this is a response.
    pub fn is_response(&self) -> bool {
        self.index.status != 0
    }

    /// Returns the method of a request, or of the CSeq of a response; empty `Other` if that is broken.
    pub fn method(&self) -> Method<'a> {
        if self.is_response() {
            return self.cseq().map_or(Method::Other(b""), |cseq| cseq.method);
        }
        Method::from_bytes(&self.bytes[..usize::from(self.index.method_end)])
    }

    /// Returns the status of a response, 100 to 699.
    pub fn status(&self) -> Option<u16> {
        self.is_response().then_some(self.index.status)
    }

    /// Returns the reason phrase of a response; empty for a request.
    pub fn reason(&self) -> &'a [u8] {
        if self.is_response() {
            &self.bytes[self.subject()]
        } else {
            b""
        }
    }

    /// Returns the Request-URI; empty for a response.
    pub fn request_uri(&self) -> &'a [u8] {
        &self.bytes[self.request_uri_range()]
    }

    /// Returns where the Request-URI is; an empty range at 0 for a response.
    pub fn request_uri_range(&self) -> Range<usize> {
        if self.is_request() {
            self.subject()
        } else {
            0..0
        }
    }

    fn subject(&self) -> Range<usize> {
        range(self.index.subject.0, self.index.subject.1)
    }

    /// Iterates over all headers in order, broken lines included (as `Other` with an empty name).
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + Clone + use<'a> {
        let message = *self;
        (0..self.index.entries().len()).map(move |position| message.header_at(position))
    }

    /// Iterates over the headers of that name in order.
    pub fn headers_named(
        &self,
        name: HeaderName,
    ) -> impl Iterator<Item = Header<'a>> + Clone + use<'a> {
        let message = *self;
        let entries = self.index.entries();
        let first = self.index.first(name).unwrap_or(entries.len());
        (first..entries.len())
            .filter(move |position| entries[*position].name == name)
            .map(move |position| message.header_at(position))
    }

    /// Returns the first header of that name.
    pub fn header(&self, name: HeaderName) -> Option<Header<'a>> {
        self.index
            .first(name)
            .map(|position| self.header_at(position))
    }

    /// Returns the first header that is written with that name, in any case.
    ///
    /// For extension headers. A known header is found too, but only in the spelling asked for.
    pub fn header_other(&self, name: &str) -> Option<Header<'a>> {
        self.headers()
            .find(|header| header.name_bytes().eq_ignore_ascii_case(name.as_bytes()))
    }

    fn header_at(&self, position: usize) -> Header<'a> {
        Header {
            bytes: self.bytes,
            entry: self.index.entries()[position],
            line_end: self.index.line_end(position),
        }
    }

    /// Iterates over the elements of a comma-separated list across all headers of that name.
    ///
    /// Commas inside quotes and angle brackets do not separate. Elements come trimmed; an empty one
    /// (`a,,b`) comes as an empty range.
    pub fn elements(
        &self,
        name: HeaderName,
    ) -> impl Iterator<Item = Range<usize>> + Clone + use<'a> {
        let bytes = self.bytes;
        self.headers_named(name)
            .flat_map(move |header| Elements::new(bytes, header.value_range()))
    }

    /// Iterates over the elements of one header line.
    pub(crate) fn elements_of(
        &self,
        header: &Header<'a>,
    ) -> impl Iterator<Item = Range<usize>> + Clone + use<'a> {
        Elements::new(self.bytes, header.value_range())
    }

    fn value(&self, name: HeaderName) -> Option<&'a [u8]> {
        self.header(name).map(|header| header.value())
    }

    /// Returns the Call-ID, which is case-sensitive; empty if there is none.
    pub fn call_id(&self) -> &'a [u8] {
        self.value(HeaderName::CallId).unwrap_or(b"")
    }

    /// Returns the CSeq; `None` if it is absent or broken.
    pub fn cseq(&self) -> Option<CSeq<'a>> {
        let mut cursor = Cursor::new(self.value(HeaderName::CSeq)?);
        let digits = cursor.run(DIGIT);
        let number = u32::try_from(number(digits, u64::from(u32::MAX))?).ok()?;
        if !cursor.next_is(LWS) {
            return None;
        }
        cursor.skip_lws();
        let method = &cursor.bytes[cursor.at..];
        is_all(method, TOKEN).then_some(CSeq {
            number,
            method: Method::from_bytes(method),
        })
    }

    /// Returns the From address; `None` if it is absent or broken.
    pub fn from(&self) -> Option<NameAddr<'a>> {
        self.name_addr(HeaderName::From)
    }

    /// Returns the To address; `None` if it is absent or broken.
    pub fn to(&self) -> Option<NameAddr<'a>> {
        self.name_addr(HeaderName::To)
    }

    /// Returns the tag of From.
    pub fn from_tag(&self) -> Option<&'a [u8]> {
        self.from().and_then(|from| from.tag())
    }

    /// Returns the tag of To.
    pub fn to_tag(&self) -> Option<&'a [u8]> {
        self.to().and_then(|to| to.tag())
    }

    /// Reads a header that holds one address.
    pub(crate) fn name_addr(&self, name: HeaderName) -> Option<NameAddr<'a>> {
        NameAddr::parse_at(self.bytes, self.header(name)?.value_range()).ok()
    }

    /// Iterates over the Vias, topmost first.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'a>, Fault>> + Clone + use<'a> {
        let bytes = self.bytes;
        self.elements(HeaderName::Via)
            .map(move |range| Via::parse_at(bytes, range).ok_or(Fault::Malformed(HeaderName::Via)))
    }

    /// Returns the topmost Via; `None` if it is absent or broken.
    pub fn top_via(&self) -> Option<Via<'a>> {
        self.vias().next()?.ok()
    }

    /// Iterates over the Route addresses, next hop first.
    pub fn routes(&self) -> impl Iterator<Item = Result<NameAddr<'a>, Fault>> + Clone + use<'a> {
        self.addresses(HeaderName::Route)
    }

    /// Iterates over the Record-Route addresses, topmost first.
    pub fn record_routes(
        &self,
    ) -> impl Iterator<Item = Result<NameAddr<'a>, Fault>> + Clone + use<'a> {
        self.addresses(HeaderName::RecordRoute)
    }

    /// Iterates over the Contact addresses; `Contact: *` has none.
    pub fn contacts(&self) -> impl Iterator<Item = Result<NameAddr<'a>, Fault>> + Clone + use<'a> {
        self.addresses(HeaderName::Contact)
    }

    /// Whether Contact is `*`, as in a REGISTER that removes everything.
    pub fn contact_is_star(&self) -> bool {
        self.value(HeaderName::Contact) == Some(b"*")
    }

    /// Iterates over the addresses of any header that is a list of them.
    ///
    /// An element that is just `*` is no address and is passed over.
    pub fn addresses(
        &self,
        name: HeaderName,
    ) -> impl Iterator<Item = Result<NameAddr<'a>, Fault>> + Clone + use<'a> {
        let bytes = self.bytes;
        self.elements(name)
            .filter(move |range| &bytes[range.clone()] != b"*")
            .map(move |range| NameAddr::parse_at(bytes, range).map_err(|_| Fault::Malformed(name)))
    }

    /// Returns Max-Forwards, 0 to 255; `None` if it is absent.
    pub fn max_forwards(&self) -> Option<Result<u8, Fault>> {
        let value = self.value(HeaderName::MaxForwards)?;
        let hops = number(value, u64::from(u8::MAX)).and_then(|hops| u8::try_from(hops).ok());
        Some(hops.ok_or(Fault::Malformed(HeaderName::MaxForwards)))
    }

    /// Returns Content-Length as it is written, which may be more than there is; `None` if it is absent.
    pub fn content_length(&self) -> Option<Result<usize, Fault>> {
        self.index.content_length
    }

    /// Returns the body, empty if there is none.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[usize::from(self.index.body)..]
    }

    /// Returns the offset of the first header line.
    pub fn headers_start(&self) -> usize {
        usize::from(self.index.headers_start)
    }

    /// Returns the offset of the empty line: where a header line can be appended.
    pub fn headers_end(&self) -> usize {
        usize::from(self.index.headers_end)
    }

    /// Returns where a new line goes to stand above all lines of its name.
    ///
    /// Without one: [`Message::headers_start`] for Via, [`Message::headers_end`] for the others.
    pub fn insertion_point(&self, name: HeaderName) -> usize {
        match self.header(name) {
            Some(header) => header.line_range().start,
            None if name == HeaderName::Via => self.headers_start(),
            None => self.headers_end(),
        }
    }
}

/// Shows what kind of message it is and how long, never whose.
impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("method", &self.method())
            .field("status", &self.status())
            .field("headers", &self.index.entries().len())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// A sequence number and its method.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// The number; RFC 3261 keeps it under 2^31, here the whole range passes.
    pub number: u32,
    /// The method.
    pub method: Method<'a>,
}

/// One header of a message.
#[derive(Copy, Clone)]
pub struct Header<'a> {
    bytes: &'a [u8],
    entry: Entry,
    line_end: u16,
}

impl<'a> Header<'a> {
    /// Returns which header this is.
    pub fn name(&self) -> HeaderName {
        self.entry.name
    }

    /// Returns the name as written; empty for a line that is no header.
    pub fn name_bytes(&self) -> &'a [u8] {
        &self.bytes[range(self.entry.line, self.entry.name_end)]
    }

    /// Returns the value without the white space around it; folds inside it stay.
    pub fn value(&self) -> &'a [u8] {
        &self.bytes[self.value_range()]
    }

    /// Returns where the value is.
    pub fn value_range(&self) -> Range<usize> {
        range(self.entry.value, self.entry.value_end)
    }

    /// Returns where the whole line is, with its folds and its line end.
    pub fn line_range(&self) -> Range<usize> {
        range(self.entry.line, self.line_end)
    }

    /// Returns the whole line, with its folds and its line end.
    pub fn line(&self) -> &'a [u8] {
        &self.bytes[self.line_range()]
    }
}

/// Shows the name, never the value.
impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({})", self.name_bytes().escape_ascii())
    }
}

/// The elements of one value.
#[derive(Clone)]
struct Elements<'a> {
    bytes: &'a [u8],
    /// What is left, from after the last comma; `None` when done.
    rest: Option<Range<usize>>,
}

impl<'a> Elements<'a> {
    fn new(bytes: &'a [u8], value: Range<usize>) -> Self {
        Elements {
            bytes,
            rest: Some(value),
        }
    }
}

impl Iterator for Elements<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let Range { start, end } = self.rest.take()?;
        let element_end = element_end(&self.bytes[start..end]) + start;
        if element_end < end {
            self.rest = Some(element_end + 1..end);
        }
        let (start, end) = trim(self.bytes, start, element_end);
        Some(start..end)
    }
}

/// Returns the offset of the comma that ends the first element. What is opened and never closed
/// reaches to the end: its reader will refuse it.
fn element_end(value: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr3(b',', b'"', b'<', &value[at..]) {
        at += found;
        let closed = match value[at] {
            b',' => return at,
            b'"' => quoted_end(value, at),
            _ => memchr::memchr(b'>', &value[at..]).map(|length| at + length + 1),
        };
        let Some(closed) = closed else { break };
        at = closed;
    }
    value.len()
}
