//! The carrier and the IPBX of the demo, in one thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use user_agent::{CallPlan, CalleePlan, Carrier, CarrierConfig, Ipbx, IpbxConfig, Method, Outcome};

use super::network::Block;
pub(crate) use crate::ends::carrier::Progress;
use crate::ends::endpoint::{Endpoint, wait};

/// The longest ring.
const RING_MAX_MS: u64 = 3000;

/// The calls to place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) calls: u32,
    pub(crate) rate: u32,
    pub(crate) hold: Duration,
    pub(crate) seed: u64,
}

/// What both ends saw.
#[derive(Debug)]
pub(crate) struct Report {
    /// Calls whose BYE the callee answered with 200.
    pub(crate) completed: usize,
    /// The others: Call-ID and what became of them.
    pub(crate) failed: Vec<(String, String)>,
    /// Requests but ACK that reached the callee under more than one branch.
    pub(crate) delivered_twice: Vec<String>,
    /// The slowest request: method and time.
    pub(crate) slowest: Option<(Method, Duration)>,
}

/// The user agents' thread.
pub(crate) struct Agents {
    thread: JoinHandle<anyhow::Result<Report>>,
    progress: Arc<Mutex<Progress>>,
    stop: Arc<AtomicBool>,
}

impl Agents {
    pub(crate) fn start(block: Block, plan: Plan) -> anyhow::Result<Self> {
        let carrier = CarrierConfig::new(block.carrier(), block.sbc(), plan.seed);
        let ipbx = IpbxConfig::new(block.ipbx(), plan.seed ^ 1);
        let carrier = Endpoint::open(block.carrier(), Carrier::new(carrier))?;
        let ipbx = Endpoint::open(block.ipbx(), Ipbx::new(ipbx))?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (progress.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("user-agents".to_owned())
            .spawn(move || drive(carrier, ipbx, plan, &shared, &stopped))?;
        Ok(Self {
            thread,
            progress,
            stop,
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when the thread has ended before it should.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.thread.is_finished() {
            bail!("the user agents ended early");
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(report) => report,
            Err(_) => bail!("the user agents panicked"),
        }
    }
}

fn drive(
    mut carrier: Endpoint<Carrier>,
    mut ipbx: Endpoint<Ipbx>,
    plan: Plan,
    shared: &Mutex<Progress>,
    stop: &AtomicBool,
) -> anyhow::Result<Report> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let start = Instant::now();
    let mut progress = Progress::default();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while progress.placed < plan.calls && now >= due(start, plan, progress.placed) {
            let ring = Duration::from_millis(random.random_range(0..=RING_MAX_MS));
            let mut call = CallPlan::new(
                &format!("1514555{:04}", random.random_range(0..10_000)),
                plan.hold,
            );
            call.callee = Some(CalleePlan::answer(ring));
            carrier.agent.place_call(now, call)?;
            progress.placed += 1;
        }
        carrier.turn()?;
        ipbx.turn()?;
        while let Some(event) = carrier.agent.poll_event() {
            progress.note(&carrier.agent, &event);
        }
        while ipbx.agent.poll_event().is_some() {}
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        let next_call = (progress.placed < plan.calls).then(|| due(start, plan, progress.placed));
        let timers = [carrier.agent.poll_timeout(), ipbx.agent.poll_timeout()];
        wait(
            &[carrier.fd(), ipbx.fd()],
            timers.into_iter().chain([next_call]),
        )?;
    }
    Ok(report(&carrier.agent, &ipbx.agent))
}

fn due(start: Instant, plan: Plan, call: u32) -> Instant {
    start + Duration::from_secs(1) * call / plan.rate
}

fn report(carrier: &Carrier, ipbx: &Ipbx) -> Report {
    let completed = carrier
        .records()
        .filter(|(_, record)| record.outcome == Some(Outcome::Completed))
        .count();
    let failed = carrier
        .records()
        .filter(|(_, record)| record.outcome != Some(Outcome::Completed));
    let failed = failed
        .map(|(call, record)| (call.to_string(), format!("{:?}", record.outcome)))
        .collect();
    let delivered_twice = ipbx
        .delivered_twice()
        .map(|duplicate| format!("{duplicate:?}"))
        .collect();
    let slowest = carrier
        .report()
        .slowest
        .map(|request| (request.method, request.elapsed));
    Report {
        completed,
        failed,
        delivered_twice,
        slowest,
    }
}
