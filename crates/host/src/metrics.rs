//! The figures of a process, read from shards and workers when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use element::Sharded;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use transport::{Counters, SendErrorKind};

use crate::figures::{Figures, Value};
use crate::process::Role;

pub(crate) struct Metrics<R: Role> {
    element: Arc<Sharded<R::Shard, R::Node>>,
    workers: Vec<Arc<Counters>>,
}

impl<R: Role> Metrics<R> {
    pub(crate) fn new(
        element: Arc<Sharded<R::Shard, R::Node>>,
        workers: Vec<Arc<Counters>>,
    ) -> Self {
        Self { element, workers }
    }

    fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        R::measure(&self.element, Instant::now(), &mut figures);
        let mut of_workers = |name, help, read: &dyn Fn(&Counters) -> u64| {
            for (worker, counters) in self.workers.iter().enumerate() {
                let label = ("worker", worker.to_string());
                figures.counter_of(name, help, label, read(counters));
            }
        };
        of_workers(
            "transport_datagrams_in",
            "Datagrams received",
            &Counters::datagrams_in,
        );
        of_workers(
            "transport_datagrams_out",
            "Datagrams sent",
            &Counters::datagrams_out,
        );
        of_workers("transport_batches", "Batches received", &Counters::batches);
        of_workers(
            "transport_kernel_drops",
            "Datagrams the kernel dropped for want of room",
            &Counters::kernel_drops,
        );
        of_workers(
            "transport_unreachable",
            "Reports that a destination cannot be reached",
            &Counters::unreachable,
        );
        of_workers(
            "transport_receive_errors",
            "Failed receive calls",
            &Counters::receive_errors,
        );
        of_workers(
            "transport_send_errors",
            "Datagrams that could not be sent",
            &|counters| {
                SendErrorKind::ALL
                    .iter()
                    .map(|kind| counters.send_errors(*kind))
                    .sum()
            },
        );
        figures
    }
}

impl<R: Role> fmt::Debug for Metrics<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl<R: Role> Collector for Metrics<R> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for same in self.figures().by_name() {
            let (name, help) = (same[0].name, same[0].help);
            let mut metric = encoder.encode_descriptor(name, help, None, kind(same[0].value))?;
            for figure in same {
                let labels: Vec<_> = figure.label.iter().cloned().collect();
                encode(figure.value, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn kind(value: Value) -> MetricType {
    match value {
        Value::Counter(_) => MetricType::Counter,
        Value::Gauge(_) | Value::Seconds(_) => MetricType::Gauge,
    }
}

fn encode(value: Value, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match value {
        Value::Counter(count) => ConstCounter::new(count).encode(encoder),
        // A gauge is signed; no count of ours comes near its limit.
        Value::Gauge(count) => {
            ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(encoder)
        }
        Value::Seconds(seconds) => ConstGauge::new(seconds).encode(encoder),
    }
}
