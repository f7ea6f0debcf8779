//! What a Kamailio is told of tables, and how a difference is found and ended.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stock_model;

use std::time::Duration;

use dmq_bodies::{Numbering, TableMessage};
use replication::stock::{SYNCS_APART, TABLES_AGAIN_MAX, WINDOW};
use replication::{EntryRecord, Key, Origin, Record, Replica, Stamp, Write};
use stock_model::kamailio::Version::{V56, V62};
use stock_model::{LONG, SHORT, SHORT_SECONDS, WALL, World, entry, ms, ours, stock, text};

fn value(world: &World, table: &str, key: &str) -> Option<htable::Value> {
    let table = world
        .ours
        .replica
        .entries()
        .tables()
        .table(table.as_bytes())?;
    let entry = table.entry(world.now, key.as_bytes());
    entry.map(|entry| entry.value.clone())
}

fn expire(world: &mut World, key: &str, seconds: i64) {
    let key = entry(SHORT, key);
    world
        .write(|now, replica| replica.set_expire(now, &key, seconds, Origin::Local))
        .unwrap();
}

/// Lets a node fall silent, until it has been noticed.
fn cut(world: &mut World, i: usize) {
    world.cut.insert(stock(i));
    world.run(ms(20_000));
    assert!(!world.ours.channel.status().nodes[i].is_up);
}

fn heal(world: &mut World) {
    world.cut.clear();
    world.said.clear();
    // It is asked for tables once a minute at most.
    world.run(ms(40_000));
}

fn differences(world: &World, i: usize) -> Option<u64> {
    world.ours.channel.status().nodes[i].stock_differences
}

#[test]
fn writes_and_deletions_are_told_one_by_one() {
    let mut world = World::settled(1, &[V56, V62]);
    world.set(SHORT, "a", "1");
    world.set(LONG, "b", "2");
    world.run(ms(100));
    for kamailio in &world.kamailios {
        assert_eq!(kamailio.value(SHORT, "a"), Some(&text("1")));
        assert_eq!(kamailio.value(LONG, "b"), Some(&text("2")));
    }
    world.delete(LONG, "b");
    world.set(LONG, "c", "3");
    world.run(ms(100));
    world
        .write(|now, replica| replica.delete_matching(now, b"long", None, Origin::Local))
        .unwrap();
    world.run(ms(100));
    assert_eq!(
        world.words(0),
        ["SET a", "SET b", "DELETE b", "SET c", "DELETE c"]
    );
    assert!(world.kamailios.iter().all(|it| it.values(LONG).is_empty()));
    assert!(world.kamailios.iter().all(|it| it.log.is_empty()));
}

#[test]
fn writes_in_a_burst_are_told_as_the_last_of_them() {
    let mut world = World::settled(2, &[V56]);
    for i in 0..10 {
        world.set(SHORT, "a", &i.to_string());
    }
    world.run(ms(100));
    assert_eq!(world.words(0), ["SET a", "SET a"]);
    assert_eq!(world.kamailios[0].value(SHORT, "a"), Some(&text("9")));
}

#[test]
fn a_lifetime_of_its_own_is_told_after_the_value_was_answered() {
    let mut world = World::settled(3, &[V56, V62]);
    for (key, seconds) in [("a", 9), ("b", 0)] {
        world.set(SHORT, key, "1");
        expire(&mut world, key, seconds);
    }
    world.run(ms(1_000));
    let words = world.words(0);
    let of = |key: &str| {
        let mut words = words.clone();
        words.retain(|word| word.split(' ').nth(1) == Some(key));
        words
    };
    assert_eq!(of("a"), ["SET a", "SET a", "SET_EXPIRE a 9"]);
    assert_eq!(of("b"), ["SET b", "SET b", "SET_EXPIRE b 0"]);
    for kamailio in &world.kamailios {
        let short = &kamailio.tables[SHORT.as_bytes()].entries;
        let left = short[&b"a"[..]].expires.unwrap() - world.now;
        assert!(left > ms(7_900) && left < ms(9_100), "{left:?}");
        assert_eq!(short[&b"b"[..]].expires, None);
    }
}

