//! What became of the calls, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::agents::Report;
use super::bus::BusTraffic;
use super::replica::Replicas;
use super::system::{Routers, Store};
use super::tap::{Seen, Traffic, is_2xx};
use super::{Death, Fault, Options, ladder};

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    calls: u32,
    /// BYE answered 200 by the callee.
    completed: usize,
    failed: usize,
    /// The router that was struck.
    killed: Option<&'static str>,
    /// Calls on it at that moment, ringing ones included.
    in_flight_at_kill: usize,
    ringing_at_kill: usize,
    /// Calls of it with a request through the other router afterwards.
    served_by_heir: usize,
    /// Requests but ACK that the callee got more than once.
    delivered_twice: usize,
    /// INVITE from its first sending to the first 18x or final, others to their final.
    slowest_request_ms: u64,
    /// From the death to inactive at the SBC.
    detected_ms: Option<u64>,
    /// Calls that one router told the other of, and that this one acknowledged.
    dialogs_replicated: usize,
    /// Those of them that the Kamailio told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    dialogs_replicated_from_kamailio: Option<usize>,
    /// From a change at a Tandem router to the other router's answer: half of them took no longer.
    replication_lag_p50_ms: Option<f64>,
    replication_lag_p99_ms: Option<f64>,
    /// Keys that differed between Tandem routers when they were compared last.
    divergence: u64,
    /// How long ago that was; null with nobody to compare with.
    verify_age_seconds: Option<f64>,
    /// Where the registry stored the cluster: `embedded` or `etcd`.
    store: &'static str,
    #[serde(skip)]
    routers: Routers,
    #[serde(skip)]
    failures: Vec<(String, String)>,
    #[serde(skip)]
    duplicates: Vec<String>,
    #[serde(skip)]
    slowest: String,
}

impl Summary {
    pub(crate) fn new(
        options: &Options,
        traffic: &Traffic,
        bus: &BusTraffic,
        replicas: &Replicas,
        report: &Report,
        death: Option<&Death>,
    ) -> Self {
        let routers = options.routers();
        let struck = |seen: &[Seen]| {
            death.is_some_and(|death| traffic.first_router(seen) == Some(death.router))
        };
        let at = death.map_or(u64::MAX, |death| death.at);
        let mut in_flight = 0;
        let mut ringing = 0;
        let mut served_by_heir = 0;
        for (_, seen) in traffic.calls().filter(|(_, seen)| struck(seen)) {
            let upstream = |seen: &&Seen| !seen.came && traffic.router(seen.remote).is_none();
            let began = seen.first().is_some_and(|seen| seen.at < at);
            let answered = seen
                .iter()
                .filter(upstream)
                .any(|seen| seen.at < at && seen.method == "INVITE" && is_2xx(seen));
            let ended = seen
                .iter()
                .filter(upstream)
                .any(|seen| seen.at < at && seen.method == "BYE" && is_2xx(seen));
            in_flight += usize::from(began && !ended);
            ringing += usize::from(began && !answered);
            let by_heir = |seen: &Seen| {
                let router = traffic.router(seen.remote);
                !seen.came
                    && seen.status.is_none()
                    && seen.at >= at
                    && router.is_some()
                    && router != death.map(|death| death.router)
            };
            served_by_heir += usize::from(began && seen.iter().any(by_heir));
        }
        Self {
            calls: options.calls,
            completed: report.completed,
            failed: report.failed.len(),
            killed: death.map(|death| routers.name(death.router)),
            in_flight_at_kill: in_flight,
            ringing_at_kill: ringing,
            served_by_heir,
            delivered_twice: report.delivered_twice.len(),
            slowest_request_ms: report
                .slowest
                .map_or(0, |(_, elapsed)| elapsed.as_millis() as u64),
            detected_ms: death
                .and_then(|death| death.detected)
                .map(|detected| detected.as_millis() as u64),
            dialogs_replicated: bus.calls_told(None),
            dialogs_replicated_from_kamailio: (routers == Routers::WithKamailio)
                .then(|| bus.calls_told(Some(1))),
            replication_lag_p50_ms: replicas.lag_p50.map(milliseconds),
            replication_lag_p99_ms: replicas.lag_p99.map(milliseconds),
            divergence: replicas.divergence,
            verify_age_seconds: replicas.verify_age.map(|age| rounded(age.as_secs_f64())),
            store: match options.store() {
                Store::Embedded => "embedded",
                Store::Etcd => "etcd",
            },
            routers,
            failures: report.failed.clone(),
            duplicates: report.delivered_twice.clone(),
            slowest: report.slowest.map_or_else(String::new, |(method, _)| {
                format!("{method:?}").to_uppercase()
            }),
        }
    }

