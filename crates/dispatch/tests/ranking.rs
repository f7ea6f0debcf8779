//! Where a Call-ID goes, in which order, and who inherits it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use dispatch::{
    Administrative, Algorithm, ClusterKey, DestinationConfig, DestinationSet, Health, HealthConfig,
    MEMBERS_MAX, Member, SetView, Sets, SetsError, View, score,
};

const KEY: [u8; 16] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";

fn member(i: usize, weight: u32, cell: &str) -> Member {
    Member {
        id: format!("r{i}").into(),
        address: format!("192.0.2.{}:5060", i + 1).parse().unwrap(),
        weight,
        priority: 0,
        cell: cell.into(),
        last_heir: false,
    }
}

fn set(algorithm: Algorithm, members: Vec<Member>) -> DestinationSet {
    DestinationSet {
        id: "1".into(),
        algorithm,
        members,
    }
}

fn sets(set: DestinationSet) -> Sets {
    Sets::new(ClusterKey::new(KEY), vec![set]).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
fn start() -> Instant {
    Instant::now()
}

/// A judge that has found the destinations of `dead` dead, and knows the others to live.
fn health(all: &[Member], dead: &[&str], administrative: &[(&str, Administrative)]) -> Health {
    let now = start();
    let mut health = Health::new(HealthConfig {
        successes_to_active: NonZeroU32::MIN,
        ..HealthConfig::default()
    });
    let configs: Vec<_> = all
        .iter()
        .map(|member| DestinationConfig {
            id: member.id.clone(),
            address: member.address,
            probing: true,
            administrative: administrative
                .iter()
                .find(|(id, _)| *id == &*member.id)
                .map_or(Administrative::Active, |(_, wanted)| *wanted),
        })
        .collect();
    health.configure(now, &configs).unwrap();
    for milliseconds in 0..300 {
        let now = now + Duration::from_millis(milliseconds);
        health.handle_timeout(now);
        while let Some(probe) = health.poll_probe() {
            if !dead.contains(&&*probe.destination) {
                health.handle_probe_answer(now, &probe.destination, probe.seq, 200);
            }
        }
    }
    health
}

fn view_of(algorithm: Algorithm, members: &[Member], dead: &[&str]) -> View {
    sets(set(algorithm, members.to_vec())).view(&health(members, dead, &[]))
}

fn ranked<'a>(set: &'a SetView, call_id: &str, turn: usize) -> Vec<&'a str> {
    let ranking = set.rank(call_id.as_bytes(), turn);
    assert!(
        ranking.len() > 8 || !ranking.spilled(),
        "up to eight need no allocation"
    );
    ranking
        .iter()
        .map(|index| &*set.member(*index).id)
        .collect()
}

/// Computed from the description at `score` by a second implementation of it, in another language.
#[test]
fn every_node_of_every_version_ranks_like_this() {
    let key = ClusterKey::new(KEY);
    let order = |call_id: &str, weights: [u32; 4]| {
        let mut ids = ["r0", "r1", "r2", "r3"];
        ids.sort_by_key(|id| {
            let weight = weights[id[1..].parse::<usize>().unwrap()];
            std::cmp::Reverse(score(&key, call_id.as_bytes(), id, weight))
        });
        ids.join(" ")
    };
    let vectors = [
        (
            "a84b4c76e66710@pc33.example.com",
            "r1 r3 r2 r0",
            "r2 r1 r0 r3",
        ),
        ("1-4242@127.0.0.1", "r2 r3 r0 r1", "r2 r0 r1 r3"),
        (
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "r3 r2 r1 r0",
            "r2 r1 r0 r3",
        ),
        ("", "r0 r2 r1 r3", "r2 r0 r1 r3"),
        ("\u{fc}mlaut\u{0}nul", "r2 r0 r1 r3", "r2 r1 r0 r3"),
    ];
    for (call_id, equal, weighted) in vectors {
        let found = (order(call_id, [1; 4]), order(call_id, [1, 2, 8, 0]));
        assert_eq!(
            (found.0.as_str(), found.1.as_str()),
            (equal, weighted),
            "{call_id:?}"
        );
    }
}

#[test]
fn a_view_ranks_as_the_scores_say() {
    for weights in [[1, 1, 1, 1], [3, 1, 0, 9]] {
        let members: Vec<_> = (0..4).map(|i| member(i, weights[i], "")).collect();
        let view = view_of(Algorithm::CallIdHash, &members, &[]);
        for call in 0..200 {
            let call_id = format!("{call}@example");
            let mut expected: Vec<_> = members.iter().collect();
            expected
                .sort_by_key(|m| score(&ClusterKey::new(KEY), call_id.as_bytes(), &m.id, m.weight));
            let expected: Vec<_> = expected.iter().rev().map(|m| &*m.id).collect();
            assert_eq!(ranked(view.set("1").unwrap(), &call_id, 0), expected);
        }
    }
}

