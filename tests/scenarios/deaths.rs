//! Every point at which a router can die, every kind of death, with a router left and with none.
//!
//! docs/failover.md section 4. Looked at are both ends: the call ends as its callee decided, exactly
//! one copy of each request arrives there, and nothing takes longer than finding the router dead.

use std::time::Duration;

use sim::Arrival;
use tests::{Death, Fabric, FabricConfig, draw};
use user_agent::{CallId, CallPlan, CalleeOutcome, CalleePlan, Method, Outcome};

/// Where a call stands when its router dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    FirstPassArrives,
    /// It has answered 100 and sent its second pass, and both are lost with it.
    BetweenPasses,
    /// Its 100 arrives, its second pass is lost with it.
    AfterTrying,
    SecondPassArrives,
    Ringing,
    /// The final response has reached the SBC, which gives it to the router.
    FinalArrives,
    /// The router has forwarded the final response; the ACK is not sent yet.
    BeforeAck,
    AckArrives,
    InDialog,
    ByeArrives,
    ByeAnswered,
    BeforeCancel,
    CancelArrives,
    CancelledArrives,
}

use Point::*;

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    CallerHangsUp,
    CalleeHangsUp,
    Busy,
    Cancelled,
}

const BOTH_BYES: &[Flavour] = &[Flavour::CallerHangsUp, Flavour::CalleeHangsUp];

const POINTS: &[(Point, &[Flavour])] = &[
    (
        FirstPassArrives,
        &[Flavour::CallerHangsUp, Flavour::Busy, Flavour::Cancelled],
    ),
    (BetweenPasses, &[Flavour::CallerHangsUp]),
    (AfterTrying, &[Flavour::CallerHangsUp]),
    (
        SecondPassArrives,
        &[Flavour::CallerHangsUp, Flavour::Busy, Flavour::Cancelled],
    ),
    (Ringing, &[Flavour::CallerHangsUp, Flavour::Busy]),
    (FinalArrives, &[Flavour::CallerHangsUp, Flavour::Busy]),
    (BeforeAck, &[Flavour::CallerHangsUp]),
    (AckArrives, BOTH_BYES),
    (InDialog, BOTH_BYES),
    (ByeArrives, BOTH_BYES),
    (ByeAnswered, BOTH_BYES),
    (BeforeCancel, &[Flavour::Cancelled]),
    (CancelArrives, &[Flavour::Cancelled]),
    (CancelledArrives, &[Flavour::Cancelled]),
];

const DEATHS: &[Death] = &[
    Death::Kill,
    Death::BlackHole,
    Death::Freeze(Duration::from_millis(300)),
    Death::FreezeForGood,
];

const RING: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_secs(1);
const CANCEL_AFTER: Duration = Duration::from_millis(500);
/// `detect_within` and 50 ms.
const LATE: Duration = Duration::from_millis(250);

impl Flavour {
    fn plan(self) -> (CallPlan, Duration) {
        let mut plan = CallPlan::new("1000", HOLD);
        let (callee, takes) = match self {
            Self::CallerHangsUp => (CalleePlan::answer(RING), RING + HOLD),
            Self::CalleeHangsUp => {
                plan.hold = HOLD * 60;
                let hang_up_after = Some(HOLD);
                (
                    CalleePlan {
                        hang_up_after,
                        ..CalleePlan::answer(RING)
                    },
                    RING + HOLD,
                )
            }
            Self::Busy => (CalleePlan::refuse(RING, 486), RING),
            Self::Cancelled => {
                plan.cancel_after = Some(CANCEL_AFTER);
                (CalleePlan::answer(RING * 60), CANCEL_AFTER)
            }
        };
        plan.callee = Some(callee);
        (plan, takes)
    }

    fn outcomes(self) -> (Outcome, CalleeOutcome) {
        match self {
            Self::CallerHangsUp | Self::CalleeHangsUp => {
                (Outcome::Completed, CalleeOutcome::Completed)
            }
            Self::Busy => (Outcome::Rejected(486), CalleeOutcome::Rejected(486)),
            Self::Cancelled => (Outcome::Cancelled, CalleeOutcome::Cancelled),
        }
    }

    fn requests(self) -> &'static [(u32, Method)] {
        match self {
            Self::CallerHangsUp => &[(1, Method::Invite), (2, Method::Bye)],
            Self::CalleeHangsUp | Self::Busy => &[(1, Method::Invite)],
            Self::Cancelled => &[(1, Method::Invite), (1, Method::Cancel)],
        }
    }
}

impl Point {
    /// Tells whether the next arrival is where the router dies. `to` and `from` a router: `to_router`.
    fn is_here(self, fabric: &FabricView, arrival: &Arrival<'_>) -> bool {
        let to_router = fabric.routers.contains(&arrival.to);
        let from_router = fabric.routers.contains(&arrival.from);
        let to_carrier = arrival.to == fabric.carrier;
        let is_of = |method: &str| {
            let cseq = format!(" {method}\r\n");
            String::from_utf8_lossy(arrival.bytes)
                .lines()
                .any(|line| line.starts_with("CSeq:") && format!("{line}\r\n").ends_with(&cseq))
        };
        let is_final = !arrival.starts_with("SIP/2.0 1") && arrival.starts_with("SIP/2.0 ");
        match self {
            FirstPassArrives => to_router && arrival.starts_with("INVITE "),
            BetweenPasses | AfterTrying => from_router && arrival.starts_with("SIP/2.0 100"),
            SecondPassArrives => from_router && arrival.starts_with("INVITE "),
            Ringing | BeforeCancel => to_carrier && arrival.starts_with("SIP/2.0 180"),
            FinalArrives => to_router && is_final && is_of("INVITE"),
            BeforeAck | InDialog => {
                to_carrier && arrival.starts_with("SIP/2.0 200") && is_of("INVITE")
            }
            AckArrives => to_router && arrival.starts_with("ACK "),
            ByeArrives => to_router && arrival.starts_with("BYE "),
            ByeAnswered => to_router && arrival.starts_with("SIP/2.0 200") && is_of("BYE"),
            CancelArrives => to_router && arrival.starts_with("CANCEL "),
            CancelledArrives => to_router && arrival.starts_with("SIP/2.0 487"),
        }
    }

