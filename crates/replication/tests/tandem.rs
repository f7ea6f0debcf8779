//! What Tandem nodes of one cell do when links break, nodes die and clocks lie.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use htable::{Definition, Value};
use replication::tandem::Kind;
use replication::{Cause, DialogState, DialogsConfig, EntryKey, Observed, Origin};
use world::{World, address, dialog_key, ms, seconds};

const DAY: i64 = 24 * 3600 * 1000;

fn entry(key: &'static str) -> EntryKey {
    EntryKey {
        table: "t".into(),
        key: key.into(),
    }
}

fn with_table(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, count);
    world.tables = vec![Definition {
        replicate: true,
        autoexpire: Some(seconds(7200)),
        ..Definition::new("t")
    }];
    world.start_all();
    world
}

fn value(world: &World, i: usize, key: &'static str) -> Option<Value> {
    let table = world.replica(i).entries().tables().table(b"t").unwrap();
    table.value(world.now, key.as_bytes()).cloned()
}

fn set(world: &mut World, i: usize, key: &'static str, value: i32) {
    world.write(i, |now, replica| {
        replica
            .set(now, &entry(key), Value::Int(value), Origin::Local)
            .unwrap();
    });
}

#[test]
fn a_change_reaches_everybody_within_milliseconds() {
    let mut world = with_table(1, 3);
    let key = dialog_key("one", 7);
    world.establish(0, &key);
    set(&mut world, 1, "k", 5);
    world.run(ms(10));
    for i in 0..3 {
        assert_eq!(world.record(i, &key).unwrap().state, DialogState::Confirmed);
        assert_eq!(value(&world, i, "k"), Some(Value::Int(5)));
    }
    world.hang_up(0, &key);
    world.write(1, |now, replica| {
        replica.delete(now, &entry("k"), Origin::Local).unwrap()
    });
    world.run(ms(10));
    for i in 0..3 {
        assert!(!world.lives(i, &key) && value(&world, i, "k").is_none());
    }
    world.check_equal();
    let lag = world.node(0).channel.status(world.now).lag;
    assert!(lag.count() > 0 && lag.p99().unwrap() < ms(10));
}

#[test]
fn a_partition_across_a_deadline_and_a_bye_leaves_one_end() {
    let mut world = World::new(2, 2);
    world.dialogs = DialogsConfig {
        lifetime: seconds(30),
        ..DialogsConfig::default()
    };
    world.start_all();
    let (expires, hung_up) = (dialog_key("expires", 1), dialog_key("hung up", 2));
    world.establish(0, &expires);
    world.establish(0, &hung_up);
    world.run(ms(100));
    world.part(&[0], &[1]);
    world.run(seconds(5));
    // Only node 1 sees the BYE, and takes the dialog over with it.
    world.hang_up(1, &hung_up);
    assert!(world.lives(0, &hung_up) && !world.lives(1, &hung_up));
    world.run(seconds(40));
    assert!(!world.lives(0, &expires) && !world.lives(1, &expires));
    world.heal();
    world.run(seconds(5));
    for (key, cause) in [(&expires, Cause::Expired), (&hung_up, Cause::Bye)] {
        let records: Vec<_> = (0..2).map(|i| world.record(i, key).unwrap()).collect();
        assert!(records.iter().all(|record| record.is_ended()));
        assert_eq!(records[0].record_id(key), records[1].record_id(key));
        assert_eq!(records[1].end.unwrap().cause, cause);
    }
    world.run(seconds(200));
    for i in 0..2 {
        assert_eq!(world.replica(i).dialogs().len(), 0, "nothing comes back");
        let revived = world
            .node(i)
            .changes
            .iter()
            .filter(|change| change.before == Some(DialogState::Ended));
        assert_eq!(revived.count(), 0);
    }
    world.check_equal();
}

