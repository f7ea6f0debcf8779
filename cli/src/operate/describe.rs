//! `tandem describe`.

use clap::Args;
use control::name::Name;
use control::view::{Resources, View};
use prost_reflect::Value;

use super::kind_and_name;
use super::status::{config_status, faults, node_statuses, refusal, shown, standing};
use crate::exit::Exit;
use crate::lines;
use crate::registry::{Registry, Target};
use crate::resource::{Item, cell};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem describe members router-1      its life, its configuration, the sets it is in
  tandem describe sets/1                who is in it, and which routes lead to it
  tandem describe routes/germany";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// What: routes, or a name such as routes/x
    kind: String,
    /// Which one
    name: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let (kind, name) = kind_and_name(&options.kind, options.name.as_deref())?;
    let Some(name) = name else {
        let reason = anyhow::anyhow!("which of the {}? Give its name, too", kind.collection);
        return Err(Exit::Usage.because(reason));
    };
    let mut registry = Registry::open(&options.target).await?;
    let item = registry.get(kind, &name.to_string()).await?;
    let all = registry.list_all().await?;
    fields(&item)?;
    if let Name::Member(_) = &name {
        life(&mut registry, &item).await?;
    }
    let faults = faults(&mut registry).await?;
    let faults = faults.iter().filter(|fault| fault.resource == item.name());
    let faults: Vec<_> = faults
        .flat_map(|fault| fault.refusals.iter().map(refusal))
        .collect();
    if !faults.is_empty() {
        section("Written by hand since, and not counting", &faults)?;
    }
    let view = view(&all);
    if let (Name::Set(id), Some(view)) = (&name, &view) {
        destinations(view, id)?;
    }
    section("Referred to by", &referrers(&name, &all, view.as_ref()))
}

fn section(title: &str, entries: &[String]) -> anyhow::Result<Exit> {
    match entries {
        [] => lines::say(format_args!("\n{title}: nothing"))?,
        entries => {
            lines::say(format_args!("\n{title}:"))?;
            for entry in entries {
                lines::say(format_args!("  {entry}"))?;
            }
        }
    }
    Ok(Exit::Good)
}

fn fields(item: &Item) -> anyhow::Result<()> {
    lines::say(format_args!("{:<23} {}", "Kind:", item.kind.title()))?;
    for field in item.kind.message.fields() {
        let head = format!("{}:", field.name());
        let values = match item.message.get_field(&field).as_list() {
            // Each on a line of its own.
            Some(values) if values.len() > 1 => values.to_vec(),
            _ => {
                lines::say(format_args!("{head:<23} {}", cell(&item.message, &field)))?;
                continue;
            }
        };
        for (i, value) in values.into_iter().enumerate() {
            let mut one = item.message.clone();
            one.set_field(&field, Value::List(vec![value]));
            let head = if i == 0 { head.as_str() } else { "" };
            lines::say(format_args!("{head:<23} {}", cell(&one, &field)))?;
        }
    }
    Ok(())
}

async fn life(registry: &mut Registry, member: &Item) -> anyhow::Result<()> {
    let config = config_status(registry).await?;
    let nodes = node_statuses(registry).await?;
    let Some(node) = nodes.iter().find(|node| node.node == member.name()) else {
        section(
            "Configuration",
            &["it has said nothing to this registry".to_owned()],
        )?;
        return Ok(());
    };
    let mut said = vec![standing(node, &config)];
    if let Some(position) = node.in_force {
        let of = config.position.unwrap_or_default().generation;
        said.push(format!("generation {} of {of}", position.generation));
    }
    if node.heard_time.is_some() {
        said.push(format!("heard {} ago", lines::ago(node.heard_time)));
    }
    said.extend(node.refusals.iter().map(refusal));
    let restart = node.restart_needed.iter();
    said.extend(restart.map(|setting| format!("must be restarted for {setting}")));
    section("Configuration", &said).map(drop)
}

/// Returns all resources as nodes see them; `None` if they would refuse it.
fn view(all: &[Item]) -> Option<View> {
    let mut resources = Resources::default();
    for item in all {
        resources.insert(item.to_resource()).ok()?;
    }
    resources.to_view().ok()
}