#[test]
fn a_kamailios_writes_are_taken_and_not_repeated() {
    let mut world = World::settled(4, &[V56, V62]);
    for i in [0, 1] {
        let key = format!("k{i}");
        world.kamailio(i, |now, it| {
            it.set(now, SHORT, &key, "v");
            it.set_expire(now, SHORT, &key, 30);
        });
        world.run(ms(100));
        assert_eq!(value(&world, SHORT, &key), Some(text("v")));
        let held = world.ours.replica.entries();
        let record = held.record(world.now, &entry(SHORT, &key)).unwrap();
        assert!(record.remaining.unwrap() <= Duration::from_secs(30));
        world.kamailio(i, |now, it| it.delete(now, SHORT, &key));
        world.run(ms(100));
        assert_eq!(value(&world, SHORT, &key), None);
    }
    assert!(world.said.is_empty());
}

#[test]
fn equal_milliseconds_do_not_lose_a_write_to_a_node_where_the_last_write_wins() {
    let mut world = World::settled(5, &[V62]);
    world.kamailios[0].ahead = 20_000;
    world.kamailio(0, |now, it| it.set(now, SHORT, "a", "theirs"));
    world.run(ms(100));
    world.wall_stands_at = Some(world.clock().wall);
    for value in ["1", "2", "3"] {
        world.set(SHORT, "a", value);
        world.run(ms(100));
        assert_eq!(world.kamailios[0].value(SHORT, "a"), Some(&text(value)));
    }
}

#[test]
fn a_write_of_ours_that_is_overtaken_by_theirs_is_followed_by_theirs() {
    let mut world = World::settled(15, &[V56]);
    world.loss = 10_000;
    world.set(LONG, "a", "ours");
    world.loss = 0;
    world.kamailio(0, |now, it| it.set(now, LONG, "a", "theirs"));
    world.run(ms(5_000));
    assert_eq!(world.words(0), ["SET a", "SET a"]);
    assert_eq!(value(&world, LONG, "a"), Some(text("theirs")));
    assert_eq!(world.kamailios[0].value(LONG, "a"), Some(&text("theirs")));
}

#[test]
fn a_table_that_the_node_does_not_have_is_left_alone_until_it_returns() {
    let mut world = World::settled(6, &[V56]);
    world.kamailios[0].tables.remove(LONG.as_bytes());
    world.set(LONG, "a", "1");
    world.run(ms(100));
    world.set(LONG, "b", "1");
    world.run(ms(300_000));
    assert_eq!(world.words(0), ["SET a"]);
    let status = world.ours.channel.status();
    assert_eq!(status.nodes[0].unknown_tables, [LONG]);
    assert_eq!(status.nodes[0].stock_differences, Some(0));
    assert!(world.asked(0) <= 2, "a question or two, not one a minute");
}

#[test]
fn a_table_that_was_refused_once_is_told_again_when_the_node_shows_that_it_has_it() {
    let mut world = World::settled(16, &[V56]);
    world.set(LONG, "a", "1");
    world.run(ms(100));
    world.kamailios[0].is_full = true;
    world.set(LONG, "b", "1");
    world.run(ms(100));
    assert_eq!(world.kamailios[0].value(LONG, "b"), None);
    world.kamailios[0].is_full = false;
    world.run(ms(150_000));
    assert_eq!(world.kamailios[0].value(LONG, "b"), Some(&text("1")));
    world.set(LONG, "c", "1");
    world.run(ms(1_000));
    assert_eq!(world.kamailios[0].value(LONG, "c"), Some(&text("1")));
}

#[test]
fn tables_are_asked_for_however_many_calls_begin_meanwhile() {
    let mut world = World::new(17, &[V56]);
    world.kamailio(0, |now, it| it.set(now, LONG, "theirs", "1"));
    world.join();
    for call in 0..100u32 {
        world.kamailio(0, |now, it| {
            it.invite(now, &format!("call {call}"), 4_000 + call)
        });
        world.run(ms(100));
        let status = world.ours.channel.unheard();
        assert!(status <= 1);
    }
    assert_eq!(value(&world, LONG, "theirs"), Some(text("1")));
    assert_eq!(world.ours.channel.unheard(), 0, "it has told all it has");
}

