//! What the whole router shares: rules, membership, the health of destinations it was told to probe.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use control::view::{self as registry, DestinationState, Network};
use dispatch::{
    Administrative, ClusterKey, DestinationConfig, DestinationSet, Health, HealthConfig, Member,
    ProbeSeq, Sets,
};
use element::{FlowId, Outbox};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use sip::options;
use sip_types::{Message, Uri};

use crate::decision::Rules;
use crate::view::View;

/// The node of a router.
#[derive(Debug)]
pub struct Node {
    health: Health,
    sets: Option<Sets>,
    view: View,
    published: bool,
    /// The process is about to end: no new calls.
    ending: bool,
    /// The registry wants this member drained.
    drained: bool,
    outbox: Outbox,
    rng: SmallRng,
    tag: u64,
    unusable: Vec<String>,
}

impl Node {
    /// Creates a node that listens on `listen` and takes SIP from `allow` besides members.
    #[must_use]
    pub fn new(listen: Arc<[SocketAddr]>, allow: Arc<[Network]>, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let tag = rng.next_u64();
        Self {
            health: Health::new(HealthConfig::default()),
            sets: None,
            view: View::empty(listen, allow),
            published: false,
            ending: false,
            drained: false,
            outbox: Outbox::new(),
            rng,
            tag,
            unusable: Vec::new(),
        }
    }

    /// Returns the view as it is now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Adds addresses that the cluster had before this process started: of routers, and of SBCs.
    pub fn remember(&mut self, routers: BTreeSet<SocketAddr>, sbcs: BTreeSet<SocketAddr>) {
        self.view.routers = Arc::new(self.view.routers.union(&routers).copied().collect());
        self.view.sbcs = Arc::new(self.view.sbcs.union(&sbcs).copied().collect());
        self.published = false;
    }

    /// Puts the registry's view in force.
    pub fn configure(&mut self, now: Instant, config: &registry::View) {
        self.drained = config.members.iter().any(|member| {
            let own =
                |endpoint: &registry::SipEndpoint| self.view.listen.contains(&endpoint.address);
            member.desired_state == registry::MemberState::Draining && member.sip.iter().any(own)
        });
        self.note_drain();
        let mut routers = (*self.view.routers).clone();
        let mut sbcs = (*self.view.sbcs).clone();
        for member in &config.members {
            let addresses = member.sip.iter().map(|endpoint| endpoint.address);
            if member.kind.is_router() {
                routers.extend(addresses)
            } else {
                sbcs.extend(addresses)
            }
        }
        self.view.routers = Arc::new(routers);
        self.view.sbcs = Arc::new(sbcs);
        self.view.rules = Arc::new(Rules::new(&config.routes));
        self.view.ready = true;
        self.configure_sets(now, config);
        self.published = false;
    }

    /// Takes the sets that rules name. Health is kept under `set/destination`.
    fn configure_sets(&mut self, now: Instant, config: &registry::View) {
        let mut judged = Vec::new();
        let mut sets = Vec::new();
        let named = config
            .routes
            .iter()
            .flat_map(|route| &route.results)
            .filter_map(|result| match &result.next_hop {
                registry::NextHop::Set(id) => Some(id.as_str()),
                registry::NextHop::Uri(_) => None,
            });
        for id in named.collect::<BTreeSet<_>>() {
            let Some(set) = config.set(id) else { continue };
            let algorithm = match dispatch::Algorithm::try_from(set.algorithm as u32) {
                Ok(algorithm) => algorithm,
                Err(error) => {
                    self.unusable.push(format!("set {id}: {error}"));
                    continue;
                }
            };
            let mut members = Vec::new();
            for destination in config.destinations_of(id) {
                let address = Uri::parse(destination.uri.as_bytes())
                    .ok()
                    .and_then(|uri| uri.socket_addr(5060));
                let Some(address) = address else {
                    self.unusable.push(format!(
                        "destination {}: no numeric address in {}",
                        destination.id, destination.uri
                    ));
                    continue;
                };
                let key: Arc<str> = format!("{id}/{}", destination.id).into();
                judged.push(DestinationConfig {
                    id: key.clone(),
                    address,
                    probing: destination.probing,
                    administrative: match destination.desired_state {
                        DestinationState::Active => Administrative::Active,
                        DestinationState::Draining => Administrative::Draining,
                        DestinationState::Disabled => Administrative::Disabled,
                    },
                });
                let (weight, priority) = (destination.weight, destination.priority);
                members.push(Member {
                    id: key,
                    address,
                    weight,
                    priority,
                    cell: "".into(),
                });
            }
            sets.push(DestinationSet {
                id: id.into(),
                algorithm,
                members,
            });
        }
        if let Err(error) = self.health.configure(now, &judged) {
            self.unusable.push(error.to_string());
        }
        match Sets::new(ClusterKey::new(config.cluster_key), sets) {
            Ok(sets) => self.sets = Some(sets),
            Err(error) => self.unusable.push(error.to_string()),
        }
    }

    /// Returns what of the registry's view could not be put in force, and forgets it.
    pub fn take_unusable(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unusable)
    }

    /// Takes no new calls from now on, or takes them again unless the registry says otherwise.
    pub fn drain(&mut self, ending: bool) {
        self.ending = ending;
        self.note_drain();
    }

    fn note_drain(&mut self) {
        self.view.draining = self.ending || self.drained;
        self.published = false;
    }

    fn run_health(&mut self) {
        while let Some(probe) = self.health.poll_probe() {
            let Some(&own) = self.view.listen.first() else {
                continue;
            };
            let random = self.rng.next_u64();
            let probe = options::Probe {
                flow: FlowId(0),
                own,
                to: probe.address,
                seq: probe.seq.0,
                random,
                tag: self.tag,
            };
            options::send_probe(&mut self.outbox, &probe);
        }
        while self.health.poll_event().is_some() {
            self.published = false;
        }
    }
}

impl element::Node for Node {
    type View = View;
    type Notice = ();
    type Outcomes = ();

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
        if let (Some(status), Some(cseq)) = (message.status(), message.cseq()) {
            if let Some(destination) = self.health.destination_at(source).cloned() {
                self.health
                    .handle_probe_answer(now, &destination, ProbeSeq(cseq.number), status);
            }
        } else if self.view.allows(source) {
            let ready = self.view.ready && !self.view.draining;
            options::answer(&mut self.outbox, flow, source, message, ready, self.tag);
        }
        self.run_health();
    }

    fn handle_outcomes(&mut self, _now: Instant, (): &mut ()) {}

    fn handle_unreachable(&mut self, now: Instant, _flow: FlowId, destination: SocketAddr) {
        if let Some(destination) = self.health.destination_at(destination).cloned() {
            self.health.handle_unreachable(now, &destination);
        }
        self.run_health();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.health.handle_timeout(now);
        self.run_health();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.health.poll_timeout()
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn poll_notice(&mut self) -> Option<()> {
        None
    }

    fn poll_view(&mut self) -> Option<Arc<View>> {
        if self.published {
            return None;
        }
        self.published = true;
        if let Some(sets) = &self.sets {
            self.view.sets = sets.view(&self.health);
        }
        Some(Arc::new(self.view.clone()))
    }
}
