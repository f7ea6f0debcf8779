//! What a node holds, in 4 KiB: one sum for each of 256 partitions of the keys.
//!
//! A sum changes with each record in constant time, whatever the order; two nodes hold the same
//! records when their sums are equal. A flipped bit in memory is not seen by it: [`crate::Replica`]
//! recomputes it from the records, slowly all the time and at once when asked.

/// How many partitions a cell's keys are spread over.
pub const PARTITIONS: usize = 256;

/// The sums of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    partitions: Box<[u128; PARTITIONS]>,
    root: u128,
}

impl Default for Digests {
    fn default() -> Self {
        Self {
            partitions: Box::new([0; PARTITIONS]),
            root: 0,
        }
    }
}

impl Digests {
    /// Returns the sum of everything.
    #[must_use]
    pub fn root(&self) -> u128 {
        self.root
    }

    /// Returns the sum of each partition.
    #[must_use]
    pub fn partitions(&self) -> &[u128; PARTITIONS] {
        &self.partitions
    }

    /// Takes note that a record of `partition` changed from hash `old` to `new`; 0 is no record.
    pub fn replace(&mut self, partition: u8, old: u128, new: u128) {
        let sum = &mut self.partitions[usize::from(partition)];
        *sum = sum.wrapping_sub(old).wrapping_add(new);
        self.root = self.root.wrapping_sub(old).wrapping_add(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_the_order() {
        let mut one = Digests::default();
        let mut other = Digests::default();
        for (partition, hash) in [(1, 5), (1, u128::MAX), (255, 9)] {
            one.replace(partition, 0, hash);
        }
        for (partition, hash) in [(255, 9), (1, u128::MAX), (1, 5)] {
            other.replace(partition, 0, hash);
        }
        assert_eq!(one, other);
        one.replace(1, 5, 6);
        assert_ne!(one.root(), other.root());
        one.replace(1, 6, 5);
        assert_eq!(one, other);
    }
}