#[test]
fn what_a_node_never_takes_is_offered_ever_more_seldom_and_never_given_up() {
    let mut world = World::settled(14, &[V56]);
    world.kamailios[0].refuses = Some("poison".into());
    world.set(LONG, "poison", "1");
    world.run(ms(3_600_000));
    let offered = world.words(0).len();
    assert!((6..=9).contains(&offered), "{offered}");
    assert_eq!(differences(&world, 0), Some(1), "and it is shown");
    world.run(ms(24 * 3_600_000));
    let offered = world.words(0).len() - offered;
    assert!(
        (90..=97).contains(&offered),
        "four times an hour: {offered}"
    );
    world.kamailios[0].refuses = None;
    world.run(TABLES_AGAIN_MAX + ms(5_000));
    assert_eq!(world.kamailios[0].value(LONG, "poison"), Some(&text("1")));
    world.run(TABLES_AGAIN_MAX + ms(5_000));
    assert_eq!(differences(&world, 0), Some(0));
}

#[test]
fn a_node_that_returns_is_compared_with_at_once_however_long_the_pauses_had_become() {
    let mut world = World::settled(19, &[V56]);
    world.kamailios[0].refuses = Some("poison".into());
    world.set(LONG, "poison", "1");
    world.run(ms(3_600_000));
    cut(&mut world, 0);
    world.kamailios[0].refuses = None;
    // It was asked less than a minute ago, perhaps.
    world.run(ms(40_000));
    heal(&mut world);
    assert_eq!(world.kamailios[0].value(LONG, "poison"), Some(&text("1")));
}

#[test]
fn a_key_that_another_writes_while_it_waits_is_told_once_and_with_its_lifetime() {
    let mut world = World::settled(18, &[V56]);
    // The window is full of requests that nobody answers.
    world.loss = 10_000;
    for i in 0..WINDOW {
        world.set(LONG, &format!("filler {i}"), "1");
    }
    world.set(SHORT, "k", "ours");
    world.loss = 0;
    world.kamailio(0, |now, it| it.set(now, SHORT, "k", "theirs"));
    world.loss = 10_000;
    world.run(ms(100));
    assert_eq!(value(&world, SHORT, "k"), Some(text("theirs")));
    world.set(SHORT, "k", "ours again");
    expire(&mut world, "k", 9);
    let waiting = world.ours.channel.status().nodes[0].dirty;
    assert_eq!(waiting, 1, "each key waits once");
    world.loss = 0;
    world.run(ms(3_000));
    let mut words = world.words(0);
    words.retain(|word| word.contains(" k"));
    assert_eq!(words.len(), 2, "{words:?}");
    assert_eq!(words[0], "SET k");
    assert!(words[1].starts_with("SET_EXPIRE k "), "{words:?}");
}

#[test]
fn a_node_that_asks_all_the_time_is_answered_once_in_a_while() {
    let mut world = World::settled(20, &[V56]);
    world.set(LONG, "k", "v");
    world.call("c");
    world.said.clear();
    for _ in 0..200 {
        world.kamailio(0, |now, it| it.sync(now));
        world.run(ms(100));
    }
    let answers = |world: &World, word: &str| {
        let words = world.words(0);
        words.iter().filter(|told| *told == word).count()
    };
    for word in ["CELLS 1", "UPDATE(4)"] {
        assert_eq!(answers(&world, word), 2, "{word}: at once, and 10 s later");
    }
    world.run(SYNCS_APART);
    for word in ["CELLS 1", "UPDATE(4)"] {
        assert_eq!(
            answers(&world, word),
            3,
            "{word}: the last question is answered"
        );
    }
    world.run(ms(60_000));
    assert_eq!(answers(&world, "CELLS 1"), 3);
    assert!(world.ours.channel.counters().syncs_deferred > 390);
}

