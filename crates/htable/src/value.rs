//! What a key stands for.

use bytes::Bytes;

/// The value of a key: a number or text.
///
/// Numbers have 32 bits because every Kamailio reads them so from another node. Text is bytes: no
/// encoding is promised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A signed number.
    Int(i32),
    /// Bytes, at most [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX) in a table.
    Text(Bytes),
}

impl Value {
    /// Returns the length of text; a number counts as nothing.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            Self::Int(_) => 0,
            Self::Text(text) => text.len(),
        }
    }
}
