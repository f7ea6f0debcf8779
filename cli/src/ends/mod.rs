//! The two ends of calls: `tandem run carrier` places them, `tandem run ipbx` answers them, and the
//! demo has both in one thread. Sans-IO user agents, each driven over one socket here.

pub(crate) mod carrier;
pub(crate) mod endpoint;
pub(crate) mod ipbx;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use control::shutdown;

/// Runs an end on a thread of its own until it returns; the first SIGTERM raises the flag that it is
/// given, a second one ends the process.
fn until_signal<T: Send + 'static>(
    name: &str,
    run: impl FnOnce(&AtomicBool) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stopped = Arc::clone(&stop);
    runtime.block_on(async move {
        let shutdown = shutdown::on_signals().context("catching signals")?;
        tokio::spawn(async move {
            shutdown.cancelled().await;
            stop.store(true, Ordering::Relaxed);
        });
        let (done, ended) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || done.send(run(&stopped)).is_ok())?;
        match ended.await {
            Ok(result) => result,
            Err(_) => bail!("the thread panicked"),
        }
    })
}
