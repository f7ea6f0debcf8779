//! `tandem apply`.

use clap::Args;

use super::{Files, send};
use crate::exit::Exit;
use crate::registry::{Registry, Target};
use crate::resource::document;

pub(super) const EXAMPLES: &str = "\
A file holds one resource a document; the name tells the kind, fields are those of proto3 JSON:
  name: sets/2
  algorithm: 4
  ---
  name: sets/2/destinations/pbx-1
  uri: sip:192.0.2.40:5060
  ---
  name: routes/germany
  priority: 10
  match:
    calledPrefix: \"49\"
  results:
  - set: sets/2

Up to 60 resources are applied as one, or not at all. More are checked as a whole and then sent in
an order in which nothing refers to what is not there yet: trunks, sets, destinations, routes.

Examples:
  tandem apply -f routes.yaml              make it so
  tandem apply -f routes.yaml --dry-run    only check it
  tandem apply -f config/                  every .yaml, .yml and .json of a directory
  tandem get routes -o yaml | tandem apply -f -    changes nothing: what get prints can be applied";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    files: Files,
    /// Have it checked, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let documents = document::read_all(&options.files.files)?;
    let mut registry = Registry::open(&options.target).await?;
    send(&mut registry, documents, Vec::new(), options.dry_run).await
}
