//! One host: what runs on it, the datagrams in its socket buffer, and how it is doing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use element::{Datagram, Element, FlowId, Outbox, Sender, Turn};

use crate::agent::Agent;

/// Datagrams that wait in the socket buffer of a frozen host; what comes on top is lost.
pub const SOCKET_DATAGRAMS_MAX: usize = 4096;

/// Names a host of one world, in the order of adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub u16);

pub(crate) enum Process {
    Element(Arc<dyn Element>),
    Agent(Box<dyn Agent>),
}

/// A datagram in a socket buffer.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) flow: FlowId,
    pub(crate) source: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) listen: Vec<SocketAddr>,
    /// `None`: killed.
    pub(crate) process: Option<Process>,
    turn: Turn,
    /// How long it did not run: its own clock is so much behind.
    pub(crate) paused: Duration,
    pub(crate) frozen_since: Option<Duration>,
    pub(crate) isolated: bool,
    /// Whether datagrams to it, when it is killed, come back as ICMP unreachable.
    pub(crate) refuses: bool,
    pub(crate) socket: VecDeque<Queued>,
    /// Its entry in the world's queue.
    pub(crate) wake: Option<(Duration, u64)>,
}

/// What a turn sends.
#[derive(Default)]
pub(crate) struct Sent(pub(crate) Vec<(FlowId, SocketAddr, Vec<u8>)>);

impl Sender for Sent {
    fn send(&mut self, outboxes: &[Outbox]) {
        let all = outboxes.iter().flat_map(Outbox::iter);
        self.0
            .extend(all.map(|one| (one.flow, one.destination, one.bytes.to_vec())));
    }
}

impl Host {
    pub(crate) fn new(name: &str, listen: &[SocketAddr], process: Process) -> Self {
        Self {
            name: name.to_owned(),
            listen: listen.to_vec(),
            process: Some(process),
            turn: Turn::new(),
            paused: Duration::ZERO,
            frozen_since: None,
            isolated: false,
            refuses: true,
            socket: VecDeque::new(),
            wake: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some() && self.frozen_since.is_none()
    }

    /// A driver's turn: first what the socket holds, then `act`, then timers, then everything leaves.
    pub(crate) fn turn(&mut self, now: Instant, act: impl FnOnce(&mut Turn)) -> Sent {
        let mut sent = Sent::default();
        let received: Vec<Queued> = self.socket.drain(..).collect();
        let Self { process, turn, .. } = self;
        match process {
            Some(Process::Element(element)) => {
                let batch: Vec<_> = received
                    .iter()
                    .map(|queued| Datagram {
                        flow: queued.flow,
                        source: queued.source,
                        bytes: &queued.bytes,
                    })
                    .collect();
                if !batch.is_empty() {
                    element.handle_batch(now, &batch, turn);
                }
                act(turn);
                element.flush(turn, &mut sent);
                while element.poll_timeout(0, 1).is_some_and(|due| due <= now) {
                    element.handle_timeout(now, 0, 1, turn);
                    element.flush(turn, &mut sent);
                }
            }
            Some(Process::Agent(agent)) => {
                for queued in &received {
                    agent.handle_datagram(now, queued.source, &queued.bytes);
                }
                act(turn);
                while agent.poll_timeout().is_some_and(|due| due <= now) {
                    agent.handle_timeout(now);
                }
                while let Some((destination, bytes)) = agent.poll_transmit() {
                    sent.0.push((FlowId(0), destination, bytes));
                }
            }
            None => {}
        }
        sent
    }

    pub(crate) fn unreachable(
        &mut self,
        now: Instant,
        flow: FlowId,
        destination: SocketAddr,
    ) -> Sent {
        let mut sent = Sent::default();
        if let Some(Process::Element(element)) = &self.process {
            element.handle_unreachable(now, flow, destination, &mut self.turn);
            element.flush(&mut self.turn, &mut sent);
        }
        sent
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.process.as_ref()? {
            Process::Element(element) => element.poll_timeout(0, 1),
            Process::Agent(agent) => agent.poll_timeout(),
        }
    }
}