#[test]
fn a_deletion_that_another_router_saw_is_known_here_by_the_value_that_went() {
    let mut world = World::settled(22, &[V56]);
    cut(&mut world, 0);
    world.kamailio(0, |now, it| {
        it.set(now, LONG, "old", "1");
        it.set(now, LONG, "new", "2");
    });
    // Nobody repeats any of it by then.
    world.run(ms(31_000));
    let entries = world.ours.replica.entries();
    let gone = EntryRecord {
        value: None,
        write: Write {
            stamp: Stamp { clock: 1, node: 2 },
            ..Write::default()
        },
        remaining: None,
        gone_hash: entries.value_hash(&text("1")),
    };
    for key in ["old", "new"] {
        let (key, gone) = (Key::Entry(entry(LONG, key)), Record::Entry(gone.clone()));
        let merge =
            |now, replica: &mut Replica| replica.merge(now, &key, gone, Origin::Tandem(ours()));
        world.write(merge).unwrap();
    }
    heal(&mut world);
    assert_eq!(world.words(0), ["DELETE old"]);
    assert_eq!(value(&world, LONG, "new"), Some(text("2")), "written since");
}

#[test]
fn what_was_passed_on_and_turns_out_to_be_gone_is_ended_by_a_comparison() {
    let mut world = World::settled(21, &[V56, V56]);
    world.run(ms(300_000));
    cut(&mut world, 0);
    world.kamailio(0, |now, it| it.set(now, LONG, "k", "1"));
    world.run(ms(31_000));
    heal(&mut world);
    assert_eq!(world.kamailios[1].value(LONG, "k"), Some(&text("1")));
    // A Tandem node says that it was deleted, and believes that every Kamailio knows.
    let write = Write {
        stamp: Stamp { clock: 1, node: 2 },
        ..Write::default()
    };
    let gone = EntryRecord {
        value: None,
        write,
        remaining: None,
        gone_hash: 0,
    };
    let (key, gone) = (Key::Entry(entry(LONG, "k")), Record::Entry(gone));
    let other = Origin::Tandem(ours());
    world
        .write(|now, replica| replica.merge(now, &key, gone, other))
        .unwrap();
    assert_eq!(value(&world, LONG, "k"), None);
    world.run(ms(130_000));
    for kamailio in &world.kamailios {
        assert_eq!(kamailio.value(LONG, "k"), None);
    }
}

#[test]
fn an_asker_gets_small_batches_of_all_that_is_replicated() {
    let mut world = World::settled(7, &[V56, V56]);
    let local = htable::Definition::new("local");
    world.write(|_, replica| replica.define(local)).unwrap();
    world.set("local", "x", "never told");
    for i in 0..100 {
        world.set(SHORT, &format!("key-{i}"), "value");
    }
    world.set(SHORT, "for ever", "value");
    expire(&mut world, "for ever", 0);
    world.run(ms(2_000));
    world.said.clear();
    world.kamailio(0, |now, it| {
        it.restart();
        it.sync(now);
    });
    world.run(ms(5_000));
    let batches: Vec<_> = world
        .said
        .iter()
        .filter(|it| it.channel == "htable")
        .collect();
    assert!(batches.iter().all(|it| it.to == stock(0)), "nobody else");
    assert!(batches.len() > 5);
    assert!(batches.iter().all(|it| it.body.len() <= 1200));
    let kamailio = &world.kamailios[0];
    assert_eq!(kamailio.values(SHORT).len(), 100);
    let short = &kamailio.tables[SHORT.as_bytes()].entries;
    let left = short[&b"key-7"[..]].expires.unwrap() - world.now;
    assert!(
        left < Duration::from_secs(SHORT_SECONDS) - ms(5_000),
        "{left:?}"
    );
    assert!(kamailio.log.is_empty());
}

#[test]
fn an_empty_cell_is_answered_too() {
    let mut world = World::settled(8, &[V56]);
    world.kamailio(0, |now, it| it.sync(now));
    world.run(ms(100));
    assert_eq!(world.words(0), ["CELLS 0"]);
}

