//! Five nodes, ten thousand calls, and a network that loses, parts and heals: in the end all hold the
//! same, soon and at a bounded price.
//!
//! `SEEDS=n` runs n seeds instead of the usual few, `SEED=n` that one alone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test; what it cost is worth reading"
)]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use htable::{Definition, Value};
use rand::Rng;
use replication::tandem::record_bytes;
use replication::{Cause, DialogKey, DialogState, EntryKey, Key, Observed, Origin};
use world::{World, dialog_key, invited, leg, ms, seconds};

const NODES: usize = 5;
const DIALOGS: usize = 10_000;
const DIGESTS_PER_SECOND_MAX: u64 = 8 * 1024;
const REPAIR_ALLOWANCE: u64 = 64 * 1024;

fn seeds() -> Vec<u64> {
    let number = |name| Some(std::env::var(name).ok()?.parse().unwrap());
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (1..=count.unwrap_or(2)).collect(),
    }
}

/// What happens to the calls and the tables.
struct Traffic {
    calls: Vec<(DialogKey, DialogState)>,
    made: usize,
}

impl Traffic {
    fn new() -> Self {
        Self {
            calls: Vec::new(),
            made: 0,
        }
    }

    /// Something happens at some node that runs.
    fn step(&mut self, world: &mut World) {
        let running: Vec<_> = (0..NODES).filter(|i| world.is_running(*i)).collect();
        let i = running[world.rng.random_range(0..running.len())];
        let is_new = self.made < DIALOGS && world.rng.random_bool(0.6);
        if is_new || self.calls.is_empty() {
            self.made += 1;
            let key = dialog_key(&format!("call-{}@192.0.2.7", self.made), self.made as u32);
            world.observe(i, &key, false, invited());
            self.calls.push((key, DialogState::Unconfirmed));
            return;
        }
        match world.rng.random_range(0..10) {
            0 => self.table(world, i),
            _ => self.call(world, i),
        }
    }

    fn call(&mut self, world: &mut World, i: usize) {
        let at = world.rng.random_range(0..self.calls.len());
        let by_callee = world.rng.random_bool(0.5);
        let (key, state) = self.calls[at].clone();
        let contact = format!("sip:bob@192.0.2.{}", world.rng.random_range(1..200));
        let (next, what) = match state {
            DialogState::Unconfirmed => (DialogState::Early, Observed::Rang(leg(0, &contact))),
            DialogState::Early => (DialogState::Answered, Observed::Answered(leg(0, &contact))),
            DialogState::Answered => (DialogState::Confirmed, Observed::Acked),
            DialogState::Confirmed | DialogState::Ended => match world.rng.random_range(0..10) {
                0..3 => (DialogState::Ended, Observed::Ended(Cause::Bye)),
                3..6 => {
                    let cseq = world.rng.random_range(2..100);
                    (state, Observed::Refreshed(leg(cseq, &contact)))
                }
                _ => {
                    let value = contact.into_bytes().into_boxed_slice();
                    world.write(i, |now, replica| {
                        replica.set_variable(now, &key, b"route", Some(value));
                    });
                    return;
                }
            },
        };
        let by_callee = by_callee && state == DialogState::Confirmed;
        world.observe(i, &key, by_callee, what);
        self.calls[at].1 = next;
        if next == DialogState::Ended {
            self.calls.swap_remove(at);
        }
    }

    fn table(&mut self, world: &mut World, i: usize) {
        let key = EntryKey {
            table: "t".into(),
            key: format!("key {}", world.rng.random_range(0..500)).into(),
        };
        let value = Value::Int(world.rng.random());
        let deletes = world.rng.random_bool(0.2);
        world.write(i, |now, replica| match deletes {
            true => replica.delete(now, &key, Origin::Local).unwrap(),
            false => replica.set(now, &key, value, Origin::Local).unwrap(),
        });
    }
}

