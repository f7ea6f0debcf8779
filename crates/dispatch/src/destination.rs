//! One destination: how it is configured, what is seen of it, and the verdict.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::health::{HealthConfig, ProbeSeq};

/// What an operator wants of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Administrative {
    /// Takes calls.
    #[default]
    Active,
    /// Keeps its dialogs, takes no new calls.
    Draining,
    /// Takes nothing and is not judged.
    Disabled,
}

/// What is believed of a destination, in Kamailio's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// In use.
    Active,
    /// In use, but silent for so long that it is being asked.
    Trying,
    /// Lost, until it answers again.
    Inactive,
    /// Switched off by an operator.
    Disabled,
}

/// Why a destination is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not heard of yet; taken to be active until it fails, as Kamailio does.
    Assumed,
    /// It shows signs of life.
    Answering,
    /// It owes messages and is silent.
    Silent,
    /// ICMP says that nobody is there.
    Refused,
    /// It came back under a new incarnation.
    Restarted,
    /// It was given another address.
    Moved,
    /// An operator switched it off.
    Operator,
}

/// Printed as a word of lower case, for logs and labels.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Assumed => "assumed",
            Self::Answering => "answering",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Restarted => "restarted",
            Self::Moved => "moved",
            Self::Operator => "operator",
        })
    }
}

/// A destination as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationConfig {
    /// Under which health is kept, whatever becomes of the address.
    pub id: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it is judged and probed; one that is not counts as active.
    pub probing: bool,
    /// What the configuration wants of it; an operator at this node may override it.
    pub administrative: Administrative,
}

/// What is known of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its id.
    pub id: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// What is believed of it.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Since when it is in `state`.
    pub since: Instant,
    /// Whether it is judged and probed.
    pub probing: bool,
    /// Whether it takes no new calls, by an operator's will or its own (503 to an OPTIONS).
    pub draining: bool,
    /// Whether it is itself that declines: it answered OPTIONS with 503, and no operator wants it so.
    pub unready: bool,
    /// Whether new calls may go to it.
    pub accepting_new: bool,
    /// When the last datagram came from it.
    pub last_sign_of_life: Option<Instant>,
    /// Round trip of OPTIONS, smoothed as in RFC 6298 with a gain of 1/8.
    pub smoothed_rtt: Option<Duration>,
    /// The last incarnation that was heard of.
    pub incarnation: Option<u64>,
}

impl Status {
    /// Tells whether requests of established dialogs may go to it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.state, State::Active | State::Trying)
    }
}

/// How many OPTIONS are remembered per destination; the oldest is forgotten first.
const PROBES_REMEMBERED_MAX: usize = 64;
/// How many round trips are remembered: the shortest of them is what the network takes.
const ROUND_TRIPS_REMEMBERED_MAX: usize = 8;
/// A burst sends at this interval, or faster where that would give fewer than `BURST_PROBES_MIN`.
const BURST_INTERVAL: Duration = Duration::from_millis(20);
const BURST_PROBES_MIN: u32 = 8;
const BURST_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Owing for less than this is no reason to ask, unless a quarter of the budget is less.
const SUSPICION_MIN: Duration = Duration::from_millis(50);
/// An answer to a burst counts for so long; then the destination is asked again.
const ANSWER_COUNTS: Duration = Duration::from_secs(1);
/// Interval of OPTIONS to an inactive destination that has answered.
const RETURN_INTERVAL: Duration = Duration::from_millis(100);
/// The host of a dead process refuses everything: so many ICMP in a row, without a sign of life and
/// each so long after the last, are a verdict. The spacing leaves the burst interval some jitter.
const REFUSALS_TO_LOST: u32 = 3;
const REFUSAL_SPACING: Duration = Duration::from_millis(15);
/// The second loss within `FLAP_MEMORY` keeps a destination out for so long, each further loss for
/// twice as long, up to the maximum.
const HOLD_DOWN_FIRST: Duration = Duration::from_secs(1);
const HOLD_DOWN_MAX: Duration = Duration::from_secs(32);
/// Being active for so long makes earlier losses forgotten.
const FLAP_MEMORY: Duration = Duration::from_secs(60);

/// A debt: something must come back, and nothing has come since `since`.
#[derive(Clone, Copy, Debug)]
struct Debt {
    since: Instant,
    burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    interval: Duration,
    next_probe: Instant,
    deadline: Instant,
}

/// What a destination wants to be told to its owner; the newest of each kind.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) lost: Option<(SocketAddr, Reason)>,
    pub(crate) up: bool,
    pub(crate) probe: Option<ProbeSeq>,
}

