//! The registry as a program: its start, its end, and what it says when it cannot start.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

#[path = "../../../crates/store/tests/common/etcd.rs"]
mod real;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use real::{Etcds, Setup};

fn registry(address: &str, state_dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem-registry"));
    command
        .args([
            "--address",
            address,
            "--state-dir",
            state_dir.to_str().unwrap(),
        ])
        .args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn fails(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

fn fetch(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn wait_until_ready(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fetch(address, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        assert!(
            Instant::now() < deadline,
            "the registry did not become ready"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn terminate(child: &Child) {
    let status = Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn it_serves_metrics_and_ends_cleanly_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = registry("127.0.7.40", directory.path(), &[])
        .spawn()
        .unwrap();
    wait_until_ready("127.0.7.40:7480");
    let metrics = fetch("127.0.7.40:7480", "/metrics").unwrap();
    assert!(
        metrics.contains("registry_generation 1\n")
            && metrics.contains("registry_members_alive 0\n"),
        "{metrics}"
    );
    terminate(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_taken_port_and_a_taken_store_are_named_with_their_holder() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.7.41:7400").unwrap();
    let said = fails(registry("127.0.7.41", directory.path(), &[]));
    let me = format!("process {}", std::process::id());
    assert!(
        said.contains("grpc.listen") && said.contains("127.0.7.41:7400") && said.contains(&me),
        "{said}"
    );
    drop(taken);

    let mut first = registry("127.0.7.41", directory.path(), &[])
        .spawn()
        .unwrap();
    wait_until_ready("127.0.7.41:7480");
    let said = fails(registry("127.0.7.42", directory.path(), &[]));
    let file = directory.path().join("registry.redb");
    assert!(
        said.contains(file.to_str().unwrap()) && said.contains("another process"),
        "{said}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn check_prints_every_value_with_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registry.toml");
    std::fs::write(&file, "cluster = 'lab'\n[log]\nformat = 'json'\n").unwrap();
    let file = file.to_str().unwrap();
    let mut command = registry(
        "127.0.7.43",
        directory.path(),
        &["--check", "--config", file],
    );
    command.env("TANDEM_GRPC__LISTEN", "127.0.7.43:7499");
    let output = command.output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    for (value, source) in [
        ("cluster = \"lab\"", file),
        ("grpc.listen = \"127.0.7.43:7499\"", "TANDEM_GRPC__LISTEN"),
        ("http.listen = \"127.0.7.43:7480\"", "default"),
        ("address = \"127.0.7.43\"", "--address"),
    ] {
        let line = said
            .lines()
            .find(|line| line.starts_with(value))
            .unwrap_or_else(|| panic!("{value} in {said}"));
        assert!(line.ends_with(&format!("# {source}")), "{line}");
    }
}

#[test]
fn all_wrong_settings_are_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let said = fails(registry(
        "127.0.7.44",
        directory.path(),
        &["--check", "--cluster", "A B", "--log-format", "xml"],
    ));
    assert!(
        said.contains("--cluster") && said.contains("--log-format"),
        "{said}"
    );
}

#[test]
fn what_a_hand_changes_stands_in_the_audit_log() {
    let Some(etcds) = Etcds::start(1, Setup::default()) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let endpoints = etcds.endpoints().join(",");
    let settings = [
        ["--store-backend", "etcd"],
        ["--store-etcd-endpoints", &endpoints],
        ["--log-filter", "error,audit=info"],
    ];
    let mut child = registry("127.0.7.46", directory.path(), &settings.concat())
        .spawn()
        .unwrap();
    wait_until_ready("127.0.7.46:7480");
    for (path, value) in [
        ("config/sets/2", r#"{"name":"sets/2"}"#),
        ("config/sets/2/a", "{"),
    ] {
        etcds.ctl(&["put", &format!("/tandem/v1/tandem/{path}"), value]);
    }
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for (resource, code) in [
        ("sets/2", "Ok"),
        ("sets/2/destinations/a", "InvalidArgument"),
    ] {
        let line = lines.next().unwrap().unwrap();
        for part in ["audit", "etcd", "by hand", resource, code] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    terminate(&child);
    assert!(child.wait().unwrap().success());
}