    /// Tells whether every call went as it should.
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.delivered_twice == 0 && self.completed == self.calls as usize
    }

    pub(crate) fn text(&self, options: &Options, death: Option<&Death>) -> String {
        let mut out = format!(
            "{} calls placed, {} completed, {} failed\n",
            self.calls, self.completed, self.failed
        );
        if let Some(death) = death {
            let _ = writeln!(
                out,
                "{} was {} while it carried {} calls, {} of them still ringing",
                self.routers.name(death.router),
                ladder::verb(options.fault),
                self.in_flight_at_kill,
                self.ringing_at_kill
            );
            match self.detected_ms {
                Some(ms) => {
                    let _ = writeln!(
                        out,
                        "the SBC knew after {ms} ms; {} of its calls went on through {}",
                        self.served_by_heir,
                        self.routers.name(1 - death.router)
                    );
                }
                None => {
                    let _ = writeln!(
                        out,
                        "the SBC had no request that would have told it of the death"
                    );
                }
            }
        }
        let _ = writeln!(
            out,
            "the slowest request, {}, took {} ms; {} requests reached the IPBX twice",
            self.slowest, self.slowest_request_ms, self.delivered_twice
        );
        self.tell_replication(&mut out, options, death);
        let _ = match options.store() {
            Store::Embedded => writeln!(out, "the registry's store was a file of its own"),
            Store::Etcd => writeln!(out, "the registry's store was an etcd of three members"),
        };
        for (call, outcome) in self.failures.iter().take(10) {
            let _ = writeln!(out, "  failed: {call}: {outcome}");
        }
        for duplicate in self.duplicates.iter().take(10) {
            let _ = writeln!(out, "  twice: {duplicate}");
        }
        if options.fault != Fault::None && self.is_good() {
            let _ = write!(out, "no call was lost");
        }
        out
    }

    fn tell_replication(&self, out: &mut String, options: &Options, death: Option<&Death>) {
        let _ = write!(
            out,
            "{} dialogs were replicated to the other router",
            self.dialogs_replicated
        );
        if let Some(from_kamailio) = self.dialogs_replicated_from_kamailio {
            let _ = write!(out, ", {from_kamailio} of them from the Kamailio");
        }
        if let (Some(p50), Some(p99)) = (self.replication_lag_p50_ms, self.replication_lag_p99_ms) {
            let (who, whose) = match self.routers {
                Routers::Tandem => ("it", "the changes"),
                Routers::WithKamailio => ("the Kamailio", "the Tandem router's changes"),
            };
            let _ = write!(
                out,
                "; {who} had half of {whose} within {p50} ms, 99 in 100 within {p99} ms"
            );
        }
        let killed = death.filter(|_| options.fault == Fault::Kill);
        let _ = match (self.verify_age_seconds, killed, self.routers) {
            (Some(age), _, _) => writeln!(
                out,
                "\ncompared {age} s ago, the routers differed in {} records",
                self.divergence
            ),
            (None, Some(death), _) => writeln!(
                out,
                "\n{} has nobody left to compare with",
                self.routers.name(1 - death.router)
            ),
            (None, None, Routers::WithKamailio) => {
                writeln!(out, "\na Kamailio does not compare what it holds")
            }
            (None, None, Routers::Tandem) => {
                writeln!(out, "\nthe routers have not compared what they hold")
            }
        };
    }
}

fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1000.0)
}

/// Returns a number with two digits after the point.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
