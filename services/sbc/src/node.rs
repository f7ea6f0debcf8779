//! What the whole SBC shares: who is alive, who is a member, what is configured. Sans-IO.
//!
//! It probes with OPTIONS, judges by [`dispatch::Health`], answers OPTIONS that are for the SBC
//! itself, and publishes a [`View`] after each change.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use control::view::{self as registry, Network, Networks};
use dispatch::{
    Administrative, Algorithm, ClusterKey, DestinationSet, Health, HealthConfig, HealthEvent,
    Member, Probe, ProbeSeq, Sets, Status, UnknownDestination,
};
use element::{FlowId, Outbox};
use host::{Answer, Drain, DrainedBy, Name, Owners, destinations};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use sip::options;
use sip_types::Message;

use crate::name_book::NameBook;
use crate::shard::Notice;
use crate::signs::{Sign, Signs};
use crate::unreachable::Unreachable;
use crate::view::{Owner, View};

/// The set that requests from outside go to.
pub const FIRST_SET: &str = "1";

/// A change that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A router went from one state to another.
    Destination(HealthEvent),
    /// A part of the registry's view was not usable; the rest is in force.
    Unusable(String),
}

/// The node of an SBC.
#[derive(Debug)]
pub struct Node {
    health: Health,
    sets: Option<Sets>,
    owners: Owners<Owner>,
    /// Who may send whatever the registry says.
    allow: Arc<[Network]>,
    view: View,
    published: bool,
    /// Who wants no new calls here.
    drain: Drain,
    notices: VecDeque<Notice>,
    changes: VecDeque<Change>,
    names: NameBook,
    unreachable: Unreachable,
    outbox: Outbox,
    rng: SmallRng,
    tag: u64,
}

/// How many changes wait for somebody to read them; the oldest go first.
const CHANGES_MAX: usize = 1024;

impl Node {
    /// Creates a node that listens on `listen` (outside, then inside if that is another address) and
    /// takes SIP from `allow`, and the registry's trunks, besides its routers.
    #[must_use]
    pub fn new(listen: Arc<[SocketAddr]>, allow: Arc<[Network]>, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let tag = rng.next_u64();
        Self {
            health: Health::new(HealthConfig::default()),
            sets: None,
            owners: Owners::default(),
            view: View::empty(listen, Arc::new(allow.iter().copied().collect())),
            allow,
            published: false,
            drain: Drain::default(),
            notices: VecDeque::new(),
            changes: VecDeque::new(),
            names: NameBook::default(),
            unreachable: Unreachable::default(),
            outbox: Outbox::new(),
            rng,
            tag,
        }
    }

    /// Returns the view as it is now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Adds addresses that the cluster had before this process started, the longest gone first; the
    /// oldest beyond [`host::ADDRESSES_MAX`] are forgotten.
    pub fn remember(&mut self, former: impl IntoIterator<Item = (SocketAddr, Owner)>) {
        self.owners.remember(former);
        self.view.addresses = Arc::new(self.owners.all());
        self.published = false;
    }

    /// Puts the registry's view in force.
    pub fn configure(&mut self, now: Instant, config: &registry::View) {
        let drained = config.is_draining(&self.view.listen);
        self.drain(DrainedBy::Registry, drained);
        self.note_addresses(config);
        self.note_senders(config);
        self.view.cluster_key = config.cluster_key;
        self.view.ready = true;
        self.configure_set(now, config);
        for member in config
            .members
            .iter()
            .filter(|member| member.kind.is_router() && member.incarnation > 0)
        {
            self.health
                .handle_incarnation(now, &member.id, member.incarnation);
        }
        self.published = false;
    }

    /// Takes [`FIRST_SET`]. One that is not usable leaves the one before it in force.
    fn configure_set(&mut self, now: Instant, config: &registry::View) {
        let key = ClusterKey::new(config.cluster_key);
        let mut all = Vec::new();
        let mut members = Vec::new();
        for destination in config.destinations_of(FIRST_SET) {
            let id: Arc<str> = destination.id.as_str().into();
            let Some(judged) = destinations::judged(id.clone(), &destination) else {
                self.note(Change::Unusable(format!(
                    "destination {} has no numeric address: {}",
                    destination.id, destination.uri
                )));
                continue;
            };
            let member = config.member(&destination.id);
            members.push(Member {
                id,
                address: judged.address,
                weight: destination.weight,
                priority: destination.priority,
                cell: destination.cell.as_str().into(),
                last_heir: member
                    .is_some_and(|member| member.kind == registry::MemberKind::StockRouter),
            });
            all.push(judged);
        }
        if let Some(set) = config.set(FIRST_SET) {
            self.view.first_response = set.first_response;
            self.view.detect_within = set.detect_within;
            self.health.set_config(destinations::health_of(set));
        }
        if let Err(error) = self.health.configure(now, &all) {
            return self.note(Change::Unusable(error.to_string()));
        }
        let set = DestinationSet {
            id: FIRST_SET.into(),
            algorithm: config
                .set(FIRST_SET)
                .map_or(Algorithm::CallIdHash, |set| set.algorithm),
            members,
        };
        match Sets::new(key, vec![set]) {
            Ok(sets) => self.sets = Some(sets),
            Err(error) => self.note(Change::Unusable(error.to_string())),
        }
    }

