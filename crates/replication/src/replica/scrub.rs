//! A bit that flips in memory does not stay hidden: sums are recomputed from the records, some every second.

use std::collections::BTreeSet;

use super::Replica;
use crate::change::Key;

/// How many partitions a sweep recomputes: all of them within 64 s.
const SCRUBBED: usize = 4;

impl Replica {
    /// Recomputes every sum from the records; returns in how many partitions it was wrong, and
    /// rights them.
    pub fn verify(&mut self) -> usize {
        self.verify_partitions((0..=u8::MAX).collect())
    }

    fn verify_partitions(&mut self, wanted: BTreeSet<u8>) -> usize {
        let mut wrong = 0;
        for partition in &wanted {
            let dialogs = self.dialogs.rehash(*partition);
            wrong += usize::from(dialogs);
        }
        for partition in wanted {
            let sum = self
                .living(partition)
                .fold(0u128, |sum, (_, hash)| sum.wrapping_add(hash));
            let kept = self.digests.partitions()[usize::from(partition)];
            if sum != kept {
                self.digests.replace(partition, kept, sum);
                wrong += 1;
            }
        }
        self.flipped += wrong as u64;
        wrong
    }

    /// Flips a bit in memory, for tests.
    #[doc(hidden)]
    pub fn flip(&mut self, key: &Key) {
        match key {
            Key::Dialog(key) => self.dialogs.flip(key),
            Key::Entry(key) => self.entries.flip(key),
        }
    }

    pub(super) fn scrub(&mut self) {
        let wanted = (0..SCRUBBED).map(|step| ((self.scrub + step) % 256) as u8);
        let wanted = wanted.collect();
        self.scrub = (self.scrub + SCRUBBED) % 256;
        self.verify_partitions(wanted);
    }
}
