//! What an operator of Kamailio's htable module expects of a table, and what merging adds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use htable::{
    By, DefineError, Definition, Entry, KEY_BYTES_MAX, Merged, NAME_BYTES_MAX, Pattern, Refused,
    TABLES_MAX, Table, Tables, VALUE_BYTES_MAX, Value, WriteError,
};
use proptest::prelude::*;

const LIFETIME: Duration = Duration::from_secs(300);

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
fn start() -> Instant {
    Instant::now()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn text(value: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(value.as_bytes()))
}

/// `t1` keeps for ever, `te` for 300 s, `tk` too but a key that exists keeps its deadline.
fn tables() -> Tables<u64> {
    let mut tables = Tables::new();
    let expiring = Definition {
        autoexpire: Some(LIFETIME),
        ..Definition::new("te")
    };
    let keeping = Definition {
        update_expire: false,
        name: Bytes::from("tk"),
        ..expiring.clone()
    };
    for definition in [Definition::new("t1"), expiring, keeping] {
        tables.define(definition).expect("a good definition");
    }
    tables
}

fn table<'a>(tables: &'a mut Tables<u64>, name: &str) -> &'a mut Table<u64> {
    tables.table_mut(name.as_bytes()).expect("a table")
}

fn set(tables: &mut Tables<u64>, now: Instant, name: &str, key: &str) {
    table(tables, name)
        .set(now, key.as_bytes(), Value::Int(1), 1)
        .expect("room");
}

/// Lets what has ended at `now` go, and names it.
fn expire(tables: &mut Tables<u64>, now: Instant) -> Vec<(Bytes, Bytes)> {
    let expired = tables.handle_timeout(now).into_iter();
    let named = expired.map(|expired| {
        assert!(expired.entry.expires.is_some_and(|at| at <= now));
        (expired.table, expired.key)
    });
    named.collect()
}

fn named(table: &'static str, key: &'static str) -> (Bytes, Bytes) {
    (table.into(), key.into())
}

