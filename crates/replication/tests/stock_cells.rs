//! Two routers and Kamailios in one cell, and what takes whose place.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test, a seed has to be seen"
)]

mod stock_model;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use dmq_bodies::{DialogState as WireState, Did};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replication::tandem::Kind;
use replication::{Cause, LegSeen, Observed, Replica};
use stock_model::cell::{Cell, address};
use stock_model::kamailio::Table;
use stock_model::kamailio::Version::{self, V56, V62};
use stock_model::{LONG, SHORT, invited, leg, ms, text};

/// Prints the seed when a test fails with it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

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

/// A Kamailio that was away has a key that was deleted meanwhile, and one of two routers has lost its memory.
/// Returns how many keys that one took.
fn deleted_while_away(seed: u64, version: Version) -> u64 {
    let _seed = Seed(seed);
    let mut cell = Cell::settled(seed, &[version, version]);
    for key in ["gone", "stays"] {
        cell.set(2, LONG, key, "1");
        cell.set(2, SHORT, key, "1");
    }
    cell.run(ms(1_000));
    cell.cut.insert(2);
    cell.run(ms(20_000));
    for table in [LONG, SHORT] {
        cell.delete(1, table, "gone");
    }
    cell.run(ms(40_000));
    cell.start_tandem(0);
    cell.act(2, |now, it| it.set(now, LONG, "new", "1"));
    cell.run(ms(10_000));
    cell.cut.clear();
    cell.run(ms(200_000));
    for i in 0..4 {
        for table in [LONG, SHORT] {
            assert_eq!(cell.value(i, table, "gone"), None, "{table} at {i}");
            assert_eq!(cell.value(i, table, "stays"), Some(text("1")), "at {i}");
        }
        assert_eq!(cell.value(i, LONG, "new"), Some(text("1")), "at {i}");
    }
    cell.tandem(0).stock_counters().adopted
}

#[test]
fn a_deleted_key_that_a_kamailio_still_has_does_not_come_back_through_a_router_that_knows_nothing()
{
    let mut adopted = 0;
    for seed in 1..9 {
        adopted += deleted_while_away(seed, [V56, V62][seed as usize % 2]);
    }
    assert!(adopted > 0, "the router that knows nothing was never first");
}

#[test]
fn what_one_kamailio_had_is_told_the_other_at_once_and_once() {
    let mut cell = Cell::new(4, 3);
    for i in [1, 2] {
        cell.start_stock(i, V56);
    }
    cell.start_tandem(0);
    cell.run(ms(200_000));
    cell.cut.insert(1);
    cell.run(ms(20_000));
    for i in 0..100 {
        cell.set(1, LONG, &format!("k{i}"), "1");
    }
    cell.run(ms(31_000));
    cell.cut.clear();
    cell.said.clear();
    while cell.value(0, LONG, "k0").is_none() {
        cell.run(ms(10));
    }
    cell.run(ms(1_000));
    assert_eq!(cell.values(2, LONG).len(), 100);
    let told = cell.said.iter().filter(|(_, said)| said.to == address(2));
    let sets = told.filter(|(_, said)| said.word().starts_with("SET k"));
    assert_eq!(sets.count(), 100);
}

#[test]
fn a_kamailio_that_joins_is_told_all_by_one_after_the_other() {
    for (seed, company) in (1..9).zip([false, true].into_iter().cycle()) {
        let _seed = Seed(seed);
        let versions = [V56, V56];
        let mut cell = Cell::settled(seed, &versions[..1 + usize::from(company)]);
        let calls = ["a", "b", "c", "d"];
        for call_id in calls {
            let answered = Observed::Answered(leg(0, "sip:bob@10.9.0.2"));
            for what in [invited(), answered, Observed::Acked] {
                cell.see(0, call_id, what);
            }
        }
        cell.run(ms(20_000));
        cell.said.clear();
        let joins = cell.now;
        cell.start_stock(2, V56);
        cell.act(2, |now, it| it.sync(now));
        cell.run(ms(10_000));
        assert_eq!(cell.kamailio(2).dialogs.len(), calls.len());
        let told = |by: usize| {
            let said = cell.said.iter().filter(|(who, _)| *who == by);
            let said = said.filter(|(_, said)| said.to == address(2) && said.channel == "dialog");
            let updates = said.filter(|(_, said)| said.word() == "UPDATE(4)");
            updates.map(|(_, said)| said.at - joins).collect::<Vec<_>>()
        };
        // Another Kamailio tells everybody at once.
        let (first, second) = (told(0), told(1));
        assert_eq!((first.len(), second.len()), (calls.len(), calls.len()));
        let turn = ms(u64::from(company) * 1_000);
        assert!(first.iter().all(|at| *at >= turn), "{first:?}");
        let last = first.iter().max().unwrap();
        assert!(second.iter().all(|at| *at > *last + ms(500)), "{second:?}");
        assert!(second.iter().all(|at| *at < ms(4_000)), "{second:?}");
    }
}

