//! Who is alive: one judge per node, over all destinations.
//!
//! A destination is *owing* from the first message that must come back until its next sign of
//! life. Owing for too long brings a burst of OPTIONS, silence to the end of the budget the verdict:
//! inactive, lost. How each step is timed stands with `Destination`.
//!
//! Two sentences of the contract are read as follows. *An answer counts for 1 s*: an answer to a
//! burst settles everything owed until then, and after 1 s the destination is asked again if the
//! background interval has not done so; what is sent to it after the answer is a new debt with the
//! full budget, because the budget is a promise to the requests that wait. *A quarter of the budget*
//! is a quarter of `detect_within`; the verdict falls `VERDICT_SLACK` earlier, so that the waiting
//! requests are on their way in time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::destination::{Administrative, Destination, DestinationConfig, Reason, State, Status};

/// The most destinations that one node judges.
pub const DESTINATIONS_MAX: usize = 1024;
/// Left of `detect_within` for sending what waited.
const VERDICT_SLACK: Duration = Duration::from_millis(10);
/// A timer that comes later than this says that this node did not run.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// CSeq numbers are below 2^31 (RFC 3261 section 8.1.1.5).
const PROBE_SEQ_MASK: u32 = 0x7fff_ffff;

/// How [`Health`] judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// From the first message that a dead destination owes to the verdict and what follows from it;
    /// 200 ms. Too small: pauses of a destination count as deaths. Too large: calls wait. Values
    /// under 40 ms count as 40 ms.
    pub detect_within: Duration,
    /// Between two OPTIONS to a destination that gives no reason to ask; 1 s. Too small: traffic
    /// without use. Too large: the death of an idle destination is seen late.
    pub probe_interval: Duration,
    /// Answers in a row that bring an inactive destination back; 2.
    pub successes_to_active: NonZeroU32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            detect_within: Duration::from_millis(200),
            probe_interval: Duration::from_secs(1),
            successes_to_active: NonZeroU32::new(2).expect("2 is not 0"),
        }
    }
}

impl HealthConfig {
    fn bounded(mut self) -> Self {
        self.detect_within = self.detect_within.max(VERDICT_SLACK * 4);
        self
    }

    /// The time from the first message owed to the verdict.
    pub(crate) fn verdict_after(&self) -> Duration {
        self.detect_within - VERDICT_SLACK
    }
}

/// Names one OPTIONS: below 2^31, to be used as its CSeq number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeSeq(pub u32);

/// An OPTIONS to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom to ask.
    pub destination: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// Comes back with the answer.
    pub seq: ProbeSeq,
}

/// What the judge has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthEvent {
    /// The process that was the destination is gone, and what it owed with it. Said for a dead
    /// destination, and for one that came back as a new incarnation or at a new address, which may
    /// be active at the same time.
    Lost {
        /// Which.
        destination: Arc<str>,
        /// Where the process was that is gone.
        address: SocketAddr,
        /// How it is known.
        reason: Reason,
    },
    /// It was inactive and has answered often enough.
    Up {
        /// Which.
        destination: Arc<str>,
    },
    /// Its state, or whether it takes new calls, is another one than last told.
    StateChanged {
        /// Which.
        destination: Arc<str>,
        /// What was told last.
        from: State,
        /// What it is now.
        to: State,
        /// Whether new calls may go to it now.
        accepting_new: bool,
    },
}

/// Why a list of destinations was refused; the one before it stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigureError {
    /// More than [`DESTINATIONS_MAX`].
    #[error("{count} destinations are more than the {DESTINATIONS_MAX} that a node judges")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// One id stands for two destinations.
    #[error("destination {id} is listed twice")]
    DuplicateId {
        /// The id.
        id: Arc<str>,
    },
}

/// There is no destination of this id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no destination {0}")]
pub struct UnknownDestination(pub String);

