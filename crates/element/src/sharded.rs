//! An element out of shards and a node: short locks, kept order, news between the two.
//!
//! A shard is chosen by a keyed hash of the Call-ID, so that no caller can choose it. A shard's signs
//! for the node ([`Shard::take_outcomes`]) are handed over at the end of each batch; what the node
//! then has to say goes out in two steps: first the new view is published, then each notice is given
//! to every shard under its lock. A shard therefore never acts on an older view after a notice.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use sip_types::{Message, ParseError};
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::slot::{Locked, Slot};
use crate::tap::{Tap, TapPoint, TapSlot};
use crate::{Datagram, Element, FlowId, Outbox, Sender, Turn};

/// The transactions, dialogs and timers of the calls whose Call-ID hashes to it.
///
/// `now` never goes backwards. After any call that takes `now`, the driver asks for the outcomes and
/// for [`Shard::poll_timeout`], and empties the outbox before the turn ends.
pub trait Shard: Send + 'static {
    /// What the node publishes for all shards: an immutable snapshot.
    type View: Send + Sync + 'static;
    /// A change that every shard must act on, such as a lost router.
    type Notice: Clone + Send + 'static;
    /// Signs for the node, coalesced (for example the last event of each destination).
    type Outcomes: Default + Send + 'static;

    /// Takes a message whose Call-ID belongs here.
    fn handle_message(
        &mut self,
        now: Instant,
        view: &Self::View,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    );

    /// Takes a datagram that is no message; it is counted by its reason.
    fn handle_unparsable(
        &mut self,
        now: Instant,
        view: &Self::View,
        flow: FlowId,
        source: SocketAddr,
        bytes: &[u8],
        error: &ParseError,
    );

    /// Takes a notice of the node; `view` is at least as new as the notice.
    fn handle_notice(&mut self, now: Instant, view: &Self::View, notice: &Self::Notice);

    /// Runs the timers that are due.
    fn handle_timeout(&mut self, now: Instant, view: &Self::View);

    /// Returns when `handle_timeout` is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The datagrams that wait to be sent.
    fn outbox(&mut self) -> &mut Outbox;

    /// Moves the signs for the node into `into`, merging; tells whether there were any.
    fn take_outcomes(&mut self, into: &mut Self::Outcomes) -> bool;
}

/// What the whole process shares: destination health, membership.
///
/// After any call the driver publishes the last of [`Node::poll_view`], gives every notice to every
/// shard, and empties the outbox before the turn ends.
pub trait Node: Send + 'static {
    /// See [`Shard::View`].
    type View: Send + Sync + 'static;
    /// See [`Shard::Notice`].
    type Notice: Clone + Send + 'static;
    /// See [`Shard::Outcomes`].
    type Outcomes: Default + Send + 'static;

    /// Tells whether a message is for the node itself: answers to its probes, OPTIONS to it.
    fn claims(view: &Self::View, message: &Message<'_>) -> bool;

    /// Takes a message that it claims.
    fn handle_message(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    );

    /// Takes the signs of one or more shards out of `outcomes`.
    fn handle_outcomes(&mut self, now: Instant, outcomes: &mut Self::Outcomes);

    /// Takes the news that `destination` cannot be reached (ICMP unreachable on `flow`).
    fn handle_unreachable(&mut self, now: Instant, flow: FlowId, destination: SocketAddr);

    /// Runs the timers that are due.
    fn handle_timeout(&mut self, now: Instant);

    /// Returns when `handle_timeout` is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The datagrams that wait to be sent.
    fn outbox(&mut self) -> &mut Outbox;

    /// Returns the next notice for the shards.
    fn poll_notice(&mut self) -> Option<Self::Notice>;

    /// Returns a new snapshot to publish, before the notices are delivered.
    fn poll_view(&mut self) -> Option<Arc<Self::View>>;
}

/// Shards and a node as one [`Element`].
pub struct Sharded<S: Shard, N> {
    shards: Vec<Slot<S>>,
    node: Slot<N>,
    view: ArcSwap<S::View>,
    shard_key: [u8; 16],
    epoch: OnceLock<Instant>,
    tap: TapSlot,
}

/// The node among the parts that a turn has touched: the first, so that what it tells other nodes of a
/// change leaves ahead of the message that caused it.
const NODE: usize = usize::MAX;

/// A shard whose lock is kept while consecutive datagrams are for it.
struct Held<'a, S: Shard> {
    index: usize,
    shard: Locked<'a, S>,
    view: arc_swap::Guard<Arc<S::View>>,
}