#[test]
fn what_a_kamailio_ended_just_before_its_death_is_freed_at_the_others() {
    for seed in 1..9 {
        let _seed = Seed(seed);
        let mut cell = Cell::settled(seed, &[V56, V56]);
        let did = cell.act(2, |now, it| it.invite(now, "a", 4_001));
        cell.run(ms(2_000));
        cell.act(2, |now, it| it.confirm(now, did));
        cell.run(ms(2_000));
        cell.act(2, |now, it| it.bye(now, did));
        cell.run(ms(500));
        assert!(cell.kamailio(3).dialogs.contains_key(&did), "not freed yet");
        cell.stop(2);
        cell.said.clear();
        cell.run(ms(15_000));
        assert!(cell.kamailio(3).dialogs.is_empty(), "it has no owner");
        let told = cell.said.iter().filter(|(_, said)| said.to == address(3));
        let by: BTreeSet<_> = told
            .filter(|(_, said)| said.channel == "dialog")
            .map(|(by, _)| *by)
            .collect();
        assert_eq!(by.len(), 1, "one router told it: {by:?}");
        let errors = cell.kamailio(3).log.iter();
        let errors: Vec<_> = errors.filter(|line| line.starts_with("ERROR")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn what_a_kamailio_ended_just_before_its_death_is_freed_though_its_heir_dies_too() {
    for (seed, after) in (1..17).zip([0, 1_000, 4_000, 8_000].into_iter().cycle()) {
        let _seed = Seed(seed);
        let mut cell = Cell::settled(seed, &[V56, V56]);
        let dids = ["a", "b", "c", "d"].map(|call_id| {
            let h_id = 4_001 + u32::from(call_id.as_bytes()[0]);
            let did = cell.act(2, |now, it| it.invite(now, call_id, h_id));
            cell.run(ms(100));
            cell.act(2, |now, it| it.confirm(now, did));
            cell.run(ms(100));
            did
        });
        for did in dids {
            cell.act(2, |now, it| it.bye(now, did));
        }
        cell.run(ms(500));
        cell.stop(2);
        // Of some dialogs it is the first to free them, and may not have missed the Kamailio yet.
        cell.run(ms(after));
        cell.stop(0);
        cell.run(ms(25_000));
        let left = &cell.kamailio(3).dialogs;
        assert!(left.is_empty(), "{after} ms: {:?}", left.keys());
        let errors = cell.kamailio(3).log.iter();
        let errors: Vec<_> = errors.filter(|line| line.starts_with("ERROR")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn what_a_kamailio_had_not_been_told_when_its_router_was_lost_the_others_tell_it() {
    for seed in 1..9 {
        let _seed = Seed(seed);
        let mut cell = Cell::settled(seed, &[V56, V56]);
        for key in ["changed", "gone"] {
            cell.set(0, LONG, key, "1");
        }
        cell.see(0, "answered", invited());
        cell.run(ms(500));
        // For a moment it hears nobody.
        cell.cut.insert(2);
        let ringing = || Observed::Rang(leg(0, "sip:bob@10.9.0.2"));
        for what in [
            ringing(),
            Observed::Answered(LegSeen::default()),
            Observed::Acked,
        ] {
            cell.see(0, "answered", what);
        }
        for what in [invited(), ringing()] {
            cell.see(0, "ringing", what);
        }
        cell.set(0, LONG, "changed", "2");
        cell.set(0, LONG, "new", "1");
        cell.delete(0, LONG, "gone");
        cell.run(ms(200));
        match seed % 2 {
            0 => cell.stop(0),
            _ => cell.start_tandem(0),
        }
        cell.cut.clear();
        cell.run(ms(10_000));
        for i in [2, 3] {
            let dialogs = cell.kamailio(i).dialogs.values();
            let states = dialogs.map(|dialog| (dialog.call_id.clone(), dialog.state));
            let states: BTreeMap<_, _> = states.collect();
            let expected = [
                (b"answered".as_slice().into(), WireState::Confirmed),
                (b"ringing".as_slice().into(), WireState::Early),
            ];
            assert_eq!(states, expected.into(), "at {i}");
        }
        // Tables are compared once in a minute at the most.
        cell.run(ms(70_000));
        let expected = [("changed", "2"), ("new", "1")];
        let expected = expected.map(|(key, value)| (key.into(), text(value)));
        for i in 1..4 {
            assert_eq!(cell.values(i, LONG), expected.clone().into(), "at {i}");
        }
        for i in [2, 3] {
            let log = cell.kamailio(i).log.iter();
            let errors: Vec<_> = log.filter(|line| line.starts_with("ERROR")).collect();
            assert!(errors.is_empty(), "at {i}: {errors:?}");
        }
    }
}

#[test]
fn a_call_whose_requests_pass_both_routers_ends_once() {
    for seed in 1..9 {
        let _seed = Seed(seed);
        let mut cell = Cell::settled(seed, &[V56, V56]);
        let answered = Observed::Answered(leg(0, "sip:bob@10.9.0.2"));
        for what in [invited(), answered, Observed::Acked] {
            cell.see(0, "a", what);
            cell.run(ms(100));
        }
        cell.see(1, "a", Observed::Requested { cseq: 5 });
        // Its owner has heard of that, or not yet: then both hold themselves for it when it ends.
        let has_heard = seed % 2 == 0;
        cell.run(ms(u64::from(has_heard) * 100));
        cell.see(0, "a", Observed::Ended(Cause::Bye));
        cell.run(ms(10_000));
        let records = [0, 1].map(|i| {
            let is_due = |replica: &mut Replica| replica.poll_call_record().is_some();
            cell.write(i, |_, replica| is_due(replica))
        });
        assert_eq!(records, [true, !has_heard], "records with one id");
        for i in [2, 3] {
            let said = cell.said.iter().filter(|(_, said)| said.to == address(i));
            let words: Vec<_> = said.map(|(by, said)| (*by, said.word())).collect();
            let ends = words.iter().filter(|(_, word)| word.contains('5'));
            assert_eq!(ends.count(), 1, "{words:?}");
            let log = cell.kamailio(i).log.iter();
            let errors: Vec<_> = log.filter(|line| line.starts_with("ERROR")).collect();
            assert!(errors.is_empty(), "at {i}: {errors:?}");
        }
    }
}

/// Runs until a Tandem node has finished these comparisons; returns how long that took.
fn compared(cell: &mut Cell, i: usize, goals: &[(SocketAddr, u64)]) -> Duration {
    let began = cell.now;
    let is_done = |cell: &Cell| {
        let nodes = cell.tandem(i).stock_status().nodes;
        let done = |(address, goal)| {
            let node = nodes.iter().find(|node| node.address == address);
            node.is_some_and(|node| node.comparisons >= goal)
        };
        goals.iter().copied().all(done)
    };
    while !is_done(cell) {
        assert!(cell.now - began < ms(300_000), "{goals:?} are not reached");
        cell.run(ms(10));
    }
    cell.now - began
}

#[test]
fn what_kamailios_have_lost_by_themselves_is_given_back_to_who_asks_for_it() {
    let mut cell = Cell::settled(5, &[V56, V62]);
    for i in 0..4 {
        cell.set(i, LONG, &format!("of {i}"), "1");
        cell.set(i, SHORT, &format!("of {i}"), "1");
    }
    cell.run(ms(200_000));
    for i in [2, 3] {
        let flush = |table: &mut Table| table.entries.clear();
        cell.act(i, |_, it| it.tables.values_mut().for_each(flush));
    }
    cell.said.clear();
    cell.run(ms(200_000));
    assert_eq!(cell.said.len(), 0, "nobody looks");

    let goals = cell.repair(0);
    assert_eq!(goals.len(), 2);
    let took = compared(&mut cell, 0, &goals);
    assert!(took < ms(10_000), "{took:?}");
    cell.run(ms(1_000));
    for i in 0..4 {
        for table in [LONG, SHORT] {
            assert_eq!(cell.values(i, table).len(), 4, "{table} at {i}");
        }
    }
    let differences = |cell: &Cell| {
        let nodes = cell.tandem(0).stock_status().nodes;
        nodes.iter().filter_map(|node| node.stock_differences).sum()
    };
    let found: u64 = differences(&cell);
    assert_eq!(found, 16);

    // Whoever asks again and again has them asked once a minute, and never counts one that is under way.
    let first = cell.repair(0);
    let again = cell.repair(0);
    assert_eq!(first, again, "none is under way");
    let took = compared(&mut cell, 0, &again);
    assert!(took > ms(50_000) && took < ms(80_000), "{took:?}");
    assert_eq!(differences(&cell), 0);
    cell.run(ms(200_000));
    cell.said.clear();
    cell.run(ms(200_000));
    assert_eq!(cell.said.len(), 0, "it falls silent again");
}

#[test]
fn keys_that_repair_brings_without_any_memory_of_them_are_counted() {
    let mut cell = Cell::settled(3, &[]);
    cell.set(0, LONG, "before", "1");
    cell.run(ms(1_000));
    cell.cut.insert(1);
    cell.set(1, LONG, "meanwhile", "1");
    cell.delete(1, LONG, "before");
    cell.run(ms(100));
    cell.set(0, LONG, "before", "2");
    cell.run(ms(20_000));
    cell.cut.clear();
    cell.run(ms(20_000));
    for i in [0, 1] {
        assert_eq!(cell.value(i, LONG, "before"), Some(text("2")), "at {i}");
        assert_eq!(cell.value(i, LONG, "meanwhile"), Some(text("1")), "at {i}");
    }
    let united = [0, 1].map(|i| cell.tandem(i).tandem_counters().united);
    assert_eq!(united, [1, 0]);
}

/// What two routers and two Kamailios do.
#[derive(Default)]
struct Doings {
    calls: Vec<(usize, Did, u32)>,
    count: u32,
}

impl Doings {
    fn step(&mut self, cell: &mut Cell, rng: &mut SmallRng) {
        self.count += 1;
        let table = [SHORT, LONG][rng.random_range(0..2)];
        // Kamailios that write one key at one time stay different for ever; each has its own.
        let who = rng.random_range(0..4);
        let key = format!("k{who}-{}", rng.random_range(0..6));
        match rng.random_range(0..4) {
            0 => cell.delete(who, table, &key),
            _ => cell.set(who, table, &key, &format!("v{}", self.count)),
        }
        let i = rng.random_range(2..4);
        if rng.random_bool(0.3) {
            let (call_id, number) = (format!("call-{}", self.count), self.count);
            let did = cell.act(i, |now, it| it.invite(now, &call_id, number));
            self.calls.push((i, did, 0));
        } else if !self.calls.is_empty() {
            let at = rng.random_range(0..self.calls.len());
            let (i, did, step) = &mut self.calls[at];
            let (i, did) = (*i, *did);
            *step += 1;
            match *step {
                1 => cell.act(i, |now, it| it.ring(now, did)),
                2 => cell.act(i, |now, it| it.confirm(now, did)),
                _ => {
                    cell.act(i, |now, it| it.bye(now, did));
                    self.calls.remove(at);
                }
            }
        }
    }
}

#[test]
fn two_routers_and_their_kamailios_agree_whatever_was_lost_and_repair_falls_silent() {
    for seed in 1..5 {
        let _seed = Seed(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let version = [V56, V62][seed as usize % 2];
        let mut cell = Cell::settled(seed, &[version, version]);
        cell.loss = 1_000;
        let mut doings = Doings::default();
        for step in 0..200 {
            doings.step(&mut cell, &mut rng);
            let pause = rng.random_range(3..300);
            cell.run(ms(pause));
            match step % 100 {
                50 => drop(cell.cut.insert(rng.random_range(0..4))),
                90 => cell.cut.clear(),
                _ => {}
            }
        }
        cell.loss = 0;
        cell.cut.clear();
        cell.run(ms(300_000));
        for table in [SHORT, LONG] {
            let first = cell.values(0, table);
            for i in 1..4 {
                assert_eq!(cell.values(i, table), first, "{table} at {i}");
            }
        }
        let roots = [0, 1].map(|i| cell.tandem(i).replica().digests().root());
        assert_eq!(roots[0], roots[1]);
        for i in [0, 1] {
            assert_eq!(cell.tandem(i).tandem_status(cell.now).divergence, 0);
        }
        // Two rounds without a difference, and nobody is asked or told any more.
        cell.run(ms(900_000));
        cell.said.clear();
        cell.run(ms(300_000));
        let words: Vec<_> = cell.said.iter().map(|(_, said)| said.word()).collect();
        let is_end = |word: &String| word.starts_with("STATE(5)") || word == "RM";
        assert!(words.iter().all(is_end), "{words:?}");
    }
}
