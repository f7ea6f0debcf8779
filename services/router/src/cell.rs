//! The router's part in its cell: made when the registry has said which, kept for the process's life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use control::view::{self as registry, MemberKind, Network, NotificationAddress};
use element::FlowId;
use host::Name;
use replication::{CellConfig, DialogsConfig, Now, Replication, ReplicationConfig};

/// What a router knows of its bus before it has heard of the registry.
#[derive(Clone, Debug)]
pub struct BusIdentity {
    /// Its id in the registry.
    pub node_id: String,
    /// Its cell, unless the registry says otherwise when it is first heard of.
    pub cell: String,
    /// Which start of the node this is.
    pub incarnation: u64,
    /// Its DMQ address, as the others know it.
    pub own: SocketAddr,
    /// The listen address that it is.
    pub flow: FlowId,
    /// Who may speak besides members and stock nodes.
    pub allow: Vec<Network>,
    /// The dialogs' settings; how long they last once they are answered is the cell's to say.
    pub dialogs: DialogsConfig,
}

/// The wall clock, read now and then, beside the time that everything runs by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock {
    read: Option<(Instant, u64)>,
}

impl WallClock {
    pub(crate) fn unread() -> Self {
        Self { read: None }
    }

    pub(crate) fn set(&mut self, now: Instant, wall: SystemTime) {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.read = Some((now, since.as_millis() as u64));
    }

    pub(crate) fn at(&self, monotonic: Instant) -> Now {
        let wall = self.read.map_or(0, |(at, wall)| {
            wall + monotonic.saturating_duration_since(at).as_millis() as u64
        });
        Now { monotonic, wall }
    }
}

/// The part of a router in its cell.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The cell: for the life of the process, since node lists would merge two buses.
    pub(crate) cell: String,
    pub(crate) replication: Replication,
}

impl Joined {
    /// Makes the part of a router in the cell that the registry has for it.
    pub(crate) fn new(
        now: Now,
        identity: &BusIdentity,
        config: &registry::View,
        seed: u64,
    ) -> Self {
        let member = config.member(&identity.node_id);
        let cell = member.map_or(&identity.cell, |member| &member.cell).clone();
        let settings = ReplicationConfig {
            own: identity.own,
            flow: identity.flow,
            node_id: identity.node_id.clone(),
            incarnation: identity.incarnation,
            cell_key: config.cell_key(&cell),
            hash_size: config.cell(&cell).hash_size,
            dialogs: identity.dialogs,
        };
        Self {
            cell,
            replication: Replication::new(now, settings, seed),
        }
    }

    /// Returns what of a view counts only after a restart, with its value.
    pub(crate) fn needs_restart(
        &self,
        identity: &BusIdentity,
        config: &registry::View,
    ) -> Vec<String> {
        let mut changed = Vec::new();
        let member = config.member(&identity.node_id);
        if let Some(member) = member.filter(|member| member.cell != self.cell) {
            changed.push(format!("cell {}", member.cell));
        }
        let hash_size = config.cell(&self.cell).hash_size;
        if hash_size != self.replication.config().hash_size {
            changed.push(format!("hash_size {hash_size}"));
        }
        changed
    }

    /// Puts in force what the registry says of the cell; returns what could not be.
    ///
    /// `addresses` knows what names of notification addresses stand for, as far as it was found out.
    pub(crate) fn configure(
        &mut self,
        now: Now,
        identity: &BusIdentity,
        config: &registry::View,
        addresses: &BTreeMap<Name, Vec<SocketAddr>>,
    ) -> Vec<String> {
        let cell = config.cell(&self.cell);
        let of_kind = |kind| {
            let members = config.members.iter();
            let members = members.filter(move |member| member.kind == kind);
            let members = members.filter(|member| member.cell == self.cell);
            members.filter_map(|member| member.dmq)
        };
        let mut stock_nodes: BTreeSet<_> = of_kind(MemberKind::StockRouter).collect();
        stock_nodes.extend(&cell.stock_nodes);
        let notification = cell.notification_addresses.iter();
        let notification = notification.flat_map(|address| match address {
            NotificationAddress::Numeric(address) => vec![*address],
            NotificationAddress::Name { host, port } => {
                let found = addresses.get(&name_of(host, *port)).into_iter().flatten();
                found.copied().collect()
            }
        });
        let network = |network: &Network| dmq::Network {
            address: network.address,
            prefix: network.prefix_bits,
        };
        let tables = config.tables.iter().map(|table| htable::Definition {
            autoexpire: table.autoexpire,
            replicate: table.replicate,
            update_expire: table.update_expire,
            entries_max: table.entries_max as usize,
            ..htable::Definition::new(table.table.clone())
        });
        let settings = CellConfig {
            members: of_kind(MemberKind::Router).collect(),
            stock_nodes,
            notification: notification.collect(),
            allow: identity.allow.iter().map(network).collect(),
            tables: tables.collect(),
            dialog_lifetime: cell.dialog_lifetime,
        };
        self.replication.configure(now, settings)
    }
}

/// Returns the names among the notification addresses of a cell.
pub(crate) fn names_of(config: &registry::View, cell: &str) -> Vec<Name> {
    let cell = config.cell(cell);
    let names = cell.notification_addresses.iter();
    let names = names.filter_map(|address| match address {
        NotificationAddress::Numeric(_) => None,
        NotificationAddress::Name { host, port } => Some(name_of(host, *port)),
    });
    names.collect()
}

fn name_of(host: &str, port: Option<u16>) -> Name {
    Name {
        host: host.into(),
        port,
    }
}
