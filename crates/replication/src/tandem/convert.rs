//! From what a replica holds to what is said of it, and back: the one place that says what is good.
//!
//! What comes in has passed here before anything of it counts. Nothing here refuses what another node
//! may rightly hold: long texts, odd bytes and unknown tables are the replica's matter.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use htable::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use prost::Message;

use super::messages as wire;
use crate::change::{Key, Record};
use crate::clock::Stamp;
use crate::entries::{EntryKey, EntryRecord, Write};
use crate::record::{
    DialogKey, DialogRecord, End, IFLAGS, Leg, Lifetime, Ownership, Profile, Profiles, Text,
    Variable,
};

/// The longest time that something lasts from now; what lasts longer is said to last so long.
pub const REMAINING_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Something that every record has is missing.
    #[error("something is missing")]
    Missing,
    /// A number that means nothing.
    #[error("a number means nothing")]
    Number,
    /// Address and port have another length.
    #[error("the owner is no address")]
    Owner,
    /// The name of a table or a key in it is empty or too long.
    #[error("the key of an entry is empty or too long")]
    Key,
    /// It lasts longer than [`REMAINING_MAX`].
    #[error("it lasts too long")]
    Remaining,
}

/// Returns how many bytes a record takes that is told, its key included; `None` when it is of another
/// kind than its key.
#[must_use]
pub fn record_bytes(key: &Key, record: Record) -> Option<usize> {
    to_wire(key, record).map(|record| record.encoded_len())
}

/// Returns what is said of a record.
pub(crate) fn to_wire(key: &Key, record: Record) -> Option<wire::Record> {
    let what = match (key, record) {
        (Key::Dialog(key), Record::Dialog(record, remaining)) => {
            wire::What::Dialog(Box::new(dialog_to_wire(key, *record, remaining)))
        }
        (Key::Entry(key), Record::Entry(record)) => wire::What::Entry(entry_to_wire(key, record)),
        (Key::Dialog(_), Record::Entry(_)) | (Key::Entry(_), Record::Dialog(..)) => return None,
    };
    Some(wire::Record { what: Some(what) })
}

/// Reads a record.
pub(crate) fn from_wire(record: wire::Record) -> Result<(Key, Record), RecordError> {
    match record.what.ok_or(RecordError::Missing)? {
        wire::What::Dialog(dialog) => dialog_from_wire(*dialog),
        wire::What::Entry(entry) => entry_from_wire(entry),
    }
}

fn dialog_to_wire(key: &DialogKey, record: DialogRecord, remaining: Duration) -> wire::Dialog {
    let variables = record.variables.into_iter().map(|(name, variable)| {
        let Variable { stamp, value } = variable;
        wire::Variable {
            name: name.into(),
            stamp: stamp_to_wire(stamp),
            value: value.map(Into::into),
        }
    });
    let profiles = record
        .profiles
        .list
        .into_iter()
        .map(|profile| wire::Profile {
            name: profile.name.into(),
            value: profile.value.map(Into::into),
            puid: profile.puid.into(),
            expires: profile.expires,
            flags: profile.flags,
        });
    wire::Dialog {
        call_id: key.call_id.to_vec(),
        h_id: key.h_id,
        state: record.state as u32,
        epoch: record.ownership.epoch,
        owner: address_to_wire(record.ownership.owner),
        created: record.created,
        answered: record.answered,
        from_uri: record.from_uri.into(),
        to_uri: record.to_uri.into(),
        request_uri: record.request_uri.into(),
        caller: leg_to_wire(record.caller),
        callee: leg_to_wire(record.callee),
        variables: variables.collect(),
        profiles: profiles.collect(),
        profiles_stamp: stamp_to_wire(record.profiles.stamp),
        lifetime_stamp: stamp_to_wire(record.lifetime.stamp),
        lifetime_seconds: record.lifetime.seconds,
        remaining_ms: remaining_to_wire(remaining),
        end: record.end.map(|end| wire::End {
            at: end.at,
            cause: end.cause as u32,
        }),
        iflags: record.iflags,
    }
}