#[test]
fn the_dead_stay_dead_after_a_long_partition_and_a_restart() {
    let mut world = with_table(3, 3);
    let (ended, lost) = (dialog_key("ended", 1), dialog_key("lost", 2));
    world.establish(0, &ended);
    world.establish(1, &lost);
    set(&mut world, 0, "gone", 1);
    world.run(ms(100));
    // Node 2 keeps its old copies while everybody else forgets the dead: after an hour, since it
    // cannot be asked.
    world.part(&[2], &[0, 1]);
    world.hang_up(0, &ended);
    world.run(seconds(5));
    world.hang_up(1, &lost);
    world.run(seconds(3700));
    for i in 0..2 {
        assert!(world.record(i, &ended).is_none() && world.record(i, &lost).is_none());
        assert!(world.replica(i).forgotten_early() > 0);
    }
    assert!(world.lives(2, &ended) && world.lives(2, &lost));
    world.heal();
    let took = world.run_until_agreed(seconds(5));
    assert!(took < seconds(5));
    for i in 0..3 {
        assert!(!world.lives(i, &ended) && !world.lives(i, &lost), "{i}");
    }
    world.check_equal();
    let disowned = |i: usize| world.node(i).channel.counters().disowned;
    assert!(disowned(0) >= 1 && disowned(1) >= 1);
}

#[test]
fn an_owner_that_lost_its_memory_takes_its_dialogs_back() {
    let mut world = World::running(4, 3);
    let key = dialog_key("one", 1);
    let (ended, young) = (dialog_key("ended", 2), dialog_key("young", 3));
    world.establish(0, &key);
    world.establish(0, &ended);
    world.run(ms(100));
    world.hang_up(0, &ended);
    world.run(seconds(2));
    world.start(0);
    world.run_until_agreed(seconds(5));
    assert!(world.lives(0, &key) && !world.lives(0, &ended));
    assert_eq!(world.node(0).channel.counters().taken_back, 1);
    world.establish(0, &young);
    world.run(seconds(5));
    assert!((0..3).all(|i| world.lives(i, &young) && world.lives(i, &key)));
    world.check_equal();
}

#[test]
fn a_bye_that_passes_a_router_before_it_has_its_memory_back_ends_the_dialog() {
    let mut world = World::running(9, 3);
    let keys = [dialog_key("one", 1), dialog_key("two", 2)];
    for key in &keys {
        world.establish(0, key);
    }
    world.run(seconds(1));
    world.start(0);
    world.hang_up(0, &keys[0]);
    assert!(world.record(0, &keys[0]).is_none(), "nothing is known yet");
    world.run_until_agreed(seconds(5));
    for i in 0..3 {
        let record = world.record(i, &keys[0]).unwrap();
        assert_eq!(record.end.unwrap().cause, Cause::Bye, "at {i}");
        assert!(world.lives(i, &keys[1]), "at {i}");
    }
}

#[test]
fn what_ended_before_a_restart_that_nobody_noticed_is_recorded_also_after_a_flap() {
    let mut world = World::running(11, 3);
    let key = dialog_key("one", 1);
    world.establish(0, &key);
    world.run(seconds(1));
    world.part(&[0], &[1, 2]);
    world.run(seconds(3));
    world.heal();
    world.run(seconds(5));
    world.hang_up(0, &key);
    world.run(ms(50));
    // Before it has written the record.
    world.start(0);
    world.run(seconds(5));
    let records = (0..3).map(|i| world.write(i, |_, it| it.poll_call_record().is_some()));
    assert_eq!(records.filter(|is_due| *is_due).count(), 1);
}

#[test]
fn a_wall_clock_that_was_wrong_at_the_start_ends_no_dialog() {
    let mut world = World::running(10, 3);
    let key = dialog_key("one", 1);
    world.establish(0, &key);
    world.run(seconds(5));
    world.set_wall(0, -DAY);
    world.start(0);
    world.set_wall(0, 0);
    world.run_until_agreed(seconds(5));
    assert!((0..3).all(|i| world.lives(i, &key)));
    assert_eq!(world.node(0).channel.counters().taken_back, 1);
    world.check_equal();
}