#[test]
fn an_old_node_is_spoken_to_in_its_numbering() {
    let mut world = World::settled(9, &[V56]);
    world.kamailios[0].numbering = Numbering::Old;
    world.kamailio(0, |now, it| it.set(now, SHORT, "theirs", "1"));
    world.run(ms(100));
    world.set(SHORT, "ours", "2");
    expire(&mut world, "ours", 50);
    world.delete(SHORT, "theirs");
    world.run(ms(1_000));
    let kamailio = &world.kamailios[0];
    assert_eq!(kamailio.value(SHORT, "ours"), Some(&text("2")));
    assert_eq!(kamailio.value(SHORT, "theirs"), None);
    assert!(kamailio.log.is_empty(), "{:?}", kamailio.log);
}

#[test]
fn after_a_return_only_differences_are_told_and_each_side_is_right_about_its_own() {
    let mut world = World::settled(10, &[V56, V56]);
    world.kamailio(0, |now, it| {
        it.set(now, LONG, "theirs", "1");
        it.set(now, LONG, "same", "1");
        it.set(now, LONG, "deleted here", "1");
    });
    world.set(LONG, "ours", "1");
    world.run(ms(100));
    cut(&mut world, 0);
    world.kamailio(0, |now, it| {
        it.set(now, LONG, "theirs", "2");
        it.set(now, LONG, "new there", "2");
        it.set(now, LONG, "ours", "not so");
        it.set(now, SHORT, "short there", "2");
        it.set_expire(now, SHORT, "short there", 300);
    });
    world.delete(LONG, "deleted here");
    world.set(LONG, "new here", "2");
    world.set(SHORT, "short here", "2");
    expire(&mut world, "short here", 200);
    // Nobody repeats any of it by then.
    world.run(ms(31_000));
    heal(&mut world);
    let mut words = world.words(0);
    words.sort();
    let lifetime = words.remove(4);
    assert!(
        lifetime.starts_with("SET_EXPIRE short here 1"),
        "{lifetime}"
    );
    assert_eq!(
        words,
        [
            "DELETE deleted here",
            "SET new here",
            "SET ours",
            "SET short here"
        ]
    );
    // What was found there, the other one hears from us.
    let mut words = world.words(1);
    words.retain(|word| word.contains("there"));
    words.sort();
    assert_eq!(words[..2], ["SET new there", "SET short there"]);
    assert!(
        words[2].starts_with("SET_EXPIRE short there 2"),
        "{words:?}"
    );
    for kamailio in &world.kamailios {
        assert_eq!(kamailio.value(LONG, "theirs"), Some(&text("2")));
        assert_eq!(kamailio.value(LONG, "ours"), Some(&text("1")));
        assert_eq!(kamailio.values(LONG), world.kamailios[0].values(LONG));
        assert_eq!(kamailio.values(SHORT), world.kamailios[0].values(SHORT));
        assert!(kamailio.log.is_empty());
    }
    assert_eq!(differences(&world, 0), Some(7));
    world.said.clear();
    world.run(ms(180_000));
    assert_eq!(differences(&world, 0), Some(0));
    assert!(world.words(0).is_empty() && world.words(1).is_empty());
    assert_eq!(world.asked(0), 2);
    world.run(ms(600_000));
    assert_eq!(world.asked(0), 2, "after two clean rounds it is left alone");
}

#[test]
fn what_does_not_end_in_a_table_where_things_do_is_not_told_again_and_again() {
    let mut world = World::settled(11, &[V56]);
    world.set(SHORT, "for ever", "1");
    expire(&mut world, "for ever", 0);
    world.run(ms(100));
    cut(&mut world, 0);
    heal(&mut world);
    world.run(ms(120_000));
    assert!(world.words(0).is_empty());
    assert_eq!(differences(&world, 0), Some(0));
}

#[test]
fn cells_that_nobody_asked_for_say_nothing_of_what_is_not_in_them() {
    let mut world = World::settled(12, &[V56]);
    world.set(LONG, "ours", "1");
    world.run(ms(100));
    world.said.clear();
    let cell = dmq_bodies::Cell {
        table: LONG.into(),
        key: "theirs".into(),
        value: text("1"),
        expire: None,
        last_modified: None,
    };
    world.kamailio(0, |now, it| {
        it.tell_table(now, &TableMessage::Cells(vec![cell]))
    });
    world.run(ms(1_000));
    assert_eq!(value(&world, LONG, "theirs"), Some(text("1")));
    assert!(world.said.is_empty());
}

