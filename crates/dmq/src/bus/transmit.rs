//! What goes out: notifications when they are due, channel requests, replies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use sip_types::Message;

use super::{Bus, JOIN_MAX_FORWARDS, MAX_FORWARDS};
use crate::NOTIFICATION_CHANNEL;
use crate::list::{self, Status};
use crate::node::{Node, NodeState};
use crate::request::{Purpose, Request, RequestId, Waits};
use crate::wire::{self, Outgoing, Reply};

impl Bus {
    pub(super) fn ping_interval(&mut self) -> Duration {
        self.config
            .ping_interval
            .mul_f64(self.rng.random_range(0.8..=1.0))
    }

    /// Sends a node the notification that is due, unless one still waits for its answer.
    ///
    /// While no node is active, notification addresses are asked to tell others of us.
    pub(super) fn notify(&mut self, now: Instant, address: SocketAddr) {
        let is_alone = !self.nodes.values().any(Node::is_active);
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        let is_due = node.announcement.is_some() || node.next_ping <= now;
        if self.is_leaving || node.notification.is_some() || !is_due {
            return;
        }
        let usual = match is_alone && node.is_seed {
            true => JOIN_MAX_FORWARDS,
            false => MAX_FORWARDS,
        };
        let max_forwards = node.announcement.take().unwrap_or(usual);
        let waits = match node.status.state {
            NodeState::Active => Waits::of(node.ping_schedule(), node.status.smoothed_rtt),
            NodeState::Pending | NodeState::NotActive | NodeState::Disabled => Waits::SEARCH,
        };
        let list = self.own_list();
        let id = self.transmit(
            now,
            address,
            Purpose::Notification,
            NOTIFICATION_CHANNEL,
            max_forwards,
            &list,
            waits,
        );
        if let Some(node) = self.nodes.get_mut(&address) {
            node.notification = Some(id);
        }
    }

    /// Writes our list: this node and those that are active.
    pub(super) fn own_list(&mut self) -> Vec<u8> {
        let mut list = Vec::new();
        let active = self.nodes.values().filter(|node| node.is_active());
        let status = match self.is_leaving {
            true => Status::Disabled,
            false => Status::Active,
        };
        let left_off = list::encode(
            self.config.own,
            status,
            active.map(|node| node.status.address),
            &mut list,
        );
        self.counters.lines_left_off += left_off as u64;
        list
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the one place where a request is made"
    )]
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        address: SocketAddr,
        purpose: Purpose,
        channel: &str,
        max_forwards: u8,
        body: &[u8],
        waits: Waits,
    ) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        let token = self.rng.random();
        let mut bytes = Vec::with_capacity(body.len() + 512);
        let outgoing = Outgoing {
            own: self.config.own,
            to: address,
            channel,
            max_forwards,
            number: id.0,
            token,
            tag: self.tag,
            server: &self.config.server,
            body,
        };
        wire::write_request(&outgoing, &mut bytes);
        self.outbox.push(self.config.flow, address, &bytes);
        if purpose == Purpose::Data {
            self.bytes_in_flight += bytes.len();
        }
        let request = Request::new(now, purpose, bytes.into(), token, waits);
        if let Some(node) = self.nodes.get_mut(&address) {
            node.insert(now, id, request);
        }
        id
    }

    pub(super) fn write_reply(
        &mut self,
        source: SocketAddr,
        message: &Message<'_>,
        status: u16,
        list: Option<&[u8]>,
    ) {
        let reply = Reply {
            status,
            tag: self.tag,
            server: &self.config.server,
            list,
        };
        let to = wire::reply_address(message, source);
        self.outbox.push_with(self.config.flow, to, |out| {
            wire::write_reply(message, &reply, out);
        });
    }
}
