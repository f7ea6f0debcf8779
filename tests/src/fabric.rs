//! Builds a fabric and runs it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control::view::{
    Algorithm, Cell, DestinationSet, Liveness, Member, MemberKind, MemberState, Network, NextHop,
    Route, RouteMatch, RouteResult, Selector, Side, SipEndpoint, View,
};
use element::{FlowId, Sharded};
use sim::{Arrival, HostId, Link, World};
use sip::{DialogConfig, ProxyConfig, TimerConfig};
use tandem_router::Egress;
use user_agent::{
    CallId, CallPlan, CallRecord, CalleeRecord, Carrier, CarrierConfig, Ipbx, IpbxConfig,
};

use crate::faults::Action;

/// What a fabric consists of.
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// Feeds everything random.
    pub seed: u64,
    /// Routers of one cell, 1 to 9.
    pub routers: usize,
    /// Carriers, 1 to 9.
    pub carriers: usize,
    /// IPBXs, 1 to 9. Called numbers that begin with `1` go to the first, with `2` to the second.
    pub ipbxs: usize,
    /// Whether each route goes on to the next IPBX when its own fails.
    pub serial: bool,
    /// How requests leave the routers.
    pub egress: Egress,
    /// Whether the SBC has one address for carriers and IPBXs and another for routers.
    pub two_sides: bool,
    /// The network.
    pub link: Link,
}

impl Default for FabricConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            routers: 2,
            carriers: 1,
            ipbxs: 1,
            serial: false,
            egress: Egress::default(),
            two_sides: false,
            link: Link::default(),
        }
    }
}

type SbcElement = Sharded<tandem_sbc::Shard, tandem_sbc::Node>;
type RouterElement = Sharded<tandem_router::Shard, tandem_router::Node>;

/// One router: its host, and the process that runs there now.
pub struct RouterHandle {
    /// Its host.
    pub host: HostId,
    /// Where it receives SIP.
    pub address: SocketAddr,
    /// Grows with every start.
    pub incarnation: u64,
    pub(crate) element: Arc<RouterElement>,
}

/// Carriers, an SBC, its routers and IPBXs.
pub struct Fabric {
    /// Where they live.
    pub world: World,
    /// The carriers and their hosts.
    pub carriers: Vec<(HostId, Rc<RefCell<Carrier>>)>,
    /// The IPBXs and their hosts.
    pub ipbxs: Vec<(HostId, Rc<RefCell<Ipbx>>)>,
    /// The host of the SBC.
    pub sbc: HostId,
    /// The routers.
    pub routers: Vec<RouterHandle>,
    pub(crate) sbc_element: Arc<SbcElement>,
    pub(crate) config: FabricConfig,
    /// What befell whom, and when.
    pub notes: Vec<(Duration, String)>,
    /// Routers that the registry has removed.
    pub(crate) forgotten: Vec<usize>,
    pub(crate) actions: BTreeMap<(Duration, u64), Action>,
    pub(crate) scheduled: u64,
}

/// What the wall clocks of all nodes say when they start.
const WALL: Duration = Duration::from_secs(1_795_000_000);
/// Shards of each node: more than one, so that messages of several calls meet in one turn.
const SHARDS: usize = 2;
/// The lifetime of a dialog: long for a call, short for a simulation that waits for its end.
const DIALOG_LIFETIME: Duration = Duration::from_secs(300);
/// Longer than everything that a node may still have to wait for when its last call is over.
const SETTLING: Duration = Duration::from_secs(400);
/// Longer than it takes until everybody knows everybody.
const WARM_UP: Duration = Duration::from_millis(1500);

fn address(net: u8, host: usize) -> SocketAddr {
    let host = u8::try_from(host).expect("few hosts");
    SocketAddr::from(([127, 0, net, host], 5060))
}

