//! One process: bind, join the cluster, move SIP, serve its faces, drain, leave.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::ArgMatches;
use control::client::{NodeConfig, NodeSession};
use control::shutdown::Shutdown;
use control::view::{MemberKind, Side, SipEndpoint, View};
use element::Sharded;
use face::Health;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sip::{DialogConfig, ProxyConfig, TimerConfig};
use telemetry::http::Readiness;
use tokio::sync::watch;
use transport::{RunningClock, Sockets, Workers};

use crate::addresses::Addresses;
use crate::config::{HostConfig, RoleDefaults};
use crate::drain::{self, Drain, DrainedBy};
use crate::figures::Figures;
use crate::handle::Handle;
use crate::keys::keys;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::records::RecordFile;
use crate::resolve::{Answer, Name, System, resolve};

/// Response contexts of a whole process, shared out among its shards. See [`ProxyConfig`].
const CONTEXTS_MAX: usize = 1_000_000;
/// Dialogs of a whole process.
const DIALOGS_MAX: usize = 500_000;
/// How often the process asks its node what there is to log and to look up.
const TICK: Duration = Duration::from_millis(20);

/// How long a goodbye to the bus may take to be answered.
const LEAVE_GRACE: Duration = Duration::from_millis(200);
/// How many look-ups are started in one tick.
const LOOKUPS_MAX: usize = 64;
/// How long a look-up may take.
const LOOKUP_MAX: Duration = Duration::from_millis(1800);
/// How often a draining process looks whether it is done.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// What an SBC and a router do differently.
pub trait Role: Send + Sync + Sized + 'static {
    /// One shard.
    type Shard: element::Shard;
    /// The node.
    type Node: element::Node<
            View = <Self::Shard as element::Shard>::View,
            Notice = <Self::Shard as element::Shard>::Notice,
            Outcomes = <Self::Shard as element::Shard>::Outcomes,
        >;

    /// What it is in the registry.
    const KIND: MemberKind;
    /// The program's name.
    const PROGRAM: &'static str;
    /// What `--help` says it is.
    const ABOUT: &'static str;
    /// Timer C: the second pass waits longest, then the router, then the first pass.
    const TIMER_C: Duration;

    /// Returns what its settings default to.
    fn defaults() -> RoleDefaults;
    /// Makes a shard.
    fn shard(proxy: ProxyConfig, dialogs: DialogConfig, seed: u64) -> Self::Shard;
    /// Makes the node, of which this is start `incarnation`.
    fn node(config: &HostConfig, incarnation: u64, seed: u64) -> Self::Node;
    /// Returns the node's view as it is.
    fn view(node: &Self::Node) -> <Self::Shard as element::Shard>::View;
    /// Tells the node which addresses the cluster had.
    fn remember(node: &mut Self::Node, addresses: &Addresses);
    /// Puts a view of the registry in force.
    fn configure(node: &mut Self::Node, now: Instant, view: &View);
    /// Returns what of a view of the registry counts only when the process starts again.
    fn restart_needed(_node: &Self::Node, _view: &View) -> Vec<String> {
        Vec::new()
    }
    /// Notes whether one of those who may want it drained wants it.
    fn drain(node: &mut Self::Node, by: DrainedBy, wanted: bool);
    /// Returns who wants it drained.
    fn drained_by(node: &Self::Node) -> Drain;
    /// Tells whether nothing keeps a draining process from ending.
    fn is_drained(element: &Sharded<Self::Shard, Self::Node>) -> bool;
    /// Returns the next name to look up, if the role has any use for names.
    fn poll_lookup(node: &mut Self::Node) -> Option<Name>;
    /// Takes the answer: every address of the name, or none.
    fn handle_lookup(node: &mut Self::Node, now: Instant, name: Name, answer: Answer);
    /// Tells the node the wall clock, now and then.
    fn set_wall_clock(_node: &mut Self::Node, _now: Instant, _wall: SystemTime) {}
    /// Returns the call records to write, a line each.
    fn take_records(_node: &mut Self::Node) -> Vec<String> {
        Vec::new()
    }
    /// Counts call records that were taken and could not be written.
    fn note_records_lost(_node: &mut Self::Node, _count: u64) {}
    /// Says goodbye to other nodes, when nothing keeps the process any more.
    fn leave(_node: &mut Self::Node, _now: Instant) {}
    /// Logs what has changed since it was last asked.
    fn log_changes(node: &mut Self::Node);
    /// Adds its own gRPC services.
    fn services(face: &mut face::Server, host: &Arc<Host<Self>>);
    /// Reads its own figures.
    fn measure(element: &Sharded<Self::Shard, Self::Node>, now: Instant, figures: &mut Figures);
}