#[test]
fn one_node_is_asked_at_a_time() {
    let mut world = World::new(13, &[V56, V62, V56]);
    world.join();
    world.run(ms(60_000));
    let asked: Vec<_> = world.said.iter().filter(|it| it.word() == "SYNC").collect();
    assert_eq!(
        asked.len(),
        6,
        "each once for dialogs and once for tables in a minute"
    );
    for pair in asked.windows(2) {
        assert!(pair[1].at - pair[0].at >= ms(2_000));
    }
}

#[test]
fn a_clock_that_nobody_can_believe_orders_nothing() {
    let mut world = World::settled(41, &[V62, V62]);
    world.kamailio(0, |now, it| {
        let set = TableMessage::Set {
            table: LONG.into(),
            key: "k".into(),
            value: text("of a broken clock"),
            last_modified: Some(2 * WALL),
        };
        it.tell_table(now, &set);
    });
    world.run(ms(1_000));
    assert_eq!(value(&world, LONG, "k"), Some(text("of a broken clock")));
    world.kamailio(1, |now, it| it.set(now, LONG, "k", "later"));
    world.run(ms(1_000));
    assert_eq!(value(&world, LONG, "k"), Some(text("later")));
    // Nor does it spoil what others are told: theirs is another key, and a clock that runs on.
    world.set(LONG, "other", "one");
    world.run(ms(100));
    world.set(LONG, "other", "two");
    world.run(ms(1_000));
    for kamailio in &world.kamailios {
        assert_eq!(kamailio.value(LONG, "other"), Some(&text("two")));
    }
}

const HOUR: u64 = 3_600_000;

/// Writes as this node, and returns how far ahead of our clock Kamailio 0 was told that this is.
fn told_ahead(world: &mut World, key: &str, value: &str) -> i64 {
    world.said.clear();
    let wall = world.clock().wall as i64;
    world.set(LONG, key, value);
    world.run(ms(100));
    let said = world.said.iter().find(|said| said.to == stock(0)).unwrap();
    said.last_modified().unwrap() as i64 - wall
}

/// Has Kamailio 0 write something new, and so show its clock.
fn show_clock(world: &mut World) {
    let key = format!("at {:?}", world.now);
    world.kamailio(0, |now, it| it.set(now, LONG, &key, "1"));
    world.run(ms(100));
}

#[test]
fn a_node_whose_clock_was_wrong_for_a_moment_is_told_right_times_again() {
    let mut world = World::settled(43, &[V62, V62]);
    world.kamailios[0].ahead = HOUR as i64;
    world.kamailio(0, |now, it| it.set(now, LONG, "theirs", "1"));
    world.run(ms(1_000));
    let told = told_ahead(&mut world, "early", "1");
    assert!(
        told.abs_diff(HOUR as i64) < 100,
        "it would ignore us: {told}"
    );
    world.kamailios[0].ahead = 0;
    for seconds in [10, 61, 61] {
        world.run(ms(seconds * 1_000));
        show_clock(&mut world);
    }
    // That follows what the key had, and is no look at its clock.
    world.kamailio(0, |now, it| it.set(now, LONG, "theirs", "1 again"));
    world.run(ms(1_000));
    let told = told_ahead(&mut world, "later", "1");
    assert!((0..10).contains(&told), "{told}");
    // Two keys have times of an hour from now there: these have to be exceeded, and nothing else.
    for value in ["2", "3"] {
        for key in ["early", "theirs"] {
            let told = told_ahead(&mut world, key, value);
            assert!(told.abs_diff(HOUR as i64) < 300_000, "{key}: {told}");
            assert_eq!(world.kamailios[0].value(LONG, key), Some(&text(value)));
        }
        let told = told_ahead(&mut world, "later", value);
        assert!((0..10).contains(&told), "{told}");
    }
    world.kamailio(0, |now, it| it.set(now, LONG, "theirs", "bumped"));
    world.run(ms(1_000));
    world.kamailio(1, |now, it| it.set(now, LONG, "later", "newest"));
    world.run(ms(1_000));
    let told = told_ahead(&mut world, "other", "1");
    assert!((0..10).contains(&told), "{told}");
    for kamailio in &world.kamailios {
        assert_eq!(kamailio.value(LONG, "later"), Some(&text("newest")));
        assert_eq!(kamailio.value(LONG, "theirs"), Some(&text("bumped")));
    }
}

