//! The body of a notification: one line per node, its address and its status.
//!
//! Written so that no stock node can stumble over it: up to Kamailio 5.6.5 a line that cannot be used
//! locks the node list for ever, and a list that outgrows its buffer silences every version. Read as
//! it comes: a line that cannot be used is named and passed over.

use std::net::SocketAddr;

use sip_types::{Scheme, Uri};

use crate::address::{canonical, node_of};

/// Lines that are written; a stock node of 29 addresses is the last that still answers.
pub const LINES_MAX: usize = 28;
/// Lines that are read; what follows is not looked at.
pub const LINES_READ_MAX: usize = 256;
/// What a stock node has for a list, and what must be free of it besides the line to be written.
const BUFFER_BYTES: usize = 1024 - 2;
const BUFFER_SPARE_BYTES: usize = 32;

/// What a line says of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It takes data; also what a line without a status is taken to say.
    Active,
    /// It leaves.
    Disabled,
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whom it is about.
    pub node: SocketAddr,
    /// What it says.
    pub status: Status,
}

/// Why a line cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing in it.
    Blank,
    /// No URI, or not a `sip:` one.
    Uri,
    /// The host is a name: nobody is asked what it means.
    Name,
    /// Another transport than UDP.
    Transport,
    /// A word that no node sends (`pending`, `timeout`, `not_active`) or nobody knows.
    Status,
}

/// Reads a list line by line, at most [`LINES_READ_MAX`] of them.
///
/// Lines end with LF, with or without CR; the last one may end with the body.
pub fn decode(body: &[u8]) -> impl Iterator<Item = Result<Line, Fault>> {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    let is_empty = body.is_empty() || body == b"\r";
    body.split(|byte| *byte == b'\n')
        .take(if is_empty { 0 } else { LINES_READ_MAX })
        .map(|line| read(line.strip_suffix(b"\r").unwrap_or(line)))
}

fn read(line: &[u8]) -> Result<Line, Fault> {
    if line.trim_ascii().is_empty() {
        return Err(Fault::Blank);
    }
    let uri = Uri::parse(line).map_err(|_| Fault::Uri)?;
    if uri.scheme != Scheme::Sip {
        return Err(Fault::Uri);
    }
    let status = match uri.params.get("status") {
        None | Some(Some(b"active")) => Status::Active,
        Some(Some(b"disabled")) => Status::Disabled,
        Some(Some(_) | None) => return Err(Fault::Status),
    };
    let node = node_of(&uri)?;
    Ok(Line { node, status })
}

/// Appends the list of a node: its own line, then one for each active node; returns how many nodes
/// found no room.
///
/// Any stock node that keeps the very same list can still write it into its own buffer.
pub fn encode(
    own: SocketAddr,
    status: Status,
    active: impl Iterator<Item = SocketAddr>,
    out: &mut Vec<u8>,
) -> usize {
    let start = out.len();
    let own = canonical(own);
    let others = active
        .map(canonical)
        .filter(|node| *node != own)
        .map(|node| (node, Status::Active));
    let mut left_off = 0;
    for (written, (node, status)) in std::iter::once((own, status)).chain(others).enumerate() {
        let word = match status {
            Status::Active => "active",
            Status::Disabled => "disabled",
        };
        let line = format!("sip:{node};status={word}");
        let needed = out.len() - start + line.len() + BUFFER_SPARE_BYTES;
        if written - left_off >= LINES_MAX || needed > BUFFER_BYTES {
            left_off += 1;
            continue;
        }
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    left_off
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn lines_are_read_whatever_stands_between_them() {
        let body = b"sip:10.0.0.1:5060;status=active\r\n\r\nsip:10.0.0.2;x=y;status=disabled\n\
            sip:10.0.0.3:5070\nsip:n4.example:5060;status=active\nsip:10.0.0.5:5060;status=not_active\n\
            sip:10.0.0.6:5060;transport=tcp;status=active\nrubbish\n\xff\xfe\n\
            sip:10.0.0.7:5060;transport=UDP;status\nsip:[2001:db8::8]:5060;status=activ";
        let active = |text| {
            Ok(Line {
                node: node(text),
                status: Status::Active,
            })
        };
        let disabled = |text| {
            Ok(Line {
                node: node(text),
                status: Status::Disabled,
            })
        };
        assert_eq!(
            decode(body).collect::<Vec<_>>(),
            [
                active("10.0.0.1:5060"),
                Err(Fault::Blank),
                disabled("10.0.0.2:5060"),
                active("10.0.0.3:5070"),
                Err(Fault::Name),
                Err(Fault::Status),
                Err(Fault::Transport),
                Err(Fault::Uri),
                Err(Fault::Uri),
                Err(Fault::Status),
                Err(Fault::Status),
            ]
        );
        for nothing in [&b""[..], b"\r\n", b"\n"] {
            assert_eq!(decode(nothing).count(), 0, "{nothing:?}");
        }
    }

    #[test]
    fn the_own_line_comes_first_and_says_so_when_it_leaves() {
        let mut out = Vec::new();
        let others = ["10.0.0.2:5060", "10.0.0.1:5060", "[2001:db8::1]:5090"].map(node);
        assert_eq!(
            encode(
                node("10.0.0.1:5060"),
                Status::Disabled,
                others.into_iter(),
                &mut out
            ),
            0
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "sip:10.0.0.1:5060;status=disabled\r\nsip:10.0.0.2:5060;status=active\r\n\
             sip:[2001:db8::1]:5090;status=active\r\n"
        );
    }

    #[test]
    fn a_list_never_outgrows_a_stock_node() {
        let others = (0..60).map(|i| node(&format!("10.100.200.{}:50600", 100 + i)));
        let mut out = b"before".to_vec();
        let left_off = encode(node("10.0.0.1:5060"), Status::Active, others, &mut out);
        let lines = decode(&out[6..]).count();
        assert_eq!(lines + left_off, 61);
        assert!(lines <= LINES_MAX && out.len() - 6 < 1000, "{lines}");
    }
}