#[test]
fn a_table_is_entered_after_any_key() {
    let (mut tables, now) = (tables(), start());
    for key in ["a", "b", "d"] {
        set(&mut tables, now, "te", key);
    }
    let after = |at: Instant, key: Option<&str>| {
        let found = tables.table(b"te").expect("a table");
        let found = found.iter_after(at, key.map(str::as_bytes));
        found.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(after(now, None), ["a", "b", "d"]);
    assert_eq!(after(now, Some("a")), ["b", "d"]);
    assert_eq!(after(now, Some("c")), ["d"]);
    assert_eq!(after(now, Some("d")), [""; 0]);
    assert_eq!(after(now + LIFETIME, Some("a")), [""; 0]);
}

#[test]
fn a_key_reads_as_it_was_set_last() {
    let now = start();
    let mut tables = tables();
    let t1 = table(&mut tables, "t1");
    t1.set(now, b"k", Value::Int(-7), 1).unwrap();
    let entry = t1.set(now, b"k", text("v"), 2).unwrap();
    assert_eq!((entry.expires, entry.stamp), (None, 2));
    assert_eq!(t1.value(now, b"k"), Some(&text("v")));
    assert_eq!(t1.value(now, b"other"), None);
}

#[test]
fn a_missing_key_reads_as_the_initial_value_and_is_no_entry() {
    let now = start();
    let mut tables = Tables::<u64>::new();
    let definition = Definition {
        initial: Some(Value::Int(0)),
        ..Definition::new("ti")
    };
    tables.define(definition).unwrap();
    let ti = tables.table(b"ti").unwrap();
    assert_eq!(ti.value(now, b"k"), Some(&Value::Int(0)));
    assert_eq!(ti.entry(now, b"k"), None);
    assert!(ti.is_empty());
}

#[test]
fn setting_restarts_the_lifetime() {
    let start = start();
    let mut tables = tables();
    set(&mut tables, start, "te", "k");
    set(&mut tables, start + seconds(200), "te", "k");
    assert_eq!(tables.poll_timeout(), Some(start + seconds(500)));
    assert_eq!(expire(&mut tables, start + LIFETIME), []);
    assert_eq!(
        expire(&mut tables, start + seconds(500)),
        [named("te", "k")]
    );
    assert_eq!(tables.poll_timeout(), None);
}

#[test]
fn setting_keeps_the_deadline_of_a_live_key_when_told_so() {
    let start = start();
    let mut tables = tables();
    set(&mut tables, start, "tk", "k");
    set(&mut tables, start + seconds(200), "tk", "k");
    assert_eq!(tables.poll_timeout(), Some(start + LIFETIME));
    // Ended, though nobody has swept it yet: the key is new.
    set(&mut tables, start + seconds(400), "tk", "k");
    assert_eq!(tables.poll_timeout(), Some(start + seconds(700)));
}

#[test]
fn an_ended_key_is_not_seen_even_before_it_is_swept() {
    let start = start();
    let mut tables = tables();
    set(&mut tables, start, "te", "k");
    let te = table(&mut tables, "te");
    let end = start + LIFETIME;
    assert!(te.entry(end - seconds(1), b"k").is_some());
    assert_eq!(te.entry(end, b"k"), None);
    assert_eq!(te.iter(end).count(), 0);
    assert!(!te.set_expire(end, b"k", 10, 2));
}

#[test]
fn a_key_can_be_given_another_lifetime_or_none() {
    let start = start();
    let mut tables = tables();
    for key in ["a", "b", "c"] {
        set(&mut tables, start, "te", key);
    }
    let te = table(&mut tables, "te");
    assert!(te.set_expire(start + seconds(10), b"a", 25, 2));
    assert!(te.set_expire(start, b"b", 0, 2));
    assert!(te.set_expire(start, b"c", -1, 2));
    let entry = te.entry(start, b"a").unwrap();
    assert_eq!((entry.expires, entry.stamp), (Some(start + seconds(35)), 2));
    assert_eq!(te.entry(start, b"b").unwrap().expires, None);
    assert_eq!(te.entry(start, b"c").unwrap().expires, None);
    assert_eq!(
        expire(&mut tables, start + seconds(1000)),
        [named("te", "a")]
    );
}

#[test]
fn a_lifetime_is_ignored_for_unknown_keys_and_where_nothing_expires() {
    let now = start();
    let mut tables = tables();
    assert!(!table(&mut tables, "te").set_expire(now, b"k", 25, 2));
    set(&mut tables, now, "t1", "k");
    assert!(!table(&mut tables, "t1").set_expire(now, b"k", 25, 2));
    assert_eq!(tables.poll_timeout(), None);
}

#[test]
fn a_lifetime_beyond_all_time_is_for_ever() {
    let now = start();
    let mut tables = tables();
    set(&mut tables, now, "te", "k");
    let te = table(&mut tables, "te");
    assert!(te.set_expire(now, b"k", i64::MAX, 2));
    assert_eq!(te.entry(now, b"k").unwrap().expires, None);
}

#[test]
fn deleting_tells_what_was_there() {
    let now = start();
    let mut tables = tables();
    set(&mut tables, now, "te", "k");
    let te = table(&mut tables, "te");
    assert_eq!(te.delete(b"k").map(|entry| entry.stamp), Some(1));
    assert_eq!(te.delete(b"k"), None);
    assert_eq!(tables.poll_timeout(), None);
}

#[test]
fn deleting_by_pattern_tells_the_keys() {
    let now = start();
    let mut tables = tables();
    for key in ["beta", "alpha", "ALSO", "neg"] {
        set(&mut tables, now, "te", key);
    }
    let te = table(&mut tables, "te");
    te.set(now, b"beta", text("hello"), 2).unwrap();

    let names = Pattern::regex(b"^al").unwrap();
    assert_eq!(te.delete_matching(By::Key, &names), ["ALSO", "alpha"]);
    let values = Pattern::prefix(b"hel").unwrap();
    assert_eq!(te.delete_matching(By::Key, &values).len(), 0);
    assert_eq!(te.delete_matching(By::Value, &values), ["beta"]);
    assert_eq!(
        te.iter(now).map(|(key, _)| key).collect::<Vec<_>>(),
        ["neg"]
    );
}

#[test]
fn flushing_tells_the_keys_and_leaves_no_deadline() {
    let now = start();
    let mut tables = tables();
    for key in ["b", "a"] {
        set(&mut tables, now, "te", key);
    }
    assert_eq!(table(&mut tables, "te").flush(), ["a", "b"]);
    assert_eq!(tables.poll_timeout(), None);
    assert!(tables.table(b"te").unwrap().is_empty());
}

#[test]
fn entries_come_in_the_order_of_their_keys() {
    let now = start();
    let mut tables = tables();
    for key in ["b", "c", "a", "B"] {
        set(&mut tables, now, "t1", key);
    }
    let t1 = tables.table(b"t1").unwrap();
    let keys: Vec<_> = t1.iter(now).map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, ["B", "a", "b", "c"]);
}