fn new_world(seed: u64) -> World {
    let mut world = World::new(seed, NODES);
    world.tables = vec![Definition {
        replicate: true,
        autoexpire: Some(seconds(300)),
        ..Definition::new("t")
    }];
    world.start_all();
    world
}

/// Traffic at so many events a second, and what holds at any time.
fn pass(world: &mut World, traffic: &mut Traffic, time: Duration, rate: u32) {
    for _ in 0..time.as_millis() / 500 {
        for _ in 0..10 {
            for _ in 0..rate / 20 {
                traffic.step(world);
            }
            world.run(ms(50));
        }
        world.check_bounds();
    }
}

/// How many bytes the records take, as they are encoded, that two nodes do not hold alike: of each key
/// the larger one, once.
fn differing_bytes(world: &World, a: usize, b: usize) -> u64 {
    let sums = |i: usize| world.replica(i).digests().partitions();
    let unequal = |partition: &u8| {
        let at = usize::from(*partition);
        sums(a)[at] != sums(b)[at]
    };
    let partitions: Vec<u8> = (0..=u8::MAX).filter(unequal).collect();
    let living = |i: usize| {
        let replica = world.replica(i);
        let all = partitions.iter().flat_map(|at| replica.living(*at));
        all.collect::<BTreeMap<Key, u128>>()
    };
    let (one, other) = (living(a), living(b));
    let keys: BTreeSet<&Key> = one.keys().chain(other.keys()).collect();
    let differing = keys
        .into_iter()
        .filter(|key| one.get(key) != other.get(key));
    let size = |i: usize, key: &Key| {
        let record = world.replica(i).record(world.now, key);
        record.map_or(0, |record| record_bytes(key, record).unwrap())
    };
    let sizes = differing.map(|key| size(a, key).max(size(b, key)));
    sizes.sum::<usize>() as u64
}

fn repair_bytes(world: &World, a: usize, b: usize) -> u64 {
    let sent = |one, other| {
        let nodes = world.node(one).channel.status(world.now).nodes;
        let mut nodes = nodes.into_iter();
        let found = nodes.find(|node| node.address == world::address(other));
        found.map_or(0, |node| node.sent.repair)
    };
    sent(a, b) + sent(b, a)
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..NODES).flat_map(|a| (a + 1..NODES).map(move |b| (a, b)))
}

/// Lets the nodes agree and checks what that cost: between two nodes the bodies of repair, repeats not
/// counted, take at most twice the encoded size of what differed and [`REPAIR_ALLOWANCE`].
///
/// What differed is the most that did at one moment, looked at every 100 ms, not what did at the
/// beginning: what one of two nodes hears from a third first makes them differ for a while, also if they
/// were on one side and equal. All that differed at any moment would be more.
fn converge(world: &mut World, limit: Duration) {
    let former: Vec<_> = pairs().map(|(a, b)| repair_bytes(world, a, b)).collect();
    let mut differing = vec![0; former.len()];
    let start = world.now;
    while !world.agrees() {
        assert!(
            world.now - start < limit,
            "no agreement: {}",
            world.describe()
        );
        for ((a, b), most) in pairs().zip(&mut differing) {
            *most = differing_bytes(world, a, b).max(*most);
        }
        world.run(ms(100));
    }
    let took = world.now - start;
    world.check_equal();
    world.check_bounds();
    let mut dearest = (0, 0);
    for ((a, b), (differing, former)) in pairs().zip(differing.into_iter().zip(former)) {
        let spent = repair_bytes(world, a, b) - former;
        let allowed = 2 * differing + REPAIR_ALLOWANCE;
        dearest = dearest.max((spent, differing));
        assert!(
            spent <= allowed,
            "{a} and {b} spent {spent} on {differing} bytes, seed {}",
            world.seed
        );
    }
    let (spent, differing) = dearest;
    let held = world.replica(0).dialogs().len();
    println!(
        "seed {}: {held} dialogs agreed on in {took:?}, at most {spent} bytes of a pair, for {differing}",
        world.seed
    );
}