/// The judge of all destinations of a node, keyed by their ids.
///
/// After any call that takes `now`, drain `poll_probe`, then `poll_event`, to `None`; then sleep
/// until `poll_timeout` or the next input. `now` never goes backwards. Ids that are not configured
/// are ignored: they may have been removed a moment ago.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use dispatch::{Administrative, DestinationConfig, Health, HealthConfig, HealthEvent};
/// # fn at(now: Instant, health: &mut Health) -> Vec<HealthEvent> {
/// #     health.handle_timeout(now);
/// #     while health.poll_probe().is_some() {}
/// #     std::iter::from_fn(|| health.poll_event()).collect()
/// # }
/// # let start = Instant::now();
/// let mut health = Health::new(HealthConfig::default());
/// health.configure(start, &[DestinationConfig {
///     id: "r1".into(),
///     address: "192.0.2.1:5060".parse().unwrap(),
///     probing: true,
///     administrative: Administrative::Active,
/// }]).unwrap();
/// // It never says a word: `at` runs the timers and drains what comes of it.
/// let mut events = vec![];
/// for milliseconds in 0..=190 {
///     events.extend(at(start + Duration::from_millis(milliseconds), &mut health));
/// }
/// assert!(events.iter().any(|event| matches!(event, HealthEvent::Lost { .. })));
/// ```
#[derive(Debug)]
pub struct Health {
    config: HealthConfig,
    destinations: BTreeMap<Arc<str>, Destination>,
    addresses: BTreeMap<SocketAddr, Arc<str>>,
    next_seq: u32,
    /// Some destination has something to tell.
    news: bool,
}

impl Health {
    /// Creates a judge that knows no destination.
    #[must_use]
    pub fn new(config: HealthConfig) -> Self {
        Self {
            config: config.bounded(),
            destinations: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next_seq: 1,
            news: false,
        }
    }

    /// Judges by other settings from now on; a burst that has begun ends by the old ones.
    pub fn set_config(&mut self, config: HealthConfig) {
        self.config = config.bounded();
    }

    /// Takes the list of all destinations: new ones are added, missing ones forgotten, and what is
    /// known of the others is kept.
    ///
    /// A destination that is new is active and asked at once. One at another address than before is
    /// another process: its predecessor is lost. Removal loses nobody.
    ///
    /// # Errors
    /// If there are too many or an id stands twice; then nothing changes.
    pub fn configure(
        &mut self,
        now: Instant,
        destinations: &[DestinationConfig],
    ) -> Result<(), ConfigureError> {
        if destinations.len() > DESTINATIONS_MAX {
            return Err(ConfigureError::TooMany {
                count: destinations.len(),
            });
        }
        let mut wanted = BTreeMap::new();
        for config in destinations {
            if wanted.insert(config.id.clone(), config.clone()).is_some() {
                return Err(ConfigureError::DuplicateId {
                    id: config.id.clone(),
                });
            }
        }
        self.destinations.retain(|id, _| wanted.contains_key(id));
        self.addresses = wanted.values().map(|c| (c.address, c.id.clone())).collect();
        for (id, config) in wanted {
            match self.destinations.get_mut(&id) {
                Some(known) => known.reconfigure(now, config),
                None => {
                    self.destinations.insert(id, Destination::new(now, config));
                }
            }
        }
        self.news = true;
        Ok(())
    }

    /// Takes an operator's will at this node, which overrides the configuration until `None`.
    ///
    /// # Errors
    /// If the destination is not configured.
    pub fn set_operator(
        &mut self,
        now: Instant,
        destination: &str,
        operator: Option<Administrative>,
    ) -> Result<(), UnknownDestination> {
        if !self.destinations.contains_key(destination) {
            return Err(UnknownDestination(destination.to_owned()));
        }
        self.with(destination, |known, _| known.set_operator(now, operator));
        Ok(())
    }

    /// Returns the destination at an address.
    #[must_use]
    pub fn destination_at(&self, address: SocketAddr) -> Option<&Arc<str>> {
        self.addresses.get(&address)
    }

    /// Takes the arrival of any datagram from the destination.
    pub fn handle_sign_of_life(&mut self, now: Instant, destination: &str) {
        self.with(destination, |known, _| known.handle_sign_of_life(now));
    }

    /// Takes that a message which must come back was sent to the destination, for the first time or
    /// again: a retransmission tells that what came since settled nothing.
    pub fn handle_owing(&mut self, now: Instant, destination: &str) {
        self.with(destination, |known, _| known.handle_owing(now));
    }

