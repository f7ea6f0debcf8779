//! The failure route: the next router, the heir, or ourselves in a dead router's stead.
//!
//! The letters are those of docs/failover.md.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sip::{Answer, BranchId, ContextId, RETRY_AFTER, Target, decided};
use sip_types::{Index, Message, Method, Splice};

use crate::headers;
use crate::names::NextHop;
use crate::pass::{Pass, Try};
use crate::shard::{FAILOVER_BURST, FAILOVER_PAUSE, Shard};
use crate::view::View;

/// How long a bound first pass whose router is lost waits for its second pass to end: longer than any
/// Timer C, so that the second pass decides.
const IN_STEAD_MAX: Duration = Duration::from_secs(300);

impl Shard {
    /// A router is lost: everything that waits for it goes elsewhere, at a named rate.
    pub(crate) fn router_lost(&mut self, now: Instant, view: &View, router: SocketAddr) {
        let waiting = self.proxy.contexts().filter_map(|(id, context)| {
            let waits = waits_for(context.branches().last()?, router);
            let index = context.branches().len() - 1;
            let index = u8::try_from(index).ok()?;
            waits.then_some(BranchId { context: id, index })
        });
        self.moving.extend(waiting);
        self.move_on(now, view);
    }

    /// Moves the next [`FAILOVER_BURST`] requests.
    pub(crate) fn move_on(&mut self, now: Instant, view: &View) {
        for _ in 0..FAILOVER_BURST {
            let Some(branch) = self.moving.pop_front() else {
                break;
            };
            // It may have been answered, or moved, while it waited for its turn.
            if self.live_branch(branch.context) == Some(branch) {
                self.router_of_try_lost(now, view, branch);
            }
        }
        self.move_at = (!self.moving.is_empty()).then(|| now + FAILOVER_PAUSE);
    }

    fn router_of_try_lost(&mut self, now: Instant, view: &View, live: BranchId) {
        let id = live.context;
        let Some(branch) = self.proxy.branch(live).filter(|branch| !branch.data.lost) else {
            return;
        };
        let bound = branch.data.bound.clone();
        if bound.is_empty() {
            // a: nobody below has heard of it.
            self.counters.failovers += 1;
            self.proxy.give_up(now, live);
            return self.next_router(now, view, id);
        }
        // c, e: from now on the second passes' responses are given to the first pass by us.
        self.play_for(now, live);
        for second in bound {
            self.repeat_in_stead(now, view, live, second);
        }
    }

    /// Takes the part of a try's router from now on.
    pub(crate) fn play_for(&mut self, now: Instant, first: BranchId) {
        if let Some(data) = self.proxy.branch_data_mut(first).filter(|data| !data.lost) {
            data.lost = true;
            self.proxy.stop_repeating(now, first, IN_STEAD_MAX);
        }
    }

    /// Gives the latest response of a second pass to its first pass.
    pub(crate) fn repeat_in_stead(
        &mut self,
        now: Instant,
        view: &View,
        first: BranchId,
        second: ContextId,
    ) {
        let latest = self
            .proxy
            .context(second)
            .and_then(|context| context.response());
        let Some((101.., bytes)) = latest else { return };
        let bytes = bytes.to_vec();
        if let Ok(message) = Message::parse(&bytes, &mut Index::new()) {
            self.answer_in_stead(now, view, first, &message, 1);
        }
    }

