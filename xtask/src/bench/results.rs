//! What came of the runs: medians, a table with ratios, a line of JSON.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Load, RATES, Run, Side};
use crate::shell;

/// One figure of one run.
struct Figure {
    side: Side,
    load: Load,
    sbc: f64,
    routers: f64,
    failed: u32,
    over_1s: u32,
    slowest_ms: f64,
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
        });
    }

    fn steady(&self, side: Side, rate: u32, read: impl Fn(&Figure) -> f64) -> Option<f64> {
        let of = |load| matches!(load, Load::Steady { rate: r, .. } if r == rate);
        median(
            self.0
                .iter()
                .filter(|figure| figure.side == side && of(figure.load))
                .map(read)
                .collect(),
        )
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
            let shown = |figure: Option<f64>| {
                figure.map_or("-".to_owned(), |figure| format!("{figure:.0}"))
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
                &format!("routers, the same, Kamailio with DMQ, {rate} calls/s"),
                routers(kamailio),
                routers(tandem),
                true,
            );
            row(
                &format!("routers, Kamailio without DMQ, {rate} calls/s"),
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
        "\n## {}\n\n{}, {} cores, Linux {}, Kamailio {kamailio}. Steady runs of {seconds} s: median of {rounds}; \
         kill runs: worst of {rounds}. Load average before: {load_average}.\n\n{table}",
        day.trim(),
        cpu_model()?,
        std::thread::available_parallelism()?,
        kernel.trim(),
    )?;
    fs::write(path, text)?;
    Ok(())
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
        }
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
        assert!(
            results
                .table()
                .contains("| SBC, us of CPU per call, 400 calls/s | 610 | 61 | 10.0 |")
        );
    }
}
