//! Channel `dialog`: a dialog is told whole, changes its state, or is gone.
//!
//! Written is what every version takes: all strings present, all times present, no field twice and
//! none of our own. Read is what any version writes. Source: Kamailio dialog, dlg_dmq.c, as seen in
//! captures of 5.3.9, 5.6.3, 6.1.4 and 6.2.

use bytes::Bytes;

use crate::identity::Did;
use crate::json::{Json, Object, Writer};
use crate::{DecodeError, EncodeError};

/// What a receiver understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DialogDialect {
    /// Whether to write `last_modified`. Safe towards all; useful once one node has shown it (6.2).
    pub last_modified: bool,
}

/// The states of a dialog, by their numbers on the wire. They only rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DialogState {
    /// The INVITE was forwarded.
    Unconfirmed = 1,
    /// A provisional response was seen.
    Early = 2,
    /// A 2xx was seen, its ACK not yet. Never announced by a STATE.
    ConfirmedNoAck = 3,
    /// The ACK was seen.
    Confirmed = 4,
    /// BYE, CANCEL, final error, or the lifetime is over.
    Deleted = 5,
}

/// One side of a dialog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// The tag.
    pub tag: Bytes,
    /// The CSeq number of the last request from this side, in digits; `0` before there was one.
    pub cseq: Bytes,
    /// The route set for requests towards this side, comma separated, with angle brackets.
    pub route_set: Bytes,
    /// The URI of the Contact, without brackets.
    pub contact: Bytes,
}

/// A profile that a dialog counts in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name.
    pub name: Bytes,
    /// The value, if it is a profile with values.
    pub value: Option<Bytes>,
    /// What names this membership on all nodes.
    pub puid: Bytes,
    /// When the membership ends, in UNIX seconds.
    pub expires: Option<u64>,
    /// Kamailio's internal flags.
    pub flags: u32,
}

/// When a dialog was answered and how long it may last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// When the 2xx was seen, in UNIX seconds; `None` before.
    pub start_ts: Option<u64>,
    /// The whole allowed duration in seconds, which a receiver counts from receipt. `None`: not told;
    /// written as 0, which versions before 6.1.4 take for the duration, so a sender should tell it.
    pub lifetime: Option<u32>,
}

/// A dialog with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The name of the dialog.
    pub did: Did,
    /// When the sender last changed it, in UNIX seconds.
    pub last_modified: Option<u64>,
    /// When it was created, in UNIX seconds; 0 if the sender does not say, which it always should.
    pub init_ts: u64,
    /// Kamailio's internal flags (6.2): 2 and 4 ask for keep-alives to caller and callee.
    pub iflags: Option<u32>,
    /// The Call-ID.
    pub call_id: Bytes,
    /// The URI of From in the initial INVITE.
    pub from_uri: Bytes,
    /// The URI of To in the initial INVITE.
    pub to_uri: Bytes,
    /// The Request-URI.
    pub request_uri: Bytes,
    /// The caller's side.
    pub caller: Leg,
    /// The callee's side. Travels in state [`Confirmed`](DialogState::Confirmed) only.
    pub callee: Option<Leg>,
    /// The variables, each once.
    pub variables: Vec<(Bytes, Bytes)>,
    /// The profiles.
    pub profiles: Vec<Profile>,
    /// The state.
    pub state: DialogState,
    /// Its times.
    pub timing: Timing,
}

/// A dialog whose state has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The name of the dialog.
    pub did: Did,
    /// When the sender last changed it, in UNIX seconds.
    pub last_modified: Option<u64>,
    /// The new state with what it brings.
    pub change: Change,
}

/// The states that are announced by themselves.
///
/// A leg is `None` if its tag is not told or empty; it is written with empty strings, with which
/// versions before 6.1.4 overwrite what they know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A provisional response was seen.
    Early {
        /// The times.
        timing: Timing,
        /// The caller's side.
        caller: Option<Leg>,
    },
    /// The ACK was seen; or, told again, leg data has changed.
    Confirmed {
        /// The times.
        timing: Timing,
        /// The caller's side.
        caller: Option<Leg>,
        /// The callee's side.
        callee: Option<Leg>,
    },
    /// The dialog has ended.
    Deleted,
}

/// A dialog that the sender has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remove {
    /// The name of the dialog.
    pub did: Did,
    /// When the sender last changed it, in UNIX seconds.
    pub last_modified: Option<u64>,
}

/// A message of channel `dialog`.
///
/// Numbers of 64 bits travel as doubles: they are exact below 2^53.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialogMessage {
    /// Nothing; answered with 200.
    None,
    /// The whole dialog.
    Update(Box<Update>),
    /// Its state.
    State(Box<StateChange>),
    /// Its end.
    Remove(Remove),
    /// A request for all dialogs.
    Sync,
}

