//! What was sent, when, by whom to whom, and what became of it.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use crate::host::HostId;

/// Datagrams that a trace keeps; those behind are only hashed and counted.
pub const RECORDS_MAX: usize = 500_000;

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// On its way.
    Travelling,
    /// It reached its host, or its host's socket buffer.
    Arrived,
    /// The network lost it.
    Lost,
    /// Sender or receiver was cut off.
    BlackHoled,
    /// Its host was dead.
    HostDown,
    /// The socket buffer of its host was full.
    Overflowed,
    /// There is no such host.
    NoHost,
}

/// One datagram. A duplicate made by the network is a record of its own.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was sent, from the beginning of the world.
    pub sent: Duration,
    /// When it arrived, or would have.
    pub arrived: Option<Duration>,
    /// Who sent it.
    pub from: HostId,
    /// Whom it was sent to; `None` if there is nobody.
    pub to: Option<HostId>,
    /// What became of it.
    pub fate: Fate,
    /// The payload.
    pub bytes: Vec<u8>,
}

impl Record {
    /// Returns what stands before the body, which may be anything.
    fn text(&self) -> &str {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let head = &self.bytes[..end.map_or(self.bytes.len(), |end| end + 2)];
        std::str::from_utf8(head).unwrap_or("(not UTF-8)")
    }

    /// Returns the first line.
    #[must_use]
    pub fn first_line(&self) -> &str {
        self.text().lines().next().unwrap_or_default()
    }

    /// Returns the value of the first header that is written `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.text()
            .lines()
            .skip(1)
            .take_while(|line| !line.is_empty())
            .find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then_some(value.trim())
            })
    }

    /// Returns the status of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.first_line()
            .strip_prefix("SIP/2.0 ")?
            .get(..3)?
            .parse()
            .ok()
    }

    /// Returns the method: of a response, that of its request.
    #[must_use]
    pub fn method(&self) -> &str {
        self.header("CSeq")
            .and_then(|cseq| cseq.split_whitespace().nth(1))
            .unwrap_or_default()
    }

    /// Returns the Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or_default()
    }

    /// Tells whether it is an OPTIONS, or the answer to one.
    #[must_use]
    pub fn is_options(&self) -> bool {
        self.method() == "OPTIONS"
    }

    /// Tells whether it belongs to the bus of the routers, and to no call.
    #[must_use]
    pub fn is_of_bus(&self) -> bool {
        self.method() == "KDMQ"
    }

    /// Says in a few words what it is: `INVITE`, or `180 INVITE`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.status() {
            Some(status) => format!("{status} {}", self.method()),
            None => self.method().to_owned(),
        }
    }
}

/// Every datagram but OPTIONS, in the order of sending, and a hash over all of them.
#[derive(Debug, Default)]
pub struct Trace {
    records: Vec<Record>,
    unkept: u64,
    hasher: DefaultHasher,
}

impl Trace {
    /// Takes a datagram; returns where its record stands, if it is kept.
    pub(crate) fn push(&mut self, record: Record) -> Option<usize> {
        self.hasher.write_u128(record.sent.as_nanos());
        self.hasher.write_u16(record.from.0);
        self.hasher.write(&record.bytes);
        if record.is_options() {
            return None;
        }
        if self.records.len() >= RECORDS_MAX {
            self.unkept += 1;
            return None;
        }
        self.records.push(record);
        Some(self.records.len() - 1)
    }

    pub(crate) fn settle(&mut self, record: Option<usize>, at: Duration, fate: Fate) {
        if let Some(record) = record.and_then(|index| self.records.get_mut(index)) {
            record.fate = fate;
            record.arrived = Some(at);
        }
    }

    /// Returns the datagrams in the order of sending.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns how many found no room.
    #[must_use]
    pub fn unkept(&self) -> u64 {
        self.unkept
    }

    /// Returns the hash over times, senders and payloads of all datagrams, OPTIONS included.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
