//! A dialog as a cell knows it, and how two versions of it become one.
//!
//! Every field has a rule that picks one of two values by a total order, so merging is commutative,
//! associative and idempotent: nodes that have seen the same writes, in whatever order and however
//! often, hold the same record.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::clock::Stamp;

/// Bytes off the wire, of any encoding.
pub type Text = Box<[u8]>;

/// Names a dialog in its cell: its Call-ID, and the number that its creator drew for it.
///
/// Two routers that made a dialog for one Call-ID made two dialogs (docs/failover.md section 3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogKey {
    /// The Call-ID.
    pub call_id: Arc<[u8]>,
    /// Kamailio's `h_id`; never 0.
    pub h_id: u32,
}

/// Where a dialog stands, with the numbers of Kamailio's dialog module (PROTOCOL 5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DialogState {
    /// The INVITE is on its way.
    #[default]
    Unconfirmed = 1,
    /// A provisional response has passed.
    Early = 2,
    /// A 2xx has passed, its ACK has not.
    Answered = 3,
    /// The ACK has passed.
    Confirmed = 4,
    /// It is over; final.
    Ended = 5,
}

impl TryFrom<u32> for DialogState {
    type Error = u32;

    fn try_from(number: u32) -> Result<Self, u32> {
        Ok(match number {
            1 => Self::Unconfirmed,
            2 => Self::Early,
            3 => Self::Answered,
            4 => Self::Confirmed,
            5 => Self::Ended,
            _ => return Err(number),
        })
    }
}

/// The epoch of a dialog that a Kamailio node made and no router has taken over.
pub const STOCK_EPOCH: u32 = 0;

/// Who looks after a dialog: the greatest pair counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ownership {
    /// [`STOCK_EPOCH`]: made by a Kamailio node. 1: by one of us. Each takeover adds one.
    pub epoch: u32,
    /// The owner's DMQ address.
    pub owner: SocketAddr,
}

/// One side of a dialog: the higher CSeq counts, then the later write.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leg {
    /// The CSeq of its last request; 0 until there was one.
    pub cseq: u32,
    /// When that was written.
    pub stamp: Stamp,
    /// Its tag; empty while unknown.
    pub tag: Text,
    /// Its Contact URI, without brackets.
    pub contact: Text,
    /// The route set towards it: entries in brackets, separated by commas; may be empty.
    pub route_set: Text,
}

/// One dialog variable; without a value it is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable {
    /// When it was written.
    pub stamp: Stamp,
    /// Its value.
    pub value: Option<Text>,
}

/// One dialog profile that a dialog is counted in (Kamailio's `set_dlg_profile`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Profile {
    /// Its name.
    pub name: Text,
    /// Its value, for a profile with values.
    pub value: Option<Text>,
    /// Its unique id, as its writer made it.
    pub puid: Text,
    /// When it ends, seconds since 1970; 0: with the dialog.
    pub expires: u64,
    /// Kamailio's flags.
    pub flags: u32,
}

/// All profiles of a dialog: the later list counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Profiles {
    /// When it was written.
    pub stamp: Stamp,
    /// In the writer's order.
    pub list: Vec<Profile>,
}

/// How long a dialog may last, from when that was written: the later write counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lifetime {
    /// When it was written.
    pub stamp: Stamp,
    /// In seconds.
    pub seconds: u32,
}

/// Why a dialog ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// A BYE.
    Bye = 1,
    /// The INVITE was refused, or nobody answered.
    Failed = 2,
    /// The caller gave up.
    Cancelled = 3,
    /// Its lifetime was over.
    Expired = 4,
    /// Its owner died before it was answered, and nobody else heard of it; or its call went on through another router.
    OwnerLost = 5,
    /// A Kamailio node said so, which never says why.
    Told = 6,
}

impl Cause {
    /// Returns the word for it in call records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::OwnerLost => "owner lost",
            Self::Told => "told",
        }
    }
}

impl TryFrom<u32> for Cause {
    type Error = u32;

    fn try_from(number: u32) -> Result<Self, u32> {
        let all = [
            Self::Bye,
            Self::Failed,
            Self::Cancelled,
            Self::Expired,
            Self::OwnerLost,
            Self::Told,
        ];
        all.into_iter()
            .find(|cause| *cause as u32 == number)
            .ok_or(number)
    }
}

/// When and why a dialog ended: the earlier report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Seconds since 1970.
    pub at: u64,
    /// Why.
    pub cause: Cause,
}

/// The bits of Kamailio's `iflags` that its nodes take from each other (6.2): keep-alive towards the caller, and
/// towards the callee.
pub const IFLAGS: u32 = 2 | 4;

