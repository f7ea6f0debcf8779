//! `tandem watch`.

use std::time::Duration;

use clap::Args;
use control::name::Name;
use control::registry::v1::watch_response::Message;
use control::registry::v1::watch_service_client::WatchServiceClient;
use control::registry::v1::{Position, Resource, WatchRequest};
use tonic::{Code, Streaming};

use super::{Format, Output, kind_and_name, shows};
use crate::exit::Exit;
use crate::lines;
use crate::registry::{CallError, Registry, Target};
use crate::resource::{Item, Kind, cell};

pub(super) const EXAMPLES: &str = "\
First what there is, then every change. When a registry goes away the next one is asked for what was
missed meanwhile.

Examples:
  tandem watch                               everything
  tandem watch members --changes             who comes and goes
  tandem watch routes sets/1 -o yaml         two kinds of things, in full
  tandem watch members -o json | jq .name";

/// Wait before another registry is asked.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Kinds such as routes, or names such as sets/1; everything if left away
    #[arg(value_name = "KIND|NAME")]
    what: Vec<String>,
    /// Only changes, not what there is
    #[arg(long)]
    changes: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

/// What is watched.
struct Wanted(Vec<(&'static Kind, Option<Name>)>);

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let what = options.what.iter().map(|what| kind_and_name(what, None));
    let wanted = Wanted(what.collect::<anyhow::Result<_>>()?);
    let mut registry = Registry::open(&options.target).await?;
    let mut printer = Printer {
        output: options.format.output,
        skip_present: options.changes,
        wanted,
        since: None,
    };
    if matches!(printer.output, Output::Table | Output::Wide) {
        lines::say(line("GENERATION", "EVENT", "NAME", ""))?;
    }
    loop {
        let mut stream = open(&mut registry, &printer).await?;
        let ended = loop {
            match stream.message().await {
                Ok(Some(response)) => printer.print(response.message)?,
                Ok(None) => break "it ended the stream".to_owned(),
                Err(status) if can_resume(status.code()) => break status.message().to_owned(),
                Err(status) => return Err(CallError::Refused(Box::new(status)).into()),
            }
        };
        eprintln!("tandem: {}: {ended}; asking again", registry.address());
        registry.leave();
        tokio::time::sleep(RETRY).await;
    }
}

fn can_resume(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Internal
    )
}

async fn open(
    registry: &mut Registry,
    printer: &Printer,
) -> Result<Streaming<control::registry::v1::WatchResponse>, CallError> {
    let request = WatchRequest {
        filters: printer.wanted.filters(),
        since: printer.since,
    };
    registry
        .call(async |channel| {
            WatchServiceClient::new(channel)
                .watch(request.clone())
                .await
        })
        .await
}

impl Wanted {
    fn filters(&self) -> Vec<String> {
        let filter = |(kind, name): &(&Kind, Option<Name>)| match name {
            Some(name) => name.to_string(),
            None if kind.collection == "destinations" => "sets/".to_owned(),
            None => format!("{}/", kind.collection),
        };
        self.0.iter().map(filter).collect()
    }

    /// Sets and destinations begin alike.
    fn has(&self, name: &Name) -> bool {
        let is_it = |(kind, wanted): &(&Kind, Option<Name>)| match wanted {
            Some(wanted) => wanted == name,
            None => *kind == Kind::of(name),
        };
        self.0.is_empty() || self.0.iter().any(is_it)
    }
}

struct Printer {
    output: Output,
    /// Whether what there is, which comes first, is left out.
    skip_present: bool,
    wanted: Wanted,
    /// What has been printed.
    since: Option<Position>,
}

impl Printer {
    fn print(&mut self, message: Option<Message>) -> anyhow::Result<()> {
        match message {
            Some(Message::Snapshot(snapshot)) => {
                let at = snapshot.position.unwrap_or_default();
                if !self.skip_present {
                    for resource in &snapshot.resources {
                        self.resource(at.generation, "there", resource)?;
                    }
                }
                if snapshot.complete {
                    self.since = snapshot.position;
                    // Whatever comes whole later has changed unseen.
                    self.skip_present = false;
                }
            }
            Some(Message::Change(change)) => {
                let generation = change.position.unwrap_or_default().generation;
                for resource in &change.changed {
                    self.resource(generation, "changed", resource)?;
                }
                for name in &change.deleted {
                    self.deleted(generation, name)?;
                }
                self.since = change.position;
            }
            Some(Message::Bookmark(bookmark)) => self.since = bookmark.position,
            None => {}
        }
        Ok(())
    }

    fn resource(&self, generation: u64, event: &str, resource: &Resource) -> anyhow::Result<()> {
        let Some(item) = Item::from_resource(resource) else {
            return Ok(());
        };
        if item
            .name()
            .parse()
            .is_ok_and(|name| !self.wanted.has(&name))
        {
            return Ok(());
        }
        match self.output {
            Output::Table | Output::Wide => {
                let said = summary(&item, self.output);
                lines::say(line(&generation.to_string(), event, item.name(), &said))?;
            }
            Output::Json => lines::say(format_args!(
                r#"{{"generation":{generation},"event":"{event}","name":"{0}","resource":{1}}}"#,
                item.name(),
                item.to_json()
            ))?,
            Output::Yaml => lines::say(format_args!(
                "--- # generation {generation}: {event}\n{}",
                item.to_yaml().trim_end()
            ))?,
        }
        Ok(())
    }

    fn deleted(&self, generation: u64, name: &str) -> anyhow::Result<()> {
        if name.parse().is_ok_and(|name| !self.wanted.has(&name)) {
            return Ok(());
        }
        match self.output {
            Output::Table | Output::Wide => {
                lines::say(line(&generation.to_string(), "deleted", name, ""))?;
            }
            Output::Json => lines::say(format_args!(
                r#"{{"generation":{generation},"event":"deleted","name":"{name}"}}"#
            ))?,
            Output::Yaml => lines::say(format_args!("# generation {generation}: deleted {name}"))?,
        }
        Ok(())
    }
}

/// The columns of the table that are set; every field that is, if it may be wide.
fn summary(item: &Item, output: Output) -> String {
    let fields = item.message.fields().map(|(field, _)| field);
    let said = fields
        .filter(|field| shows(item.kind, field.name(), output))
        .map(|field| format!("{}={}", field.name(), cell(&item.message, &field)));
    said.collect::<Vec<_>>().join(" ")
}

fn line(generation: &str, event: &str, name: &str, said: &str) -> String {
    let line = format!("{generation:<10}  {event:<7}  {name:<26}  {said}");
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_told_apart() {
        let wanted = |what: &[&str]| {
            let what = what.iter().map(|what| kind_and_name(what, None).unwrap());
            Wanted(what.collect())
        };
        let one = wanted(&["destinations", "members/a"]);
        assert_eq!(one.filters(), ["sets/", "members/a"]);
        for (name, expected) in [
            ("sets/1", false),
            ("sets/1/destinations/a", true),
            ("members/a", true),
            ("members/b", false),
        ] {
            assert_eq!(one.has(&name.parse().unwrap()), expected, "{name}");
        }
        assert!(wanted(&[]).has(&"routes/x".parse().unwrap()));
    }
}
