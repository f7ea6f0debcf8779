//! What becomes of nodes: found, lost, gone; and of the requests that wait for them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Bus, Event};
use crate::node::{Node, NodeState};
use crate::request::{Purpose, Request, RequestId};

/// A node that is no notification address is forgotten after so long without being active.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// What nobody answered.
const REQUEST_TIMEOUT: u16 = 408;

impl Bus {
    /// Gives up, repeats and pings what is due at one node.
    pub(super) fn run(&mut self, now: Instant, address: SocketAddr) {
        let Some(node) = self.nodes.get(&address) else {
            return;
        };
        if node.is_lost(now) {
            self.lose(now, address);
        }
        let Some(node) = self.nodes.get(&address) else {
            return;
        };
        for id in node.expired(now) {
            self.give_up(now, address, id);
        }
        self.repeat(now, address);
        self.notify(now, address);
    }

    fn repeat(&mut self, now: Instant, address: SocketAddr) {
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        let mut repeats = 0;
        for request in node.requests.values_mut() {
            if request.take_repeat(now) {
                self.outbox.push(self.config.flow, address, &request.bytes);
                repeats += 1;
            }
        }
        for _ in 0..repeats {
            node.handle_repeat(now);
        }
    }

    /// A node speaks, or answers a ping; tells whether that is news.
    pub(super) fn activate(&mut self, now: Instant, address: SocketAddr) -> bool {
        let Some(node) = self
            .nodes
            .get_mut(&address)
            .filter(|node| !node.is_active())
        else {
            return false;
        };
        if node.status.state == NodeState::Disabled {
            node.next_ping = now;
        }
        node.enter(now, NodeState::Active);
        self.events.push_back(Event::NodeUp { node: address });
        true
    }

    /// A node says that it leaves; tells whether that is news.
    pub(super) fn disable(&mut self, now: Instant, address: SocketAddr) -> bool {
        let next_ping = now + self.ping_interval();
        let Some(node) = self.nodes.get_mut(&address) else {
            return false;
        };
        if node.status.state == NodeState::Disabled {
            return false;
        }
        self.end_activity(now, address, NodeState::Disabled);
        if let Some(node) = self.nodes.get_mut(&address) {
            node.next_ping = next_ping;
        }
        true
    }

    /// A node owes answers and has been silent for too long.
    pub(super) fn lose(&mut self, now: Instant, address: SocketAddr) {
        self.end_activity(now, address, NodeState::NotActive);
        if let Some(node) = self.nodes.get_mut(&address) {
            node.next_ping = now;
        }
    }

    pub(super) fn remove(&mut self, now: Instant, address: SocketAddr) {
        self.end_activity(now, address, NodeState::NotActive);
        self.nodes.remove(&address);
        self.events.push_back(Event::NodeRemoved { node: address });
    }

    /// Takes a node out of use, with everything that waits for it.
    fn end_activity(&mut self, now: Instant, address: SocketAddr, state: NodeState) {
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        if node.is_active() {
            self.events.push_back(Event::NodeDown { node: address });
        }
        node.enter(now, state);
        node.announcement = None;
        let data = node.requests.iter();
        let data = data.filter(|(_, request)| request.purpose == Purpose::Data);
        let data: Vec<_> = data.map(|(id, _)| *id).collect();
        for id in data {
            self.give_up(now, address, id);
        }
        self.drop_notification(now, address);
    }

    pub(super) fn drop_notification(&mut self, now: Instant, address: SocketAddr) {
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        if let Some(id) = node.notification {
            node.status.unanswered += 1;
            node.remove(now, id);
        }
    }

    /// Nobody answered.
    fn give_up(&mut self, now: Instant, address: SocketAddr, id: RequestId) {
        let Some(request) = self.take(now, address, id) else {
            return;
        };
        let interval = self.ping_interval();
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        node.status.unanswered += 1;
        match request.purpose {
            Purpose::Data => self.events.push_back(Event::Answered {
                node: address,
                request: id,
                status: REQUEST_TIMEOUT,
            }),
            Purpose::Notification if is_forgotten(now, node) => self.remove(now, address),
            Purpose::Notification => {
                node.next_ping = match node.status.state {
                    NodeState::Pending | NodeState::NotActive => now,
                    NodeState::Active | NodeState::Disabled => now + interval,
                };
            }
            Purpose::Farewell => {}
        }
    }

    /// Takes out a request that is over.
    pub(super) fn take(
        &mut self,
        now: Instant,
        address: SocketAddr,
        id: RequestId,
    ) -> Option<Request> {
        let request = self.nodes.get_mut(&address)?.remove(now, id)?;
        if request.purpose == Purpose::Data {
            self.bytes_in_flight -= request.bytes.len();
        }
        Some(request)
    }
}

/// Tells whether a ping in vain was the last one.
fn is_forgotten(now: Instant, node: &Node) -> bool {
    !node.is_seed
        && match node.status.state {
            NodeState::Active => false,
            NodeState::Disabled => true,
            NodeState::Pending | NodeState::NotActive => {
                now.duration_since(node.status.since) >= FORGOTTEN_AFTER
            }
        }
}
