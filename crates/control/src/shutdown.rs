//! How a process is told to stop: the first SIGTERM or SIGINT drains it, the second ends it at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
pub use tokio_util::sync::CancellationToken as Shutdown;

/// Exit status after a second signal.
pub const EXIT_STATUS_AT_ONCE: i32 = 130;

/// Returns a token that is cancelled by the first SIGTERM or SIGINT. A second one exits the process.
///
/// # Errors
///
/// When the signals cannot be caught.
pub fn on_signals() -> io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = Shutdown::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        for exit in [false, true] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if exit {
                tracing::warn!(signal = name, "exiting at once");
                std::process::exit(EXIT_STATUS_AT_ONCE);
            }
            tracing::info!(signal = name, "draining; a second signal exits at once");
            token.cancel();
        }
    });
    Ok(shutdown)
}