/// What a cell knows of one dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialogRecord {
    /// Where it stands: the higher counts.
    pub state: DialogState,
    /// Who looks after it.
    pub ownership: Ownership,
    /// When its INVITE came, seconds since 1970: the earlier counts.
    pub created: u64,
    /// When its 2xx came, seconds since 1970; 0: it has not. The earlier counts.
    pub answered: u64,
    /// The URI of From of the INVITE.
    pub from_uri: Text,
    /// The URI of To of the INVITE.
    pub to_uri: Text,
    /// The Request-URI of the INVITE.
    pub request_uri: Text,
    /// Who called.
    pub caller: Leg,
    /// Who was called.
    pub callee: Leg,
    /// Its variables by name, deleted ones included.
    pub variables: BTreeMap<Text, Variable>,
    /// The profiles that it is counted in.
    pub profiles: Profiles,
    /// How long it may last.
    pub lifetime: Lifetime,
    /// Of Kamailio's `iflags` those that its nodes take from each other, [`IFLAGS`]: all that were ever told.
    pub iflags: u32,
    /// Set when it is over.
    pub end: Option<End>,
}

impl DialogRecord {
    /// Returns an empty record: merging it into another changes nothing but what it is given after.
    #[must_use]
    pub fn new(ownership: Ownership) -> Self {
        Self {
            state: DialogState::default(),
            ownership,
            created: 0,
            answered: 0,
            from_uri: Text::default(),
            to_uri: Text::default(),
            request_uri: Text::default(),
            caller: Leg::default(),
            callee: Leg::default(),
            variables: BTreeMap::new(),
            profiles: Profiles::default(),
            lifetime: Lifetime::default(),
            iflags: 0,
            end: None,
        }
    }

    /// Tells whether it is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.state == DialogState::Ended
    }

    /// Takes from `other` what counts more; tells whether anything changed.
    pub fn merge(&mut self, other: Self) -> bool {
        let mut changed = false;
        changed |= raise(&mut self.state, other.state);
        changed |= raise(&mut self.ownership, other.ownership);
        changed |= earlier(&mut self.created, other.created);
        changed |= earlier(&mut self.answered, other.answered);
        changed |= raise(&mut self.from_uri, other.from_uri);
        changed |= raise(&mut self.to_uri, other.to_uri);
        changed |= raise(&mut self.request_uri, other.request_uri);
        changed |= raise(&mut self.caller, other.caller);
        changed |= raise(&mut self.callee, other.callee);
        for (name, variable) in other.variables {
            match self.variables.get_mut(&name) {
                Some(own) => changed |= raise(own, variable),
                None => changed |= self.variables.insert(name, variable).is_none(),
            }
        }
        changed |= raise(&mut self.profiles, other.profiles);
        changed |= raise(&mut self.lifetime, other.lifetime);
        let iflags = self.iflags | other.iflags;
        changed |= raise(&mut self.iflags, iflags);
        if let Some(end) = other.end
            && self.end.is_none_or(|own| end < own)
        {
            self.end = Some(end);
            changed = true;
        }
        changed
    }

    /// Returns the greatest stamp in it.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let variables = self.variables.values().map(|variable| variable.stamp);
        let fixed = [
            self.caller.stamp,
            self.callee.stamp,
            self.profiles.stamp,
            self.lifetime.stamp,
        ];
        variables.chain(fixed).max().unwrap_or_default()
    }

    /// Returns the hash of key and content under the cell's key: what two nodes must agree on.
    ///
    /// Stamps are not in it (two nodes that heard a Kamailio node stamp its word differently), nor is
    /// what lies in the past of a dialog that goes on.
    #[must_use]
    pub fn hash(&self, key: &DialogKey, cell_key: &[u8; 16]) -> u128 {
        let mut hasher = Canonical(SipHasher24::new_with_key(cell_key));
        hasher.number(CANONICAL);
        hasher.text(&key.call_id);
        hasher.number(u64::from(key.h_id));
        hasher.number(self.state as u64);
        hasher.number(u64::from(self.ownership.epoch));
        hasher.text(self.ownership.owner.to_string().as_bytes());
        hasher.number(self.created);
        hasher.number(self.answered);
        for text in [&self.from_uri, &self.to_uri, &self.request_uri] {
            hasher.text(text);
        }
        for leg in [&self.caller, &self.callee] {
            hasher.number(u64::from(leg.cseq));
            for text in [&leg.tag, &leg.contact, &leg.route_set] {
                hasher.text(text);
            }
        }
        for (name, variable) in &self.variables {
            if let Some(value) = &variable.value {
                hasher.text(name);
                hasher.text(value);
            }
        }
        hasher.number(self.profiles.list.len() as u64);
        for profile in &self.profiles.list {
            hasher.text(&profile.name);
            hasher.text(profile.value.as_deref().unwrap_or_default());
            hasher.text(&profile.puid);
            hasher.number(profile.expires);
            hasher.number(u64::from(profile.flags));
        }
        hasher.number(u64::from(self.lifetime.seconds));
        hasher.number(u64::from(self.iflags));
        hasher.0.finish128().as_u128()
    }

    /// Returns the id of its call record: the same from whichever node writes it, so that readers
    /// can drop repeats.
    #[must_use]
    pub fn record_id(&self, key: &DialogKey) -> u128 {
        let mut hasher = Canonical(SipHasher24::new());
        hasher.text(&key.call_id);
        hasher.number(u64::from(key.h_id));
        hasher.text(&self.caller.tag);
        hasher.0.finish128().as_u128()
    }
}

