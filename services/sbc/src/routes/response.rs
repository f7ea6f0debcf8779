//! Responses: from callees to routers, from routers to carriers, and past routers that died.

use std::net::SocketAddr;
use std::time::Instant;

use sip::{Answer, BranchId, Drop, decided};
use sip_types::{HeaderName, Index, Message};

use crate::headers;
use crate::pass::Pass;
use crate::shard::Shard;
use crate::view::View;

impl Shard {
    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        view: &View,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        match self.proxy.handle_response(now, message) {
            Answer::Delivered(delivered) => {
                self.answered(now, view, delivered.branch, delivered.status, message);
            }
            Answer::Absorbed => self.owed_second_pass(now, message),
            Answer::Stray => self
                .counters
                .drops
                .count(Drop::StrayResponse, source, message),
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        view: &View,
        branch: BranchId,
        status: u16,
        message: &Message<'_>,
    ) {
        let id = branch.context;
        let is_first = matches!(self.proxy.data(id), Some(Pass::First(_)));
        if !is_first && !self.counts(now, view, branch, status) {
            return;
        }
        match self.proxy.data(id) {
            Some(Pass::First(_)) => self.first_pass_answered(now, view, branch, status, message),
            Some(&Pass::Second { first }) => {
                self.proxy
                    .forward_response(now, id, message, &mut self.edits);
                self.owed_by_router(first);
                self.answer_in_stead(now, view, first, message, 2);
            }
            Some(Pass::Plain) => {
                self.dialogs.handle_response(now, message);
                headers::strip(&mut self.edits, message);
                self.proxy
                    .forward_response(now, id, message, &mut self.edits);
            }
            None => {}
        }
    }

    /// Tells whether what a callee says is for who asked: not a 503 when its name has another address,
    /// and of one that was given up for another address, a 2xx alone, as in rule f.
    fn counts(&mut self, now: Instant, view: &View, branch: BranchId, status: u16) -> bool {
        let given_up = self
            .proxy
            .branch(branch)
            .is_some_and(sip::Branch::is_given_up);
        if status == 503 && !given_up {
            self.mark_address(branch);
            if let Some(hop) = self.next_address(view, branch) {
                return !self.go_on_to(now, view, branch, hop);
            }
        }
        let is_success = (200..300).contains(&status);
        let tries = self
            .proxy
            .context(branch.context)
            .map_or(0, |context| context.branches().len());
        if is_success && tries > 1 {
            // RFC 3261 section 16.7 step 10.
            self.cancel_all(now, branch.context);
        }
        is_success || !given_up
    }

    /// A router's 100 is a promise: until the second pass comes, the router owes it. Rule i: it may forget.
    fn owed_second_pass(&mut self, now: Instant, message: &Message<'_>) {
        if message.status() == Some(100)
            && let Some(via) = message.top_via()
            && let Some((first, _)) = via.branch.and_then(BranchId::read)
            && let Some(branch) = self.proxy.branch(first)
            && branch.data.router
            && branch.data.bound.is_empty()
        {
            self.owed_by_router(first);
            if !self.is_direct(first.context) {
                self.proxy.repeat_past_trying(now, first);
            }
        }
    }

    /// The router of `first` has been given something that must come back: the request once more, or
    /// a response to its second pass.
    pub(crate) fn owed_by_router(&mut self, first: BranchId) {
        if let Some(branch) = self.proxy.branch(first)
            && branch.data.router
            && branch.takes_responses()
            && !branch.is_given_up()
            && !branch.data.lost
        {
            self.signs.owing(branch.target.destination);
        }
    }

    /// Gives a response of a second pass to its first pass, when the router between them is lost.
    ///
    /// `vias` are taken off: the router's own, and ours when it is still on top. Rule c.
    pub(crate) fn answer_in_stead(
        &mut self,
        now: Instant,
        view: &View,
        first: BranchId,
        message: &Message<'_>,
        vias: usize,
    ) {
        if !self.plays_for(view, first) {
            return;
        }
        self.play_for(now, first);
        if message.status().is_some_and(|status| status >= 300) && self.rings_elsewhere(first) {
            // One fork has failed; another one may still be answered.
            return;
        }
        self.edits.clear();
        self.edits.remove_leading(message, HeaderName::Via, vias);
        let mut bytes = Vec::with_capacity(message.bytes().len());
        self.edits.apply(message.bytes(), &mut bytes);
        self.edits.clear();
        if let Ok(message) = Message::parse(&bytes, &mut Index::new())
            && let Some(status) = message.status()
            && let Answer::Delivered(delivered) =
                self.proxy.handle_response_in_stead(now, first, status)
        {
            self.counters.answered_in_stead += 1;
            decided!(message, status, "answered in a lost router's stead");
            self.first_pass_answered(now, view, delivered.branch, status, &message);
        }
    }

    /// Tells whether we play the part of a try's router.
    ///
    /// Not only for what waited when the router was lost: a 2xx that the callee repeats later finds
    /// no router either, nor does what one that was believed dead has sent on all the same.
    pub(crate) fn plays_for(&self, view: &View, first: BranchId) -> bool {
        self.proxy.branch(first).is_some_and(|branch| {
            let lost = branch.data.lost || !view.lives(branch.target.destination);
            lost && !branch.is_given_up()
        })
    }

    /// Tells whether a second pass bound to `first` still waits for a final response that counts: the
    /// router has not cancelled it.
    pub(crate) fn rings_elsewhere(&self, first: BranchId) -> bool {
        let bound = self.proxy.branch(first).map(|branch| &branch.data.bound);
        bound.is_some_and(|bound| {
            let mut contexts = bound
                .iter()
                .filter_map(|second| self.proxy.context(*second));
            contexts.any(|second| {
                let mut tries = second.branches().iter();
                second.is_pending() && tries.any(|t| t.is_pending() && !t.is_cancelled())
            })
        })
    }

    fn first_pass_answered(
        &mut self,
        now: Instant,
        view: &View,
        branch: BranchId,
        status: u16,
        message: &Message<'_>,
    ) {
        let id = branch.context;
        let Some(state) = self.proxy.branch(branch) else {
            return;
        };
        let (given_up, lost, bound) = (
            state.is_given_up(),
            state.data.lost,
            state.data.bound.clone(),
        );
        let of_router = state.data.router;
        let router = state.target.destination;
        if given_up && !(200..300).contains(&status) {
            // A 1xx has set off its CANCEL, a failure has been acknowledged: rule f.
            return;
        }
        let refused = matches!(status, 500 | 502 | 503) && !self.is_direct(id);
        if of_router && bound.is_empty() && refused {
            return self.refused_by_router(now, view, branch, router);
        }
        if lost && matches!(status, 401 | 407) {
            // Nothing rings any more, and only a router can answer the challenge: rule h.
            return self.next_router(now, view, id);
        }
        if status >= 200 {
            // Rule d, and RFC 3261 section 16.7 step 10: what still rings has lost.
            for second in bound {
                if self
                    .proxy
                    .context(second)
                    .is_some_and(|context| context.is_pending())
                {
                    self.cancel_all(now, second);
                }
            }
        }
        self.dialogs.handle_response(now, message);
        headers::strip(&mut self.edits, message);
        self.proxy
            .forward_response(now, id, message, &mut self.edits);
        self.edits.clear();
    }
}
