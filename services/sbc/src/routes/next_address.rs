//! The next address of a name, when one does not serve: RFC 3263 section 4.3.
//!
//! Only what certainly did not get a request lets it go on to another address: one that ICMP refuses
//! twice, or that has said 503. One that is silent may have it. Both come last for a while.

use std::time::{Duration, Instant};

use sip::BranchId;

use crate::names::Hop;
use crate::pass::Try;
use crate::shard::Shard;
use crate::view::View;

/// How long an address may leave an INVITE without any response before others are preferred to it.
/// The request itself stays there until Timer B. Any other method may take until Timer F.
pub const SILENT_AFTER: Duration = Duration::from_secs(2);

impl Shard {
    /// Watches over what was just sent to an address of a name.
    pub(crate) fn watch_address(&mut self, now: Instant, branch: BranchId) {
        let context = self.proxy.context(branch.context);
        let by_name = self.proxy.branch(branch);
        let by_name = by_name.is_some_and(|branch| branch.data.name.is_some());
        if by_name && context.is_some_and(sip::Context::is_invite) {
            self.proxy.expect_answer(branch, now + SILENT_AFTER);
        }
    }

    /// Takes note that the address of a try did not serve, if a name has led there.
    pub(crate) fn mark_address(&mut self, branch: BranchId) {
        if let Some(branch) = self.proxy.branch(branch)
            && branch.data.name.is_some()
        {
            self.signs.mark(branch.target.destination);
        }
    }

    /// Returns where a try's request may go instead: to an address of its name that has not had it,
    /// while nobody has been told of any response and nobody wants it cancelled.
    pub(crate) fn next_address(&self, view: &View, branch: BranchId) -> Option<Hop> {
        let state = self.proxy.branch(branch)?;
        let name = state.data.name.clone()?;
        let context = self.proxy.context(branch.context)?;
        let is_told = context.response().is_some_and(|(status, _)| status > 100);
        let is_last = context.branches().len() == usize::from(branch.index) + 1;
        if is_told || !is_last || state.data.cancelled || state.is_cancelled() {
            return None;
        }
        let tried = context.branches().iter();
        let tried: Vec<_> = tried.map(|branch| branch.target.destination).collect();
        let address = view.address_of(&name, &tried)?;
        let name = Some(name);
        Some(Hop { address, name })
    }

    /// Sends a request to another address. Tells whether there was room for a further try.
    pub(crate) fn go_on_to(&mut self, now: Instant, view: &View, id: BranchId, hop: Hop) -> bool {
        let target = Self::outward(view, hop.address);
        let data = Try::at_address_of(hop.name);
        let Some(branch) = self.proxy.retry(now, id.context, target, data, None) else {
            return false;
        };
        self.counters.next_addresses += 1;
        self.watch_address(now, branch);
        true
    }
}