impl<S, N> Sharded<S, N>
where
    S: Shard,
    N: Node<View = S::View, Notice = S::Notice, Outcomes = S::Outcomes>,
{
    /// Puts `shards`, at least one, and `node` together; `shard_key` is secret and of this process.
    #[must_use]
    pub fn new(shards: Vec<S>, node: N, view: Arc<S::View>, shard_key: [u8; 16]) -> Self {
        assert!(!shards.is_empty(), "an element has at least one shard");
        let epoch = OnceLock::new();
        let slot = |shard: S| {
            let timeout = shard.poll_timeout();
            Slot::new(shard, timeout, &epoch)
        };
        let shards = shards.into_iter().map(slot).collect();
        let timeout = node.poll_timeout();
        let node = Slot::new(node, timeout, &epoch);
        Self {
            shards,
            node,
            view: ArcSwap::new(view),
            shard_key,
            epoch,
            tap: TapSlot::default(),
        }
    }

    /// Lets the control plane change the node, then publishes and delivers what follows from it.
    ///
    /// What is to be sent waits in the outboxes: flush `turn` afterwards.
    pub fn with_node<R>(&self, now: Instant, turn: &mut Turn, f: impl FnOnce(&mut N) -> R) -> R {
        self.with_node_at(now, turn, |_, node| f(node))
    }

    fn with_node_at<R>(
        &self,
        now: Instant,
        turn: &mut Turn,
        f: impl FnOnce(Instant, &mut N) -> R,
    ) -> R {
        turn.now = Some(now);
        let mut outcomes = turn.take_scratch::<S::Outcomes>();
        let mut node = self.node.lock(now);
        let result = f(node.now, &mut node);
        self.settle(node, &mut turn.touched, &mut outcomes);
        turn.put_scratch(outcomes);
        result
    }

    /// Looks at the node, changing nothing.
    pub fn inspect_node<R>(&self, f: impl FnOnce(&N) -> R) -> R {
        self.node.lock_untimed(|node| f(node))
    }

    /// Looks at one shard after the other, by rising index, changing nothing.
    pub fn for_each_shard(&self, mut f: impl FnMut(&S)) {
        for slot in &self.shards {
            slot.lock_untimed(|shard| f(shard));
        }
    }

    /// Looks at one shard, changing nothing; `None` when there is none of that index.
    pub fn inspect_shard<R>(&self, index: usize, f: impl FnOnce(&S) -> R) -> Option<R> {
        let slot = self.shards.get(index)?;
        Some(slot.lock_untimed(|shard| f(shard)))
    }

    /// Returns the current view.
    pub fn view(&self) -> Arc<S::View> {
        self.view.load_full()
    }

    /// Sets who sees every datagram from now on, or nobody.
    pub fn set_tap(&self, tap: Option<Arc<dyn Tap>>) {
        self.tap.set(tap);
    }

    /// Returns the index of the shard that owns a Call-ID.
    #[must_use]
    pub fn shard_of(&self, call_id: &[u8]) -> usize {
        let hash = SipHasher13::new_with_key(&self.shard_key).hash(call_id);
        (hash % self.shards.len() as u64) as usize
    }

    /// Returns the lock of shard `index` and a view that is no older than the lock.
    fn hold(&self, now: Instant, index: usize) -> Held<'_, S> {
        let shard = self.shards[index].lock(now);
        Held {
            index,
            shard,
            view: self.view.load(),
        }
    }

    /// Gives a shard back and notes what the rest of the turn must know; tells whether it had signs.
    fn release(
        &self,
        mut held: Held<'_, S>,
        touched: &mut Vec<usize>,
        outcomes: &mut S::Outcomes,
    ) -> bool {
        let news = held.shard.take_outcomes(outcomes);
        if !held.shard.outbox().is_empty() {
            touched.push(held.index);
        }
        self.shards[held.index].set_deadline(held.shard.poll_timeout(), &self.epoch);
        news
    }

    /// Hands the outcomes to the node, publishes its view and delivers its notices, until all is said.
    ///
    /// The node stays locked, so every shard gets all notices in one order.
    fn settle(
        &self,
        mut node: Locked<'_, N>,
        touched: &mut Vec<usize>,
        outcomes: &mut S::Outcomes,
    ) {
        loop {
            let now = node.now;
            node.handle_outcomes(now, outcomes);
            while let Some(view) = node.poll_view() {
                self.view.store(view);
            }
            let mut news = false;
            while let Some(notice) = node.poll_notice() {
                for index in 0..self.shards.len() {
                    let mut held = self.hold(now, index);
                    let now = held.shard.now;
                    held.shard.handle_notice(now, &held.view, &notice);
                    news |= self.release(held, touched, outcomes);
                }
            }
            if !news {
                break;
            }
        }
        if !node.outbox().is_empty() {
            touched.push(NODE);
        }
        self.node.set_deadline(node.poll_timeout(), &self.epoch);
    }

    /// Returns the shard that counts what came from `source` and is no message.
    fn shard_of_source(&self, source: SocketAddr) -> usize {
        match source {
            SocketAddr::V4(source) => self.shard_of(&source.ip().octets()),
            SocketAddr::V6(source) => self.shard_of(&source.ip().octets()),
        }
    }
}