/// What a process's gRPC services may use.
pub struct Host<R: Role> {
    /// The element.
    pub handle: Handle<R::Shard, R::Node>,
    /// The settings.
    pub config: Arc<HostConfig>,
    /// Which start of the node this is.
    pub incarnation: u64,
    /// When it started.
    pub started: SystemTime,
    /// The registry's view in force.
    pub view: watch::Receiver<Arc<View>>,
    /// Whether the registry is connected.
    pub connected: watch::Receiver<bool>,
    /// Is cancelled when the process drains.
    pub shutdown: Shutdown,
}

/// Returns the command line of a role.
#[must_use]
pub fn command<R: Role>() -> clap::Command {
    control::settings::command(R::PROGRAM, R::ABOUT, &keys(&R::defaults()))
}

/// Runs a role by its command line until SIGTERM.
///
/// # Errors
/// What keeps it from starting: each with what is in the way and the remedy.
pub fn main<R: Role>(matches: &ArgMatches) -> anyhow::Result<()> {
    let (config, effective) = HostConfig::gather(&R::defaults(), matches)?;
    if control::settings::is_check(matches) {
        use std::io::Write as _;
        return Ok(write!(std::io::stdout(), "{effective}")?);
    }
    telemetry::logs::start(&config.filter, config.format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = control::shutdown::on_signals()?;
        run::<R>(config, shutdown).await
    })
}

