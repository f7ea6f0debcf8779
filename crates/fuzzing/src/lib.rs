//! What fuzzers feed: one function for each thing that reads what the network sent.
//!
//! Each takes any bytes, survives them, and panics where something does not hold that must hold for
//! all of them. `fuzz/` has a target for each of [`TARGETS`], `tests/corpus.rs` replays what is kept
//! under `testdata`. Only ever run by tests and fuzzers.

mod bodies;
mod message;
mod replica;

/// Reads bytes that came from somewhere.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora and of the targets in `fuzz/`.
pub const TARGETS: [(&str, Target); 6] = [
    ("message", message::message),
    ("node_list", bodies::node_list),
    ("dialog", bodies::dialog),
    ("table", bodies::table),
    ("tandem", replica::tandem),
    ("stock", replica::stock),
];

/// Runs the target of that name.
///
/// # Panics
///
/// When there is none, or when what must hold does not.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.expect("a target of that name");
    target(data);
}