#[test]
fn a_merge_takes_the_greater_stamp_and_its_deadline() {
    let now = start();
    let mut tables = tables();
    let t1 = table(&mut tables, "t1");
    let entry = |value: &str, stamp| Entry {
        value: text(value),
        expires: Some(now + seconds(9)),
        stamp,
    };
    assert_eq!(t1.merge(b"k", entry("a", 5)), Ok(Merged::Taken));
    assert_eq!(t1.merge(b"k", entry("b", 4)), Ok(Merged::Kept));
    assert_eq!(t1.merge(b"k", entry("c", 5)), Ok(Merged::Kept));
    assert_eq!(t1.merge(b"k", entry("d", 6)), Ok(Merged::Taken));
    assert_eq!(t1.entry(now, b"k"), Some(&entry("d", 6)));
    assert_eq!(tables.poll_timeout(), Some(now + seconds(9)));
}

#[test]
fn a_full_table_refuses_new_keys_and_counts_them() {
    let now = start();
    let mut tables = Tables::<u64>::new();
    let definition = Definition {
        entries_max: 2,
        ..Definition::new("small")
    };
    tables.define(definition).unwrap();
    let small = tables.table_mut(b"small").unwrap();
    small.set(now, b"a", Value::Int(1), 1).unwrap();
    small.set(now, b"b", Value::Int(1), 1).unwrap();
    assert_eq!(
        small.set(now, b"c", Value::Int(1), 1).err(),
        Some(WriteError::Full)
    );
    let entry = Entry {
        value: Value::Int(1),
        expires: None,
        stamp: 9,
    };
    assert_eq!(small.merge(b"c", entry), Err(WriteError::Full));
    small.set(now, b"a", Value::Int(2), 2).unwrap();
    assert_eq!(small.refused().full, 2);
    assert_eq!(small.len(), 2);
}

#[test]
fn keys_and_values_too_long_are_refused_and_counted() {
    let now = start();
    let mut tables = tables();
    let t1 = table(&mut tables, "t1");
    let long = Value::Text(Bytes::from(vec![b'x'; VALUE_BYTES_MAX + 1]));
    let key = vec![b'k'; KEY_BYTES_MAX + 1];
    assert_eq!(t1.set(now, b"k", long, 1).err(), Some(WriteError::Value));
    assert_eq!(
        t1.set(now, &key, Value::Int(1), 1).err(),
        Some(WriteError::Key)
    );
    let expected = Refused {
        full: 0,
        key: 1,
        value: 1,
    };
    assert_eq!(t1.refused(), expected);
    assert!(t1.is_empty());
    let longest = Value::Text(Bytes::from(vec![b'x'; VALUE_BYTES_MAX]));
    assert!(t1.set(now, &key[1..], longest, 1).is_ok());
}

#[test]
fn definitions_have_limits() {
    let mut tables = Tables::<u64>::new();
    assert_eq!(tables.define(Definition::new("")), Err(DefineError::Name));
    let long = vec![b'n'; NAME_BYTES_MAX + 1];
    assert_eq!(tables.define(Definition::new(long)), Err(DefineError::Name));
    let initial = Definition {
        initial: Some(Value::Text(Bytes::from(vec![b'x'; VALUE_BYTES_MAX + 1]))),
        ..Definition::new("t")
    };
    assert_eq!(tables.define(initial), Err(DefineError::Initial));
    for number in 0..TABLES_MAX {
        assert_eq!(tables.define(Definition::new(format!("t{number}"))), Ok(()));
    }
    assert_eq!(
        tables.define(Definition::new("more")),
        Err(DefineError::TooManyTables)
    );
    assert_eq!(tables.define(Definition::new("t0")), Ok(()));
    assert!(tables.undefine(b"t0").is_some());
    assert_eq!(tables.define(Definition::new("more")), Ok(()));
}