#[test]
fn our_clock_that_was_wrong_for_a_moment_moves_no_later_time() {
    let mut world = World::settled(44, &[V62]);
    show_clock(&mut world);
    for ahead in [-(HOUR as i64), HOUR as i64] {
        world.wall_stands_at = Some(world.clock().wall.saturating_add_signed(ahead));
        world.kamailios[0].ahead = -ahead;
        show_clock(&mut world);
        told_ahead(&mut world, "k", &format!("wrong by {ahead}"));
        world.wall_stands_at = None;
        world.kamailios[0].ahead = 0;
        world.run(ms(1_000));
        let told = told_ahead(&mut world, "other", &format!("right after {ahead}"));
        // A step of our clock takes what we write along by a minute.
        assert!((0..=60_000).contains(&told), "{told}");
    }
}

#[test]
fn what_a_node_has_shown_of_its_clock_is_forgotten_when_it_goes_away() {
    let mut world = World::settled(45, &[V62]);
    world.kamailios[0].ahead = HOUR as i64;
    show_clock(&mut world);
    let is_shown = |world: &World| world.ours.channel.status().nodes[0].last_modified_shown;
    assert!(is_shown(&world));
    cut(&mut world, 0);
    assert!(!is_shown(&world));
    world.kamailios[0].ahead = 0;
    heal(&mut world);
    assert!(is_shown(&world), "its cells do");
    let told = told_ahead(&mut world, "k", "1");
    assert!((0..10).contains(&told), "{told}");
}

#[test]
fn what_was_written_within_a_millisecond_becomes_one() {
    let mut world = World::settled(42, &[V62]);
    world.kamailio(0, |now, it| it.set(now, LONG, "k", "first"));
    world.run(ms(1_000));
    // It has taken a second one of the same time, which we have not.
    world.kamailio(0, |_, it| {
        let table = it.tables.get_mut(LONG.as_bytes()).unwrap();
        table.entries.get_mut(&b"k"[..]).unwrap().value = text("second");
    });
    world.delete(LONG, "nothing");
    world.cut.insert(stock(0));
    world.run(ms(120_000));
    world.cut.clear();
    world.run(ms(30_000));
    assert_eq!(value(&world, LONG, "k"), Some(text("second")));
}

#[test]
fn a_node_that_asks_is_answered_by_one_after_the_other() {
    for (kamailios, members, wait) in [(1, 0, 0), (2, 0, 1), (1, 2, 2), (2, 1, 2)] {
        let mut world = World::settled(40, &[V56, V56][..kamailios]);
        let lower = (0..members).map(|i| format!("10.0.0.0:{}", 5062 + i).parse().unwrap());
        let lower = lower.collect();
        world.write(|_, replica| replica.set_members(&lower));
        world.set(LONG, "k", "v");
        world.run(ms(500));
        world.said.clear();
        world.kamailio(0, |now, it| {
            it.restart();
            it.sync(now);
        });
        let asked = world.now;
        world.run(ms(10_000));
        let told = world.said.iter().find(|said| {
            let word = said.word();
            said.to == stock(0) && word.starts_with("CELLS")
        });
        let after = told.unwrap().at - asked;
        let expected = ms(1000 * wait);
        assert!(
            (expected..expected + ms(500)).contains(&after),
            "{kamailios} Kamailios, {members} members before us: {after:?}"
        );
        let table = &world.kamailios[0].tables[LONG.as_bytes()];
        assert!(table.entries.contains_key(&b"k"[..]));
    }
}