fn digests_are_cheap(world: &mut World, time: Duration) {
    for ((a, b), bytes) in std::mem::take(&mut world.digests) {
        let allowed = DIGESTS_PER_SECOND_MAX * time.as_secs();
        assert!(
            bytes <= allowed,
            "{a} and {b} sent {bytes} bytes of digests in {time:?}, seed {}",
            world.seed
        );
    }
}

fn split(world: &mut World) {
    let mut nodes: Vec<usize> = (0..NODES).collect();
    for i in 0..NODES {
        let j = world.rng.random_range(i..NODES);
        nodes.swap(i, j);
    }
    let at = world.rng.random_range(1..NODES);
    let (one, other) = nodes.split_at(at);
    world.part(one, other);
}

fn live_through(seed: u64, final_loss: u32, limit: Duration) {
    let mut world = new_world(seed);
    let mut traffic = Traffic::new();
    // All is well, with plenty of traffic.
    pass(&mut world, &mut traffic, seconds(10), 600);
    world.digests.clear();
    pass(&mut world, &mut traffic, seconds(10), 600);
    digests_are_cheap(&mut world, seconds(10));
    // Loss, and a node that restarts with nothing.
    world.loss = world.rng.random_range(100..3000);
    let victim = world.rng.random_range(0..NODES);
    world.stop(victim);
    pass(&mut world, &mut traffic, seconds(3), 120);
    world.start(victim);
    pass(&mut world, &mut traffic, seconds(10), 120);
    // A minute apart, on top of it; one restarts within, with nothing.
    split(&mut world);
    pass(&mut world, &mut traffic, seconds(30), 120);
    let victim = world.rng.random_range(0..NODES);
    world.start(victim);
    pass(&mut world, &mut traffic, seconds(30), 120);
    assert_eq!(traffic.made, DIALOGS);
    let dropped = world.node(victim).channel.counters().pending_dropped;
    assert_eq!(dropped, 0);
    world.heal();
    world.loss = final_loss;
    converge(&mut world, limit);
    // What was agreed on stays so, quietly.
    world.loss = 0;
    world.run(seconds(2));
    world.digests.clear();
    let repaired: Vec<_> = pairs().map(|(a, b)| repair_bytes(&world, a, b)).collect();
    world.run(seconds(10));
    digests_are_cheap(&mut world, seconds(10));
    let after: Vec<_> = pairs().map(|(a, b)| repair_bytes(&world, a, b)).collect();
    assert_eq!(repaired, after, "repair falls silent, seed {seed}");
    // An entry may have ended here and not yet there.
    world.run_until_agreed(seconds(2));
    world.check_equal();
}

#[test]
fn a_whole_network_agrees_within_five_seconds() {
    for seed in seeds() {
        live_through(seed, 0, seconds(5));
    }
}

#[test]
fn a_network_that_loses_a_third_agrees_within_fifteen_seconds() {
    for seed in seeds() {
        live_through(seed, 3000, seconds(15));
    }
}

#[test]
fn ten_thousand_dialogs_reach_a_node_that_joins_once() {
    let mut world = World::running(1, NODES);
    for n in 0..DIALOGS {
        let key = dialog_key(&format!("call-{n}@192.0.2.7"), n as u32 + 1);
        world.establish(n % NODES, &key);
        if n % 100 == 0 {
            world.run(ms(10));
        }
    }
    world.run(seconds(1));
    world.start(4);
    let held = differing_bytes(&world, 0, 4);
    let sent = |world: &World| {
        (0..4)
            .map(|i| world.status_of(i, 4).sent.repair)
            .sum::<u64>()
    };
    let before = sent(&world);
    world.run_until_agreed(seconds(5));
    world.check_equal();
    let spent = sent(&world) - before;
    let allowed = held * 3 / 2 + 4 * REPAIR_ALLOWANCE;
    println!("a node that joins: {spent} bytes for {held}");
    assert!(spent <= allowed, "{spent} for {held}");
}
