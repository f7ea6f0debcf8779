//! What came of the runs: medians, a table with ratios, a line of JSON.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Load, RATES, Run, Side};
use crate::shell;

/// The most that Tandem may take of Kamailio's processor time for a call.
const CPU_SHARE_MAX: f64 = 0.5;

/// One figure of one run.
struct Figure {
    side: Side,
    load: Load,
    sbc: f64,
    routers: f64,
    failed: u32,
    over_1s: u32,
    slowest_ms: f64,
    /// Dialogs in which the replicas differed, established and ended; KiB of a router for each.
    held: Option<Held>,
}

struct Held {
    differ_established: u32,
    differ_ended: u32,
    memory_kib: f64,
}

/// Every run so far.
#[derive(Default)]
pub(super) struct Results(Vec<Figure>);

impl Results {
    pub(super) fn add(&mut self, side: Side, load: Load, run: &Run) {
        self.0.push(Figure {
            side,
            load,
            sbc: run.sbc.total(),
            routers: run.routers(),
            failed: run.failed(),
            over_1s: run.response_times.over_1s,
            slowest_ms: run.response_times.slowest_ms.unwrap_or(0.0),
            held: Held::of(load, run),
        });
    }

    fn middle(
        &self,
        side: Side,
        load: impl Fn(Load) -> bool,
        read: impl Fn(&Figure) -> Option<f64>,
    ) -> Option<f64> {
        let figures = self.0.iter();
        let figures = figures.filter(|figure| figure.side == side && load(figure.load));
        median(figures.filter_map(read).collect())
    }

    fn steady(&self, side: Side, rate: u32, read: impl Fn(&Figure) -> f64) -> Option<f64> {
        let of = |load| matches!(load, Load::Steady { rate: r, .. } if r == rate);
        self.middle(side, of, |figure| Some(read(figure)))
    }

    fn held(&self, side: Side, read: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        self.middle(side, |load| load == Load::Held, read)
    }

    fn differ(&self, side: Side, read: impl Fn(&Held) -> u32) -> Option<f64> {
        let held = self.0.iter().filter(|figure| figure.side == side);
        let held = held.filter_map(|figure| figure.held.as_ref());
        held.map(|held| f64::from(read(held))).reduce(f64::max)
    }

    fn worst(
        &self,
        side: Side,
        load: impl Fn(Load) -> bool,
        read: impl Fn(&Figure) -> f64,
    ) -> Option<f64> {
        self.0
            .iter()
            .filter(|figure| figure.side == side && load(figure.load))
            .map(read)
            .reduce(f64::max)
    }

    fn killed(&self, side: Side, read: impl Fn(&Figure) -> f64) -> Option<f64> {
        self.worst(side, |load| load == Load::Kill, read)
    }

