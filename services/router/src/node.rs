//! What the whole router shares: rules, membership, the health of destinations it was told to probe,
//! and its part in the cell.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control::view::{self as registry, MemberKind, Network};
use dispatch::{ClusterKey, DestinationSet, Health, HealthConfig, Member, ProbeSeq, Sets};
use element::{FlowId, Outbox};
use host::{Drain, DrainedBy, Egress, Name, Owners, destinations};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use replication::{Now, Observation, Replica, Replication, UNPLACED_MAX};
use sip::options;
use sip_types::{Message, Method};

use crate::cell::{BusIdentity, Joined, WallClock, names_of};
use crate::decision::Rules;
use crate::record::{CallRecord, Records};
use crate::view::View;

/// How often names of notification addresses are looked up again.
const NAMES_AGAIN: Duration = Duration::from_secs(60);

/// The node of a router.
#[derive(Debug)]
pub struct Node {
    health: Health,
    sets: Option<Sets>,
    owners: Owners<MemberKind>,
    view: View,
    published: bool,
    /// Who wants no new calls here.
    drain: Drain,
    identity: Option<BusIdentity>,
    joined: Option<Joined>,
    /// What shards saw of dialogs before it joined.
    untold: VecDeque<Observation>,
    untold_dropped: u64,
    wall: WallClock,
    /// What names of notification addresses stand for.
    addresses: BTreeMap<Name, Vec<SocketAddr>>,
    lookups: VecDeque<Name>,
    lookups_at: Option<Instant>,
    config: Arc<registry::View>,
    records: Records,
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
            drain: Drain::default(),
            identity: None,
            joined: None,
            untold: VecDeque::new(),
            untold_dropped: 0,
            wall: WallClock::unread(),
            addresses: BTreeMap::new(),
            lookups: VecDeque::new(),
            lookups_at: None,
            config: Arc::default(),
            records: Records::default(),
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

