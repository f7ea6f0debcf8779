//! Where routers send requests: on to the next place when one says nothing, and straight to the IPBX.

use std::time::Duration;

use tandem_router::Egress;
use tests::{Death, Fabric, FabricConfig, draw};
use user_agent::{CallId, CallPlan, CalleeOutcome, CalleePlan, InDialog, Method, Outcome};

const RING: Duration = Duration::from_millis(500);
const HOLD: Duration = Duration::from_secs(5);
/// `first_response` of a place that a route names by URI.
const SILENCE: Duration = Duration::from_secs(2);

fn plan(callee: CalleePlan) -> CallPlan {
    CallPlan {
        callee: Some(callee),
        ..CallPlan::new("1000", HOLD)
    }
}

fn copies(fabric: &Fabric, ipbx: usize, call: &CallId, cseq: u32, method: Method) -> u32 {
    fabric.ipbxs[ipbx].1.borrow().copies(call, cseq, method)
}

#[test]
fn a_call_goes_on_to_the_next_ipbx_when_the_first_says_nothing() {
    let mut fabric = Fabric::new(FabricConfig {
        ipbxs: 2,
        serial: true,
        ..FabricConfig::default()
    });
    let start = fabric.world.now();
    fabric.world.isolate(fabric.ipbxs[0].0, true);
    let call = fabric.call(plan(CalleePlan::answer(RING)));
    let refused = fabric.call(plan(CalleePlan::refuse(RING, 486)));
    fabric.run_for(SILENCE + RING * 2);
    fabric.run_for(HOLD);
    let picture = draw(&fabric, start);
    let caller = fabric.caller(&call);
    assert_eq!(caller.outcome, Some(Outcome::Completed), "{picture}");
    assert_eq!(
        fabric.caller(&refused).outcome,
        Some(Outcome::Rejected(486)),
        "{picture}"
    );
    for (cseq, method) in [(1, Method::Invite), (2, Method::Bye)] {
        assert_eq!(copies(&fabric, 1, &call, cseq, method), 1, "{picture}");
    }
    assert_eq!(fabric.settle(), [""; 0], "{picture}");
}

#[test]
fn a_call_goes_on_to_the_next_ipbx_when_the_network_says_that_the_first_is_gone() {
    let mut fabric = Fabric::new(FabricConfig {
        ipbxs: 2,
        serial: true,
        ..FabricConfig::default()
    });
    let start = fabric.world.now();
    fabric.world.kill(fabric.ipbxs[0].0, true);
    let call = fabric.call(plan(CalleePlan::answer(RING)));
    fabric.run_for(SILENCE);
    let picture = draw(&fabric, start);
    assert_eq!(fabric.sbc_counters().unreachable, 1, "{picture}");
    assert_eq!(copies(&fabric, 1, &call, 1, Method::Invite), 1, "{picture}");
    fabric.run_for(HOLD);
    assert_eq!(
        fabric.caller(&call).outcome,
        Some(Outcome::Completed),
        "{picture}"
    );
}

#[test]
fn a_router_that_dies_after_its_second_place_has_its_final_answer_given_in_its_stead() {
    let mut fabric = Fabric::new(FabricConfig {
        ipbxs: 2,
        serial: true,
        ..FabricConfig::default()
    });
    let start = fabric.world.now();
    fabric.world.isolate(fabric.ipbxs[0].0, true);
    let call = fabric.call(plan(CalleePlan::refuse(RING * 4, 486)));
    fabric.run_for(SILENCE + RING);
    let router = fabric.router_of(&call).unwrap();
    fabric.die(router, Death::BlackHole);
    fabric.run_for(RING * 8);
    let picture = draw(&fabric, start);
    let outcome = fabric.caller(&call).outcome;
    assert_eq!(outcome, Some(Outcome::Rejected(486)), "{picture}");
}

fn direct(routers: usize, two_sides: bool) -> Fabric {
    Fabric::new(FabricConfig {
        routers,
        two_sides,
        egress: Egress::Direct,
        ..FabricConfig::default()
    })
}

#[test]
fn a_router_may_send_straight_to_the_ipbx_and_either_side_hangs_up() {
    for two_sides in [false, true] {
        let mut fabric = direct(2, two_sides);
        let start = fabric.world.now();
        let mut by_caller = plan(CalleePlan::answer(RING));
        by_caller.in_dialog = vec![(RING, InDialog::Reinvite), (RING * 2, InDialog::Info)];
        let by_caller = fabric.call(by_caller);
        let by_callee = fabric.call(CallPlan {
            hold: HOLD * 60,
            ..plan(CalleePlan {
                hang_up_after: Some(HOLD),
                ..CalleePlan::answer(RING)
            })
        });
        let busy = fabric.call(plan(CalleePlan::refuse(RING, 486)));
        let cancelled = fabric.call(CallPlan {
            cancel_after: Some(RING),
            ..plan(CalleePlan::answer(RING * 60))
        });
        fabric.run_for(HOLD * 2);
        let picture = draw(&fabric, start);
        for (call, outcome) in [
            (&by_caller, Outcome::Completed),
            (&by_callee, Outcome::Completed),
            (&busy, Outcome::Rejected(486)),
            (&cancelled, Outcome::Cancelled),
        ] {
            assert_eq!(fabric.caller(call).outcome, Some(outcome), "{picture}");
        }
        let outcome = fabric.callee(&cancelled).and_then(|callee| callee.outcome);
        assert_eq!(outcome, Some(CalleeOutcome::Cancelled), "{picture}");
        assert!(fabric.delivered_twice().is_empty(), "{picture}");
        let (ipbx, sbc) = (fabric.ipbxs[0].0, fabric.sbc);
        for record in fabric.world.trace().records() {
            let between = [Some(record.from), record.to];
            let past_the_router = between == [Some(sbc), Some(ipbx)];
            assert!(!past_the_router, "{}\n{picture}", record.label());
            if record.to == Some(ipbx) {
                for name in ["X-Destination-URI", "X-Forwarded-For"] {
                    assert_eq!(record.header(name), None, "{}", record.label());
                }
            }
        }
        let counters = fabric.sbc_counters();
        assert_eq!(counters.failovers, 0, "{picture}");
        assert_eq!(fabric.settle(), [""; 0], "{picture}");
    }
}

#[test]
fn a_bye_of_the_carrier_goes_through_the_heir_of_a_router_that_sent_straight() {
    let mut fabric = direct(2, false);
    let start = fabric.world.now();
    let call = fabric.call(plan(CalleePlan {
        bye_delay: SILENCE * 2,
        ..CalleePlan::answer(RING)
    }));
    fabric.run_for(RING * 3);
    let router = fabric.router_of(&call).unwrap();
    fabric.die(router, Death::Kill);
    fabric.run_for(HOLD * 2);
    let picture = draw(&fabric, start);
    let outcome = fabric.caller(&call).outcome;
    assert_eq!(outcome, Some(Outcome::Completed), "{picture}");
    let twice = fabric.delivered_twice();
    assert!(
        twice.is_empty(),
        "a slow callee is not asked twice: {twice:?}\n{picture}"
    );
}
