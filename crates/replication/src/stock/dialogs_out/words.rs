//! How Kamailio nodes are told of a dialog: its record in the words of their channel `dialog`.
//!
//! Beside them hashes of what is told again when it changes. Not here: what is told when, and the bytes that
//! the words become, which are those of `dmq_bodies`. Source: PROTOCOL 5.

use std::hash::Hasher;

use bytes::Bytes;
use dmq_bodies::{
    Change as StateTold, DialogDialect, DialogMessage, DialogState as WireState, Did,
    Leg as WireLeg, Profile as WireProfile, Remove, StateChange, Timing, Update,
};
use siphasher::sip::SipHasher24;

use super::Step;
use crate::record::{DialogKey, DialogRecord, DialogState, Leg, Profile, Text};

/// Writes a message; `None` when it would be too long.
pub(super) fn body_of(
    step: Step,
    key: &DialogKey,
    record: Option<&DialogRecord>,
    did: Did,
    last_modified: Option<u64>,
    with_iflags: bool,
) -> Option<Bytes> {
    let message = match (step, record) {
        (Step::Remove, _) => DialogMessage::Remove(Remove { did, last_modified }),
        (Step::Update | Step::EndWhole, Some(record)) => {
            let mut update = update(key, record, did, last_modified);
            update.iflags = Some(record.iflags).filter(|_| with_iflags);
            if step == Step::EndWhole {
                // Of no use there any more, and an end must never be too long.
                update.variables.clear();
                update.profiles.clear();
            }
            DialogMessage::Update(Box::new(update))
        }
        (Step::State, Some(record)) => DialogMessage::State(Box::new(StateChange {
            did,
            last_modified,
            change: state_told(record),
        })),
        (Step::End, _) | (Step::EndWhole | Step::Update | Step::State, None) => {
            DialogMessage::State(Box::new(StateChange {
                did,
                last_modified,
                change: StateTold::Deleted,
            }))
        }
    };
    let dialect = DialogDialect {
        last_modified: last_modified.is_some(),
    };
    message.encode(dialect).ok()
}

fn update(key: &DialogKey, record: &DialogRecord, did: Did, last_modified: Option<u64>) -> Update {
    let variables = record.variables.iter();
    Update {
        did,
        last_modified,
        init_ts: record.created,
        iflags: None,
        call_id: Bytes::copy_from_slice(&key.call_id),
        from_uri: bytes(&record.from_uri),
        to_uri: bytes(&record.to_uri),
        request_uri: bytes(&record.request_uri),
        caller: leg(&record.caller),
        callee: named(&record.callee),
        variables: variables
            .filter_map(|(name, variable)| Some((bytes(name), bytes(variable.value.as_ref()?))))
            .collect(),
        profiles: record.profiles.list.iter().map(profile).collect(),
        state: shown_state(record.state),
        timing: timing(record),
    }
}

fn state_told(record: &DialogRecord) -> StateTold {
    let (timing, caller) = (timing(record), named(&record.caller));
    match shown_state(record.state) {
        WireState::Confirmed => StateTold::Confirmed {
            timing,
            caller,
            callee: named(&record.callee),
        },
        WireState::Deleted => StateTold::Deleted,
        WireState::Unconfirmed | WireState::Early | WireState::ConfirmedNoAck => {
            StateTold::Early { timing, caller }
        }
    }
}

/// Returns the state as nodes are told it: that a 2xx has passed they are told with its ACK.
pub(super) fn shown_state(state: DialogState) -> WireState {
    match state {
        DialogState::Unconfirmed => WireState::Unconfirmed,
        DialogState::Early | DialogState::Answered => WireState::Early,
        DialogState::Confirmed => WireState::Confirmed,
        DialogState::Ended => WireState::Deleted,
    }
}

fn timing(record: &DialogRecord) -> Timing {
    Timing {
        // Nodes read a time of answer as that of an answered dialog.
        start_ts: Some(record.answered)
            .filter(|at| *at != 0 && shown_state(record.state) == WireState::Confirmed),
        lifetime: Some(record.lifetime.seconds),
    }
}

fn named(known: &Leg) -> Option<WireLeg> {
    (!known.tag.is_empty()).then(|| leg(known))
}

fn leg(leg: &Leg) -> WireLeg {
    WireLeg {
        tag: bytes(&leg.tag),
        cseq: leg.cseq.to_string().into(),
        route_set: bytes(&leg.route_set),
        contact: bytes(&leg.contact),
    }
}

fn profile(profile: &Profile) -> WireProfile {
    WireProfile {
        name: bytes(&profile.name),
        value: profile.value.as_ref().map(bytes),
        puid: bytes(&profile.puid),
        expires: Some(profile.expires).filter(|at| *at != 0),
        flags: profile.flags,
    }
}

fn bytes(text: &Text) -> Bytes {
    Bytes::copy_from_slice(text)
}

/// Returns a hash of what the legs are, CSeq left out: every request in the dialog raises that.
pub(super) fn legs_hash(record: &DialogRecord) -> u64 {
    let mut hasher = SipHasher24::new();
    for leg in [&record.caller, &record.callee] {
        for text in [&leg.tag, &leg.contact, &leg.route_set] {
            feed(&mut hasher, text);
        }
    }
    hasher.finish()
}

