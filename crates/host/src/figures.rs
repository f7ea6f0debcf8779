//! The figures of a process, as a role reads them when somebody asks.

use core::time::Duration;

use sip::{Drop, Drops, ProxyCounters};

/// What a figure says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// It only grows.
    Counter(u64),
    Gauge(u64),
    Seconds(f64),
}

#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Its name, without `_total`.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// One label, name and value.
    pub(crate) label: Option<(&'static str, String)>,
    pub(crate) value: Value,
}

/// The figures of one reading, in order. Those of one name, apart by their label, follow each other.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Adds what only grows; `name` is without `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, None, Value::Counter(value));
    }

    /// Adds what only grows, for each of several things; `label` is the name and value of what tells
    /// them apart.
    pub fn counter_of(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: (&'static str, String),
        value: u64,
    ) {
        self.add(name, help, Some(label), Value::Counter(value));
    }

    /// Adds what rises and falls.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, None, Value::Gauge(value));
    }

    /// Adds what rises and falls, for each of several things, as [`counter_of`](Self::counter_of) does.
    pub fn gauge_of(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: (&'static str, String),
        value: u64,
    ) {
        self.add(name, help, Some(label), Value::Gauge(value));
    }

    /// Adds a time, if there is one; `name` ends in `_seconds`.
    pub fn seconds(&mut self, name: &'static str, help: &'static str, time: Option<Duration>) {
        if let Some(time) = time {
            self.add(name, help, None, Value::Seconds(time.as_secs_f64()));
        }
    }

    /// Adds what every element counts of SIP.
    pub fn sip(&mut self, proxy: &ProxyCounters, drops: &Drops) {
        self.counter(
            "sip_repeats_sent",
            "Requests sent again by Timers A and E",
            proxy.repeats_sent,
        );
        self.counter(
            "sip_repeats_absorbed",
            "Repeated requests absorbed",
            proxy.repeats_absorbed,
        );
        self.counter(
            "sip_refused_forgotten",
            "Refused INVITEs forgotten before their time",
            proxy.refused_forgotten,
        );
        for reason in Drop::ALL {
            self.counter_of(
                "sip_drops",
                "Messages not forwarded",
                ("reason", reason.name().to_owned()),
                drops.of(reason),
            );
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: Option<(&'static str, String)>,
        value: Value,
    ) {
        self.0.push(Figure {
            name,
            help,
            label,
            value,
        });
    }

    /// Returns them, those of one name together.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = &[Figure]> {
        self.0.chunk_by(|a, b| a.name == b.name)
    }
}
