//! The registry's view of the cluster in plain Rust types: what a node decides by.
//!
//! A view is whole and immutable. Lists are sorted by id (destinations by set, then id), so that
//! every node that has the same generation sees the same order.

mod convert;
mod fields;
mod limits;
mod networks;
mod resources;
mod selector;

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher24};

pub use convert::{NotANetwork, NotANotificationAddress, Refusal};
pub use dispatch::Algorithm;
pub use fields::{Field, fields};
pub use networks::Networks;
pub use resources::{Resources, check, etag_of, name_of, version_of};
pub use selector::{Conditions, Selector, SelectorRule};

/// Bytes of the cluster key.
pub const CLUSTER_KEY_BYTES: usize = 16;

/// Everything the registry says, at one generation.
///
/// The default is the view of a node that has never seen a registry: generation 0 and empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The registry's counter of changes; 0 for never seen.
    pub generation: u64,
    /// Checksum of the whole view.
    pub checksum: u64,
    /// The secret that ranking and tags are keyed with.
    pub cluster_key: [u8; CLUSTER_KEY_BYTES],
    /// The cells that somebody described; [`View::cell`] knows the others, too.
    pub cells: Vec<Cell>,
    /// The nodes of the cluster.
    pub members: Vec<Member>,
    /// The destination sets.
    pub sets: Vec<DestinationSet>,
    /// The destinations listed by hand; [`View::destinations_of`] adds those a selector finds.
    pub destinations: Vec<Destination>,
    /// The routes, by id; a router sorts them by priority.
    pub routes: Vec<Route>,
    /// The tables that routers hold; no two of the same name on the bus.
    pub tables: Vec<TableDefinition>,
    /// The carriers and IPBXs that may send to SBCs.
    pub trunks: Vec<Trunk>,
    /// What somebody set for all nodes of a kind.
    pub profiles: Vec<Profile>,
}

/// Slots of a cell's dialog table unless an operator says otherwise: Kamailio's default.
pub const HASH_SIZE: u32 = 4096;

/// How long a dialog may go on once it is answered, unless an operator says otherwise: Kamailio's default.
pub const DIALOG_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// The longest that an operator may allow.
pub const DIALOG_LIFETIME_MAX: Duration = limits::DIALOG_LIFETIME.max;

/// Some routers that replicate to each other: one bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its id, such as `default`.
    pub id: String,
    /// Slots of the dialog table, a power of two: the same at every stock node.
    pub hash_size: u32,
    /// Kamailio nodes on the bus that are not members.
    pub stock_nodes: Vec<SocketAddr>,
    /// Who else is asked for the nodes of the bus.
    pub notification_addresses: Vec<NotificationAddress>,
    /// How long a dialog may go on once it is answered: whole seconds.
    pub dialog_lifetime: Duration,
}

impl Cell {
    /// Describes a cell of which nobody said anything.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            hash_size: HASH_SIZE,
            stock_nodes: Vec::new(),
            notification_addresses: Vec::new(),
            dialog_lifetime: DIALOG_LIFETIME,
        }
    }
}

/// Where the nodes of a bus are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotificationAddress {
    /// At this address.
    Numeric(SocketAddr),
    /// At every address of a name.
    Name {
        /// The name, in lower case.
        host: String,
        /// The port at each address. Without one SRV says where the service is, as RFC 3263 section
        /// 4.2 has it.
        port: Option<u16>,
    },
}

impl fmt::Display for NotificationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numeric(address) => address.fmt(f),
            Self::Name {
                host,
                port: Some(port),
            } => write!(f, "{host}:{port}"),
            Self::Name { host, port: None } => f.write_str(host),
        }
    }
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKind {
    /// Faces carriers and IPBXs.
    Sbc,
    /// Decides where calls go.
    Router,
    /// A Kamailio router on the same bus.
    StockRouter,
}

impl MemberKind {
    /// Tells whether requests may be dispatched to it as to a router.
    #[must_use]
    pub fn is_router(self) -> bool {
        matches!(self, Self::Router | Self::StockRouter)
    }

    /// Returns the id of the profile of its nodes; a Kamailio has none.
    #[must_use]
    pub fn profile(self) -> Option<&'static str> {
        match self {
            Self::Sbc => Some("sbc"),
            Self::Router => Some("router"),
            Self::StockRouter => None,
        }
    }
}

