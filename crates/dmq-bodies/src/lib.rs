//! What Kamailio nodes say on the DMQ channels `htable` and `dialog`: bodies to values and back.
//!
//! [`TableMessage`] and [`DialogMessage`] are read from any body a Kamailio writes, of every version
//! and numbering, and written so that no Kamailio takes harm: objects that are never empty, never
//! `null`, strings where strings belong, numbers of 32 bits. What cannot be read is a
//! [`DecodeError`] that names its answer. [`slot`] and [`Did`] are how nodes name a dialog.
//!
//! Not here: the bus, other channels, and what a message means for the data. The values of tables
//! are those of the `htable` crate: the wire knows the data, the data does not know the wire.

mod dialog;
mod error;
mod htable;
mod identity;
mod json;

pub use dialog::{
    Change, DialogDialect, DialogMessage, DialogState, Leg, Profile, Remove, StateChange, Timing,
    Update,
};
pub use error::{DecodeError, EncodeError};
pub use htable::{
    BATCH_BYTES_DEFAULT, Batches, Cell, Numbering, PatternKind, TableDialect, TableMessage, batches,
};
pub use identity::{Did, DidError, hash_size_candidates, slot};
pub use json::{BODY_BYTES_MAX, DEPTH_MAX, VALUES_MAX};
