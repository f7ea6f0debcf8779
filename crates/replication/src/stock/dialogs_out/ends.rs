//! What a Kamailio node is told of the end of a dialog.
//!
//! STATE(5), and RM some seconds later. A node that may not know the dialog is told of its end whole, too:
//! UPDATE(5) instead of STATE(5), as Kamailio itself answers who asks. If an UPDATE or STATE was on its
//! way at the end, or was never answered, it is told of the end whole once more when no repeat of it can
//! arrive any longer: an UPDATE after RM revives the dialog (5.6.3). So it is after another node has told
//! of a dialog that is over. A node that has done its part would log an ERROR for another STATE(5).
//! Source: PROTOCOL 5.

use std::time::{Duration, Instant};

use super::{Step, Told};
use crate::clock::Now;
use crate::record::{DialogKey, DialogState};
use crate::stock::TOLD_MAX;
use crate::stock::node::Node;

/// Between STATE(5) and RM, as Kamailio itself does.
const REMOVE_AFTER: Duration = Duration::from_secs(5);

/// When the end is said once more: the last repeat of a message comes 27.5 s after the first.
const REPEAT_AFTER: Duration = Duration::from_secs(32);

/// When the end is said once more that somebody told everybody of the dialog after: all that was told at one
/// time has arrived, and what was to be freed has been.
const REVIVED_REPEAT_AFTER: Duration = Duration::from_secs(10);

/// How far the end of a dialog was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// STATE(5), or UPDATE(5), is to be told.
    State { again: bool },
    /// RM is to be told, not before that.
    Remove { at: Instant, again: bool },
    /// Both are to be told once more, not before that.
    Repeat { at: Instant },
    /// It was over before anybody could be told of it.
    Unsaid,
}

impl Ending {
    /// Returns what to tell next, if anything and now; `is_stale` tells that the node may not know the dialog.
    pub(super) fn next(self, now: Instant, is_stale: bool) -> Option<Step> {
        match self {
            // What is told once more, a node that has done its part has freed.
            Self::State { again } if is_stale || again => Some(Step::EndWhole),
            Self::State { .. } => Some(Step::End),
            Self::Remove { at, .. } => (at <= now).then_some(Step::Remove),
            Self::Repeat { .. } | Self::Unsaid => None,
        }
    }

    /// Returns how far it counts as told now that the node may have started anew.
    pub(super) fn mistrusted(self) -> Self {
        match self {
            Self::Remove { again: false, .. } => Self::State { again: false },
            Self::State { .. } | Self::Remove { .. } | Self::Repeat { .. } | Self::Unsaid => self,
        }
    }

    /// Tells whether STATE(5) is to be told now.
    pub(super) fn is_due(self) -> bool {
        matches!(self, Self::State { .. })
    }

    /// Tells whether it is still to be told for the first time.
    fn is_first(self) -> bool {
        match self {
            Self::State { again } | Self::Remove { again, .. } => !again,
            Self::Repeat { .. } | Self::Unsaid => false,
        }
    }
}

impl Told {
    /// What was not to be told before now is.
    fn wake(&mut self, now: Instant) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.is_refused = false;
        }
        if let Some(Ending::Repeat { at }) = self.ending
            && at <= now
        {
            self.ending = Some(Ending::State { again: true });
        }
    }

    /// The end was told as far as `step`; returns when it goes on, or `None` when all is said.
    pub(super) fn take_end(&mut self, now: Instant, step: Step, is_known: bool) -> Option<Instant> {
        let (again, is_state) = match (self.ending, step) {
            (Some(Ending::State { again }), Step::End | Step::EndWhole) => (again, true),
            (Some(Ending::Remove { again, .. }), Step::Remove) => (again, false),
            _ => return Some(now),
        };
        // Another node may tell it of the dialog after it said that it does not know it.
        if is_state && (is_known || !again) {
            let wait = if again { Duration::ZERO } else { REMOVE_AFTER };
            let at = now + wait;
            self.ending = Some(Ending::Remove { at, again });
            return Some(at);
        }
        if again || !self.is_in_doubt {
            return None;
        }
        let at = (self.ended_at.unwrap_or(now) + REPEAT_AFTER).max(now);
        self.ending = Some(Ending::Repeat { at });
        Some(at)
    }
}