fn dialog_from_wire(dialog: wire::Dialog) -> Result<(Key, Record), RecordError> {
    if dialog.call_id.is_empty() || dialog.h_id == 0 {
        return Err(RecordError::Missing);
    }
    let variables: BTreeMap<Text, Variable> = dialog
        .variables
        .into_iter()
        .map(|variable| {
            let value = Variable {
                stamp: stamp_from_wire(variable.stamp),
                value: variable.value.map(Into::into),
            };
            (variable.name.into(), value)
        })
        .collect();
    let profiles = dialog.profiles.into_iter().map(|profile| Profile {
        name: profile.name.into(),
        value: profile.value.map(Into::into),
        puid: profile.puid.into(),
        expires: profile.expires,
        flags: profile.flags,
    });
    let end = match dialog.end {
        None => None,
        Some(end) => Some(End {
            at: end.at,
            cause: end.cause.try_into().map_err(|_| RecordError::Number)?,
        }),
    };
    let record = DialogRecord {
        state: dialog.state.try_into().map_err(|_| RecordError::Number)?,
        ownership: Ownership {
            epoch: dialog.epoch,
            owner: address_from_wire(&dialog.owner)?,
        },
        created: dialog.created,
        answered: dialog.answered,
        from_uri: dialog.from_uri.into(),
        to_uri: dialog.to_uri.into(),
        request_uri: dialog.request_uri.into(),
        caller: leg_from_wire(dialog.caller.unwrap_or_default()),
        callee: leg_from_wire(dialog.callee.unwrap_or_default()),
        variables,
        profiles: Profiles {
            stamp: stamp_from_wire(dialog.profiles_stamp),
            list: profiles.collect(),
        },
        lifetime: Lifetime {
            stamp: stamp_from_wire(dialog.lifetime_stamp),
            seconds: dialog.lifetime_seconds,
        },
        iflags: dialog.iflags & IFLAGS,
        end,
    };
    let key = DialogKey {
        call_id: dialog.call_id.into(),
        h_id: dialog.h_id,
    };
    let remaining = remaining_from_wire(dialog.remaining_ms)?;
    Ok((
        Key::Dialog(key),
        Record::Dialog(Box::new(record), remaining),
    ))
}

fn entry_to_wire(key: &EntryKey, record: EntryRecord) -> wire::Entry {
    wire::Entry {
        table: key.table.to_vec(),
        key: key.key.to_vec(),
        stamp: stamp_to_wire(record.write.stamp),
        mark: record.write.mark,
        value: record.value.map(|value| match value {
            htable::Value::Int(number) => wire::Value::Int(number.into()),
            htable::Value::Text(text) => wire::Value::Text(text.to_vec()),
        }),
        remaining_ms: record.remaining.map(remaining_to_wire),
        gone_hash: record.gone_hash,
        shown: record.write.shown,
    }
}

fn entry_from_wire(entry: wire::Entry) -> Result<(Key, Record), RecordError> {
    let is_named = (1..=NAME_BYTES_MAX).contains(&entry.table.len());
    if !is_named || entry.key.len() > KEY_BYTES_MAX {
        return Err(RecordError::Key);
    }
    let value = match entry.value {
        None => None,
        Some(wire::Value::Int(number)) => Some(htable::Value::Int(
            number.try_into().map_err(|_| RecordError::Number)?,
        )),
        Some(wire::Value::Text(text)) => Some(htable::Value::Text(text.into())),
    };
    let remaining = entry.remaining_ms.map(remaining_from_wire).transpose()?;
    let key = EntryKey {
        table: entry.table.into(),
        key: entry.key.into(),
    };
    let record = EntryRecord {
        value,
        write: Write {
            stamp: stamp_from_wire(entry.stamp),
            mark: entry.mark,
            shown: entry.shown,
        },
        remaining,
        gone_hash: entry.gone_hash,
    };
    Ok((Key::Entry(key), Record::Entry(record)))
}

fn leg_to_wire(leg: Leg) -> Option<wire::Leg> {
    Some(wire::Leg {
        cseq: leg.cseq,
        stamp: stamp_to_wire(leg.stamp),
        tag: leg.tag.into(),
        contact: leg.contact.into(),
        route_set: leg.route_set.into(),
    })
}

fn leg_from_wire(leg: wire::Leg) -> Leg {
    Leg {
        cseq: leg.cseq,
        stamp: stamp_from_wire(leg.stamp),
        tag: leg.tag.into(),
        contact: leg.contact.into(),
        route_set: leg.route_set.into(),
    }
}

fn stamp_to_wire(stamp: Stamp) -> Option<wire::Stamp> {
    (stamp != Stamp::default()).then_some(wire::Stamp {
        clock: stamp.clock,
        node: stamp.node,
    })
}

fn stamp_from_wire(stamp: Option<wire::Stamp>) -> Stamp {
    let stamp = stamp.unwrap_or_default();
    Stamp {
        clock: stamp.clock,
        node: stamp.node,
    }
}

fn address_to_wire(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend(address.port().to_be_bytes());
    bytes
}