fn destinations(view: &View, set: &str) -> anyhow::Result<()> {
    let found = view.destinations_of(set);
    let rows: Vec<_> = found
        .iter()
        .map(|destination| {
            [
                format!("  {}", destination.id),
                destination.uri.clone(),
                destination.priority.to_string(),
                destination.weight.to_string(),
                format!("{:?}", destination.desired_state).to_lowercase(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return section("Destinations", &[]).map(drop);
    }
    lines::say("\nDestinations, listed and found by the selector:")?;
    Ok(lines::print(
        ["  ID", "URI", "PRIORITY", "WEIGHT", "WANTED"],
        &rows,
    )?)
}

/// Says what refers to a resource, and how.
fn referrers(name: &Name, all: &[Item], view: Option<&View>) -> Vec<String> {
    let mut found = Vec::new();
    let text = name.to_string();
    for item in all.iter().filter(|item| item.name() != text) {
        let mut paths = Vec::new();
        for (field, value) in item.message.fields() {
            mentions(value, &text, field.name(), &mut paths);
        }
        found.extend(paths.iter().map(|path| format!("{} ({path})", item.name())));
        match (name, item.name().parse()) {
            (Name::Set(id), Ok(Name::Destination { set, .. })) if set == *id => {
                found.push(format!("{} (belongs to it)", item.name()));
            }
            (Name::Cell(id), Ok(Name::Member(_))) => {
                let cell = match item.text("cell") {
                    "" => "default",
                    cell => cell,
                };
                if cell == id {
                    found.push(format!("{} (cell)", item.name()));
                }
            }
            (Name::Member(id), Ok(Name::Set(set))) => {
                let is_in = |view: &View| view.destinations_of(&set).iter().any(|d| d.id == *id);
                if view.is_some_and(is_in) {
                    found.push(format!(
                        "{} (has it: {})",
                        item.name(),
                        shown(item, "selector")
                    ));
                }
            }
            _ => {}
        }
    }
    found
}

/// Collects the paths at which a value mentions a name.
fn mentions(value: &Value, name: &str, path: &str, found: &mut Vec<String>) {
    if value.as_str() == Some(name) {
        found.push(path.to_owned());
    }
    for (i, value) in value.as_list().unwrap_or_default().iter().enumerate() {
        mentions(value, name, &format!("{path}[{i}]"), found);
    }
    if let Some(message) = value.as_message() {
        for (field, value) in message.fields() {
            mentions(value, name, &format!("{path}.{}", field.name()), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use control::registry::v1::resource::Resource as Known;
    use control::registry::v1::{
        Destination, DestinationSet, Member, MemberKind, MemberSelector, Route, RouteResult,
        SipEndpoint, route_result,
    };

    use super::*;
    use crate::resource::tests::item;

    #[test]
    fn who_refers_to_what_is_said() {
        let result = |set: &str| RouteResult {
            next_hop: Some(route_result::NextHop::Set(set.into())),
            ..RouteResult::default()
        };
        let all = [
            item(Known::Member(Member {
                name: "members/a".into(),
                kind: MemberKind::Router.into(),
                address: "192.0.2.1".into(),
                sip: vec![SipEndpoint {
                    side: 0,
                    address: "192.0.2.1:5060".into(),
                }],
                ..Member::default()
            })),
            item(Known::DestinationSet(DestinationSet {
                name: "sets/1".into(),
                selector: Some(MemberSelector {
                    kind: MemberKind::Router.into(),
                    ..MemberSelector::default()
                }),
                ..DestinationSet::default()
            })),
            item(Known::Destination(Destination {
                name: "sets/1/destinations/b".into(),
                uri: "sip:192.0.2.2".into(),
                ..Destination::default()
            })),
            item(Known::Route(Route {
                name: "routes/x".into(),
                results: vec![result("sets/2"), result("sets/1")],
                ..Route::default()
            })),
        ];
        // routes/x leads to sets/2, which is missing: no view, yet what can be told is told.
        assert!(view(&all).is_none());
        let of = |name: &str, view: Option<&View>| referrers(&name.parse().unwrap(), &all, view);
        assert_eq!(
            of("sets/1", None),
            [
                "sets/1/destinations/b (belongs to it)",
                "routes/x (results[1].set)"
            ]
        );
        assert_eq!(of("cells/default", None), ["members/a (cell)"]);
        let view = view(&all[..3]).unwrap();
        assert_eq!(of("members/a", Some(&view)), ["sets/1 (has it: router)"]);
    }
}
