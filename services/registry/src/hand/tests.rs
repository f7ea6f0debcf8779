use std::collections::BTreeSet;

use control::registry::v1::Refusal;
use proptest::prelude::*;
use store::{Commit, Entry, Listing, Point};

use super::*;
use crate::resource::{CONFIG, path_of};

#[path = "../../tests/common/malformed.rs"]
mod malformed;

const SET_1: (&str, &str) = ("sets/1", r#"{"name":"sets/1"}"#);

fn entry(key: String, value: &[u8], version: u64) -> Entry {
    Entry {
        key,
        value: value.to_vec(),
        version,
    }
}

/// A state in which these count, and nothing else was written.
fn settled(values: &[(&str, &str)]) -> State {
    let at = Point {
        generation: 1,
        mark: 0,
    };
    let both = |(path, value): &(&str, &str)| {
        [CONFIG, ACCEPTED].map(|at| entry(format!("{at}{path}"), value.as_bytes(), 1))
    };
    let entries = values.iter().flat_map(both).collect();
    State::from_listing(&Listing { at, entries }, [0; 16])
}

fn commit(state: &State, writes: Vec<(String, Option<Vec<u8>>)>) -> State {
    let generation = state.at.generation + 1;
    let changes = writes.into_iter().map(|(key, value)| {
        let entry = value.map(|value| entry(key.clone(), &value, generation));
        (key, entry)
    });
    let at = Point {
        generation,
        mark: 0,
    };
    state.after(&Commit {
        at,
        changes: changes.collect(),
    })
}

/// What a hand writes, or deletes.
fn by_hand(state: &State, path: &str, value: Option<&str>) -> State {
    let value = value.map(|value| value.as_bytes().to_vec());
    commit(state, vec![(format!("{CONFIG}{path}"), value)])
}

/// Settles until nothing is left to do. Every state on the way must be good, and every step one that a
/// store takes.
fn settle_all(mut state: State) -> State {
    let mut round = Round::default();
    for _ in 0..200 {
        let writes = match settle(&state, &mut round, SystemTime::UNIX_EPOCH) {
            Next::Write(writes) => writes,
            Next::Look => continue,
            Next::Rest => return state,
        };
        assert!((1..=store::COMMIT_WRITES_MAX).contains(&writes.len()));
        assert!(writes.iter().map(Write::bytes).sum::<usize>() <= store::COMMIT_BYTES_MAX);
        let writes = writes.into_iter().map(|write| match write {
            Write::Put { key, value } | Write::PutLeased { key, value, .. } => {
                assert!(value.len() <= VALUE_BYTES_MAX, "{key}");
                (key, Some(value))
            }
            Write::Delete { key } => (key, None),
        });
        state = commit(&state, writes.collect());
        state
            .resources
            .to_view()
            .expect("what counts is always good");
    }
    panic!("it never settles");
}

fn accepted(state: &State) -> Vec<String> {
    state
        .resources
        .by_name
        .keys()
        .map(ToString::to_string)
        .collect()
}

/// Resource and fields of every fault.
fn faults(state: &State) -> Vec<(String, Vec<String>)> {
    let faults = state.written.faults().map(|(_, fault)| {
        let fault = fault.expect("it can be read");
        let fields = fault.refusals.iter().map(|refusal| refusal.field.clone());
        (fault.resource.clone(), fields.collect())
    });
    faults.collect()
}

#[test]
fn what_fits_counts_as_it_was_written() {
    let text = r#"{ "name": "sets/2", "algorithm": 4 }"#;
    let state = settle_all(by_hand(&settled(&[SET_1]), "sets/2", Some(text)));
    assert_eq!(accepted(&state), ["sets/1", "sets/2"]);
    assert_eq!(faults(&state), []);
    assert!(state.written.differing().next().is_none());
}

#[test]
fn what_is_wrong_is_explained_by_its_field_and_nothing_of_it_counts() {
    let before = settled(&[SET_1]);
    for (name, value, field) in [malformed::WRONG, malformed::UNREADABLE].concat() {
        let path = path_of(&name.parse().unwrap());
        let state = settle_all(by_hand(&before, &path, Some(value)));
        assert_eq!(accepted(&state), ["sets/1"], "{value}");
        let wanted = (name.to_owned(), vec![field.to_owned()]);
        assert_eq!(faults(&state), [wanted], "{value}");
        let (_, fault) = state.written.faults().next().unwrap();
        assert!(
            fault
                .unwrap()
                .refusals
                .iter()
                .all(|refusal| !refusal.reason.is_empty())
        );
        let gone = settle_all(by_hand(&state, &path, None));
        assert_eq!(faults(&gone), [], "{value}");
    }
}

#[test]
fn a_key_of_no_resource_is_a_fault() {
    for path in ["secrets/a", "sets", "sets/A", "sets/1/destinations/a", "x"] {
        let state = settle_all(by_hand(&settled(&[SET_1]), path, Some("{}")));
        assert_eq!(faults(&state), [(path.to_owned(), vec![String::new()])]);
    }
    let state = commit(
        &settled(&[]),
        vec![(format!("{CONFIG}sets/a"), Some(vec![0xff]))],
    );
    assert_eq!(
        faults(&settle_all(state)),
        [("sets/a".to_owned(), vec![String::new()])]
    );
}

#[test]
fn the_value_before_stays_until_the_wrong_one_is_mended() {
    let good = r#"{"name":"sets/2","algorithm":4}"#;
    let state = settled(&[SET_1, ("sets/2", good)]);
    let state = settle_all(by_hand(
        &state,
        "sets/2",
        Some(r#"{"name":"sets/2","algorithm":5}"#),
    ));
    let before = state.position.checksum;
    assert_eq!(accepted(&state), ["sets/1", "sets/2"]);
    assert_eq!(
        faults(&state),
        [("sets/2".to_owned(), vec!["algorithm".to_owned()])]
    );
    // What somebody else does meanwhile is not held up.
    let state = settle_all(by_hand(&state, "sets/3", Some(r#"{"name":"sets/3"}"#)));
    assert_eq!(accepted(&state), ["sets/1", "sets/2", "sets/3"]);
    assert_eq!(faults(&state).len(), 1);
    let state = settle_all(by_hand(
        &state,
        "sets/2",
        Some(r#"{"name":"sets/2","algorithm":8}"#),
    ));
    assert_eq!(faults(&state), []);
    assert_ne!(state.position.checksum, before);
}

#[test]
fn what_is_referred_to_stays_until_nothing_does() {
    let route = r#"{"name":"routes/a","results":[{"set":"sets/2"}]}"#;
    let state = settled(&[
        SET_1,
        ("sets/2", r#"{"name":"sets/2"}"#),
        ("routes/a", route),
    ]);
    let state = settle_all(by_hand(&state, "sets/2", None));
    assert_eq!(accepted(&state), ["routes/a", "sets/1", "sets/2"]);
    let (_, fault) = state.written.faults().next().unwrap();
    let reason = &fault.unwrap().refusals[0];
    let wanted = Refusal {
        resource: "sets/2".into(),
        field: String::new(),
        reason: "still counts: routes/a refers to it".into(),
    };
    assert_eq!(*reason, wanted);
    let state = settle_all(by_hand(&state, "routes/a", None));
    assert_eq!(accepted(&state), ["sets/1"]);
    assert_eq!(faults(&state), []);
}

#[test]
fn what_was_too_early_counts_as_soon_as_it_fits() {
    let route = r#"{"name":"routes/a","results":[{"set":"sets/2"}]}"#;
    let state = settle_all(by_hand(&settled(&[SET_1]), "routes/a", Some(route)));
    assert_eq!(
        faults(&state),
        [("routes/a".to_owned(), vec!["results[0].set".to_owned()])]
    );
    let state = settle_all(by_hand(&state, "sets/2", Some(r#"{"name":"sets/2"}"#)));
    assert_eq!(accepted(&state), ["routes/a", "sets/1", "sets/2"]);
    assert_eq!(faults(&state), []);
}

#[test]
fn a_member_keeps_its_kind_and_its_life() {
    let member = |kind: &str, tag: &str| {
        format!(
            r#"{{"name":"members/a","kind":"MEMBER_KIND_{kind}","address":"192.0.2.1","sip":[{{"address":"192.0.2.1:5060"}}],"tags":["{tag}"]}}"#
        )
    };
    let state = settled(&[("members/a", &member("ROUTER", "x"))]);
    let life = [
        ("seen/a", r#"{"incarnation":7}"#),
        ("alive/a", r#"{"session":"s"}"#),
    ];
    let life = life.map(|(key, value)| (key.to_owned(), Some(value.as_bytes().to_vec())));
    let state = commit(&state, life.to_vec());
    let other = settle_all(by_hand(&state, "members/a", Some(&member("SBC", "x"))));
    assert_eq!(
        faults(&other),
        [("members/a".to_owned(), vec!["kind".to_owned()])]
    );

    let state = settle_all(by_hand(&state, "members/a", Some(&member("ROUTER", "y"))));
    let view = state.resources.to_view().unwrap();
    let found = view.member("a").unwrap();
    assert_eq!(
        (found.incarnation, &*found.tags),
        (7, &["y".to_owned()][..])
    );
    assert_eq!(found.liveness, control::view::Liveness::Alive);

    let state = settle_all(by_hand(&state, "members/a", None));
    assert!(state.alive.is_empty(), "its life goes with it");
    let seen = &state.seen["a"];
    assert!(seen.removed && seen.incarnation == 7, "it stays out");
}

#[test]
fn a_value_with_thousands_of_mistakes_holds_up_nobody() {
    let sip = vec!["{}"; 2500].join(",");
    let bad = format!(
        r#"{{"name":"members/a","kind":"MEMBER_KIND_SBC","address":"192.0.2.1","sip":[{sip}]}}"#
    );
    // What is wrong with it is shown with escapes, and is longer than it.
    let long = format!(
        r#"{{"name":"sets/2/destinations/a","uri":"{}"}}"#,
        "\\u0001".repeat(40_000)
    );
    let state = by_hand(&settled(&[SET_1]), "members/a", Some(&bad));
    let state = by_hand(&state, "sets/2/a", Some(&long));
    let state = settle_all(by_hand(&state, "sets/2", Some(r#"{"name":"sets/2"}"#)));
    assert_eq!(accepted(&state), ["sets/1", "sets/2"]);
    let faults: Vec<_> = state.written.faults().collect();
    assert_eq!(faults.len(), 2);
    let refusals = &faults[0].1.unwrap().refusals;
    let last = &refusals.last().unwrap().reason;
    assert!(refusals.len() < 30 && last.starts_with("and 24"), "{last}");
}

#[test]
fn what_is_more_than_a_commit_takes_counts_in_several() {
    let mut state = settled(&[SET_1]);
    for i in 2..12 {
        let padding = " ".repeat(200 * 1024);
        let text = format!(r#"{{"name":"sets/{i}"{padding}}}"#);
        state = by_hand(&state, &format!("sets/{i}"), Some(&text));
    }
    let state = settle_all(state);
    assert_eq!((accepted(&state).len(), faults(&state).len()), (11, 0));
}

#[test]
fn hundreds_that_lead_nowhere_hold_up_nobody() {
    let mut writes = Vec::new();
    for i in 0..300 {
        let name = format!("sets/2/destinations/d{i}");
        let text = format!(r#"{{"name":"{name}","uri":"sip:a"}}"#);
        writes.push((format!("{CONFIG}sets/2/d{i}"), Some(text.into_bytes())));
    }
    let state = settle_all(commit(&settled(&[SET_1]), writes));
    assert_eq!(faults(&state).len(), 300);
    let route = r#"{"name":"routes/a","results":[{"set":"sets/1"}]}"#;
    let state = settle_all(by_hand(&state, "routes/a", Some(route)));
    assert_eq!(accepted(&state), ["routes/a", "sets/1"]);
    let astray = r#"{"name":"routes/b","results":[{"set":"sets/9"}]}"#;
    let state = settle_all(by_hand(&state, "routes/b", Some(astray)));
    assert_eq!(faults(&state).len(), 301);
    let state = settle_all(by_hand(&state, "sets/2", Some(r#"{"name":"sets/2"}"#)));
    assert_eq!((accepted(&state).len(), faults(&state).len()), (303, 1));
}

#[test]
fn thousands_of_stray_keys_hold_up_nobody() {
    let stray = (0..1500).map(|i| (format!("{CONFIG}a{i}"), Some(b"{}".to_vec())));
    let route = r#"{"name":"routes/a","results":[{"set":"sets/2"}]}"#;
    let state = commit(&settled(&[SET_1]), stray.collect());
    let state = settle_all(by_hand(&state, "routes/a", Some(route)));
    assert_eq!(faults(&state).len(), 1501);
    let state = settle_all(by_hand(&state, "sets/2", Some(r#"{"name":"sets/2"}"#)));
    assert_eq!(accepted(&state), ["routes/a", "sets/1", "sets/2"]);
    assert_eq!(faults(&state).len(), 1500);
}

#[test]
fn a_deletion_that_cannot_be_holds_up_nobody() {
    let to_2 = |id: &str| format!(r#"{{"name":"routes/{id}","results":[{{"set":"sets/2"}}]}}"#);
    let sets: Vec<_> = (3..250).map(|i| format!("sets/{i}")).collect();
    let texts: Vec<_> = sets
        .iter()
        .map(|name| format!(r#"{{"name":"{name}"}}"#))
        .collect();
    let mut values = vec![SET_1, ("sets/2", r#"{"name":"sets/2"}"#)];
    values.extend(
        sets.iter()
            .zip(&texts)
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    let b = to_2("b");
    values.push(("routes/b", &b));
    let state = settled(&values);
    // One of many deletions takes away what stays and what is new lead to.
    let gone = (2..250).map(|i| (format!("{CONFIG}sets/{i}"), None));
    let new = (format!("{CONFIG}routes/a"), Some(to_2("a").into_bytes()));
    let state = settle_all(commit(&state, gone.chain([new]).collect()));
    assert_eq!(
        accepted(&state),
        ["routes/a", "routes/b", "sets/1", "sets/2"]
    );
    assert_eq!(faults(&state).len(), 1);
}

#[test]
fn what_counts_is_written_by_registries_alone() {
    let state = settled(&[SET_1]);
    let bad = (format!("{ACCEPTED}sets/1"), Some(b"{".to_vec()));
    let state = commit(&state, vec![bad]);
    assert_eq!(accepted(&state), ["sets/1"], "it stays as it was");
    let state = settle_all(state);
    assert!(
        state.written.differing().next().is_none(),
        "it is written again"
    );
    let stray = (
        format!("{ACCEPTED}sets/9"),
        Some(br#"{"name":"sets/9"}"#.to_vec()),
    );
    let state = settle_all(commit(&state, vec![stray]));
    assert_eq!(accepted(&state), ["sets/1"]);
}

/// A store of an earlier version has `config/` alone.
#[test]
fn an_old_store_is_taken_over_whole_and_in_order() {
    let mut entries = Vec::new();
    let mut write = |path: String, value: String| {
        entries.push(entry(format!("{CONFIG}{path}"), value.as_bytes(), 1));
    };
    for i in 0..100 {
        write(format!("sets/{i}"), format!(r#"{{"name":"sets/{i}"}}"#));
        let name = format!("sets/{i}/destinations/a");
        write(
            format!("sets/{i}/a"),
            format!(r#"{{"name":"{name}","uri":"sip:a"}}"#),
        );
        let results = format!(r#"[{{"set":"sets/{i}"}}]"#);
        write(
            format!("routes/{i}"),
            format!(r#"{{"name":"routes/{i}","results":{results}}}"#),
        );
    }
    let at = Point {
        generation: 5,
        mark: 0,
    };
    let state = settle_all(State::from_listing(&Listing { at, entries }, [0; 16]));
    assert_eq!(state.resources.by_name.len(), 300);
    assert_eq!(faults(&state), []);
}

/// One thing that a hand does: which path, and what of it is written.
fn strokes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..PATHS.len(), 0..4usize), 0..40)
}

const PATHS: [&str; 7] = [
    "sets/1", "sets/2", "sets/2/a", "routes/a", "routes/b", "tables/a", "tables/b",
];

fn value(path: &str, variant: usize) -> Option<String> {
    let name = name_of_path(path).unwrap();
    let text = match (name, variant) {
        (_, 0) => return None,
        (_, 1) => "{".to_owned(),
        (name @ Name::Set(_), n) => format!(r#"{{"name":"{name}","algorithm":{}}}"#, n * 4 - 8),
        (name @ Name::Destination { .. }, n) => format!(r#"{{"name":"{name}","uri":"sip:{n}"}}"#),
        (name @ Name::Route(_), n) => {
            format!(
                r#"{{"name":"{name}","results":[{{"set":"sets/{}"}}]}}"#,
                n - 1
            )
        }
        (name, n) => format!(r#"{{"name":"{name}","table":"t{n}"}}"#),
    };
    Some(text)
}

proptest! {
    /// Whatever hands do, and in whichever order registries see it: what counts is good, and every
    /// difference is explained.
    #[test]
    fn hands_never_make_what_counts_bad(strokes in strokes(), settle_after in prop::collection::vec(any::<bool>(), 40)) {
        let mut state = settled(&[SET_1]);
        for ((path, variant), settles) in strokes.into_iter().zip(settle_after) {
            let path = PATHS[path];
            state = by_hand(&state, path, value(path, variant).as_deref());
            if settles {
                state = settle_all(state);
            }
        }
        let state = settle_all(state);
        let differing: BTreeSet<_> = state.written.differing().map(|(path, _)| path.to_owned()).collect();
        let explained: BTreeSet<_> = state.written.faults().map(|(path, _)| path.to_owned()).collect();
        prop_assert_eq!(differing, explained);
    }
}
