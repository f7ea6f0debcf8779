//! INVITEs that were refused without a transaction and whose ACK must go no further.
//!
//! Outside a dialog our own To tag tells such an ACK: RFC 3261 sections 8.2.7 and 16.11. Inside one
//! the To tag is the callee's, so what is left is the branch, which the ACK of a failure shares with
//! its INVITE (section 17.1.1.3).

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::transaction::ServerKey;

/// How many refused INVITEs are remembered; then the oldest is forgotten, and its ACK taken for one
/// of a 2xx.
pub const REFUSED_MAX: usize = 1024;

/// The INVITEs refused lately, with the status they got.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    statuses: HashMap<ServerKey, u16>,
    order: VecDeque<(Instant, ServerKey)>,
    forgotten: u64,
}

impl Refused {
    /// Remembers a refusal until then.
    pub(crate) fn remember(&mut self, now: Instant, until: Instant, key: ServerKey, status: u16) {
        self.forget(now);
        if self.statuses.contains_key(&key) {
            return;
        }
        if self.order.len() >= REFUSED_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.statuses.remove(&oldest);
            self.forgotten += 1;
        }
        self.statuses.insert(key, status);
        self.order.push_back((until, key));
    }

    /// Returns the status that an INVITE was refused with.
    pub(crate) fn status(&mut self, now: Instant, key: ServerKey) -> Option<u16> {
        self.forget(now);
        self.statuses.get(&key).copied()
    }

    /// Returns how many were forgotten before their time.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn forget(&mut self, now: Instant) {
        while let Some((_, key)) = self.order.pop_front_if(|(until, _)| *until <= now) {
            self.statuses.remove(&key);
        }
    }
}
