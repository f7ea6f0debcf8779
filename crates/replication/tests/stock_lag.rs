//! How long it takes until a Kamailio has a change: from when it was made here to the Kamailio's answer.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stock_model;

use std::time::Duration;

use replication::stock::WINDOW;
use replication::{Cause, EntryRecord, Key, Lag, Observed, Origin, Record, Stamp, Write};
use stock_model::kamailio::Version::{V56, V62};
use stock_model::{LONG, SHORT, World, entry, ms, stock, text};

/// There and back on this network, at most, and what the model takes to answer.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(30);

fn lag(world: &World) -> Lag {
    world.ours.channel.status().lag
}

/// The least of all, at most a quarter too high.
fn least(lag: &Lag) -> Duration {
    lag.quantile(0).unwrap()
}

fn greatest(lag: &Lag) -> Duration {
    lag.quantile(1000).unwrap()
}

#[test]
fn every_change_of_a_call_is_measured_once() {
    let mut world = World::settled(1, &[V56]);
    assert_eq!(lag(&world).count(), 0, "nothing has changed yet");
    world.call("a");
    // It hears of the answer and the ACK as of one.
    assert_eq!(world.words(0), ["UPDATE(1)", "STATE(2)", "STATE(4)"]);
    assert_eq!(lag(&world).count(), 3);
    world.bye("a");
    world.run(ms(60_000));
    assert_eq!(world.words(0)[3..], ["STATE(5)", "RM"]);
    let lag = lag(&world);
    assert_eq!(lag.count(), 4, "RM says nothing new");
    assert!(
        least(&lag) > Duration::ZERO && greatest(&lag) <= ROUND_TRIP_MAX,
        "{lag:?}"
    );
}

#[test]
fn a_change_that_had_to_wait_is_measured_from_when_it_was_made() {
    let mut world = World::settled(2, &[V56]);
    world.cut.insert(stock(0));
    world.invite("a");
    world.ring("a");
    world.run(ms(100));
    world.set(LONG, "b", "1");
    world.set(LONG, "b", "2");
    world.run(ms(100));
    world.cut.clear();
    world.run(ms(1_000));
    // The repeats after half a second were answered, and then what had waited was told.
    assert_eq!(world.words(0), ["UPDATE(1)", "SET b", "STATE(2)", "SET b"]);
    let lag = lag(&world);
    assert_eq!(lag.count(), 4);
    assert!(least(&lag) >= ms(500), "{lag:?}");
    assert!(
        greatest(&lag) <= (ms(500) + 2 * ROUND_TRIP_MAX) * 5 / 4,
        "{lag:?}"
    );
}

#[test]
fn a_change_for_which_there_was_no_room_is_measured_from_when_it_was_made() {
    let mut world = World::settled(3, &[V56]);
    world.cut.insert(stock(0));
    for i in 0..2 * WINDOW {
        world.set(LONG, &i.to_string(), "1");
    }
    world.run(ms(200));
    assert_eq!(world.words(0).len(), WINDOW);
    world.cut.clear();
    world.run(ms(1_000));
    let lag = lag(&world);
    assert_eq!(lag.count(), 2 * WINDOW as u64);
    assert!(least(&lag) >= ms(500), "{lag:?}");
}

#[test]
fn what_needs_not_be_told_and_what_others_tell_is_not_measured() {
    let mut world = World::settled(4, &[V56]);
    world.call("a");
    let before = lag(&world).count();
    world.see("a", true, Observed::Requested { cseq: 5 });
    world.run(ms(5_000));
    let member = "10.0.0.9:5062".parse().unwrap();
    let record = EntryRecord {
        value: Some(text("1")),
        write: Write {
            stamp: Stamp { clock: 1, node: 9 },
            mark: 0,
            shown: 0,
        },
        remaining: None,
        gone_hash: 0,
    };
    let key = Key::Entry(entry(LONG, "b"));
    world
        .write(|now, replica| {
            replica.merge(now, &key, Record::Entry(record), Origin::Tandem(member))
        })
        .unwrap();
    world.run(ms(5_000));
    assert_eq!(lag(&world).count(), before);
    // The next change of that call is not measured from the one that was not told.
    world.bye("a");
    world.run(ms(5_000));
    assert_eq!(lag(&world).count(), before + 1);
    assert!(greatest(&lag(&world)) <= ROUND_TRIP_MAX);
}

#[test]
fn what_is_told_again_because_a_node_asks_or_is_back_is_not_measured() {
    let mut world = World::settled(5, &[V56]);
    world.call("a");
    world.set(LONG, "b", "1");
    world.run(ms(100));
    let before = lag(&world).count();
    assert_eq!(before, 4);
    world.said.clear();
    world.kamailio(0, |_, it| it.restart());
    world.kamailio(0, |now, it| it.sync(now));
    world.run(ms(120_000));
    assert!(world.words(0).contains(&"UPDATE(4)".to_owned()));
    world.cut.insert(stock(0));
    world.run(ms(20_000));
    world.set(LONG, "c", "1");
    world.cut.clear();
    world.said.clear();
    world.run(ms(120_000));
    let words = world.words(0);
    assert!(words.contains(&"UPDATE(4)".to_owned()), "{words:?}");
    assert_eq!(world.kamailios[0].value(LONG, "c"), Some(&text("1")));
    assert_eq!(lag(&world).count(), before);
}

#[test]
fn what_was_refused_is_not_measured_when_it_is_taken_in_the_end() {
    let mut world = World::settled(6, &[V56]);
    world.kamailios[0].is_full = true;
    world.invite("a");
    world.ring("a");
    world.run(ms(100));
    world.kamailios[0].is_full = false;
    world.run(ms(70_000));
    assert_eq!(world.words(0), ["UPDATE(1)", "UPDATE(2)"]);
    assert_eq!(lag(&world).count(), 0);
    world.answer("a");
    world.ack("a");
    world.run(ms(100));
    assert_eq!(lag(&world).count(), 1);
    assert!(greatest(&lag(&world)) <= ROUND_TRIP_MAX);
}

#[test]
fn an_end_that_is_said_twice_is_measured_once() {
    let mut world = World::settled(7, &[V56]);
    world.loss = 10_000;
    world.invite("a");
    world.loss = 0;
    world.run(ms(100));
    world.see("a", true, Observed::Ended(Cause::Cancelled));
    world.run(ms(100));
    assert_eq!(lag(&world).count(), 1);
    world.run(ms(60_000));
    let words = ["UPDATE(1)", "UPDATE(5)", "RM", "UPDATE(5)", "RM"];
    assert_eq!(world.words(0), words);
    assert_eq!(lag(&world).count(), 1);
}

#[test]
fn a_value_with_a_lifetime_of_its_own_is_there_when_both_are() {
    let mut world = World::settled(8, &[V62]);
    let key = entry(SHORT, "a");
    // Both before anything is sent.
    world.write(|now, replica| {
        replica.set(now, &key, text("1"), Origin::Local).unwrap();
        replica.set_expire(now, &key, 9, Origin::Local).unwrap();
    });
    world.run(ms(1));
    assert_eq!(world.words(0), ["SET a"]);
    while world.words(0).len() < 2 {
        world.run(ms(1));
        assert_eq!(lag(&world).count(), 0, "the half of it");
    }
    world.run(ms(100));
    assert_eq!(world.words(0), ["SET a", "SET_EXPIRE a 9"]);
    assert_eq!(lag(&world).count(), 1);
    world.delete(SHORT, "a");
    world.run(ms(100));
    assert_eq!(lag(&world).count(), 2);
}
