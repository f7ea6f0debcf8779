//! Calls and table writes everywhere, loss, reordering, partitions: everybody ends up with the same, and
//! then nobody says anything.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test, a seed has to be seen"
)]

mod stock_model;

use std::collections::BTreeMap;

use bytes::Bytes;
use dmq_bodies::{DialogState as WireState, Did};
use htable::Value;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replication::{Cause, DialogState, Observed};
use stock_model::kamailio::Version::{V56, V62};
use stock_model::{LONG, SHORT, World, leg, ms, stock};

/// Prints the seed when a test fails with it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("SEEDS").ok();
    1..count.map_or(6, |count| count.parse::<u64>().unwrap() + 1)
}

fn our_values(world: &World, table: &str) -> BTreeMap<Bytes, Value> {
    let tables = world.ours.replica.entries().tables();
    let table = tables.table(table.as_bytes()).unwrap();
    table
        .iter(world.now)
        .map(|(key, entry)| (key.clone(), entry.value.clone()))
        .collect()
}

fn write_somewhere(world: &mut World, rng: &mut SmallRng, step: u32) {
    let table = [SHORT, LONG][rng.random_range(0..2)];
    // Kamailios that write one key at one time stay different for ever; each has its own.
    let who = rng.random_range(0..3);
    let key = format!("k{who}-{}", rng.random_range(0..6));
    let value = format!("v{step}");
    match (who, rng.random_range(0..4)) {
        (2, 0) => world.delete(table, &key),
        (2, _) => world.set(table, &key, &value),
        (i, 0) => world.kamailio(i, |now, it| it.delete(now, table, &key)),
        (i, _) => world.kamailio(i, |now, it| it.set(now, table, &key, &value)),
    }
}

#[derive(Default)]
struct Calls {
    ours: Vec<(String, u32)>,
    theirs: Vec<(usize, Did, u32)>,
    count: u32,
}

