//! Why a body cannot be read or written.

use crate::json::{BODY_BYTES_MAX, DEPTH_MAX, VALUES_MAX};

/// Why a body is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is longer than [`BODY_BYTES_MAX`].
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// The body is no JSON from this byte on.
    #[error("no JSON at byte {at}")]
    NotJson {
        /// The offset of the first byte that does not fit.
        at: usize,
    },
    /// Arrays and objects nest deeper than [`DEPTH_MAX`].
    #[error("values nest deeper than {DEPTH_MAX}")]
    TooDeep,
    /// There are more than [`VALUES_MAX`] values.
    #[error("there are more than {VALUES_MAX} values")]
    TooManyValues,
    /// The body is JSON, but no object.
    #[error("the body is no object")]
    NotAnObject,
    /// A field that the message needs is not there.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has another type than it should.
    #[error("field {0} has the wrong type")]
    WrongType(&'static str),
    /// A number is too small or too great for its field.
    #[error("field {0} is out of range")]
    OutOfRange(&'static str),
    /// The message asks for something unknown, or that cannot be done as it is written.
    #[error("field {0} asks for something unknown")]
    Unsupported(&'static str),
}

impl DecodeError {
    /// Returns the status that a Kamailio answers in this case: 400 or 500.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Unsupported(_) => 500,
            Self::TooLong
            | Self::NotJson { .. }
            | Self::TooDeep
            | Self::TooManyValues
            | Self::NotAnObject
            | Self::Missing(_)
            | Self::WrongType(_)
            | Self::OutOfRange(_) => 400,
        }
    }
}

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The body would be longer than [`BODY_BYTES_MAX`].
    #[error("the body would be longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// The numbering has no action for this; the keys must be deleted one by one.
    #[error("the receiver has no such action")]
    NoSuchAction,
}
