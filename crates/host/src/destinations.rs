//! Destinations as the registry describes them, in the words of [`dispatch`]. Sans-IO.

use std::num::NonZeroU32;
use std::sync::Arc;

use control::view::{Destination, DestinationSet, DestinationState};
use dispatch::{Administrative, DestinationConfig, HealthConfig};
use sip_types::Uri;

/// Returns how a set wants its destinations judged.
#[must_use]
pub fn health_of(set: &DestinationSet) -> HealthConfig {
    HealthConfig {
        detect_within: set.detect_within,
        probe_interval: set.probe_interval,
        successes_to_active: set
            .successes_to_active
            .try_into()
            .unwrap_or(NonZeroU32::MIN),
    }
}

/// Returns what is judged of a destination, under `id`; `None` when its URI names no numeric address.
#[must_use]
pub fn judged(id: Arc<str>, destination: &Destination) -> Option<DestinationConfig> {
    let uri = Uri::parse(destination.uri.as_bytes()).ok()?;
    Some(DestinationConfig {
        id,
        address: uri.socket_addr(5060)?,
        probing: destination.probing,
        administrative: match destination.desired_state {
            DestinationState::Active => Administrative::Active,
            DestinationState::Draining => Administrative::Draining,
            DestinationState::Disabled => Administrative::Disabled,
        },
    })
}
