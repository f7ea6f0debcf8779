//! Why an element did not forward a message. Every drop has a reason, and every reason its counter.

use std::net::SocketAddr;

use sip_types::{Message, ParseError};

use crate::decided;

/// Why a message was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// Its sender is in no list.
    NotAllowed,
    /// It has no Via to answer to.
    Unanswerable,
    /// It lacks or garbles what an element has to read.
    Insane,
    /// It came back as it had left.
    Loop,
    /// An ACK for nothing we know.
    StrayAck,
    /// A response to nothing we sent.
    StrayResponse,
    /// A To tag that fits no dialog.
    UnknownDialog,
    /// A new request of a router that does not say where to.
    NoDestination,
    /// No rule says where it goes.
    NoRoute,
    /// Where it should go has no address.
    Unresolvable,
    /// It must leave over TLS (`sips:`), which is not spoken here.
    Insecure,
    /// Empty, or nothing but line ends: somebody keeps a NAT open.
    KeepAlive,
    /// No SIP at all.
    Garbage,
}

impl Drop {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 13] = [
        Self::NotAllowed,
        Self::Unanswerable,
        Self::Insane,
        Self::Loop,
        Self::StrayAck,
        Self::StrayResponse,
        Self::UnknownDialog,
        Self::NoDestination,
        Self::NoRoute,
        Self::Unresolvable,
        Self::Insecure,
        Self::KeepAlive,
        Self::Garbage,
    ];

    /// Returns its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::Unanswerable => "unanswerable",
            Self::Insane => "insane",
            Self::Loop => "loop",
            Self::StrayAck => "stray_ack",
            Self::StrayResponse => "stray_response",
            Self::UnknownDialog => "unknown_dialog",
            Self::NoDestination => "no_destination",
            Self::NoRoute => "no_route",
            Self::Unresolvable => "unresolvable",
            Self::Insecure => "insecure",
            Self::KeepAlive => "keep_alive",
            Self::Garbage => "garbage",
        }
    }
}

/// A counter for each reason.
#[derive(Clone, Debug, Default)]
pub struct Drops([u64; Drop::ALL.len()]);

impl Drops {
    /// Counts a message from `source`, and logs it.
    pub fn count(&mut self, reason: Drop, source: SocketAddr, message: &Message<'_>) {
        self.0[reason as usize] += 1;
        decided!(message, remote_addr = %source, reason = reason.name(), "dropped");
    }

    /// Counts what is no message, and logs where it came from.
    pub fn count_unparsable(&mut self, source: SocketAddr, error: &ParseError) {
        let reason = match *error == ParseError::KeepAlive {
            true => Drop::KeepAlive,
            false => Drop::Garbage,
        };
        self.0[reason as usize] += 1;
        tracing::debug!(remote_addr = %source, reason = reason.name(), "dropped");
    }

    /// Returns how many there were for `reason`.
    #[must_use]
    pub fn of(&self, reason: Drop) -> u64 {
        self.0[reason as usize]
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        for (sum, other) in self.0.iter_mut().zip(other.0) {
            *sum += other;
        }
    }
}
