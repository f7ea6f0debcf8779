//! The clock, the network and what happens next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use element::{Element, FlowId, Turn};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::agent::Agent;
use crate::host::{Host, HostId, Process, Queued, SOCKET_DATAGRAMS_MAX, Sent};
use crate::trace::{Fate, Record, Trace};

/// How the network treats datagrams from one host to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The least time a datagram takes. 200 us, as in one building.
    pub delay: Duration,
    /// Up to so much more, evenly spread: datagrams overtake each other. 0.
    pub jitter: Duration,
    /// The share of datagrams that get lost, 0.0 to 1.0. 0.
    pub loss: f64,
    /// The share that arrives twice, 0.0 to 1.0. 0.
    pub duplicate: f64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(200),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
        }
    }
}

/// A datagram that is about to reach its host.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Who sent it.
    pub from: HostId,
    /// Whom it reaches.
    pub to: HostId,
    /// The payload.
    pub bytes: &'a [u8],
}

impl Arrival<'_> {
    /// Tells whether its first line begins like this: `INVITE `, `SIP/2.0 180`.
    #[must_use]
    pub fn starts_with(&self, beginning: &str) -> bool {
        self.bytes.starts_with(beginning.as_bytes())
    }
}

#[derive(Debug)]
enum Event {
    Arrive {
        from: HostId,
        to: HostId,
        queued: Queued,
        record: Option<usize>,
    },
    Unreachable {
        host: HostId,
        flow: FlowId,
        destination: SocketAddr,
    },
    Wake(HostId),
}

/// Hosts, the network between them, and one clock.
///
/// Times are durations from the beginning of the world.
pub struct World {
    base: Instant,
    now: Duration,
    rng: SmallRng,
    hosts: Vec<Host>,
    by_address: BTreeMap<SocketAddr, (HostId, FlowId)>,
    link: Link,
    links: BTreeMap<(HostId, HostId), Link>,
    queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    trace: Trace,
}

