//! When a destination is taken for dead, and when it comes back.
//!
//! One simulated destination answers OPTIONS after a round trip as long as it lives; time jumps
//! from event to event.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dispatch::{
    Administrative, Algorithm, ClusterKey, ConfigureError, DESTINATIONS_MAX, DestinationConfig,
    DestinationSet, Health, HealthConfig, HealthEvent, Member, ProbeSeq, Reason, Sets, State,
    Status,
};

const R1: &str = "r1";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
fn start() -> Instant {
    Instant::now()
}

fn router(id: &str) -> DestinationConfig {
    DestinationConfig {
        id: id.into(),
        address: "192.0.2.1:5060".parse().unwrap(),
        probing: true,
        administrative: Administrative::Active,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Life {
    Answers(u16),
    Silent,
    Refuses,
}

struct World {
    health: Health,
    start: Instant,
    now: Instant,
    rtt: Duration,
    life: Life,
    answers: BTreeMap<Instant, Vec<(ProbeSeq, u16)>>,
    probes: Vec<Duration>,
    events: Vec<(Duration, HealthEvent)>,
}

impl World {
    fn new(rtt: Duration) -> Self {
        let start = start();
        let mut health = Health::new(HealthConfig::default());
        health.configure(start, &[router(R1)]).unwrap();
        Self {
            health,
            start,
            now: start,
            rtt,
            life: Life::Answers(200),
            answers: BTreeMap::new(),
            probes: vec![],
            events: vec![],
        }
    }

    fn at(&self) -> Duration {
        self.now - self.start
    }

    fn status(&self) -> Status {
        self.health.state(R1).unwrap()
    }

    fn drain(&mut self) {
        while let Some(probe) = self.health.poll_probe() {
            self.probes.push(self.at());
            match self.life {
                Life::Answers(status) => {
                    self.answers
                        .entry(self.now + self.rtt)
                        .or_default()
                        .push((probe.seq, status));
                }
                Life::Silent => {}
                Life::Refuses => self.health.handle_unreachable(self.now, R1),
            }
        }
        while let Some(event) = self.health.poll_event() {
            self.events.push((self.at(), event));
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.drain();
            let answer = self.answers.first_key_value().map(|(at, _)| *at);
            let next = [self.health.poll_timeout(), answer]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if answer == Some(next) {
                let (_, answers) = self.answers.pop_first().unwrap();
                for (seq, status) in answers {
                    if self.life != Life::Silent {
                        self.health.handle_probe_answer(self.now, R1, seq, status);
                    }
                }
            }
            self.health.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn owe(&mut self) {
        self.health.handle_owing(self.now, R1);
    }

    fn hear(&mut self) {
        self.health.handle_sign_of_life(self.now, R1);
    }

    fn losses(&self) -> Vec<(Duration, Reason)> {
        let losses = self.events.iter().filter_map(|(at, event)| match event {
            HealthEvent::Lost { reason, .. } => Some((*at, *reason)),
            HealthEvent::Up { .. } | HealthEvent::StateChanged { .. } => None,
        });
        losses.collect()
    }

    fn ups(&self) -> Vec<Duration> {
        let ups = self
            .events
            .iter()
            .filter(|(_, e)| matches!(e, HealthEvent::Up { .. }));
        ups.map(|(at, _)| *at).collect()
    }
}

#[test]
fn a_dead_destination_is_lost_10_ms_before_the_budget_ends_at_any_round_trip() {
    for rtt in [Duration::from_micros(200), ms(5), ms(40)] {
        for death in [1_003, 1_250, 1_999, 2_041] {
            let mut world = World::new(rtt);
            world.run(ms(death));
            world.life = Life::Silent;
            world.answers.clear();
            world.run(ms(7));
            world.owe();
            let owed = world.at();
            world.run(ms(400));
            let [(lost, reason)] = world.losses()[..] else {
                panic!("{:?}", world.events)
            };
            let last = owed + ms(190);
            assert!(
                lost <= last,
                "rtt {rtt:?}, death {death}: lost at {lost:?}, owed {owed:?}"
            );
            assert!(
                lost >= last - ms(60),
                "a background probe at most a burst earlier: {lost:?}"
            );
            assert_eq!(reason, Reason::Silent);
            assert_eq!(world.status().state, State::Inactive);
            let asked = world
                .probes
                .iter()
                .filter(|at| **at >= lost - ms(150) && **at < lost)
                .count();
            assert!(asked >= 8, "asked {asked} times at {:?}", world.probes);
        }
    }
}

#[test]
fn an_idle_destination_that_dies_is_found_by_background_probes() {
    let mut world = World::new(ms(1));
    world.run(ms(3_010));
    world.life = Life::Silent;
    world.run(ms(1_180));
    let [(lost, Reason::Silent)] = world.losses()[..] else {
        panic!("{:?}", world.events)
    };
    assert!(lost <= ms(4_000) + ms(190), "{lost:?}");
}

#[test]
fn a_slow_destination_that_answers_options_is_never_lost() {
    let mut world = World::new(ms(5));
    for _ in 0..40 {
        world.owe();
        world.run(ms(250));
    }
    assert_eq!(world.losses(), []);
    assert!(
        world.probes.len() < 40 * 3 + 20,
        "one probe settles a debt: {}",
        world.probes.len()
    );
}

#[test]
fn a_destination_with_a_round_trip_beyond_the_budget_is_not_lost() {
    let mut world = World::new(ms(300));
    world.run(ms(100));
    assert_eq!(world.losses(), [], "the first answer is not due");
    world.run(ms(5_000));
    let losses = world.losses().len();
    world.run(ms(60_000));
    assert_eq!(
        world.losses().len(),
        losses,
        "once measured, its round trip counts"
    );
    assert!(world.status().is_alive());
}

#[test]
fn any_datagram_settles_a_debt() {
    let mut world = World::new(ms(1));
    world.run(ms(100));
    world.life = Life::Silent;
    for _ in 0..8 {
        world.owe();
        world.run(ms(49));
        world.hear();
        world.run(ms(51));
    }
    assert_eq!(world.losses(), []);
    assert_eq!(
        world.probes.len(),
        1,
        "only the one at the start: {:?}",
        world.probes
    );
}

#[test]
fn an_answer_to_a_burst_counts_for_a_second_even_where_probes_are_rare() {
    let start = start();
    let config = HealthConfig {
        probe_interval: ms(5_000),
        ..HealthConfig::default()
    };
    let mut world = World::new(ms(1));
    world.health = Health::new(config);
    world.health.configure(start, &[router(R1)]).unwrap();
    world.start = start;
    world.now = start;
    world.run(ms(500));
    world.owe();
    world.run(ms(1_400));
    assert_eq!(world.probes, [ms(0), ms(550), ms(1_551)]);
}

#[test]
fn a_death_right_after_an_answered_burst_is_found_in_time() {
    let mut world = World::new(ms(1));
    world.run(ms(500));
    world.owe();
    world.run(ms(52));
    assert!(world.probes.contains(&ms(550)));
    world.life = Life::Silent;
    world.owe();
    world.run(ms(190));
    assert_eq!(world.losses(), [(ms(552 + 190), Reason::Silent)]);
}

#[test]
fn answers_held_back_by_a_freeze_buy_no_time_when_it_dies_the_next_time() {
    let mut world = World::new(ms(1));
    world.run(ms(10_000));
    for wait in (1..=12_000).rev() {
        world.rtt = ms(wait); // every question waits for the end of the freeze
        world.run(ms(1));
    }
    world.rtt = ms(1);
    world.run(ms(3_000));
    assert_eq!(world.status().state, State::Active);
    let died = (world.at(), world.losses().len());
    world.life = Life::Silent;
    world.owe();
    world.run(ms(400));
    let losses = world.losses();
    assert_eq!(losses.len(), died.1 + 1, "{losses:?}");
    assert!(losses[died.1].0 <= died.0 + ms(190), "{losses:?}");
}

#[test]
fn icmp_is_a_verdict_after_three_refusals_in_a_row() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    world.life = Life::Refuses;
    world.health.handle_unreachable(world.now, R1);
    world.run(ms(100));
    let [(lost, Reason::Refused)] = world.losses()[..] else {
        panic!("{:?}", world.events)
    };
    assert!(lost <= ms(1_500 + 45), "{lost:?}");
}

#[test]
fn one_icmp_raises_suspicion_and_an_answer_ends_it() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    for _ in 0..20 {
        world.health.handle_unreachable(world.now, R1);
        world.drain();
        assert_eq!(world.status().state, State::Trying);
        world.run(ms(5));
        assert_eq!(world.status().state, State::Active);
    }
    assert_eq!(world.losses(), []);
}

#[test]
fn a_destination_returns_after_two_answers_in_a_row() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    world.life = Life::Silent;
    world.run(ms(3_000));
    assert_eq!(world.losses().len(), 1);
    world.life = Life::Answers(200);
    world.run(ms(1_200));
    let [up] = world.ups()[..] else {
        panic!("{:?}", world.events)
    };
    let first = world.probes.iter().rfind(|at| **at + ms(50) < up).unwrap();
    assert_eq!(
        up,
        *first + ms(102),
        "the second probe follows 100 ms after the first answer"
    );
    assert!(world.status().accepting_new);
}

#[test]
fn a_sign_of_life_of_an_inactive_destination_makes_it_asked_soon() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    world.life = Life::Silent;
    world.run(ms(700));
    assert_eq!(world.status().state, State::Inactive);
    world.life = Life::Answers(200);
    world.hear();
    world.run(ms(210));
    assert_eq!(world.status().state, State::Active);
}

