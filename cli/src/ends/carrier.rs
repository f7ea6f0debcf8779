//! `tandem run carrier`: places calls at a steady rate and counts what becomes of them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control::settings::Span;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use user_agent::{CallPlan, CalleePlan, Carrier, CarrierConfig, CarrierEvent, Outcome};

use super::endpoint::{Endpoint, wait};
use super::until_signal;

/// Options of the carrier.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Where it sends from and is answered at: IPv4 address and UDP port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// The SBC that calls are placed through.
    #[arg(long, value_name = "ADDRESS:PORT")]
    proxy: SocketAddr,
    /// Calls a second.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// From answer to hang-up, such as 500ms or 3s.
    #[arg(long, default_value = "3s")]
    hold: Span,
    /// The longest ring: each call rings for 0 to this long.
    #[arg(long, default_value = "3s")]
    ring: Span,
    /// The number that is called.
    #[arg(long, default_value = "15145550199")]
    called: String,
    /// How many calls are placed; without it, it goes on until SIGTERM.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,
    /// How long the first call may take to come through: one is tried after the other, and what
    /// fails until then does not count.
    #[arg(long, default_value = "0s")]
    patience: Span,
    /// Time between two lines of progress.
    #[arg(long, default_value = "5s")]
    report: Span,
    /// Makes ring times and tags; random unless given.
    #[arg(long)]
    seed: Option<u64>,
}

/// The time between two tries of a first call.
const RETRY: Duration = Duration::from_millis(500);

/// How the calls are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) placed: u32,
    pub(crate) ringing: u32,
    pub(crate) talking: u32,
    pub(crate) ended: u32,
    pub(crate) completed: u32,
}

impl Progress {
    pub(crate) fn failed(&self) -> u32 {
        self.ended - self.completed
    }

    pub(crate) fn note(&mut self, carrier: &Carrier, event: &CarrierEvent) {
        match event {
            CarrierEvent::CallRinging { .. } => self.ringing += 1,
            CarrierEvent::CallAnswered { call } => {
                let rang = carrier
                    .record(call)
                    .is_some_and(|record| record.ringing.is_some());
                self.ringing = self.ringing.saturating_sub(u32::from(rang));
                self.talking += 1;
            }
            CarrierEvent::CallEnded { call, outcome } => {
                match carrier.record(call) {
                    Some(record) if record.answered.is_some() => {
                        self.talking = self.talking.saturating_sub(1);
                    }
                    Some(record) if record.ringing.is_some() => {
                        self.ringing = self.ringing.saturating_sub(1);
                    }
                    Some(_) | None => {}
                }
                self.ended += 1;
                self.completed += u32::from(*outcome == Outcome::Completed);
            }
            CarrierEvent::RequestFinished { .. } | CarrierEvent::Garbage { .. } => {}
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} placed, {} ringing, {} talking, {} completed, {} failed",
            self.placed,
            self.ringing,
            self.talking,
            self.completed,
            self.failed()
        )
    }
}

/// Places calls; tells whether every one went as it should.
pub(crate) fn run(options: Options) -> anyhow::Result<bool> {
    until_signal("carrier", move |stop| Run::new(options)?.drive(stop))
}

struct Run {
    options: Options,
    endpoint: Endpoint<Carrier>,
    random: StdRng,
    progress: Progress,
}

impl Run {
    fn new(options: Options) -> anyhow::Result<Self> {
        let seed = options
            .seed
            .unwrap_or_else(|| StdRng::from_os_rng().next_u64());
        let config = CarrierConfig::new(options.address, options.proxy, seed);
        println!(
            "carrier: {} calls a second through {} (seed {seed})",
            options.rate, options.proxy
        );
        Ok(Self {
            endpoint: Endpoint::open(options.address, Carrier::new(config))?,
            random: StdRng::seed_from_u64(seed),
            progress: Progress::default(),
            options,
        })
    }

    fn drive(mut self, stop: &AtomicBool) -> anyhow::Result<bool> {
        if !self.options.patience.0.is_zero() && !self.come_through(stop)? {
            return Ok(false);
        }
        let start = Instant::now();
        let mut reported = start;
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            let all = self.options.calls;
            let more = !stopping && all.is_none_or(|all| self.progress.placed < all);
            while more && self.due(start) <= Instant::now() {
                self.place()?;
            }
            self.turn()?;
            if !more && self.progress.ended == self.progress.placed {
                break;
            }
            if reported.elapsed() >= self.options.report.0 {
                reported = Instant::now();
                self.say(if stopping { "ending: " } else { "" });
            }
            self.sleep(more.then(|| self.due(start)))?;
        }
        self.say("the end: ");
        Ok(self.progress.failed() == 0)
    }

    /// Tries one call after the other until one comes through, and forgets them all; tells whether
    /// one did.
    fn come_through(&mut self, stop: &AtomicBool) -> anyhow::Result<bool> {
        let start = Instant::now();
        let mut next = start;
        while start.elapsed() < self.options.patience.0 && !stop.load(Ordering::Relaxed) {
            if self.progress.placed == self.progress.ended && next <= Instant::now() {
                self.place()?;
                next = Instant::now() + RETRY;
            }
            self.turn()?;
            if self.progress.completed > 0 {
                println!(
                    "carrier: the first call came through after {} tries",
                    self.progress.placed
                );
                self.progress = Progress::default();
                return Ok(true);
            }
            self.sleep(Some(next.max(Instant::now() + RETRY)))?;
        }
        println!(
            "carrier: no call came through within {}",
            self.options.patience
        );
        Ok(false)
    }

    fn place(&mut self) -> anyhow::Result<()> {
        let ring_max = u64::try_from(self.options.ring.0.as_millis())?;
        let ring = Duration::from_millis(self.random.random_range(0..=ring_max));
        let mut call = CallPlan::new(&self.options.called, self.options.hold.0);
        call.callee = Some(CalleePlan::answer(ring));
        self.endpoint.agent.place_call(Instant::now(), call)?;
        self.progress.placed += 1;
        Ok(())
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        self.endpoint.turn()?;
        let carrier = &mut self.endpoint.agent;
        while let Some(event) = carrier.poll_event() {
            self.progress.note(carrier, &event);
            if let CarrierEvent::CallEnded { call, outcome } = event
                && outcome != Outcome::Completed
            {
                println!("carrier: call {call} failed: {outcome:?}");
            }
        }
        Ok(())
    }

    fn sleep(&self, next: Option<Instant>) -> anyhow::Result<()> {
        let timers = self.endpoint.agent.poll_timeout();
        wait(&[self.endpoint.fd()], [timers, next])
    }

    /// Returns when the next call is due.
    fn due(&self, start: Instant) -> Instant {
        start + Duration::from_secs(1) * self.progress.placed / self.options.rate
    }

    fn say(&self, before: &str) {
        let slowest = self.endpoint.agent.report().slowest;
        let slowest = slowest.map_or_else(String::new, |request| {
            let method = format!("{:?}", request.method).to_uppercase();
            format!("; slowest {method} {} ms", request.elapsed.as_millis())
        });
        println!("carrier: {before}{}{slowest}", self.progress);
    }
}
