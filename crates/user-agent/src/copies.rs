//! How often each request arrived: the proof that nothing was delivered twice.

use std::collections::BTreeMap;

use crate::message::Method;
use crate::records::{CallId, Records};

/// A request that arrived under more than one branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The call.
    pub call_id: CallId,
    /// The number of the request in its CSeq.
    pub cseq: u32,
    /// Its method.
    pub method: Method,
    /// Each branch of the topmost Via and how many copies came under it.
    pub branches: BTreeMap<String, u32>,
}

type Copies = BTreeMap<(u32, Method), BTreeMap<String, u32>>;

/// Counts copies by Call-ID, CSeq, method and branch, for a bounded number of calls.
#[derive(Debug)]
pub(crate) struct CopyCounter {
    calls: Records<Copies>,
}

impl CopyCounter {
    pub(crate) fn new(calls_max: usize) -> Self {
        Self {
            calls: Records::new(calls_max),
        }
    }

    pub(crate) fn count(&mut self, call: &CallId, cseq: u32, method: Method, branch: &str) {
        let copies = self.calls.entry(call, BTreeMap::new);
        *copies
            .entry((cseq, method))
            .or_default()
            .entry(branch.to_owned())
            .or_default() += 1;
    }

    /// Every request but ACK that came under several branches. A retransmission keeps its branch.
    pub(crate) fn delivered_twice(&self) -> impl Iterator<Item = Duplicate> {
        self.calls.iter().flat_map(|(call_id, copies)| {
            copies
                .iter()
                .filter(|((_, method), branches)| *method != Method::Ack && branches.len() > 1)
                .map(|((cseq, method), branches)| Duplicate {
                    call_id: call_id.clone(),
                    cseq: *cseq,
                    method: *method,
                    branches: branches.clone(),
                })
        })
    }

    /// How many copies of a request came, under any branch.
    pub(crate) fn copies(&self, call: &CallId, cseq: u32, method: Method) -> u32 {
        let copies = self
            .calls
            .get(call)
            .and_then(|copies| copies.get(&(cseq, method)));
        copies.map_or(0, |branches| branches.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_branch_is_a_duplicate_and_a_second_copy_is_not() {
        let mut counter = CopyCounter::new(8);
        let call = CallId::new("x");
        for branch in ["a", "a", "a"] {
            counter.count(&call, 1, Method::Invite, branch);
        }
        counter.count(&call, 1, Method::Ack, "b");
        counter.count(&call, 1, Method::Ack, "c");
        counter.count(&call, 2, Method::Bye, "d");
        assert_eq!(counter.delivered_twice().count(), 0);
        assert_eq!(counter.copies(&call, 1, Method::Invite), 3);
        counter.count(&call, 2, Method::Bye, "e");
        let duplicates: Vec<_> = counter.delivered_twice().collect();
        assert_eq!(duplicates.len(), 1);
        assert_eq!((duplicates[0].cseq, duplicates[0].method), (2, Method::Bye));
        assert_eq!(duplicates[0].branches.len(), 2);
    }
}
