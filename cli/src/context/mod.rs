//! Contexts: clusters by name, in one file, so that a command need not name registries.

mod file;

use std::fmt::Write;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::lines;

pub(crate) use file::{Context, Contexts};

pub(crate) const EXAMPLES: &str = "\
The file is $TANDEM_CONFIG, or ~/.config/tandem/config.toml:
  current = \"berlin\"

  [contexts.berlin]
  registries = [\"192.0.2.1:7400\", \"192.0.2.2:7400\"]    # tried in turn
  cluster = \"tandem\"        # optional: a registry of another cluster is not talked to
  ca = \"ca.pem\"             # optional: makes it TLS; relative to the file
  cert = \"operator.pem\"     # optional: your certificate and its key
  key = \"operator.key\"
  server_name = \"registry\" # optional: what the certificates are for, if not the host

Examples:
  tandem context list            which there are; * marks the current one
  tandem context use berlin      take it from now on
  tandem context show            what the current one says
  tandem get members --context hamburg     take another one once";

/// Names clusters and chooses one
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists the contexts
    List,
    /// Makes a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Shows a context
    Show {
        /// Its name; the current one if it is left away
        name: Option<String>,
    },
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let usage = |error: anyhow::Error| Exit::Usage.because(error);
    let contexts = Contexts::load().map_err(usage)?;
    match &options.command {
        Command::List => list(&contexts)?,
        Command::Use { name } => {
            contexts.make_current(name).map_err(usage)?;
            lines::say(format_args!("the current context is {name}"))?;
        }
        Command::Show { name } => {
            let Some(name) = name.as_deref().or(contexts.current()) else {
                let path = contexts.path().display();
                return Err(usage(anyhow!("{path}: no context is current; see --help")));
            };
            let context = contexts.choose(Some(name)).map_err(usage)?;
            lines::say(show(name, &context).trim_end())?;
        }
    }
    Ok(Exit::Good)
}

fn list(contexts: &Contexts) -> anyhow::Result<()> {
    let rows: Vec<_> = contexts
        .all()
        .map(|(name, context)| {
            let mark = if contexts.current() == Some(name) {
                "*"
            } else {
                ""
            };
            [
                mark.to_owned(),
                name.to_owned(),
                context.registries.join(","),
                context.cluster.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    if rows.is_empty() {
        let path = contexts.path().display();
        lines::say(format_args!(
            "no contexts in {path}: tandem context --help shows how to write one"
        ))?;
        return Ok(());
    }
    Ok(lines::print(["", "NAME", "REGISTRIES", "CLUSTER"], &rows)?)
}

fn show(name: &str, context: &Context) -> String {
    let mut text = format!("name:        {name}\n");
    let mut add = |key: &str, value: String| {
        let _infallible = writeln!(text, "{:<12} {value}", format!("{key}:"));
    };
    add("registries", context.registries.join(", "));
    if let Some(cluster) = &context.cluster {
        add("cluster", cluster.clone());
    }
    let files = [
        ("ca", &context.ca),
        ("cert", &context.cert),
        ("key", &context.key),
    ];
    for (key, path) in files {
        if let Some(path) = path {
            add(key, path.display().to_string());
        }
    }
    text
}