    /// Whether the IPBX has not heard of the call yet.
    fn is_before_the_callee(self) -> bool {
        matches!(self, FirstPassArrives | BetweenPasses | AfterTrying)
    }
}

struct FabricView {
    routers: Vec<sim::HostId>,
    carrier: sim::HostId,
}

struct Case {
    point: Point,
    flavour: Flavour,
    death: Death,
    routers: usize,
    two_sides: bool,
}

/// Runs a case; returns what went wrong.
fn run(case: &Case) -> Result<(), String> {
    let &Case {
        point,
        flavour,
        death,
        routers,
        two_sides,
    } = case;
    let mut fabric = Fabric::new(FabricConfig {
        routers,
        two_sides,
        ..FabricConfig::default()
    });
    let start = fabric.world.now();
    let (plan, takes) = flavour.plan();
    let call = fabric.call(plan);
    let view = FabricView {
        routers: fabric.routers.iter().map(|router| router.host).collect(),
        carrier: fabric.carriers[0].0,
    };
    let reached = fabric.run_to(start + takes * 2, |arrival| point.is_here(&view, arrival));
    if !reached {
        return Err(format!(
            "never came to this point\n{}",
            draw(&fabric, start)
        ));
    }
    let router = fabric.router_of(&call).expect("a router has it");
    match point {
        BetweenPasses => fabric.world.lose_in_flight(view.routers[router]),
        AfterTrying => {
            fabric.world.step();
            fabric.world.lose_in_flight(view.routers[router]);
        }
        Ringing | BeforeCancel | InDialog => fabric.run_for(Duration::from_millis(100)),
        FirstPassArrives | SecondPassArrives | FinalArrives | BeforeAck | AckArrives
        | ByeArrives | ByeAnswered | CancelArrives | CancelledArrives => {}
    }
    fabric.die(router, death);
    let mut over = None;
    while over.is_none() && fabric.world.now() < start + Duration::from_secs(120) {
        fabric.run_for(Duration::from_millis(5));
        let open =
            fabric.carriers[0].1.borrow().open_calls() + fabric.ipbxs[0].1.borrow().open_calls();
        over = (open == 0).then(|| fabric.world.now() - start);
    }
    let mut wrong = judge(
        &fabric,
        case,
        &call,
        over.map(|over| over.saturating_sub(takes)),
    );
    let picture = draw(&fabric, start);
    wrong.extend(fabric.settle());
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{picture}", wrong.join("; "))),
    }
}

fn judge(fabric: &Fabric, case: &Case, call: &CallId, late: Option<Duration>) -> Vec<String> {
    let mut wrong = vec![];
    // Without a router a new call is refused, unless the one that was taken for dead comes back.
    let alone = case.routers == 1 && case.point.is_before_the_callee();
    let refused = alone && !matches!(case.death, Death::Freeze(_));
    let limit = if alone { LATE * 2 } else { LATE };
    let (caller, callee) = (fabric.caller(call), fabric.callee(call));
    let (wanted, wanted_below) = match refused {
        true => (Outcome::Rejected(503), None),
        false => (case.flavour.outcomes().0, Some(case.flavour.outcomes().1)),
    };
    if caller.outcome != Some(wanted) {
        wrong.push(format!("the caller saw {:?}", caller.outcome));
    }
    let outcome = callee.and_then(|callee| callee.outcome);
    if outcome != wanted_below {
        wrong.push(format!("the callee saw {outcome:?}"));
    }
    for (cseq, method) in case.flavour.requests() {
        let copies = fabric.ipbxs[0].1.borrow().copies(call, *cseq, *method);
        if copies != u32::from(!refused) {
            wrong.push(format!("{copies} copies of {method}"));
        }
    }
    wrong.extend(
        fabric
            .delivered_twice()
            .iter()
            .map(|twice| format!("twice: {twice:?}")),
    );
    match late {
        None => wrong.push("it never ended".into()),
        Some(late) if late > limit => wrong.push(format!("it ended {late:?} late")),
        Some(_) => {}
    }
    let slowest = caller
        .slowest
        .map(|request| request.elapsed)
        .unwrap_or_default();
    if slowest > limit {
        wrong.push(format!("a request took {slowest:?}"));
    }
    wrong
}

fn run_all(routers: usize, two_sides: bool) {
    let mut failed = 0;
    for (point, flavours) in POINTS {
        for flavour in *flavours {
            for death in DEATHS {
                let case = Case {
                    point: *point,
                    flavour: *flavour,
                    death: *death,
                    routers,
                    two_sides,
                };
                let result = run(&case);
                let verdict = result.as_ref().map_or_else(String::as_str, |()| "ok");
                println!("{point:?} {flavour:?} {death:?}: {verdict}");
                failed += usize::from(result.is_err());
            }
        }
    }
    assert_eq!(failed, 0, "cases failed");
}

#[test]
fn no_call_is_lost_when_a_router_is_left() {
    run_all(2, false);
}

#[test]
fn no_call_is_lost_when_a_router_is_left_of_an_sbc_with_two_sides() {
    run_all(3, true);
}

#[test]
fn no_established_call_is_lost_when_no_router_is_left() {
    run_all(1, false);
}