#[test]
fn a_destination_that_leaves_takes_only_its_own_calls_with_it() {
    let members: Vec<_> = (0..5).map(|i| member(i, 1, "")).collect();
    let all = view_of(Algorithm::CallIdHash, &members, &[]);
    let without = view_of(Algorithm::CallIdHash, &members, &["r3"]);
    for call in 0..300 {
        let call_id = format!("{call}@example");
        let mut expected = ranked(all.set("1").unwrap(), &call_id, 0);
        expected.retain(|id| *id != "r3");
        assert_eq!(ranked(without.set("1").unwrap(), &call_id, 0), expected);
    }
}

#[test]
fn a_cell_is_chosen_first_and_left_last() {
    let cells = ["a", "a", "a", "b", "b", "c"];
    let members: Vec<_> = (0..6).map(|i| member(i, 1, cells[i])).collect();
    let view = view_of(Algorithm::CallIdHash, &members, &[]);
    let mut first = [0; 6];
    for call in 0..6_000 {
        let ids = ranked(view.set("1").unwrap(), &format!("{call}@example"), 0);
        let index = |id: &str| id[1..].parse::<usize>().unwrap();
        first[index(ids[0])] += 1;
        let mut visited: Vec<_> = ids.iter().map(|id| cells[index(id)]).collect();
        visited.dedup();
        assert_eq!(visited.len(), 3, "{ids:?}");
    }
    assert!(
        first.iter().all(|calls| (850..1150).contains(calls)),
        "{first:?}"
    );
}

#[test]
fn a_last_heir_inherits_at_home_when_nobody_else_of_its_cell_lives() {
    let members: Vec<_> = (0..4)
        .map(|i| Member {
            last_heir: i < 2,
            ..member(i, 1, if i < 3 { "a" } else { "b" })
        })
        .collect();
    let view = view_of(Algorithm::CallIdHash, &members, &[]);
    let set = view.set("1").unwrap();
    for call in 0..100 {
        let call_id = format!("call-{call}");
        let heir = |excluded: &[usize]| {
            let excluded = excluded.iter().map(|i| member(*i, 1, "a").address);
            let excluded: Vec<_> = excluded.collect();
            let heir = set.heir(call_id.as_bytes(), "a", &excluded).unwrap();
            set.member(heir).id.to_string()
        };
        assert_eq!(heir(&[]), "r2");
        assert!(["r0", "r1"].contains(&heir(&[2]).as_str()));
        assert_eq!(heir(&[0, 1, 2]), "r3");
    }
}

#[test]
fn an_heir_is_the_next_active_router_of_the_same_cell_for_every_death() {
    let cells = ["a", "a", "a", "b", "b"];
    let members: Vec<_> = (0..5).map(|i| member(i, 1, cells[i])).collect();
    let sets = sets(set(Algorithm::RoundRobin, members.clone()));
    for call in 0..50 {
        let call_id = format!("{call}@example");
        let heir = |dead: &[&str]| {
            let view = sets.view(&health(&members, dead, &[]));
            let set = view.set("1").unwrap();
            let heir = set.heir(call_id.as_bytes(), "a", &[])?;
            Some(set.member(heir).id.to_string())
        };
        let second = heir(&["r0"]).unwrap();
        assert!(["r1", "r2"].contains(&&*second));
        let third = heir(&["r0", &second]).unwrap();
        assert!(["r1", "r2"].contains(&&*third) && third != second);
        let abroad = heir(&["r0", "r1", "r2"]).unwrap();
        assert!(["r3", "r4"].contains(&&*abroad), "its cell is dead");
        assert_eq!(heir(&["r0", "r1", "r2", "r3", "r4"]), None);
    }
}

#[test]
fn an_excluded_router_inherits_nothing() {
    let members: Vec<_> = (0..2).map(|i| member(i, 1, "a")).collect();
    let view = view_of(Algorithm::CallIdHash, &members, &[]);
    let set = view.set("1").unwrap();
    let first = set.heir(b"x", "a", &[]).unwrap();
    let second = set.heir(b"x", "a", &[set.member(first).address]).unwrap();
    assert_ne!(first, second);
}

#[test]
fn a_draining_router_inherits_only_when_nobody_else_can() {
    let members: Vec<_> = (0..3).map(|i| member(i, 1, "a")).collect();
    let sets = sets(set(Algorithm::CallIdHash, members.clone()));
    let drain = [("r1", Administrative::Draining)];
    for call in 0..50 {
        let call_id = format!("{call}@example");
        let view = sets.view(&health(&members, &["r0"], &drain));
        let set = view.set("1").unwrap();
        assert_eq!(set.heir(call_id.as_bytes(), "a", &[]), set.by_id("r2"));
        let view = sets.view(&health(&members, &["r0", "r2"], &drain));
        let set = view.set("1").unwrap();
        assert_eq!(set.heir(call_id.as_bytes(), "a", &[]), set.by_id("r1"));
    }
}

