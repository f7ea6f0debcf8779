//! `tandem get`.

use clap::Args;

use super::{Format, Output, kind_and_name, print};
use crate::exit::Exit;
use crate::registry::{Registry, Target};

pub(super) const EXAMPLES: &str = "\
Kinds: members, cells, tables, trunks, profiles, sets, destinations, routes; all for all of them

Examples:
  tandem get members                     who is in the cluster, and alive
  tandem get routes -o wide              every field
  tandem get sets/1/destinations/a       one, by its name
  tandem get destinations 1/a            the same
  tandem get all -o yaml > backup.yaml   what tandem apply -f takes
  tandem get members -o json | jq -r .etag";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// What: routes, or a name such as routes/x
    kind: String,
    /// Which one; all if it is left away
    name: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let all = options.kind == "all" && options.name.is_none();
    let asked = match all {
        true => None,
        false => Some(kind_and_name(&options.kind, options.name.as_deref())?),
    };
    let mut registry = Registry::open(&options.target).await?;
    let items = match asked {
        None => registry.list_all().await?,
        Some((kind, None)) => registry.list(kind).await?,
        Some((kind, Some(name))) => vec![registry.get(kind, &name.to_string()).await?],
    };
    let output = options.format.output;
    if items.is_empty() && matches!(output, Output::Table | Output::Wide) {
        eprintln!(
            "there are no {}",
            if all { "resources" } else { &options.kind }
        );
    } else if !items.is_empty() {
        print(&items, output)?;
    }
    Ok(Exit::Good)
}
