//! SIP messages that leave as they came: indexed on parse, spliced on edit, byte-identical otherwise.
//!
//! A [`Message`] is a view of a datagram and an [`Index`] of offsets. Reading it copies and allocates
//! nothing; changing it means a [`Splice`], which writes the new message in one copy. Two steps of
//! strictness: [`Message::parse`] fails only on what cannot be framed, [`Message::check`] says what an
//! element could not read and how to answer. No state, no IO, no clock.
//!
//! ```
//! use sip_types::{HeaderName, Index, Message, Splice};
//!
//! let datagram = b"OPTIONS sip:example.com SIP/2.0\r\n\
//!     Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK7;rport\r\n\
//!     From: <sip:a@example.com>;tag=1\r\nTo: <sip:example.com>\r\n\
//!     Call-ID: one\r\nCSeq: 1 OPTIONS\r\n\r\n";
//! let mut index = Index::new();
//! let message = Message::parse(datagram, &mut index)?;
//! message.check()?;
//!
//! let mut splice = Splice::new();
//! splice.insert(message.insertion_point(HeaderName::Via), b"Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK8\r\n");
//! let mut forwarded = Vec::new();
//! splice.apply(message.bytes(), &mut forwarded);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod compose;
mod index;
mod message;
mod method;
mod name;
mod name_addr;
mod params;
mod splice;
mod token;
mod uri;
mod via;

pub use check::Fault;
pub use compose::{ResponseHead, ack_for, cancel_for, reason_phrase, respond, respond_from};
pub use index::{Index, ParseError};
pub use message::{CSeq, Header, Message};
pub use method::Method;
pub use name::HeaderName;
pub use name_addr::NameAddr;
pub use params::Params;
pub use splice::Splice;
pub use uri::{Scheme, Uri, UriError};
pub use via::Via;

/// Headers in a message; one more and it cannot be framed. Sized for a path of Max-Forwards 70.
pub const HEADERS_MAX: usize = 128;
/// Bytes in a message, body included: what a UDP datagram can carry, and what an offset can tell.
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// Elements in one list over all its headers (Via, Route, Record-Route, Contact).
pub const LIST_ELEMENTS_MAX: usize = 128;
/// Bytes in a URI that has to be read.
pub const URI_BYTES_MAX: usize = 2_048;
/// Bytes in a Call-ID.
pub const CALL_ID_BYTES_MAX: usize = 512;
/// Bytes in a From or To tag.
pub const TAG_BYTES_MAX: usize = 512;
/// Bytes in a Via branch.
pub const BRANCH_BYTES_MAX: usize = 512;