    /// Gives it a place on a bus, which it joins when the registry has said who else is there.
    #[must_use]
    pub fn with_bus(mut self, identity: BusIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Tells it the wall clock, which only records and the wire go by.
    pub fn set_wall_clock(&mut self, now: Instant, wall: SystemTime) {
        self.wall.set(now, wall);
    }

    /// Returns its part in the cell; `None` before the registry was seen.
    #[must_use]
    pub fn replication(&self) -> Option<&Replication> {
        self.joined.as_ref().map(|joined| &joined.replication)
    }

    /// Returns how many dialogs of the cell go on, as far as it knows.
    #[must_use]
    pub fn dialogs(&self) -> usize {
        self.replication()
            .map_or(0, |replication| replication.replica().dialogs().len())
    }

    /// Changes its part in the cell, at the time that is now.
    pub fn with_replication<R>(
        &mut self,
        now: Instant,
        change: impl FnOnce(&mut Replication, Now) -> R,
    ) -> Option<R> {
        let now = self.wall.at(now);
        let joined = self.joined.as_mut()?;
        let result = change(&mut joined.replication, now);
        self.settle();
        Some(result)
    }

    /// Returns the call records that are to be written.
    pub fn take_records(&mut self) -> Vec<CallRecord> {
        self.records.take()
    }

    /// Takes note of call records that were taken and could not be written.
    pub fn note_records_lost(&mut self, count: u64) {
        self.records.note_lost(count);
    }

    /// Returns how many call records were dropped because nobody took them in time, or lost after that.
    #[must_use]
    pub fn records_dropped(&self) -> u64 {
        let replica = self.replication().map(Replication::replica);
        self.records.dropped() + replica.map_or(0, Replica::records_dropped)
    }

    /// Returns how many things that passed in dialogs which were not here yet were forgotten for want of room.
    #[must_use]
    pub fn unplaced_dropped(&self) -> u64 {
        let replica = self.replication().map(Replication::replica);
        self.untold_dropped + replica.map_or(0, Replica::unplaced_dropped)
    }

    /// Says goodbye to the bus.
    pub fn leave(&mut self, now: Instant) {
        self.with_replication(now, |replication, now| replication.leave(now));
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
        let drained = config.is_draining(&self.view.listen);
        self.drain(DrainedBy::Registry, drained);
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
        self.view.configured = true;
        self.configure_sets(now, config);
        self.config = Arc::new(config.clone());
        self.configure_cell(now);
        self.published = false;
    }

    /// Joins the bus of the cell, or takes what is new about it.
    fn configure_cell(&mut self, now: Instant) {
        let Some(identity) = &self.identity else {
            self.view.ready = true;
            return;
        };
        let config = self.config.clone();
        let wall = self.wall.at(now);
        let seed = self.rng.next_u64();
        let joined = self
            .joined
            .get_or_insert_with(|| Joined::new(wall, identity, &config, seed));
        let late = joined.needs_restart(identity, &config).into_iter();
        self.unusable
            .extend(late.map(|setting| format!("{setting} counts after a restart")));
        let refused = joined.configure(wall, identity, &config, &self.addresses);
        joined.replication.observe(wall, self.untold.drain(..));
        self.unusable.extend(refused);
        self.view.hash_size = joined.replication.config().hash_size;
        let cell = joined.cell.clone();
        self.addresses
            .retain(|name, _| names_of(&config, &cell).contains(name));
        self.ask_names(now);
        self.settle();
    }

    /// Has the names of notification addresses looked up, now and then again.
    fn ask_names(&mut self, now: Instant) {
        let Some(joined) = &self.joined else { return };
        for name in names_of(&self.config, &joined.cell) {
            if !self.lookups.contains(&name) {
                self.lookups.push_back(name);
            }
        }
        self.lookups_at = Some(now + NAMES_AGAIN);
    }

    /// Returns the next name to look up; [`Node::handle_lookup`] must follow.
    pub fn poll_lookup(&mut self) -> Option<Name> {
        self.lookups.pop_front()
    }

    /// Takes the answer to a look-up: none when nobody answered, and then what was known stays.
    pub fn handle_lookup(&mut self, now: Instant, name: Name, addresses: &[SocketAddr]) {
        if addresses.is_empty()
            || self
                .addresses
                .get(&name)
                .is_some_and(|known| known == addresses)
        {
            return;
        }
        self.addresses.insert(name, addresses.to_vec());
        if let (Some(identity), Some(joined)) = (&self.identity, &mut self.joined) {
            let wall = self.wall.at(now);
            let refused = joined.configure(wall, identity, &self.config, &self.addresses);
            self.unusable.extend(refused);
        }
        self.settle();
    }

    /// Takes what the cell's part has to send, to write, and to say to the shards.
    fn settle(&mut self) {
        let Some(joined) = &mut self.joined else {
            return;
        };
        let replication = &mut joined.replication;
        for transmit in replication.outbox().iter() {
            self.outbox
                .push(transmit.flow, transmit.destination, transmit.bytes);
        }
        replication.outbox().clear();
        while let Some((key, record)) = replication.poll_call_record() {
            self.records.push(CallRecord::new(&key, record));
        }
        let full = !replication.replica().dialogs().has_room();
        let ready = replication.is_ready();
        if (self.view.full, self.view.ready) != (full, ready) {
            (self.view.full, self.view.ready) = (full, ready);
            self.published = false;
        }
    }

    /// Takes the sets that rules name. Health is kept under `set/destination`; there is one judge, who
    /// goes by the strictest of the sets.
    fn configure_sets(&mut self, now: Instant, config: &registry::View) {
        let mut all = Vec::new();
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
            let wanted = destinations::health_of(set);
            health = Some(health.map_or(wanted, |others| stricter(others, wanted)));
            let mut members = Vec::new();
            for destination in config.destinations_of(id) {
                let key: Arc<str> = format!("{id}/{}", destination.id).into();
                let Some(judged) = destinations::judged(key.clone(), &destination) else {
                    self.unusable.push(format!(
                        "destination {}: no numeric address in {}",
                        destination.id, destination.uri
                    ));
                    continue;
                };
                members.push(Member {
                    id: key,
                    address: judged.address,
                    weight: destination.weight,
                    priority: destination.priority,
                    cell: "".into(),
                    last_heir: false,
                });
                all.push(judged);
            }
            sets.push(DestinationSet {
                id: id.into(),
                algorithm: set.algorithm,
                members,
            });
        }
        self.health.set_config(health.unwrap_or_default());
        if let Err(error) = self.health.configure(now, &all) {
            self.unusable.push(error.to_string());
        }
        match Sets::new(ClusterKey::new(config.cluster_key), sets) {
            Ok(sets) => self.sets = Some(sets),
            Err(error) => self.unusable.push(error.to_string()),
        }
    }