    fn note_addresses(&mut self, config: &registry::View) {
        let members = config.members.iter().flat_map(|member| {
            let owner = match member.kind.is_router() {
                true => Owner::Router {
                    id: member.id.as_str().into(),
                    cell: member.cell.as_str().into(),
                },
                false => Owner::Sbc,
            };
            let sip = member.sip.iter();
            sip.map(move |endpoint| (endpoint.address, owner.clone()))
        });
        self.owners.set_members(members.collect());
        let members = self.owners.members().iter();
        let routers = members.filter(|(_, owner)| matches!(owner, Owner::Router { .. }));
        self.view.members = routers.map(|(address, _)| *address).collect();
        self.view.addresses = Arc::new(self.owners.all());
    }

    fn note_senders(&mut self, config: &registry::View) {
        let trunks = config.trunks.iter().flat_map(|trunk| &trunk.networks);
        let senders: Networks = self.allow.iter().chain(trunks).copied().collect();
        self.view.allow = Arc::new(senders);
    }

    /// Takes no new calls while anybody wants it so.
    pub fn drain(&mut self, by: DrainedBy, wanted: bool) {
        self.drain.set(by, wanted);
        self.view.draining = self.drain.is_wanted();
        self.published = false;
    }

    /// Returns who wants no new calls here.
    #[must_use]
    pub fn drained_by(&self) -> Drain {
        self.drain
    }

    /// Sets what the operator of this node wants of a destination; `None` is what the registry says.
    ///
    /// # Errors
    /// When there is no such destination.
    pub fn set_operator(
        &mut self,
        now: Instant,
        destination: &str,
        wanted: Option<Administrative>,
    ) -> Result<(), UnknownDestination> {
        self.health.set_operator(now, destination, wanted)
    }

    /// Returns what is known of each destination.
    pub fn statuses(&self) -> impl Iterator<Item = Status> + '_ {
        self.health.statuses()
    }

    /// Returns how many ICMP errors were ignored: see [`crate::NOTICED_MAX`].
    #[must_use]
    pub fn unreachable_ignored(&self) -> u64 {
        self.unreachable.ignored()
    }

    /// Returns the next name to look up; [`Node::handle_lookup`] must follow.
    pub fn poll_lookup(&mut self) -> Option<Name> {
        self.names.poll_lookup()
    }

    /// Takes the answer to a look-up. A name that had addresses keeps them when nobody answers.
    pub fn handle_lookup(&mut self, now: Instant, name: Name, answer: &Answer) {
        self.names.handle_lookup(now, name, answer);
        self.publish_names();
        self.notices.push_back(Notice::NamesKnown);
    }

    fn publish_names(&mut self) {
        self.view.names = self.names.names().clone();
        self.published = false;
    }

    /// Returns the next change worth telling.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    fn note(&mut self, change: Change) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Does what the judge asks for: probes, notices, a new view.
    fn run_health(&mut self) {
        while let Some(probe) = self.health.poll_probe() {
            self.send_probe(&probe);
        }
        while let Some(event) = self.health.poll_event() {
            if let HealthEvent::Lost { address, .. } = &event {
                self.notices.push_back(Notice::RouterLost(*address));
            }
            self.note(Change::Destination(event));
            self.published = false;
        }
    }

    fn send_probe(&mut self, probe: &Probe) {
        let flow = self.view.inside;
        let Some(&own) = self.view.listen.get(usize::from(flow.0)) else {
            return;
        };
        let random = self.rng.next_u64();
        let probe = options::Probe {
            flow,
            own,
            to: probe.address,
            seq: probe.seq.0,
            random,
            tag: self.tag,
        };
        options::send_probe(&mut self.outbox, &probe);
    }
}

impl element::Node for Node {
    type View = View;
    type Notice = Notice;
    type Outcomes = Signs;

    fn claims(view: &View, message: &Message<'_>) -> bool {
        options::is_for_node(&view.listen, message)
    }

    fn handle_message(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        if let Some(destination) = self.health.destination_at(source).cloned() {
            self.health.handle_sign_of_life(now, &destination);
            if let (Some(status), Some(cseq)) = (message.status(), message.cseq()) {
                self.health
                    .handle_probe_answer(now, &destination, ProbeSeq(cseq.number), status);
            }
        }
        if message.is_request() && (self.view.is_router(flow, source) || self.view.allows(source)) {
            // 503: new calls find no place here.
            let ready = !self.view.draining && self.view.has_router();
            options::answer(&mut self.outbox, flow, source, message, ready, self.tag);
        }
        self.run_health();
    }