#[test]
fn a_dead_owners_dialog_is_taken_over_by_whoever_serves_it() {
    let mut world = World::running(5, 3);
    let key = dialog_key("one", 1);
    world.establish(0, &key);
    world.run(ms(50));
    world.stop(0);
    world.run(seconds(3));
    world.observe(1, &key, true, Observed::Requested { cseq: 4 });
    world.run(ms(50));
    for i in 1..3 {
        let record = world.record(i, &key).unwrap();
        assert_eq!(
            (record.ownership.epoch, record.ownership.owner),
            (2, address(1))
        );
        assert_eq!(record.callee.cseq, 4);
    }
    world.start(0);
    world.run_until_agreed(seconds(5));
    assert_eq!(world.record(0, &key).unwrap().ownership.owner, address(1));
}

#[test]
fn a_dead_owners_deadline_is_kept_by_one_other() {
    let mut world = World::new(6, 4);
    world.dialogs.lifetime = seconds(20);
    world.start_all();
    let key = dialog_key("one", 1);
    world.establish(0, &key);
    world.run(ms(50));
    world.stop(0);
    world.run(seconds(21));
    assert!((1..4).all(|i| world.lives(i, &key)), "two seconds of grace");
    world.run(seconds(8));
    for i in 1..4 {
        let record = world.record(i, &key).unwrap();
        assert!(record.is_ended());
        assert_eq!(
            (record.ownership.epoch, record.end.unwrap().cause),
            (2, Cause::Expired)
        );
    }
    let enders = (1..4).filter(|i| {
        let changes = &world.node(*i).changes;
        changes.iter().any(|change| change.origin == Origin::Local)
    });
    assert_eq!(enders.count(), 1);
}

#[test]
fn a_wall_clock_that_lies_moves_no_timer_and_no_other_clock() {
    for (seed, offset) in [(7, DAY), (8, -DAY)] {
        let mut world = World::new(seed, 3);
        world.dialogs.lifetime = seconds(60);
        world.tables = vec![Definition {
            replicate: true,
            autoexpire: Some(seconds(60)),
            ..Definition::new("t")
        }];
        world.set_wall(1, offset);
        world.start_all();
        let keys = [dialog_key("a", 1), dialog_key("b", 2), dialog_key("c", 3)];
        for (i, key) in keys.iter().enumerate() {
            world.establish(i, key);
        }
        set(&mut world, 1, "k", 1);
        world.run(seconds(20));
        // And stepped in the run, back and forth.
        world.set_wall(1, -offset);
        world.set_wall(2, DAY);
        set(&mut world, 0, "k", 2);
        world.run(ms(100));
        assert!(
            (0..3).all(|i| value(&world, i, "k") == Some(Value::Int(2))),
            "the later write counts, whatever the clocks say"
        );
        world.run(seconds(38));
        for key in &keys {
            assert!(
                (0..3).all(|i| world.lives(i, key)),
                "none ends early, seed {seed}"
            );
        }
        assert!((0..3).all(|i| value(&world, i, "k") == Some(Value::Int(2))));
        world.run(seconds(4));
        for key in &keys {
            assert!(
                (0..3).all(|i| !world.lives(i, key)),
                "none ends late, seed {seed}"
            );
        }
        world.run(seconds(20));
        assert!((0..3).all(|i| value(&world, i, "k").is_none()));
        world.check_equal();

        // A sane node's own stamps are no more than a minute ahead of its wall clock.
        let fresh = dialog_key("d", 4);
        world.establish(0, &fresh);
        let stamp = world.record(0, &fresh).unwrap().stamp();
        assert!(stamp.wall() <= world.time(0).wall + 60_000, "seed {seed}");
        world.run(ms(50));
        assert!((0..3).all(|i| world.lives(i, &fresh)));
        world.check_equal();
    }
}

