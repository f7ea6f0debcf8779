//! What we write, byte for byte, in `tests/golden`; `UPDATE_GOLDEN=1` writes the files anew.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use dmq::{Bus, Schedule};
use world::{bus, ms, node, nodes, origin, sent, with_message};

fn check(name: &str, bytes: &[u8]) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let file = directory.join(format!("{name}.sip"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, bytes).unwrap();
    }
    let golden = std::fs::read(&file).unwrap_or_default();
    assert_eq!(
        String::from_utf8_lossy(bytes),
        String::from_utf8_lossy(&golden),
        "{name}"
    );
}

fn check_sent(bus: &mut Bus, names: &[&str]) -> Vec<Vec<u8>> {
    let sent: Vec<_> = sent(bus).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(sent.len(), names.len());
    for (bytes, name) in sent.iter().zip(names) {
        check(name, bytes);
    }
    sent
}

/// Gives a notification, or the answer to one, to a bus.
fn take(bus: &mut Bus, now: Instant, source: SocketAddr, bytes: &[u8]) {
    with_message(bytes, |message| {
        assert!(bus.handle_message(now, source, message).is_none());
    });
}

#[test]
fn what_goes_out_is_what_it_was() {
    let now = origin();
    let mut old = bus(node(0), 1);
    old.set_allowed(now, nodes(0..3), Vec::new());
    let mut new = bus(node(1), 2);
    new.set_allowed(now, nodes(0..3), Vec::new());
    new.set_notification(now, [node(0)]);

    let join = check_sent(&mut new, &["join"]).remove(0);
    take(&mut old, now, node(1), &join);
    let said = check_sent(&mut old, &["join.reply", "announcement"]);
    for message in said {
        take(&mut new, now, node(0), &message);
    }
    check_sent(&mut new, &["announcement.reply"]);

    new.handle_timeout(now + ms(5_000));
    check_sent(&mut new, &["ping"]);
    let update = br#"{"action":3,"h_entry":17,"h_id":4026531841}"#;
    for (channel, body) in [("dialog", &update[..]), ("tandem", b"hello")] {
        let id = new.send(now, node(0), channel, body, Schedule::Stock);
        assert!(id.is_some());
        let request = check_sent(&mut new, &[channel]).remove(0);
        for status in [200, 400, 404, 500] {
            with_message(&request, |request| old.reply(now, node(1), request, status));
            check_sent(&mut old, &[&format!("{channel}.{status}")]);
        }
    }
    new.leave(now + ms(5_000));
    check_sent(&mut new, &["leave"]);
}
