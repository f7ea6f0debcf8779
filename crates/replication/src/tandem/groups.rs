//! How keys are written into bodies of repair: by partition, as hashes of 8 bytes, or of 16 with what they hold.

use std::collections::BTreeMap;

use super::messages::{BODY_BYTES_TARGET, Group};

/// Partitions that one body may list, offer or ask for. Each costs a walk through what is here of it,
/// under the node's lock, so each is named once; a body of ours has room for fewer.
pub const GROUPS_MAX: usize = 64;

/// Bytes in the entries of lists that one body has room for, and what each list needs besides.
pub(super) const LISTED_BYTES: usize = BODY_BYTES_TARGET - 80;
pub(super) const LIST_OVERHEAD: usize = 30;
pub(super) const GROUP_OVERHEAD: usize = 10;
const _: () = assert!(LISTED_BYTES / LIST_OVERHEAD <= GROUPS_MAX);
const _: () = assert!(LISTED_BYTES / (GROUP_OVERHEAD + 8) <= GROUPS_MAX);

/// Spreads keys by partition over bodies, in each of which a partition has one group.
pub(super) fn packed(keys: BTreeMap<u8, Vec<u8>>) -> Vec<Vec<Group>> {
    let mut bodies: Vec<Vec<Group>> = Vec::new();
    let mut room = 0;
    for (partition, keys) in keys {
        // A multiple of what a key takes, in either message.
        for part in keys.chunks(LISTED_BYTES / 32 * 16) {
            let bytes = part.len() + GROUP_OVERHEAD;
            if bytes > room {
                bodies.push(Vec::new());
                room = LISTED_BYTES;
            }
            room -= bytes;
            let Some(body) = bodies.last_mut() else {
                continue;
            };
            let partition = u32::from(partition);
            match body.last_mut() {
                Some(group) if group.partition == partition => group.keys.extend(part),
                _ => body.push(Group {
                    partition,
                    keys: part.to_vec(),
                }),
            }
        }
    }
    bodies
}

/// Tells whether partitions are few, and each is named once: in ascending order.
pub(super) fn are_walkable(partitions: impl ExactSizeIterator<Item = u32> + Clone) -> bool {
    partitions.len() <= GROUPS_MAX
        && partitions.clone().all(|at| u8::try_from(at).is_ok())
        && partitions.is_sorted_by(|one, next| one < next)
}

/// Tells whether groups make sense whose keys take `width` bytes each.
pub(super) fn are_sound(groups: &[Group], width: usize) -> bool {
    let is_sound = |group: &Group| !group.keys.is_empty() && group.keys.len().is_multiple_of(width);
    are_walkable(groups.iter().map(|group| group.partition)) && groups.iter().all(is_sound)
}

pub(super) fn pair_bytes(pair: &(u64, u64)) -> impl Iterator<Item = u8> + use<> {
    let (hash, content) = *pair;
    let bytes = [hash.to_le_bytes(), content.to_le_bytes()];
    bytes.into_iter().flatten()
}

pub(super) fn pairs(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let (numbers, _) = bytes.as_chunks::<8>();
    let (pairs, _) = numbers.as_chunks::<2>();
    let pairs = pairs.iter();
    pairs.map(|[hash, content]| (u64::from_le_bytes(*hash), u64::from_le_bytes(*content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_over_bodies_and_none_is_lost() {
        let keys = |count: usize| (0..count).flat_map(|i| (i as u64).to_le_bytes()).collect();
        let all: BTreeMap<u8, Vec<u8>> = [(1, keys(3)), (2, keys(1000)), (9, keys(60))].into();
        let bodies = packed(all.clone());
        let mut found: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for body in &bodies {
            let bytes = body.iter().map(|group| group.keys.len() + GROUP_OVERHEAD);
            assert!(bytes.sum::<usize>() <= LISTED_BYTES);
            assert!(are_sound(body, 8));
            for group in body {
                let keys = found.entry(group.partition as u8).or_default();
                keys.extend(&group.keys);
            }
        }
        assert_eq!(found, all);
    }
}