#[test]
fn a_kamailio_at_the_address_of_a_tandem_node_hears_hello_alone() {
    let mut world = World::running(9, 3);
    let before = dialog_key("before", 1);
    world.establish(0, &before);
    world.run(ms(100));
    for round in 0..3 {
        world.stop(2);
        world.run(ms(900));
        world.start_stock(2);
        world.run(seconds(2));
        for i in 0..2 {
            assert_eq!(world.kind(i, 2), Kind::Stock, "{round}");
        }
        // What was under way when it came may reach it: sums, if the bus has not noticed.
        let under_way = world.heard(2).len();
        let key = dialog_key("while", 10 + round);
        world.establish(0, &key);
        world.run(seconds(70));
        assert!(world.lives(1, &key));
        for (i, (channel, body)) in world.heard(2).iter().enumerate() {
            assert_eq!(channel, "tandem");
            let says = |text: &[u8]| body.windows(text.len()).any(|part| part == text);
            assert!(!says(b"sip:") && body.len() < 64, "{body:?}");
            assert!(i < under_way || says(b"node-"), "no hello: {body:?}");
        }
        assert!(world.heard(2).len() > under_way);

        // And back, within a second.
        world.stop(2);
        world.run(ms(900));
        world.start(2);
        world.run_until_agreed(seconds(5));
        assert_eq!(world.kind(0, 2), Kind::Tandem);
        assert!(world.lives(2, &key) && world.lives(2, &before));
    }
}

#[test]
fn a_kamailio_that_takes_over_unnoticed_hears_nothing_after_its_first_answer() {
    let mut world = World::running(10, 2);
    world.start_stock(1);
    world.establish(0, &dialog_key("one", 1));
    world.run(ms(20));
    assert_eq!(world.kind(0, 1), Kind::Stock);
    let heard = world.heard(1).len();
    world.establish(0, &dialog_key("two", 2));
    world.run(ms(500));
    assert_eq!(world.heard(1).len(), heard);
}

#[test]
fn a_restart_within_the_patience_of_the_bus_is_seen_by_its_incarnation() {
    let mut world = World::running(11, 2);
    let key = dialog_key("one", 1);
    world.establish(0, &key);
    world.run(ms(100));
    let former = world.status_of(0, 1).incarnation;
    world.start(1);
    assert!(world.record(1, &key).is_none());
    world.run(ms(2500));
    assert!(world.status_of(0, 1).incarnation > former);
    assert!(world.lives(1, &key));
    assert!(world.agrees());
}

#[test]
fn a_node_is_ready_when_it_holds_what_the_others_hold() {
    let mut world = World::new(12, 3);
    world.start(0);
    world.start(1);
    world.run(ms(1900));
    let ready = |world: &World, i: usize| world.node(i).channel.status(world.now).ready;
    assert!(!ready(&world, 0), "node 2 might still answer");
    world.run(seconds(1));
    assert!(ready(&world, 0) && ready(&world, 1));
    for n in 0..2000 {
        world.establish(n % 2, &dialog_key(&format!("call {n}"), n as u32 + 1));
    }
    world.run(seconds(2));
    world.start(2);
    while !ready(&world, 2) {
        assert!(world.replica(2).dialogs().len() <= 2000);
        world.run(ms(10));
    }
    assert_eq!(world.replica(2).dialogs().len(), 2000);
    assert!(!world.node(2).channel.status(world.now).degraded);
    world.check_equal();
}

#[test]
fn a_node_alone_is_ready_after_two_seconds() {
    let mut world = World::new(13, 2);
    world.start(0);
    world.run(ms(1990));
    assert!(!world.node(0).channel.status(world.now).ready);
    world.run(ms(20));
    let status = world.node(0).channel.status(world.now);
    assert!(status.ready && !status.degraded);
}

