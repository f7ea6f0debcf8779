//! Who is on the bus: joining, leaving, dying, coming back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use dmq::{Event, Kind, Network, NodeState};
use world::{World, ms, node, nodes};

fn others(count: usize, i: usize) -> Vec<std::net::SocketAddr> {
    (0..count).filter(|other| *other != i).map(node).collect()
}

#[test]
fn a_node_joins_through_one_and_is_told_to_the_others() {
    let mut world = World::new(1, 3);
    world.start(0, &[]);
    world.start(1, &[0]);
    world.run(ms(100));
    world.trace.clear();
    world.start(2, &[1]);
    world.run(ms(100));
    // The newcomer asks for one hop more, and its notification node tells everybody of it.
    assert_eq!(world.trace[0], "3>2 notification_peer 2");
    assert_eq!(world.trace[1], "2>3 200");
    for told in ["2>1 notification_peer 1", "2>3 notification_peer 1"] {
        assert_eq!(
            world.trace.iter().filter(|line| *line == told).count(),
            1,
            "{told}"
        );
    }
    assert!(!world.trace[1..].iter().any(|line| line.ends_with("peer 2")));
    for i in 0..3 {
        assert_eq!(world.known(i, NodeState::Active), others(3, i), "{i}");
    }
    // It spoke first to node 0, which it had heard of, and was listed there from its answer on.
    let up = |event: &&Event| matches!(event, Event::NodeUp { .. });
    assert_eq!(world.events(2).iter().filter(up).count(), 2);
}

#[test]
fn two_that_start_at_once_find_each_other_in_any_order() {
    for seeds in [[&[0][..], &[0]], [&[1], &[0]], [&[0, 1], &[0, 1]]] {
        let mut world = World::new(2, 2);
        world.start(0, seeds[0]);
        world.run(ms(700));
        world.start(1, seeds[1]);
        world.run(ms(50));
        for i in 0..2 {
            assert_eq!(world.known(i, NodeState::Active), others(2, i));
        }
    }
}

#[test]
fn several_notification_addresses_are_all_asked_and_the_dead_ones_again() {
    let mut world = World::new(3, 4);
    world.start(1, &[]);
    world.start(3, &[0, 1, 2, 3]);
    world.run(ms(100));
    assert_eq!(world.known(3, NodeState::Active), [node(1)]);
    assert_eq!(world.known(3, NodeState::Pending), [node(0), node(2)]);
    world.run(ms(600_000));
    assert_eq!(world.known(3, NodeState::Pending), [node(0), node(2)]);
    world.start(2, &[]);
    world.run(ms(1_100));
    assert_eq!(world.known(3, NodeState::Active), [node(1), node(2)]);
    assert_eq!(world.known(1, NodeState::Active), [node(2), node(3)]);
}

#[test]
fn pings_keep_their_interval_and_never_overlap() {
    let mut world = World::running(4, 2);
    world.trace.clear();
    world.run(ms(60_000));
    let pings = world
        .trace
        .iter()
        .filter(|line| line.starts_with("1>2 notification"));
    assert!((12..=15).contains(&pings.count()), "{:?}", world.trace);

    world.stop(1);
    world.run(ms(10_000));
    world.trace.clear();
    world.run(ms(10_000));
    let pings = world.trace.iter().filter(|line| line.starts_with("1>2"));
    // At 0, 0.5, 1.5, ... 4.5 s, and again.
    assert!((10..=13).contains(&pings.count()), "{:?}", world.trace);
}

#[test]
fn who_leaves_is_down_at_once_and_forgotten_after_a_ping_in_vain() {
    let mut world = World::running(5, 3);
    world.events(1);
    world.leave(2);
    world.run(ms(100));
    let down = Event::NodeDown { node: node(2) };
    assert_eq!(world.events(1), [down]);
    assert_eq!(world.known(0, NodeState::Disabled), [node(2)]);
    assert!(world.is_done(2), "its farewell was answered");
    world.stop(2);
    world.run(ms(11_000));
    assert_eq!(world.events(1), [Event::NodeRemoved { node: node(2) }]);
    assert_eq!(world.bus(0).nodes().count(), 1);
}

