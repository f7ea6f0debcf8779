//! Who may run beside whom, and what is said about what was left out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Load wants the machine to itself; tests that place a few calls share it.
static MACHINE: RwLock<()> = RwLock::new(());

/// The right to run; held for the length of a test.
pub(crate) enum Permit {
    Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
    Shared(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
}

/// Waits until nothing else runs. `None`, and a word about it, when this must be left out.
pub(crate) fn alone(tools: &[&str]) -> Option<Permit> {
    allowed(tools).then(|| Permit::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)))
}

/// Waits until no load runs. `None`, and a word about it, when this must be left out.
pub(crate) fn shared(tools: &[&str]) -> Option<Permit> {
    allowed(tools).then(|| Permit::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
}

fn allowed(tools: &[&str]) -> bool {
    if std::env::var_os("TANDEM_PEERS").is_none() {
        say(
            "left out: TANDEM_PEERS is not set; `cargo xtask test` sets it and builds what is tested",
        );
        return false;
    }
    assert!(
        binary().exists(),
        "{} is missing; `cargo xtask test` builds it",
        binary().display()
    );
    let missing = tools.iter().find(|tool| !is_installed(tool));
    if let Some(tool) = missing {
        say(&format!(
            "left out: {tool} is not installed; `cargo xtask setup` installs it"
        ));
    }
    missing.is_none()
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).exists())
}

/// Returns the program under test.
pub(crate) fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("TANDEM_BINARY") {
        return binary.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    // Relative to the root, as cargo was started there.
    let target = repository().join(target);
    target.join("release/tandem")
}

/// Returns the root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lies in the root")
}

/// Says something that is seen even when the test passes.
pub(crate) fn say(text: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("interop");
    let _nobody_reads = writeln!(std::io::stderr(), "  {test}: {text}");
}
