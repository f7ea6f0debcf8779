//! What a router saw of a dialog, in its own words; [`crate::Dialogs::observe`] makes a record of it.

use crate::record::{Cause, Text};

/// One thing that a router saw pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The Call-ID.
    pub call_id: Text,
    /// The dialog's number from the `did` of our Record-Route or Route; `None` when it has none.
    pub h_id: Option<u32>,
    /// The From tag.
    pub from_tag: Text,
    /// The To tag; empty before there is one.
    pub to_tag: Text,
    /// What passed.
    pub what: Observed,
}

/// What a message told about the leg of who sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegSeen {
    /// CSeq of the request; 0 for a response, which counts nothing of its sender's.
    pub cseq: u32,
    /// The Contact URI.
    pub contact: Text,
    /// The route set towards it: entries in brackets, separated by commas.
    pub route_set: Text,
}

/// What passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The INVITE that may make a dialog; its `h_id` was drawn by us.
    Invited {
        /// URI of From.
        from_uri: Text,
        /// URI of To.
        to_uri: Text,
        /// The Request-URI as it came.
        request_uri: Text,
        /// The caller's leg.
        caller: LegSeen,
    },
    /// The INVITE goes on to another place.
    Tried,
    /// 101 to 199 to the INVITE, with a To tag.
    Rang(LegSeen),
    /// 2xx to the INVITE.
    Answered(LegSeen),
    /// The ACK of a 2xx.
    Acked,
    /// A re-INVITE or UPDATE was accepted: where whoever is named as its sender wants to be reached.
    Refreshed(LegSeen),
    /// A request inside the dialog but ACK and BYE.
    Requested {
        /// Its CSeq.
        cseq: u32,
    },
    /// A BYE, or the end of an INVITE without a 2xx.
    Ended(Cause),
}

impl Observed {
    /// Tells whether it changes its dialog even if that is heard of only later: it was confirmed, moved or hung up.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Acked | Self::Refreshed(_) | Self::Ended(Cause::Bye) => true,
            Self::Invited { .. }
            | Self::Tried
            | Self::Rang(_)
            | Self::Answered(_)
            | Self::Requested { .. }
            | Self::Ended(_) => false,
        }
    }
}
