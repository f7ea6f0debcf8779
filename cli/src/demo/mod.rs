//! `tandem demo`: the main job on a fresh machine, with everything embedded.
//!
//! A registry, two routers and an SBC as processes of their own, a carrier and an IPBX whose calls
//! ring for 0 to 3 s. A router dies under them; the summary says what became of every call, and of
//! what the routers had told each other. With `--with-kamailio` one of the routers is a Kamailio, with
//! `--etcd` the registry stores what it knows in an etcd of three members.

mod agents;
mod bus;
mod etcd;
mod kamailio;
mod ladder;
mod network;
mod replica;
mod summary;
mod system;
mod tap;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::ValueEnum;
use clap::error::ErrorKind;
use control::router::v1::ReplicationStatus;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use agents::Agents;
use bus::BusRecorder;
use network::Block;
use replica::Replicas;
use summary::Summary;
use system::{Routers, Store, System};
use tap::Recorder;

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many calls are placed.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    calls: u32,
    /// Calls a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Seconds from answer to hang-up.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    hold: f64,
    /// What happens to the router that carries the watched call.
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    fault: Fault,
    /// Makes the calls' numbers, ring times and tags; random unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Puts a real Kamailio in the place of one router; it is the one that something happens to
    #[arg(long)]
    with_kamailio: bool,
    /// Stores the cluster in a real etcd of three members instead of a file of the registry
    #[arg(long)]
    etcd: bool,
    /// Leaves everything running afterwards, for a phone, SIPp, sngrep or grpcurl of your own.
    #[arg(long)]
    keep: bool,
    /// Prints one JSON object on the last line of standard output.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn routers(&self) -> Routers {
        match self.with_kamailio {
            true => Routers::WithKamailio,
            false => Routers::Tandem,
        }
    }

    fn store(&self) -> Store {
        match self.etcd {
            true => Store::Etcd,
            false => Store::Embedded,
        }
    }

    /// Returns the router that something must happen to, if it may not be either.
    fn victim(&self) -> Option<usize> {
        self.with_kamailio.then_some(1)
    }
}

/// What may happen to a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL: its port is closed, and ICMP says so.
    Kill,
    /// SIGSTOP for two seconds: nothing tells, and then it wakes up with old requests in hand.
    Freeze,
    /// Nothing.
    None,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("takes 0 to 3600 seconds".to_owned()),
    }
}

/// How long a frozen router stays frozen.
const FROZEN: Duration = Duration::from_secs(2);

/// Runs the demo; tells whether every call went as it should.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    if options.with_kamailio && kamailio::program().is_none() {
        clap::Error::raw(ErrorKind::InvalidValue, kamailio::NEEDED).exit();
    }
    if options.etcd && !etcd::is_installed() {
        clap::Error::raw(ErrorKind::InvalidValue, etcd::NEEDED).exit();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            result = show(options) => result,
            // What is dropped here takes its processes with it.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

async fn show(options: &Options) -> anyhow::Result<bool> {
    let seed = options
        .seed
        .unwrap_or_else(|| StdRng::from_os_rng().next_u64());
    let block = Block::find()?;
    say(&format!(
        "starting {}, {} and an SBC on {block} (seed {seed})",
        match options.store() {
            Store::Embedded => "a registry",
            Store::Etcd => "three etcd, a registry over them",
        },
        match options.routers() {
            Routers::Tandem => "two routers",
            Routers::WithKamailio => "a router, a Kamailio",
        }
    ));
    let mut system = System::start(block, options.routers(), options.store())?;
    system.ready().await?;
    let recorder = Recorder::start(&system).await?;
    let bus_recorder = BusRecorder::start(&system).await?;

    let plan = agents::Plan {
        calls: options.calls,
        rate: options.rate,
        hold: Duration::from_secs_f64(options.hold),
        seed,
    };
    say(&format!(
        "placing {} calls, {} a second, each ringing 0 to 3 s and held {} s",
        plan.calls, plan.rate, options.hold
    ));
    let agents = Agents::start(block, plan)?;
    let death = if options.fault == Fault::None {
        wait(&agents, |progress| progress.ended >= plan.calls).await?;
        None
    } else {
        Some(strike(options, &mut system, &agents, &recorder).await?)
    };
    wait(&agents, |progress| progress.ended >= plan.calls).await?;
    let report = agents.finish()?;
    // Taps are streams: what was sent last is on its way.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = recorder.finish()?;
    let killed = death.as_ref().filter(|_| options.fault == Fault::Kill);
    let bus = bus_recorder.finish(killed.map(|death| death.router))?;
    let last = killed.and_then(|death| death.last_status.as_ref());
    let replicas = Replicas::read(&system, last).await?;

    if options.json {
        // One object, and nothing that a program would have to skip.
    } else {
        let watched = death
            .as_ref()
            .map(|death| death.watched.clone())
            .or_else(|| seen.first_call());
        if let Some(call) = watched {
            let (routers, death) = (options.routers(), death.as_ref());
            println!(
                "\n{}",
                ladder::draw(&block, routers, &seen, &bus, &call, death)
            );
        }
    }
    let summary = Summary::new(options, &seen, &bus, &replicas, &report, death.as_ref());
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{}", summary.text(options, death.as_ref()));
    }
    if options.keep {
        println!("{}", system.addresses());
        tokio::signal::ctrl_c()
            .await
            .context("waiting for Ctrl-C")?;
    } else if !summary.is_good() {
        say(&format!(
            "the logs of every process are in {}",
            system.keep_logs().display()
        ));
    }
    Ok(summary.is_good())
}

