//! `tandem`: the whole system in one file. `tandem run` is one of its services, `tandem demo` shows
//! what it is for; with the rest operators look at a cluster and change it.

#![allow(clippy::print_stdout)] // what a person asked to see

mod bus;
mod context;
mod demo;
mod dispatcher;
mod ends;
mod exit;
mod lines;
mod operate;
mod ready;
mod registry;
mod resource;
mod store;

use std::io;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand, value_parser};
use clap_complete::Shell;
use tandem_router::Router;
use tandem_sbc::Sbc;

use crate::exit::Exit;

const EXAMPLES: &str = "\
Examples:
  tandem demo                                see calls survive the death of a router
  tandem status                              see whether what you changed is in force everywhere
  tandem get members                         see who is in the cluster, and alive
  tandem apply -f routes.yaml                change where calls go
  tandem drain router-1 --wait               take a router out of service
  tandem run router --config router.toml     run a router until SIGTERM
  tandem bus nodes                           see who is on a router's bus";

const COMPLETION: &str = "\
Examples:
  tandem completion bash > /etc/bash_completion.d/tandem
  tandem completion zsh > /usr/local/share/zsh/site-functions/_tandem
  tandem completion fish > ~/.config/fish/completions/tandem.fish";

fn main() -> ExitCode {
    let mut command = command();
    let matches = command.get_matches_mut();
    let result = match matches.subcommand() {
        Some(("run", matches)) => match matches.subcommand() {
            Some(("registry", matches)) => return tandem_registry::main_with(matches),
            Some(("router", matches)) => host::main::<Router>(matches).map(|()| Exit::Good),
            Some(("sbc", matches)) => host::main::<Sbc>(matches).map(|()| Exit::Good),
            Some(("carrier", matches)) => ends::carrier::Options::from_arg_matches(matches)
                .map_err(anyhow::Error::from)
                .and_then(ends::carrier::run)
                .map(Exit::good_if),
            Some(("ipbx", matches)) => ends::ipbx::Options::from_arg_matches(matches)
                .map_err(anyhow::Error::from)
                .and_then(ends::ipbx::run)
                .map(Exit::good_if),
            _ => unreachable!("clap asks for one of them"),
        },
        Some(("completion", matches)) => {
            let shell = matches.get_one::<Shell>("shell").copied();
            let shell = shell.expect("clap asks for it");
            clap_complete::generate(shell, &mut command, "tandem", &mut io::stdout());
            Ok(Exit::Good)
        }
        _ => run(&matches),
    };
    match result {
        Ok(exit) => exit.into(),
        // Whoever reads has seen enough, as `head` does.
        Err(error) if is_enough(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem: {error:#}");
            Exit::of(&error).into()
        }
    }
}

fn run(all: &ArgMatches) -> anyhow::Result<Exit> {
    let Some((name, matches)) = all.subcommand() else {
        unreachable!("clap asks for one of them");
    };
    match name {
        "bus" => wait_for(bus::run(&bus::Options::from_arg_matches(matches)?)),
        "demo" => demo::run(&demo::Options::from_arg_matches(matches)?).map(Exit::good_if),
        "ready" => ready::run(&ready::Options::from_arg_matches(matches)?).map(Exit::good_if),
        "context" => context::run(&context::Options::from_arg_matches(matches)?),
        "store" => wait_for(store::run(matches)),
        "import" => wait_for(dispatcher::import(&FromArgMatches::from_arg_matches(
            matches,
        )?)),
        "export" => wait_for(dispatcher::export(&FromArgMatches::from_arg_matches(
            matches,
        )?)),
        _ => wait_for(operate::run(&operate::Command::from_arg_matches(all)?)),
    }
}

/// Runs what waits for others.
fn wait_for(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

fn is_enough(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn command() -> Command {
    let carrier = ends::carrier::Options::augment_args(Command::new("carrier"))
        .about("Places calls and counts what becomes of them; fails if one of them does");
    let ipbx = ends::ipbx::Options::augment_args(Command::new("ipbx"))
        .about("Answers calls and counts what becomes of them; fails if one of them does");
    let ready = ready::Options::augment_args(Command::new("ready"))
        .about("Asks a process whether it is ready, and what it is missing");
    let run = Command::new("run")
        .about("Runs one service, or one end of test calls, until SIGTERM")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(tandem_registry::command().name("registry"))
        .subcommand(host::command::<Router>().name("router"))
        .subcommand(host::command::<Sbc>().name("sbc"))
        .subcommand(carrier)
        .subcommand(ipbx);
    let demo = demo::Options::augment_args(Command::new("demo"))
        .about("Places calls, kills the router under them, and shows that none is lost")
        .long_about(None::<&str>);
    let bus = bus::Options::augment_args(Command::new("bus"))
        .about("Shows what a router knows of its cell and hears on its bus")
        .arg_required_else_help(true)
        .after_help(bus::EXAMPLES);
    let context = context::Options::augment_args(Command::new("context"))
        .about("Names clusters and chooses one")
        .arg_required_else_help(true)
        .after_help(context::EXAMPLES);
    let import = dispatcher::ImportOptions::augment_args(Command::new("import"))
        .about("Takes over what other software has");
    let export = dispatcher::ExportOptions::augment_args(Command::new("export"))
        .about("Writes what other software reads");
    let completion = Command::new("completion")
        .about("Prints what makes a shell complete this program's commands")
        .after_help(COMPLETION)
        .arg(
            Arg::new("shell")
                .required(true)
                .value_parser(value_parser!(Shell)),
        );
    let tandem = Command::new("tandem")
        .about("A SIP routing fabric that does not lose calls")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXAMPLES)
        .after_long_help(format!("{EXAMPLES}\n\n{}", exit::TABLE))
        .subcommand_required(true)
        .arg_required_else_help(true);
    operate::Command::augment_subcommands(tandem)
        .subcommand(import)
        .subcommand(export)
        .subcommand(context)
        .subcommand(store::command())
        .subcommand(bus)
        .subcommand(run)
        .subcommand(ready)
        .subcommand(demo)
        .subcommand(completion)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
