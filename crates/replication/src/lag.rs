//! How long a change takes to another node: from when it was made here to that node's answer, by our clock.
//!
//! Only what tells of a change first counts, not what is told again, or because a node asks or lacks it.

use std::time::Duration;

/// Buckets of an octave.
const STEPS: u32 = 4;
/// Octaves of microseconds: up to half an hour.
const OCTAVES: u32 = 31;

/// How long something took, in buckets that grow by about a fifth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    buckets: Box<[u64; (STEPS * OCTAVES) as usize]>,
    count: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; (STEPS * OCTAVES) as usize]),
            count: 0,
        }
    }
}

impl Lag {
    /// Takes note of one.
    pub(crate) fn note(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let octave = micros.ilog2();
        // The two bits below the highest.
        let step = (micros << 2 >> octave) as u32 & (STEPS - 1);
        let bucket = (octave * STEPS + step).min(STEPS * OCTAVES - 1);
        self.buckets[bucket as usize] += 1;
        self.count += 1;
    }

    /// Returns how many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns what `per_mille` of a thousand did not exceed, at most a quarter too high; `None`
    /// when there was nothing yet.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let wanted = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        let (octave, step) = (bucket as u32 / STEPS, bucket as u32 % STEPS);
        let upper = (u64::from(STEPS + step + 1) << octave) / u64::from(STEPS);
        Some(Duration::from_micros(upper))
    }

    /// Returns what half of them did not exceed.
    #[must_use]
    pub fn p50(&self) -> Option<Duration> {
        self.quantile(500)
    }

    /// Returns what all but one of a hundred did not exceed.
    #[must_use]
    pub fn p99(&self) -> Option<Duration> {
        self.quantile(990)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_a_quarter_too_high_at_most() {
        let mut lag = Lag::default();
        assert_eq!(lag.p50(), None);
        for micros in 1..=1000 {
            lag.note(Duration::from_micros(micros));
        }
        assert_eq!(lag.count(), 1000);
        for (per_mille, exact) in [(500, 500), (990, 990), (1000, 1000), (250, 250)] {
            let found = lag.quantile(per_mille).unwrap().as_micros();
            assert!((exact..=exact * 5 / 4 + 1).contains(&found), "{found}");
        }
        lag.note(Duration::MAX);
        lag.note(Duration::ZERO);
        assert!(lag.quantile(1000).unwrap() > Duration::from_secs(1800));
    }
}
