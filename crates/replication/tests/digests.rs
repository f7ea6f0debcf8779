//! The sums are always those of the records, and a flipped bit does not stay hidden.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use std::time::Instant;

use htable::{By, Definition, Pattern, Value};
use proptest::prelude::*;
use replication::{
    Cause, DialogsConfig, EntryKey, Key, Now, Observed, Origin, Replica, TOMBSTONE_MIN,
};
use world::{CELL_KEY, WALL, World, address, dialog_key, invited, leg, origin, seconds, seen};

/// One thing that happens to a pair of replicas; numbers choose dialog and key.
#[derive(Clone, Debug)]
enum Step {
    Observe(bool, u8, bool, u8),
    Variable(bool, u8, u8),
    Set(bool, u8, i32),
    Expire(bool, u8, i64),
    Delete(bool, u8),
    DeletePrefix(bool),
    Define(bool, bool),
    Undefine(bool),
    /// What one holds of a key is merged into the other.
    TellDialog(bool, u8),
    TellEntry(bool, u8),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<bool>;
    prop_oneof![
        8 => (at(), 0..6u8, any::<bool>(), 0..7u8).prop_map(|(at, n, by, what)| Step::Observe(at, n, by, what)),
        2 => (at(), 0..6u8, 0..3u8).prop_map(|(at, n, v)| Step::Variable(at, n, v)),
        4 => (at(), 0..6u8, 0..3i32).prop_map(|(at, n, v)| Step::Set(at, n, v)),
        1 => (at(), 0..6u8, -1..90i64).prop_map(|(at, n, v)| Step::Expire(at, n, v)),
        2 => (at(), 0..6u8).prop_map(|(at, n)| Step::Delete(at, n)),
        1 => at().prop_map(Step::DeletePrefix),
        1 => (at(), any::<bool>()).prop_map(|(at, replicate)| Step::Define(at, replicate)),
        1 => at().prop_map(Step::Undefine),
        4 => (at(), 0..6u8).prop_map(|(at, n)| Step::TellDialog(at, n)),
        4 => (at(), 0..6u8).prop_map(|(at, n)| Step::TellEntry(at, n)),
        3 => (0..40_000u16).prop_map(Step::Pass),
    ]
}

fn table(replicate: bool) -> Definition {
    Definition {
        replicate,
        autoexpire: Some(seconds(60)),
        ..Definition::new("t")
    }
}

fn entry(n: u8) -> EntryKey {
    EntryKey {
        table: "t".into(),
        key: vec![b'a' + n % 2, b'0' + n].into(),
    }
}

fn key(n: u8) -> replication::DialogKey {
    dialog_key(&format!("call {}", n / 2), u32::from(n % 2) + 1)
}

struct Two {
    start: Instant,
    now: Now,
    replicas: [Replica; 2],
}

impl Two {
    fn new() -> Self {
        let start = origin();
        let config = DialogsConfig {
            lifetime: seconds(100),
            early_lifetime: seconds(20),
            dialogs_max: 5,
        };
        let replica = |i| {
            let mut replica = Replica::new(address(i), CELL_KEY, config);
            replica.define(table(true)).unwrap();
            replica
        };
        Self {
            start,
            now: Now {
                monotonic: start,
                wall: WALL,
            },
            replicas: [replica(0), replica(1)],
        }
    }

