//! The bodies captured between Kamailio nodes: `testdata/dmq`.

use std::fs;
use std::path::Path;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/dmq");

/// Returns name and body of every captured message of a channel, in the order of the names.
pub(crate) fn bodies(channel: &str) -> Vec<(String, Vec<u8>)> {
    let start = format!("KDMQ sip:{channel}@");
    let mut bodies: Vec<_> = fs::read_dir(DIRECTORY)
        .expect("the captures")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sip"))
        .map(|path| (name(&path), fs::read(&path).expect("a capture")))
        .filter(|(_, message)| message.starts_with(start.as_bytes()))
        .map(|(name, message)| (name, body(&message).to_vec()))
        .collect();
    bodies.sort();
    bodies
}

fn name(path: &Path) -> String {
    let name = path.file_stem().expect("a name");
    name.to_string_lossy().into_owned()
}

fn body(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    &message[end.expect("an end of the headers") + 4..]
}