/// Runs a role until `shutdown` is cancelled and it has drained.
///
/// # Errors
/// As [`main`].
pub async fn run<R: Role>(config: HostConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let dmq = config.dmq.iter().map(|dmq| dmq.listen);
    let listen: Vec<_> = config.listen.iter().copied().chain(dmq).collect();
    let sockets = Sockets::bind(&listen, config.workers)?;
    let records = config.records.as_deref().map(RecordFile::open).transpose();
    let mut records = records.context("records.path")?;
    let grpc = control::bind::tcp("grpc.listen", config.grpc).await?;
    let http = control::bind::tcp("http.listen", config.http).await?;
    let mut face = face::Server::new(&config.face).context("grpc.tls")?;
    // What a view may say is checked as it is read: `control::view`. What needs a restart the node knows,
    // which starts after this.
    let running: Arc<OnceLock<Handle<R::Shard, R::Node>>> = Arc::default();
    let asked = Arc::clone(&running);
    let check = move |view: &View| {
        let element = asked.get().map(Handle::element);
        let needed =
            element.map(|element| element.inspect_node(|node| R::restart_needed(node, view)));
        Ok(needed.unwrap_or_default())
    };
    let session = NodeSession::start(node_config::<R>(&config), Box::new(check)).await?;
    let mut addresses = Addresses::load(&config.state_dir).context("state_dir/addresses")?;
    let clock = Arc::new(RunningClock::new());

    let mut random = StdRng::from_os_rng();
    let mut node = R::node(&config, session.incarnation(), random.next_u64());
    R::set_wall_clock(&mut node, clock.now(), SystemTime::now());
    let mut view = session.view();
    let first = view.borrow_and_update().clone();
    if first.generation > 0 {
        keep(&mut addresses, &first);
    }
    R::remember(&mut node, &addresses);
    if first.generation > 0 {
        tracing::info!(
            generation = first.generation,
            "starting from the last good configuration"
        );
        R::configure(&mut node, clock.now(), &first);
    }
    let proxy = ProxyConfig {
        listen: config.advertised(),
        timers: TimerConfig::default(),
        timer_c: R::TIMER_C,
        contexts_max: CONTEXTS_MAX / config.shards,
    };
    let dialogs = DialogConfig {
        dialogs_max: DIALOGS_MAX / config.shards,
        ..DialogConfig::default()
    };
    let shards = (0..config.shards)
        .map(|_| R::shard(proxy.clone(), dialogs, random.next_u64()))
        .collect();
    let mut shard_key = [0; 16];
    random.fill_bytes(&mut shard_key);
    let initial = Arc::new(R::view(&node));
    let element = Arc::new(Sharded::new(shards, node, initial, shard_key));
    let workers = Workers::start(element.clone(), sockets, clock.clone())?;
    let handle = Handle::new(element.clone(), clock, workers.transmitter());
    running.get_or_init(|| handle.clone());

    let host = Arc::new(Host::<R> {
        handle: handle.clone(),
        config: Arc::new(config.clone()),
        incarnation: session.incarnation(),
        started: SystemTime::now(),
        view: session.view(),
        connected: session.connected(),
        shutdown: shutdown.clone(),
    });
    let readiness = Readiness::default();
    let ended = Shutdown::new();
    face.add(drain::service::<R>(&config.node, handle.clone()));
    R::services(&mut face, &host);
    let health = face.health();
    if let Some(records) = &records {
        let trouble = records.trouble();
        tokio::spawn(show_records(trouble, readiness.clone(), health.clone()));
    }
    let grpc = tokio::spawn(face.serve(grpc, ended.clone()));
    let mut registry = Registry::with_prefix("tandem");
    registry.register_collector(Box::new(Metrics::<R>::new(
        element.clone(),
        workers.counters().to_vec(),
    )));
    let http = tokio::spawn(telemetry::http::serve(
        http,
        Arc::new(registry),
        readiness.clone(),
        stopped(ended.clone()),
    ));

    tracing::info!(
        node = %config.node, incarnation = host.incarnation,
        sip = %config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        grpc = %config.grpc, http = %config.http, "running"
    );
    let mut connected = session.connected();
    let mut ticks = tokio::time::interval(TICK);
    let mut tick = {
        let handle = handle.clone();
        let directory = Arc::new(System::new());
        let session = &session;
        move || {
            let lost = records.as_mut().map_or(0, RecordFile::take_lost);
            let (names, lines, drain) = handle.with_node(|now, node| {
                R::note_records_lost(node, lost);
                R::set_wall_clock(node, now, SystemTime::now());
                R::log_changes(node);
                let names = std::iter::from_fn(|| R::poll_lookup(node)).take(LOOKUPS_MAX);
                let names = names.collect::<Vec<_>>();
                (names, R::take_records(node), R::drained_by(node))
            });
            session.report_drain(drain.sources());
            if let Some(records) = &mut records {
                records.add(lines);
            }
            for name in names {
                let (handle, directory) = (handle.clone(), directory.clone());
                tokio::spawn(look_up::<R>(handle, directory, name, random.next_u64()));
            }
        }
    };
    let up = *connected.borrow();
    show_health(&readiness, &health, &first, up).await;
    let mut live = Live::new(&config);
    live.configure(&config, first.profile(R::KIND));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = view.changed() => {
                changed.context("the registry's client ended")?;
                let latest = view.borrow_and_update().clone();
                handle.with_node(|now, node| R::configure(node, now, &latest));
                keep(&mut addresses, &latest);
                live.configure(&config, latest.profile(R::KIND));
                tracing::info!(generation = latest.generation, "configuration in force");
                let up = *connected.borrow();
                show_health(&readiness, &health, &latest, up).await;
            }
            changed = connected.changed() => {
                changed.context("the registry's client ended")?;
                let up = *connected.borrow_and_update();
                tracing::info!(connected = up, "registry");
                let latest = view.borrow().clone();
                show_health(&readiness, &health, &latest, up).await;
            }
            _ = ticks.tick() => tick(),
        }
    }

    readiness.down("calls", "draining");
    health.drain().await;
    handle.with_node(|_, node| R::drain(node, DrainedBy::Signal, true));
    let deadline = tokio::time::Instant::now() + live.drain_timeout;
    while !R::is_drained(&element) {
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!("drain_timeout has passed; ending what is left");
            break;
        }
        tick();
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
    if config.dmq.is_some() {
        handle.with_node(|now, node| R::leave(node, now));
        tokio::time::sleep(LEAVE_GRACE).await;
    }
    tick();
    session.leave().await;
    workers.join();
    ended.cancel();
    // Streams that a reader keeps open do not keep the process from ending.
    let _grace = tokio::time::timeout(Duration::from_millis(500), async {
        (grpc.await, http.await)
    })
    .await;
    tracing::info!("ended");
    Ok(())
}

