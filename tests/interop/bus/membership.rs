//! Who is on the bus: all nodes agree, whoever comes and however somebody goes.

use super::{Bus, NODES, SECOND, STOCK_NOTICES};
use crate::quiet::{say, shared};
use crate::system::PATIENCE;

#[test]
fn node_lists_agree_through_joins_leaves_and_deaths() {
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let mut bus = Bus::at(crate::system::Places::on_loopback());
    for count in 1..=NODES.len() {
        // Alternately a Tandem and a Kamailio.
        let order = ["router-1", "kamailio-1", "router-2", "kamailio-2"];
        bus.start(order[count - 1]);
        let took = bus.wait_until_agreed(&order[..count], 20 * SECOND);
        say(&format!("{count} agree after {took:?}"));
    }

    let left = ["router-1", "kamailio-1", "kamailio-2"];
    bus.system.terminate("router-2");
    assert!(bus.system.ended("router-2", PATIENCE).success());
    let took = bus.wait_until_agreed(&left, 5 * SECOND);
    say(&format!("a graceful leave is known after {took:?}"));
    bus.start("router-2");
    let took = bus.wait_until_agreed(&NODES, 20 * SECOND);
    say(&format!("back after {took:?}"));

    for dead in ["router-2", "kamailio-2"] {
        let living: Vec<_> = NODES.into_iter().filter(|name| *name != dead).collect();
        bus.kill(dead);
        let took = bus.wait_until_agreed(&living, STOCK_NOTICES);
        say(&format!("the death of {dead} is known after {took:?}"));
        bus.start(dead);
        let took = bus.wait_until_agreed(&NODES, STOCK_NOTICES);
        say(&format!("{dead} is back after {took:?}"));
    }
    bus.assert_no_complaints();
}
