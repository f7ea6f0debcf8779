//! One run: what a seed makes of it.

use std::fmt::Write as _;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sim::Link;
use tests::{Death, Fabric, FabricConfig, draw_call};
use user_agent::{CallId, CallPlan, CalleePlan, InDialog};

use crate::model;

/// Calls of a run.
const CALLS: usize = 20;
/// Calls are placed, and routers die, in this time.
const BUSY: Duration = Duration::from_secs(12);
/// Deaths of a run, at most.
const DEATHS_MAX: usize = 6;

/// One run of a fabric, over.
pub(crate) struct Run {
    pub(crate) fabric: Fabric,
    pub(crate) calls: Vec<CallId>,
    /// Whether the network loses datagrams.
    pub(crate) lossy: bool,
    /// Whether one router never dies, so that every call finds one.
    pub(crate) safe: bool,
    pub(crate) left_behind: Vec<String>,
    pub(crate) start: Duration,
    faults: Vec<String>,
    hash: u64,
}

/// Returns a moment to die at: any, or one at which a call is being made, answered or cancelled.
fn moment(rng: &mut SmallRng, plans: &[(Duration, CallPlan)]) -> Duration {
    if rng.random_ratio(1, 3) {
        return rng.random_range(Duration::ZERO..BUSY);
    }
    let (placed, plan) = &plans[rng.random_range(0..plans.len())];
    let ring = plan.callee.map(|callee| callee.ring).unwrap_or_default();
    let after = match (plan.cancel_after, rng.random_range(0..4)) {
        (_, 0) => Duration::ZERO,
        (Some(cancelled), _) => cancelled,
        (None, 1) => ring + plan.hold,
        (None, _) => ring,
    };
    *placed + after + Duration::from_micros(rng.random_range(0..3_000))
}

fn between(rng: &mut SmallRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..to))
}

impl Run {
    /// Lets a seed have its way: builds, runs and settles.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let lossy = seed % 2 == 1;
        let mut link = Link::default();
        if lossy {
            link.loss = rng.random_range(0.0..0.05);
            link.duplicate = rng.random_range(0.0..0.02);
            link.jitter = Duration::from_micros(rng.random_range(1..3_000));
        }
        let fabric = Fabric::new(FabricConfig {
            seed,
            routers: rng.random_range(2..=5),
            carriers: rng.random_range(1..=2),
            ipbxs: rng.random_range(1..=2),
            two_sides: rng.random(),
            link,
            ..FabricConfig::default()
        });
        let safe = rng.random_ratio(3, 4);
        let start = fabric.world.now();
        let mut run = Self {
            fabric,
            calls: vec![],
            lossy,
            safe,
            left_behind: vec![],
            start,
            faults: vec![],
            hash: 0,
        };
        let mut plans: Vec<_> = (0..CALLS)
            .map(|_| {
                (
                    rng.random_range(Duration::ZERO..BUSY),
                    run.plan_call(&mut rng),
                )
            })
            .collect();
        plans.sort_by_key(|(at, _)| *at);
        run.plan_faults(&mut rng, &plans);
        for (at, plan) in plans {
            run.fabric.run_until(start + at);
            let carrier = rng.random_range(0..run.fabric.carriers.len());
            run.calls.push(run.fabric.call_from(carrier, plan));
        }
        run.left_behind = run.fabric.settle();
        run.hash = run.fabric.world.trace().hash();
        run
    }

    fn plan_faults(&mut self, rng: &mut SmallRng, plans: &[(Duration, CallPlan)]) {
        let routers = self.fabric.routers.len();
        for _ in 0..rng.random_range(1..=DEATHS_MAX) {
            // The first router is the one that never dies.
            let router = rng.random_range(usize::from(self.safe)..routers);
            let at = self.start + moment(rng, plans);
            let back = at + between(rng, 20, 4_000);
            let (configured, told) = (between(rng, 0, 200), between(rng, 0, 600));
            let death = match rng.random_range(0..4) {
                0 => Death::Kill,
                1 => Death::BlackHole,
                2 => Death::Freeze(back - at),
                _ => Death::FreezeForGood,
            };
            self.fabric.die_at(at, router, death);
            let mut fault = format!("{:?} R{} {death:?}", at - self.start, router + 1);
            match death {
                Death::Kill | Death::FreezeForGood if rng.random_ratio(2, 3) => {
                    self.fabric.restart_at(back, router, configured, told);
                    let _ = write!(
                        fault,
                        ", starts anew {:?}, told {told:?} later",
                        back - self.start
                    );
                }
                Death::BlackHole if rng.random_ratio(2, 3) => {
                    self.fabric.connect_at(back, router);
                    let _ = write!(fault, ", back {:?}", back - self.start);
                }
                Death::Kill | Death::FreezeForGood | Death::BlackHole | Death::Freeze(_) => {}
            }
            self.faults.push(fault);
        }
    }

    /// Plans a call whose ends do not cross: who hangs up, cancels or refuses does so alone.
    fn plan_call(&self, rng: &mut SmallRng) -> CallPlan {
        let called = format!("{}000", rng.random_range(1..=self.fabric.ipbxs.len()));
        // Under loss a request may come seconds late; the next one waits for that.
        let pause = if self.lossy { 8_000 } else { 500 };
        let mut plan = CallPlan::new(&called, between(rng, pause, pause + 4_000));
        let ring = between(rng, 0, 3_000);
        plan.callee = Some(match rng.random_range(0..6) {
            0 => CalleePlan::refuse(ring, [486, 603, 500, 503, 404][rng.random_range(0..5)]),
            1 => {
                plan.cancel_after = Some(between(rng, 0, 3_000));
                CalleePlan::answer(Duration::from_secs(100))
            }
            2 => {
                plan.hold = Duration::from_secs(100);
                CalleePlan {
                    hang_up_after: Some(between(rng, pause, pause + 4_000)),
                    ..CalleePlan::answer(ring)
                }
            }
            3 => {
                let what =
                    [InDialog::Info, InDialog::Reinvite, InDialog::Update][rng.random_range(0..3)];
                plan.in_dialog.push((between(rng, 0, 4_000), what));
                plan.hold = between(rng, pause + 4_500, pause + 9_000);
                CalleePlan::answer(ring)
            }
            _ => CalleePlan::answer(ring),
        });
        // A PRACK that comes late, behind the CANCEL, is rightly answered 481.
        plan.reliable = plan.cancel_after.is_none() && rng.random_ratio(1, 4);
        plan
    }

    /// Returns what is wrong with the run.
    pub(crate) fn judge(&mut self) -> Vec<String> {
        model::judge(self)
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns what the SBC did about it.
    pub(crate) fn counters(&self) -> tandem_sbc::Counters {
        self.fabric.sbc_counters()
    }

    pub(crate) fn summary(&self) -> String {
        let kind = if self.lossy { "lossy" } else { "without loss" };
        format!(
            "{} routers, {kind}; {}",
            self.fabric.routers.len(),
            self.faults.join("; ")
        )
    }

    /// Draws all calls, or the one whose Call-ID begins with `call`.
    pub(crate) fn picture(&self, call: Option<&str>) -> String {
        draw_call(&self.fabric, self.start, call.unwrap_or_default())
    }
}
