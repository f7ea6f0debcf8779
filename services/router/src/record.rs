//! Call records: one line of JSON for each dialog that ended, written by who owned it then, and by the
//! others when that router is lost a moment later.
//!
//! The id is derived from the dialog, so that readers can drop the repeats that this or a partition may
//! cause.

use std::collections::VecDeque;

use replication::{Cause, DialogKey, DialogRecord};
use serde::Serialize;

/// How many records wait to be written; at the limit the oldest is dropped, counted.
pub const RECORDS_MAX: usize = 65_536;

/// One call that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// 32 hexadecimal digits, the same from whichever router writes it.
    pub id: String,
    /// The Call-ID; bytes that are no UTF-8 are replaced.
    pub call_id: String,
    /// URI of From.
    pub from: String,
    /// URI of To.
    pub to: String,
    /// The Request-URI as it came.
    pub request_uri: String,
    /// When the INVITE came, seconds since 1970.
    pub created: u64,
    /// When it was answered, seconds since 1970; absent when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// When it ended, seconds since 1970.
    pub ended: u64,
    /// From answer to end, in seconds.
    pub duration: u64,
    /// Why it ended: `bye`, `failed`, `cancelled`, `expired`, `owner lost`, `told`.
    pub cause: &'static str,
    /// How many routers have owned it: 1 without a death.
    pub epoch: u32,
    /// Who owned it when it ended: a DMQ address.
    pub owner: String,
}

impl CallRecord {
    /// Returns the record of a dialog that has ended.
    #[must_use]
    pub fn new(key: &DialogKey, dialog: &DialogRecord) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ended = dialog.end.map_or(0, |end| end.at);
        let answered = Some(dialog.answered).filter(|at| *at > 0);
        Self {
            id: format!("{:032x}", dialog.record_id(key)),
            call_id: text(&key.call_id),
            from: text(&dialog.from_uri),
            to: text(&dialog.to_uri),
            request_uri: text(&dialog.request_uri),
            created: dialog.created,
            answered,
            ended,
            duration: answered.map_or(0, |answered| ended.saturating_sub(answered)),
            cause: dialog.end.map_or(Cause::Told, |end| end.cause).name(),
            epoch: dialog.ownership.epoch,
            owner: dialog.ownership.owner.to_string(),
        }
    }
}

/// Records that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Records {
    waiting: VecDeque<CallRecord>,
    dropped: u64,
}

impl Records {
    pub(crate) fn push(&mut self, record: CallRecord) {
        if self.waiting.len() >= RECORDS_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(record);
    }

    pub(crate) fn take(&mut self) -> Vec<CallRecord> {
        self.waiting.drain(..).collect()
    }

    pub(crate) fn note_lost(&mut self, count: u64) {
        self.dropped += count;
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_and_what_is_lost_later_counts_as_dropped() {
        let owner = ([192, 0, 2, 1], 5062).into();
        let dialog = DialogRecord::new(replication::Ownership { epoch: 1, owner });
        let mut records = Records::default();
        for h_id in 0..RECORDS_MAX as u32 + 2 {
            let key = DialogKey {
                call_id: b"a@b"[..].into(),
                h_id,
            };
            records.push(CallRecord::new(&key, &dialog));
        }
        assert_eq!(records.dropped(), 2);
        assert_eq!(records.take().len(), RECORDS_MAX);
        records.note_lost(3);
        assert_eq!(records.dropped(), 5);
    }
}