    fn run(&mut self, step: Step) {
        let now = self.now;
        let [one, other] = &mut self.replicas;
        let pick = |at: bool| usize::from(at);
        match step {
            Step::Pass(milliseconds) => {
                self.now.monotonic += std::time::Duration::from_millis(milliseconds.into());
                self.now.wall = WALL + (self.now.monotonic - self.start).as_millis() as u64;
                one.handle_timeout(self.now);
                other.handle_timeout(self.now);
            }
            Step::TellDialog(at, n) => {
                let (from, to) = if at { (one, other) } else { (other, one) };
                tell(now, from, to, &Key::Dialog(key(n)));
            }
            Step::TellEntry(at, n) => {
                let (from, to) = if at { (one, other) } else { (other, one) };
                tell(now, from, to, &Key::Entry(entry(n)));
            }
            Step::Observe(at, n, by_callee, what) => {
                let what = match what {
                    0 => invited(),
                    1 => Observed::Rang(leg(0, "sip:b1")),
                    2 => Observed::Answered(leg(0, "sip:b2")),
                    3 => Observed::Acked,
                    4 => Observed::Refreshed(leg(u32::from(n) + 2, "sip:b3")),
                    5 => Observed::Requested { cseq: 9 },
                    _ => Observed::Ended(Cause::Bye),
                };
                self.replicas[pick(at)].observe(now, seen(&key(n), by_callee, what));
            }
            Step::Variable(at, n, value) => {
                let value = (value > 0).then(|| [value].into());
                self.replicas[pick(at)].set_variable(now, &key(n), b"v", value);
            }
            Step::Set(at, n, value) => {
                let value = Value::Int(value);
                let _ = self.replicas[pick(at)].set(now, &entry(n), value, Origin::Local);
            }
            Step::Expire(at, n, seconds) => {
                let replica = &mut self.replicas[pick(at)];
                let _ = replica.set_expire(now, &entry(n), seconds, Origin::Local);
            }
            Step::Delete(at, n) => {
                let _ = self.replicas[pick(at)].delete(now, &entry(n), Origin::Local);
            }
            Step::DeletePrefix(at) => {
                let pattern = Pattern::prefix(b"a").unwrap();
                let pattern = Some((By::Key, &pattern));
                let replica = &mut self.replicas[pick(at)];
                let _ = replica.delete_matching(now, b"t", pattern, Origin::Local);
            }
            Step::Define(at, replicate) => {
                self.replicas[pick(at)].define(table(replicate)).unwrap();
            }
            Step::Undefine(at) => self.replicas[pick(at)].undefine(b"t"),
        }
    }
}

fn tell(now: Now, from: &Replica, to: &mut Replica, key: &Key) {
    if let Some(record) = from.record(now.monotonic, key) {
        let _ = to.merge(now, key, record, Origin::Tandem(from.own()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_sum_that_follows_every_change_is_the_sum_of_the_records(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut two = Two::new();
        for step in steps {
            two.run(step.clone());
            for replica in &mut two.replicas {
                let before = replica.digests().clone();
                prop_assert_eq!(replica.verify(), 0, "after {:?}", step);
                prop_assert_eq!(&before, replica.digests());
                prop_assert_eq!(replica.flipped(), 0);
            }
        }
    }

    #[test]
    fn two_that_have_told_each_other_everything_hold_the_same(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut two = Two::new();
        for step in steps {
            // A table that only one of them replicates, or a dialog that only one has room for, is
            // another matter.
            let is_config = matches!(step, Step::Define(..) | Step::Undefine(_));
            let is_crowded = matches!(step, Step::Observe(_, n, ..) if n > 3);
            if !is_config && !is_crowded {
                two.run(step);
            }
        }
        for _ in 0..2 {
            for n in 0..6 {
                for at in [true, false] {
                    two.run(Step::TellDialog(at, n));
                    two.run(Step::TellEntry(at, n));
                }
            }
        }
        prop_assert_eq!(two.replicas[0].digests(), two.replicas[1].digests());
    }
}

/// Two nodes, and a dialog and an entry that both hold.
fn with_one_of_each(seed: u64) -> (World, [Key; 2]) {
    let mut world = World::new(seed, 2);
    world.tables = vec![Definition {
        replicate: true,
        ..Definition::new("t")
    }];
    world.start_all();
    let dialog = dialog_key("call 7", 8);
    world.establish(0, &dialog);
    let set =
        |now, replica: &mut Replica| replica.set(now, &entry(1), Value::Int(7), Origin::Local);
    world.write(0, set).unwrap();
    world.run(seconds(2));
    (world, [Key::Dialog(dialog), Key::Entry(entry(1))])
}

#[test]
fn a_flipped_bit_is_found_by_verifying_at_once() {
    let (mut world, keys) = with_one_of_each(1);
    for key in keys {
        world.write(0, |_, replica| {
            let before = replica.flipped();
            replica.flip(&key);
            assert!(replica.verify() > 0, "{key:?}");
            assert_eq!(replica.verify(), 0);
            assert!(replica.flipped() > before);
        });
    }
}

#[test]
fn a_flipped_bit_is_found_by_the_scrub_within_64_seconds_and_repaired() {
    let (mut world, keys) = with_one_of_each(2);
    for n in 20..70 {
        world.establish(0, &dialog_key(&format!("call {n}"), n + 1));
    }
    for key in keys {
        let before = world.replica(1).flipped();
        world.write(1, |_, replica| replica.flip(&key));
        world.run(TOMBSTONE_MIN.min(seconds(64)));
        assert!(world.replica(1).flipped() > before, "{key:?}");
        world.run_until_agreed(seconds(5));
        world.check_equal();
    }
}