impl Fabric {
    /// Builds a fabric and lets everybody get to know everybody.
    #[must_use]
    pub fn new(config: FabricConfig) -> Self {
        let mut world = World::new(config.seed);
        let outside = address(0, 1);
        let listen: Arc<[SocketAddr]> = match config.two_sides {
            true => Arc::new([outside, address(0, 2)]),
            false => Arc::new([outside]),
        };
        let sbc_element = new_sbc(&listen, config.seed);
        let sbc = world.add_element("SBC", &listen, sbc_element.clone());
        let mut routers = Vec::new();
        for number in 1..=config.routers {
            let address = address(0, 10 + number);
            let seed = config.seed + 100 * number as u64;
            let element = new_router(address, config.egress, number, 1, seed);
            let listen = [address, bus_of(address)];
            let host = world.add_element(&format!("R{number}"), &listen, element.clone());
            routers.push(RouterHandle {
                host,
                address,
                incarnation: 1,
                element,
            });
        }
        let mut carriers = Vec::new();
        for number in 1..=config.carriers {
            let at = address(1, number);
            let config = CarrierConfig::new(at, outside, config.seed * 31 + number as u64);
            let carrier = Rc::new(RefCell::new(Carrier::new(config)));
            let host = world.add_agent(&format!("C{number}"), at, Box::new(carrier.clone()));
            carriers.push((host, carrier));
        }
        let mut ipbxs = Vec::new();
        for number in 1..=config.ipbxs {
            let at = address(2, number);
            let config = IpbxConfig::new(at, config.seed * 37 + number as u64);
            let ipbx = Rc::new(RefCell::new(Ipbx::new(config)));
            let host = world.add_agent(&format!("P{number}"), at, Box::new(ipbx.clone()));
            ipbxs.push((host, ipbx));
        }
        let actions = BTreeMap::new();
        let mut fabric = Self {
            world,
            carriers,
            ipbxs,
            sbc,
            routers,
            sbc_element,
            config,
            notes: vec![],
            forgotten: vec![],
            actions,
            scheduled: 0,
        };
        fabric.configure_sbc();
        for index in 0..fabric.routers.len() {
            fabric.configure_router(index);
        }
        fabric.run_for(WARM_UP);
        fabric.world.set_link(fabric.config.link);
        fabric
    }

    /// Places a call of the first carrier.
    pub fn call(&mut self, plan: CallPlan) -> CallId {
        self.call_from(0, plan)
    }

    /// Places a call of a carrier.
    pub fn call_from(&mut self, carrier: usize, plan: CallPlan) -> CallId {
        let (host, carrier) = self.carriers[carrier].clone();
        let mut placed = None;
        self.world.drive(host, |now, _| {
            placed = Some(
                carrier
                    .borrow_mut()
                    .place_call(now, plan)
                    .expect("a call that can be placed"),
            );
        });
        placed.expect("carriers are never stopped")
    }

    /// Returns what the caller saw of a call.
    #[must_use]
    pub fn caller(&self, call: &CallId) -> CallRecord {
        let mut records = self
            .carriers
            .iter()
            .filter_map(|(_, carrier)| carrier.borrow().record(call).cloned());
        records.next().expect("a call that was placed")
    }

    /// Returns what the callee knows of a call; `None` when it never rang.
    #[must_use]
    pub fn callee(&self, call: &CallId) -> Option<CalleeRecord> {
        self.ipbxs
            .iter()
            .find_map(|(_, ipbx)| ipbx.borrow().record(call).cloned())
    }

    /// Returns the index of the router that the INVITE of a call was last given to.
    #[must_use]
    pub fn router_of(&self, call: &CallId) -> Option<usize> {
        let records = self.world.trace().records().iter().rev();
        let mut given = records.filter(|record| {
            record.from == self.sbc
                && record.call_id() == call.as_str()
                && record.first_line().starts_with("INVITE ")
        });
        given.find_map(|record| self.router_at(record.to?))
    }

    /// Returns the index of the router on a host.
    #[must_use]
    pub fn router_at(&self, host: HostId) -> Option<usize> {
        self.routers.iter().position(|router| router.host == host)
    }