    /// Takes an ICMP unreachable for the destination: it is asked at once, and lost when three of
    /// them, 15 ms or more apart, see no sign of life between them.
    pub fn handle_unreachable(&mut self, now: Instant, destination: &str) {
        self.with(destination, |known, config| {
            known.handle_unreachable(now, config)
        });
    }

    /// Takes the answer to a probe; any status is one, 503 says that it takes no new calls.
    pub fn handle_probe_answer(
        &mut self,
        now: Instant,
        destination: &str,
        seq: ProbeSeq,
        status: u16,
    ) {
        self.with(destination, |known, config| {
            known.handle_probe_answer(now, seq, status, config);
        });
    }

    /// Takes the incarnation under which the destination says it runs, or the registry says so.
    /// A greater one than before: the old process is lost, the new one is used once it answers. A
    /// smaller one is old news and ignored; incarnations of an id only grow.
    pub fn handle_incarnation(&mut self, now: Instant, destination: &str, incarnation: u64) {
        self.with(destination, |known, config| {
            known.handle_incarnation(now, incarnation, config);
        });
    }

    /// Runs the timers that are due.
    ///
    /// A call that comes more than 20 ms late says that this node stood still: the destinations get
    /// that time on top. So feed what the sockets hold before calling this.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.poll_timeout().filter(|due| *due <= now) else {
            return;
        };
        let pause = Some(now.duration_since(due)).filter(|late| *late > PAUSE_MIN);
        for destination in self.destinations.values_mut() {
            if let Some(pause) = pause {
                destination.handle_pause(pause);
            }
            let next_seq = &mut self.next_seq;
            destination.handle_timeout(now, &self.config, &mut || {
                let seq = *next_seq;
                *next_seq = (seq + 1) & PROBE_SEQ_MASK;
                ProbeSeq(seq)
            });
        }
        self.news = true;
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.destinations
            .values()
            .filter_map(|known| known.poll_timeout(&self.config))
            .min()
    }

    /// Returns an OPTIONS to send, at most one per destination and call of `handle_timeout`.
    pub fn poll_probe(&mut self) -> Option<Probe> {
        if !self.news {
            return None;
        }
        self.destinations.values_mut().find_map(|known| {
            let seq = known.news.probe.take()?;
            let DestinationConfig { id, address, .. } = &known.config;
            Some(Probe {
                destination: id.clone(),
                address: *address,
                seq,
            })
        })
    }

    /// Returns what happened, by destination, for each the loss first. Unread events of one kind
    /// merge into one, so that there are at most three per destination.
    pub fn poll_event(&mut self) -> Option<HealthEvent> {
        if !self.news {
            return None;
        }
        let event = self.destinations.values_mut().find_map(next_event);
        if event.is_none() {
            self.news = self.destinations.values().any(Destination::has_news);
        }
        event
    }

    /// Returns what is known of a destination.
    #[must_use]
    pub fn state(&self, destination: &str) -> Option<Status> {
        self.destinations.get(destination).map(Destination::status)
    }

    /// Returns what is known of every destination, in the order of their ids.
    pub fn statuses(&self) -> impl Iterator<Item = Status> + '_ {
        self.destinations.values().map(Destination::status)
    }

    fn with(&mut self, id: &str, act: impl FnOnce(&mut Destination, &HealthConfig)) {
        if let Some(destination) = self.destinations.get_mut(id) {
            act(destination, &self.config);
            self.news |= destination.has_news();
        }
    }
}

fn next_event(known: &mut Destination) -> Option<HealthEvent> {
    let destination = &known.config.id;
    if let Some((address, reason)) = known.news.lost.take() {
        return Some(HealthEvent::Lost {
            destination: destination.clone(),
            address,
            reason,
        });
    }
    if std::mem::take(&mut known.news.up) {
        return Some(HealthEvent::Up {
            destination: destination.clone(),
        });
    }
    let told = known.announced;
    let current = (known.state(), known.accepting_new());
    known.announced = current;
    (told != current).then(|| HealthEvent::StateChanged {
        destination: destination.clone(),
        from: told.0,
        to: current.0,
        accepting_new: current.1,
    })
}