#[test]
fn who_has_left_and_still_answers_stays_disabled_until_it_starts_again() {
    let mut world = World::running(6, 2);
    world.leave(0);
    world.run(ms(30_000));
    assert_eq!(world.known(1, NodeState::Disabled), [node(0)]);
    world.start(0, &[1]);
    world.run(ms(50));
    assert_eq!(world.known(1, NodeState::Active), [node(0)]);
    assert_eq!(world.known(0, NodeState::Active), [node(1)]);
}

#[test]
fn a_notification_address_that_left_is_never_removed() {
    let mut world = World::running(7, 2);
    world.leave(0);
    world.run(ms(1_500));
    world.stop(0);
    world.trace.clear();
    world.run(ms(900_000));
    assert_eq!(world.known(1, NodeState::Disabled), [node(0)]);
    assert!(
        world.trace.len() < 700,
        "it is not missed: {}",
        world.trace.len()
    );
    world.start(0, &[]);
    world.run(ms(6_000));
    assert_eq!(world.known(1, NodeState::Active), [node(0)]);
}

#[test]
fn goodbye_is_repeated_where_it_is_lost_but_not_for_long() {
    let mut world = World::running(8, 2);
    world.loss = 10_000;
    world.trace.clear();
    world.leave(1);
    world.run(ms(999));
    assert!(!world.is_done(1));
    world.run(ms(1));
    assert!(world.is_done(1));
    let goodbyes = world.trace.iter().filter(|line| line.starts_with("2>1"));
    assert_eq!(goodbyes.count(), 4);
}

#[test]
fn a_silent_tandem_node_that_owes_an_answer_is_down_within_a_second() {
    let mut world = World::running(9, 2);
    world.events(0);
    world.stop(1);
    assert!(world.send(0, 1, b"x"));
    world.run(ms(749));
    assert_eq!(world.events(0), []);
    world.run(ms(1));
    let events = world.events(0);
    assert_eq!(events[0], Event::NodeDown { node: node(1) });
    let is_given_up = matches!(events[1], Event::Answered { status: 408, .. });
    assert!(is_given_up && events.len() == 2, "{events:?}");
    assert!(!world.send(0, 1, b"x"), "no data to the dead");
    assert_eq!(world.bus(0).counters().node_unavailable, 1);
}

#[test]
fn a_stock_node_may_be_silent_for_two_seconds() {
    let mut world = World::running(10, 2);
    world.set_kind(1, Kind::Stock);
    world.events(0);
    world.cut.insert((node(0), node(1)));
    assert!(world.send(0, 1, b"x"));
    world.run(ms(1_490));
    world.cut.clear();
    world.run(ms(1_000));
    let events = world.events(0);
    assert!(
        matches!(events[..], [Event::Answered { status: 200, .. }]),
        "{events:?}"
    );

    world.cut.insert((node(0), node(1)));
    assert!(world.send(0, 1, b"x"));
    world.run(ms(1_990));
    assert_eq!(world.events(0), []);
    world.run(ms(20));
    assert_eq!(world.events(0)[0], Event::NodeDown { node: node(1) });
}

#[test]
fn three_refusals_end_the_wait() {
    for (kind, wait) in [(Kind::Tandem, ms(150)), (Kind::Stock, ms(1_500))] {
        let mut world = World::running(11, 2);
        world.set_kind(1, kind);
        world.events(0);
        world.stop(1);
        world.refuses = true;
        // What is refused at one time counts once.
        for _ in 0..3 {
            assert!(world.send(0, 1, b"x"));
        }
        world.run(wait - ms(10));
        assert_eq!(world.events(0), []);
        world.run(ms(15));
        let events = world.events(0);
        assert_eq!(events[0], Event::NodeDown { node: node(1) }, "{kind:?}");
    }
}

#[test]
fn the_dead_come_back_within_a_second_of_their_start() {
    let mut world = World::running(12, 3);
    world.stop(0);
    world.run(ms(20_000));
    assert_eq!(world.known(1, NodeState::NotActive), [node(0)]);
    world.events(1);
    world.start(0, &[]);
    world.run(ms(1_010));
    for i in 0..3 {
        assert_eq!(world.known(i, NodeState::Active), others(3, i), "{i}");
    }
    // Its first list has nobody in it, the next has us.
    let node = node(0);
    assert_eq!(
        world.events(1),
        [Event::NodeUp { node }, Event::Listed { node }]
    );
}