/// The version of the canonical encoding below: nodes of another version differ in every digest.
const CANONICAL: u64 = 2;

/// Feeds values to a hash so that no two different sequences look alike.
struct Canonical(SipHasher24);

impl Canonical {
    fn number(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.write(text);
    }
}

/// Takes the greater of two; tells whether that is the other.
pub(crate) fn raise<T: Ord>(own: &mut T, other: T) -> bool {
    let higher = other > *own;
    if higher {
        *own = other;
    }
    higher
}

/// Takes the earlier of two moments; 0 is none yet.
fn earlier(own: &mut u64, other: u64) -> bool {
    let is_earlier = other != 0 && (*own == 0 || other < *own);
    if is_earlier {
        *own = other;
    }
    is_earlier
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Text> {
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Into::into)
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        (0..4u64, 0..3u64).prop_map(|(clock, node)| Stamp { clock, node })
    }

    fn leg() -> impl Strategy<Value = Leg> {
        (0..3u32, stamp(), text(), text(), text()).prop_map(
            |(cseq, stamp, tag, contact, route_set)| Leg {
                cseq,
                stamp,
                tag,
                contact,
                route_set,
            },
        )
    }

    fn variables() -> impl Strategy<Value = BTreeMap<Text, Variable>> {
        let variable = (stamp(), prop::option::of(text()))
            .prop_map(|(stamp, value)| Variable { stamp, value });
        prop::collection::btree_map(text(), variable, 0..4)
    }

    fn end() -> impl Strategy<Value = Option<End>> {
        let end = (0..3u64, 1..7u32).prop_map(|(at, cause)| End {
            at,
            cause: cause.try_into().unwrap(),
        });
        prop::option::of(end)
    }

    prop_compose! {
        fn record()(
            state in 1..6u32,
            epoch in 0..3u32,
            port in 0..3u16,
            (created, answered) in (0..3u64, 0..3u64),
            uris in (text(), text(), text()),
            (caller, callee) in (leg(), leg()),
            variables in variables(),
            (profiles, lifetime) in (stamp(), (stamp(), 0..3u32)),
            iflags in 0..8u32,
            end in end(),
        ) -> DialogRecord {
            DialogRecord {
                state: state.try_into().unwrap(),
                ownership: Ownership { epoch, owner: ([127, 0, 0, 1], port).into() },
                created,
                answered,
                from_uri: uris.0,
                to_uri: uris.1,
                request_uri: uris.2,
                caller,
                callee,
                variables,
                profiles: Profiles { stamp: profiles, list: vec![] },
                lifetime: Lifetime { stamp: lifetime.0, seconds: lifetime.1 },
                iflags: iflags & IFLAGS,
                end,
            }
        }
    }

    fn merged(a: &DialogRecord, b: &DialogRecord) -> DialogRecord {
        let mut merged = a.clone();
        merged.merge(b.clone());
        merged
    }

    proptest! {
        #[test]
        fn merging_is_commutative(a in record(), b in record()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        }

        #[test]
        fn merging_is_associative(a in record(), b in record(), c in record()) {
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn merging_is_idempotent_and_says_so(a in record(), b in record()) {
            let mut once = merged(&a, &b);
            prop_assert!(!once.clone().merge(once.clone()));
            prop_assert!(!once.merge(b));
        }

        #[test]
        fn merge_says_whether_something_changed(a in record(), b in record()) {
            let mut after = a.clone();
            let changed = after.merge(b);
            prop_assert_eq!(changed, after != a);
        }

        #[test]
        fn ended_is_absorbing(a in record(), b in record()) {
            let ended = DialogRecord { state: DialogState::Ended, ..a };
            prop_assert!(merged(&ended, &b).is_ended() && merged(&b, &ended).is_ended());
        }
    }

    #[test]
    fn the_hash_sees_content_and_no_stamp() {
        let key = DialogKey {
            call_id: (*b"a").into(),
            h_id: 7,
        };
        let owner = Ownership {
            epoch: 1,
            owner: ([127, 0, 0, 1], 5062).into(),
        };
        let record = DialogRecord::new(owner);
        let mut stamped = record.clone();
        stamped.caller.stamp.clock = 9;
        assert_eq!(record.hash(&key, &[0; 16]), stamped.hash(&key, &[0; 16]));
        stamped.caller.cseq = 1;
        assert_ne!(record.hash(&key, &[0; 16]), stamped.hash(&key, &[0; 16]));
        assert_ne!(record.hash(&key, &[0; 16]), record.hash(&key, &[1; 16]));
    }
}
