//! Call flows through a whole fabric.

mod deaths;

use std::time::Duration;

use tests::{Fabric, FabricConfig, draw};
use user_agent::{CallPlan, CalleePlan, Outcome};

#[test]
fn a_plain_call() {
    let mut fabric = Fabric::new(FabricConfig::default());
    let start = fabric.world.now();
    let mut plan = CallPlan::new("1000", Duration::from_secs(2));
    plan.callee = Some(CalleePlan::answer(Duration::from_secs(1)));
    let call = fabric.call(plan);
    fabric.run_for(Duration::from_secs(60));
    println!("{}", draw(&fabric, start));
    assert_eq!(fabric.caller(&call).outcome, Some(Outcome::Completed));
    assert_eq!(fabric.delivered_twice(), []);
    assert_eq!(fabric.settle(), [""; 0]);
}