/// Looks a name up and tells the node, also when there is nothing to tell.
async fn look_up<R: Role>(
    handle: Handle<R::Shard, R::Node>,
    directory: Arc<System>,
    name: Name,
    seed: u64,
) {
    let found = tokio::time::timeout(LOOKUP_MAX, resolve(&directory, &name, seed)).await;
    let answer = match found {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(name = %name.host, %error, "name not found");
            Answer::default()
        }
        Err(_) => {
            tracing::warn!(name = %name.host, "name not found in time");
            Answer::default()
        }
    };
    handle.with_node(|now, node| R::handle_lookup(node, now, name, answer));
}

fn keep(addresses: &mut Addresses, view: &View) {
    if let Err(error) = addresses.note(view) {
        tracing::warn!(%error, "addresses of the cluster could not be kept on disk");
    }
}

async fn stopped(ended: Shutdown) {
    ended.cancelled().await;
}

/// Shows the components `configuration`, without which no call goes, and `registry`, without which
/// they go on: it is said, but no reason to be taken out of service.
async fn show_health(readiness: &Readiness, health: &Health, view: &View, connected: bool) {
    let configured = view.generation > 0;
    if configured {
        readiness.up("configuration");
    } else {
        readiness.down("configuration", "the registry was never seen");
    }
    if !connected {
        tracing::debug!("registry not connected");
    }
    health.show("configuration", configured).await;
    health.show("registry", connected).await;
}

/// Keeps the component `records` in step. Calls go on without their records: it is no reason to be taken
/// out of service, either.
async fn show_records(
    mut trouble: watch::Receiver<Option<String>>,
    readiness: Readiness,
    health: Health,
) {
    loop {
        let reason = trouble.borrow_and_update().clone();
        health.show("records", reason.is_none()).await;
        match reason {
            None => readiness.up("records"),
            Some(reason) => readiness.missed("records", reason),
        }
        if trouble.changed().await.is_err() {
            // The process is ending.
            return;
        }
    }
}

fn node_config<R: Role>(config: &HostConfig) -> NodeConfig {
    let side = |index: usize| match (config.listen.len(), index) {
        (1, _) => Side::Both,
        (_, 0) => Side::Outside,
        _ => Side::Inside,
    };
    let sip = config.advertised().into_iter().enumerate();
    let sip = sip.map(|(index, address)| SipEndpoint {
        side: side(index),
        address,
    });
    NodeConfig {
        id: config.node.clone(),
        kind: R::KIND,
        address: config.advertise,
        sip: sip.collect(),
        dmq_port: config.dmq.as_ref().map(|dmq| dmq.listen.port()),
        cell: config.cell.clone(),
        zone: String::new(),
        registries: config.registry.iter().map(ToString::to_string).collect(),
        tls: config.registry_tls.clone(),
        state_dir: config.state_dir.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn readyz(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn records_that_cannot_be_written_are_said_and_take_nobody_out_of_service() {
        let listener = TcpListener::bind("127.0.7.3:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        tokio::spawn(telemetry::http::serve(
            listener,
            Arc::default(),
            readiness.clone(),
            std::future::pending(),
        ));
        let (said, trouble) = watch::channel(None);
        tokio::spawn(show_records(trouble, readiness, Health::default()));
        for (trouble, shown) in [
            (None, "records: up\n"),
            (Some("disk full"), "records: down: disk full\n"),
            (None, "records: up\n"),
        ] {
            said.send_replace(trouble.map(str::to_owned));
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let answer = readyz(address).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                if answer.ends_with(shown) {
                    break;
                }
                assert!(Instant::now() < deadline, "{answer}");
            }
        }
    }
}