impl World {
    /// Creates an empty world.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "an origin for simulated time: nothing ever asks how far it is away"
    )]
    pub fn new(seed: u64) -> Self {
        Self {
            base: Instant::now(),
            now: Duration::ZERO,
            rng: SmallRng::seed_from_u64(seed),
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            link: Link::default(),
            links: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            trace: Trace::default(),
        }
    }

    /// Adds an element whose flows are `listen`, in order.
    pub fn add_element(
        &mut self,
        name: &str,
        listen: &[SocketAddr],
        element: Arc<dyn Element>,
    ) -> HostId {
        self.add(name, listen, Process::Element(element))
    }

    /// Adds a user agent.
    pub fn add_agent(&mut self, name: &str, listen: SocketAddr, agent: Box<dyn Agent>) -> HostId {
        self.add(name, &[listen], Process::Agent(agent))
    }

    fn add(&mut self, name: &str, listen: &[SocketAddr], process: Process) -> HostId {
        let id = HostId(u16::try_from(self.hosts.len()).expect("a world has few hosts"));
        for (flow, address) in (0..).zip(listen) {
            let taken = self.by_address.insert(*address, (id, FlowId(flow)));
            assert!(taken.is_none(), "{address} has two hosts");
        }
        self.hosts.push(Host::new(name, listen, process));
        self.arm(id);
        id
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Returns the time since the beginning of the world that `instant`, on the clock of a host that
    /// never stood still, stands for.
    #[must_use]
    pub fn since_beginning(&self, instant: Instant) -> Duration {
        instant.duration_since(self.base)
    }

    /// Returns the name of a host.
    #[must_use]
    pub fn name(&self, host: HostId) -> &str {
        &self.hosts[usize::from(host.0)].name
    }

    /// Tells whether a host's process lives and is not frozen.
    #[must_use]
    pub fn is_running(&self, host: HostId) -> bool {
        self.hosts[usize::from(host.0)].is_running()
    }

    /// Returns what was sent.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Sets how the network treats datagrams between hosts that have no link of their own.
    pub fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// Sets how the network treats datagrams from one host to another.
    pub fn set_link_between(&mut self, from: HostId, to: HostId, link: Link) {
        self.links.insert((from, to), link);
    }

    // What befalls a host.

    /// Ends a host's process at once, state and socket buffer included; with `refuses`, datagrams to
    /// it come back as ICMP unreachable.
    pub fn kill(&mut self, id: HostId, refuses: bool) {
        self.disarm(id);
        let host = self.host(id);
        host.process = None;
        host.refuses = refuses;
        host.socket.clear();
        host.frozen_since = None;
    }

    /// Starts a new process in the place of a dead or living one.
    pub fn restart(&mut self, id: HostId, element: Arc<dyn Element>) {
        self.kill(id, true);
        self.host(id).process = Some(Process::Element(element));
        self.arm(id);
    }

    /// Cuts a host off, or connects it again: datagrams from it and to it vanish.
    pub fn isolate(&mut self, id: HostId, isolated: bool) {
        self.host(id).isolated = isolated;
    }

    /// Loses what a host has sent and what has not arrived yet: its network card died with it.
    pub fn lose_in_flight(&mut self, id: HostId) {
        let now = self.now;
        let trace = &mut self.trace;
        self.queue.retain(|_, event| match event {
            Event::Arrive { from, record, .. } if *from == id => {
                trace.settle(*record, now, Fate::Lost);
                false
            }
            Event::Arrive { .. } | Event::Unreachable { .. } | Event::Wake(_) => true,
        });
    }

    /// Loses the datagram that `run_to` has stopped at.
    pub fn lose_next(&mut self) {
        let now = self.now;
        if let Some(entry) = self.queue.first_entry()
            && let &Event::Arrive { record, .. } = entry.get()
        {
            entry.remove();
            self.trace.settle(record, now, Fate::Lost);
        }
    }

    /// Stops a host: it does nothing, and datagrams to it wait in its socket buffer.
    pub fn freeze(&mut self, id: HostId) {
        self.disarm(id);
        let now = self.now;
        self.host(id).frozen_since.get_or_insert(now);
    }

    /// Lets a frozen host run on.
    pub fn thaw(&mut self, id: HostId) {
        let now = self.now;
        let host = self.host(id);
        if let Some(since) = host.frozen_since.take() {
            host.paused += now - since;
            self.take_turn(id, |_, _| {});
        }
    }

    /// Lets a test do something on a host, at the host's own time; what follows from it is sent.
    pub fn drive(&mut self, id: HostId, act: impl FnOnce(Instant, &mut Turn)) {
        self.take_turn(id, act);
    }

    // What happens.

    /// Lets everything happen until `until`, which is then the time.
    pub fn run_until(&mut self, until: Duration) {
        while self.next().is_some_and(|next| next <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Lets everything happen until a datagram for which `stop` says so is about to reach its host,
    /// or until `until`; tells whether there was one.
    pub fn run_to(&mut self, until: Duration, mut stop: impl FnMut(&Arrival<'_>) -> bool) -> bool {
        while let Some((&(at, _), event)) = self.queue.first_key_value()
            && at <= until
        {
            if let Event::Arrive {
                from, to, queued, ..
            } = event
                && stop(&Arrival {
                    from: *from,
                    to: *to,
                    bytes: &queued.bytes,
                })
            {
                self.now = self.now.max(at);
                return true;
            }
            self.step();
        }
        self.now = self.now.max(until);
        false
    }

    /// Lets the next thing happen; tells whether there was any.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return false;
        };
        self.now = self.now.max(at);
        match event {
            Event::Arrive {
                from,
                to,
                queued,
                record,
            } => self.arrive(from, to, queued, record),
            Event::Unreachable {
                host,
                flow,
                destination,
            } => {
                if self.host(host).is_running() {
                    let now = self.local(host);
                    let sent = self.host(host).unreachable(now, flow, destination);
                    self.send(host, sent);
                    self.arm(host);
                }
            }
            Event::Wake(id) => {
                self.host(id).wake = None;
                self.take_turn(id, |_, _| {});
            }
        }
        true
    }

    /// Returns when the next thing happens.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|(&(at, _), _)| at)
    }

    fn arrive(&mut self, from: HostId, to: HostId, queued: Queued, record: Option<usize>) {
        let back = self.link_between(to, from).delay;
        let now = self.now;
        let host = self.host(to);
        let fate = if host.isolated {
            Fate::BlackHoled
        } else if host.process.is_none() {
            Fate::HostDown
        } else if host.socket.len() >= SOCKET_DATAGRAMS_MAX {
            Fate::Overflowed
        } else {
            Fate::Arrived
        };
        let refuses = host.refuses;
        self.trace.settle(record, now, fate);
        match fate {
            Fate::Arrived => {
                self.host(to).socket.push_back(queued);
                if self.host(to).is_running() {
                    self.take_turn(to, |_, _| {});
                }
            }
            Fate::HostDown if refuses => {
                let destination = self.host(to).listen[usize::from(queued.flow.0)];
                let flow = self.flow_of(from, queued.source);
                let event = Event::Unreachable {
                    host: from,
                    flow,
                    destination,
                };
                self.schedule(now + back, event);
            }
            Fate::HostDown
            | Fate::Travelling
            | Fate::Lost
            | Fate::BlackHoled
            | Fate::Overflowed
            | Fate::NoHost => {}
        }
    }

    fn take_turn(&mut self, id: HostId, act: impl FnOnce(Instant, &mut Turn)) {
        if !self.host(id).is_running() {
            return;
        }
        let now = self.local(id);
        let sent = self.host(id).turn(now, |turn| act(now, turn));
        self.send(id, sent);
        self.arm(id);
    }

    fn send(&mut self, from: HostId, sent: Sent) {
        for (flow, destination, bytes) in sent.0 {
            let copies = self.copies(from, destination);
            for arrives in copies {
                self.send_copy(from, flow, destination, bytes.clone(), arrives);
            }
        }
    }

    /// Returns how long each copy of a datagram takes; `None` for one that gets lost.
    fn copies(&mut self, from: HostId, destination: SocketAddr) -> Vec<Option<Duration>> {
        let Some(&(to, _)) = self.by_address.get(&destination) else {
            return vec![None];
        };
        let link = self.link_between(from, to);
        let count = 1 + usize::from(self.chance(link.duplicate));
        (0..count)
            .map(|_| {
                let lost = self.chance(link.loss);
                let jitter = match link.jitter.is_zero() {
                    true => Duration::ZERO,
                    false => self.rng.random_range(Duration::ZERO..link.jitter),
                };
                (!lost).then_some(link.delay + jitter)
            })
            .collect()
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random_bool(share)
    }

    fn send_copy(
        &mut self,
        from: HostId,
        flow: FlowId,
        destination: SocketAddr,
        bytes: Vec<u8>,
        takes: Option<Duration>,
    ) {
        let target = self.by_address.get(&destination).copied();
        let host = &self.hosts[usize::from(from.0)];
        let source = host.listen[usize::from(flow.0)];
        let fate = match (target, takes) {
            (None, _) => Fate::NoHost,
            (Some(_), _) if host.isolated => Fate::BlackHoled,
            (Some(_), None) => Fate::Lost,
            (Some(_), Some(_)) => Fate::Travelling,
        };
        let record = self.trace.push(Record {
            sent: self.now,
            arrived: None,
            from,
            to: target.map(|(to, _)| to),
            fate,
            bytes: bytes.clone(),
        });
        if let (Fate::Travelling, Some((to, flow)), Some(takes)) = (fate, target, takes) {
            let queued = Queued {
                flow,
                source,
                bytes,
            };
            let event = Event::Arrive {
                from,
                to,
                queued,
                record,
            };
            self.schedule(self.now + takes, event);
        }
    }

    fn link_between(&self, from: HostId, to: HostId) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.link)
    }

    fn flow_of(&self, host: HostId, address: SocketAddr) -> FlowId {
        let listen = &self.hosts[usize::from(host.0)].listen;
        let at = listen.iter().position(|own| *own == address);
        FlowId(at.and_then(|at| u16::try_from(at).ok()).unwrap_or_default())
    }

    fn host(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[usize::from(id.0)]
    }

    /// Returns the time on a host's own clock.
    fn local(&self, id: HostId) -> Instant {
        self.base + self.now - self.hosts[usize::from(id.0)].paused
    }

    fn schedule(&mut self, at: Duration, event: Event) -> (Duration, u64) {
        self.sequence += 1;
        let key = (at, self.sequence);
        self.queue.insert(key, event);
        key
    }

    fn disarm(&mut self, id: HostId) {
        if let Some(key) = self.host(id).wake.take() {
            self.queue.remove(&key);
        }
    }

    /// Puts the host's next timer into the queue.
    fn arm(&mut self, id: HostId) {
        let host = &self.hosts[usize::from(id.0)];
        let due = host.poll_timeout().filter(|_| host.is_running());
        let at = due.map(|due| due.saturating_duration_since(self.base) + host.paused);
        let at = at.map(|at| at.max(self.now));
        if host.wake.map(|(at, _)| at) == at {
            return;
        }
        self.disarm(id);
        if let Some(at) = at {
            let key = self.schedule(at, Event::Wake(id));
            self.host(id).wake = Some(key);
        }
    }
}