    /// Returns a Markdown table: Kamailio, Tandem, and how many times less Tandem needs.
    pub(super) fn table(&self) -> String {
        let mut table =
            "| figure | Kamailio | Tandem | Kamailio / Tandem |\n|---|---|---|---|\n".to_owned();
        let mut row = |name: &str, kamailio: Option<f64>, tandem: Option<f64>, ratio: bool| {
            let shown = |figure: Option<f64>| match figure {
                // KiB for each dialog are few.
                Some(figure) if ratio && figure < 20.0 => format!("{figure:.1}"),
                Some(figure) => format!("{figure:.0}"),
                None => "-".to_owned(),
            };
            let ratio = match (kamailio, tandem) {
                (Some(kamailio), Some(tandem)) if ratio && tandem > 0.0 => {
                    format!("{:.1}", kamailio / tandem)
                }
                _ => "-".to_owned(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "| {name} | {} | {} | {ratio} |",
                shown(kamailio),
                shown(tandem)
            );
        };
        let (kamailio, without, tandem) = (Side::Kamailio, Side::KamailioWithoutDmq, Side::Tandem);
        for rate in RATES {
            let sbc = |side| self.steady(side, rate, |figure| figure.sbc);
            let routers = |side| self.steady(side, rate, |figure| figure.routers);
            let failed = |side| {
                let of = |load| matches!(load, Load::Steady { rate: r, .. } if r == rate);
                self.worst(side, of, |figure| f64::from(figure.failed))
            };
            row(
                &format!("SBC, us of CPU per call, {rate} calls/s"),
                sbc(kamailio),
                sbc(tandem),
                true,
            );
            row(
                &format!("routers, the same, replicating, {rate} calls/s"),
                routers(kamailio),
                routers(tandem),
                true,
            );
            row(
                &format!("routers, only Tandem replicating, {rate} calls/s"),
                routers(without),
                routers(tandem),
                true,
            );
            row(
                &format!("calls failed, {rate} calls/s, worst run"),
                failed(kamailio),
                failed(tandem),
                false,
            );
        }
        row(
            "6000 calls at 500/s: routers, us of CPU per call",
            self.held(kamailio, |figure| Some(figure.routers)),
            self.held(tandem, |figure| Some(figure.routers)),
            true,
        );
        row(
            "the same: KiB of a router per established dialog",
            self.held(kamailio, |figure| Some(figure.held.as_ref()?.memory_kib)),
            self.held(tandem, |figure| Some(figure.held.as_ref()?.memory_kib)),
            true,
        );
        let read = [
            (
                "the same: dialogs that differ, all established",
                (|held| held.differ_established) as fn(&Held) -> u32,
            ),
            (
                "the same: dialogs that differ, 5 s after the last BYE",
                |held| held.differ_ended,
            ),
        ];
        for (name, read) in read {
            row(
                name,
                self.differ(kamailio, read),
                self.differ(tandem, read),
                false,
            );
        }
        let read = [
            (
                "router killed: calls failed, of 3000",
                (|figure| f64::from(figure.failed)) as fn(&Figure) -> f64,
            ),
            (
                "router killed: response times over 1 s, of 6000",
                |figure| f64::from(figure.over_1s),
            ),
            ("router killed: slowest response, ms", |figure| {
                figure.slowest_ms
            }),
        ];
        for (name, read) in read {
            row(
                name,
                self.killed(kamailio, read),
                self.killed(tandem, read),
                false,
            );
        }
        table
    }

    /// Returns what is promised and these runs do not show; what was not measured is passed over.
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut cpu = |what: String, read: &dyn Fn(Side) -> Option<f64>| {
            if let (Some(kamailio), Some(tandem)) = (read(Side::Kamailio), read(Side::Tandem))
                && tandem > kamailio * CPU_SHARE_MAX
            {
                let share = tandem / kamailio;
                missed.push(format!("{what} {share:.2} of Kamailio's processor time"));
            }
        };
        for rate in RATES {
            cpu(format!("the SBC at {rate}/s takes"), &|side| {
                self.steady(side, rate, |figure| figure.sbc)
            });
            cpu(format!("the routers at {rate}/s take"), &|side| {
                self.steady(side, rate, |figure| figure.routers)
            });
        }
        cpu(
            "the routers of 6000 calls at 500/s take".to_owned(),
            &|side| self.held(side, |figure| Some(figure.routers)),
        );
        let none = [
            (
                "dialogs differ 5 s after the last BYE",
                self.differ(Side::Tandem, |held| held.differ_ended),
            ),
            (
                "calls failed",
                self.worst(Side::Tandem, |_| true, |figure| f64::from(figure.failed)),
            ),
            (
                "requests waited over 1 s",
                self.worst(Side::Tandem, |_| true, |figure| f64::from(figure.over_1s)),
            ),
        ];
        let seen = none.into_iter().filter_map(|(what, count)| {
            let count = count.filter(|count| *count > 0.0)?;
            Some(format!("{count:.0} {what}"))
        });
        missed.extend(seen);
        missed
    }

    /// Returns the figures as one JSON object; what was not measured is null.
    pub(super) fn json(&self) -> Value {
        let sides = |read: &dyn Fn(Side) -> Option<f64>| json!({"kamailio": read(Side::Kamailio), "tandem": read(Side::Tandem)});
        let per_rate = |read: &dyn Fn(u32) -> Value| {
            Value::Object(
                RATES
                    .iter()
                    .map(|&rate| (rate.to_string(), read(rate)))
                    .collect::<Map<_, _>>(),
            )
        };
        json!({
            "sbc_cpu_us_per_call": per_rate(&|rate| sides(&|side| self.steady(side, rate, |figure| figure.sbc))),
            "router_cpu_us_per_call": per_rate(&|rate| sides(&|side| self.steady(side, rate, |figure| figure.routers))),
            "router_cpu_us_per_call_without_dmq":
                per_rate(&|rate| json!({"kamailio": self.steady(Side::KamailioWithoutDmq, rate, |figure| figure.routers)})),
            "held_router_cpu_us_per_call": sides(&|side| self.held(side, |figure| Some(figure.routers))),
            "held_router_kib_per_dialog": sides(&|side| self.held(side, |figure| Some(figure.held.as_ref()?.memory_kib))),
            "replicas_differ_established": sides(&|side| self.differ(side, |held| held.differ_established)),
            "replicas_differ": sides(&|side| self.differ(side, |held| held.differ_ended)),
            "kill_failed": sides(&|side| self.killed(side, |figure| f64::from(figure.failed))),
            "kill_over_1s": sides(&|side| self.killed(side, |figure| f64::from(figure.over_1s))),
            "kill_slowest_ms": sides(&|side| self.killed(side, |figure| figure.slowest_ms)),
        })
    }
}

