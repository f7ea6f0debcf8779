//! The watched call as a ladder: carrier, SBC, both routers, IPBX, and the death drawn in.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::network::Block;
use super::system::router_name;
use super::tap::{Seen, Traffic};
use super::{Death, Fault};

/// Width between two lifelines.
const COLUMN: usize = 16;
/// Width before the first one: the time.
const MARGIN: usize = 12;

/// Draws a call as the SBC saw it.
pub(crate) fn draw(
    block: &Block,
    traffic: &Traffic,
    call_id: &str,
    death: Option<&Death>,
) -> String {
    let column = |address: SocketAddr| -> Option<usize> {
        [
            block.carrier(),
            block.sbc(),
            block.router(0),
            block.router(1),
            block.ipbx(),
        ]
        .iter()
        .position(|own| *own == address)
    };
    let mut out = format!("call {call_id}, as the SBC saw it\n\n{:MARGIN$}", "");
    for name in ["carrier", "SBC", &router_name(0), &router_name(1), "IPBX"] {
        let _ = write!(out, "{name:COLUMN$}");
    }
    let seen = traffic.call(call_id);
    let start = seen.first().map_or(0, |seen| seen.at);
    let mut dead = None;
    out.push('\n');
    for message in seen {
        if let Some(death) = death.filter(|death| dead.is_none() && death.at < message.at) {
            dead = Some(death.router + 2);
            let _ = writeln!(
                out,
                "{}",
                row(death.at, start, &bar(&router_name(death.router)))
            );
        }
        let (Some(there), Some(here)) = (column(message.remote), column(block.sbc())) else {
            continue;
        };
        let (from, to) = if message.came {
            (there, here)
        } else {
            (here, there)
        };
        let _ = writeln!(
            out,
            "{}",
            row(message.at, start, &arrow(&label(message), from, to, dead))
        );
    }
    out
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
