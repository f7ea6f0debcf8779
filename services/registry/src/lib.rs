//! The registry: who is in the cluster and what an operator wants of it, stored durably, checked
//! before it counts, and pushed to every node as acknowledged generations.
//!
//! `catalog` decides and stores, `hand` settles what is written past it, `state` is what the store says
//! in memory, `grpc` is the face.
//! No call ever waits for this process.

mod batch;
mod bounded;
mod catalog;
mod config;
mod grpc;
mod hand;
mod keys;
mod metrics;
mod refused;
mod resource;
mod state;
mod statuses;
mod written;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgMatches, Command};
use control::shutdown::Shutdown;
use control::{bind, settings, shutdown};
use store::{Embedded, Etcd, Health, Store};
use telemetry::http::Readiness;
use telemetry::{http, logs};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use config::{Config, Pace, StoreConfig};
pub use keys::keys;

/// How long streams and requests may take to end after a shutdown was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long a connection may wait for a registry whose store does not answer at its start; then it is
/// ended, so that a node tries another registry.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);

/// Returns the command line of the registry, to be run alone or as a part of `tandem`.
#[must_use]
pub fn command() -> Command {
    settings::command(
        "tandem-registry",
        "Keeps the cluster's members and configuration",
        &keys(),
    )
}

/// Runs the registry as a program with these arguments, the first of them its name.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match command().try_get_matches_from(arguments) {
        Ok(matches) => main_with(&matches),
        // Help and version are no errors; clap knows which stream and status they want.
        Err(error) => error.exit(),
    }
}

/// Runs the registry as a program with the matches of [`command`].
#[must_use]
pub fn main_with(matches: &ArgMatches) -> ExitCode {
    match start(matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_reads = writeln!(std::io::stderr(), "tandem-registry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the settings that the matches of [`command`] name.
///
/// # Errors
///
/// Every mistake in them.
pub fn read_config(matches: &ArgMatches) -> anyhow::Result<Config> {
    let (config, _) = Config::gather(matches).context("these settings are wrong")?;
    Ok(config)
}

fn start(matches: &ArgMatches) -> anyhow::Result<()> {
    let (config, effective) = Config::gather(matches).context("these settings are wrong")?;
    if settings::is_check(matches) {
        return write!(std::io::stdout(), "{effective}").context("standard output");
    }
    logs::start(&config.log_filter, config.log_format);
    let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
    let done = runtime.block_on(async { run(config, shutdown::on_signals()?).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Runs a registry until `shutdown` is cancelled and its streams have ended.
///
/// # Errors
///
/// At start: a port or file that cannot be had, with its holder and the remedy. Later: a face that
/// failed.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let grpc_listener = bind::tcp("grpc.listen", config.grpc_listen).await?;
    let http_listener = bind::tcp("http.listen", config.http_listen).await?;
    let store: Arc<dyn Store> = match &config.store {
        StoreConfig::Embedded => {
            Arc::new(Embedded::open(&config.store_path(), &config.cluster).await?)
        }
        StoreConfig::Etcd(etcd) => Arc::new(Etcd::open(etcd, &config.cluster)),
    };
    let place = config.store_place();
    let catalog = tokio::select! {
        catalog = catalog::Catalog::open(store, config.cluster.clone(), config.forget_after) => {
            Arc::new(catalog.with_context(|| place.clone())?)
        }
        never = hang_up([&grpc_listener, &http_listener]) => match never {},
        () = shutdown.cancelled() => return Ok(()),
    };
    let readiness = Readiness::default();
    tracing::info!(
        cluster = %config.cluster,
        grpc = %config.grpc_listen,
        http = %config.http_listen,
        store = place,
        generation = catalog.state().generation(),
        "registry started"
    );
    let metrics = metrics::registry(&catalog);
    let face = http::serve(
        http_listener,
        Arc::new(metrics),
        readiness.clone(),
        shutdown.clone().cancelled_owned(),
    );
    let faces = async {
        tokio::try_join!(
            async {
                grpc::serve(grpc_listener, &config, &catalog, &shutdown)
                    .await
                    .context("the gRPC face")
            },
            async { face.await.context("the HTTP face") },
        )
    };
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        ended = faces => ended.map(|((), ())| ()),
        ended = catalog.follow() => ended.context("the store"),
        never = show_health(catalog.store_health(), &readiness) => match never {},
        () = drained => Ok(()),
    }
}

/// Ends connections, after some time, for as long as it is polled.
async fn hang_up(listeners: [&TcpListener; 2]) -> Infallible {
    tokio::time::sleep(OPEN_PATIENCE).await;
    tracing::warn!("the store does not answer; waiting for it");
    loop {
        let [first, second] = listeners;
        let _accepted = tokio::select! {
            accepted = first.accept() => accepted,
            accepted = second.accept() => accepted,
        };
    }
}

/// Keeps `/readyz` in step: without its store a registry serves on from memory, and is ready.
async fn show_health(mut health: watch::Receiver<Health>, readiness: &Readiness) -> Infallible {
    loop {
        match &*health.borrow_and_update() {
            Health::Up => readiness.up("store"),
            Health::Down(reason) => readiness.missed("store", reason),
        }
        if health.changed().await.is_err() {
            // The store is closing, and so is everything.
            std::future::pending::<()>().await;
        }
    }
}
