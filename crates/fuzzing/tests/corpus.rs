//! What fuzzers found worth keeping, and what was captured between Kamailio nodes, once more.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and a panic does not tell which file it was"
)]

use std::fs;
use std::path::{Path, PathBuf};

use fuzzing::{TARGETS, run};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// Runs every file of a directory; returns how many there were.
fn replay(target: &str, directory: &Path) -> usize {
    let files = fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    for path in &paths {
        println!("{target}: {}", path.display());
        run(target, &fs::read(path).unwrap());
    }
    paths.len()
}

#[test]
fn what_was_kept_is_survived_by_its_target() {
    for (target, _) in TARGETS {
        let kept = replay(target, &testdata().join("fuzz").join(target));
        assert!(kept >= 5, "{target} has a corpus of {kept}");
    }
}

#[test]
fn a_fuzzer_is_made_of_every_target() {
    let files = fs::read_dir(testdata().join("../fuzz/fuzz_targets")).unwrap();
    let mut made: Vec<_> = files
        .map(|file| file.unwrap().path().file_stem().unwrap().to_owned())
        .collect();
    let mut known = TARGETS.map(|(target, _)| target);
    made.sort();
    known.sort_unstable();
    assert_eq!(made, known);
}

#[test]
fn captures_are_survived_by_every_target() {
    for (target, _) in TARGETS {
        assert!(replay(target, &testdata().join("dmq")) > 100);
    }
}

/// Bodies of captures, as the targets that take several of them want them.
#[test]
fn the_bodies_of_captures_are_survived_one_after_the_other() {
    let mut stock = Vec::new();
    let mut captures: Vec<_> = fs::read_dir(testdata().join("dmq"))
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    captures.sort();
    for path in captures {
        let bytes = fs::read(&path).unwrap();
        let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let (head, body) = (&bytes[..at], &bytes[at + 4..]);
        let target = match head {
            _ if head.starts_with(b"KDMQ sip:dialog@") => "dialog",
            _ if head.starts_with(b"KDMQ sip:htable@") => "table",
            _ if head.starts_with(b"KDMQ sip:notification_peer@") => "node_list",
            _ => continue,
        };
        run(target, body);
        if target != "node_list" {
            stock.extend_from_slice(&target.as_bytes()[..1]);
            stock.extend_from_slice(body);
            stock.push(0);
            run("stock", &stock);
        }
    }
    assert!(stock.iter().filter(|byte| **byte == 0).count() > 50);
}