#[test]
fn answers_to_what_was_asked_before_the_loss_do_not_count() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    world.rtt = ms(400);
    world.run(ms(1_000));
    assert_eq!(world.losses().len(), 1);
    assert_eq!(world.ups(), []);
    assert_eq!(world.status().state, State::Inactive);
}

#[test]
fn flapping_is_held_down_for_longer_each_time_and_forgotten_after_a_quiet_minute() {
    let mut world = World::new(ms(1));
    let mut out = vec![];
    for _ in 0..4 {
        world.run(ms(1_500));
        world.life = Life::Silent;
        world.run(ms(1_300));
        world.life = Life::Answers(200);
        world.run(ms(12_000));
        out.push(*world.ups().last().unwrap() - world.losses().last().unwrap().0);
    }
    assert_eq!(world.ups().len(), 4);
    assert!(out[0] < ms(2_200), "{out:?}");
    assert!(out[3] >= ms(4_000) && out[3] > out[1], "{out:?}");
    world.run(ms(61_000));
    world.life = Life::Silent;
    world.run(ms(1_300));
    world.life = Life::Answers(200);
    world.run(ms(1_300));
    assert_eq!(world.ups().len(), 5, "as quick as the first time");
}

#[test]
fn a_503_to_options_is_life_without_new_calls() {
    let mut world = World::new(ms(1));
    world.life = Life::Answers(503);
    world.run(ms(2_500));
    let status = world.status();
    assert_eq!(status.state, State::Active);
    assert!(status.is_alive() && status.draining && !status.accepting_new);
    assert!(status.unready);
    // Where there is nobody else it is tried all the same: it may have started a moment ago.
    let member = Member {
        id: status.id.clone(),
        address: status.address,
        weight: 1,
        priority: 0,
        cell: "".into(),
        last_heir: false,
    };
    let set = DestinationSet {
        id: "1".into(),
        algorithm: Algorithm::CallIdHash,
        members: vec![member],
    };
    let sets = Sets::new(ClusterKey::new([0; 16]), vec![set]).unwrap();
    let view = sets.view(&world.health);
    assert_eq!(view.set("1").unwrap().rank(b"call", 0).len(), 1);
    assert!(world.events.iter().any(|(_, event)| matches!(
        event,
        HealthEvent::StateChanged {
            accepting_new: false,
            to: State::Active,
            ..
        }
    )));
    world.life = Life::Answers(200);
    world.run(ms(1_100));
    assert!(world.status().accepting_new);
    assert_eq!(world.losses(), []);
}

