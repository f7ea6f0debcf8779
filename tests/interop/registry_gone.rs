//! Life without a registry: no call ever waits for it, and nobody needs it to start.

use std::time::Duration;

use crate::agents::{Agents, plan};
use crate::quiet::{say, shared};
use crate::system::{PATIENCE, ROUTERS, System};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn calls_go_on_and_nodes_start_without_a_registry() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    let mixed = |number: u32| plan(SECOND * (number % 2), 2 * SECOND);
    agents.place_all(50, 50, mixed);
    system.kill("registry");
    agents.place_all(50, 50, mixed);
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!("registry killed: slowest request {slowest:?}"));
    assert!(slowest < SECOND / 2, "{slowest:?}");

    system.terminate("sbc");
    system.terminate("router-1");
    system.kill("router-2");
    for node in ["sbc", "router-1"] {
        assert!(system.ended(node, 2 * PATIENCE).success(), "{node}");
    }
    for node in ["sbc", "router-1", "router-2"] {
        system.start(node);
    }
    system.wait_until_up(&ROUTERS);
    assert!(!system.sbc_status().registry_connected);
    agents.place_all(50, 50, mixed);
    agents.assert_all_completed(PATIENCE);

    system.start("registry");
    system.wait_until_ready();
    agents.place_all(50, 50, mixed);
    agents.assert_all_completed(PATIENCE);
}

#[test]
fn calls_outlive_the_death_of_a_router_while_the_registry_is_gone() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    system.kill("registry");
    let mixed = |number: u32| plan(SECOND * (number % 2), 2 * SECOND);
    agents.place_all(60, 60, mixed);
    system.kill("router-1");
    agents.place_all(60, 60, mixed);
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!("slowest request {slowest:?}"));
}
