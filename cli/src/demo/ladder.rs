//! The watched call as a ladder: carrier, SBC, both routers, IPBX, what the routers told each other,
//! and the death drawn in.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::bus::{BusTraffic, Told};
use super::network::Block;
use super::system::Routers;
use super::tap::{Seen, Traffic};
use super::{Death, Fault};

/// Width between two lifelines.
const COLUMN: usize = 16;
/// Width before the first one: the time.
const MARGIN: usize = 12;

/// Columns of the SBC and of router 0.
const SBC: usize = 1;
const ROUTERS: usize = 2;

/// What a row shows.
enum Row<'a> {
    Passed(&'a Seen),
    Told(&'a Told),
    Struck(usize),
}

/// Draws a call as the SBC and the routers saw it.
pub(crate) fn draw(
    block: &Block,
    routers: Routers,
    traffic: &Traffic,
    bus: &BusTraffic,
    call_id: &str,
    death: Option<&Death>,
) -> String {
    let names = ["carrier", "SBC", routers.name(0), routers.name(1), "IPBX"];
    let mut out = format!(
        "call {call_id}, as the SBC and the routers saw it\n\n{:MARGIN$}",
        ""
    );
    for name in names {
        let _ = write!(out, "{name:COLUMN$}");
    }
    out.push('\n');
    let rows = rows(traffic, bus, call_id, death);
    let start = rows.first().map_or(0, |(at, _)| *at);
    let (mut dead, mut is_any_unanswered) = (None, false);
    for (at, shown) in rows {
        let drawing = match shown {
            Row::Struck(router) => {
                dead = Some(ROUTERS + router);
                bar(routers.name(router))
            }
            Row::Told(told) => {
                is_any_unanswered |= !told.answered;
                lane(told, dead)
            }
            Row::Passed(seen) => match column(block, seen.remote) {
                Some(there) if seen.came => arrow(&label(seen), there, SBC, dead),
                Some(there) => arrow(&label(seen), SBC, there, dead),
                None => continue,
            },
        };
        let _ = writeln!(out, "{}", row(at, start, &drawing));
    }
    if is_any_unanswered {
        let _ = writeln!(out, "\nKDMQ that ends in x was not answered");
    }
    out
}

/// Returns everything about a call in its order.
fn rows<'a>(
    traffic: &'a Traffic,
    bus: &'a BusTraffic,
    call_id: &str,
    death: Option<&Death>,
) -> Vec<(u64, Row<'a>)> {
    let passed = traffic.call(call_id).iter();
    let passed = passed.map(|seen| (seen.at, Row::Passed(seen)));
    let told = bus.of_call(call_id).into_iter();
    let told = told.map(|told| (told.at, Row::Told(told)));
    let struck = death.map(|death| (death.at, Row::Struck(death.router)));
    let mut rows: Vec<_> = passed.chain(told).chain(struck).collect();
    rows.sort_by_key(|(at, _)| *at);
    rows
}

fn column(block: &Block, address: SocketAddr) -> Option<usize> {
    let columns = [
        block.carrier(),
        block.sbc(),
        block.router(0),
        block.router(1),
        block.ipbx(),
    ];
    columns.iter().position(|own| *own == address)
}

fn row(at: u64, start: u64, drawing: &str) -> String {
    let milliseconds = (at as f64 - start as f64) / 1e6;
    format!("{milliseconds:9.1}   {drawing}")
}

fn label(seen: &Seen) -> String {
    match &seen.status {
        Some((status, reason)) if seen.method == "INVITE" => format!("{status} {reason}"),
        Some((status, _)) => format!("{status} {}", seen.method),
        None => seen.method.clone(),
    }
}

/// The lifelines; that of a dead router is dotted.
fn lifelines(dead: Option<usize>) -> Vec<char> {
    let mut line = vec![' '; COLUMN * 4 + 1];
    for column in 0..5 {
        line[column * COLUMN] = if Some(column) == dead { ':' } else { '|' };
    }
    line
}

fn arrow(label: &str, from: usize, to: usize, dead: Option<usize>) -> String {
    let mut line = lifelines(dead);
    let (left, right) = (from.min(to) * COLUMN + 1, from.max(to) * COLUMN);
    line[left..right].fill('-');
    if to > from {
        line[right - 1] = '>';
    } else {
        line[left] = '<';
    }
    let text: Vec<char> = label.chars().take(COLUMN - 4).collect();
    // The label stands next to the sender.
    let at = if to > from {
        left + 1
    } else {
        right - 1 - text.len()
    };
    line[at..at + text.len()].copy_from_slice(&text);
    line.into_iter().collect()
}

/// Draws what one router told the other.
fn lane(told: &Told, dead: Option<usize>) -> String {
    let (from, to) = (ROUTERS + told.from, ROUTERS + 1 - told.from);
    let drawing = arrow(&format!("KDMQ {}", told.what), from, to, dead);
    match (told.answered, to > from) {
        (true, _) => drawing,
        (false, true) => drawing.replace('>', "x"),
        (false, false) => drawing.replace('<', "x"),
    }
}

fn bar(name: &str) -> String {
    let text = format!(" {name} is struck ");
    format!("{text:=^width$}", width = COLUMN * 4 + 1)
}

/// What is said of a fault.
pub(crate) fn verb(fault: Fault) -> &'static str {
    match fault {
        Fault::Kill => "killed",
        Fault::Freeze => "frozen for 2 s",
        Fault::None => "left alone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_points_at_who_gets_the_message() {
        assert_eq!(
            arrow("INVITE", 0, 1, None),
            format!("|-INVITE-------->|{0}|{0}|{0}|", " ".repeat(15))
                .replace("-------->", "------->")
        );
        let back = arrow("180 Ringing", 4, 1, Some(2));
        assert!(
            back.starts_with("|               |<") && back.ends_with("180 Ringing-|"),
            "{back}"
        );
        assert_eq!(back.chars().count(), COLUMN * 4 + 1);
    }
}
