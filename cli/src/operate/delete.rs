//! `tandem delete`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use control::name::Name;

use super::{kind_and_name, parse, send};
use crate::exit::Exit;
use crate::registry::{Registry, Target};
use crate::resource::document;

pub(super) const EXAMPLES: &str = "\
What something else refers to is not deleted; the answer says what refers to it. Several are deleted
as one, so a set may go together with its destinations and the routes to it.

Examples:
  tandem delete routes/germany
  tandem delete routes germany                            the same
  tandem delete sets/2 sets/2/destinations/pbx-1 --dry-run
  tandem delete -f routes.yaml                            everything that the file describes";

#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "tandem delete [OPTIONS] NAME...\n       tandem delete [OPTIONS] KIND ID...\n       tandem delete [OPTIONS] -f FILE"
)]
pub(crate) struct Options {
    /// Names such as routes/x; or a kind, then ids
    #[arg(value_name = "NAME", required_unless_present = "files")]
    names: Vec<String>,
    /// Delete what these files describe, directories too, or - for standard input
    #[arg(
        short,
        long = "file",
        value_name = "FILE|DIR|-",
        conflicts_with = "names"
    )]
    files: Vec<PathBuf>,
    /// Have it checked, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let names = match options.files.is_empty() {
        true => named(&options.names)?,
        false => document::read_all(&options.files)?
            .iter()
            .map(|document| parse(document.item.name()))
            .collect::<anyhow::Result<_>>()?,
    };
    let mut registry = Registry::open(&options.target).await?;
    send(&mut registry, Vec::new(), names, options.dry_run).await
}

fn named(words: &[String]) -> anyhow::Result<Vec<Name>> {
    let (kind, ids) = match words {
        [kind, ids @ ..] if !kind.contains('/') => (Some(kind), ids),
        names => (None, names),
    };
    let Some(kind) = kind else {
        return ids.iter().map(|name| parse(name)).collect();
    };
    if ids.is_empty() {
        let reason = anyhow!("{kind}: which of them? Names look like routes/x");
        return Err(Exit::Usage.because(reason));
    }
    ids.iter()
        .filter_map(|id| {
            kind_and_name(kind, Some(id))
                .map(|(_, name)| name)
                .transpose()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_whole_or_by_kind() {
        let words = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            named(&words).map(|names| {
                let names = names.iter().map(ToString::to_string);
                names.collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(words(&["routes", "a", "b"]).unwrap(), "routes/a routes/b");
        assert_eq!(words(&["routes/a", "sets/1"]).unwrap(), "routes/a sets/1");
        assert!(words(&["routes"]).is_err());
        assert!(words(&["routes/a", "b"]).is_err());
    }
}
