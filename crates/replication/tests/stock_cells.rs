//! Two routers and Kamailios in one cell, and what takes whose place.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stock_model;

use replication::tandem::Kind;
use stock_model::cell::{Cell, address};
use stock_model::kamailio::Version::V56;
use stock_model::{LONG, ms, text};

/// A Tandem node at place 0 and a Kamailio at place 1 that it knows.
fn router_and_kamailio(seed: u64) -> Cell {
    let mut cell = Cell::new(seed, 2);
    cell.start_stock(1, V56);
    cell.start_tandem(0);
    cell.run(ms(20_000));
    assert_eq!(cell.tandem(0).kind(address(1)), Kind::Stock);
    cell
}

#[test]
fn a_router_in_the_place_of_a_kamailio_executes_nothing_that_was_meant_for_it() {
    let mut cell = router_and_kamailio(1);
    cell.stop(1);
    cell.set(0, LONG, "k", "1");
    cell.run(ms(100));
    cell.set(0, LONG, "k", "2");
    // A moment before the first repeat, the second router hears it before it has asked anybody anything.
    cell.run(ms(399));
    cell.start_tandem(1);
    let started = cell.now;
    cell.run(ms(20_000));
    assert_eq!(cell.tandem(0).kind(address(1)), Kind::Tandem);
    assert_eq!(cell.tandem(1).kind(address(0)), Kind::Tandem);
    for i in [0, 1] {
        assert_eq!(cell.value(i, LONG, "k"), Some(text("2")), "at {i}");
    }
    assert_eq!(cell.tandem(1).stock_counters().left_unanswered, 1);
    let repeats = cell
        .sent
        .iter()
        .filter(|(at, from, _)| *at > started && *from == 0);
    assert_eq!(
        repeats.count(),
        1,
        "then it was known and all was withdrawn"
    );
    assert_eq!(cell.tandem(0).stock_counters().withdrawn, 1);
}

#[test]
fn a_kamailio_in_the_place_of_a_router_is_heard_as_soon_as_it_was_asked() {
    let mut cell = Cell::settled(2, &[]);
    cell.set(0, LONG, "ours", "1");
    cell.run(ms(1_000));
    // Nobody has missed the router yet, nor asked what is there now.
    cell.start_stock(1, V56);
    cell.set(1, LONG, "theirs", "1");
    cell.run(ms(1_000));
    assert_eq!(cell.tandem(0).kind(address(1)), Kind::Stock);
    assert_eq!(cell.value(0, LONG, "theirs"), Some(text("1")));
    assert_eq!(cell.tandem(0).stock_counters().left_unanswered, 1);
}