    /// Sends a first pass to the next router: by rank for a new request, the heir for one in a dialog.
    /// With no router left, a request in a dialog is delivered without one, and a new one refused.
    pub(crate) fn next_router(&mut self, now: Instant, view: &View, id: ContextId) {
        let Some(context) = self.proxy.context(id) else {
            return;
        };
        let Pass::First(pass) = &context.data else {
            return;
        };
        if pass.cancelled {
            return self.proxy.respond(now, id, 487, &[]);
        }
        let (route, refused) = (pass.route, pass.refused.clone());
        let Some(request) = context.request() else {
            return;
        };
        let mut index = Index::new();
        let Ok(message) = Message::parse(request, &mut index) else {
            return;
        };
        let is_ack = message.method() == Method::Ack;
        let call_id = message.call_id();
        let router = match route {
            Some(route) => view.heir(call_id, route, &refused),
            None => view.router_for(call_id, self.turn, &refused),
        };
        let direct = match (router, route) {
            (None, Some(_)) => match view.next_hop(&message, view.cluster_routes(&message)) {
                NextHop::Known(hop) => Some(hop.address),
                NextHop::Ask(_) | NextHop::Nowhere | NextHop::Insecure => None,
            },
            _ => None,
        };
        if let Some(router) = router {
            decided!(message, destination = %router, heir = route.is_some(), "next router");
            let target = Target {
                flow: view.inside,
                destination: router,
            };
            if let Some(branch) = self.proxy.retry(now, id, target, Try::at_router(), None) {
                return self.given_to_router(now, view, branch, router);
            }
        } else if let Some(destination) = direct {
            decided!(message, destination = %destination, "delivered without a router");
            let mut without_router = |message: &Message<'_>, edits: &mut Splice| {
                headers::strip(edits, message);
                sip::route::pass_routes(edits, message, view.cluster_routes(message));
            };
            let target = Self::outward(view, destination);
            if self
                .proxy
                .retry(now, id, target, Try::default(), Some(&mut without_router))
                .is_some()
            {
                self.counters.delivered_without_router += 1;
                return;
            }
        }
        self.counters.calls_refused += u64::from(!is_ack);
        self.proxy.respond(now, id, 503, &[RETRY_AFTER]);
    }

    /// The router itself refuses a request: another may do better.
    pub(crate) fn refused_by_router(
        &mut self,
        now: Instant,
        view: &View,
        branch: BranchId,
        router: SocketAddr,
    ) {
        if self.live_branch(branch.context).is_some() {
            // Another router has it already.
            return;
        }
        self.exclude(branch.context, router);
        self.next_router(now, view, branch.context);
    }

    /// g: not a word within the router's [`View::patience`]; or from an address of a name.
    pub(crate) fn silent(&mut self, now: Instant, view: &View, branch: BranchId) {
        self.mark_address(branch);
        if self.live_branch(branch.context) != Some(branch) {
            return;
        }
        let Some(state) = self.proxy.branch(branch) else {
            return;
        };
        let router = state.target.destination;
        if !state.data.router || !state.data.bound.is_empty() {
            return;
        }
        let Some(Pass::First(pass)) = self.proxy.data(branch.context) else {
            return;
        };
        let mut others = pass.refused.clone();
        others.push(router);
        if view.lives(router) && !view.has_router_besides(&others) {
            return;
        }
        self.counters.failovers += 1;
        self.exclude(branch.context, router);
        self.proxy.give_up(now, branch);
        self.next_router(now, view, branch.context);
    }

    /// Timer B or F.
    pub(crate) fn timed_out(&mut self, now: Instant, view: &View, branch: BranchId) {
        let id = branch.context;
        let given_up = self
            .proxy
            .branch(branch)
            .is_none_or(|branch| branch.is_given_up());
        if given_up
            || !self
                .proxy
                .context(id)
                .is_some_and(|context| context.is_pending())
        {
            return;
        }
        self.mark_address(branch);
        if let Some(&Pass::Second { first }) = self.proxy.data(id) {
            self.proxy.respond(now, id, 408, &[]);
            self.owed_by_router(first);
            return self.time_out_in_stead(now, view, first);
        }
        self.end_unanswered(now, id, 408);
    }

    /// A second pass has timed out: its first pass, if its router is lost, has no other to wait for.
    fn time_out_in_stead(&mut self, now: Instant, view: &View, first: BranchId) {
        if self.plays_for(view, first)
            && !self.rings_elsewhere(first)
            && let Answer::Delivered(_) = self.proxy.handle_response_in_stead(now, first, 408)
        {
            self.end_unanswered(now, first.context, 408);
        }
    }

    /// Answers for a callee that does not, and ends the dialog of a BYE that nobody has answered.
    pub(crate) fn end_unanswered(&mut self, now: Instant, id: ContextId, status: u16) {
        let request = self.proxy.context(id).and_then(sip::Context::request);
        let mut index = Index::new();
        if let Some(Ok(request)) = request.map(|bytes| Message::parse(bytes, &mut index)) {
            self.dialogs.handle_request_timeout(&request);
        }
        self.proxy.respond(now, id, status, &[]);
    }

    /// Timer C: the try itself has been cancelled; so must be what is bound to it.
    pub(crate) fn rang_too_long(&mut self, now: Instant, branch: BranchId) {
        let bound = self
            .proxy
            .branch(branch)
            .map(|branch| branch.data.bound.clone());
        for second in bound.unwrap_or_default() {
            self.cancel_all(now, second);
        }
    }

    fn exclude(&mut self, id: ContextId, router: SocketAddr) {
        if let Some(Pass::First(pass)) = self.proxy.data_mut(id) {
            pass.refused.push(router);
        }
    }
}

fn waits_for(branch: &sip::Branch<Try>, router: SocketAddr) -> bool {
    branch.data.router
        && branch.target.destination == router
        && branch.is_pending()
        && !branch.is_given_up()
        && !branch.data.lost
}
