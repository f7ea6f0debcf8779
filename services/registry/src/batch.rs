//! Writes that go into one commit, as many as it takes: what belongs together, together.

use store::{COMMIT_BYTES_MAX, Write};

/// Most writes at a time; a commit takes a few more.
const WRITES_MAX: usize = 100;

/// Some writes, within what a commit takes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch {
    /// Takes writes that belong together, or tells that there is no room for them.
    pub(crate) fn add(&mut self, together: impl IntoIterator<Item = Write>) -> bool {
        let together: Vec<_> = together.into_iter().collect();
        let bytes = self.bytes + together.iter().map(Write::bytes).sum::<usize>();
        if self.writes.len() + together.len() > WRITES_MAX || bytes > COMMIT_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.writes.extend(together);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}

/// Deals writes out, in order, to as many commits as they need.
pub(crate) fn batches(writes: impl IntoIterator<Item = Write>) -> Vec<Vec<Write>> {
    let mut batches = vec![Batch::default()];
    for write in writes {
        if !batches
            .last_mut()
            .is_some_and(|batch| batch.add([write.clone()]))
        {
            let mut batch = Batch::default();
            batch.add([write]);
            batches.push(batch);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches.into_iter().map(Batch::into_writes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_batch_is_more_than_a_commit_takes_and_none_is_lost() {
        let write = |i: usize, bytes: usize| Write::Put {
            key: format!("status/{i}"),
            value: vec![b'x'; bytes],
        };
        let small = (0..250).map(|i| write(i, 10));
        let large = (250..260).map(|i| write(i, 256 * 1024));
        let all: Vec<_> = small.chain(large).collect();
        let dealt = batches(all.clone());
        for batch in &dealt {
            assert!(batch.len() <= WRITES_MAX);
            assert!(batch.iter().map(Write::bytes).sum::<usize>() <= COMMIT_BYTES_MAX);
        }
        assert_eq!(
            dealt.len(),
            6,
            "3 of small ones, of which the last takes 3 large ones, and 3"
        );
        assert_eq!(dealt.concat(), all);
    }
}