impl Node {
    /// A dialog is over that was in state `before` here. `by_us` tells that no other node says so.
    pub(crate) fn note_end(
        &mut self,
        now: Now,
        key: &DialogKey,
        by_us: bool,
        before: Option<DialogState>,
    ) {
        if by_us && before.is_none() {
            // Others knew of it and we did not; what this node knows, nobody can tell.
            self.note_inherited(now.monotonic, key);
            return;
        }
        let is_held = self.dialogs.contains_key(key);
        let is_told = self.is_up && by_us && self.dialogs.len() < TOLD_MAX;
        if !is_held && !is_told {
            return;
        }
        let told = self.dialogs.entry(key.clone()).or_default();
        if told.is_ending() {
            // Its beginning was noted in the same moment: it is ours, and new.
            let is_unsaid = told.content.is_none() && told.ended_at == Some(now.monotonic);
            if is_unsaid && before != Some(DialogState::Ended) {
                told.ending = Some(Ending::Unsaid);
            }
            return;
        }
        if let Some(request) = told.withdraw() {
            self.requests.remove(&request);
            self.withdrawn.push(request);
        }
        if let Some(at) = told.again_at.take() {
            self.later.remove(&(at, key.clone()));
        }
        // What was there before the node was, others have told it.
        let may_have_heard = told.is_stale || told.is_in_doubt || !is_held;
        let was_taken = told.content.is_some() || told.was_taken;
        let may_know = was_taken || may_have_heard && !told.is_refused;
        told.ended_at = Some(now.monotonic);
        if !may_know {
            self.dialogs.remove(key);
        } else if by_us {
            // What it was told of it may be under way still.
            told.is_stale |= told.content.is_none();
            told.ending = Some(Ending::State { again: false });
            told.noted.get_or_insert(now.monotonic);
            self.queue_dialog(key);
        } else if told.is_in_doubt {
            told.noted = None;
            let at = now.monotonic + REPEAT_AFTER;
            told.ending = Some(Ending::Repeat { at });
            self.later.insert((at, key.clone()));
        } else {
            self.dialogs.remove(key);
        }
    }

    /// A dialog ended at a node which was lost before it can have told this to the end, or which has forgotten
    /// it. It is told whole: whether the node knows of it, of its end, or has freed it is unknown, and so it
    /// complains of nothing.
    pub(crate) fn note_inherited(&mut self, now: Instant, key: &DialogKey) {
        if !self.is_up || self.dialogs.len() >= TOLD_MAX && !self.dialogs.contains_key(key) {
            return;
        }
        let told = self.dialogs.entry(key.clone()).or_default();
        if told.is_ending() {
            return;
        }
        told.is_stale = true;
        told.ended_at = Some(now);
        told.ending = Some(Ending::State { again: false });
        self.queue_dialog(key);
    }

    /// It was told of a dialog that is over, by another node, and may have it again.
    pub(crate) fn note_revived(&mut self, now: Instant, key: &DialogKey) {
        if !self.is_up || self.dialogs.len() >= TOLD_MAX && !self.dialogs.contains_key(key) {
            return;
        }
        let told = self.dialogs.entry(key.clone()).or_default();
        told.is_stale = true;
        if told.is_ending() {
            told.is_in_doubt = true;
            return;
        }
        let at = now + REVIVED_REPEAT_AFTER;
        told.ended_at = Some(now);
        told.ending = Some(Ending::Repeat { at });
        self.later.insert((at, key.clone()));
    }

    /// Tells whether it is still to be told of the end of a dialog for the first time.
    pub(crate) fn is_owed_an_end(&self) -> bool {
        let mut endings = self.dialogs.values().filter_map(|told| told.ending);
        endings.any(Ending::is_first)
    }

    /// Queues what has been waiting for its time.
    pub(crate) fn wake_dialogs(&mut self, now: Instant) {
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            if let Some(told) = self.dialogs.get_mut(&key) {
                told.wake(now);
            }
            self.queue_dialog(&key);
        }
    }
}
