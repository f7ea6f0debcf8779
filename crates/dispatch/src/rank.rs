//! Weighted rendezvous hashing: who comes first for a Call-ID, the same on every node.
//!
//! Each candidate draws a number from the Call-ID and its own id; the best draw wins. A candidate
//! that leaves takes only its own calls with it. The draw is SipHash-2-4 under the cluster key,
//! because a Call-ID is chosen by whoever calls and must not be able to aim.
//!
//! Weights follow the classic `-w / ln(u)`, in integers: a floating-point `ln` differs in its last
//! bit between platforms and library versions, and two nodes must never differ.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// What the hash is about, so that a cell and a destination of the same name draw differently.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Domain {
    Destination = 0,
    Cell = 1,
}

/// The 128-bit key that all nodes of a cluster share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterKey([u8; 16]);

impl ClusterKey {
    /// Wraps the 16 bytes of the key.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Hashes `call_id`, the byte of `domain`, then `name`.
    pub(crate) fn draw(&self, call_id: &[u8], domain: Domain, name: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(call_id);
        hasher.write(&[domain as u8]);
        hasher.write(name.as_bytes());
        hasher.finish()
    }
}

/// A key is a secret: it does not show itself.
impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// How good a candidate's draw is; the greater comes first.
///
/// Ordered by ascending cost, then by descending hash. Among equal weights that is the order of the
/// hashes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    cost: u64,
    hash: u64,
}

impl Score {
    pub(crate) fn new(hash: u64, weight: u32) -> Self {
        let cost = match weight {
            0 => u64::MAX,
            _ => (negative_log2(hash) << COST_SHIFT) / u64::from(weight),
        };
        Self { cost, hash }
    }

    /// The score among candidates that all have the same weight, without the logarithm.
    pub(crate) fn unweighted(hash: u64) -> Self {
        Self { cost: 0, hash }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        other.cost.cmp(&self.cost).then(self.hash.cmp(&other.hash))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Scores a destination for a Call-ID: the destination with the greatest score is the primary.
///
/// With `h` the SipHash-2-4 of `call_id`, one zero byte and `destination_id` under `key`, and
/// `u = (h | 1) / 2^64`: the cost is `-log2(u)` with 32 fraction bits (by repeated squaring of a
/// mantissa of 63 fraction bits, each square rounded down), shifted left by 24, divided by `weight`
/// and rounded down; the lowest cost wins, then the greatest `h`. A destination of weight 2 gets
/// twice the calls of one of weight 1; weight 0 comes after all others.
#[must_use]
pub fn score(key: &ClusterKey, call_id: &[u8], destination_id: &str, weight: u32) -> Score {
    Score::new(
        key.draw(call_id, Domain::Destination, destination_id),
        weight,
    )
}

const FRACTION_BITS: u32 = 32;
/// A cost of 64 with 32 fraction bits is 2^38; what is left of 64 bits keeps quotients apart.
const COST_SHIFT: u32 = 24;

/// Returns `-log2((hash | 1) / 2^64)` with 32 fraction bits: 0 to 64 << 32.
///
/// One fraction bit per squaring, the schoolbook method: for x in [1, 2), log2(x) >= 1/2 exactly
/// when x squared is 2 or more.
fn negative_log2(hash: u64) -> u64 {
    let hash = hash | 1;
    let integer = u64::from(63 - hash.leading_zeros());
    let mut mantissa = hash << hash.leading_zeros(); // 1.63 fixed point, in [1, 2)
    let mut log = integer;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa); // 2.126, in [1, 4)
        let carry = (square >> 127) as u64;
        log = log << 1 | carry;
        mantissa = (square >> (63 + carry)) as u64;
    }
    (64 << FRACTION_BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ClusterKey {
        ClusterKey::new(*b"0123456789abcdef")
    }

    #[test]
    fn the_hash_is_siphash_2_4() {
        // The vector of the SipHash paper, appendix A: key 00..0f, input 00..0e. It is written in
        // two parts, as `draw` writes: only their concatenation may count.
        let mut bytes = [0; 16];
        (0..16).for_each(|i| bytes[i as usize] = i);
        let mut hasher = SipHasher24::new_with_key(&bytes);
        hasher.write(&bytes[..7]);
        hasher.write(&bytes[7..15]);
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn the_logarithm_is_exact_at_powers_of_two_and_close_between() {
        assert_eq!(negative_log2(1), 64 << 32);
        assert_eq!(negative_log2(0), 64 << 32);
        for bit in [1, 7, 31, 40, 63] {
            let found = negative_log2(1 << bit);
            let expected = (64 - bit) << 32;
            // h | 1 is a hair above the power of two.
            assert!(
                expected - found < 1 << (33 - bit.min(33)) | 1,
                "2^{bit}: {found}"
            );
        }
        for hash in [3, 12_345, u64::MAX / 3, u64::MAX - 5, 0xdead_beef_cafe_f00d] {
            let expected = 64.0 - ((hash | 1) as f64).log2();
            let found = negative_log2(hash) as f64 / (1u64 << 32) as f64;
            assert!(
                (expected - found).abs() < 1e-9,
                "{hash}: {found} against {expected}"
            );
        }
    }

    #[test]
    fn equal_weights_order_by_the_hash_alone() {
        let mut seed = 7u64;
        let mut hashes: Vec<u64> = (0..500)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed
            })
            .collect();
        hashes.sort_unstable_by_key(|hash| Score::unweighted(*hash));
        assert!(hashes.is_sorted_by_key(|hash| Score::new(*hash, 1)));
        assert!(hashes.is_sorted_by_key(|hash| Score::new(*hash, 50)));
        assert!(hashes.is_sorted_by_key(|hash| Score::new(*hash, 0)));
    }

    #[test]
    fn weights_share_calls_in_proportion() {
        let weights = [("a", 1), ("b", 2), ("c", 5), ("d", 0)];
        let mut won = [0u32; 4];
        for call in 0..16_000 {
            let call_id = format!("{call}@example");
            let best = (0..4).max_by_key(|i| {
                let (id, weight) = weights[*i];
                score(&key(), call_id.as_bytes(), id, weight)
            });
            won[best.unwrap()] += 1;
        }
        assert_eq!(won[3], 0);
        for (i, expected) in [(0, 2_000u32), (1, 4_000), (2, 10_000)] {
            assert!(won[i].abs_diff(expected) < 300, "{won:?}");
        }
    }

    #[test]
    fn a_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", key()), "ClusterKey(..)");
    }
}