fn address_from_wire(bytes: &[u8]) -> Result<SocketAddr, RecordError> {
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or(RecordError::Owner)?;
    let ip = match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
        (Ok(ip), _) => IpAddr::from(ip),
        (_, Ok(ip)) => IpAddr::from(ip),
        _ => return Err(RecordError::Owner),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

fn remaining_to_wire(remaining: Duration) -> u64 {
    remaining.min(REMAINING_MAX).as_millis() as u64
}

fn remaining_from_wire(milliseconds: u64) -> Result<Duration, RecordError> {
    let remaining = Duration::from_millis(milliseconds);
    (remaining <= REMAINING_MAX)
        .then_some(remaining)
        .ok_or(RecordError::Remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cause, DialogState};

    fn stamp(clock: u64) -> Stamp {
        Stamp { clock, node: 7 }
    }

    fn dialog() -> (Key, Record) {
        let owner = Ownership {
            epoch: 3,
            owner: "[2001:db8::1]:5062".parse().unwrap(),
        };
        let leg = |cseq| Leg {
            cseq,
            stamp: stamp(1 << 60),
            tag: (*b"tag").into(),
            contact: (*b"sip:a@192.0.2.1").into(),
            route_set: (*b"<sip:192.0.2.2;lr>").into(),
        };
        let deleted = Variable {
            stamp: stamp(3),
            value: None,
        };
        let set = Variable {
            stamp: stamp(4),
            value: Some((*b"\xff\0").into()),
        };
        let profile = Profile {
            name: (*b"calls").into(),
            value: None,
            puid: (*b"p").into(),
            expires: 9,
            flags: 2,
        };
        let record = DialogRecord {
            state: DialogState::Ended,
            created: 5,
            answered: 6,
            from_uri: (*b"sip:a").into(),
            to_uri: (*b"sip:b").into(),
            request_uri: (*b"sip:c").into(),
            caller: leg(1),
            callee: leg(0),
            variables: [((*b"x").into(), deleted), ((*b"y").into(), set)].into(),
            profiles: Profiles {
                stamp: stamp(5),
                list: vec![profile],
            },
            lifetime: Lifetime {
                stamp: stamp(6),
                seconds: 10_800,
            },
            iflags: 2,
            end: Some(End {
                at: 7,
                cause: Cause::Expired,
            }),
            ..DialogRecord::new(owner)
        };
        let key = DialogKey {
            call_id: (*b"a@b").into(),
            h_id: 0x8000_0001,
        };
        let remaining = Duration::from_millis(1234);
        (
            Key::Dialog(key),
            Record::Dialog(Box::new(record), remaining),
        )
    }

    fn entry(value: Option<htable::Value>, remaining: Option<Duration>) -> (Key, Record) {
        let key = EntryKey {
            table: "t".into(),
            key: "k".into(),
        };
        let write = Write {
            stamp: stamp(8),
            mark: 9,
            shown: 10,
        };
        let record = EntryRecord {
            value,
            write,
            remaining,
            gone_hash: 11,
        };
        (Key::Entry(key), Record::Entry(record))
    }

    #[test]
    fn a_record_comes_back_whole() {
        let text = htable::Value::Text((*b"\xff").to_vec().into());
        let second = Duration::from_secs(1);
        for (key, record) in [
            dialog(),
            entry(Some(htable::Value::Int(-1)), None),
            entry(Some(text), Some(second)),
            entry(None, None),
        ] {
            let wire = to_wire(&key, record.clone()).unwrap();
            let bytes = wire.encode_to_vec();
            assert_eq!(record_bytes(&key, record.clone()), Some(bytes.len()));
            let read = from_wire(wire::Record::decode(&bytes[..]).unwrap());
            assert_eq!(read, Ok((key, record)));
        }
    }

    #[test]
    fn what_lasts_for_ever_is_said_to_last_ten_years() {
        let int = Some(htable::Value::Int(1));
        let (key, record) = entry(int.clone(), Some(Duration::MAX));
        let (_, read) = from_wire(to_wire(&key, record).unwrap()).unwrap();
        assert_eq!(read, entry(int, Some(REMAINING_MAX)).1);
    }

    #[test]
    fn a_bad_record_is_refused_for_its_reason() {
        type Spoil = fn(&mut wire::Dialog);
        let spoils: [(Spoil, RecordError); 8] = [
            (|dialog| dialog.call_id.clear(), RecordError::Missing),
            (|dialog| dialog.h_id = 0, RecordError::Missing),
            (|dialog| dialog.state = 0, RecordError::Number),
            (|dialog| dialog.state = 6, RecordError::Number),
            (
                |dialog| dialog.end.as_mut().unwrap().cause = 0,
                RecordError::Number,
            ),
            (|dialog| dialog.owner.truncate(5), RecordError::Owner),
            (|dialog| dialog.owner.clear(), RecordError::Owner),
            (
                |dialog| dialog.remaining_ms = u64::MAX,
                RecordError::Remaining,
            ),
        ];
        for (spoil, error) in spoils {
            let (key, record) = dialog();
            let mut wire = to_wire(&key, record).unwrap();
            let Some(wire::What::Dialog(dialog)) = &mut wire.what else {
                unreachable!()
            };
            spoil(dialog);
            assert_eq!(from_wire(wire), Err(error));
        }
        let nothing = wire::Record { what: None };
        assert_eq!(from_wire(nothing), Err(RecordError::Missing));
        let nameless = wire::Entry::default();
        let nameless = wire::Record {
            what: Some(wire::What::Entry(nameless)),
        };
        assert_eq!(from_wire(nameless), Err(RecordError::Key));
    }
}