/// The machine of one destination: debts, bursts and the way back.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) config: DestinationConfig,
    pub(crate) news: News,
    /// The state and readiness that were told last.
    pub(crate) announced: (State, bool),
    operator: Option<Administrative>,
    state: State,
    reason: Reason,
    since: Instant,
    debt: Option<Debt>,
    refusals: u32,
    last_refusal: Option<Instant>,
    next_probe: Option<Instant>,
    probes: VecDeque<(ProbeSeq, Instant)>,
    successes: u32,
    last_success: Option<Instant>,
    up_since: Instant,
    losses: u32,
    held_down_until: Option<Instant>,
    /// Its last answer was a 503.
    unready: bool,
    last_sign_of_life: Option<Instant>,
    smoothed_rtt: Option<Duration>,
    /// The latest round trips, oldest first.
    round_trips: VecDeque<Duration>,
    incarnation: Option<u64>,
}

impl Destination {
    /// A destination nobody has heard of: active, and asked at once.
    pub(crate) fn new(now: Instant, config: DestinationConfig) -> Self {
        let mut destination = Self {
            config,
            news: News::default(),
            announced: (State::Active, true),
            operator: None,
            state: State::Active,
            reason: Reason::Assumed,
            since: now,
            debt: None,
            refusals: 0,
            last_refusal: None,
            next_probe: Some(now),
            probes: VecDeque::new(),
            successes: 0,
            last_success: None,
            up_since: now,
            losses: 0,
            held_down_until: None,
            unready: false,
            last_sign_of_life: None,
            smoothed_rtt: None,
            round_trips: VecDeque::new(),
            incarnation: None,
        };
        destination.apply_administrative(now);
        destination.announced = (destination.state, destination.accepting_new());
        destination
    }

    pub(crate) fn reconfigure(&mut self, now: Instant, config: DestinationConfig) {
        if self.config.address != config.address {
            // Whoever lived at the old address has our requests, or is dead.
            self.forget_process(now, Reason::Moved);
        }
        let is_judged_anew = config.probing && !self.config.probing;
        self.config = config;
        if is_judged_anew {
            self.next_probe = Some(now);
        } else if !self.config.probing && self.state != State::Disabled {
            self.forgive();
            self.unready = false;
            self.enter(now, State::Active, Reason::Assumed);
        }
        self.apply_administrative(now);
    }

    pub(crate) fn set_operator(&mut self, now: Instant, operator: Option<Administrative>) {
        self.operator = operator;
        self.apply_administrative(now);
    }

    fn administrative(&self) -> Administrative {
        self.operator.unwrap_or(self.config.administrative)
    }

    fn apply_administrative(&mut self, now: Instant) {
        match (self.administrative(), self.state) {
            (Administrative::Disabled, State::Active | State::Trying | State::Inactive) => {
                self.forgive();
                self.enter(now, State::Disabled, Reason::Operator);
            }
            (Administrative::Active | Administrative::Draining, State::Disabled) => {
                self.next_probe = Some(now);
                self.enter(now, State::Active, Reason::Assumed);
            }
            (Administrative::Disabled, State::Disabled)
            | (
                Administrative::Active | Administrative::Draining,
                State::Active | State::Trying | State::Inactive,
            ) => {}
        }
    }

    pub(crate) fn handle_sign_of_life(&mut self, now: Instant) {
        self.last_sign_of_life = Some(now);
        if !self.is_judged() {
            return;
        }
        let was_asked = self.debt.is_some_and(|debt| debt.burst.is_some());
        self.forgive();
        match self.state {
            State::Active | State::Trying => {
                self.enter(now, State::Active, Reason::Answering);
                if was_asked {
                    self.probe_no_later_than(now + ANSWER_COUNTS);
                }
            }
            // Only answers to OPTIONS bring it back; ask soon.
            State::Inactive => self.probe_no_later_than(now + RETURN_INTERVAL),
            State::Disabled => {}
        }
    }

    pub(crate) fn handle_owing(&mut self, now: Instant) {
        if self.is_judged() && self.is_alive() && self.debt.is_none() {
            self.debt = Some(Debt {
                since: now,
                burst: None,
            });
        }
    }

    pub(crate) fn handle_unreachable(&mut self, now: Instant, config: &HealthConfig) {
        if !self.is_judged() || !self.is_alive() {
            return;
        }
        if self
            .last_refusal
            .is_none_or(|last| now.duration_since(last) >= REFUSAL_SPACING)
        {
            self.refusals += 1;
            self.last_refusal = Some(now);
        }
        if self.refusals >= REFUSALS_TO_LOST {
            self.lose(now, Reason::Refused, config);
            return;
        }
        self.handle_owing(now);
        self.start_burst(now, Reason::Refused, config);
    }