#[test]
fn a_new_incarnation_is_the_loss_of_the_old_one_and_used_once_it_answers() {
    let mut world = World::new(ms(1));
    world.health.handle_incarnation(world.now, R1, 7);
    world.run(ms(1_500));
    world.health.handle_incarnation(world.now, R1, 7);
    assert_eq!(world.losses(), []);
    world.health.handle_incarnation(world.now, R1, 8);
    world.health.handle_incarnation(world.now, R1, 7);
    world.run(ms(5));
    assert_eq!(world.losses(), [(ms(1_500), Reason::Restarted)]);
    assert_eq!(world.status().state, State::Active);

    world.life = Life::Silent;
    world.run(ms(1_600));
    assert_eq!(world.status().state, State::Inactive);
    world.life = Life::Answers(200);
    world.health.handle_incarnation(world.now, R1, 9);
    world.run(ms(5));
    assert_eq!(world.status().state, State::Active, "one answer is enough");
    assert_eq!(world.status().incarnation, Some(9));
}

#[test]
fn a_new_address_is_the_loss_of_who_lived_at_the_old_one() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    let address: SocketAddr = "192.0.2.9:5060".parse().unwrap();
    let moved = DestinationConfig {
        address,
        ..router(R1)
    };
    world.health.configure(world.now, &[moved]).unwrap();
    let probe = {
        world.health.handle_timeout(world.now);
        world.health.poll_probe().unwrap()
    };
    assert_eq!(probe.address, address);
    world.drain();
    assert_eq!(world.losses(), [(ms(1_500), Reason::Moved)]);
    let lost_at = router(R1).address;
    let is_told = |(_, event): &(_, HealthEvent)| matches!(event, HealthEvent::Lost { address, .. } if *address == lost_at);
    assert!(
        world.events.iter().any(is_told),
        "the old address, not the new one"
    );
    assert_eq!(
        world.health.destination_at(address).map(|id| &**id),
        Some(R1)
    );
}