#[test]
fn what_only_one_side_deleted_does_not_come_back() {
    let mut world = with_table(14, 2);
    for key in ["a", "b", "c"] {
        set(&mut world, 0, key, 1);
    }
    world.run(ms(100));
    world.part(&[0], &[1]);
    world.run(seconds(5));
    world.write(0, |now, replica| {
        replica.delete(now, &entry("a"), Origin::Local).unwrap()
    });
    world.write(1, |now, replica| {
        replica.delete(now, &entry("b"), Origin::Local).unwrap()
    });
    world.write(0, |now, replica| {
        replica.delete(now, &entry("c"), Origin::Local).unwrap()
    });
    world.run(seconds(1));
    set(&mut world, 1, "c", 2);
    world.run(seconds(60));
    world.heal();
    world.run_until_agreed(seconds(5));
    for i in 0..2 {
        assert_eq!(value(&world, i, "a"), None);
        assert_eq!(value(&world, i, "b"), None);
        assert_eq!(value(&world, i, "c"), Some(Value::Int(2)));
    }
    world.check_equal();
}

#[test]
fn a_record_that_fits_no_frame_travels_alone() {
    let mut world = World::running(15, 2);
    let key = dialog_key("one", 1);
    world.establish(0, &key);
    let large = vec![b'x'; 30_000];
    world.write(0, |now, replica| {
        replica.set_variable(now, &key, b"large", Some(large.clone().into()))
    });
    world.run(ms(100));
    let variable = &world.record(1, &key).unwrap().variables[&b"large"[..]];
    assert_eq!(variable.value.as_deref(), Some(&large[..]));
    let more = dialog_key("more", 2);
    world.establish(0, &more);
    world.write(0, |now, replica| {
        replica.set_variable(now, &key, b"larger", Some(large.clone().into()))
    });
    world.run(ms(100));
    assert!(
        world.lives(1, &more),
        "what cannot travel is in nobody's way"
    );
    assert!(world.node(0).channel.counters().oversized > 0);
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    use rand::{Rng, SeedableRng};
    let world = World::new(16, 2);
    let now = world.time(0);
    let mut rng = rand::rngs::SmallRng::seed_from_u64(16);
    let mut replica = replication::Replica::new(address(0), world::CELL_KEY, world.dialogs);
    let hello = replication::tandem::HelloData {
        node_id: "n".into(),
        incarnation: 1,
        hash_size: 4096,
    };
    let mut channel = replication::tandem::Channel::new(now, hello, address(0), 1);
    let mut refused = 0;
    for length in 0..2000 {
        let mut body: Vec<u8> = (0..length % 64).map(|_| rng.random()).collect();
        if length % 2 == 0 {
            // Of our schema, and one of our kinds.
            let kind = rng.random_range(2..9u8) << 3 | 2;
            let length = body.len() as u8;
            body.splice(0..0, [8, 1, kind, length]);
        }
        let status = channel.handle(now, &mut replica, address(1), &body);
        assert!(matches!(status, 200 | 202 | 400), "{status} {body:?}");
        refused += usize::from(status == 400);
    }
    assert!(refused > 1000, "{refused}");
    assert_eq!((replica.dialogs().len(), replica.digests().root()), (0, 0));
}

#[test]
fn another_hash_size_is_an_alarm() {
    let mut world = World::running(18, 2);
    let now = world.time(0);
    let hello = replication::tandem::HelloData {
        node_id: "n".into(),
        incarnation: 1,
        hash_size: 512,
    };
    // Schema 1, a hello of 4096 slots.
    let body = [8, 1, 18, 8, 10, 1, b'm', 16, 9, 24, 128, 32];
    let mut channel = replication::tandem::Channel::new(now, hello, address(0), 1);
    let mut replica = replication::Replica::new(address(0), world::CELL_KEY, world.dialogs);
    channel.node_up(now, address(1));
    assert_eq!(channel.handle(now, &mut replica, address(1), &body), 200);
    let status = channel.status(now.monotonic);
    assert!(status.hash_size_differs && status.nodes[0].hash_size_differs);
    assert_eq!(status.nodes[0].node_id, "m");
    assert_eq!(channel.counters().hash_size_differs, 1);
    world.run(ms(1));
    assert!(!world.node(0).channel.status(world.now).hash_size_differs);
}
