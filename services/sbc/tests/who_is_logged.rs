//! Decisions are logged at DEBUG; above it no log line says who calls whom.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Bench;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use workbench::answer;

/// Keeps every event as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut line = String::new();
        attributes.record(&mut Line(&mut line));
        let level = *attributes.metadata().level();
        self.0.lock().unwrap().push((level, line));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut Line(&mut line));
        let level = *event.metadata().level();
        self.0.lock().unwrap().push((level, line));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A call that is dispatched, delivered and answered, one that fails, and a stranger's.
fn calls() {
    let mut bench = Bench::new();
    let second = bench.second_pass("sip:127.0.0.77:5060");
    let (router, ipbx) = (bench.router, "127.0.0.77:5060".parse().unwrap());
    let sent = bench.sbc.receive(router, &second);
    let (_, invite) = sent.into_iter().find(|(to, _)| *to == ipbx).unwrap();
    bench.sbc.receive(ipbx, &answer(&invite, "200 OK"));
    let other = bench.carrier_request("INVITE");
    let other = other.replace("Call-ID: x", "Call-ID: private-2");
    let other = other.replace("z9hG4bKc", "z9hG4bKd");
    bench.sbc.receive(bench.carrier(), &other);
    bench.sbc.receive("192.0.2.1:5060".parse().unwrap(), &other);
    bench.sbc.pass(Duration::from_secs(60));
}

#[test]
fn who_calls_whom_is_said_at_debug_and_below_only() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), calls);
    let lines = log.0.lock().unwrap();
    let private = [
        "private-2",
        "call_id",
        "a@a",
        "b@b",
        "127.0.0.77",
        "192.0.2.1",
    ];
    let tells = |line: &str| private.iter().any(|word| line.contains(word));
    for (level, line) in lines.iter().filter(|(_, line)| tells(line)) {
        assert!(*level >= Level::DEBUG, "{level}: {line}");
    }
    let said = |words: &[&str]| {
        let all = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(
            lines.iter().any(|(_, line)| all(line)),
            "{words:?} of {lines:#?}"
        );
    };
    said(&[
        "message=dispatched",
        "call_id=x",
        "method=INVITE",
        "destination=127.0.0.31:5060",
    ]);
    said(&[
        "message=delivered",
        "call_id=x",
        "destination=127.0.0.77:5060",
    ]);
    said(&[
        "message=dropped",
        "call_id=private-2",
        "remote_addr=192.0.2.1:5060",
        "not_allowed",
    ]);
    said(&[
        "message=answered without the callee",
        "call_id=private-2",
        "status=",
    ]);
}
