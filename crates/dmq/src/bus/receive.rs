//! What comes in: requests of nodes that may speak, and responses to ours.

use std::net::SocketAddr;
use std::time::Instant;

use sip_types::Message;

use super::{Bus, Delivery, Event, JOIN_MAX_FORWARDS, MAX_FORWARDS};
use crate::NOTIFICATION_CHANNEL;
use crate::list::{self, Status};
use crate::node::NodeState;
use crate::replies::Seen;
use crate::request::{Purpose, Request, RequestId};
use crate::wire;

impl Bus {
    pub(super) fn handle_request<'a>(
        &mut self,
        now: Instant,
        source: SocketAddr,
        message: &'a Message<'_>,
    ) -> Option<Delivery<'a>> {
        if message.check().is_err() {
            self.counters.malformed += 1;
            return None;
        }
        if !self.may_speak(source) || wire::claimed_node(message) != Some(source) {
            self.counters.refused += 1;
            return None;
        }
        let Some(channel) = wire::channel(message) else {
            self.counters.malformed += 1;
            return None;
        };
        if !self.admit(now, source) {
            return None;
        }
        let node = self.nodes.get_mut(&source)?;
        node.status.received += 1;
        node.handle_sign_of_life(now);
        if self.is_repeat(now, source, message, channel) {
            return None;
        }
        if channel == NOTIFICATION_CHANNEL.as_bytes() {
            self.handle_notification(now, source, message);
            return None;
        }
        self.hear_data(now, source);
        let body = message.body();
        let status = match std::str::from_utf8(channel) {
            Ok(channel) if !body.is_empty() && message.content_length().is_some() => {
                return Some(Delivery {
                    node: source,
                    channel,
                    body,
                });
            }
            Ok(_) => 400,
            Err(_) => 404,
        };
        self.reply(now, source, message, status);
        None
    }

    /// A node that sends data takes data. One that has left may have sent them before it did: what it
    /// says to a ping decides.
    fn hear_data(&mut self, now: Instant, source: SocketAddr) {
        match self.nodes.get_mut(&source) {
            Some(node) if node.status.state == NodeState::Disabled => node.next_ping = now,
            Some(_) | None => drop(self.activate(now, source)),
        }
        self.notify(now, source);
    }

    /// Answers a retransmission as before, a notification with the list of today.
    fn is_repeat(
        &mut self,
        now: Instant,
        source: SocketAddr,
        message: &Message<'_>,
        channel: &[u8],
    ) -> bool {
        let (seen, forgot) = self.replies.note(now, source, message);
        self.counters.replies_forgotten += u64::from(forgot);
        match seen {
            Seen::Never => return false,
            Seen::Unanswered => {}
            Seen::Answered(status) => {
                let is_notification = channel == NOTIFICATION_CHANNEL.as_bytes();
                let list = is_notification.then(|| self.own_list());
                self.write_reply(source, message, status, list.as_deref());
            }
        }
        self.counters.repeats_received += 1;
        true
    }

    /// Takes a notification: its list, and what it is told in return. Whoever brings news has them
    /// announced to every active node, itself included, as far as its Max-Forwards reaches.
    fn handle_notification(&mut self, now: Instant, source: SocketAddr, message: &Message<'_>) {
        let is_news = self.read_list(now, source, message.body());
        self.replies.answer(source, message, 200);
        let list = self.own_list();
        self.write_reply(source, message, 200, Some(&list));
        let reach = message
            .max_forwards()
            .and_then(Result::ok)
            .unwrap_or_default();
        if is_news && reach > MAX_FORWARDS {
            let reach = (reach - 1).min(JOIN_MAX_FORWARDS);
            for node in self.nodes.values_mut().filter(|node| node.is_active()) {
                node.announcement = node.announcement.max(Some(reach));
            }
        }
        for address in self.addresses() {
            self.notify(now, address);
        }
    }

    /// Takes the list of a node that has just spoken; tells whether anything in it was news.
    ///
    /// A node speaks for itself alone: others that it names are asked, not believed.
    fn read_list(&mut self, now: Instant, from: SocketAddr, body: &[u8]) -> bool {
        let (mut leaves, mut is_news) = (false, false);
        let mut lists_us = None;
        for line in list::decode(body) {
            let Ok(line) = line else {
                self.counters.lines_skipped += 1;
                continue;
            };
            let is_us = line.node == self.config.own;
            lists_us = Some(lists_us == Some(true) || is_us && line.status == Status::Active);
            if line.node == from {
                leaves |= line.status == Status::Disabled;
            } else if is_us || self.nodes.contains_key(&line.node) {
                // We know better.
            } else if !self.may_speak(line.node) {
                self.counters.lines_not_allowed += 1;
            } else if line.status == Status::Active {
                is_news |= self.admit(now, line.node);
            }
        }
        let changed = if leaves {
            self.disable(now, from)
        } else {
            self.activate(now, from)
        };
        if let (Some(node), Some(lists_us)) = (self.nodes.get_mut(&from), lists_us) {
            let before = node.lists_us.replace(lists_us);
            if before == Some(false) && lists_us {
                self.events.push_back(Event::Listed { node: from });
            }
        }
        is_news || changed
    }

    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        let Some(node) = self.nodes.get_mut(&source) else {
            self.counters.responses_unmatched += 1;
            return;
        };
        node.handle_sign_of_life(now);
        let answered = wire::answered_request(message).map(|(id, token)| (RequestId(id), token));
        let Some((id, _)) = answered.filter(|(id, token)| {
            node.requests
                .get(id)
                .is_some_and(|request| request.token == *token)
        }) else {
            self.counters.responses_unmatched += 1;
            return;
        };
        let status = message.status().unwrap_or_default();
        if status < 200 {
            return;
        }
        if let Some(request) = self.take(now, source, id) {
            self.answered(now, source, id, &request, status, message.body());
        }
    }

    /// A final response came.
    fn answered(
        &mut self,
        now: Instant,
        address: SocketAddr,
        id: RequestId,
        request: &Request,
        status: u16,
        body: &[u8],
    ) {
        let next_ping = now + self.ping_interval();
        let Some(node) = self.nodes.get_mut(&address) else {
            return;
        };
        node.handle_answer(now, request);
        match request.purpose {
            Purpose::Data => self.events.push_back(Event::Answered {
                node: address,
                request: id,
                status,
            }),
            Purpose::Notification => {
                node.next_ping = next_ping;
                if status == 200 {
                    self.read_list(now, address, body);
                }
                for address in self.addresses() {
                    self.notify(now, address);
                }
            }
            Purpose::Farewell => {}
        }
    }
}