impl DialogMessage {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The body is no message; [`DecodeError::status`] is the answer.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let object = Object::read(body)?;
        let action = object
            .number("action")?
            .ok_or(DecodeError::Missing("action"))?;
        // A number outside 32 bits becomes one that is no action.
        match action as i32 {
            0 => Ok(Self::None),
            1 => Ok(Self::Update(Box::new(Update::read(&object)?))),
            2 => Ok(Self::State(Box::new(StateChange::read(&object)?))),
            3 => Ok(Self::Remove(Remove::read(&object)?)),
            4 => Ok(Self::Sync),
            _ => Err(DecodeError::Unsupported("action")),
        }
    }

    /// Writes the body.
    ///
    /// # Errors
    ///
    /// The body would be too long.
    pub fn encode(&self, dialect: DialogDialect) -> Result<Bytes, EncodeError> {
        let mut writer = Writer::new();
        match self {
            Self::None => writer.number("action", 0),
            Self::Update(update) => update.write(&mut writer, dialect),
            Self::State(change) => change.write(&mut writer, dialect),
            Self::Remove(remove) => remove.write(&mut writer, dialect),
            Self::Sync => writer.number("action", 4),
        }
        writer.body()
    }
}

impl DialogState {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        match object.required_u32("state")? {
            1 => Ok(Self::Unconfirmed),
            2 => Ok(Self::Early),
            3 => Ok(Self::ConfirmedNoAck),
            4 => Ok(Self::Confirmed),
            5 => Ok(Self::Deleted),
            _ => Err(DecodeError::Unsupported("state")),
        }
    }

    fn write(self, writer: &mut Writer) {
        writer.number("state", self as u8);
    }
}

impl Update {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        let caller = CALLER.read(object)?;
        Ok(Self {
            did: read_did(object)?,
            last_modified: read_time(object, "last_modified")?,
            init_ts: object.u64("init_ts")?.unwrap_or(0),
            iflags: object.u32("iflags")?,
            call_id: object.required_text("callid")?,
            from_uri: object.required_text("from_uri")?,
            to_uri: object.required_text("to_uri")?,
            request_uri: object.required_text("req_uri")?,
            caller: caller.ok_or(DecodeError::Missing(CALLER.tag))?,
            callee: CALLEE.read_named(object)?,
            variables: read_variables(object)?,
            profiles: read_profiles(object)?,
            state: DialogState::read(object)?,
            timing: Timing::read(object)?,
        })
    }

    fn write(&self, writer: &mut Writer, dialect: DialogDialect) {
        write_identity(writer, 1, self.did, self.last_modified, dialect);
        writer.number("init_ts", self.init_ts);
        if let Some(flags) = self.iflags {
            writer.number("iflags", flags);
        }
        writer.text("callid", &self.call_id);
        writer.text("from_uri", &self.from_uri);
        writer.text("to_uri", &self.to_uri);
        writer.text("req_uri", &self.request_uri);
        CALLER.write(writer, Some(&self.caller));
        if !self.variables.is_empty() {
            writer.texts("vars", &self.variables);
        }
        if !self.profiles.is_empty() {
            writer.text("profiles", &profiles_text(&self.profiles));
        }
        self.state.write(writer);
        self.timing.write(writer);
        if self.state == DialogState::Confirmed {
            CALLEE.write(writer, self.callee.as_ref());
        }
    }
}

impl StateChange {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            did: read_did(object)?,
            last_modified: read_time(object, "last_modified")?,
            change: Change::read(object)?,
        })
    }

    fn write(&self, writer: &mut Writer, dialect: DialogDialect) {
        write_identity(writer, 2, self.did, self.last_modified, dialect);
        self.change.state().write(writer);
        match &self.change {
            Change::Early { timing, caller } => {
                timing.write(writer);
                CALLER.write(writer, caller.as_ref());
            }
            Change::Confirmed {
                timing,
                caller,
                callee,
            } => {
                timing.write(writer);
                CALLER.write(writer, caller.as_ref());
                CALLEE.write(writer, callee.as_ref());
            }
            Change::Deleted => {}
        }
    }
}

impl Change {
    /// Returns the state that is announced.
    #[must_use]
    pub fn state(&self) -> DialogState {
        match self {
            Self::Early { .. } => DialogState::Early,
            Self::Confirmed { .. } => DialogState::Confirmed,
            Self::Deleted => DialogState::Deleted,
        }
    }

    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        match DialogState::read(object)? {
            DialogState::Early => Ok(Self::Early {
                timing: Timing::read(object)?,
                caller: CALLER.read_named(object)?,
            }),
            DialogState::Confirmed => Ok(Self::Confirmed {
                timing: Timing::read(object)?,
                caller: CALLER.read_named(object)?,
                callee: CALLEE.read_named(object)?,
            }),
            DialogState::Deleted => Ok(Self::Deleted),
            DialogState::Unconfirmed | DialogState::ConfirmedNoAck => {
                Err(DecodeError::Unsupported("state"))
            }
        }
    }
}