    fn handle_outcomes(&mut self, now: Instant, outcomes: &mut Signs) {
        for name in outcomes.drain_names() {
            self.names.need(now, name);
        }
        for address in outcomes.drain_marks() {
            self.names.mark(now, address);
            self.publish_names();
        }
        for (address, sign) in outcomes.drain() {
            let Some(destination) = self.health.destination_at(address).cloned() else {
                continue;
            };
            match sign {
                Sign::Alive => self.health.handle_sign_of_life(now, &destination),
                Sign::Owing => self.health.handle_owing(now, &destination),
            }
        }
        self.run_health();
    }

    fn handle_unreachable(&mut self, now: Instant, _flow: FlowId, destination: SocketAddr) {
        if let Some(destination) = self.health.destination_at(destination).cloned() {
            self.health.handle_unreachable(now, &destination);
        } else if self.unreachable.note(now, destination) {
            self.notices.push_back(Notice::Unreachable(destination));
        }
        self.run_health();
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.names.handle_timeout(now) {
            self.publish_names();
        }
        self.health.handle_timeout(now);
        self.run_health();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.health.poll_timeout(), self.names.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn poll_view(&mut self) -> Option<Arc<View>> {
        if self.published {
            return None;
        }
        self.published = true;
        self.view.routers = self
            .sets
            .as_ref()
            .and_then(|sets| sets.view(&self.health).set(FIRST_SET).cloned());
        Some(Arc::new(self.view.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::view::MemberKind;
    use element::Node as _;
    use sip_types::Index;
    use workbench::{destination, destination_set, member};

    fn node() -> Node {
        let own = SocketAddr::from(([127, 0, 0, 1], 5060));
        Node::new(Arc::new([own]), Arc::new([]), 1)
    }

    fn router(number: u8) -> registry::Member {
        let address = SocketAddr::from(([127, 0, 0, number], 5060));
        member(&format!("router-{number}"), MemberKind::Router, address)
    }

    fn view(routers: &[u8]) -> registry::View {
        let destination = |number: &u8| {
            let uri = format!("sip:127.0.0.{number}:5060");
            destination(FIRST_SET, &format!("router-{number}"), &uri)
        };
        registry::View {
            cluster_key: *b"one cluster key!",
            members: routers.iter().copied().map(router).collect(),
            sets: vec![destination_set(FIRST_SET)],
            destinations: routers.iter().map(destination).collect(),
            ..registry::View::default()
        }
    }

    #[test]
    fn a_list_that_is_not_usable_leaves_the_old_one_and_the_rest_is_in_force() {
        let (mut node, now) = (node(), Instant::now());
        node.configure(now, &view(&[2]));
        let mut bad = view(&[2, 3]);
        bad.destinations.push(bad.destinations[0].clone());
        bad.cluster_key = *b"another, newer 1";
        node.configure(now, &bad);
        assert!(matches!(node.poll_change(), Some(Change::Unusable(_))));
        let view = node.poll_view().unwrap();
        assert!(view.is_router(view.inside, router(3).sip[0].address));
        assert_eq!(view.cluster_key, bad.cluster_key);
        let set = view.routers.as_ref().unwrap();
        let listed: Vec<_> = set.destinations().map(|i| set.member(i).address).collect();
        assert_eq!(listed, [router(2).sip[0].address]);
    }

    #[test]
    fn a_router_that_left_is_known_for_its_routes_and_not_believed() {
        let (mut node, now) = (node(), Instant::now());
        node.configure(now, &view(&[2, 3]));
        node.configure(now, &view(&[3]));
        let view = node.view();
        let gone = router(2).sip[0].address;
        assert!(matches!(
            view.addresses.get(&gone),
            Some(Owner::Router { .. })
        ));
        assert!(!view.is_router(view.inside, gone));
    }

    #[test]
    fn nobody_has_a_pass_before_the_cluster_key_is_known() {
        let mut node = node();
        let bye = |view: &View| {
            let pass = view.pass(b"x");
            format!(
                "BYE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.9;branch=z9hG4bK1\r\n\
                 Route: <sip:127.0.0.1:5060;lr;pass={}>\r\nFrom: <sip:a@a>;tag=a\r\n\
                 To: <sip:b@b>;tag=b\r\nCall-ID: x\r\nCSeq: 2 BYE\r\n\r\n",
                std::str::from_utf8(&pass).unwrap()
            )
        };
        let has_pass = |view: &View| {
            let (text, mut index) = (bye(view), Index::new());
            view.has_pass(&Message::parse(text.as_bytes(), &mut index).unwrap())
        };
        assert!(!has_pass(&node.view()));
        node.configure(Instant::now(), &view(&[2]));
        assert!(has_pass(&node.view()));
    }
}
