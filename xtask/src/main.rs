//! Chores, in Rust: `cargo xtask setup`, `cargo xtask test`, `cargo xtask docs`, `cargo xtask bench
//! peer`.
#![allow(clippy::print_stdout)] // a command line

mod bench;
mod compose;
mod setup;
mod shell;

use std::ffi::OsString;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs what tests and benchmarks need: Kamailio, SIPp, ip
    Setup,
    /// Runs every test of the workspace, those beside real Kamailio and SIPp included
    Test {
        /// Arguments for `cargo test`, such as a name or `-- --nocapture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Brings everything up in containers and goes through compose/README.md with calls running
    ComposeTest(compose::Arguments),
    /// Writes the tables of docs/configuration.md anew, from what the program says of its settings
    Docs,
    /// Measures
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Tandem beside real Kamailio in the same arrangement; writes bench/RESULTS.md
    Peer(bench::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().chore {
        Chore::Setup => setup::run(),
        Chore::Test { arguments } => test(&arguments),
        Chore::ComposeTest(arguments) => compose::test(&arguments),
        Chore::Docs => docs(),
        Chore::Bench(Bench::Peer(arguments)) => bench::peer(&arguments),
    }
}

fn docs() -> Result<()> {
    shell::run(
        shell::cargo()
            .args(["test", "--quiet", "--package", "tests", "--test", "docs"])
            .env("REWRITE", "1"),
    )
}

/// Tests of real peers run with `TANDEM_PEERS=1` only; without it they say what they left out.
fn test(arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    shell::run(shell::cargo().args(["build", "--release", "--package", "tandem"]))?;
    shell::run(
        shell::cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .args(arguments)
            .env("TANDEM_PEERS", "1"),
    )?;
    match compose::missing() {
        _ if !arguments.is_empty() => Ok(()),
        Some(reason) => {
            println!("left out: compose-test: {reason}");
            Ok(())
        }
        None => compose::test(&compose::Arguments::default()),
    }
}