impl Calls {
    fn step(&mut self, world: &mut World, rng: &mut SmallRng) {
        self.count += 1;
        let call_id = format!("call-{}", self.count);
        match rng.random_range(0..6) {
            0 => {
                world.invite(&call_id);
                self.ours.push((call_id, 0));
            }
            1 => {
                let i = rng.random_range(0..2);
                let number = self.count;
                let did = world.kamailio(i, |now, it| it.invite(now, &call_id, number));
                self.theirs.push((i, did, 0));
            }
            2 | 3 if !self.theirs.is_empty() => {
                let at = rng.random_range(0..self.theirs.len());
                let (i, did, step) = &mut self.theirs[at];
                let (i, did) = (*i, *did);
                *step += 1;
                match *step {
                    1 => world.kamailio(i, |now, it| it.ring(now, did)),
                    2 => world.kamailio(i, |now, it| it.confirm(now, did)),
                    3.. if rng.random_bool(0.5) => {
                        world.kamailio(i, |now, it| it.bye(now, did));
                        self.theirs.remove(at);
                    }
                    _ => {}
                }
            }
            _ if !self.ours.is_empty() => {
                let at = rng.random_range(0..self.ours.len());
                let (call_id, step) = &mut self.ours[at];
                let call_id = call_id.clone();
                *step += 1;
                match *step {
                    1 => world.ring(&call_id),
                    2 => world.answer(&call_id),
                    3 => world.ack(&call_id),
                    4 => {
                        let moved = leg(9, &format!("sip:moved-{}@x", self.count));
                        world.see(&call_id, true, Observed::Refreshed(moved));
                    }
                    _ => {
                        world.see(&call_id, true, Observed::Ended(Cause::Bye));
                        self.ours.remove(at);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Every dialog that goes on here goes on there in the same state, and the other way round.
fn assert_same_dialogs(world: &World, calls: &Calls) {
    for kamailio in &world.kamailios {
        let living = kamailio.dialogs.values();
        let living: BTreeMap<_, _> = living.map(|it| (it.call_id.clone(), it)).collect();
        let ours = world.ours.replica.dialogs();
        let ours = ours.iter().filter(|(_, held)| !held.record.is_ended());
        let ours: BTreeMap<_, _> = ours
            .map(|(key, held)| (Bytes::copy_from_slice(&key.call_id), &held.record))
            .collect();
        assert_eq!(
            living.keys().collect::<Vec<_>>(),
            ours.keys().collect::<Vec<_>>(),
            "at {}",
            kamailio.address
        );
        for (call_id, record) in ours {
            let there = living[&call_id];
            let expected = match record.state {
                DialogState::Unconfirmed => WireState::Unconfirmed,
                DialogState::Early | DialogState::Answered => WireState::Early,
                DialogState::Confirmed | DialogState::Ended => WireState::Confirmed,
            };
            let is_ours = calls
                .ours
                .iter()
                .any(|(ours, _)| ours.as_bytes() == call_id);
            // Kamailio never says again what was lost.
            if is_ours {
                assert_eq!(there.state, expected, "{call_id:?}");
            }
            if is_ours && expected == WireState::Confirmed {
                assert_eq!(there.caller.contact[..], record.caller.contact[..]);
                assert_eq!(there.callee.contact[..], record.callee.contact[..]);
            }
        }
    }
}

#[test]
fn a_network_that_delivers_leaves_nothing_to_repair_and_no_line_in_any_log() {
    for seed in seeds() {
        let _seed = Seed(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        // Versions that mix refuse each other's writes (PROTOCOL 8).
        let version = [V56, V62][seed as usize % 2];
        let mut world = World::settled(seed, &[version, version]);
        world.kamailios[1].ahead = rng.random_range(0..5_000);
        let mut calls = Calls::default();
        for step in 0..300 {
            calls.step(&mut world, &mut rng);
            write_somewhere(&mut world, &mut rng, step);
            let pause = rng.random_range(3..60);
            world.run(ms(pause));
        }
        world.run(ms(60_000));
        assert_same_dialogs(&world, &calls);
        for table in [SHORT, LONG] {
            for kamailio in &world.kamailios {
                assert_eq!(kamailio.values(table), our_values(&world, table));
            }
        }
        for kamailio in &world.kamailios {
            let moved = |line: &&String| !line.starts_with("CRITICAL");
            // Two workers change the order of Kamailio's own messages.
            let unknown = |line: &&String| !line.contains("unknown dialog");
            let lines: Vec<_> = kamailio.log.iter().filter(moved).filter(unknown).collect();
            assert!(lines.is_empty(), "{lines:?}");
        }
        world.said.clear();
        world.run(ms(120_000));
        let asked = world.said.iter().filter(|it| it.word() != "SYNC").count();
        assert_eq!(asked, 0, "{:?}", world.words(0));
    }
}

#[test]
fn what_loss_and_partitions_tore_apart_is_made_whole_and_then_nobody_speaks() {
    for seed in seeds() {
        let _seed = Seed(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let version = [V56, V62][seed as usize % 2];
        let mut world = World::settled(seed, &[version, version]);
        world.loss = 1_000;
        let mut calls = Calls::default();
        for step in 0..300 {
            calls.step(&mut world, &mut rng);
            write_somewhere(&mut world, &mut rng, step);
            let pause = rng.random_range(3..300);
            world.run(ms(pause));
            if step % 100 == 50 {
                world.cut.insert(stock(rng.random_range(0..2)));
            }
            if step % 100 == 90 {
                world.cut.clear();
            }
        }
        world.loss = 0;
        world.cut.clear();
        world.run(ms(180_000));
        for call in &calls.ours {
            for kamailio in &world.kamailios {
                let key = stock_model::key(&call.0);
                let held = world.ours.replica.dialogs().dialog(&key).unwrap();
                let there = kamailio.dialogs.values();
                let there = there.filter(|it| it.state != WireState::Deleted);
                let there = there.filter(|it| it.call_id == call.0.as_bytes()).count();
                assert_eq!(there, usize::from(!held.record.is_ended()), "{call:?}");
            }
        }
        for kamailio in &world.kamailios {
            let ended = kamailio.dialogs.values();
            let zombies = ended.filter(|it| {
                let key = stock_model::key(std::str::from_utf8(&it.call_id).unwrap());
                let held = world.ours.replica.dialogs().dialog(&key);
                let end = held.and_then(|held| held.record.end);
                end.is_some_and(|end| end.at + 60 < world.clock().wall_seconds())
            });
            assert_eq!(zombies.count(), 0, "what ended here lives there");
        }
        let status = world.ours.channel.status();
        for node in &status.nodes {
            // It may be the moment of a deadline or of a question.
            assert!(node.dirty + node.in_flight <= 1, "{node:?}");
        }
        for table in [SHORT, LONG] {
            for kamailio in &world.kamailios {
                assert_eq!(kamailio.values(table), our_values(&world, table));
            }
        }
        world.said.clear();
        world.run(ms(400_000));
        let quiet_from = world.said.len();
        world.run(ms(180_000));
        let words: Vec<_> = world.said[quiet_from..]
            .iter()
            .map(|it| it.word())
            .collect();
        assert!(
            words
                .iter()
                .all(|word| word.starts_with("STATE(5)") || word == "RM"),
            "{words:?}"
        );
    }
}