#[test]
fn in_a_panic_the_active_ones_come_first_and_then_the_silent() {
    let members: Vec<_> = (0..5).map(|i| member(i, 1, "")).collect();
    let half = view_of(Algorithm::CallIdHash, &members[..4], &["r0", "r1"]);
    assert!(!half.set("1").unwrap().is_panicking());
    assert_eq!(ranked(half.set("1").unwrap(), "x", 0).len(), 2);
    let panic = view_of(Algorithm::CallIdHash, &members, &["r0", "r1", "r4"]);
    let set = panic.set("1").unwrap();
    assert!(set.is_panicking());
    let ids = ranked(set, "x", 0);
    assert_eq!(ids.len(), 5);
    assert!(
        ["r2", "r3"].contains(&ids[0]) && ["r2", "r3"].contains(&ids[1]),
        "{ids:?}"
    );
}

#[test]
fn draining_and_disabled_destinations_take_no_new_calls_even_in_a_panic() {
    let members: Vec<_> = (0..5).map(|i| member(i, 1, "")).collect();
    let wanted = [
        ("r0", Administrative::Draining),
        ("r1", Administrative::Disabled),
    ];
    let health = health(&members, &["r0", "r2", "r3"], &wanted);
    let view = sets(set(Algorithm::CallIdHash, members)).view(&health);
    let set = view.set("1").unwrap();
    assert!(set.is_panicking());
    let mut ids = ranked(set, "x", 0);
    assert_eq!(ids.remove(0), "r4");
    ids.sort_unstable();
    assert_eq!(ids, ["r2", "r3"]);
}

#[test]
fn round_robin_goes_round_by_the_counter_of_the_caller() {
    let members: Vec<_> = (0..4).map(|i| member(i, 1, "")).collect();
    let view = view_of(Algorithm::RoundRobin, &members, &["r1"]);
    let turn = |turn| ranked(view.set("1").unwrap(), "x", turn).join(" ");
    let turns: Vec<_> = (5..9).map(turn).collect();
    assert_eq!(turns, ["r3 r0 r2", "r0 r2 r3", "r2 r3 r0", "r3 r0 r2"]);
    assert_eq!(turn(usize::MAX), turn(usize::MAX % 3));
}

#[test]
fn priority_puts_the_highest_first_and_equal_ones_by_id() {
    let mut members: Vec<_> = (0..4).map(|i| member(i, 1, "")).collect();
    members[2].priority = 9;
    members[0].priority = -1;
    let view = view_of(Algorithm::Priority, &members, &[]);
    assert_eq!(
        ranked(view.set("1").unwrap(), "x", 3),
        ["r2", "r1", "r3", "r0"]
    );
}

#[test]
fn destinations_are_found_by_id_and_by_address() {
    let members: Vec<_> = (0..3).map(|i| member(i, 1, "")).collect();
    let view = view_of(Algorithm::CallIdHash, &members, &["r2"]);
    let set = view.set("1").unwrap();
    for index in set.destinations() {
        let member = set.member(index);
        assert_eq!(set.by_address(member.address), Some(index));
        assert_eq!(set.by_id(&member.id), Some(index));
        assert_eq!(set.is_alive(index), &*member.id != "r2");
        assert_eq!(set.accepts_new(index), set.is_alive(index));
    }
    assert_eq!(set.by_address("192.0.2.99:5060".parse().unwrap()), None);
    assert!(view.set("2").is_none());
}

#[test]
fn an_empty_set_ranks_nobody() {
    for algorithm in [
        Algorithm::CallIdHash,
        Algorithm::RoundRobin,
        Algorithm::Priority,
    ] {
        let view = view_of(algorithm, &[], &[]);
        assert!(ranked(view.set("1").unwrap(), "x", 7).is_empty());
    }
}

#[test]
fn sets_that_break_the_rules_are_refused() {
    let key = ClusterKey::new(KEY);
    let one = set(
        Algorithm::Priority,
        vec![member(1, 1, ""), member(1, 1, "")],
    );
    assert_eq!(
        Sets::new(key, vec![one]).unwrap_err(),
        SetsError::DuplicateMember {
            set: "1".into(),
            id: "r1".into()
        }
    );
    let same = || set(Algorithm::Priority, vec![]);
    assert_eq!(
        Sets::new(key, vec![same(), same()]).unwrap_err(),
        SetsError::DuplicateSet { set: "1".into() }
    );
    let mut many = same();
    many.members = (0..=MEMBERS_MAX)
        .map(|i| Member {
            id: i.to_string().into(),
            ..member(1, 1, "")
        })
        .collect();
    let error = Sets::new(key, vec![many]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "destination set 1 has 257 members, more than 256"
    );
}
