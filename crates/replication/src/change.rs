//! What is replicated, and one change of it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::entries::{EntryKey, EntryRecord};
use crate::record::{DialogKey, DialogRecord, DialogState};

/// Names a thing that is replicated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A dialog.
    Dialog(DialogKey),
    /// An entry of a table.
    Entry(EntryKey),
}

/// What is known of a key, for another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A dialog, and how long it lasts from now.
    Dialog(Box<DialogRecord>, Duration),
    /// An entry.
    Entry(EntryRecord),
}

/// Who changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// This node: others have to be told.
    Local,
    /// A Tandem node, which tells everybody itself.
    Tandem(SocketAddr),
    /// A Kamailio node, which tells everybody itself.
    Stock(SocketAddr),
}

impl Origin {
    /// Returns the Kamailio node that it was.
    pub(crate) fn stock(self) -> Option<SocketAddr> {
        match self {
            Self::Stock(node) => Some(node),
            Self::Local | Self::Tandem(_) => None,
        }
    }
}

/// One change, to be told and to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub key: Key,
    /// Who changed it.
    pub origin: Origin,
    /// For a dialog: its state before; `None` when it is new.
    pub before: Option<DialogState>,
}