    /// Tells whether a Kamailio is still to be told of the end of a dialog that ended here.
    #[must_use]
    pub fn owes_ends(&self) -> bool {
        let joined = self.joined.as_ref();
        joined.is_some_and(|joined| joined.replication.owes_ends())
    }

    /// Returns what of a view counts only after a restart: nothing for one that is not on a bus yet.
    #[must_use]
    pub fn restart_needed(&self, config: &registry::View) -> Vec<String> {
        let on_bus = self.joined.as_ref().zip(self.identity.as_ref());
        on_bus.map_or_else(Vec::new, |(joined, identity)| {
            joined.needs_restart(identity, config)
        })
    }

    /// Returns what of the registry's view could not be put in force, and forgets it.
    pub fn take_unusable(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unusable)
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
    type Outcomes = Vec<Observation>;

    fn claims(view: &View, message: &Message<'_>) -> bool {
        message.method() == Method::Kdmq || options::is_for_node(&view.listen, message)
    }

    fn handle_message(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        message: &Message<'_>,
    ) {
        if message.method() == Method::Kdmq {
            if self.identity.as_ref().is_some_and(|bus| bus.flow == flow) {
                self.with_replication(now, |replication, now| {
                    replication.handle_message(now, source, message);
                });
            }
            return;
        }
        if let (Some(status), Some(cseq)) = (message.status(), message.cseq()) {
            if let Some(destination) = self.health.destination_at(source).cloned() {
                self.health
                    .handle_probe_answer(now, &destination, ProbeSeq(cseq.number), status);
            }
        } else if self.view.allows(source) {
            let ready = self.view.configured && self.view.ready && !self.view.draining;
            options::answer(&mut self.outbox, flow, source, message, ready, self.tag);
        }
        self.run_health();
    }

    fn handle_outcomes(&mut self, now: Instant, seen: &mut Vec<Observation>) {
        if seen.is_empty() || self.identity.is_none() {
            seen.clear();
        } else if self.joined.is_some() {
            self.with_replication(now, |replication, now| {
                replication.observe(now, seen.drain(..));
            });
        } else {
            // The cell is told when there is one.
            let lasting = seen.drain(..).filter(|seen| seen.what.is_lasting());
            self.untold.extend(lasting);
            let over = self.untold.len().saturating_sub(UNPLACED_MAX);
            self.untold.drain(..over);
            self.untold_dropped += over as u64;
        }
    }

