//! Random deaths under one seed.
//!
//! A run is a fabric of 2 to 5 routers, calls of every kind, and routers that are killed, cut off,
//! frozen and restarted while the calls go on; half of the seeds also lose, repeat and reorder
//! datagrams. What must hold stands with [`model::judge`].
//!
//! `SEEDS=1000` makes the sweeps longer; `SEED=42 cargo test -p tests --test sim -- replay --nocapture` shows a
//! run datagram by datagram, with `CALL=` the beginning of a Call-ID only that call.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test shows what it saw, and a failed unwrap is a failed test"
)]

mod model;
mod run;

use run::Run;

/// Seeds from 0 on that are swept, unless `SEEDS` says otherwise.
const SEEDS: u64 = 100;

fn number(variable: &str, default: u64) -> u64 {
    let read = |text: String| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    };
    std::env::var(variable).map_or(default, read)
}

/// Runs every second seed, from `first` on.
fn sweep(first: u64) {
    let mut failed = vec![];
    let mut counters = tandem_sbc::Counters::default();
    for seed in (first..number("SEEDS", SEEDS)).step_by(2) {
        let mut run = Run::new(seed);
        let wrong = run.judge();
        counters.add(&run.counters());
        if !wrong.is_empty() {
            println!("seed {seed}: {}", run.summary());
            wrong.iter().for_each(|line| println!("    {line}"));
            failed.push(seed);
        }
    }
    println!("{counters:?}");
    // A sweep in which nothing had to be saved would prove nothing.
    assert!(
        counters.failovers > 0 && counters.answered_in_stead > 0 && counters.late_second_passes > 0
    );
    let command = "cargo test -p tests --test sim -- replay --nocapture";
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; to see one: SEED={} {command}",
        failed[0]
    );
}

#[test]
fn every_call_ends_as_its_callee_decided() {
    sweep(0);
}

#[test]
fn loss_alone_ends_no_call_either() {
    sweep(1);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [0, 1] {
        let hashes = [Run::new(seed).hash(), Run::new(seed).hash()];
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
        assert_ne!(hashes[0], Run::new(seed + 2).hash());
    }
}

/// Shows one run: the seed in `SEED`, 0 without.
#[test]
fn replay() {
    let seed = number("SEED", 0);
    let mut run = Run::new(seed);
    let wrong = run.judge();
    println!("seed {seed}: {}", run.summary());
    print!("{}", run.picture(std::env::var("CALL").ok().as_deref()));
    wrong.iter().for_each(|line| println!("{line}"));
    assert!(wrong.is_empty());
}
