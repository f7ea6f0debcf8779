//! What must hold of a run, whatever befell the routers.
//!
//! 1. A call ends as its callee decided, and the caller saw it.
//! 2. No request but ACK reaches an IPBX under two branches.
//! 3. Without loss, no request of a caller waits longer than [`WAIT_MAX`].
//! 4. When all is over, nobody keeps a transaction, response context or dialog.
//!
//! Two exceptions to the first. Where every router may die, a new call may be refused with 503, if
//! its callee never rang. Where the network loses datagrams, a call may fail if it lost every sending
//! of one message of that call between two hosts, and there were at least [`SENDINGS`] of them: the
//! RFC's timers ran out. What a dead host does not take is not lost by the network.

use std::collections::BTreeMap;
use std::time::Duration;

use sim::Fate;
use user_agent::{CallId, CallRecord, CalleeOutcome, CalleeRecord, Outcome};

use crate::run::Run;

/// No request waits longer.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// INVITE is sent seven times before Timer B, a 2xx eleven times.
const SENDINGS: usize = 7;

pub(crate) fn judge(run: &Run) -> Vec<String> {
    let mut wrong = run.left_behind.clone();
    for twice in run.fabric.delivered_twice() {
        wrong.push(format!(
            "{}: {} {} came under {:?}",
            twice.call_id, twice.cseq, twice.method, twice.branches
        ));
    }
    for call in &run.calls {
        let (caller, callee) = (run.fabric.caller(call), run.fabric.callee(call));
        let is_well = ends_as_decided(run, &caller, callee.as_ref())
            || (run.lossy && network_lost_it(run, call));
        if !is_well {
            let ended = callee.map(|callee| callee.outcome);
            wrong.push(format!(
                "{call} at {:?}: {:?}, the callee: {ended:?}, planned: {:?}",
                run.fabric
                    .world
                    .since_beginning(caller.placed)
                    .saturating_sub(run.start),
                caller.outcome,
                caller.plan
            ));
        } else if let Some(slowest) = caller.slowest
            && !run.lossy
            && slowest.elapsed > WAIT_MAX
        {
            wrong.push(format!("{call}: {slowest:?}"));
        }
    }
    wrong
}

fn ends_as_decided(run: &Run, caller: &CallRecord, callee: Option<&CalleeRecord>) -> bool {
    let Some(outcome) = caller.outcome else {
        return false;
    };
    let Some(callee) = callee else {
        let cancelled_before = caller.plan.cancel_after.is_some() && outcome == Outcome::Cancelled;
        return cancelled_before || (!run.safe && outcome == Outcome::Rejected(503));
    };
    let wanted = match caller.plan.cancel_after {
        Some(_) => (Outcome::Cancelled, CalleeOutcome::Cancelled),
        None if callee.plan.is_answer() => (Outcome::Completed, CalleeOutcome::Completed),
        None => (
            Outcome::Rejected(callee.plan.status),
            CalleeOutcome::Rejected(callee.plan.status),
        ),
    };
    (outcome, callee.outcome) == (wanted.0, Some(wanted.1))
}

/// Tells whether every sending of some message between two hosts was lost.
fn network_lost_it(run: &Run, call: &CallId) -> bool {
    let mut sendings: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for record in run
        .fabric
        .world
        .trace()
        .records()
        .iter()
        .filter(|record| record.call_id() == call.as_str())
    {
        let key = (
            record.from,
            record.to,
            record.label(),
            record.header("CSeq"),
            record.header("Via"),
        );
        let (sent, lost) = sendings.entry(key).or_default();
        *sent += 1;
        *lost += usize::from(record.fate == Fate::Lost);
    }
    sendings
        .values()
        .any(|(sent, lost)| sent == lost && *sent >= SENDINGS)
}