#[test]
fn a_healed_partition_leaves_everybody_up() {
    let mut world = World::running(13, 3);
    for i in [0, 1] {
        world.cut.insert((node(i), node(2)));
    }
    world.run(ms(20_000));
    assert_eq!(world.known(2, NodeState::NotActive), [node(0), node(1)]);
    assert_eq!(world.known(0, NodeState::Active), [node(1)]);
    world.cut.clear();
    world.run(ms(1_010));
    for i in 0..3 {
        assert_eq!(world.known(i, NodeState::Active), others(3, i), "{i}");
    }
}

#[test]
fn the_dead_are_forgotten_unless_they_are_notification_addresses() {
    let mut world = World::running(14, 3);
    world.stop(0);
    world.stop(2);
    world.run(ms(330_000));
    assert_eq!(world.known(1, NodeState::NotActive), [node(0)]);
    assert!(
        world
            .events(1)
            .contains(&Event::NodeRemoved { node: node(2) })
    );
}

#[test]
fn who_may_no_longer_speak_is_removed_with_all_that_waits() {
    let mut world = World::running(15, 3);
    world.events(0);
    assert!(world.send(0, 2, b"x"));
    world.with_bus(0, |now, bus| bus.set_allowed(now, nodes(0..2), Vec::new()));
    let events = world.events(0);
    assert_eq!(events[0], Event::NodeDown { node: node(2) });
    assert!(matches!(events[1], Event::Answered { status: 408, .. }));
    assert_eq!(events[2..], [Event::NodeRemoved { node: node(2) }]);
    assert!(!world.owes_answers(0));
    world.run(ms(60_000));
    assert_eq!(world.known(0, NodeState::Active), [node(1)]);
    assert!(world.bus(0).counters().refused > 0);
    assert!(
        world.bus(0).counters().lines_not_allowed > 0,
        "the third still lists it"
    );
}

#[test]
fn a_notification_address_waits_until_it_may_speak() {
    let mut world = World::new(16, 2);
    world.start(0, &[]);
    world.start(1, &[]);
    world.with_bus(1, |now, bus| {
        bus.set_allowed(now, [], Vec::new());
        bus.set_notification(now, [node(0), node(1)]);
    });
    world.run(ms(10_000));
    assert!(world.trace.is_empty(), "{:?}", world.trace);
    assert_eq!(world.bus(1).counters().notification_not_allowed, 1);
    world.with_bus(1, |now, bus| {
        let network = Network {
            address: node(0).ip(),
            prefix: 24,
        };
        bus.set_allowed(now, [], vec![network]);
    });
    world.run(ms(10));
    assert_eq!(world.known(1, NodeState::Active), [node(0)]);
}

#[test]
fn loss_and_deaths_at_random_end_in_one_full_bus() {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = World::running(seed, 3);
        world.loss = rng.random_range(0..3_000);
        for step in 0..60_u32 {
            let i = rng.random_range(0..3);
            match rng.random_range(0..10) {
                0 => world.stop(i),
                1 => world.start(i, &[0, 1]),
                2 => drop(world.cut.insert((node(i), node((i + 1) % 3)))),
                3 => world.cut.clear(),
                _ => {
                    let alive = world.next_alive(i);
                    if let Some(i) = alive {
                        let to = (i + 1 + step as usize % 2) % 3;
                        world.send(i, to, &step.to_be_bytes());
                    }
                }
            }
            world.run(ms(rng.random_range(0..2_000)));
        }
        world.loss = 0;
        world.cut.clear();
        for i in 0..3 {
            if world.next_alive(i) != Some(i) {
                world.start(i, &[0, 1]);
            }
        }
        world.run(ms(12_000));
        for i in 0..3 {
            assert_eq!(
                world.known(i, NodeState::Active),
                others(3, i),
                "seed {seed}, node {i}"
            );
            assert!(!world.owes_answers(i), "seed {seed}, node {i}");
        }
    }
}
