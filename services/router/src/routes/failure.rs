//! The failure route: the next place of the route decision, on 408, 502, 503, 504 or silence.

use std::time::Instant;

use sip::{BranchId, ContextId, decided};
use sip_types::{Index, Message, Splice};

use crate::routes::relay::{name_hop, towards, unname_hop};
use crate::shard::Shard;

impl Shard {
    /// Sends a request to the next place of its decision; tells whether there was one.
    pub(crate) fn try_next_hop(&mut self, now: Instant, id: ContextId) -> bool {
        let Some(context) = self.proxy.context(id) else {
            return false;
        };
        let Some(target) = context.branches().last().map(|branch| branch.target) else {
            return false;
        };
        let call = &context.data;
        if call.cancelled || !context.is_pending() || call.at + 1 >= call.hops.len() {
            return false;
        }
        let (hops, at) = (call.hops.clone(), call.at + 1);
        let target = towards(&hops[at], target);
        let came_as = call.came_as.clone();
        // What is stored is what the first place got: its changes are undone, whichever place was last.
        let mut edit = |message: &Message<'_>, edits: &mut Splice| {
            decided!(message, destination = &*hops[at].uri, "next place");
            unname_hop(edits, message, &hops[0]);
            if let (None, Some(uri)) = (&hops[at].request_uri, &came_as) {
                edits.replace(message.request_uri_range(), uri);
            }
            name_hop(edits, message, &hops[at]);
        };
        let sent = self.proxy.retry(now, id, target, (), Some(&mut edit));
        let Some(branch) = sent else {
            return false;
        };
        if let Some(call) = self.proxy.data_mut(id) {
            call.at = at;
        }
        self.counters.next_hops += 1;
        self.expect_word(now, branch);
        self.saw_next_hop(id);
        true
    }

    /// Gives the place of a try its `first_response`, if there is a further place to go to.
    pub(crate) fn expect_word(&mut self, now: Instant, branch: BranchId) {
        let Some(call) = self.proxy.data(branch.context) else {
            return;
        };
        if call.at + 1 < call.hops.len() {
            let patience = call.hops[call.at].first_response;
            self.proxy.expect_word(branch, now + patience);
        }
    }

    /// A place has said nothing within its `first_response`: the next one is tried. Rule f of
    /// docs/failover.md holds for the silent one: it is cancelled, and a late 2xx of it goes on.
    pub(crate) fn silent(&mut self, now: Instant, branch: BranchId) {
        if self.try_next_hop(now, branch.context) {
            self.proxy.give_up(now, branch);
        }
    }

    pub(crate) fn is_given_up(&self, branch: BranchId) -> bool {
        let branch = self.proxy.branch(branch);
        branch.is_some_and(sip::Branch::is_given_up)
    }

    /// Timer B or F: nobody answered.
    pub(crate) fn timed_out(&mut self, now: Instant, branch: BranchId) {
        let id = branch.context;
        let is_pending = self.proxy.context(id).is_some_and(sip::Context::is_pending);
        if is_pending && !self.is_given_up(branch) && !self.try_next_hop(now, id) {
            let request = self.proxy.context(id).and_then(sip::Context::request);
            let request = request.map(<[u8]>::to_vec).unwrap_or_default();
            self.proxy.respond(now, id, 408, &[]);
            if let Ok(request) = Message::parse(&request, &mut Index::default()) {
                self.saw_failure(id, &request);
            }
        }
    }
}
