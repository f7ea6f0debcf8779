//! `tandem import` and `tandem export`: Kamailio's `dispatcher.list`.

mod list;

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use control::registry::v1::resource::Resource as Known;
use control::registry::v1::{Destination, Resource};
use control::view::Resources;

use crate::exit::Exit;
use crate::lines;
use crate::operate::{self, Output};
use crate::registry::{Registry, Target};
use crate::resource::document::{Document, Place};
use crate::resource::{Item, Kind};

const IMPORT_EXAMPLES: &str = "\
Sets become sets/ID, lines become sets/ID/destinations/DUID (made of the URI where there is no duid=).
What has no counterpart is named with its line; docs/from-kamailio.md says what maps to what.
sets/1 is the SBC's own, every router by a selector: if your set 1 is another, give it another id.

Examples:
  tandem import dispatcher.list /etc/kamailio/dispatcher.list                 what would be applied
  tandem import dispatcher.list dispatcher.list --algorithm 4 > sets.yaml     to be looked at first
  tandem import dispatcher.list dispatcher.list --rename 1=ipbx --apply       at once
  tandem import dispatcher.list dispatcher.list --apply --dry-run             have the registry check it";

const EXPORT_EXAMPLES: &str = "\
Examples:
  tandem export dispatcher.list > dispatcher.list          what is listed by hand
  tandem export dispatcher.list --members --set 1          the routers that set 1 finds, too
  tandem export dispatcher.list --rename ipbx=2            Kamailio's sets are numbers";

/// Takes over what other software has
#[derive(Clone, Debug, Args)]
pub(crate) struct ImportOptions {
    #[command(subcommand)]
    from: From,
}

#[derive(Clone, Debug, Subcommand)]
enum From {
    /// Kamailio's file of destinations
    #[command(name = "dispatcher.list", after_help = IMPORT_EXAMPLES)]
    DispatcherList(Import),
}

#[derive(Clone, Debug, Args)]
struct Import {
    /// The file; - for standard input
    file: PathBuf,
    /// Algorithm of the new sets, which the file does not say: 0 Call-ID hash, 4 round robin, 8 priority
    #[arg(long, default_value_t = 0)]
    algorithm: u32,
    /// Gives a set another id
    #[arg(long, value_name = "NUMBER=ID", value_parser = pair)]
    rename: Vec<(String, String)>,
    /// Apply it instead of printing it; sets that exist stay as they are
    #[arg(long)]
    apply: bool,
    /// With --apply: have it checked, change nothing
    #[arg(long, requires = "apply")]
    dry_run: bool,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
    #[command(flatten)]
    target: Target,
}

/// Writes what other software reads
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportOptions {
    #[command(subcommand)]
    to: To,
}

#[derive(Clone, Debug, Subcommand)]
enum To {
    /// Kamailio's file of destinations
    #[command(name = "dispatcher.list", after_help = EXPORT_EXAMPLES)]
    DispatcherList(Export),
}

#[derive(Clone, Debug, Args)]
struct Export {
    /// Only this set; all if left away
    #[arg(long, value_name = "ID")]
    set: Vec<String>,
    /// Gives a set another id
    #[arg(long, value_name = "ID=NUMBER", value_parser = pair)]
    rename: Vec<(String, String)>,
    /// The members that selectors find, too
    #[arg(long)]
    members: bool,
    #[command(flatten)]
    target: Target,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text
        .split_once('=')
        .filter(|(a, b)| !a.is_empty() && !b.is_empty());
    let (from, to) = pair.ok_or("is not of the form OLD=NEW")?;
    Ok((from.to_owned(), to.to_owned()))
}

pub(crate) async fn import(options: &ImportOptions) -> anyhow::Result<Exit> {
    let From::DispatcherList(options) = &options.from;
    let text = text_of(&options.file).map_err(|error| Exit::Usage.because(error))?;
    let file = options.file.display().to_string();
    let imported = list::import(&text, &options.rename, options.algorithm);
    for note in &imported.notes {
        eprintln!("{file}:{}: {}", note.line, note.said);
    }
    if imported.left_out > 0 && options.apply {
        return Err(Exit::Usage.because(anyhow!(
            "nothing was applied: correct the lines above, or take them out"
        )));
    }
    let mut documents = documents(&file, imported.sets, Known::DestinationSet);
    documents.extend(self::documents(
        &file,
        imported.destinations,
        Known::Destination,
    ));
    if !options.apply {
        let items: Vec<_> = documents
            .into_iter()
            .map(|document| document.item)
            .collect();
        if !items.is_empty() {
            operate::print(&items, options.output)?;
        }
        return Ok(Exit::good_if(imported.left_out == 0));
    }
    let mut registry = Registry::open(&options.target).await?;
    let sets = registry.list(Kind::called("sets").expect("a kind")).await?;
    documents.retain(|document| sets.iter().all(|set| set.name() != document.item.name()));
    operate::send(&mut registry, documents, Vec::new(), options.dry_run).await
}

fn documents<T>(file: &str, read: Vec<(usize, T)>, known: impl Fn(T) -> Known) -> Vec<Document> {
    let documents = read.into_iter().filter_map(|(line, one)| {
        let resource = Resource {
            resource: Some(known(one)),
        };
        Some(Document {
            item: Item::from_resource(&resource)?,
            place: Place::at_line(file, line),
        })
    });
    documents.collect()
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    match path.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()).context("standard input"),
        false => fs::read_to_string(path).with_context(|| path.display().to_string()),
    }
}

pub(crate) async fn export(options: &ExportOptions) -> anyhow::Result<Exit> {
    let To::DispatcherList(options) = &options.to;
    let mut registry = Registry::open(&options.target).await?;
    let all = registry.list_all().await?;
    let mut destinations = match options.members {
        true => with_members(&all)?,
        false => listed(&all),
    };
    if !options.set.is_empty() {
        destinations.retain(|destination| {
            let set = destination.name.split('/').nth(1).unwrap_or_default();
            options.set.iter().any(|wanted| wanted == set)
        });
    }
    let (text, notes) = list::export(&destinations, &options.rename);
    for note in &notes {
        eprintln!("{note}");
    }
    lines::say(text.trim_end())?;
    Ok(Exit::good_if(notes.is_empty()))
}

fn listed(all: &[Item]) -> Vec<Destination> {
    let resources = all.iter().map(|item| item.to_resource().resource);
    let destinations = resources.filter_map(|known| match known {
        Some(Known::Destination(destination)) => Some(destination),
        Some(
            Known::Member(_)
            | Known::DestinationSet(_)
            | Known::Route(_)
            | Known::Cell(_)
            | Known::TableDefinition(_)
            | Known::Trunk(_)
            | Known::Profile(_),
        )
        | None => None,
    });
    destinations.collect()
}

fn with_members(all: &[Item]) -> anyhow::Result<Vec<Destination>> {
    let mut resources = Resources::default();
    for item in all {
        let inserted = resources.insert(item.to_resource());
        inserted.map_err(|refusal| anyhow!("{refusal}"))?;
    }
    let view = resources.to_view().map_err(|refusals| {
        let said: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        anyhow!("{}", said.join("\n"))
    })?;
    let sets = view.sets.iter();
    let found = sets.flat_map(|set| view.destinations_of(&set.id));
    Ok(found
        .map(|destination| list::written(&destination))
        .collect())
}