impl Remove {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            did: read_did(object)?,
            last_modified: read_time(object, "last_modified")?,
        })
    }

    fn write(&self, writer: &mut Writer, dialect: DialogDialect) {
        write_identity(writer, 3, self.did, self.last_modified, dialect);
        DialogState::Deleted.write(writer);
    }
}

impl Timing {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            start_ts: read_time(object, "start_ts")?,
            lifetime: object.u32("lifetime")?.filter(|&seconds| seconds > 0),
        })
    }

    fn write(self, writer: &mut Writer) {
        writer.number("start_ts", self.start_ts.unwrap_or(0));
        writer.number("lifetime", self.lifetime.unwrap_or(0));
    }
}

/// The names of a leg's fields.
struct LegNames {
    tag: &'static str,
    cseq: &'static str,
    route_set: &'static str,
    contact: &'static str,
}

const CALLER: LegNames = LegNames {
    tag: "tag1",
    cseq: "cseq1",
    route_set: "route_set1",
    contact: "contact1",
};

const CALLEE: LegNames = LegNames {
    tag: "tag2",
    cseq: "cseq2",
    route_set: "route_set2",
    contact: "contact2",
};

impl LegNames {
    /// Reads a leg whose tag is told, be it empty.
    fn read(&self, object: &Object<'_>) -> Result<Option<Leg>, DecodeError> {
        let leg = Leg {
            tag: object.text(self.tag)?.unwrap_or_default(),
            cseq: object.text(self.cseq)?.unwrap_or_default(),
            route_set: object.text(self.route_set)?.unwrap_or_default(),
            contact: object.text(self.contact)?.unwrap_or_default(),
        };
        Ok(object.field(self.tag).map(|_| leg))
    }

    /// Reads a leg that has a tag.
    fn read_named(&self, object: &Object<'_>) -> Result<Option<Leg>, DecodeError> {
        Ok(self.read(object)?.filter(|leg| !leg.tag.is_empty()))
    }

    fn write(&self, writer: &mut Writer, leg: Option<&Leg>) {
        let none = Leg::default();
        let leg = leg.unwrap_or(&none);
        writer.text(self.tag, &leg.tag);
        writer.text(self.cseq, &leg.cseq);
        writer.text(self.route_set, &leg.route_set);
        writer.text(self.contact, &leg.contact);
    }
}

fn read_did(object: &Object<'_>) -> Result<Did, DecodeError> {
    let did = Did {
        h_entry: object.required_u32("h_entry")?,
        h_id: object.required_u32("h_id")?,
    };
    if did.h_id == 0 {
        return Err(DecodeError::OutOfRange("h_id"));
    }
    Ok(did)
}

fn write_identity(
    writer: &mut Writer,
    action: u8,
    did: Did,
    last_modified: Option<u64>,
    dialect: DialogDialect,
) {
    writer.number("action", action);
    writer.number("h_entry", did.h_entry);
    writer.number("h_id", did.h_id);
    if let (Some(at), true) = (last_modified, dialect.last_modified) {
        writer.number("last_modified", at);
    }
}

/// Reads UNIX seconds; 0 means that there is no time.
fn read_time(object: &Object<'_>, name: &'static str) -> Result<Option<u64>, DecodeError> {
    Ok(object.u64(name)?.filter(|&at| at > 0))
}

fn read_variables(object: &Object<'_>) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
    let Some(variables) = object.field("vars") else {
        return Ok(Vec::new());
    };
    let read = |(name, value): (&[u8], &Json<'_>)| {
        Ok((Bytes::copy_from_slice(name), value.as_text("vars")?))
    };
    let variables = variables.as_object("vars")?;
    variables.fields().map(read).collect()
}

/// Reads the document that travels inside the string `profiles`.
fn read_profiles(object: &Object<'_>) -> Result<Vec<Profile>, DecodeError> {
    let Some(text) = object.text("profiles")? else {
        return Ok(Vec::new());
    };
    let document = Object::read(&text).map_err(|_| DecodeError::WrongType("profiles"))?;
    let Some(profiles) = document.field("profiles") else {
        return Ok(Vec::new());
    };
    profiles.objects("profiles", Profile::read)
}

fn profiles_text(profiles: &[Profile]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.objects("profiles", profiles.iter().map(Profile::encode));
    writer.finish()
}

impl Profile {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: object.required_text("name")?,
            value: object.text("value")?,
            puid: object.text("puid")?.unwrap_or_default(),
            expires: read_time(object, "expires")?,
            flags: object.u32("flags")?.unwrap_or(0),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.text("name", &self.name);
        if let Some(value) = &self.value {
            writer.text("value", value);
        }
        writer.text("puid", &self.puid);
        if let Some(at) = self.expires {
            writer.number("expires", at);
        }
        if self.flags != 0 {
            writer.number("flags", self.flags);
        }
        writer.finish()
    }
}