/// The side of an SBC that an address serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Both, or the only one.
    Both,
    /// Towards routers.
    Inside,
    /// Towards carriers and IPBXs.
    Outside,
}

/// One SIP address of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipEndpoint {
    /// The side it serves.
    pub side: Side,
    /// Where it receives.
    pub address: SocketAddr,
}

/// What the operator wants of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Takes new calls.
    Active,
    /// Takes no new calls.
    Draining,
}

/// What the registry believes about a member: evidence, never proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Holds its lease.
    Alive,
    /// Lost its lease.
    Gone,
    /// Never had one.
    NeverSeen,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, such as `router-a`.
    pub id: String,
    /// What it does.
    pub kind: MemberKind,
    /// Its one address.
    pub address: IpAddr,
    /// Where it receives SIP.
    pub sip: Vec<SipEndpoint>,
    /// Where it receives KDMQ.
    pub dmq: Option<SocketAddr>,
    /// The cell it replicates in.
    pub cell: String,
    /// Where it stands; may be empty.
    pub zone: String,
    /// Free words for selectors.
    pub tags: Vec<String>,
    /// What the operator wants of it.
    pub desired_state: MemberState,
    /// Grows with every start; 0 before the first.
    pub incarnation: u64,
    /// What the registry believes.
    pub liveness: Liveness,
}

impl Member {
    /// Returns where routers and SBCs reach it.
    #[must_use]
    pub fn inside(&self) -> Option<SocketAddr> {
        self.sip
            .iter()
            .find(|endpoint| endpoint.side != Side::Outside)
            .map(|endpoint| endpoint.address)
    }

    /// Returns where carriers and IPBXs reach it.
    #[must_use]
    pub fn outside(&self) -> Option<SocketAddr> {
        self.sip
            .iter()
            .find(|endpoint| endpoint.side != Side::Inside)
            .map(|endpoint| endpoint.address)
    }
}

/// A destination set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSet {
    /// Its id, such as `1`.
    pub id: String,
    /// How a destination is chosen.
    pub algorithm: Algorithm,
    /// Members that belong to it.
    pub selector: Option<Selector>,
    /// How long a destination may take to its first response.
    pub first_response: Duration,
    /// Longest time from death to being found dead.
    pub detect_within: Duration,
    /// Time between two background OPTIONS.
    pub probe_interval: Duration,
    /// Background failures in a row to inactive.
    pub failures_to_inactive: u32,
    /// Answers in a row to active again.
    pub successes_to_active: u32,
}

impl DestinationSet {
    /// How long a destination may take to its first response unless its set says otherwise.
    pub const FIRST_RESPONSE: Duration = Duration::from_secs(2);
}

/// What the operator wants of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationState {
    /// Gets new requests while it is healthy.
    Active,
    /// Gets no new calls.
    Draining,
    /// Gets nothing and is not probed.
    Disabled,
}

/// One destination of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Id of its set.
    pub set: String,
    /// Its id in the set; health is kept by it.
    pub id: String,
    /// Its SIP URI.
    pub uri: String,
    /// Higher first.
    pub priority: i32,
    /// Share of the requests, 0 to 1000.
    pub weight: u32,
    /// Whether its health is judged.
    pub probing: bool,
    /// What the operator wants of it.
    pub desired_state: DestinationState,
    /// The cell whose dialogs it serves; empty for none.
    pub cell: String,
}

/// An address or its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address, host bits as given.
    pub address: IpAddr,
    /// Bits that count, 0 to 32 or 128.
    pub prefix_bits: u8,
}

impl Network {
    /// Tells whether `address` is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        fn same(a: u128, b: u128, width: u32, bits: u8) -> bool {
            bits == 0 || (a ^ b) >> (width - u32::from(bits)) == 0
        }
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same(a.to_bits().into(), b.to_bits().into(), 32, self.prefix_bits)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128, self.prefix_bits),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// When a route applies: every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Host of the Request-URI, in lower case.
    pub domain: Option<String>,
    /// Beginning of the user part of the Request-URI.
    pub called_prefix: String,
    /// Beginning of the user part of From.
    pub calling_prefix: String,
    /// The first sender.
    pub source: Option<Network>,
    /// Id of the trunk that the first sender is of.
    pub trunk: Option<String>,
}