/// Returns a hash of variables and profiles.
pub(super) fn extras_hash(record: &DialogRecord) -> u64 {
    let mut hasher = SipHasher24::new();
    for (name, variable) in &record.variables {
        if let Some(value) = &variable.value {
            feed(&mut hasher, name);
            feed(&mut hasher, value);
        }
    }
    for profile in &record.profiles.list {
        hasher.write_u8(1);
        for text in [&profile.name, &profile.puid] {
            feed(&mut hasher, text);
        }
        feed(&mut hasher, profile.value.as_deref().unwrap_or_default());
        hasher.write(&profile.expires.to_le_bytes());
        hasher.write(&profile.flags.to_le_bytes());
    }
    hasher.finish()
}

fn feed(hasher: &mut SipHasher24, text: &[u8]) {
    hasher.write(&(text.len() as u64).to_le_bytes());
    hasher.write(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Ownership, STOCK_EPOCH, Variable};

    const DID: Did = Did {
        h_entry: 1,
        h_id: 7,
    };

    fn record(state: DialogState) -> DialogRecord {
        let ownership = Ownership {
            epoch: STOCK_EPOCH,
            owner: ([10, 0, 0, 1], 5060).into(),
        };
        let mut record = DialogRecord::new(ownership);
        record.state = state;
        record.answered = 1_795_421_917;
        record.caller.tag = (*b"a").into();
        record.callee.tag = (*b"b").into();
        record.iflags = 2;
        record.profiles.list.push(Profile::default());
        for (name, value) in [("gone", None), ("kept", Some((*b"1").into()))] {
            let variable = Variable {
                value,
                ..Variable::default()
            };
            record.variables.insert(name.as_bytes().into(), variable);
        }
        record
    }

    fn told(step: Step, record: Option<&DialogRecord>, with_iflags: bool) -> DialogMessage {
        let key = DialogKey {
            call_id: (*b"call").into(),
            h_id: DID.h_id,
        };
        let body = body_of(step, &key, record, DID, None, with_iflags).unwrap();
        DialogMessage::decode(&body).unwrap()
    }

    fn told_whole(step: Step, record: &DialogRecord, with_iflags: bool) -> Update {
        let told = told(step, Some(record), with_iflags);
        let DialogMessage::Update(update) = told else {
            panic!("{told:?}");
        };
        *update
    }

    fn told_state(step: Step, record: Option<&DialogRecord>) -> StateTold {
        let told = told(step, record, false);
        let DialogMessage::State(state) = told else {
            panic!("{told:?}");
        };
        state.change
    }

    #[test]
    fn that_a_2xx_has_passed_is_told_with_its_ack() {
        let answered = record(DialogState::Answered);
        let update = told_whole(Step::Update, &answered, false);
        assert_eq!(update.state, WireState::Early);
        assert_eq!(update.timing.start_ts, None);
        let state = told_state(Step::State, Some(&answered));
        assert!(matches!(state, StateTold::Early { .. }), "{state:?}");

        let confirmed = record(DialogState::Confirmed);
        let update = told_whole(Step::Update, &confirmed, false);
        assert_eq!(update.state, WireState::Confirmed);
        assert_eq!(update.timing.start_ts, Some(confirmed.answered));
        let state = told_state(Step::State, Some(&confirmed));
        assert!(matches!(state, StateTold::Confirmed { .. }), "{state:?}");
    }

    #[test]
    fn iflags_are_told_only_to_who_knows_them() {
        let record = record(DialogState::Early);
        let told = |with_iflags| told_whole(Step::Update, &record, with_iflags).iflags;
        assert_eq!((told(false), told(true)), (None, Some(2)));
    }

    #[test]
    fn a_deleted_variable_is_not_told_and_makes_no_difference() {
        let mut record = record(DialogState::Early);
        let update = told_whole(Step::Update, &record, false);
        let kept = (Bytes::from_static(b"kept"), Bytes::from_static(b"1"));
        assert_eq!(update.variables, [kept]);
        assert_eq!(update.profiles.len(), 1);

        let with_deleted = extras_hash(&record);
        record.variables.remove(&b"gone"[..]);
        assert_eq!(extras_hash(&record), with_deleted);
        record.profiles.list.clear();
        assert_ne!(extras_hash(&record), with_deleted);
    }

    #[test]
    fn an_end_told_whole_leaves_out_what_could_make_it_too_long() {
        let update = told_whole(Step::EndWhole, &record(DialogState::Ended), false);
        assert_eq!(update.state, WireState::Deleted);
        assert_eq!((update.variables.len(), update.profiles.len()), (0, 0));
    }

    #[test]
    fn the_end_of_a_dialog_is_told_without_a_record_of_it() {
        assert_eq!(told_state(Step::End, None), StateTold::Deleted);
        let removed = Remove {
            did: DID,
            last_modified: None,
        };
        assert_eq!(
            told(Step::Remove, None, false),
            DialogMessage::Remove(removed)
        );
    }

    #[test]
    fn a_request_in_the_dialog_moves_no_leg_and_a_contact_does() {
        let mut record = record(DialogState::Confirmed);
        let before = legs_hash(&record);
        record.caller.cseq += 1;
        assert_eq!(legs_hash(&record), before);
        record.callee.contact = (*b"sip:bob@10.9.0.2").into();
        assert_ne!(legs_hash(&record), before);
    }
}
