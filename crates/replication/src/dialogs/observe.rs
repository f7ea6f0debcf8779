//! What becomes of a dialog by what this router saw of it. Not here: what other nodes wrote, and deadlines.

use std::time::Duration;

use super::{Changed, Dialogs, end, taken_over};
use crate::clock::{HybridClock, Now, Stamp};
use crate::observation::{LegSeen, Observation, Observed};
use crate::record::{
    Cause, DialogKey, DialogRecord, DialogState, Leg, Lifetime, Ownership, Text, raise,
};

/// How much of its early lifetime may pass before a call that goes on ringing is given a new one, of which
/// the others are told: less than what [`super::DialogsConfig::early_lifetime`] is beyond Timer C.
const RINGS_ANEW_AFTER: Duration = Duration::from_secs(10);

impl Dialogs {
    /// Returns the dialog to which belongs what this router saw, and whether the caller sent it.
    pub(crate) fn find_seen(&self, seen: &Observation) -> Option<(DialogKey, bool)> {
        self.find(&seen.call_id, seen.h_id, &seen.from_tag, &seen.to_tag)
    }

    /// Makes a record of what this router saw; `None` when it says nothing new, or the dialog is not here.
    pub fn observe(
        &mut self,
        now: Now,
        clock: &mut HybridClock,
        seen: Observation,
    ) -> Option<Changed> {
        if matches!(seen.what, Observed::Invited { .. }) {
            return self.invited(now, clock, seen);
        }
        let (key, from_caller) = self.find_seen(&seen)?;
        let Observation {
            from_tag,
            to_tag,
            what,
            ..
        } = seen;
        let (own, config) = (self.own, self.config);
        let changed = self.begin(key)?;
        let held = self.dialog_mut(&changed.key)?;
        let (record, at) = (&mut held.record, &mut held.at);
        let failed = matches!(what, Observed::Ended(cause) if cause != Cause::Bye);
        if failed && record.answered != 0 {
            return None;
        }
        let stamp = clock.stamp(now, record.stamp());
        let is_request = !matches!(what, Observed::Rang(_) | Observed::Answered(_));
        // Whoever never saw the 2xx takes its ACK for it.
        let is_answer = matches!(what, Observed::Answered(_) | Observed::Acked);
        let goes_on = matches!(what, Observed::Rang(_) | Observed::Tried)
            && *at + RINGS_ANEW_AFTER <= now.monotonic + config.early_lifetime;
        let mut is_changed = false;
        if is_request {
            is_changed |= note_tag(side(record, from_caller), &from_tag);
            is_changed |= note_tag(side(record, !from_caller), &to_tag);
        }
        if (is_answer || goes_on) && record.answered == 0 {
            let lasts = match is_answer {
                true => config.lifetime,
                false => config.early_lifetime,
            };
            record.lifetime = Lifetime {
                stamp,
                seconds: lasts.as_secs() as u32,
            };
            *at = now.monotonic + lasts;
            if is_answer {
                record.answered = now.wall_seconds();
            }
            is_changed = true;
        }
        is_changed |= match what {
            // It has a way of its own.
            Observed::Invited { .. } => return None,
            Observed::Tried => false,
            Observed::Rang(leg) => {
                raise(&mut record.state, DialogState::Early)
                    | answered_leg(&mut record.callee, stamp, to_tag, leg)
            }
            Observed::Answered(leg) => {
                raise(&mut record.state, DialogState::Answered)
                    | answered_leg(&mut record.callee, stamp, to_tag, leg)
            }
            Observed::Acked => {
                let rang_with_another =
                    record.state < DialogState::Answered && record.callee.tag != to_tag;
                if rang_with_another && from_caller && !to_tag.is_empty() {
                    answered_leg(&mut record.callee, stamp, to_tag, LegSeen::default());
                }
                raise(&mut record.state, DialogState::Confirmed)
            }
            Observed::Refreshed(seen) => {
                let leg = side(record, from_caller);
                let is_latest = seen.cseq == 0 || seen.cseq >= leg.cseq;
                let has_moved = !seen.contact.is_empty() && seen.contact != leg.contact;
                if is_latest && has_moved {
                    leg.contact = seen.contact;
                    leg.stamp = stamp;
                }
                count(leg, stamp, seen.cseq) | (is_latest && has_moved)
            }
            Observed::Requested { cseq } => count(side(record, from_caller), stamp, cseq),
            Observed::Ended(cause) => {
                end(record, now, cause);
                *at = now.monotonic;
                true
            }
        };
        if is_request && record.ownership.owner != own {
            record.ownership = taken_over(record.ownership, own);
            is_changed = true;
        }
        is_changed.then(|| {
            self.finish(&changed);
            self.note_given_up(now.monotonic, &changed);
            changed
        })
    }

    fn invited(&mut self, now: Now, clock: &mut HybridClock, seen: Observation) -> Option<Changed> {
        let Observation {
            call_id,
            h_id: Some(h_id),
            from_tag,
            what:
                Observed::Invited {
                    from_uri,
                    to_uri,
                    request_uri,
                    caller,
                },
            ..
        } = seen
        else {
            return None;
        };
        let key = DialogKey {
            call_id: call_id.into(),
            h_id,
        };
        if self.dialog(&key).is_some() {
            return None;
        }
        let stamp = clock.stamp(now, Stamp::default());
        let ownership = Ownership {
            epoch: 1,
            owner: self.own,
        };
        let record = DialogRecord {
            created: now.wall_seconds(),
            from_uri,
            to_uri,
            request_uri,
            caller: Leg {
                cseq: caller.cseq,
                stamp,
                tag: from_tag,
                contact: caller.contact,
                route_set: caller.route_set,
            },
            lifetime: Lifetime {
                stamp,
                seconds: self.config.early_lifetime.as_secs() as u32,
            },
            ..DialogRecord::new(ownership)
        };
        let at = now.monotonic + self.config.early_lifetime;
        self.insert(now.monotonic, key, record, at)
    }
}

fn side(record: &mut DialogRecord, caller: bool) -> &mut Leg {
    match caller {
        true => &mut record.caller,
        false => &mut record.callee,
    }
}

/// Learns a tag from the first request that carries it, in From or To; tells whether that was news.
fn note_tag(leg: &mut Leg, tag: &[u8]) -> bool {
    let is_new = leg.tag.is_empty() && !tag.is_empty();
    if is_new {
        leg.tag = tag.into();
    }
    is_new
}

/// Takes note of a request's CSeq; tells whether it was news.
fn count(leg: &mut Leg, stamp: Stamp, cseq: u32) -> bool {
    let is_newer = cseq > leg.cseq;
    if is_newer {
        leg.cseq = cseq;
        leg.stamp = stamp;
    }
    is_newer
}

/// Takes the callee's leg from a response that made or confirmed the dialog; tells whether it changed.
fn answered_leg(leg: &mut Leg, stamp: Stamp, tag: Text, seen: LegSeen) -> bool {
    let is_same = leg.tag == tag && leg.contact == seen.contact && leg.route_set == seen.route_set;
    if !is_same {
        *leg = Leg {
            cseq: leg.cseq,
            stamp,
            tag,
            contact: seen.contact,
            route_set: seen.route_set,
        };
    }
    !is_same
}
