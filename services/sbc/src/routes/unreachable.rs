//! A callee that the network cannot reach: as if it had answered 503, RFC 3261 section 16.9. If a name
//! has led to it, its next address gets the request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sip::{Answer, BranchId};

use crate::pass::Pass;
use crate::shard::Shard;
use crate::view::View;

/// How far apart two ICMP errors must be before a request without any response is given up. The
/// second one then is of its first repeat (T1, 500 ms): a callee that restarts meanwhile loses nothing.
const REFUSALS_APART: Duration = Duration::from_millis(400);

impl Shard {
    /// Fails what waits for a first word from `address` and was refused there before.
    pub(crate) fn unreachable(&mut self, now: Instant, view: &View, address: SocketAddr) {
        let waiting = self.proxy.contexts().filter_map(|(context, state)| {
            let index = state.branches().len().checked_sub(1)?;
            let branch = &state.branches()[index];
            let waits = !branch.data.router
                && branch.target.destination == address
                && branch.is_unanswered()
                && !branch.is_given_up();
            let index = u8::try_from(index).ok()?;
            waits.then_some(BranchId { context, index })
        });
        for branch in waiting.collect::<Vec<_>>() {
            let Some(data) = self.proxy.branch_data_mut(branch) else {
                continue;
            };
            let first = *data.refused_at.get_or_insert(now);
            self.mark_address(branch);
            if now.saturating_duration_since(first) >= REFUSALS_APART {
                self.fail_unreachable(now, view, branch);
            }
        }
    }

    fn fail_unreachable(&mut self, now: Instant, view: &View, branch: BranchId) {
        if let Some(hop) = self.next_address(view, branch)
            && self.go_on_to(now, view, branch, hop)
        {
            // Should it have the request all the same, it is cancelled at its first word.
            return self.proxy.give_up(now, branch);
        }
        let Some(state) = self.proxy.branch(branch) else {
            return;
        };
        let status = if state.is_cancelled() { 487 } else { 503 };
        let Answer::Delivered(_) = self.proxy.handle_response_in_stead(now, branch, status) else {
            return;
        };
        self.counters.unreachable += 1;
        self.end_unanswered(now, branch.context, status);
        if let Some(&Pass::Second { first }) = self.proxy.data(branch.context) {
            self.owed_by_router(first);
            self.repeat_in_stead(now, view, first, branch.context);
        }
    }
}