/// What was done to a router, and when.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    /// Which: 0 or 1.
    pub(crate) router: usize,
    /// Nanoseconds since 1970.
    pub(crate) at: u64,
    /// From there to inactive at the SBC.
    pub(crate) detected: Option<Duration>,
    /// The Call-ID of the call that is watched.
    pub(crate) watched: String,
    /// What it had said of its replica, unless it is a Kamailio.
    pub(crate) last_status: Option<ReplicationStatus>,
}

/// Waits until the calls are in full swing, then strikes the router of one that is being held.
async fn strike(
    options: &Options,
    system: &mut System,
    agents: &Agents,
    recorder: &Recorder,
) -> anyhow::Result<Death> {
    let half = options.calls / 2;
    wait(agents, |progress| progress.placed > half).await?;
    let patience = Instant::now();
    let (watched, router) = loop {
        if let Some(found) = recorder.held_call(
            Duration::from_secs_f64(options.hold / 2.0),
            options.victim(),
        ) {
            break found;
        }
        if patience.elapsed() > Duration::from_secs(10) || agents.progress().ended >= options.calls
        {
            bail!(
                "no call is being held that could be watched; use a longer --hold or more --calls"
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let last_status = match options.victim() {
        None => Some(system.replication_status(router).await?),
        Some(_) => None,
    };
    let at = nanos_now();
    match options.fault {
        Fault::Kill => system.kill_router(router)?,
        Fault::Freeze => system.freeze_router(router)?,
        Fault::None => unreachable!("nothing to strike with"),
    }
    let name = options.routers().name(router);
    let verb = if options.fault == Fault::Kill {
        "kill -9"
    } else {
        "kill -STOP"
    };
    say(&format!("{verb} {name}: it carries call {watched}"));
    let detected = system
        .wait_until_lost(router, at, Duration::from_secs(5))
        .await?;
    if let Some(detected) = detected {
        say(&format!(
            "the SBC found {name} dead after {} ms",
            detected.as_millis()
        ));
    }
    if options.fault == Fault::Freeze {
        let slept = Duration::from_nanos(nanos_now().saturating_sub(at));
        tokio::time::sleep(FROZEN.saturating_sub(slept)).await;
        system.thaw_router(router)?;
        say(&format!(
            "kill -CONT {name}: it wakes with old requests in hand"
        ));
    }
    Ok(Death {
        router,
        at,
        detected,
        watched,
        last_status,
    })
}

/// Waits for the calls, and says every second how they are.
async fn wait(agents: &Agents, done: impl Fn(&agents::Progress) -> bool) -> anyhow::Result<()> {
    let mut last = Instant::now();
    loop {
        let progress = agents.progress();
        if done(&progress) {
            return Ok(());
        }
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            say(&format!(
                "{} placed, {} ringing, {} talking, {} ended",
                progress.placed, progress.ringing, progress.talking, progress.ended
            ));
        }
        agents.check()?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn nanos_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos() as u64
}

/// Progress goes to standard error, so that standard output holds the result alone.
fn say(text: &str) {
    eprintln!("  {text}");
}
