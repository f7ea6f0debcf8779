//! What operators do with the resources of a registry.

mod apply;
mod delete;
mod describe;
mod diff;
mod drain;
mod get;
mod plan;
mod refused;
mod send;
mod status;
mod watch;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use control::name::Name;

use crate::exit::Exit;
use crate::lines;
use crate::resource::{Item, Kind, cell};

pub(crate) use send::send;

/// The commands that read and change the registry.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows resources: all of a kind, or one
    #[command(after_help = get::EXAMPLES)]
    Get(get::Options),
    /// Shows one resource with all there is to know of it
    #[command(after_help = describe::EXAMPLES)]
    Describe(describe::Options),
    /// Makes resources be as files say
    #[command(after_help = apply::EXAMPLES)]
    Apply(apply::Options),
    /// Deletes resources
    #[command(after_help = delete::EXAMPLES)]
    Delete(delete::Options),
    /// Shows what apply would change; ends with 1 if anything
    #[command(after_help = diff::EXAMPLES)]
    Diff(diff::Options),
    /// Prints changes as they happen, until Ctrl-C
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::Options),
    /// Takes a member out of service: no new calls, established ones go on
    #[command(after_help = drain::EXAMPLES)]
    Drain(drain::DrainOptions),
    /// Puts a member back into service
    #[command(after_help = drain::UNDRAIN_EXAMPLES)]
    Undrain(drain::UndrainOptions),
    /// Shows whether what was changed is in force everywhere; ends with 1 if something is not well
    #[command(after_help = status::EXAMPLES)]
    Status(status::Options),
}

/// Runs a command.
pub(crate) async fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Get(options) => get::run(options).await,
        Command::Describe(options) => describe::run(options).await,
        Command::Apply(options) => apply::run(options).await,
        Command::Delete(options) => delete::run(options).await,
        Command::Diff(options) => diff::run(options).await,
        Command::Watch(options) => watch::run(options).await,
        Command::Drain(options) => drain::run(options).await,
        Command::Undrain(options) => drain::undo(options).await,
        Command::Status(options) => status::run(options).await,
    }
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The columns that are looked at most.
    Table,
    /// Every field as a column.
    Wide,
    /// proto3 JSON with all that the registry says, one object a line.
    Json,
    /// Documents that can be applied.
    Yaml,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// table and wide are for people, json is everything, yaml is what can be applied
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// The files of apply, diff and delete.
#[derive(Clone, Debug, Args)]
pub(crate) struct Files {
    /// YAML or JSON: files, directories of them, or - for standard input
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// Prints resources; a heading of columns before each kind.
pub(crate) fn print(items: &[Item], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            for item in items {
                lines::say(item.to_json())?;
            }
        }
        Output::Yaml => {
            let documents: Vec<_> = items.iter().map(Item::to_yaml).collect();
            lines::say(documents.join("---\n").trim_end())?;
        }
        Output::Table | Output::Wide => {
            let mut first = true;
            for of_kind in items.chunk_by(|a, b| a.kind == b.kind) {
                if !first {
                    lines::say("")?;
                }
                first = false;
                table(of_kind, output)?;
            }
        }
    }
    Ok(())
}

fn table(items: &[Item], output: Output) -> anyhow::Result<()> {
    let Some(kind) = items.first().map(|item| item.kind) else {
        return Ok(());
    };
    let fields = kind.message.fields();
    let fields: Vec<_> = fields
        .filter(|field| shows(kind, field.name(), output))
        .collect();
    let heads = fields.iter().map(|field| field.name().to_uppercase());
    let heads = ["NAME".to_owned()].into_iter().chain(heads);
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let cells = fields.iter().map(|field| cell(&item.message, field));
            [item.name().to_owned()].into_iter().chain(cells).collect()
        })
        .collect();
    Ok(lines::print(heads, &rows)?)
}

/// Tells whether a field is shown beside the name.
fn shows(kind: &Kind, field: &str, output: Output) -> bool {
    match output == Output::Wide {
        true => field != "name",
        false => kind.columns.contains(&field),
    }
}

/// Reads `KIND` and `NAME` as people give them: `routes x`, `route routes/x`, `routes/x`.
///
/// # Errors
///
/// Says which kinds there are, or what a name looks like.
fn kind_and_name(kind: &str, name: Option<&str>) -> anyhow::Result<(&'static Kind, Option<Name>)> {
    let usage = |reason: String| Exit::Usage.because(anyhow!(reason));
    if name.is_none() && kind.contains('/') {
        let name = parse(kind)?;
        return Ok((Kind::of(&name), Some(name)));
    }
    let Some(kind) = Kind::called(kind) else {
        let known: Vec<_> = Kind::all().iter().map(|kind| kind.collection).collect();
        let known = known.join(", ");
        return Err(usage(format!(
            "there is no kind {kind:?}; there are {known}"
        )));
    };
    let Some(name) = name else {
        return Ok((kind, None));
    };
    let parsed = match (
        kind.collection,
        name.split('/').collect::<Vec<_>>().as_slice(),
    ) {
        ("destinations", [set, id]) => parse(&format!("sets/{set}/destinations/{id}"))?,
        (collection, [id]) if collection != "destinations" => parse(&format!("{collection}/{id}"))?,
        _ => parse(name)?,
    };
    if Kind::of(&parsed) != kind {
        let kind = kind.collection;
        return Err(usage(format!("{name} is none of the {kind}")));
    }
    Ok((kind, Some(parsed)))
}

/// Reads a name.
fn parse(name: &str) -> anyhow::Result<Name> {
    let parsed = name.parse();
    parsed.map_err(|error| Exit::Usage.because(anyhow!("{name:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_give_them() {
        for (kind, name, expected) in [
            ("routes", Some("x"), "routes/x"),
            ("route", Some("routes/x"), "routes/x"),
            ("routes/x", None, "routes/x"),
            ("destinations", Some("1/a"), "sets/1/destinations/a"),
            ("member", Some("members/a"), "members/a"),
        ] {
            let (_, found) = kind_and_name(kind, name).unwrap();
            assert_eq!(found.unwrap().to_string(), expected);
        }
        assert_eq!(kind_and_name("sets", None).unwrap().1, None);
        for (kind, name, said) in [
            (
                "trees",
                None,
                "there are members, cells, tables, trunks, profiles, sets",
            ),
            ("routes", Some("sets/1"), "sets/1 is none of the routes"),
            ("destinations", Some("a"), "must be cells/ID"),
            ("routes", Some("A"), "an id is 1 to 63"),
        ] {
            let error = kind_and_name(kind, name).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(Exit::of(&error), Exit::Usage);
        }
    }
}
