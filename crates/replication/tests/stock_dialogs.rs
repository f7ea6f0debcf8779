//! What a Kamailio is told of dialogs, and how much of its word is believed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stock_model;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use dmq_bodies::{DialogMessage, DialogState as WireState, Did, slot};
use replication::{
    Cause, DialogKey, DialogRecord, DialogState, DialogsConfig, End, Observation, Observed, Origin,
    Ownership, Replica,
};
use stock_model::kamailio::Version::{V56, V62};
use stock_model::kamailio::{Dialog, Kamailio};
use stock_model::{HASH_SIZE, World, h_id, key, leg, ms, ours, stock};

fn did(call_id: &str) -> Did {
    Did {
        h_entry: slot(call_id.as_bytes(), HASH_SIZE),
        h_id: h_id(call_id),
    }
}

fn stock_key(call_id: &str, h_id: u32) -> DialogKey {
    DialogKey {
        call_id: call_id.as_bytes().into(),
        h_id,
    }
}

fn state(world: &World, key: &DialogKey) -> Option<DialogState> {
    let held = world.ours.replica.dialogs().dialog(key)?;
    Some(held.record.state)
}

#[test]
fn a_call_is_told_step_by_step() {
    let mut world = World::settled(1, &[V56]);
    world.invite("a");
    world.run(ms(50));
    world.ring("a");
    world.run(ms(50));
    world.answer("a");
    world.run(ms(50));
    assert_eq!(world.words(0), ["UPDATE(1)", "STATE(2)"]);
    world.ack("a");
    world.run(ms(50));
    let dialog = &world.kamailios[0].dialogs[&did("a")];
    assert_eq!(dialog.state, WireState::Confirmed);
    assert_eq!(&dialog.callee.contact[..], b"sip:bob@10.9.0.2");
    assert_eq!(dialog.lifetime, 43_200);
    world.bye("a");
    world.run(ms(4_900));
    assert_eq!(world.words(0)[2..], ["STATE(4)", "STATE(5)"]);
    world.run(ms(200));
    assert_eq!(world.words(0)[4..], ["RM"]);
    assert!(world.kamailios[0].dialogs.is_empty());
    world.run(ms(60_000));
    assert_eq!(
        world.words(0).len(),
        5,
        "all was answered: nothing is said again"
    );
    assert!(world.kamailios[0].log.is_empty());
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn a_lifetime_counts_for_calls_that_are_answered_after_it_was_set() {
    let mut world = World::settled(82, &[V56]);
    world.call("before");
    world.invite("after");
    world.ring("after");
    world.run(ms(100));
    let week = Duration::from_secs(7 * 24 * 3600);
    for lifetime in [week, Duration::from_secs(60)] {
        world.ours.replica.set_dialog_lifetime(lifetime);
    }
    world.answer("after");
    world.ack("after");
    world.run(ms(100));
    let told = |world: &World, call_id| world.kamailios[0].dialogs[&did(call_id)].lifetime;
    assert_eq!(told(&world, "before"), 43_200);
    assert_eq!(told(&world, "after"), 60);
    world.run(ms(59_000));
    assert_eq!(state(&world, &key("after")), Some(DialogState::Confirmed));
    world.run(ms(2_000));
    let held = world.ours.replica.dialogs().dialog(&key("after")).unwrap();
    assert_eq!(held.record.end.map(|end| end.cause), Some(Cause::Expired));
    assert_eq!(state(&world, &key("before")), Some(DialogState::Confirmed));
    world.run(ms(6_000));
    let theirs = &world.kamailios[0].dialogs;
    assert!(theirs.contains_key(&did("before")) && !theirs.contains_key(&did("after")));
    assert!(world.kamailios[0].log.is_empty());
}

#[test]
fn where_an_end_is_after_a_later_request_its_owner_says() {
    let mut world = World::settled(83, &[V56, V56]);
    let did = world.kamailio(0, |now, it| it.invite(now, "a", 4_001));
    world.run(ms(100));
    world.kamailio(0, |now, it| it.confirm(now, did));
    world.run(ms(100));
    let key = DialogKey {
        call_id: (*b"a").into(),
        h_id: 4_001,
    };
    let caller = |world: &World| {
        let held = world.ours.replica.dialogs().dialog(&key).unwrap();
        let leg = &held.record.caller;
        (leg.cseq, String::from_utf8_lossy(&leg.contact).into_owned())
    };
    let first = caller(&world);
    let mut moves = |i: usize, cseq: &'static str, contact: &'static str| {
        world.kamailio(i, |now, it| {
            let leg = &mut it.dialogs.get_mut(&did).unwrap().caller;
            (leg.cseq, leg.contact) = (cseq.into(), contact.into());
            it.tell_all_of(now, did);
        });
        world.run(ms(100));
        caller(&world)
    };
    assert_eq!(moves(1, "9", "sip:b@10.9.0.9"), first, "not its dialog");
    let second = (first.0 + 1, "sip:b@10.9.0.2".to_owned());
    let told: &'static str = second.0.to_string().leak();
    assert_eq!(moves(0, told, "sip:b@10.9.0.2"), second);
    assert_eq!(moves(0, told, "sip:b@10.9.0.1"), second, "no later request");
}

#[test]
fn states_that_follow_each_other_closely_are_told_as_one() {
    let mut world = World::settled(2, &[V56]);
    world.invite("a");
    world.ring("a");
    world.answer("a");
    world.ack("a");
    world.run(ms(100));
    assert_eq!(world.words(0), ["UPDATE(1)", "STATE(4)"]);
    assert!(world.kamailios[0].log.is_empty());
}

#[test]
fn a_leg_that_moves_is_told_and_a_cseq_alone_is_not() {
    let mut world = World::settled(3, &[V56]);
    world.call("a");
    world.said.clear();
    world.see("a", true, Observed::Requested { cseq: 5 });
    world.see("a", true, Observed::Refreshed(leg(6, "sip:alice@10.9.0.1")));
    world.run(ms(100));
    assert!(world.said.is_empty());
    world.see(
        "a",
        true,
        Observed::Refreshed(leg(7, "sip:alice@10.9.0.77")),
    );
    world.run(ms(100));
    assert_eq!(world.words(0), ["STATE(4)"]);
    let dialog = &world.kamailios[0].dialogs[&did("a")];
    assert_eq!(&dialog.caller.contact[..], b"sip:alice@10.9.0.77");
    assert_eq!(&dialog.caller.cseq[..], b"7");
}

#[test]
fn variables_are_told_whenever_they_change() {
    let mut world = World::settled(4, &[V56]);
    world.call("a");
    world.said.clear();
    let value = Some((*b"gold").into());
    world.write(|now, replica| replica.set_variable(now, &key("a"), b"class", value));
    world.run(ms(100));
    assert_eq!(world.words(0), ["UPDATE(4)"]);
    let dialog = &world.kamailios[0].dialogs[&did("a")];
    assert_eq!(dialog.variables[&b"class"[..]], &b"gold"[..]);
    assert!(world.kamailios[0].log.is_empty());
}

#[test]
fn a_call_that_a_node_had_no_memory_for_is_told_again_and_then_its_end() {
    let mut world = World::settled(81, &[V56]);
    world.kamailios[0].is_full = true;
    world.call("a");
    world.call("ends before");
    assert_eq!(world.words(0), ["UPDATE(1)"; 2]);
    world.kamailios[0].is_full = false;
    world.bye("ends before");
    world.run(ms(58_000));
    assert_eq!(world.words(0).len(), 2, "not before a minute has passed");
    world.run(ms(2_000));
    assert_eq!(world.words(0)[2..], ["UPDATE(4)"]);
    let known: Vec<_> = world.kamailios[0].dialogs.keys().copied().collect();
    assert_eq!(known, [did("a")]);
    world.bye("a");
    world.run(ms(60_000));
    assert_eq!(world.words(0)[3..], ["STATE(5)", "RM"]);
    assert_eq!(world.kamailios[0].log.len(), 2, "one for each refusal");
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn a_call_that_a_node_never_takes_is_offered_ever_more_seldom_and_not_after_its_end() {
    let mut world = World::settled(82, &[V56]);
    world.kamailios[0].is_full = true;
    world.call("a");
    world.run(ms(3_600_000));
    let offered = world.words(0).len();
    assert!((7..=9).contains(&offered), "{offered}");
    world.run(ms(3_600_000));
    assert_eq!(world.words(0).len() - offered, 4, "every 15 minutes");
    world.cut.insert(stock(0));
    world.run(ms(20_000));
    world.cut.clear();
    world.run(ms(120_000));
    let again = world.words(0).len() - offered - 4;
    assert_eq!(again, 2, "its return begins with a minute");
    world.bye("a");
    world.run(ms(3_600_000));
    assert_eq!(world.words(0).len(), offered + 6);
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn the_end_of_a_call_is_told_although_its_last_change_was_refused() {
    let mut world = World::settled(83, &[V56]);
    world.call("a");
    world.said.clear();
    world.kamailios[0].is_full = true;
    let value = Some((*b"gold").into());
    world.write(|now, replica| replica.set_variable(now, &key("a"), b"class", value));
    world.run(ms(1_000));
    world.bye("a");
    world.run(ms(6_000));
    assert_eq!(world.words(0), ["UPDATE(4)", "STATE(5)", "RM"]);
    assert!(world.kamailios[0].dialogs.is_empty());
}

#[test]
fn a_call_that_ends_unanswered_is_ended_at_once() {
    let mut world = World::settled(5, &[V62]);
    world.invite("a");
    world.run(ms(100));
    world.see("a", true, Observed::Ended(Cause::Failed));
    world.run(ms(6_000));
    assert_eq!(world.words(0), ["UPDATE(1)", "STATE(5)", "RM"]);
}

#[test]
fn an_outstanding_update_is_withdrawn_and_the_end_said_twice() {
    let mut world = World::settled(6, &[V56]);
    world.loss = 10_000;
    world.invite("a");
    world.loss = 0;
    world.run(ms(100));
    world.bye("a");
    world.run(ms(100));
    // It may not know the dialog, and complains of nothing.
    assert_eq!(world.words(0), ["UPDATE(1)", "UPDATE(5)"]);
    world.run(ms(31_000));
    assert_eq!(world.words(0)[2..], ["RM"]);
    world.run(ms(30_000));
    assert_eq!(world.words(0)[3..], ["UPDATE(5)", "RM"]);
    assert_eq!(world.kamailios[0].log.len(), 0);
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn what_was_revived_by_a_late_update_is_removed_again() {
    let mut world = World::settled(7, &[V56]);
    world.loss = 10_000;
    world.invite("a");
    world.loss = 0;
    let update = world.said[0].clone();
    world.run(ms(50));
    world.ring("a");
    world.see("a", true, Observed::Ended(Cause::Cancelled));
    world.run(ms(10_000));
    assert_eq!(world.words(0)[..2], ["UPDATE(1)", "UPDATE(5)"]);
    assert_eq!(world.ours.channel.counters().withdrawn, 1);
    // A copy of the withdrawn message arrives after all.
    world.kamailio(0, |now, kamailio| {
        let message = dmq_bodies::DialogMessage::decode(&update.body).unwrap();
        kamailio.hear(now, &message);
        assert_eq!(kamailio.dialogs.len(), 1);
    });
    world.run(ms(30_000));
    assert!(world.kamailios[0].dialogs.is_empty());
    assert_eq!(world.words(0)[2..], ["RM", "UPDATE(5)", "RM"]);
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn a_node_that_has_taken_a_dialog_is_told_its_end_whatever_it_refused_since() {
    let mut world = World::settled(10, &[V56]);
    world.call("a");
    world.kamailio(0, |_, it| it.is_full = true);
    world.kamailio(0, |now, it| it.sync(now));
    world.run(ms(5_000));
    assert!(world.kamailios[0].dialogs.contains_key(&did("a")));
    assert!(world.ours.channel.counters().refused > 0);
    world.bye("a");
    world.run(ms(10_000));
    assert!(world.kamailios[0].dialogs.is_empty());
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn a_state_that_crosses_our_update_is_not_told_as_a_second_one() {
    let mut world = World::settled(9, &[V56]);
    let (member, key) = ("10.0.0.9:5062".parse().unwrap(), key("a"));
    world.write(|_, replica| replica.set_members(&[member].into()));
    world.invite("a");
    world.ring("a");
    world.run(ms(100));
    let mut record = world
        .ours
        .replica
        .dialogs()
        .dialog(&key)
        .unwrap()
        .record
        .clone();
    record.ownership = Ownership {
        epoch: 2,
        owner: member,
    };
    let theirs = |world: &mut World, record: DialogRecord| {
        let (key, origin) = (key.clone(), Origin::Tandem(member));
        world.write(|now, replica| replica.merge_dialog(now, key, record, ms(60_000), origin));
    };
    theirs(&mut world, record.clone());
    // It is back and asks everybody, and while we tell it of the ringing call its owner tells of the answer.
    world.kamailio(0, |_, it| it.restart());
    world.kamailio(0, |now, it| it.sync(now));
    while !world.words(0).contains(&"UPDATE(2)".to_owned()) {
        world.run(ms(1));
    }
    record.state = DialogState::Confirmed;
    record.answered = world.clock().wall / 1000;
    theirs(&mut world, record);
    world.run(ms(10_000));
    let words = world.words(0);
    let told = words.iter().filter(|word| !word.starts_with("CELLS"));
    let told: Vec<_> = told.rev().take(2).collect();
    assert_eq!(told, ["UPDATE(4)", "UPDATE(2)"]);
    assert_eq!(world.kamailios[0].log, Vec::<String>::new());
    let dialog = &world.kamailios[0].dialogs[&did("a")];
    assert_eq!(dialog.state, WireState::Confirmed);
    assert!(dialog.start_ts > 0);
}

#[test]
fn while_everybody_tells_a_node_everything_a_state_is_told_whole() {
    let mut world = World::settled(11, &[V56, V56]);
    world.invite("a");
    world.run(ms(100));
    world.kamailio(1, |now, it| it.sync(now));
    world.run(ms(1_000));
    world.ring("a");
    world.run(ms(100));
    // The other one has told it of the answer already, which it had of us a moment ago.
    world.answer("a");
    world.ack("a");
    world.run(ms(32_000));
    assert_eq!(world.words(0), ["UPDATE(1)", "UPDATE(2)", "UPDATE(4)"]);
    world.invite("b");
    world.run(ms(100));
    world.ring("b");
    world.run(ms(100));
    assert_eq!(world.words(0)[3..], ["UPDATE(1)", "STATE(2)"]);
}

#[test]
fn last_modified_goes_to_who_has_shown_it() {
    let mut world = World::settled(8, &[V56, V62]);
    world.kamailios[1].ahead = 30_000;
    world.call("a");
    assert!(!String::from_utf8_lossy(&world.said[0].body).contains("last_modified"));
    let theirs = world.kamailio(1, |now, it| it.invite(now, "b", 77));
    world.run(ms(100));
    world.kamailio(1, |now, it| it.bye(now, theirs));
    world.run(ms(100));
    world.said.clear();
    world.bye("a");
    world.run(ms(100));
    for said in &world.said {
        let shown = String::from_utf8_lossy(&said.body).contains("last_modified");
        assert_eq!(shown, said.to == stock(1));
    }
    // By its own clock the node has written later than we.
    assert_eq!(
        world.kamailios[1].dialogs[&did("a")].state,
        WireState::Deleted
    );
}

#[test]
fn last_modified_is_right_again_after_a_clock_was_wrong_for_a_moment() {
    let mut world = World::settled(84, &[V62]);
    let hour = 3_600_000;
    world.kamailios[0].ahead = hour;
    world.kamailio(0, |now, it| it.invite(now, "wrong", 4_001));
    world.run(ms(100));
    world.call("before");
    world.kamailios[0].ahead = 0;
    for (i, seconds) in [10, 61, 61].into_iter().enumerate() {
        world.run(ms(seconds * 1_000));
        let call_id = format!("right {i}");
        world.kamailio(0, |now, it| it.invite(now, &call_id, 4_002 + i as u32));
        world.run(ms(100));
    }
    world.said.clear();
    let wall = world.clock().wall / 1000;
    world.call("after");
    for said in &world.said {
        let at = said.last_modified().unwrap();
        assert!((wall..=wall + 2).contains(&at), "{}", at - wall);
    }
    // One that was written by the wrong clock there is ended all the same.
    world.bye("before");
    world.run(ms(100));
    let ended = &world.kamailios[0].dialogs[&did("before")];
    assert_eq!(ended.state, WireState::Deleted);
}

#[test]
fn a_returned_node_is_told_what_it_missed() {
    let mut world = World::settled(9, &[V56]);
    world.call("a");
    world.call("b");
    world.call("x");
    world.cut.insert(stock(0));
    world.see(
        "a",
        true,
        Observed::Refreshed(leg(7, "sip:alice@10.9.0.77")),
    );
    world.bye("x");
    world.run(ms(20_000));
    world.call("c");
    world.invite("d");
    world.bye("d");
    world.cut.clear();
    world.said.clear();
    world.run(ms(60_000));
    let kamailio = &world.kamailios[0];
    let known: Vec<_> = kamailio.dialogs.values().map(|it| it.state).collect();
    assert_eq!(known, [WireState::Confirmed; 3]);
    let moved = &kamailio.dialogs[&did("a")];
    assert_eq!(&moved.caller.contact[..], b"sip:alice@10.9.0.77");
    let critical = |line: &&String| line.starts_with("CRITICAL");
    assert_eq!(
        kamailio.log.iter().filter(critical).count(),
        1,
        "{:?}",
        kamailio.log
    );
}

#[test]
fn a_restarted_node_gets_everything_and_nobody_else_does() {
    let mut world = World::settled(10, &[V56, V56]);
    world.call("a");
    world.call("b");
    world.bye("b");
    world.kamailio(0, |now, it| {
        it.restart();
        it.sync(now);
    });
    world.run(ms(20_000));
    let kamailio = &world.kamailios[0];
    assert_eq!(kamailio.dialogs.len(), 1);
    assert_eq!(kamailio.dialogs[&did("a")].state, WireState::Confirmed);
    let told = world.said.iter().filter(|said| said.to == stock(1));
    let updates = told.filter(|said| said.word() == "UPDATE(4)").count();
    assert_eq!(updates, 0, "only the asker is answered");
}

#[test]
fn a_restarted_node_is_told_no_state_of_what_it_has_lost() {
    // Ends are remembered for 64 s.
    let away = [20_000, 100_000].into_iter().cycle();
    for (seed, away) in (20..40).zip(away) {
        let mut world = World::settled(seed, &[V56, V56]);
        for call_id in ["goes on", "ends", "ends before", "ends after"] {
            world.call(call_id);
        }
        let theirs = world.kamailio(1, |now, it| it.invite(now, "changes", 4_001));
        world.run(ms(100));
        world.kamailio(1, |now, it| it.confirm(now, theirs));
        world.run(ms(100));
        // STATE(5) has been told, RM is still to come.
        world.bye("ends before");
        world.run(ms(1_000));
        world.cut.insert(stock(0));
        world.bye("ends");
        world.run(ms(away));
        world.cut.remove(&stock(0));
        world.kamailio(0, |_, it| it.restart());
        world.run(ms(1_000));
        // It is up again and has not asked yet.
        world.bye("ends after");
        let key = stock_key("changes", 4_001);
        world.see_as(&key, Observed::Refreshed(leg(7, "sip:alice@10.9.0.77")));
        world.run(ms(3_000));
        world.kamailio(0, |now, it| it.sync(now));
        world.run(ms(60_000));
        let kamailio = &world.kamailios[0];
        let errors = kamailio.log.iter().filter(|line| line.starts_with("ERROR"));
        assert_eq!(errors.count(), 0, "seed {seed}: {:?}", kamailio.log);
        let known: BTreeSet<_> = kamailio
            .dialogs
            .values()
            .map(|it| &it.call_id[..])
            .collect();
        let living = [&b"changes"[..], b"goes on"];
        assert_eq!(known, living.into(), "seed {seed}");
    }
}

#[test]
fn what_ended_meanwhile_ends_at_a_node_that_asks_without_having_restarted() {
    let mut world = World::settled(31, &[V56, V56]);
    for call_id in ["goes on", "ends", "ends before", "ends after"] {
        world.call(call_id);
    }
    world.bye("ends before");
    world.run(ms(1_000));
    world.cut.insert(stock(0));
    world.bye("ends");
    world.run(ms(20_000));
    world.cut.clear();
    world.run(ms(2_000));
    world.kamailio(0, |now, it| it.sync(now));
    world.bye("ends after");
    world.run(ms(60_000));
    let kamailio = &world.kamailios[0];
    let known: Vec<_> = kamailio
        .dialogs
        .values()
        .map(|it| &it.call_id[..])
        .collect();
    assert_eq!(known, [b"goes on"]);
    let errors = kamailio.log.iter().filter(|line| line.starts_with("ERROR"));
    assert_eq!(errors.count(), 0, "{:?}", kamailio.log);
}

#[test]
fn what_ended_and_was_forgotten_meanwhile_ends_at_a_node_that_was_only_cut_off() {
    for seed in 41..51 {
        let mut world = World::settled(seed, &[V56, V62]);
        for call_id in ["goes on", "ends"] {
            world.call(call_id);
        }
        world.cut.extend([stock(0), stock(1)]);
        world.bye("ends");
        world.run(ms(100_000));
        assert_eq!(state(&world, &key("ends")), None);
        world.cut.clear();
        world.run(ms(60_000));
        for kamailio in &world.kamailios {
            let known: Vec<_> = kamailio.dialogs.keys().copied().collect();
            assert_eq!(known, [did("goes on")], "seed {seed}");
            let errors = kamailio.log.iter().filter(|line| line.starts_with("ERROR"));
            assert_eq!(errors.count(), 0, "seed {seed}: {:?}", kamailio.log);
        }
        assert_ne!(
            state(&world, &key("ends")),
            Some(DialogState::Confirmed),
            "seed {seed}"
        );
    }
}

/// Another Tandem member owns the call, which it has ended, and is lost `after` that.
fn ended_at_a_lost_member(world: &mut World, call_id: &str, after: Duration) {
    let member: SocketAddr = "10.0.0.9:5062".parse().unwrap();
    let origin = Origin::Tandem(member);
    let record = |world: &World| {
        let held = world.ours.replica.dialogs().dialog(&key(call_id));
        held.unwrap().record.clone()
    };
    world.write(|_, replica| replica.set_members(&[member].into()));
    let mut theirs = record(world);
    theirs.ownership = Ownership {
        epoch: 2,
        owner: member,
    };
    let mut ended = theirs.clone();
    ended.state = DialogState::Ended;
    ended.end = Some(End {
        at: world.clock().wall / 1000,
        cause: Cause::Bye,
    });
    for record in [theirs, ended] {
        world.write(|now, replica| {
            replica.merge_dialog(now, key(call_id), record, ms(60_000), origin)
        });
    }
    world.run(after);
    world.write(|now, replica| replica.handle_lost(now.monotonic, member));
}

#[test]
fn what_ended_at_a_lost_member_is_freed_by_every_node_and_none_complains() {
    // It has not heard of the end, it has, it has freed the dialog.
    let knows: [fn(&mut Kamailio, Did); 3] = [
        |_, _| {},
        |it, did| it.dialogs.get_mut(&did).unwrap().state = WireState::Deleted,
        |it, did| drop(it.dialogs.remove(&did)),
    ];
    for (i, knows) in knows.into_iter().enumerate() {
        let mut world = World::settled(60 + i as u64, &[V56]);
        world.call("goes on");
        world.call("ended");
        world.kamailio(0, |_, it| knows(it, did("ended")));
        ended_at_a_lost_member(&mut world, "ended", ms(2_000));
        assert!(world.ours.channel.owes_ends(), "{i}");
        world.run(ms(6_000));
        assert!(!world.ours.channel.owes_ends(), "{i}");
        let kamailio = &world.kamailios[0];
        let known: Vec<_> = kamailio.dialogs.keys().copied().collect();
        assert_eq!(known, [did("goes on")], "{i}");
        assert_eq!(kamailio.log, [""; 0], "{i}");
    }
}

#[test]
fn what_is_ours_and_lost_here_is_freed_by_every_node_and_none_complains() {
    for (i, is_known) in [true, false].into_iter().enumerate() {
        let mut world = World::settled(65 + i as u64, &[V56]);
        world.call("goes on");
        world.said.clear();
        if is_known {
            let left = Dialog {
                call_id: "lost".into(),
                ..world.kamailios[0].dialogs[&did("goes on")].clone()
            };
            world.kamailio(0, |_, it| it.dialogs.insert(did("lost"), left));
        }
        // As when another member tells of it: it is over, and nobody here had heard of it.
        let held = world.ours.replica.dialogs().dialog(&key("goes on"));
        let lost = DialogRecord {
            state: DialogState::Ended,
            end: Some(End {
                at: world.clock().wall / 1000,
                cause: Cause::Expired,
            }),
            ..held.unwrap().record.clone()
        };
        world.write(|now, replica| {
            replica.merge_dialog(now, key("lost"), lost, ms(60_000), Origin::Local)
        });
        assert!(world.ours.channel.owes_ends());
        world.run(ms(6_000));
        assert_eq!(world.words(0), ["UPDATE(5)", "RM"]);
        let kamailio = &world.kamailios[0];
        let known: Vec<_> = kamailio.dialogs.keys().copied().collect();
        assert_eq!(known, [did("goes on")]);
        assert_eq!(kamailio.log, [""; 0]);
        assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 1);
    }
}

#[test]
fn what_begins_and_ends_within_a_moment_is_not_told() {
    let mut world = World::settled(67, &[V56]);
    let seen = |to_tag: &str, what| Observation {
        call_id: b"a".as_slice().into(),
        h_id: Some(h_id("a")),
        from_tag: (*b"caller").into(),
        to_tag: to_tag.as_bytes().into(),
        what,
    };
    world.write(|now, replica| {
        let invited = Observed::Invited {
            from_uri: (*b"sip:alice@lab.example").into(),
            to_uri: (*b"sip:bob@lab.example").into(),
            request_uri: (*b"sip:bob@10.9.0.2").into(),
            caller: leg(1, "sip:alice@10.9.0.1"),
        };
        replica.observe(now, seen("", invited));
        replica.observe(
            now,
            seen("callee", Observed::Rang(leg(0, "sip:bob@10.9.0.2"))),
        );
        replica.observe(now, seen("callee", Observed::Ended(Cause::Failed)));
    });
    assert_eq!(state(&world, &key("a")), Some(DialogState::Ended));
    world.run(ms(60_000));
    assert_eq!(world.words(0), [""; 0]);
    assert_eq!(world.ours.channel.status().nodes[0].dialogs_told, 0);
}

#[test]
fn what_a_node_revives_when_it_tells_all_that_it_has_ends_again_everywhere() {
    for (i, state) in [WireState::Deleted, WireState::Confirmed]
        .into_iter()
        .enumerate()
    {
        let mut world = World::settled(70 + i as u64, &[V56, V56]);
        world.call("goes on");
        world.call("ended");
        let mut left = world.kamailios[0].dialogs[&did("ended")].clone();
        left.state = state;
        world.bye("ended");
        world.run(ms(6_000));
        assert!(!world.kamailios[0].dialogs.contains_key(&did("ended")));
        // It was late in freeing it when somebody asked.
        world.kamailio(0, |_, it| it.dialogs.insert(did("ended"), left));
        world.kamailio(1, |now, it| it.tell(now, &DialogMessage::Sync));
        world.run(ms(1_000));
        assert!(world.kamailios[1].dialogs.contains_key(&did("ended")));
        world.run(ms(12_000));
        for kamailio in &world.kamailios {
            let known: Vec<_> = kamailio.dialogs.keys().copied().collect();
            assert_eq!(known, [did("goes on")], "{state:?}");
            let errors = kamailio.log.iter().filter(|line| line.starts_with("ERROR"));
            assert_eq!(errors.count(), 0, "{:?}", kamailio.log);
        }
    }
}

#[test]
fn what_a_kamailio_ended_and_another_revives_ends_again_too() {
    let mut world = World::settled(80, &[V56, V56]);
    let theirs = world.kamailio(0, |now, it| it.invite(now, "a", 4_001));
    world.kamailio(0, |now, it| it.confirm(now, theirs));
    world.run(ms(1_000));
    let mut left = world.kamailios[1].dialogs[&theirs].clone();
    left.state = WireState::Deleted;
    world.kamailio(0, |now, it| it.bye(now, theirs));
    world.run(ms(7_000));
    assert!(world.kamailios.iter().all(|it| it.dialogs.is_empty()));
    world.kamailio(1, |_, it| it.dialogs.insert(theirs, left));
    world.kamailio(0, |now, it| it.tell(now, &DialogMessage::Sync));
    world.run(ms(1_000));
    assert!(world.kamailios.iter().all(|it| !it.dialogs.is_empty()));
    world.run(ms(12_000));
    for kamailio in &world.kamailios {
        assert!(kamailio.dialogs.is_empty(), "{:?}", kamailio.log);
    }
}

#[test]
fn a_node_that_tells_everybody_but_us_is_asked_again_when_it_lists_us() {
    let mut world = World::new(32, &[V56]);
    let theirs = world.kamailio(0, |now, it| {
        it.nodes.clear();
        it.invite(now, "a", 4_001)
    });
    world.kamailio(0, |now, it| it.confirm(now, theirs));
    world.join();
    world.run(ms(30_000));
    let key = stock_key("a", 4_001);
    assert_eq!(state(&world, &key), None, "it told nobody");
    let asked = world.asked(0);
    // It has pinged us at last.
    world.kamailio(0, |_, it| it.nodes.insert(ours()));
    world.run(ms(90_000));
    assert_eq!(state(&world, &key), Some(DialogState::Confirmed));
    world.run(ms(600_000));
    assert!(world.asked(0) > asked);
    let dialogs = world.ours.channel.status().nodes[0].syncs_asked;
    assert!(dialogs <= 4, "not again and again: {dialogs}");
}

#[test]
fn a_dialog_without_a_name_is_refused() {
    let mut world = World::settled(33, &[V56]);
    for (call_id, h_id) in [("", 4_001), ("a", 0)] {
        world.kamailio(0, |now, it| it.invite(now, call_id, h_id));
        world.run(ms(1_000));
        assert_eq!(state(&world, &stock_key(call_id, h_id)), None);
    }
    assert_eq!(world.ours.channel.counters().malformed, 2);
}

#[test]
fn what_there_is_no_room_for_leaves_no_number_behind() {
    let config = DialogsConfig {
        dialogs_max: 1,
        ..DialogsConfig::default()
    };
    let mut world = World::settled(34, &[V56]);
    world.ours.replica = Replica::new(ours(), [7; 16], config);
    for (i, call_id) in ["a", "b"].into_iter().enumerate() {
        world.kamailio(0, |now, it| it.invite(now, call_id, 4_001 + i as u32));
        world.run(ms(1_000));
    }
    let named = |call_id: &str, h_id| {
        let h_entry = slot(call_id.as_bytes(), HASH_SIZE);
        let did = Did { h_entry, h_id };
        world.ours.channel.named(did).count()
    };
    assert_eq!((named("a", 4_001), named("b", 4_002)), (1, 0));
}

#[test]
fn a_dead_owners_dialog_is_ended_at_the_others_too() {
    let mut world = World::settled(11, &[V56, V56]);
    let theirs = world.kamailio(0, |now, it| it.invite(now, "a", 4_001));
    world.run(ms(100));
    world.kamailio(0, |now, it| it.confirm(now, theirs));
    world.run(ms(100));
    let key = stock_key("a", 4_001);
    assert_eq!(state(&world, &key), Some(DialogState::Confirmed));
    world.cut.insert(stock(0));
    world.see_as(&key, Observed::Ended(Cause::Bye));
    world.run(ms(6_000));
    assert_eq!(world.words(1), ["STATE(5)", "RM"]);
    assert!(world.kamailios[1].dialogs.is_empty());
    assert!(world.kamailios[1].log.is_empty());
}

#[test]
fn a_call_that_went_on_to_another_router_does_not_stay_at_the_one_that_died() {
    let mut world = World::settled(11, &[V56, V56]);
    let begun = world.kamailio(0, |now, it| it.invite(now, "a", 4_001));
    world.run(ms(100));
    world.cut.insert(stock(0));
    world.write(|now, replica| replica.handle_lost(now.monotonic, stock(0)));
    let heirs = world.kamailio(1, |now, it| it.invite(now, "a", 7_001));
    world.run(ms(100));
    world.kamailio(1, |now, it| it.confirm(now, heirs));
    world.run(ms(60_000));
    let both = |world: &World| [4_001, 7_001].map(|h_id| state(world, &stock_key("a", h_id)));
    let (ended, confirmed) = (Some(DialogState::Ended), Some(DialogState::Confirmed));
    assert_eq!(both(&world), [ended, confirmed]);
    let known: Vec<_> = world.kamailios[1].dialogs.keys().copied().collect();
    assert_eq!(known, [heirs], "{begun:?} is freed there, too");
    assert_eq!(world.words(1), ["STATE(5)", "RM"]);
    assert!(world.kamailios[1].log.is_empty());
}

#[test]
fn a_kamailios_call_is_known_from_its_first_message_to_its_end() {
    let mut world = World::settled(12, &[V56, V62]);
    for i in [0, 1] {
        let call_id = format!("call-{i}");
        let number = 4_001 + i as u32;
        let theirs = world.kamailio(i, |now, it| it.invite(now, &call_id, number));
        world.run(ms(100));
        let key = stock_key(&call_id, number);
        let record = world.ours.replica.dialogs().dialog(&key).unwrap();
        let record = record.record.clone();
        assert_eq!(
            (record.ownership.epoch, record.ownership.owner),
            (0, stock(i))
        );
        assert_eq!(
            record.variables[&b"who"[..]].value.as_deref(),
            Some(&b"alice"[..])
        );
        world.kamailio(i, |now, it| it.ring(now, theirs));
        world.run(ms(100));
        assert_eq!(state(&world, &key), Some(DialogState::Early));
        world.kamailio(i, |now, it| it.confirm(now, theirs));
        world.run(ms(100));
        let held = world.ours.replica.dialogs().dialog(&key).unwrap();
        assert_eq!(held.record.state, DialogState::Confirmed);
        assert_eq!(&*held.record.callee.contact, b"sip:bob@10.9.0.2");
        assert_eq!(held.record.lifetime.seconds, 600);
        world.kamailio(i, |now, it| it.bye(now, theirs));
        world.run(ms(6_000));
        assert_eq!(state(&world, &key), Some(DialogState::Ended));
    }
    let mut said = world.said.iter();
    assert!(
        said.all(|said| said.channel != "dialog"),
        "they tell each other: {:?}",
        world.words(0)
    );
}

#[test]
fn a_change_by_a_kamailio_is_believed_and_not_repeated() {
    let mut world = World::settled(13, &[V56, V56]);
    world.call("a");
    world.said.clear();
    // The BYE went over another router.
    world.kamailio(0, |now, it| it.bye(now, did("a")));
    world.run(ms(60_000));
    assert_eq!(state(&world, &key("a")), Some(DialogState::Ended));
    assert!(world.words(0).is_empty() && world.words(1).is_empty());
    let origin = &world.ours.changes.last().unwrap().origin;
    assert_eq!(*origin, Origin::Stock(stock(0)));
}

#[test]
fn a_backup_does_not_end_a_confirmed_dialog_of_another() {
    let mut world = World::settled(14, &[V56, V56]);
    world.call("a");
    world.said.clear();
    world.kamailio(0, |now, it| it.remove(now, did("a")));
    world.run(ms(1_000));
    assert_eq!(state(&world, &key("a")), Some(DialogState::Confirmed));
    assert_eq!(world.ours.channel.counters().removals_not_obeyed, 1);
    assert_eq!(
        world.words(0),
        ["UPDATE(4)"],
        "it is told what it has freed"
    );
    assert_eq!(world.kamailios[0].dialogs.len(), 1);
    // Its owner may.
    let theirs = world.kamailio(1, |now, it| it.invite(now, "b", 99));
    world.run(ms(100));
    world.kamailio(1, |now, it| it.confirm(now, theirs));
    world.run(ms(100));
    world.kamailio(1, |now, it| it.remove(now, theirs));
    world.run(ms(100));
    assert_eq!(state(&world, &stock_key("b", 99)), Some(DialogState::Ended));
}

#[test]
fn one_who_tells_everything_does_not_become_the_owner_nor_overwrite() {
    let mut world = World::settled(15, &[V56, V56]);
    world.call("a");
    let set = |value: &'static [u8]| Some(value.into());
    world.write(|now, replica| replica.set_variable(now, &key("a"), b"v", set(b"old")));
    world.run(ms(100));
    world.cut.insert(stock(0));
    world.write(|now, replica| replica.set_variable(now, &key("a"), b"v", set(b"new")));
    world.run(ms(10));
    world.cut.clear();
    // It answers somebody's request for everything with what it heard long ago.
    world.kamailio(0, |now, it| {
        it.dialogs
            .get_mut(&did("a"))
            .unwrap()
            .variables
            .insert("w".into(), "1".into());
        it.hear(now, &dmq_bodies::DialogMessage::Sync);
    });
    world.run(ms(30_000));
    let held = world.ours.replica.dialogs().dialog(&key("a")).unwrap();
    let value = |name: &[u8]| held.record.variables[name].value.clone().unwrap();
    assert_eq!(&*value(b"v"), b"new");
    assert_eq!(&*value(b"w"), b"1");
    assert_eq!(held.record.ownership.owner, stock_model::ours());
    assert_eq!(
        world.kamailios[0].dialogs[&did("a")].variables[&b"v"[..]],
        "new"
    );
}

/// A call that Kamailio 0 serves, and what our node holds of its variable `who`.
fn their_call(world: &mut World) -> dmq_bodies::Did {
    let did = world.kamailio(0, |now, it| it.invite(now, "theirs", 4_711));
    world.run(ms(100));
    world.kamailio(0, |now, it| it.confirm(now, did));
    world.run(ms(100));
    did
}

fn who(world: &World) -> String {
    let key = DialogKey {
        call_id: (*b"theirs").into(),
        h_id: 4_711,
    };
    let held = world.ours.replica.dialogs().dialog(&key).unwrap();
    let value = held.record.variables[&b"who"[..]].value.clone();
    String::from_utf8(value.unwrap().into()).unwrap()
}

#[test]
fn what_an_heir_changes_counts_although_another_made_the_dialog() {
    for version in [V56, V62] {
        let mut world = World::settled(31, &[version, version]);
        let did = their_call(&mut world);
        world.cut.insert(stock(0));
        world.run(ms(2_000));
        world.kamailio(1, |now, it| it.set_variable(now, did, "who", "bob"));
        world.run(ms(100));
        assert_eq!(who(&world), "bob");
        world.kamailio(1, |now, it| it.set_variable(now, did, "who", "carol"));
        world.run(ms(100));
        assert_eq!(who(&world), "carol");
    }
}

#[test]
fn what_a_node_heard_long_ago_does_not_count_however_often_it_tells_it() {
    let mut world = World::settled(32, &[V56, V56]);
    let did = their_call(&mut world);
    world.cut.insert(stock(1));
    world.run(ms(20_000));
    world.kamailio(0, |now, it| it.set_variable(now, did, "who", "bob"));
    world.run(ms(31_000));
    world.cut.clear();
    // It is asked, and tells everybody what it holds.
    world.run(ms(40_000));
    let theirs = |world: &World| world.kamailios[1].dialogs[&did].variables[&b"who"[..]].clone();
    assert_eq!(theirs(&world), &b"alice"[..]);
    assert_eq!(who(&world), "bob");
    for _ in 0..3 {
        world.kamailio(1, |now, it| it.tell_all_of(now, did));
        world.run(ms(1_000));
        assert_eq!(who(&world), "bob");
    }
    // What it changes then is its own.
    world.kamailio(1, |now, it| it.set_variable(now, did, "who", "carol"));
    world.run(ms(100));
    assert_eq!(who(&world), "carol");
}

#[test]
fn what_a_node_changed_once_is_not_its_change_when_it_tells_it_again() {
    let mut world = World::settled(34, &[V56, V56]);
    let did = their_call(&mut world);
    let change = |world: &mut World, name: &str, value: &str| {
        world.cut.insert(stock(1));
        world.run(ms(20_000));
        world.kamailio(0, |now, it| it.set_variable(now, did, name, value));
        world.run(ms(31_000));
        world.cut.clear();
        world.run(ms(40_000));
    };
    change(&mut world, "missed", "1");
    world.kamailio(1, |now, it| it.set_variable(now, did, "own", "1"));
    world.run(ms(100));
    // It is asked once more, and tells its change with what it has not heard.
    change(&mut world, "who", "bob");
    assert_eq!(who(&world), "bob");
}

#[test]
fn of_a_node_that_shows_when_it_wrote_the_later_word_counts_and_not_the_later_message() {
    let mut world = World::settled(33, &[V62]);
    let did = their_call(&mut world);
    world.run(ms(2_000));
    // It is lost, and comes again after the next.
    world.loss = 10_000;
    world.kamailio(0, |now, it| it.set_variable(now, did, "who", "bob"));
    world.run(ms(100));
    world.loss = 0;
    world.run(ms(300));
    assert_eq!(who(&world), "alice");
    world.wall_stands_at = Some(world.clock().wall + 2_000);
    world.kamailio(0, |now, it| it.set_variable(now, did, "who", "carol"));
    world.run(ms(5_000));
    assert_eq!(who(&world), "carol");
    assert_eq!(world.ours.channel.counters().overtaken, 1);
}

#[test]
fn flags_are_kept_and_told_only_those_nodes_that_have_shown_them() {
    let mut world = World::settled(35, &[V62, V62]);
    let did = their_call(&mut world);
    world.kamailio(0, |now, it| {
        let mut update = it.update_of(did, &it.dialogs[&did]);
        if let DialogMessage::Update(update) = &mut update {
            update.iflags = Some(64 | 4 | 2);
        }
        it.tell(now, &update);
    });
    world.run(ms(100));
    let key = stock_key("theirs", 4_711);
    let held = world.ours.replica.dialogs().dialog(&key).unwrap();
    assert_eq!(held.record.iflags, 4 | 2);
    world.said.clear();
    let value = Some((*b"gold").into());
    world.write(|now, replica| replica.set_variable(now, &key, b"class", value));
    world.run(ms(100));
    for (i, iflags) in [(0, Some(4 | 2)), (1, None)] {
        let said = world.said.iter().find(|said| said.to == stock(i)).unwrap();
        let Ok(DialogMessage::Update(update)) = DialogMessage::decode(&said.body) else {
            panic!("it was told all");
        };
        assert_eq!(update.iflags, iflags, "to {i}");
    }
}
