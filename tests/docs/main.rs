//! `docs/configuration.md` says what the program says: the tables between its markers are made here,
//! from the very lists that settings are read and `--help` is printed by, and from the proto files
//! with the limits that resources are checked by.
//!
//! `REWRITE=1 cargo test -p tests --test docs`, or `cargo xtask docs`, writes the file anew.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod comments;
mod proto_style;
mod resources;
mod settings;

use std::path::Path;
use std::{env, fs};

/// A table of the file, by the name in its marker.
type Table = (String, String);

#[test]
fn the_configuration_is_documented_as_it_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = root.join("docs/configuration.md");
    let written = fs::read_to_string(&path).unwrap();
    let tables = [settings::tables(), resources::tables()].concat();
    let expected = tables
        .iter()
        .fold(written.clone(), |text, table| replace(&text, table));
    if env::var_os("REWRITE").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        assert!(
            written == expected,
            "docs/configuration.md is not what the settings say; `cargo xtask docs` writes it:\n{}",
            first_difference(&written, &expected)
        );
    }
}

/// Puts a table between its two markers.
fn replace(text: &str, (name, table): &Table) -> String {
    let (begin, end) = (format!("<!-- made: {name} -->\n"), "<!-- end -->\n");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("docs/configuration.md has no {begin}"));
    let (_, after) = rest
        .split_once(end)
        .unwrap_or_else(|| panic!("docs/configuration.md has no {end} after {begin}"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}

fn first_difference(written: &str, expected: &str) -> String {
    let mut lines = written.lines().zip(expected.lines());
    match lines.find(|(written, expected)| written != expected) {
        Some((written, expected)) => format!("is     {written}\nmust be {expected}"),
        None => "one of them is longer".to_owned(),
    }
}

/// Returns a row of a table, `|` in its cells escaped.
fn row(cells: &[&str]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn head(cells: &[&str]) -> String {
    format!("{}{}\n", row(cells), "|---".repeat(cells.len()) + "|")
}