#[test]
fn a_changed_definition_keeps_the_entries() {
    let now = start();
    let mut tables = tables();
    set(&mut tables, now, "te", "k");
    tables.define(Definition::new("te")).unwrap();
    let te = table(&mut tables, "te");
    assert!(te.entry(now, b"k").is_some());
    assert_eq!(te.definition().autoexpire, None);
    te.set(now, b"k", Value::Int(2), 2).unwrap();
    assert_eq!(tables.poll_timeout(), None);
}

/// One thing that happens to a table.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, i32),
    Merge(u8, u64, Option<u64>),
    SetExpire(u8, i64),
    Delete(u8),
    Flush,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, any::<i32>()).prop_map(|(key, value)| Step::Set(key, value)),
        4 => (0..6u8, 0..40u64, prop::option::of(0..900u64))
            .prop_map(|(key, stamp, expires)| Step::Merge(key, stamp, expires)),
        3 => (0..6u8, -2..400i64).prop_map(|(key, seconds)| Step::SetExpire(key, seconds)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => Just(Step::Flush),
        4 => (0..200u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// A table does what a plain map with deadlines does that is swept after every step.
    #[test]
    fn a_table_is_a_map_whose_entries_end(steps in prop::collection::vec(step(), 0..60)) {
        let start = start();
        let mut tables = tables();
        let mut model: BTreeMap<u8, Entry<u64>> = BTreeMap::new();
        let mut now = start;
        for (stamp, step) in (0u64..).zip(steps) {
            let te = table(&mut tables, "te");
            match step {
                Step::Set(key, value) => {
                    let value = Value::Int(value);
                    let entry = Entry { value: value.clone(), expires: Some(now + LIFETIME), stamp };
                    prop_assert_eq!(te.set(now, &[key], value, stamp), Ok(&entry));
                    model.insert(key, entry);
                }
                Step::Merge(key, stamp, expires) => {
                    let expires = expires.map(|at| start + seconds(at));
                    let entry = Entry { value: text("m"), expires, stamp };
                    let taken = model.get(&key).is_none_or(|own| stamp > own.stamp);
                    let merged = if taken { Merged::Taken } else { Merged::Kept };
                    prop_assert_eq!(te.merge(&[key], entry.clone()), Ok(merged));
                    if taken {
                        model.insert(key, entry);
                    }
                }
                Step::SetExpire(key, count) => {
                    prop_assert_eq!(
                        te.set_expire(now, &[key], count, stamp),
                        model.contains_key(&key)
                    );
                    if let Some(entry) = model.get_mut(&key) {
                        let count = u64::try_from(count).unwrap_or(0);
                        entry.expires = (count > 0).then(|| now + seconds(count));
                        entry.stamp = stamp;
                    }
                }
                Step::Delete(key) => prop_assert_eq!(te.delete(&[key]), model.remove(&key)),
                Step::Flush => {
                    prop_assert_eq!(te.flush().len(), model.len());
                    model.clear();
                }
                Step::Wait(count) => now += seconds(count),
            }
            let ended = |entry: &Entry<u64>| entry.expires.is_some_and(|at| at <= now);
            let mut gone: Vec<_> = tables.handle_timeout(now).into_iter().map(|e| e.key[0]).collect();
            gone.sort_unstable();
            let expected: Vec<_> = model.iter().filter(|(_, e)| ended(e)).map(|(k, _)| *k).collect();
            prop_assert_eq!(gone, expected);
            model.retain(|_, entry| !ended(entry));
            let held: Vec<_> = tables.table(b"te").unwrap().iter(now)
                .map(|(key, entry)| (key[0], entry.clone())).collect();
            prop_assert_eq!(held, model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(tables.poll_timeout(), model.values().filter_map(|e| e.expires).min());
        }
    }
}
