//! `tandem status`.

use std::collections::BTreeMap;

use clap::Args;
use control::node::v1::DrainSource;
use control::registry::v1::status_service_client::StatusServiceClient;
use control::registry::v1::{
    ConfigStatus, Fault, GetConfigStatusRequest, ListFaultsRequest, ListNodeStatusesRequest,
    NodeStatus, Refusal,
};
use prost::{Message, Name};

use super::{Format, Output};
use crate::exit::Exit;
use crate::lines;
use crate::registry::{CallError, Registry, Target};
use crate::resource::{Item, Kind, cell};

pub(super) const EXAMPLES: &str = "\
It is not well when a node refuses what it was sent, when a member that was alive is gone, or when somebody
wrote a value into the store by hand that does not count.

Examples:
  tandem status                        where registry and nodes stand
  tandem status -o json | jq .nodes    for programs
  tandem status > /dev/null && echo all is well";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

/// What the registry says of itself and of the nodes.
struct Report {
    config: ConfigStatus,
    nodes: Vec<NodeStatus>,
    members: Vec<Item>,
    faults: Vec<Fault>,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let mut registry = Registry::open(&options.target).await?;
    let report = Report {
        config: config_status(&mut registry).await?,
        nodes: node_statuses(&mut registry).await?,
        members: registry
            .list(Kind::called("members").expect("a kind"))
            .await?,
        faults: faults(&mut registry).await?,
    };
    match options.format.output {
        Output::Json => lines::say(report.json())?,
        Output::Yaml => lines::say(serde_yaml_ng::to_string(&report.json())?.trim_end())?,
        output @ (Output::Table | Output::Wide) => report.print(registry.address(), output)?,
    }
    Ok(Exit::good_if(report.is_well()))
}

pub(super) async fn config_status(registry: &mut Registry) -> Result<ConfigStatus, CallError> {
    registry
        .call(async |channel| {
            let mut client = StatusServiceClient::new(channel);
            client.get_config_status(GetConfigStatusRequest {}).await
        })
        .await
}

pub(super) async fn node_statuses(registry: &mut Registry) -> Result<Vec<NodeStatus>, CallError> {
    let (mut request, mut statuses) = (ListNodeStatusesRequest::default(), Vec::new());
    loop {
        let page = registry
            .call(async |channel| {
                let mut client = StatusServiceClient::new(channel);
                client.list_node_statuses(request.clone()).await
            })
            .await?;
        statuses.extend(page.node_statuses);
        if page.next_page_token.is_empty() {
            return Ok(statuses);
        }
        request.page_token = page.next_page_token;
    }
}

pub(super) async fn faults(registry: &mut Registry) -> Result<Vec<Fault>, CallError> {
    let (mut request, mut faults) = (ListFaultsRequest::default(), Vec::new());
    loop {
        let page = registry
            .call(async |channel| {
                let mut client = StatusServiceClient::new(channel);
                client.list_faults(request.clone()).await
            })
            .await?;
        faults.extend(page.faults);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(faults);
        }
    }
}

/// Says where a node stands, in a few words.
pub(super) fn standing(node: &NodeStatus, registry: &ConfigStatus) -> String {
    if let Some(refused) = &node.refused {
        return format!("refuses generation {}", refused.generation);
    }
    match &node.in_force {
        None => "has said nothing yet".to_owned(),
        Some(_) if !node.connected => "not connected".to_owned(),
        Some(position) if Some(position) == registry.position.as_ref() => "in force".to_owned(),
        Some(_) => "behind".to_owned(),
    }
}

/// Says what else there is to know of a node.
fn remarks(node: &NodeStatus) -> Vec<String> {
    let mut remarks = Vec::new();
    let asking: Vec<_> = node.drained_by().map(asker).collect();
    if !asking.is_empty() {
        remarks.push(format!(
            "takes no new calls, as wanted by {}",
            asking.join(", ")
        ));
    }
    if !node.kept.is_empty() {
        let kept = node.kept.join(", ");
        remarks.push(format!(
            "keeps while it answers what vanished from the registry undeleted: {kept}"
        ));
    }
    if !node.not_known.is_empty() {
        let not_known = node.not_known.join(", ");
        remarks.push(format!("is too old to know, and leaves out: {not_known}"));
    }
    remarks
}

fn asker(source: DrainSource) -> &'static str {
    match source {
        DrainSource::Registry => "the registry",
        DrainSource::Node => "a call at the node",
        DrainSource::Signal => "a signal",
        DrainSource::Unspecified => "somebody",
    }
}

/// Says what a node refused, and why.
pub(super) fn refusal(refusal: &Refusal) -> String {
    let Refusal {
        resource,
        field,
        reason,
    } = refusal;
    match field.as_str() {
        "" => format!("{resource}: {reason}"),
        field => format!("{resource}: {field}: {reason}"),
    }
}

impl Report {
    fn gone(&self) -> impl Iterator<Item = &Item> {
        self.members
            .iter()
            .filter(|member| shown(member, "liveness") == "gone")
    }

    fn is_well(&self) -> bool {
        self.faults.is_empty()
            && self.gone().next().is_none()
            && self.nodes.iter().all(|node| node.refused.is_none())
    }

    fn json(&self) -> serde_json::Value {
        let nodes = self.nodes.iter().map(value);
        serde_json::json!({
            "config": value(&self.config),
            "nodes": nodes.collect::<Vec<_>>(),
            "faults": self.faults.iter().map(value).collect::<Vec<_>>(),
            "well": self.is_well(),
        })
    }