#[test]
fn health_survives_reconfiguration() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    world.life = Life::Silent;
    world.run(ms(1_500));
    assert_eq!(world.status().state, State::Inactive);
    world
        .health
        .configure(world.now, &[router("r0"), router(R1), router("r2")])
        .unwrap();
    assert_eq!(world.status().state, State::Inactive);
    assert_eq!(world.health.state("r2").unwrap().state, State::Active);
    let ids: Vec<_> = world
        .health
        .statuses()
        .map(|status| status.id.to_string())
        .collect();
    assert_eq!(ids, ["r0", "r1", "r2"]);
    world.health.configure(world.now, &[]).unwrap();
    assert_eq!(world.health.state(R1), None);
}

#[test]
fn an_operator_overrides_the_configuration() {
    let mut world = World::new(ms(1));
    world.run(ms(100));
    let operate = |world: &mut World, will| {
        world.health.set_operator(world.now, R1, will).unwrap();
        world.drain();
    };
    operate(&mut world, Some(Administrative::Disabled));
    assert_eq!(world.status().state, State::Disabled);
    world.owe();
    let probes = world.probes.len();
    world.run(ms(10_000));
    assert_eq!(world.probes.len(), probes, "what is disabled is not asked");
    operate(&mut world, Some(Administrative::Draining));
    world.run(ms(100));
    assert!(world.status().is_alive() && !world.status().accepting_new);
    operate(&mut world, None);
    assert!(world.status().accepting_new);
    assert_eq!(world.losses(), []);
    assert!(
        world
            .health
            .set_operator(world.now, "nobody", None)
            .is_err()
    );
}

#[test]
fn a_destination_that_is_not_probed_is_not_judged() {
    let mut world = World::new(ms(1));
    let trunk = DestinationConfig {
        probing: false,
        ..router(R1)
    };
    world.health.configure(world.now, &[trunk]).unwrap();
    world.life = Life::Refuses;
    world.owe();
    for _ in 0..10 {
        world.health.handle_unreachable(world.now, R1);
        world.run(ms(100));
    }
    assert_eq!((world.losses().len(), world.probes.len()), (0, 0));
    assert_eq!(world.health.poll_timeout(), None);
    assert!(world.status().accepting_new);
}

#[test]
fn a_pause_of_our_own_is_not_held_against_the_destination() {
    let mut world = World::new(ms(1));
    world.run(ms(500));
    world.owe();
    world.now += ms(3_000);
    world.health.handle_timeout(world.now);
    world.run(ms(100));
    assert_eq!(world.losses(), []);
    assert_eq!(world.status().state, State::Active);
}

#[test]
fn a_smaller_budget_counts_from_the_next_debt() {
    let mut world = World::new(ms(1));
    world.run(ms(500));
    world.health.set_config(HealthConfig {
        detect_within: ms(100),
        ..HealthConfig::default()
    });
    world.life = Life::Silent;
    world.owe();
    world.run(ms(200));
    assert_eq!(world.losses(), [(ms(590), Reason::Silent)]);
}

#[test]
fn an_answer_nobody_asked_for_changes_nothing() {
    let mut world = World::new(ms(1));
    world.run(ms(1_500));
    world.life = Life::Silent;
    world.run(ms(2_000));
    for seq in 0..500 {
        world
            .health
            .handle_probe_answer(world.now, R1, ProbeSeq(900_000 + seq), 200);
    }
    assert_eq!(world.status().state, State::Inactive);
}

#[test]
fn a_list_that_breaks_the_rules_is_refused_whole() {
    let mut health = Health::new(HealthConfig::default());
    let now = start();
    health.configure(now, &[router(R1)]).unwrap();
    let twice = [router("x"), router("x")];
    assert_eq!(
        health.configure(now, &twice),
        Err(ConfigureError::DuplicateId { id: "x".into() })
    );
    let many: Vec<_> = (0..=DESTINATIONS_MAX)
        .map(|i| router(&i.to_string()))
        .collect();
    assert_eq!(
        health.configure(now, &many),
        Err(ConfigureError::TooMany {
            count: DESTINATIONS_MAX + 1
        })
    );
    assert!(health.state(R1).is_some() && health.state("x").is_none());
}
