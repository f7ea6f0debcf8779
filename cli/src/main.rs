//! `tandem`: the whole system in one file. `tandem run` is one of its services, `tandem demo` shows
//! what it is for, `tandem bus` what routers tell each other.

#![allow(clippy::print_stdout)] // what a person asked to see

mod bus;
mod demo;

use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};
use tandem_router::Router;
use tandem_sbc::Sbc;

const EXAMPLES: &str = "\
Examples:
  tandem demo                                see calls survive the death of a router
  tandem run sbc --config sbc.toml --check   check a configuration and say where each value came from
  tandem run router --config router.toml     run a router until SIGTERM
  tandem bus nodes                           see who is on a router's bus";

fn main() -> ExitCode {
    let mut command = command();
    let matches = command.get_matches_mut();
    let result = match matches.subcommand() {
        Some(("bus", matches)) => bus::Options::from_arg_matches(matches)
            .map_err(anyhow::Error::from)
            .and_then(|options| bus::run(&options)),
        Some(("demo", matches)) => demo::Options::from_arg_matches(matches)
            .map_err(anyhow::Error::from)
            .and_then(|options| demo::run(&options)),
        Some(("run", matches)) => match matches.subcommand() {
            Some(("registry", matches)) => return tandem_registry::main_with(matches),
            Some(("router", matches)) => host::main::<Router>(matches).map(|()| true),
            Some(("sbc", matches)) => host::main::<Sbc>(matches).map(|()| true),
            _ => unreachable!("clap asks for one of them"),
        },
        _ => unreachable!("clap asks for one of them"),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tandem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let run = Command::new("run")
        .about("Runs one service until SIGTERM")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(tandem_registry::command().name("registry"))
        .subcommand(host::command::<Router>().name("router"))
        .subcommand(host::command::<Sbc>().name("sbc"));
    let demo = demo::Options::augment_args(Command::new("demo"))
        .about("Places calls, kills the router under them, and shows that none is lost")
        .long_about(None::<&str>);
    let bus = bus::Options::augment_args(Command::new("bus"))
        .about("Shows what a router knows of its cell and hears on its bus")
        .arg_required_else_help(true)
        .after_help(bus::EXAMPLES);
    Command::new("tandem")
        .about("A SIP routing fabric that does not lose calls")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(demo)
        .subcommand(bus)
        .subcommand(run)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
