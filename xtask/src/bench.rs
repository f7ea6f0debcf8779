//! `cargo xtask bench peer`: Tandem beside real Kamailio, in alternating runs of one instrument.
//!
//! `bench/peer/run.py` makes the load and reads the figures, for both. Here: which runs in which
//! order, Tandem's processes, and what comes of the numbers.

mod results;
mod tandem;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{setup, shell};
use results::Results;
use tandem::Tandem;

/// Calls per second of the steady runs.
const RATES: [u32; 2] = [400, 800];

/// How long a call of a steady run lasts, milliseconds.
const HOLD_MS: u32 = 200;

/// Arguments of `bench peer`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print the figures as JSON too, on the last line
    #[arg(long)]
    json: bool,
    /// How often each figure is measured: times and memory are medians, of everything else the worst counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of calls in a steady run
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Measure one side only, and leave bench/RESULTS.md as it is
    #[arg(long)]
    only: Option<Only>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Kamailio,
    Tandem,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Kamailio as it is run: routers replicate over DMQ.
    Kamailio,
    /// Kamailio whose routers do not replicate.
    KamailioWithoutDmq,
    /// Ours.
    Tandem,
}

impl Side {
    fn chosen(self, only: Option<Only>) -> bool {
        match only {
            None => true,
            Some(Only::Tandem) => self == Self::Tandem,
            Some(Only::Kamailio) => self != Self::Tandem,
        }
    }
}

/// What SIPp does in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Short calls at a steady rate, per second.
    Steady { rate: u32, calls: u32 },
    /// Many calls held at once: what the routers' replicas differ in, and what a dialog takes.
    Held,
    /// A router killed while calls are set up and held.
    Kill,
}

impl Load {
    const HELD_CALLS: u32 = 6000;
    const KILL_CALLS: u32 = 3000;

    fn calls(self) -> u32 {
        match self {
            Self::Steady { calls, .. } => calls,
            Self::Held => Self::HELD_CALLS,
            Self::Kill => Self::KILL_CALLS,
        }
    }

    fn arguments(self) -> Vec<String> {
        let (rate, hold) = match self {
            Self::Steady { rate, .. } => (rate, HOLD_MS),
            // All of them are established for some seconds, in which the replicas are compared.
            Self::Held => (500, 24_000),
            Self::Kill => (200, 6000),
        };
        let mut words = Vec::new();
        for (name, value) in [
            ("--calls", self.calls()),
            ("--rate", rate),
            ("--hold", hold),
        ] {
            words.extend([name.to_owned(), value.to_string()]);
        }
        let more: &[&str] = match self {
            Self::Steady { .. } => &[],
            Self::Held => &["--compare"],
            Self::Kill => &["--kill-router-at", "6"],
        };
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }
}

/// What `run.py` prints, as far as it is used.
#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    ok: u32,
    failed: u32,
    ipbx_failed: u32,
    response_times: ResponseTimes,
    sbc: Cpu,
    router1: Option<Cpu>,
    router2: Option<Cpu>,
    /// Of a run that holds its calls.
    replicas: Option<Replicas>,
    #[serde(default)]
    mem: BTreeMap<String, Memory>,
}

/// What the routers listed, at two times.
#[derive(Debug, Deserialize)]
struct Replicas {
    established: Compared,
    ended: Compared,
}

#[derive(Debug, Deserialize)]
struct Compared {
    /// How many dialogs each router listed.
    listed: [u32; 2],
    /// How many of all of these differ, or are listed by one only.
    differ: u32,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = self.listed;
        write!(f, "{} of {one} and {other} dialogs differ", self.differ)
    }
}

/// Memory of one process with its children, KiB.
#[derive(Debug, Deserialize)]
struct Memory {
    /// Before the first call, and with all of them established.
    pss_kib: (f64, f64),
}

#[derive(Debug, Deserialize)]
struct ResponseTimes {
    over_1s: u32,
    slowest_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Cpu {
    user_us_per_call: f64,
    sys_us_per_call: f64,
}

impl Cpu {
    fn total(&self) -> f64 {
        self.user_us_per_call + self.sys_us_per_call
    }
}

impl Run {
    fn routers(&self) -> f64 {
        [&self.router1, &self.router2]
            .into_iter()
            .flatten()
            .map(Cpu::total)
            .sum()
    }

    /// Returns what a router has grown by for each established call, KiB; the mean of both.
    fn memory_kib(&self, calls: u32) -> Option<f64> {
        let grown = |name: &str| {
            self.mem
                .get(name)
                .map(|memory| memory.pss_kib.1 - memory.pss_kib.0)
        };
        let routers = grown("router1")? + grown("router2")?;
        Some(routers / 2.0 / f64::from(calls))
    }