    pub(crate) fn handle_probe_answer(
        &mut self,
        now: Instant,
        seq: ProbeSeq,
        status: u16,
        config: &HealthConfig,
    ) {
        let Some(found) = self.probes.iter().position(|(sent, _)| *sent == seq) else {
            return; // forged, repeated or too old
        };
        let is_latest = found + 1 == self.probes.len();
        let Some((_, sent)) = self.probes.remove(found) else {
            return;
        };
        if is_latest {
            self.measure(now.duration_since(sent));
        }
        self.unready = status == 503;
        self.handle_sign_of_life(now);
        // What it was asked before it was lost, it may answer from its grave.
        if self.state != State::Inactive || sent < self.since {
            return;
        }
        self.successes += 1;
        self.last_success = Some(now);
        let held_down = self.held_down_until.is_some_and(|until| now < until);
        if self.successes >= config.successes_to_active.get() && !held_down {
            self.held_down_until = None;
            self.up_since = now;
            self.next_probe = Some(now + config.probe_interval);
            self.news.up = true;
            self.enter(now, State::Active, Reason::Answering);
        }
    }

    /// Takes a round trip. Only the answer to the latest question is one: a process that stood still
    /// answers all the others at once, and they say nothing about the network.
    fn measure(&mut self, rtt: Duration) {
        let smoothed = |smoothed: Duration| (smoothed * 7 + rtt) / 8;
        self.smoothed_rtt = Some(self.smoothed_rtt.map_or(rtt, smoothed));
        if self.round_trips.len() == ROUND_TRIPS_REMEMBERED_MAX {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(rtt);
    }

    pub(crate) fn handle_incarnation(
        &mut self,
        now: Instant,
        incarnation: u64,
        config: &HealthConfig,
    ) {
        let known = self.incarnation;
        self.incarnation = known.max(Some(incarnation));
        if known.is_none_or(|known| known >= incarnation) || !self.is_judged() {
            return;
        }
        self.forget_process(now, Reason::Restarted);
        // One answer is enough for a process that was just born.
        self.successes = config.successes_to_active.get() - 1;
        self.last_success = Some(now);
    }

    /// Returns when `handle_timeout` has something to do.
    pub(crate) fn poll_timeout(&self, config: &HealthConfig) -> Option<Instant> {
        if !self.is_judged() {
            return None;
        }
        let burst = self.debt.and_then(|debt| debt.burst);
        let burst = burst.map(|burst| burst.next_probe.min(burst.deadline));
        [self.next_probe, self.suspect_at(config), burst]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        config: &HealthConfig,
        seqs: &mut impl FnMut() -> ProbeSeq,
    ) {
        if !self.is_judged() {
            return;
        }
        if self.suspect_at(config).is_some_and(|at| at <= now) {
            self.start_burst(now, Reason::Silent, config);
        }
        if let Some(burst) = self.debt.as_mut().and_then(|debt| debt.burst.as_mut()) {
            if burst.deadline <= now {
                let reason = if self.refusals > 0 {
                    Reason::Refused
                } else {
                    Reason::Silent
                };
                self.lose(now, reason, config);
            } else if burst.next_probe <= now {
                burst.next_probe = now + burst.interval;
                self.probe(now, seqs());
            }
        }
        if self.next_probe.is_some_and(|at| at <= now) {
            let returning = self.state == State::Inactive && self.answered_lately(now, config);
            if !returning {
                self.successes = 0;
            }
            let interval = if returning {
                RETURN_INTERVAL
            } else {
                config.probe_interval
            };
            self.next_probe = Some(now + interval);
            self.probe(now, seqs());
            self.handle_owing(now);
        }
    }

    /// Moves what is awaited by `pause`, during which this node did not run.
    pub(crate) fn handle_pause(&mut self, pause: Duration) {
        if let Some(debt) = &mut self.debt {
            debt.since += pause;
            if let Some(burst) = &mut debt.burst {
                burst.deadline += pause;
            }
        }
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            id: self.config.id.clone(),
            address: self.config.address,
            state: self.state,
            reason: self.reason,
            since: self.since,
            probing: self.config.probing,
            draining: self.unready || self.administrative() == Administrative::Draining,
            unready: self.unready && self.administrative() == Administrative::Active,
            accepting_new: self.accepting_new(),
            last_sign_of_life: self.last_sign_of_life,
            smoothed_rtt: self.smoothed_rtt,
            incarnation: self.incarnation,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn has_news(&self) -> bool {
        self.news.lost.is_some()
            || self.news.up
            || self.news.probe.is_some()
            || self.announced != (self.state, self.accepting_new())
    }

    pub(crate) fn accepting_new(&self) -> bool {
        self.is_alive() && !self.unready && self.administrative() == Administrative::Active
    }

    fn is_judged(&self) -> bool {
        self.config.probing && self.state != State::Disabled
    }

    fn is_alive(&self) -> bool {
        matches!(self.state, State::Active | State::Trying)
    }

    fn answered_lately(&self, now: Instant, config: &HealthConfig) -> bool {
        self.last_success
            .is_some_and(|at| now.duration_since(at) <= config.detect_within)
    }

    /// When a debt becomes a suspicion: after four round trips and 50 ms, at the latest after a
    /// quarter of the budget.
    fn suspect_at(&self, config: &HealthConfig) -> Option<Instant> {
        let debt = self.debt.filter(|debt| debt.burst.is_none())?;
        let patience = SUSPICION_MIN.max(self.smoothed_rtt.unwrap_or_default() * 4);
        Some(debt.since + patience.min(config.detect_within / 4))
    }

    fn start_burst(&mut self, now: Instant, reason: Reason, config: &HealthConfig) {
        // The shortest, not the smoothed one: having stood still once must not buy a process seconds
        // when it dies the next time.
        let round_trip = self.round_trips.iter().min().copied().unwrap_or_default();
        let Some(debt) = self.debt.as_mut().filter(|debt| debt.burst.is_none()) else {
            return;
        };
        // Where a round trip takes longer than the budget, it still gets a chance to answer.
        let deadline = (debt.since + config.verdict_after()).max(now + round_trip * 2);
        let interval = BURST_INTERVAL.min(deadline.duration_since(now) / BURST_PROBES_MIN);
        let interval = interval.max(BURST_INTERVAL_MIN);
        debt.burst = Some(Burst {
            interval,
            next_probe: now,
            deadline,
        });
        self.enter(now, State::Trying, reason);
    }

    fn probe(&mut self, now: Instant, seq: ProbeSeq) {
        if self.probes.len() == PROBES_REMEMBERED_MAX {
            self.probes.pop_front();
        }
        self.probes.push_back((seq, now));
        self.news.probe = Some(seq);
    }

    fn probe_no_later_than(&mut self, at: Instant) {
        self.next_probe = Some(self.next_probe.map_or(at, |next| next.min(at)));
    }

    /// Everything owed is settled.
    fn forgive(&mut self) {
        self.debt = None;
        self.refusals = 0;
        self.last_refusal = None;
    }

    fn lose(&mut self, now: Instant, reason: Reason, config: &HealthConfig) {
        self.forgive();
        self.losses = match now.duration_since(self.up_since) >= FLAP_MEMORY {
            true => 1,
            false => self.losses.saturating_add(1),
        };
        self.held_down_until = hold_down(self.losses).map(|wait| now + wait);
        self.successes = 0;
        self.last_success = None;
        self.next_probe = Some(now + config.probe_interval);
        self.news.lost = Some((self.config.address, reason));
        self.news.up = false;
        self.enter(now, State::Inactive, reason);
    }

    /// The process that we knew is gone; who is there now is asked at once.
    fn forget_process(&mut self, now: Instant, reason: Reason) {
        if !self.is_judged() {
            return;
        }
        self.forgive();
        self.probes.clear();
        self.unready = false;
        self.held_down_until = None;
        self.next_probe = Some(now);
        self.news.lost = Some((self.config.address, reason));
        self.news.up = false;
        if self.is_alive() {
            self.enter(now, State::Active, reason);
        }
    }

    fn enter(&mut self, now: Instant, state: State, reason: Reason) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
        self.reason = reason;
    }
}

/// Returns how long the last of `losses` losses in a row keeps a destination out.
fn hold_down(losses: u32) -> Option<Duration> {
    let doublings = losses.checked_sub(2)?;
    Some(
        HOLD_DOWN_FIRST
            .saturating_mul(1 << doublings.min(16))
            .min(HOLD_DOWN_MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_down_starts_with_the_second_loss_doubles_and_stays_at_its_maximum() {
        let seconds: Vec<_> = (0..9)
            .map(|losses| hold_down(losses).map_or(0, |wait| wait.as_secs()))
            .collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8, 16, 32, 32]);
        assert_eq!(hold_down(u32::MAX), Some(HOLD_DOWN_MAX));
    }
}