    fn handle_unreachable(&mut self, now: Instant, flow: FlowId, destination: SocketAddr) {
        if self.identity.as_ref().is_some_and(|bus| bus.flow == flow) {
            self.with_replication(now, |replication, now| {
                replication.handle_unreachable(now, destination);
            });
            return;
        }
        if let Some(destination) = self.health.destination_at(destination).cloned() {
            self.health.handle_unreachable(now, &destination);
        }
        self.run_health();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.health.handle_timeout(now);
        self.run_health();
        self.with_replication(now, Replication::handle_timeout);
        if self.lookups_at.is_some_and(|at| at <= now) {
            self.ask_names(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let replication = self.replication().and_then(Replication::poll_timeout);
        [self.health.poll_timeout(), replication, self.lookups_at]
            .into_iter()
            .flatten()
            .min()
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
    use control::view::{NextHop, Route, RouteMatch, RouteResult};
    use element::Node as _;
    use replication::{LegSeen, Observed, Text};
    use workbench::{destination, destination_set};

    /// Two sets of one destination each, judged within these times.
    fn view(within: [u64; 2]) -> registry::View {
        let ids = ["1", "2"];
        let set = |(id, within): (&str, u64)| registry::DestinationSet {
            detect_within: Duration::from_millis(within),
            probe_interval: Duration::from_millis(within),
            ..destination_set(id)
        };
        let destination = |id: &str| destination(id, "d", &format!("sip:127.0.0.{id}:5060"));
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

    /// A node that has a bus, and has not heard of the registry.
    fn on_bus() -> Node {
        let identity = BusIdentity {
            node_id: "a".to_owned(),
            cell: "default".to_owned(),
            incarnation: 1,
            own: "127.0.0.9:5062".parse().unwrap(),
            flow: FlowId(1),
            // Who may not speak is not asked, either.
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            dialogs: replication::DialogsConfig::default(),
        };
        let listen = Arc::new([([127, 0, 0, 9], 5060).into()]);
        Node::new(listen, Arc::new([]), 1).with_bus(identity)
    }

    #[test]
    fn a_dialog_lasts_as_long_as_its_cell_said_when_it_was_answered() {
        let start = Instant::now();
        let mut node = on_bus();
        let saw = |call_id: &str, what| Observation {
            call_id: call_id.as_bytes().into(),
            h_id: Some(7),
            from_tag: b"er".as_slice().into(),
            to_tag: b"ee".as_slice().into(),
            what,
        };
        let invited = Observed::Invited {
            from_uri: Text::from([]),
            to_uri: Text::from([]),
            request_uri: Text::from([]),
            caller: LegSeen::default(),
        };
        let of = |lifetime| {
            let mut cell = registry::Cell::new("default");
            cell.dialog_lifetime = Duration::from_secs(lifetime);
            let mut config = view([1000, 1000]);
            config.cells = vec![cell];
            config
        };
        let configs = [view([1000, 1000]), of(60), of(604_800)];
        for (i, config) in configs.iter().enumerate() {
            node.configure(start, config);
            let call = format!("call-{i}");
            let now = node.wall.at(start);
            let joined = node.joined.as_mut().unwrap();
            let answered = Observed::Answered(LegSeen::default());
            let seen = [invited.clone(), answered].map(|what| saw(&call, what));
            joined.replication.observe(now, seen);
        }
        let dialogs = node.replication().unwrap().replica().dialogs();
        for (i, seconds) in [43_200, 60, 604_800].into_iter().enumerate() {
            let call = format!("call-{i}");
            let (_, held) = dialogs.of_call(call.as_bytes()).next().unwrap();
            assert_eq!(held.record.lifetime.seconds, seconds);
            assert_eq!(held.at, start + Duration::from_secs(seconds.into()));
        }
    }

    #[test]
    fn every_address_of_a_service_is_asked_for_the_nodes_of_the_bus() {
        let start = Instant::now();
        let mut node = on_bus();
        let mut cell = registry::Cell::new("default");
        cell.notification_addresses = vec!["Bus.example.com".parse().unwrap()];
        let mut config = view([1000, 1000]);
        config.cells = vec![cell];
        node.configure(start, &config);
        let name = node.poll_lookup().unwrap();
        assert_eq!((&*name.host, name.port), ("bus.example.com", None));
        assert_eq!(node.poll_lookup(), None);

        let found = ["127.0.0.1:5062", "127.0.0.2:5090"].map(|text| text.parse().unwrap());
        node.handle_lookup(start, name, &found);
        let mut asked = BTreeSet::new();
        for after in 0..50 {
            node.handle_timeout(start + Duration::from_millis(100 * after));
            let sent = node.outbox().iter();
            let sent = sent.filter(|transmit| transmit.bytes.starts_with(b"KDMQ "));
            asked.extend(sent.map(|transmit| transmit.destination));
            node.outbox().clear();
        }
        assert_eq!(asked, BTreeSet::from(found));
    }

    #[test]
    fn destinations_are_judged_by_the_strictest_set() {
        assert!(silence([1000, 2000]).is_some_and(|after| (900..=1000).contains(&after)));
        assert!(silence([2000, 100]).is_some_and(|after| after <= 100));
    }
}
