//! A process drains at the first signal and ends at once at the second.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: panics are its verdict, and one of its processes talks to the other"
)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use control::shutdown::{EXIT_STATUS_AT_ONCE, on_signals};

const CHILD: &str = "CONTROL_TEST_DRAINS_FOR_EVER";

#[test]
fn the_first_signal_drains_and_the_second_exits_at_once() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_drains_for_ever", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let terminate = || {
        assert!(
            Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap()
                .success()
        )
    };
    assert!(lines.any(|line| line.ends_with("waiting")));
    terminate();
    assert!(
        lines.any(|line| line == "draining"),
        "the first signal does not end it"
    );
    terminate();
    assert_eq!(child.wait().unwrap().code(), Some(EXIT_STATUS_AT_ONCE));
}

/// The process that the test above signals; does nothing in an ordinary run.
#[tokio::test]
async fn a_process_that_drains_for_ever() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let shutdown = on_signals().unwrap();
    println!("waiting");
    shutdown.cancelled().await;
    println!("draining");
    std::future::pending::<()>().await;
}
