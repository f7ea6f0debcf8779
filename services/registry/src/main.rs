//! The registry as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem_registry::main_from(std::env::args_os())
}