    /// Lets everything happen for so long.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.world.now() + time);
    }

    /// Lets everything happen until then.
    pub fn run_until(&mut self, until: Duration) {
        self.run_to(until, |_| false);
    }

    /// Lets everything happen until a datagram for which `stop` says so is about to reach its host,
    /// or until `until`; tells whether there was one.
    pub fn run_to(&mut self, until: Duration, mut stop: impl FnMut(&Arrival<'_>) -> bool) -> bool {
        while let Some((&(at, _), _)) = self.actions.first_key_value()
            && at <= until
        {
            if self.world.run_to(at, &mut stop) {
                return true;
            }
            if let Some((_, action)) = self.actions.pop_first() {
                self.perform(action);
            }
        }
        self.world.run_to(until, stop)
    }

    /// Lets all that is going on come to its end, and returns what is left behind all the same.
    pub fn settle(&mut self) -> Vec<String> {
        self.run_for(SETTLING);
        let mut left = Vec::new();
        let mut note = |what: &str, name: &str, count: usize| {
            if count > 0 {
                left.push(format!("{name} has {count} {what}"));
            }
        };
        self.sbc_element.for_each_shard(|shard| {
            note("contexts", "SBC", shard.contexts());
            note("dialogs", "SBC", shard.dialogs());
        });
        let living = |router: &&RouterHandle| self.world.is_running(router.host);
        for router in self.routers.iter().filter(living) {
            router.element.for_each_shard(|shard| {
                note("contexts", self.world.name(router.host), shard.contexts());
            });
            let dialogs = router.element.inspect_node(tandem_router::Node::dialogs);
            note("dialogs", self.world.name(router.host), dialogs);
        }
        for (host, carrier) in &self.carriers {
            note(
                "open calls",
                self.world.name(*host),
                carrier.borrow().open_calls(),
            );
        }
        for (host, ipbx) in &self.ipbxs {
            note(
                "open calls",
                self.world.name(*host),
                ipbx.borrow().open_calls(),
            );
        }
        left
    }

    /// Returns the requests that an IPBX was given under more than one branch.
    #[must_use]
    pub fn delivered_twice(&self) -> Vec<user_agent::Duplicate> {
        self.ipbxs
            .iter()
            .flat_map(|(_, ipbx)| ipbx.borrow().delivered_twice().collect::<Vec<_>>())
            .collect()
    }

    /// Returns the counters of the SBC.
    #[must_use]
    pub fn sbc_counters(&self) -> tandem_sbc::Counters {
        let mut all = tandem_sbc::Counters::default();
        self.sbc_element
            .for_each_shard(|shard| all.add(shard.counters()));
        all
    }

    pub(crate) fn configure_sbc(&mut self) {
        let (view, element) = (self.view(), self.sbc_element.clone());
        self.world.drive(self.sbc, |now, turn| {
            element.with_node(now, turn, |node| node.configure(now, &view));
        });
    }

    pub(crate) fn configure_router(&mut self, index: usize) {
        let view = self.view();
        let RouterHandle { host, element, .. } = &self.routers[index];
        let element = element.clone();
        self.world.drive(*host, |now, turn| {
            element.with_node(now, turn, |node| {
                node.set_wall_clock(now, SystemTime::UNIX_EPOCH + WALL);
                node.configure(now, &view);
            });
        });
    }

    pub(crate) fn start_router(&mut self, index: usize) {
        let router = &mut self.routers[index];
        router.incarnation += 1;
        let seed = self.config.seed + 100 * index as u64 + 10_000 * router.incarnation;
        let (address, incarnation) = (router.address, router.incarnation);
        router.element = new_router(address, self.config.egress, index + 1, incarnation, seed);
        self.world.restart(router.host, router.element.clone());
    }

    /// What the registry says.
    fn view(&self) -> View {
        let routers = (1..).zip(&self.routers);
        let listed = routers.filter(|(number, _)| !self.forgotten.contains(&(number - 1)));
        let routers = listed.map(|(number, router)| Member {
            sip: vec![SipEndpoint {
                side: Side::Both,
                address: router.address,
            }],
            incarnation: router.incarnation,
            dmq: Some(bus_of(router.address)),
            ..member(
                &format!("router-{number}"),
                MemberKind::Router,
                router.address.ip(),
            )
        });
        let outside = address(0, 1);
        let sides = match self.config.two_sides {
            true => vec![
                SipEndpoint {
                    side: Side::Outside,
                    address: outside,
                },
                SipEndpoint {
                    side: Side::Inside,
                    address: address(0, 2),
                },
            ],
            false => vec![SipEndpoint {
                side: Side::Both,
                address: outside,
            }],
        };
        let sbc = Member {
            sip: sides,
            incarnation: 1,
            ..member("sbc-1", MemberKind::Sbc, outside.ip())
        };
        let place = |number: usize| RouteResult {
            next_hop: NextHop::Uri(format!("sip:{}", address(2, number))),
            request_uri: None,
            headers: vec![],
        };
        let route = |number: usize| Route {
            id: format!("ipbx-{number}"),
            priority: 0,
            matches: RouteMatch {
                called_prefix: number.to_string(),
                ..RouteMatch::default()
            },
            results: match self.config.serial && number < self.config.ipbxs {
                true => vec![place(number), place(number + 1)],
                false => vec![place(number)],
            },
        };
        View {
            generation: 1,
            cluster_key: *b"one cluster key!",
            members: routers.chain([sbc]).collect(),
            sets: vec![DestinationSet {
                id: tandem_sbc::FIRST_SET.into(),
                algorithm: Algorithm::CallIdHash,
                selector: Some(Selector {
                    kind: Some(MemberKind::Router),
                    ..Selector::default()
                }),
                first_response: Duration::from_secs(2),
                detect_within: Duration::from_millis(200),
                probe_interval: Duration::from_secs(1),
                failures_to_inactive: 1,
                successes_to_active: 2,
            }],
            routes: (1..=self.config.ipbxs).map(route).collect(),
            cells: vec![Cell {
                dialog_lifetime: DIALOG_LIFETIME,
                ..Cell::new("cell-1")
            }],
            ..View::default()
        }
    }
}

