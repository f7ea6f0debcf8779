//! The figures of a process, read from shards and workers when somebody asks.

use std::fmt;
use std::sync::Arc;

use element::Sharded;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use transport::{Counters, SendErrorKind};

use crate::process::{Figure, Role};

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

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        R::measure(&self.element, &mut |figure| figures.push(figure));
        let mut of_workers = |name, help, read: &dyn Fn(&Counters) -> u64| {
            for (worker, counters) in self.workers.iter().enumerate() {
                let label = Some(("worker", worker.to_string()));
                figures.push(Figure {
                    name,
                    help,
                    label,
                    value: read(counters),
                    is_counter: true,
                });
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
        let figures = self.figures();
        for same in figures.chunk_by(|a, b| a.name == b.name) {
            let kind = if same[0].is_counter {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let mut metric = encoder.encode_descriptor(same[0].name, same[0].help, None, kind)?;
            for figure in same {
                let labels = figure
                    .label
                    .clone()
                    .map_or_else(Vec::new, |label| vec![label]);
                encode(figure, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(figure: &Figure, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    if figure.is_counter {
        return ConstCounter::new(figure.value).encode(encoder);
    }
    // A gauge is signed; no count of ours comes near its limit.
    ConstGauge::new(i64::try_from(figure.value).unwrap_or(i64::MAX)).encode(encoder)
}
