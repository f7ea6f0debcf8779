//! As much of `protoc` as build scripts of other people's crates ask for, in Rust: a descriptor set
//! of some files, with all that they import.
//!
//! Started by the script beside it. Not here: plugins, and any output but the descriptor set. Our own
//! `control` does not need it: it calls protox from its build script.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use protox::Compiler;

/// What prost-build asks `protoc` for.
#[derive(Debug, Default)]
struct Arguments {
    includes: Vec<PathBuf>,
    files: Vec<PathBuf>,
    output: PathBuf,
}

fn main() -> Result<()> {
    let Arguments {
        includes,
        files,
        output,
    } = read(env::args().skip(1))?;
    let mut compiler = Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    fs::write(&output, compiler.encode_file_descriptor_set())
        .with_context(|| output.display().to_string())
}

fn read(mut given: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(argument) = given.next() {
        let mut value = || given.next().with_context(|| format!("{argument} what?"));
        match argument.as_str() {
            "-I" => arguments.includes.push(value()?.into()),
            "-o" => arguments.output = value()?.into(),
            "--include_imports" | "--include_source_info" => {}
            flag if flag.starts_with('-') => bail!("{flag} is not known here; install protoc"),
            file => arguments.files.push(file.into()),
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments> {
        super::read(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn what_prost_build_asks_for_is_understood() {
        let arguments = read("--include_imports --include_source_info -o out -I a -I b c.proto");
        let arguments = arguments.expect("they are right");
        assert_eq!(arguments.output, PathBuf::from("out"));
        assert_eq!(arguments.includes, ["a", "b"].map(PathBuf::from));
        assert_eq!(arguments.files, [PathBuf::from("c.proto")]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(read("--go_out=.").is_err());
        assert!(read("-I").is_err());
    }
}
