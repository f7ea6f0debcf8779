//! A router whose packets vanish: nothing tells of its death but its silence.

use std::time::Duration;

use control::sbc::v1::DestinationHealth;

use crate::agents::{Agents, plan};
use crate::namespaces::Namespaces;
use crate::quiet::{alone, say};
use crate::system::{PATIENCE, System};

const SECOND: Duration = Duration::from_secs(1);

/// The longest that a request may wait when a router falls silent.
const REQUEST_MAX: Duration = Duration::from_millis(500);

#[test]
fn no_call_is_lost_when_a_router_falls_into_a_black_hole() {
    let Some(_permit) = alone(&["ip", "sysctl"]) else {
        return;
    };
    let namespaces = match Namespaces::new() {
        Ok(namespaces) => namespaces,
        Err(why) => {
            return say(&format!(
                "left out: network namespaces cannot be made here: {why}"
            ));
        }
    };
    let system = System::ready_at(namespaces.places());
    let agents = Agents::start(&system);
    // Rings for 0 to 2 s, in an order without a pattern.
    let mixed = |number: u32| {
        plan(
            Duration::from_millis(u64::from(number * 37 % 41 * 50)),
            3 * SECOND,
        )
    };
    agents.place_all(1000, 200, mixed);
    namespaces.swallow("router-1");
    agents.place_all(1000, 200, mixed);
    assert_eq!(system.health("router-1"), DestinationHealth::Inactive);
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!(
        "2000 calls completed, slowest request {} ms",
        slowest.as_millis()
    ));
    assert!(slowest <= REQUEST_MAX, "a request waited {slowest:?}");

    namespaces.give_back("router-1");
    system.wait_until_up(&["router-1"]);
    agents.place_all(50, 50, mixed);
    agents.assert_all_completed(PATIENCE);
}
