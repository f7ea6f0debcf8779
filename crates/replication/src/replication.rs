//! One router's part in its cell: the bus, the replica, and the two channels between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmq::{Bus, BusConfig, Event, Network, NodeState, NodeStatus, TANDEM_CHANNEL};
use dmq_bodies::Did;
use element::{FlowId, Outbox};
use htable::Definition;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use sip_types::Message;

use crate::clock::Now;
use crate::dialogs::{DialogsConfig, Held};
use crate::observation::Observation;
use crate::record::{DialogKey, DialogRecord};
use crate::replica::Replica;
use crate::tandem::{HelloData, Kind};
use crate::{stock, tandem};

/// What stays for the life of a process.
#[derive(Clone, Debug)]
pub struct ReplicationConfig {
    /// Our DMQ address, as the others know it.
    pub own: SocketAddr,
    /// The listen address that it is.
    pub flow: FlowId,
    /// Our id in the registry.
    pub node_id: String,
    /// Which start of it this is.
    pub incarnation: u64,
    /// What the cell's nodes key partitions and digests with.
    pub cell_key: [u8; 16],
    /// How many slots Kamailio's dialog hash has in this cell; a power of two.
    pub hash_size: u32,
    /// The dialogs' settings, as long as nothing is said of the cell.
    pub dialogs: DialogsConfig,
}

/// What the registry says of the cell, and may say otherwise at any time.
#[derive(Clone, Debug)]
pub struct CellConfig {
    /// DMQ addresses of the cell's Tandem members, with or without us.
    pub members: BTreeSet<SocketAddr>,
    /// Those of its Kamailio nodes.
    pub stock_nodes: BTreeSet<SocketAddr>,
    /// Where to join, besides all of these.
    pub notification: BTreeSet<SocketAddr>,
    /// Who may speak besides all of these.
    pub allow: Vec<Network>,
    /// The tables.
    pub tables: Vec<Definition>,
    /// How long dialogs last that are answered from now on, in whole seconds. Default as
    /// [`DialogsConfig::lifetime`].
    pub dialog_lifetime: Duration,
}

impl Default for CellConfig {
    fn default() -> Self {
        Self {
            members: BTreeSet::new(),
            stock_nodes: BTreeSet::new(),
            notification: BTreeSet::new(),
            allow: Vec::new(),
            tables: Vec::new(),
            dialog_lifetime: DialogsConfig::default().lifetime,
        }
    }
}

/// One router's part in its cell.
///
/// After any call that takes `now`: send what is in the outbox, drain
/// [`Replication::poll_call_record`], and come back at `poll_timeout`.
#[derive(Debug)]
pub struct Replication {
    config: ReplicationConfig,
    bus: Bus,
    replica: Replica,
    tandem: tandem::Channel,
    stock: stock::Channel,
}

impl Replication {
    /// Creates the part of a router that knows nobody yet. `seed` feeds everything random in it.
    #[must_use]
    pub fn new(now: Now, config: ReplicationConfig, seed: u64) -> Self {
        let mut seeds = SmallRng::seed_from_u64(seed);
        let bus = Bus::new(BusConfig::new(config.own, config.flow), seeds.next_u64());
        let hello = HelloData {
            node_id: config.node_id.clone(),
            incarnation: config.incarnation,
            hash_size: config.hash_size,
        };
        let tandem = tandem::Channel::new(now, hello, config.own, seeds.next_u64());
        let stock = stock::Channel::new(config.own, config.hash_size, seeds.next_u64());
        let replica = Replica::new(config.own, config.cell_key, config.dialogs);
        Self {
            config,
            bus,
            replica,
            tandem,
            stock,
        }
    }

    /// Returns what stays for the life of the process.
    #[must_use]
    pub fn config(&self) -> &ReplicationConfig {
        &self.config
    }