/// Where a request goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// To a destination of this set.
    Set(String),
    /// To this SIP URI.
    Uri(String),
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteResult {
    /// Where the request goes next.
    pub next_hop: NextHop,
    /// The new Request-URI; as it came when absent.
    pub request_uri: Option<String>,
    /// Name and value of headers to add.
    pub headers: Vec<(String, String)>,
}

/// One routing rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its id.
    pub id: String,
    /// Higher first.
    pub priority: i32,
    /// When it applies.
    pub matches: RouteMatch,
    /// What to try, one after the other; never empty.
    pub results: Vec<RouteResult>,
}

/// One of the tables that routers hold and replicate, as Kamailio's htable module does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDefinition {
    /// Its id.
    pub id: String,
    /// What it is called on the bus: 1 to 64 of `A-Z`, `a-z`, `0-9`, `_` and `-`.
    pub table: String,
    /// How long a key lives after it was set, in whole seconds; `None` for ever.
    pub autoexpire: Option<Duration>,
    /// Whether changes go to the other nodes of the cell.
    pub replicate: bool,
    /// Whether setting a key that exists restarts its lifetime.
    pub update_expire: bool,
    /// Entries that a node holds before it refuses new keys, 1 to 1 000 000.
    pub entries_max: u32,
}

/// A carrier or an IPBX: who may send to SBCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Its id.
    pub id: String,
    /// What people call it; may be empty.
    pub display_name: String,
    /// Where it sends from; never empty.
    pub networks: Vec<Network>,
}

/// What is set for all nodes of a kind. What is absent is each node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its id: [`MemberKind::profile`] of the nodes that it is for.
    pub id: String,
    /// What is logged: a level, or levels by target.
    pub log_filter: Option<String>,
    /// How long a node that was told to end waits for what goes on.
    pub drain_timeout: Option<Duration>,
    /// How long a next hop that a route names by URI may say nothing. Routers only.
    pub uri_first_response: Option<Duration>,
}

impl View {
    /// Returns what is set for all nodes of a kind; `None` when nobody described it.
    #[must_use]
    pub fn profile(&self, kind: MemberKind) -> Option<&Profile> {
        let id = kind.profile()?;
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// Returns a trunk by id.
    #[must_use]
    pub fn trunk(&self, id: &str) -> Option<&Trunk> {
        self.trunks
            .binary_search_by(|trunk| trunk.id.as_str().cmp(id))
            .ok()
            .map(|i| &self.trunks[i])
    }

    /// Returns a cell by id: one with the defaults when nobody described it.
    #[must_use]
    pub fn cell(&self, id: &str) -> Cell {
        self.cells
            .binary_search_by(|cell| cell.id.as_str().cmp(id))
            .map_or_else(|_| Cell::new(id), |i| self.cells[i].clone())
    }

    /// Returns the key of a cell's digests: the 128 bits of SipHash-2-4 of `cell digest` and its id
    /// under the cluster key.
    ///
    /// The same at every node, so that digests compare; another in every cell, so that two that meet
    /// by mistake agree on nothing.
    #[must_use]
    pub fn cell_key(&self, cell: &str) -> [u8; CLUSTER_KEY_BYTES] {
        let mut hasher = SipHasher24::new_with_key(&self.cluster_key);
        hasher.write(b"cell digest");
        hasher.write(cell.as_bytes());
        hasher.finish128().as_bytes()
    }

    /// Returns a member by id.
    #[must_use]
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members
            .binary_search_by(|member| member.id.as_str().cmp(id))
            .ok()
            .map(|i| &self.members[i])
    }

    /// Tells whether the operator wants no new calls at a member that has one of these SIP addresses.
    #[must_use]
    pub fn is_draining(&self, addresses: &[SocketAddr]) -> bool {
        self.members.iter().any(|member| {
            let mut sip = member.sip.iter();
            member.desired_state == MemberState::Draining
                && sip.any(|endpoint| addresses.contains(&endpoint.address))
        })
    }

    /// Returns a set by id.
    #[must_use]
    pub fn set(&self, id: &str) -> Option<&DestinationSet> {
        self.sets
            .binary_search_by(|set| set.id.as_str().cmp(id))
            .ok()
            .map(|i| &self.sets[i])
    }

