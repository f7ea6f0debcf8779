//! Resources of a registry's view as most tests want them; what one is about, it sets itself.

use std::net::SocketAddr;
use std::time::Duration;

use control::view::{
    Algorithm, Destination, DestinationSet, DestinationState, Liveness, Member, MemberKind,
    MemberState, Side, SipEndpoint,
};

/// Returns a member of cell `a` that lives, with one address for everything.
#[must_use]
pub fn member(id: &str, kind: MemberKind, address: SocketAddr) -> Member {
    Member {
        id: id.to_owned(),
        kind,
        address: address.ip(),
        sip: vec![SipEndpoint {
            side: Side::Both,
            address,
        }],
        dmq: None,
        cell: "a".to_owned(),
        zone: String::new(),
        tags: vec![],
        desired_state: MemberState::Active,
        incarnation: 1,
        liveness: Liveness::Alive,
    }
}

/// Returns a set without a selector that has the times of one that says nothing.
#[must_use]
pub fn destination_set(id: &str) -> DestinationSet {
    DestinationSet {
        id: id.to_owned(),
        algorithm: Algorithm::CallIdHash,
        selector: None,
        first_response: DestinationSet::FIRST_RESPONSE,
        detect_within: Duration::from_millis(200),
        probe_interval: Duration::from_secs(1),
        failures_to_inactive: 1,
        successes_to_active: 2,
    }
}

/// Returns a destination that is probed and takes calls.
#[must_use]
pub fn destination(set: &str, id: &str, uri: &str) -> Destination {
    Destination {
        set: set.to_owned(),
        id: id.to_owned(),
        uri: uri.to_owned(),
        priority: 0,
        weight: 1,
        probing: true,
        desired_state: DestinationState::Active,
        cell: String::new(),
    }
}
