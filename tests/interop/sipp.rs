//! SIPp at both ends, with the scenarios of `bench/peer` as they are.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::quiet::repository;
use crate::system::System;

/// What is placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) calls: u32,
    /// Per second.
    pub(crate) rate: u32,
    /// From the answer to the BYE.
    pub(crate) hold: Duration,
}

impl Calls {
    /// How long it takes to place and to end them all.
    fn lasts(self) -> Duration {
        Duration::from_secs(1) * self.calls / self.rate + self.hold
    }
}

/// A carrier and an IPBX at work; ended when dropped.
pub(crate) struct Sipp {
    directory: PathBuf,
    calls: Calls,
    started: Instant,
    carrier: Child,
    ipbx: Child,
}

/// What both ends saw.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) carrier: End,
    pub(crate) ipbx: End,
    /// Every response time of the carrier: INVITE to 200, and BYE to 200.
    pub(crate) times: Vec<Duration>,
}

/// What one end saw.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) successful: u64,
    pub(crate) failed: u64,
    /// Messages that the scenario does not expect, in a call, after it or outside any.
    pub(crate) unexpected: u64,
    pub(crate) retransmissions: u64,
    /// The beginning of what it wrote about errors.
    pub(crate) errors: String,
}

impl Sipp {
    pub(crate) fn start(system: &System, calls: Calls) -> Self {
        let directory = system.path().to_owned();
        let scenarios = repository().join("bench/peer");
        let end = |name: &str| {
            let mut command = system.places.command(name, "sipp");
            command.current_dir(&directory);
            command.args(["-i", &system.places.of(name).ip.to_string(), "-p", "5060"]);
            command.args(["-m", &calls.calls.to_string(), "-l", "100000", "-nostdin"]);
            command.args(["-buff_size", "4194304", "-timeout", "300s"]);
            command.args(["-trace_stat", "-fd", "1", "-stf", &format!("{name}.csv")]);
            command.args(["-trace_err", "-error_file", &format!("{name}.err")]);
            command
        };
        let mut ipbx = end("ipbx");
        ipbx.arg("-sf").arg(scenarios.join("uas.xml"));
        let ipbx = spawn(&mut ipbx, &directory, "ipbx");
        // It says nowhere that it listens.
        std::thread::sleep(Duration::from_millis(500));
        let mut carrier = end("carrier");
        carrier.arg("-sf").arg(scenarios.join("uac.xml"));
        carrier.args(["-s", "15145550199", &system.sip("sbc").to_string()]);
        carrier.args(["-r", &calls.rate.to_string()]);
        carrier.args(["-d", &calls.hold.as_millis().to_string()]);
        carrier.args(["-trace_rtt", "-rtt_freq", "1", "-recv_timeout", "40000"]);
        let carrier = spawn(&mut carrier, &directory, "carrier");
        Self {
            directory,
            calls,
            started: Instant::now(),
            carrier,
            ipbx,
        }
    }

    /// Sleeps until this long after the first call.
    pub(crate) fn sleep_until(&self, after: Duration) {
        std::thread::sleep(after.saturating_sub(self.started.elapsed()));
    }

    /// Waits for the last call. An end that waits for calls that never come is ended.
    pub(crate) fn finish(mut self) -> Report {
        let deadline = self.started + self.calls.lasts() + Duration::from_secs(20);
        for child in [&mut self.carrier, &mut self.ipbx] {
            while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // What is written once a second is written.
        std::thread::sleep(Duration::from_millis(100));
        Report {
            carrier: self.end("carrier"),
            ipbx: self.end("ipbx"),
            times: self.times(),
        }
    }

    fn end(&self, name: &str) -> End {
        let text = fs::read_to_string(self.directory.join(format!("{name}.csv"))).unwrap();
        let mut lines = text.lines();
        let (names, last) = (lines.next().unwrap(), lines.next_back().unwrap());
        let figures: BTreeMap<_, _> = names.split(';').zip(last.split(';')).collect();
        let figure = |name: &str| -> u64 { figures[name].parse().unwrap() };
        let errors = fs::read_to_string(self.directory.join(format!("{name}.err")));
        let errors = errors
            .unwrap_or_default()
            .lines()
            .take(40)
            .collect::<Vec<_>>()
            .join("\n");
        End {
            successful: figure("SuccessfulCall(C)"),
            failed: figure("FailedCall(C)"),
            unexpected: figure("FailedUnexpectedMessage(C)")
                + figure("OutOfCallMsgs(C)")
                + figure("DeadCallMsgs(C)"),
            retransmissions: figure("Retransmissions(C)"),
            errors,
        }
    }

    fn times(&self) -> Vec<Duration> {
        let name = format!("uac_{}_rtt.csv", self.carrier.id());
        let text = fs::read_to_string(self.directory.join(name)).unwrap();
        let time = |line: &str| -> f64 { line.split(';').nth(1).unwrap().parse().unwrap() };
        text.lines()
            .skip(1)
            .map(|line| Duration::from_secs_f64(time(line) / 1000.0))
            .collect()
    }
}

fn spawn(command: &mut Command, directory: &Path, name: &str) -> Child {
    let log = File::create(directory.join(format!("{name}.log"))).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command.spawn().unwrap()
}

impl Drop for Sipp {
    fn drop(&mut self) {
        for child in [&mut self.carrier, &mut self.ipbx] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Report {
    pub(crate) fn slowest(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }

    /// Asserts that every call was set up and ended, for both ends, and that nothing strange arrived.
    pub(crate) fn assert_all_completed(&self, calls: u32) {
        for (name, end) in [("carrier", &self.carrier), ("ipbx", &self.ipbx)] {
            assert_eq!(
                (end.successful, end.failed, end.unexpected),
                (u64::from(calls), 0, 0),
                "{name}: completed, failed, unexpected messages\n{}",
                end.errors
            );
        }
        assert_eq!(
            self.times.len(),
            2 * calls as usize,
            "an INVITE and a BYE for each call"
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (carrier, ipbx) = (&self.carrier, &self.ipbx);
        write!(
            f,
            "carrier {} completed, {} failed, {} unexpected, {} repeated; ipbx {}, {}, {}, {}; slowest request {} ms",
            carrier.successful,
            carrier.failed,
            carrier.unexpected,
            carrier.retransmissions,
            ipbx.successful,
            ipbx.failed,
            ipbx.unexpected,
            ipbx.retransmissions,
            self.slowest().as_millis()
        )
    }
}
