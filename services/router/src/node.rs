//! What the whole router shares: rules, membership, the health of destinations it was told to probe.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use control::view::{self as registry, DestinationState, MemberKind, Network};
use dispatch::{
    Administrative, ClusterKey, DestinationConfig, DestinationSet, Health, HealthConfig, Member,
    ProbeSeq, Sets,
};
use element::{FlowId, Outbox};
use host::{Egress, Owners};
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
    owners: Owners<MemberKind>,
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
            owners: Owners::default(),
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

    /// Lets requests leave another way than back to the SBC.
    #[must_use]
    pub fn with_egress(mut self, egress: Egress) -> Self {
        self.view.egress = egress;
        self
    }

    /// Returns the view as it is now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Adds addresses that the cluster had before this process started, the longest gone first; the
    /// oldest beyond [`host::ADDRESSES_MAX`] are forgotten.
    pub fn remember(&mut self, former: impl IntoIterator<Item = (SocketAddr, MemberKind)>) {
        self.owners.remember(former);
        self.view.addresses = Arc::new(self.owners.all());
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
        let members = config.members.iter().flat_map(|member| {
            let sip = member.sip.iter();
            sip.map(|endpoint| (endpoint.address, member.kind))
        });
        self.owners.set_members(members.collect());
        self.view.members = Arc::new(self.owners.members().clone());
        self.view.addresses = Arc::new(self.owners.all());
        let (rules, unusable) = Rules::new(config, self.view.egress);
        self.view.rules = Arc::new(rules);
        self.unusable.extend(unusable);
        self.view.ready = true;
        self.configure_sets(now, config);
        self.published = false;
    }

    /// Takes the sets that rules name. Health is kept under `set/destination`; there is one judge, who
    /// goes by the strictest of the sets.
    fn configure_sets(&mut self, now: Instant, config: &registry::View) {
        let mut judged = Vec::new();
        let mut sets = Vec::new();
        let mut health: Option<HealthConfig> = None;
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
            health = Some(match health {
                None => health_of(set),
                Some(others) => stricter(others, health_of(set)),
            });
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
        self.health.set_config(health.unwrap_or_default());
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

/// Returns how a set wants its destinations judged.
fn health_of(set: &registry::DestinationSet) -> HealthConfig {
    HealthConfig {
        detect_within: set.detect_within,
        probe_interval: set.probe_interval,
        successes_to_active: set
            .successes_to_active
            .try_into()
            .unwrap_or(NonZeroU32::MIN),
    }
}

fn stricter(a: HealthConfig, b: HealthConfig) -> HealthConfig {
    HealthConfig {
        detect_within: a.detect_within.min(b.detect_within),
        probe_interval: a.probe_interval.min(b.probe_interval),
        successes_to_active: a.successes_to_active.max(b.successes_to_active),
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

#[cfg(test)]
mod tests {
    use super::*;
    use control::view::{Algorithm, Destination, NextHop, Route, RouteMatch, RouteResult};
    use element::Node as _;
    use std::time::Duration;

    /// Two sets of one destination each, judged within these times.
    fn view(within: [u64; 2]) -> registry::View {
        let ids = ["1", "2"];
        let set = |(id, within): (&str, u64)| registry::DestinationSet {
            id: id.to_owned(),
            algorithm: Algorithm::CallId,
            selector: None,
            first_response: Duration::from_secs(2),
            detect_within: Duration::from_millis(within),
            probe_interval: Duration::from_millis(within),
            failures_to_inactive: 1,
            successes_to_active: 2,
        };
        let destination = |id: &str| Destination {
            set: id.to_owned(),
            id: "d".to_owned(),
            uri: format!("sip:127.0.0.{id}:5060"),
            priority: 0,
            weight: 1,
            probing: true,
            desired_state: DestinationState::Active,
        };
        let result = |id: &str| RouteResult {
            next_hop: NextHop::Set(id.to_owned()),
            request_uri: None,
            headers: vec![],
        };
        registry::View {
            sets: ids.into_iter().zip(within).map(set).collect(),
            destinations: ids.into_iter().map(destination).collect(),
            routes: vec![Route {
                id: "all".to_owned(),
                priority: 0,
                matches: RouteMatch::default(),
                results: ids.into_iter().map(result).collect(),
            }],
            ..registry::View::default()
        }
    }

    /// Tells after how many milliseconds of silence the first destination is lost.
    fn silence(within: [u64; 2]) -> Option<u64> {
        let start = Instant::now();
        let mut node = Node::new(Arc::new([([127, 0, 0, 9], 5060).into()]), Arc::new([]), 1);
        node.configure(start, &view(within));
        assert_eq!(node.take_unusable(), [""; 0]);
        (0..5000).find(|after| {
            node.handle_timeout(start + Duration::from_millis(*after));
            node.outbox().clear();
            node.health.statuses().any(|status| !status.is_alive())
        })
    }

    #[test]
    fn destinations_are_judged_by_the_strictest_set() {
        assert!(silence([1000, 2000]).is_some_and(|after| (900..=1000).contains(&after)));
        assert!(silence([2000, 100]).is_some_and(|after| after <= 100));
    }
}