impl<S, N> Element for Sharded<S, N>
where
    S: Shard,
    N: Node<View = S::View, Notice = S::Notice, Outcomes = S::Outcomes>,
{
    /// Answers OPTIONS first: a busy node that is late with them looks dead to its neighbours.
    fn handle_batch(&self, now: Instant, batch: &[Datagram<'_>], turn: &mut Turn) {
        turn.now = Some(now);
        let mut outcomes = turn.take_scratch::<S::Outcomes>();
        let Turn { index, touched, .. } = turn;
        let view = self.view.load();
        let mut held: Option<Held<'_, S>> = None;
        let mut news = false;
        let options = batch.iter().filter(|datagram| is_options(datagram));
        let others = batch.iter().filter(|datagram| !is_options(datagram));
        for datagram in options.chain(others) {
            let &Datagram {
                flow,
                source,
                bytes,
            } = datagram;
            self.tap.message(now, TapPoint::In, flow, source, bytes);
            let parsed = Message::parse(bytes, index);
            if let Ok(message) = &parsed
                && N::claims(&view, message)
            {
                if let Some(held) = held.take() {
                    self.release(held, touched, &mut outcomes);
                }
                let mut node = self.node.lock(now);
                let now = node.now;
                node.handle_message(now, flow, source, message);
                news = true;
                continue;
            }
            let target = match &parsed {
                Ok(message) => self.shard_of(message.call_id()),
                Err(_) => self.shard_of_source(source),
            };
            if let Some(other) = held.take_if(|held| held.index != target) {
                news |= self.release(other, touched, &mut outcomes);
            }
            let Held { shard, view, .. } = held.get_or_insert_with(|| self.hold(now, target));
            let now = shard.now;
            match parsed {
                Ok(message) => shard.handle_message(now, view, flow, source, &message),
                Err(error) => shard.handle_unparsable(now, view, flow, source, bytes, &error),
            }
        }
        if let Some(held) = held {
            news |= self.release(held, touched, &mut outcomes);
        }
        if news {
            self.settle(self.node.lock(now), touched, &mut outcomes);
        }
        turn.put_scratch(outcomes);
    }

    fn handle_unreachable(
        &self,
        now: Instant,
        flow: FlowId,
        destination: SocketAddr,
        turn: &mut Turn,
    ) {
        self.with_node_at(now, turn, |now, node| {
            node.handle_unreachable(now, flow, destination)
        });
    }

    /// Worker 0 cares for the node, and of the shards each worker for every `workers`-th.
    fn handle_timeout(&self, now: Instant, worker: usize, workers: usize, turn: &mut Turn) {
        turn.now = Some(now);
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let mut outcomes = turn.take_scratch::<S::Outcomes>();
        let mut news = false;
        for index in (worker..self.shards.len()).step_by(workers) {
            if due(self.shards[index].deadline(&self.epoch)) {
                let mut held = self.hold(now, index);
                let now = held.shard.now;
                held.shard.handle_timeout(now, &held.view);
                news |= self.release(held, &mut turn.touched, &mut outcomes);
            }
        }
        let node_due = worker == 0 && due(self.node.deadline(&self.epoch));
        if news || node_due {
            let mut node = self.node.lock(now);
            if node_due {
                let now = node.now;
                node.handle_timeout(now);
            }
            self.settle(node, &mut turn.touched, &mut outcomes);
        }
        turn.put_scratch(outcomes);
    }

    fn poll_timeout(&self, worker: usize, workers: usize) -> Option<Instant> {
        let shards = self
            .shards
            .iter()
            .skip(worker)
            .step_by(workers)
            .filter_map(|slot| slot.deadline(&self.epoch));
        let node = (worker == 0)
            .then(|| self.node.deadline(&self.epoch))
            .flatten();
        shards.chain(node).min()
    }

    fn flush(&self, turn: &mut Turn, sender: &mut dyn Sender) {
        let Turn {
            touched,
            outboxes,
            now,
            ..
        } = turn;
        let Some(now) = *now else { return };
        touched.sort_unstable_by_key(|index| index.wrapping_add(1));
        touched.dedup();
        let sending: SmallVec<[_; 64]> = touched
            .iter()
            .map(|&index| {
                self.shards
                    .get(index)
                    .map_or(&self.node.sending, |slot| &slot.sending)
                    .lock()
            })
            .collect();
        let mut used = 0;
        for &index in touched.iter() {
            if outboxes.len() == used {
                outboxes.push(Outbox::new());
            }
            let full = &mut outboxes[used];
            match self.shards.get(index) {
                Some(slot) => slot.lock_untimed(|shard| std::mem::swap(shard.outbox(), full)),
                None => self
                    .node
                    .lock_untimed(|node| std::mem::swap(node.outbox(), full)),
            }
            used += usize::from(!full.is_empty());
        }
        touched.clear();
        let outboxes = &mut outboxes[..used];
        if used > 0 {
            if self.tap.is_set() {
                for transmit in outboxes.iter().flat_map(Outbox::iter) {
                    self.tap.message(
                        now,
                        TapPoint::Out,
                        transmit.flow,
                        transmit.destination,
                        transmit.bytes,
                    );
                }
            }
            sender.send(outboxes);
        }
        drop(sending);
        outboxes.iter_mut().for_each(Outbox::clear);
    }
}

fn is_options(datagram: &Datagram<'_>) -> bool {
    datagram.bytes.starts_with(b"OPTIONS ")
}
