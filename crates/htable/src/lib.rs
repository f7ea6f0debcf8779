//! Named tables of keys and values that expire, as operators know them from Kamailio's `htable`.
//!
//! [`Tables`] holds the tables of a node, each a [`Table`] with its [`Definition`]. What a call
//! changes is its result, so that the caller can pass it on to other nodes. Every entry carries a
//! stamp that the caller gives; [`Table::merge`] keeps the entry with the greater one.
//!
//! Not here: the network, how stamps are made, and what is remembered of deleted keys: a deleted key
//! is simply absent. Source: Kamailio htable, its manual, and what was seen of it on the wire.

mod definition;
mod pattern;
mod table;
mod tables;
mod value;

pub use definition::{DefineError, Definition, ENTRIES_DEFAULT, NAME_BYTES_MAX};
pub use pattern::{By, PATTERN_BYTES_MAX, Pattern, PatternError};
pub use table::{Entry, KEY_BYTES_MAX, Merged, Refused, Table, VALUE_BYTES_MAX, WriteError};
pub use tables::{Expired, TABLES_MAX, Tables};
pub use value::Value;