    fn print(&self, address: &str, output: Output) -> anyhow::Result<()> {
        let Self { config, .. } = self;
        let generation = config.position.unwrap_or_default().generation;
        lines::say(format_args!(
            "cluster {}, generation {generation}, in force on {} of {} connected nodes (registry {address})\n",
            config.cluster, config.nodes_in_force, config.nodes_connected,
        ))?;
        self.table(output)?;
        for node in &self.nodes {
            if let Some(refused) = &node.refused {
                let (name, generation) = (&node.node, refused.generation);
                lines::say(format_args!("\n{name} refuses generation {generation}:"))?;
                for one in &node.refusals {
                    lines::say(format_args!("  {}", refusal(one)))?;
                }
            }
            if !node.restart_needed.is_empty() {
                let (name, settings) = (&node.node, node.restart_needed.join(", "));
                lines::say(format_args!("\n{name} must be restarted for: {settings}"))?;
            }
            for remark in remarks(node) {
                lines::say(format_args!("\n{} {remark}", node.node))?;
            }
        }
        if !self.faults.is_empty() {
            lines::say("\nwritten by hand, and not counting; what was accepted before does:")?;
            for one in self.faults.iter().flat_map(|fault| &fault.refusals) {
                lines::say(format_args!("  {}", refusal(one)))?;
            }
        }
        for member in self.gone() {
            lines::say(format_args!(
                "\n{0} was alive and is gone: start it, or if it is not to come back, tandem delete {0}",
                member.name()
            ))?;
        }
        Ok(())
    }

    /// One row a member; those that say something without being one have a row, too.
    fn table(&self, output: Output) -> anyhow::Result<()> {
        let statuses: BTreeMap<_, _> = self.nodes.iter().map(|n| (n.node.as_str(), n)).collect();
        let mut rows = Vec::new();
        for member in &self.members {
            let name = member.name();
            let mut row = vec![name.to_owned()];
            row.extend(["kind", "liveness", "desired_state"].map(|field| shown(member, field)));
            row.extend(self.said(statuses.get(name).copied(), output));
            rows.push(row);
        }
        for (name, status) in &statuses {
            if !self.members.iter().any(|member| member.name() == *name) {
                let mut row: Vec<_> = [*name, "-", "no member", "-"].map(str::to_owned).into();
                row.extend(self.said(Some(status), output));
                rows.push(row);
            }
        }
        let heads = [
            "NODE",
            "KIND",
            "LIVENESS",
            "WANTED",
            "CONFIG",
            "GENERATION",
            "HEARD",
        ];
        let wide = (output == Output::Wide).then_some("CHECKSUM");
        Ok(lines::print(heads.into_iter().chain(wide), &rows)?)
    }

    fn said(&self, status: Option<&NodeStatus>, output: Output) -> Vec<String> {
        let unknown = || "-".to_owned();
        let in_force = status.and_then(|status| status.in_force);
        let mut row = vec![
            status.map_or_else(unknown, |status| standing(status, &self.config)),
            in_force.map_or_else(unknown, |position| position.generation.to_string()),
            status.map_or_else(unknown, |status| {
                match lines::ago(status.heard_time).as_str() {
                    "-" => "-".to_owned(),
                    ago => format!("{ago} ago"),
                }
            }),
        ];
        if output == Output::Wide {
            row.push(in_force.map_or_else(unknown, |at| format!("{:016x}", at.checksum)));
        }
        row
    }
}

/// Returns a field of a resource as the tables show it.
pub(super) fn shown(item: &Item, field: &str) -> String {
    let field = item.kind.message.get_field_by_name(field);
    field.map_or_else(|| "-".to_owned(), |field| cell(&item.message, &field))
}

fn value<M: Message + Name>(message: &M) -> serde_json::Value {
    serde_json::from_str(&control::json::encode(message)).expect("it was made as JSON")
}

#[cfg(test)]
mod tests {
    use control::registry::v1::Position;

    use super::*;

    #[test]
    fn a_node_stands_where_it_says() {
        let at = |generation| {
            Some(Position {
                generation,
                checksum: generation,
            })
        };
        let registry = ConfigStatus {
            position: at(7),
            ..ConfigStatus::default()
        };
        let node = |connected, in_force, refused| NodeStatus {
            connected,
            in_force,
            refused,
            ..NodeStatus::default()
        };
        for (node, expected) in [
            (node(true, at(7), None), "in force"),
            (node(true, at(6), None), "behind"),
            (node(false, at(7), None), "not connected"),
            (node(true, None, None), "has said nothing yet"),
            (node(true, at(6), at(7)), "refuses generation 7"),
        ] {
            assert_eq!(standing(&node, &registry), expected);
        }
    }

    #[test]
    fn who_drains_a_node_and_what_it_keeps_is_said() {
        let node = NodeStatus {
            drained_by: vec![DrainSource::Registry.into(), DrainSource::Signal.into()],
            kept: vec!["members/a".into(), "sets/2".into()],
            not_known: vec!["new-kind/x".into()],
            ..NodeStatus::default()
        };
        assert_eq!(
            remarks(&node),
            [
                "takes no new calls, as wanted by the registry, a signal",
                "keeps while it answers what vanished from the registry undeleted: members/a, sets/2",
                "is too old to know, and leaves out: new-kind/x",
            ]
        );
        assert_eq!(remarks(&NodeStatus::default()), [""; 0]);
    }
}
