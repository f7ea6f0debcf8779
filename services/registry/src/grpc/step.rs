//! What somebody who has one position lacks at another.

use std::collections::BTreeSet;

use control::name::Name;
use control::registry::v1::{Position, Resource, SnapshotReason};
use prost::Message;

use crate::state::State;

/// Most bytes of resources in one part of a snapshot; one resource more than that goes alone. A stream
/// keeps a buffer of the size of the largest message it ever sent, so parts are small.
const PART_BYTES_MAX: usize = 1024;
/// Most names of deleted resources in one part of a snapshot: about as many bytes.
pub(super) const PART_NAMES_MAX: usize = 16;
/// Most bytes of a change; more goes as a snapshot, in parts.
pub(super) const CHANGE_BYTES_MAX: usize = 64 * 1024;

/// How to get to a state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// It is there.
    None,
    /// By what became of these.
    Change(BTreeSet<&'a Name>),
    /// By everything, for this reason.
    Snapshot(SnapshotReason),
}

/// Returns the way from a position, or from nowhere, to `state`.
pub(super) fn step(from: Option<Position>, state: &State) -> Step<'_> {
    let reason = match from {
        Some(from) if from == state.position => return Step::None,
        Some(from) if from.generation > state.generation() => SnapshotReason::StoreWentBack,
        Some(from) if from.generation == state.generation() => SnapshotReason::Diverged,
        Some(from) => match state.touched_since(from.generation) {
            Some(touched) => return Step::Change(touched),
            None => SnapshotReason::HistoryLost,
        },
        None => SnapshotReason::Initial,
    };
    Step::Snapshot(reason)
}

/// Cuts the resources into parts, to be copied one part at a time; at least one, which may be empty.
pub(super) fn parts_of<'a>(
    resources: impl Iterator<Item = &'a Resource>,
) -> Vec<Vec<&'a Resource>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for resource in resources {
        let more = resource.encoded_len();
        if bytes + more > PART_BYTES_MAX && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(part) = parts.last_mut() {
            part.push(resource);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use control::registry::v1::Route;
    use control::registry::v1::resource::Resource as Kind;

    use super::*;

    #[test]
    fn parts_are_of_limited_size_and_lose_nothing() {
        let route = |i: usize| Resource {
            resource: Some(Kind::Route(Route {
                name: format!("routes/{i}"),
                etag: "x".repeat(300),
                ..Default::default()
            })),
        };
        let routes: Vec<_> = (0..10).map(route).collect();
        let parts = parts_of(routes.iter());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
        assert_eq!(parts.concat(), routes.iter().collect::<Vec<_>>());
        assert_eq!(parts_of([].iter()), [Vec::<&Resource>::new()]);
    }
}
