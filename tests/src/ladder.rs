//! Draws a call as text: one column per host, one line per datagram.

use std::fmt::Write as _;
use std::time::Duration;

use sim::{Fate, HostId, Record};

use crate::Fabric;

const COLUMN: usize = 14;

/// Draws every datagram of the trace but OPTIONS and the bus of the routers, times relative to `start`.
///
/// A time is written in milliseconds, rounded to full ones.
#[must_use]
pub fn draw(fabric: &Fabric, start: Duration) -> String {
    draw_call(fabric, start, "")
}

/// Draws the calls whose Call-IDs begin with `call`.
#[must_use]
pub fn draw_call(fabric: &Fabric, start: Duration, call: &str) -> String {
    let mut hosts = vec![];
    hosts.extend(fabric.carriers.iter().map(|(host, _)| *host));
    hosts.push(fabric.sbc);
    hosts.extend(fabric.routers.iter().map(|router| router.host));
    hosts.extend(fabric.ipbxs.iter().map(|(host, _)| *host));
    let mut out = String::from("     ms");
    for host in &hosts {
        let _ = write!(out, "{:^COLUMN$}", fabric.world.name(*host));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    let mut notes = fabric
        .notes
        .iter()
        .filter(|(at, _)| *at >= start)
        .peekable();
    for record in fabric.world.trace().records() {
        while let Some((at, note)) = notes.next_if(|(at, _)| *at <= record.sent) {
            let _ = writeln!(out, "{:>7.0}   * {note}", milliseconds(*at - start));
        }
        let is_asked = record.call_id().starts_with(call) && !record.is_of_bus();
        if record.sent >= start && is_asked {
            line(&mut out, &hosts, record, start);
        }
    }
    out
}

fn line(out: &mut String, hosts: &[HostId], record: &Record, start: Duration) {
    let _ = write!(out, "{:>7.0}", milliseconds(record.sent - start));
    let column = |host| hosts.iter().position(|one| *one == host);
    let (Some(from), Some(to)) = (column(record.from), record.to.and_then(column)) else {
        let _ = writeln!(out, "  {} to nobody", record.label());
        return;
    };
    let (left, right) = (from.min(to), from.max(to));
    let middle = COLUMN / 2;
    for _ in 0..left {
        let _ = write!(out, "{:^COLUMN$}", "|");
    }
    let width = (right - left) * COLUMN - 1;
    let label = format!(" {} ", record.label());
    let inner = width - 1;
    let arrow = match (from < to, record.fate) {
        (true, Fate::Arrived | Fate::Travelling) => format!("{label:-^inner$}>"),
        (false, Fate::Arrived | Fate::Travelling) => format!("<{label:-^inner$}"),
        (true, _) => format!("{label:-^inner$}x"),
        (false, _) => format!("x{label:-^inner$}"),
    };
    let _ = write!(out, "{:>middle$}{arrow}|", "|");
    let _ = write!(out, "{}", " ".repeat(COLUMN - middle - 1));
    for _ in right + 1..hosts.len() {
        let _ = write!(out, "{:^COLUMN$}", "|");
    }
    match record.fate {
        Fate::Arrived | Fate::Travelling => {}
        Fate::Lost => out.push_str(" lost"),
        Fate::BlackHoled => out.push_str(" black hole"),
        Fate::HostDown => out.push_str(" dead"),
        Fate::Overflowed | Fate::NoHost => out.push_str(" dropped"),
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