fn member(id: &str, kind: MemberKind, address: IpAddr) -> Member {
    Member {
        id: id.into(),
        kind,
        address,
        sip: vec![],
        dmq: None,
        cell: "cell-1".into(),
        zone: String::new(),
        tags: vec![],
        desired_state: MemberState::Active,
        incarnation: 0,
        liveness: Liveness::Alive,
    }
}

fn proxy(listen: &[SocketAddr], timer_c: u64) -> ProxyConfig {
    ProxyConfig {
        listen: listen.to_vec(),
        timers: TimerConfig::default(),
        timer_c: Duration::from_secs(timer_c),
        contexts_max: 10_000,
    }
}

fn dialogs() -> DialogConfig {
    DialogConfig {
        lifetime: DIALOG_LIFETIME,
        ..DialogConfig::default()
    }
}

fn new_sbc(listen: &Arc<[SocketAddr]>, seed: u64) -> Arc<SbcElement> {
    let allow = [1, 2].map(net);
    let node = tandem_sbc::Node::new(listen.clone(), Arc::new(allow), seed);
    let shards = (0..SHARDS)
        .map(|n| tandem_sbc::Shard::new(proxy(listen, 210), dialogs(), seed * 7 + n as u64));
    let view = Arc::new(node.view());
    Arc::new(Sharded::new(shards.collect(), node, view, [3; 16]))
}

/// The network that carriers (1) or IPBXs (2) live in.
fn net(number: u8) -> Network {
    Network {
        address: IpAddr::from([127, 0, number, 0]),
        prefix_bits: 24,
    }
}

fn new_router(
    address: SocketAddr,
    egress: Egress,
    number: usize,
    incarnation: u64,
    seed: u64,
) -> Arc<RouterElement> {
    let listen: Arc<[SocketAddr]> = Arc::new([address]);
    // What routers send straight to IPBXs, these answer within the dialog themselves.
    let allow: Arc<[Network]> = match egress {
        Egress::Sbc => Arc::new([]),
        Egress::Direct => Arc::new([net(2)]),
    };
    let bus = tandem_router::BusIdentity {
        node_id: format!("router-{number}"),
        cell: "cell-1".to_owned(),
        incarnation,
        own: bus_of(address),
        flow: FlowId(1),
        allow: vec![],
        dialogs: replication::DialogsConfig::default(),
    };
    let node = tandem_router::Node::new(listen.clone(), allow, seed)
        .with_egress(egress)
        .with_bus(bus);
    let shards =
        (0..SHARDS).map(|n| tandem_router::Shard::new(proxy(&listen, 200), seed * 7 + n as u64));
    let view = Arc::new(node.view());
    Arc::new(Sharded::new(shards.collect(), node, view, [5; 16]))
}

/// Returns the DMQ address of the router at `address`.
fn bus_of(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 5062)
}
