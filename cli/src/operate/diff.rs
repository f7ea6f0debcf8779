//! `tandem diff`.

use std::io::{IsTerminal, stdout};

use clap::Args;
use similar::{ChangeTag, TextDiff};

use super::Files;
use crate::exit::Exit;
use crate::lines;
use crate::registry::{Registry, Target};
use crate::resource::document::{self, Document};
use crate::resource::{Item, Kind};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem diff -f routes.yaml                          what applying it would change
  tandem diff -f config/ > /dev/null || echo differs  1: it differs; 0: it does not";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let documents = document::read_all(&options.files.files)?;
    let mut registry = Registry::open(&options.target).await?;
    let mut present = Vec::new();
    for kind in Kind::all() {
        if documents.iter().any(|document| document.item.kind == kind) {
            present.extend(registry.list(kind).await?);
        }
    }
    let mut same = true;
    for Document { item, .. } in &documents {
        let before = present.iter().find(|other| other.name() == item.name());
        if let Some(text) = difference(before, item) {
            same = false;
            let text = if stdout().is_terminal() {
                coloured(&text)
            } else {
                text
            };
            lines::say(text.trim_end())?;
        }
    }
    Ok(Exit::good_if(same))
}

/// Returns a unified diff; `None` when nothing differs.
fn difference(before: Option<&Item>, after: &Item) -> Option<String> {
    let old = before.map(Item::to_yaml).unwrap_or_default();
    let new = after.to_yaml();
    let name = after.name();
    let old_name = match before {
        Some(_) => format!("registry {name}"),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(&old, &new);
    let differs = diff
        .iter_all_changes()
        .any(|change| change.tag() != ChangeTag::Equal);
    differs.then(|| {
        let mut text = diff.unified_diff();
        text.header(&old_name, &format!("file {name}")).to_string()
    })
}

fn coloured(text: &str) -> String {
    let lines = text.lines().map(|line| match line.as_bytes().first() {
        Some(b'+') => format!("\x1b[32m{line}\x1b[0m\n"),
        Some(b'-') => format!("\x1b[31m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use control::registry::v1::DestinationSet;
    use control::registry::v1::resource::Resource as Known;

    use super::*;
    use crate::resource::tests::item;

    fn set(algorithm: u32, etag: &str) -> Item {
        item(Known::DestinationSet(DestinationSet {
            name: "sets/1".into(),
            algorithm,
            etag: etag.into(),
            ..DestinationSet::default()
        }))
    }

    #[test]
    fn a_difference_is_shown_as_it_is_written() {
        assert_eq!(difference(Some(&set(4, "7-x")), &set(4, "")), None);
        assert_eq!(
            difference(Some(&set(4, "7-x")), &set(8, "")).unwrap(),
            "--- registry sets/1\n+++ file sets/1\n@@ -1,2 +1,2 @@\n name: sets/1\n-algorithm: 4\n\
             +algorithm: 8\n"
        );
        assert_eq!(
            difference(None, &set(0, "")).unwrap(),
            "--- /dev/null\n+++ file sets/1\n@@ -0,0 +1 @@\n+name: sets/1\n"
        );
    }
}