    /// Puts in force what the registry says of the cell. Returns what could not be.
    pub fn configure(&mut self, now: Now, cell: CellConfig) -> Vec<String> {
        let CellConfig {
            mut members,
            stock_nodes,
            notification,
            allow,
            tables,
            dialog_lifetime,
        } = cell;
        members.remove(&self.config.own);
        let nodes = members.iter().chain(&stock_nodes).copied();
        self.bus.set_allowed(now.monotonic, nodes.clone(), allow);
        self.bus
            .set_notification(now.monotonic, nodes.chain(notification));
        self.replica.set_members(&members);
        self.replica.set_dialog_lifetime(dialog_lifetime);
        let defined: BTreeSet<_> = tables.iter().map(|table| table.name.clone()).collect();
        let former = self.replica.entries().tables().iter();
        let former: Vec<_> = former
            .map(|table| table.definition().name.clone())
            .collect();
        for name in former.iter().filter(|name| !defined.contains(*name)) {
            self.replica.undefine(name);
        }
        let refused = tables.into_iter().filter_map(|table| {
            let name = String::from_utf8_lossy(&table.name).into_owned();
            let error = self.replica.define(table).err()?;
            Some(format!("table {name}: {error}"))
        });
        let refused = refused.collect();
        self.settle(now);
        refused
    }

    /// Returns what it holds.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Changes what it holds, as this node; others are told.
    pub fn write<R>(&mut self, now: Now, write: impl FnOnce(&mut Replica) -> R) -> R {
        let result = write(&mut self.replica);
        self.settle(now);
        result
    }

    /// Returns the dialogs that Kamailio nodes name so: one, or by accident several.
    pub fn dialogs_named(&self, did: Did) -> impl Iterator<Item = (DialogKey, &Held)> {
        let keys = self.stock.named(did);
        keys.filter_map(|key| {
            let held = self.replica.dialogs().dialog(&key)?;
            Some((key, held))
        })
    }