    /// Calls that failed at either end; one that failed at both counts once, at least.
    fn failed(&self) -> u32 {
        self.failed.max(self.ipbx_failed)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sbc, routers) = (self.sbc.total(), self.routers());
        write!(
            f,
            "SBC {sbc:.0} us, routers {routers:.0} us, {} failed",
            self.failed()
        )?;
        if let Some(Replicas { established, ended }) = &self.replicas {
            write!(f, ", established {established}, ended {ended}")?;
        }
        Ok(())
    }
}

/// Measures both sides and writes down what came of it.
pub(crate) fn peer(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let load_average = load_average()?;
    if load_average > 1.0 {
        eprintln!(
            "something else runs here (load average {load_average}): the figures will be too high"
        );
    }
    if Side::Tandem.chosen(arguments.only) {
        shell::run(shell::cargo().args(["build", "--release", "--package", "tandem"]))?;
    }
    let mut plan = Vec::new();
    for _ in 0..arguments.rounds {
        for rate in RATES {
            let load = Load::Steady {
                rate,
                calls: rate * arguments.seconds,
            };
            plan.extend(
                [Side::Kamailio, Side::Tandem, Side::KamailioWithoutDmq].map(|side| (side, load)),
            );
        }
        for load in [Load::Held, Load::Kill] {
            plan.extend([Side::Kamailio, Side::Tandem].map(|side| (side, load)));
        }
    }
    plan.retain(|(side, _)| side.chosen(arguments.only));

    let mut results = Results::default();
    let mut failed = 0;
    for (i, &(side, load)) in plan.iter().enumerate() {
        eprint!("run {} of {}: {side:?}, {load:?}: ", i + 1, plan.len());
        match measure(side, load) {
            Ok(run) => {
                eprintln!("{run}");
                results.add(side, load, &run);
            }
            // The other runs tell something all the same.
            Err(error) => {
                eprintln!("{error:#}");
                failed += 1;
            }
        }
    }
    let table = results.table();
    println!("{table}");
    if arguments.json {
        println!("{}", results.json());
    }
    let runs = plan.len();
    ensure!(
        failed == 0,
        "{failed} of {runs} runs failed: bench/RESULTS.md stays as it was"
    );
    if arguments.only.is_none() {
        results::write_down(&table, arguments.rounds, arguments.seconds, load_average)?;
    }
    let missed = results.missed();
    ensure!(
        missed.is_empty(),
        "promised otherwise: {}",
        missed.join("; ")
    );
    Ok(())
}

/// Measures, once more if that failed: too few calls came through for figures per call to mean anything.
fn measure(side: Side, load: Load) -> Result<Run> {
    measure_once(side, load).or_else(|error| {
        eprint!("{error:#}; once more: ");
        measure_once(side, load)
    })
}

/// Makes one run from start to end; nothing of it goes on running. The logs of a failed run stay.
fn measure_once(side: Side, load: Load) -> Result<Run> {
    let directory = tempfile::Builder::new().prefix("tandem-bench-").tempdir()?;
    measure_in(directory.path(), side, load).map_err(|error| {
        let kept = directory.keep();
        error.context(format!("the logs are in {}", kept.display()))
    })
}

fn measure_in(directory: &Path, side: Side, load: Load) -> Result<Run> {
    let mut command = instrument(directory, load);
    let tandem = match side {
        Side::Kamailio | Side::KamailioWithoutDmq => None,
        Side::Tandem => Some(Tandem::start(directory)?),
    };
    match (&tandem, side) {
        (Some(tandem), _) => command
            .args(["--pids", &tandem.pids(), "--tandem"])
            .arg(tandem::binary()),
        (None, Side::KamailioWithoutDmq) => command.arg("--no-dmq"),
        (None, _) => &mut command,
    };
    let printed = shell::output(&mut command)?;
    let run: Run =
        serde_json::from_str(&printed).with_context(|| format!("run.py printed {printed:?}"))?;
    let enough = load.calls() / 100 * 95;
    ensure!(
        run.ok >= enough,
        "only {} of {} calls came through",
        run.ok,
        load.calls()
    );
    if let Some(Replicas { established, .. }) = &run.replicas {
        let [one, other] = established.listed;
        ensure!(
            one.min(other) >= enough,
            "the routers listed only {one} and {other} of {} dialogs",
            load.calls()
        );
    }
    Ok(run)
}

/// Returns the load average of the last minute.
fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn instrument(directory: &Path, load: Load) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(shell::root().join("bench/peer/run.py"))
        .args(load.arguments())
        .arg("--out")
        .arg(directory);
    command
}
