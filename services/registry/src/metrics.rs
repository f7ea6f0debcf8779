//! The registry's metrics. Everything is read from the state when Prometheus asks.

use std::sync::{Arc, Weak};

use control::registry::v1::Liveness;
use control::registry::v1::resource::Resource as Kind;
use telemetry::prometheus::collector::Collector;
use telemetry::prometheus::encoding::{DescriptorEncoder, EncodeMetric};
use telemetry::prometheus::metrics::gauge::ConstGauge;
use telemetry::prometheus::registry::Registry;

use crate::catalog::Catalog;
use crate::statuses::summary;

pub(crate) fn registry(catalog: &Arc<Catalog>) -> Registry {
    let mut registry = Registry::with_prefix("registry");
    registry.register_collector(Box::new(FromState(Arc::downgrade(catalog))));
    registry
}

#[derive(Debug)]
struct FromState(Weak<Catalog>);

impl Collector for FromState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(catalog) = self.0.upgrade() else {
            return Ok(());
        };
        let state = catalog.state();
        let faults = state.written.faults().count();
        let nodes = catalog.statuses().own();
        let status = summary(catalog.cluster(), state.position, &nodes, faults);
        let is = |liveness: Liveness| {
            let members =
                state
                    .resources
                    .by_name
                    .values()
                    .filter(|resource| match &resource.resource {
                        Some(Kind::Member(member)) => member.liveness() == liveness,
                        Some(
                            Kind::Cell(_)
                            | Kind::DestinationSet(_)
                            | Kind::Destination(_)
                            | Kind::Route(_)
                            | Kind::TableDefinition(_)
                            | Kind::Trunk(_)
                            | Kind::Profile(_),
                        )
                        | None => false,
                    });
            i64::try_from(members.count()).unwrap_or(i64::MAX)
        };
        let generation = i64::try_from(state.generation()).unwrap_or(i64::MAX);
        let resources = i64::try_from(state.resources.by_name.len()).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("generation", "Changes accepted so far", generation),
            ("resources", "Resources stored", resources),
            (
                "members_alive",
                "Members that hold their lease",
                is(Liveness::Alive),
            ),
            (
                "members_gone",
                "Members that lost their lease",
                is(Liveness::Gone),
            ),
            (
                "faults",
                "Values in the store that do not count",
                status.faults.into(),
            ),
            (
                "nodes_connected",
                "Nodes that follow the configuration",
                status.nodes_connected.into(),
            ),
            (
                "nodes_in_force",
                "Nodes that have the latest configuration in force",
                status.nodes_in_force.into(),
            ),
            (
                "nodes_refusing",
                "Nodes that refused what they were sent last",
                status.nodes_refusing.into(),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
