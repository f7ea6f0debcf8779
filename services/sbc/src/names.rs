//! Names of next hops: looked up off the packet path, remembered, and waited for by requests that
//! need one for the first time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use element::FlowId;
use host::Name;
use sip::transaction::ServerKey;
use sip_types::{Index, Message, Method};

use crate::name_book::FORGOTTEN_AFTER;
use crate::shard::Shard;
use crate::view::View;

/// How long a request waits for a name; then 503.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How many requests of one shard may wait for names; at the limit: 503 at once.
pub const WAITING_MAX: usize = 1024;

/// What is known of names. A snapshot; the node has the book.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// What they stand for.
    pub known: Arc<BTreeMap<Name, Known>>,
    /// Addresses that did not serve, and when that was last seen.
    pub marks: Arc<BTreeMap<SocketAddr, Instant>>,
}

/// The answer to a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// In the order in which they are tried. None: there is no such name, or nobody answered.
    pub addresses: Arc<[SocketAddr]>,
    /// When it should be asked for again.
    pub until: Instant,
    /// How long the last good answer counted.
    pub good_until: Instant,
}

impl Known {
    /// Returns when it counts no longer, though nobody has answered since.
    pub(crate) fn forgotten_at(&self) -> Instant {
        match self.addresses.is_empty() {
            true => self.until,
            false => self.good_until + FORGOTTEN_AFTER,
        }
    }
}

impl Names {
    /// Returns the address of a name that a request goes to, `usable` ones only: the first that is not
    /// marked, else the one whose mark is the oldest.
    pub(crate) fn address(
        &self,
        name: &Name,
        usable: impl Fn(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        let known = self.known.get(name)?;
        let addresses = known.addresses.iter().copied();
        addresses
            .filter(|address| usable(*address))
            .min_by_key(|address| self.marks.get(address))
    }
}

/// An address, and the name that it was found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) address: SocketAddr,
    pub(crate) name: Option<Box<Name>>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// To this address.
    Known(Hop),
    /// To an address of this name, once it is known.
    Ask(Name),
    /// Nobody knows.
    Nowhere,
    /// To a `sips:` URI: over TLS, which is not spoken here, or not at all.
    Insecure,
}

/// A request that waits for a name.
#[derive(Debug)]
pub(crate) struct Waiting {
    name: Name,
    until: Instant,
    flow: FlowId,
    source: SocketAddr,
    bytes: Box<[u8]>,
    /// Names the transaction that a CANCEL would be about.
    invite: Option<ServerKey>,
}

impl Shard {
    /// Lets a request wait for a name; it is taken up again, as if it had just come, when that is
    /// known. Its repeats meanwhile wait with it and are then known for what they are.
    pub(crate) fn wait_for_name(
        &mut self,
        now: Instant,
        name: Name,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            return false;
        }
        self.signs.need(&name);
        let until = now + PATIENCE;
        let bytes = message.bytes().into();
        let is_invite = message.method() == Method::Invite;
        let invite = is_invite.then(|| self.proxy.invite_key(message)).flatten();
        self.waiting.push_back(Waiting {
            name,
            until,
            flow,
            source,
            bytes,
            invite,
        });
        true
    }

    /// Takes the CANCEL of an INVITE that waits: it gets 200, the INVITE 487, and goes nowhere. Tells
    /// whether there was one. RFC 3261 section 9.2.
    pub(crate) fn cancel_waiting(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        cancel: &Message<'_>,
    ) -> bool {
        if self.waiting.is_empty() || cancel.method() != Method::Cancel {
            return false;
        }
        let Some(key) = self.proxy.invite_key(cancel) else {
            return false;
        };
        let is_meant = |waiting: &Waiting| waiting.invite == Some(key);
        let Some(at) = self.waiting.iter().position(is_meant) else {
            return false;
        };
        self.proxy
            .respond_stateless(now, flow, source, cancel, 200, &[]);
        if let Some(waiting) = self.waiting.remove(at) {
            let mut index = Index::new();
            if let Ok(invite) = Message::parse(&waiting.bytes, &mut index) {
                self.proxy.remember_refused(now, &invite, 487);
                let Waiting { flow, source, .. } = waiting;
                self.proxy
                    .respond_stateless(now, flow, source, &invite, 487, &[]);
            }
        }
        // Its repeats.
        self.waiting.retain(|waiting| !is_meant(waiting));
        true
    }

    /// Takes up the requests whose name is known now.
    pub(crate) fn names_known(&mut self, now: Instant, view: &View) {
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            if view.names.known.contains_key(&waiting.name) {
                let mut index = Index::new();
                if let Ok(message) = Message::parse(&waiting.bytes, &mut index) {
                    let Waiting { flow, source, .. } = waiting;
                    let from_router = view.is_router(flow, source);
                    self.handle_request(now, view, flow, source, from_router, &message);
                }
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// Refuses the requests that have waited for too long.
    pub(crate) fn give_up_waiting(&mut self, now: Instant) {
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.until <= now)
        {
            let Some(Waiting {
                flow,
                source,
                bytes,
                ..
            }) = self.waiting.pop_front()
            else {
                return;
            };
            let mut index = Index::new();
            if let Ok(message) = Message::parse(&bytes, &mut index) {
                self.refuse_unresolvable(now, flow, source, &message);
            }
        }
    }

    /// Returns when `give_up_waiting` is due.
    pub(crate) fn patience_ends(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }
}