    /// Returns the nodes of the bus, in the order of their addresses.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeStatus> {
        self.bus.nodes()
    }

    /// Returns what the bus has counted.
    #[must_use]
    pub fn bus_counters(&self) -> &dmq::Counters {
        self.bus.counters()
    }

    /// Takes what shards saw of dialogs.
    pub fn observe(&mut self, now: Now, seen: impl IntoIterator<Item = Observation>) {
        for seen in seen {
            self.replica.observe(now, seen);
        }
        self.settle(now);
    }

    /// Takes a KDMQ message.
    pub fn handle_message(&mut self, now: Now, source: SocketAddr, message: &Message<'_>) {
        if let Some(delivery) = self.bus.handle_message(now.monotonic, source, message) {
            let (node, body) = (delivery.node, delivery.body);
            match delivery.channel {
                TANDEM_CHANNEL => {
                    let status = self.tandem.handle(now, &mut self.replica, node, body);
                    self.bus.reply(now.monotonic, source, message, status);
                }
                stock::DIALOG_CHANNEL | stock::TABLE_CHANNEL if !self.may_be_stock(node) => {
                    self.stock.note_left_unanswered();
                    self.tandem.doubt(now, node);
                    self.bus.leave_unanswered(source, message);
                }
                channel => {
                    let replica = &mut self.replica;
                    let status = self.stock.handle(now, replica, node, channel, body);
                    self.bus.reply(now.monotonic, source, message, status);
                }
            }
        }
        self.settle(now);
    }

    /// Tells whether what a node says on Kamailio's channels counts.
    ///
    /// A Tandem node speaks there only to a Kamailio that it believes to be here, and repeats what may be old.
    /// Before a member of the cell has said what it is, it is taken for what the registry says. If it is a
    /// Kamailio after all, it repeats what was not answered until it has been asked.
    fn may_be_stock(&self, node: SocketAddr) -> bool {
        match self.tandem.kind(node) {
            Kind::Stock => true,
            Kind::Tandem => false,
            Kind::Unknown => !self.replica.members().any(|member| member == node),
        }
    }

    /// Takes the news that a node cannot be reached (ICMP unreachable).
    pub fn handle_unreachable(&mut self, now: Now, destination: SocketAddr) {
        self.bus.handle_unreachable(now.monotonic, destination);
        self.settle(now);
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.bus.handle_timeout(now.monotonic);
        self.replica.handle_timeout(now);
        self.tandem.handle_timeout(now, &mut self.replica);
        self.stock.handle_timeout(now, &mut self.replica);
        self.settle(now);
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let parts = [
            self.bus.poll_timeout(),
            self.replica.poll_timeout(),
            self.tandem.poll_timeout(),
            self.stock.poll_timeout(),
        ];
        parts.into_iter().flatten().min()
    }

    /// Returns the datagrams that wait to be sent.
    pub fn outbox(&mut self) -> &mut Outbox {
        self.bus.outbox()
    }

    /// Has the tables of every Kamailio node, or of one, compared and put right once more: see [`stock::Channel::repair`].
    pub fn repair_stock(&mut self, now: Now, only: Option<SocketAddr>) -> Vec<(SocketAddr, u64)> {
        let asked = self.stock.repair(only);
        self.settle(now);
        asked
    }

    /// Tells whether a Kamailio node is still to be told of the end of a dialog that ended here.
    #[must_use]
    pub fn owes_ends(&self) -> bool {
        self.stock.owes_ends()
    }

    /// Says goodbye to the bus.
    pub fn leave(&mut self, now: Now) {
        self.bus.leave(now.monotonic);
    }

    /// Returns the next dialog whose call record is ours to write. It may be written elsewhere too, under
    /// the same id: when its owner was lost shortly after its end.
    pub fn poll_call_record(&mut self) -> Option<(DialogKey, &DialogRecord)> {
        self.replica.poll_call_record()
    }

    /// Returns how things stand between Tandem nodes.
    #[must_use]
    pub fn tandem_status(&self, now: Instant) -> tandem::Status {
        self.tandem.status(now)
    }

    /// Returns what was counted between Tandem nodes.
    #[must_use]
    pub fn tandem_counters(&self) -> &tandem::Counters {
        self.tandem.counters()
    }

    /// Returns how things stand with Kamailio nodes.
    #[must_use]
    pub fn stock_status(&self) -> stock::Status {
        self.stock.status()
    }

    /// Returns how many active Kamailio nodes have not told yet what they have.
    #[must_use]
    pub fn stock_unheard(&self) -> usize {
        self.stock.unheard()
    }

    /// Returns what was counted with Kamailio nodes.
    #[must_use]
    pub fn stock_counters(&self) -> &stock::Counters {
        self.stock.counters()
    }

    /// Returns what runs at a node of the bus.
    #[must_use]
    pub fn kind(&self, node: SocketAddr) -> Kind {
        self.tandem.kind(node)
    }

    /// Tells whether it knows what its cell knows, or cannot find out: it may take new calls.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.tandem.is_ready()
    }

    /// Lets every part act on what the others did, until nobody has anything to say.
    fn settle(&mut self, now: Now) {
        loop {
            let mut news = false;
            while let Some(change) = self.replica.poll_change() {
                news = true;
                self.tandem.note(now, &change);
                self.stock.note(now, &self.replica, &change);
            }
            while let Some(lost) = self.replica.poll_lost() {
                news = true;
                self.stock.note_router_lost(&self.replica, lost);
            }
            while let Some(key) = self.replica.poll_inherited() {
                news = true;
                self.stock.note_inherited(now, &key);
            }
            self.tandem.run(now, &mut self.replica, &mut self.bus);
            self.stock.run(now, &mut self.replica, &mut self.bus);
            while let Some(event) = self.bus.poll_event() {
                news = true;
                self.handle_event(now, event);
            }
            if !news {
                break;
            }
        }
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::NodeUp { node } => self.tandem.node_up(now, node),
            Event::NodeDown { node } => {
                self.tandem.node_down(now, &mut self.replica, node);
                self.stock.node_down(now, node);
            }
            Event::Listed { node } => self.stock.node_lists_us(now, node),
            Event::NodeRemoved { node } => {
                self.tandem.node_removed(now, node);
                self.stock.node_removed(now, node);
            }
            Event::Answered {
                node,
                request,
                status,
            } => {
                let replica = &mut self.replica;
                self.tandem.answered(now, replica, node, request, status);
                self.stock.answered(now, replica, node, request, status);
                self.note_kind(now, node);
            }
        }
    }

    /// What runs at a node may have come to light.
    fn note_kind(&mut self, now: Now, node: SocketAddr) {
        match self.tandem.kind(node) {
            Kind::Tandem => {
                self.bus.set_kind(node, dmq::Kind::Tandem);
                self.stock.node_down(now, node);
            }
            Kind::Stock => {
                self.bus.set_kind(node, dmq::Kind::Stock);
                let is_up = |status: &NodeStatus| {
                    status.address == node && status.state == NodeState::Active
                };
                if self.bus.nodes().any(is_up) {
                    self.stock.node_up(now, &self.replica, node);
                }
            }
            Kind::Unknown => {}
        }
    }
}