    /// Returns every destination of a set, sorted by id: those listed by hand and, under their
    /// member ids, those its selector finds. A listed one replaces a found one of the same id, and stands
    /// in that member's cell, or in the set's, unless it says otherwise.
    #[must_use]
    pub fn destinations_of(&self, set: &str) -> Vec<Destination> {
        let selector = self.set(set).and_then(|set| set.selector.as_ref());
        let cell_of_set = selector.and_then(|selector| selector.conditions.cell.as_deref());
        let listed = self.destinations.iter();
        let listed = listed.filter(|destination| destination.set == set);
        let mut all: Vec<Destination> = listed.cloned().collect();
        for listed in all.iter_mut().filter(|listed| listed.cell.is_empty()) {
            let member = self.member(&listed.id).map(|member| member.cell.as_str());
            listed.cell = member.or(cell_of_set).unwrap_or_default().to_owned();
        }
        let found = selector.iter().flat_map(|selector| {
            let found = |member| selector.find(member).map(|rule| (member, rule));
            self.members.iter().filter_map(found)
        });
        for (member, rule) in found {
            let Some(address) = member.inside() else {
                continue;
            };
            if all.iter().any(|listed| listed.id == member.id) {
                continue;
            }
            all.push(Destination {
                set: set.to_owned(),
                id: member.id.clone(),
                uri: format!("sip:{address}"),
                priority: rule.priority,
                weight: rule.weight,
                probing: true,
                desired_state: match member.desired_state {
                    MemberState::Active => DestinationState::Active,
                    MemberState::Draining => DestinationState::Draining,
                },
                cell: member.cell.clone(),
            });
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::v1;

    #[test]
    fn a_listed_destination_stands_in_the_cell_that_it_names_or_in_its_members_or_the_sets() {
        let destination = |id: &str, cell: &str| v1::Destination {
            name: format!("sets/1/destinations/{id}"),
            uri: "sip:192.0.2.9".into(),
            cell: cell.into(),
            ..v1::Destination::default()
        };
        let read = |message| Destination::try_from(&message).unwrap();
        let set = v1::DestinationSet {
            name: "sets/1".into(),
            selector: Some(v1::MemberSelector {
                cell: "of-set".into(),
                ..v1::MemberSelector::default()
            }),
            ..v1::DestinationSet::default()
        };
        let member = v1::Member {
            name: "members/b".into(),
            kind: v1::MemberKind::Router.into(),
            address: "192.0.2.9".into(),
            sip: vec![v1::SipEndpoint {
                address: "192.0.2.9:5060".into(),
                ..v1::SipEndpoint::default()
            }],
            cell: "of-member".into(),
            ..v1::Member::default()
        };
        let view = View {
            sets: vec![DestinationSet::try_from(&set).unwrap()],
            members: vec![Member::try_from(&member).unwrap()],
            destinations: vec![
                read(destination("a", "its-own")),
                read(destination("b", "")),
                read(destination("c", "")),
            ],
            ..View::default()
        };
        let cells = view.destinations_of("1").into_iter().map(|it| it.cell);
        assert_eq!(
            cells.collect::<Vec<_>>(),
            ["its-own", "of-member", "of-set"]
        );
        let refused = Destination::try_from(&destination("d", "No Cell")).unwrap_err();
        assert_eq!(refused[0].field, "cell");
    }

    #[test]
    fn a_cell_that_nobody_described_has_the_defaults() {
        let described = Cell {
            hash_size: 128,
            ..Cell::new("b")
        };
        let view = View {
            cells: vec![described.clone()],
            ..View::default()
        };
        assert_eq!(view.cell("b"), described);
        assert_eq!(view.cell("a"), Cell::new("a"));
        assert_eq!(view.cell("a").hash_size, 4096);
        assert_eq!(view.cell("a").dialog_lifetime.as_secs(), 43_200);
    }

    /// The value is that of another implementation of SipHash-2-4-128.
    #[test]
    fn the_key_of_a_cell_is_the_same_in_every_version() {
        let view = View {
            cluster_key: std::array::from_fn(|i| i as u8),
            ..View::default()
        };
        assert_eq!(
            u128::from_be_bytes(view.cell_key("default")),
            0xcc91_badf_a524_e1d4_d5d4_11b8_cbc3_2b8b
        );
        assert_ne!(view.cell_key("default"), view.cell_key("other"));
    }
}