/// Appends a table to `bench/RESULTS.md`, with the day and the machine.
pub(super) fn write_down(table: &str, rounds: u32, seconds: u32, load_average: f64) -> Result<()> {
    let path = shell::root().join("bench/RESULTS.md");
    let head =
        "# Results\n\nMade by `cargo xtask bench peer`, one section per run; README.md says how.\n";
    let mut text = fs::read_to_string(&path).unwrap_or_else(|_| head.to_owned());
    let day = shell::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let kamailio = shell::output(Command::new("kamailio").arg("-v"))?;
    let kamailio = kamailio.split_whitespace().nth(2).unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    write!(
        text,
        "\n## {}\n\n{}, {} cores, Linux {}, Kamailio {kamailio}. Steady runs of {seconds} s.\nTimes and memory: \
         median of {rounds}; all else: worst of {rounds}. Load average before: {load_average}.\n\n{table}",
        day.trim(),
        cpu_model()?,
        std::thread::available_parallelism()?,
        kernel.trim(),
    )?;
    fs::write(path, text)?;
    Ok(())
}

impl Held {
    fn of(load: Load, run: &Run) -> Option<Self> {
        let replicas = run.replicas.as_ref()?;
        Some(Self {
            differ_established: replicas.established.differ,
            differ_ended: replicas.ended.differ,
            memory_kib: run.memory_kib(load.calls())?,
        })
    }
}

fn cpu_model() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model
        .map_or("unknown processor", |(_, model)| model.trim())
        .to_owned())
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        n if n % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(side: Side, load: Load, sbc: f64, failed: u32) -> Figure {
        Figure {
            side,
            load,
            sbc,
            routers: 2.0 * sbc,
            failed,
            over_1s: failed,
            slowest_ms: f64::from(failed),
            held: (load == Load::Held).then(|| Held {
                differ_established: failed,
                differ_ended: 0,
                memory_kib: sbc / 10.0,
            }),
        }
    }

    #[test]
    fn what_is_promised_and_not_shown_is_named() {
        let of = |sbc, failed, differ_ended| {
            let mut ours = figure(Side::Tandem, Load::Held, sbc, failed);
            ours.held.as_mut().unwrap().differ_ended = differ_ended;
            Results(vec![figure(Side::Kamailio, Load::Held, 300.0, 9), ours]).missed()
        };
        assert_eq!(of(150.0, 0, 0), Vec::<String>::new());
        assert_eq!(
            of(153.0, 2, 3),
            [
                "the routers of 6000 calls at 500/s take 0.51 of Kamailio's processor time",
                "3 dialogs differ 5 s after the last BYE",
                "2 calls failed",
                "2 requests waited over 1 s",
            ]
        );
        let alone = figure(Side::Tandem, Load::Held, 153.0, 0);
        assert!(Results(vec![alone]).missed().is_empty(), "beside nothing");
    }

    #[test]
    fn steady_figures_are_medians_and_the_worst_kill_run_counts() {
        let steady = Load::Steady {
            rate: 400,
            calls: 4800,
        };
        let results = Results(vec![
            figure(Side::Kamailio, steady, 600.0, 1),
            figure(Side::Kamailio, steady, 900.0, 0),
            figure(Side::Kamailio, steady, 610.0, 0),
            figure(Side::Tandem, steady, 60.0, 0),
            figure(Side::Tandem, steady, 62.0, 0),
            figure(Side::KamailioWithoutDmq, steady, 200.0, 0),
            figure(Side::Kamailio, Load::Held, 300.0, 2),
            figure(Side::Kamailio, Load::Held, 320.0, 5),
            figure(Side::Tandem, Load::Held, 62.0, 0),
            figure(Side::Kamailio, Load::Kill, 0.0, 2),
            figure(Side::Kamailio, Load::Kill, 0.0, 7),
        ]);
        let json = results.json();
        assert_eq!(
            json["sbc_cpu_us_per_call"]["400"],
            json!({"kamailio": 610.0, "tandem": 61.0})
        );
        assert_eq!(
            json["router_cpu_us_per_call_without_dmq"]["400"],
            json!({"kamailio": 400.0})
        );
        assert_eq!(
            json["kill_failed"],
            json!({"kamailio": 7.0, "tandem": null})
        );
        assert_eq!(
            json["replicas_differ_established"],
            json!({"kamailio": 5.0, "tandem": 0.0})
        );
        let table = results.table();
        for row in [
            "| SBC, us of CPU per call, 400 calls/s | 610 | 61 | 10.0 |",
            "| the same: KiB of a router per established dialog | 31 | 6.2 | 5.0 |",
            "| the same: dialogs that differ, all established | 5 | 0 | - |",
        ] {
            assert!(table.contains(row), "{row} is not in\n{table}");
        }
    }
}
