//! A router dies at 200 calls a second: what is measured on real machines, in a simulated world.

use std::time::Duration;

use tests::{Death, Fabric, FabricConfig};
use user_agent::{CallPlan, CalleePlan, Outcome};

const CALLS: u64 = 400;
const EVERY: Duration = Duration::from_millis(5);
/// `detect_within` and 50 ms.
const LATE: Duration = Duration::from_millis(250);

#[test]
fn nobody_of_a_crowd_is_lost_or_waits_long() {
    for death in [
        Death::Kill,
        Death::BlackHole,
        Death::Freeze(Duration::from_millis(300)),
        Death::FreezeForGood,
    ] {
        let mut fabric = Fabric::new(FabricConfig::default());
        let start = fabric.world.now();
        fabric.die_at(start + EVERY * 200 + Duration::from_micros(400), 0, death);
        let mut calls = vec![];
        for number in 0..CALLS {
            fabric.run_until(start + EVERY * u32::try_from(number).unwrap());
            let mut plan = CallPlan::new("1000", Duration::from_millis(700 + number % 300));
            plan.callee = Some(CalleePlan::answer(Duration::from_millis(number * 7 % 1000)));
            calls.push(fabric.call(plan));
        }
        assert_eq!(fabric.settle(), [""; 0], "{death:?}");
        assert_eq!(fabric.delivered_twice(), [], "{death:?}");
        for call in &calls {
            let caller = fabric.caller(call);
            assert_eq!(caller.outcome, Some(Outcome::Completed), "{death:?} {call}");
            let rang = caller
                .answered
                .zip(fabric.callee(call).and_then(|callee| callee.answered));
            let answer = rang.map(|(seen, given)| seen - given).unwrap_or_default();
            assert!(answer <= LATE, "{death:?}: an answer took {answer:?}");
        }
        let slowest = fabric.carriers[0].1.borrow().report().slowest.unwrap();
        println!(
            "{death:?}: slowest {slowest:?}; {:?}",
            fabric.sbc_counters()
        );
        assert!(slowest.elapsed <= LATE, "{death:?}: {slowest:?}");
    }
}
