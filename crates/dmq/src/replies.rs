//! What was answered to whom: a retransmission is answered the same and not executed again.
//!
//! Kamailio has nothing like it and relies on every message being harmless when it is repeated.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip_types::Message;

use crate::REPLIES_MAX;

/// A stock node repeats a request for the last time 27.5 s after the first.
const REMEMBERED_FOR: Duration = Duration::from_secs(32);

/// Whether a request has been seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It has not.
    Never,
    /// It has, and it is not answered yet.
    Unanswered,
    /// It has, and was answered with this status.
    Answered(u16),
}

/// The requests of the last half minute.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    by_key: BTreeMap<Arc<[u8]>, Option<u16>>,
    order: VecDeque<(Instant, Arc<[u8]>)>,
}

impl Replies {
    /// Notes a request; returns what is known of it, and whether an older one was forgotten for it
    /// before its time.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        source: SocketAddr,
        request: &Message<'_>,
    ) -> (Seen, bool) {
        self.forget_old(now);
        let key = key(source, request);
        match self.by_key.get(&key[..]) {
            Some(Some(status)) => return (Seen::Answered(*status), false),
            Some(None) => return (Seen::Unanswered, false),
            None => {}
        }
        let is_full = self.order.len() >= REPLIES_MAX;
        if is_full && let Some((_, oldest)) = self.order.pop_front() {
            self.by_key.remove(&oldest);
        }
        let key = Arc::<[u8]>::from(key);
        self.by_key.insert(Arc::clone(&key), None);
        self.order.push_back((now, key));
        (Seen::Never, is_full)
    }

    /// Remembers how a request was answered, if it is still known.
    pub(crate) fn answer(&mut self, source: SocketAddr, request: &Message<'_>, status: u16) {
        if let Some(entry) = self.by_key.get_mut(&key(source, request)[..]) {
            *entry = Some(status);
        }
    }

    /// Forgets a request that was not answered: its repeat is news.
    pub(crate) fn forget(&mut self, source: SocketAddr, request: &Message<'_>) {
        let key = key(source, request);
        self.by_key.remove(&key[..]);
        let last = self
            .order
            .iter()
            .rposition(|(_, noted)| noted[..] == key[..]);
        last.map(|at| self.order.remove(at));
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front()
            && *at + REMEMBERED_FOR <= now
        {
            self.by_key.remove(key);
            self.order.pop_front();
        }
    }
}

/// Names a request: whose it is, its number, Call-ID and branch. No part can hold a line end: what is
/// checked has none in Call-ID and branch.
fn key(source: SocketAddr, request: &Message<'_>) -> Vec<u8> {
    let ip = match source.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let number = request.cseq().map_or(0, |cseq| cseq.number);
    let mut key = Vec::with_capacity(128);
    key.extend_from_slice(&ip.octets());
    key.extend_from_slice(&source.port().to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(request.call_id());
    key.push(b'\n');
    if let Some(branch) = request.top_via().and_then(|via| via.branch) {
        key.extend_from_slice(branch);
    }
    key
}
