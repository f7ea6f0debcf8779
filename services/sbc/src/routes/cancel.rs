//! CANCEL: rule d of docs/failover.md.

use std::time::Instant;

use sip::{BranchId, ContextId};

use crate::pass::Pass;
use crate::shard::Shard;

impl Shard {
    /// Cancels a request; the CANCEL itself has been answered.
    ///
    /// A first pass: the router is told, and a bound second pass directly, so that it stops ringing
    /// whatever becomes of the router. Unbound, nothing rings yet and nothing may: 487 at once.
    pub(crate) fn cancel(&mut self, now: Instant, id: ContextId) {
        let Some(context) = self.proxy.context(id) else {
            return;
        };
        let pending = context.is_pending();
        let live = self.live_branch(id);
        let Some(Pass::First(pass)) = self.proxy.data_mut(id) else {
            return self.cancel_all(now, id);
        };
        pass.cancelled = true;
        let (true, Some(live)) = (pending, live) else {
            return;
        };
        let Some(branch) = self.proxy.branch(live) else {
            return;
        };
        let (router, bound) = (
            branch.data.router.then_some(branch.target.destination),
            branch.data.bound.clone(),
        );
        if branch.data.lost {
            // The router is dead: only its second passes are left to tell.
        } else if router.is_some() && bound.is_empty() {
            self.proxy.give_up(now, live);
            self.proxy.respond(now, id, 487, &[]);
        } else {
            self.proxy.cancel(now, live);
        }
        if let Some(router) = router {
            self.signs.owing(router);
        }
        for second in bound {
            self.cancel_all(now, second);
        }
    }

    /// Cancels every try of a context.
    pub(crate) fn cancel_all(&mut self, now: Instant, id: ContextId) {
        let tries = self
            .proxy
            .context(id)
            .map_or(0, |context| context.branches().len());
        for index in 0..tries {
            let branch = BranchId {
                context: id,
                index: index as u8,
            };
            if let Some(data) = self.proxy.branch_data_mut(branch) {
                data.cancelled = true;
            }
            self.proxy.cancel(now, branch);
        }
    }

    /// Returns the try that decides now: the last one, unless it was given up.
    pub(crate) fn live_branch(&self, id: ContextId) -> Option<BranchId> {
        let branches = self.proxy.context(id)?.branches();
        let index = branches.len().checked_sub(1)?;
        let branch = &branches[index];
        (branch.is_pending() && !branch.is_given_up()).then_some(BranchId {
            context: id,
            index: index as u8,
        })
    }
}
