//! The router as a process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control::view::{MemberKind, View as RegistryView};
use element::{FlowId, Sharded};
use host::{
    Addresses, Answer, Drain, DrainedBy, Figures, Host, HostConfig, Name, Role, RoleDefaults,
};
use replication::DialogsConfig;
use sip::{DialogConfig, ProxyConfig, ProxyCounters};

use crate::cell::BusIdentity;
use crate::node::Node;
use crate::shard::{Counters, Shard};
use crate::view::View;
use crate::{grpc, metrics};

/// The router's part in [`host::run`].
#[derive(Debug)]
pub struct Router;

impl Role for Router {
    type Shard = Shard;
    type Node = Node;

    const KIND: MemberKind = MemberKind::Router;
    const PROGRAM: &'static str = "tandem-router";
    const ABOUT: &'static str =
        "Decides where calls go and sends them back through the SBC they came from";
    const TIMER_C: Duration = Duration::from_secs(190);

    fn defaults() -> RoleDefaults {
        RoleDefaults {
            node: "router",
            grpc_port: 7401,
            http_port: 7481,
            listen_max: 1,
            egress: true,
            dmq_port: Some(5062),
            records: Some("calls.jsonl"),
        }
    }

    /// A router's dialogs are its node's.
    fn shard(proxy: ProxyConfig, _dialogs: DialogConfig, seed: u64) -> Shard {
        Shard::new(proxy, seed)
    }

    fn node(config: &HostConfig, incarnation: u64, seed: u64) -> Node {
        let node = Node::new(
            config.advertised().into(),
            config.allow.clone().into(),
            seed,
        )
        .with_egress(config.egress);
        let Some(dmq) = &config.dmq else {
            return node;
        };
        node.with_bus(BusIdentity {
            node_id: config.node.clone(),
            cell: config.cell.clone(),
            incarnation,
            own: SocketAddr::new(config.advertise, dmq.listen.port()),
            flow: FlowId(config.listen.len() as u16),
            allow: dmq.allow.clone(),
            dialogs: DialogsConfig::default(),
        })
    }

    fn view(node: &Node) -> View {
        node.view()
    }

    fn remember(node: &mut Node, addresses: &Addresses) {
        let kind = |member: &host::PastMember| match member.is_router {
            true => MemberKind::Router,
            false => MemberKind::Sbc,
        };
        let known = addresses.known();
        node.remember(known.map(|(address, member)| (address, kind(member))));
    }

    fn configure(node: &mut Node, now: Instant, view: &RegistryView) {
        node.configure(now, view);
    }

    fn restart_needed(node: &Node, view: &RegistryView) -> Vec<String> {
        node.restart_needed(view)
    }

    fn drain(node: &mut Node, by: DrainedBy, wanted: bool) {
        node.drain(by, wanted);
    }

    fn drained_by(node: &Node) -> Drain {
        node.drained_by()
    }

    /// Its dialogs have heirs: only requests that are under way keep it, and what a Kamailio is to be told
    /// of dialogs that ended here.
    fn is_drained(element: &Sharded<Shard, Node>) -> bool {
        let mut busy = element.inspect_node(Node::owes_ends);
        element.for_each_shard(|shard| busy |= shard.is_busy());
        !busy
    }

    /// Names of notification addresses; those that it decides on are the SBC's to resolve.
    fn poll_lookup(node: &mut Node) -> Option<Name> {
        node.poll_lookup()
    }

    fn handle_lookup(node: &mut Node, now: Instant, name: Name, answer: Answer) {
        // All are asked: in one order, whatever order they were drawn in.
        let mut addresses = answer.addresses;
        addresses.sort();
        node.handle_lookup(now, name, &addresses);
    }

    fn set_wall_clock(node: &mut Node, now: Instant, wall: SystemTime) {
        node.set_wall_clock(now, wall);
    }

    fn take_records(node: &mut Node) -> Vec<String> {
        let records = node.take_records();
        let line =
            |record| serde_json::to_string(&record).expect("a record is plain text and numbers");
        records.into_iter().map(line).collect()
    }

    fn note_records_lost(node: &mut Node, count: u64) {
        node.note_records_lost(count);
    }

    fn leave(node: &mut Node, now: Instant) {
        node.leave(now);
    }

    fn log_changes(node: &mut Node) {
        for reason in node.take_unusable() {
            tracing::warn!(reason, "part of the configuration is not usable");
        }
    }

    fn services(face: &mut face::Server, host: &Arc<Host<Self>>) {
        grpc::add_services(face, host);
    }

    fn measure(element: &Sharded<Shard, Node>, now: Instant, figures: &mut Figures) {
        let mut counters = Counters::default();
        let mut proxy = ProxyCounters::default();
        let mut contexts = 0;
        element.for_each_shard(|shard| {
            counters.add(shard.counters());
            proxy.add(&shard.proxy_counters());
            contexts += shard.contexts() as u64;
        });
        let dialogs = element.inspect_node(Node::dialogs) as u64;
        figures.gauge("router_dialogs", "Dialogs, early ones included", dialogs);
        figures.counter(
            "router_records_dropped",
            "Call records that were not written",
            element.inspect_node(Node::records_dropped),
        );
        figures.counter(
            "router_unplaced_dropped",
            "What passed in dialogs that were not here yet, forgotten for want of room",
            element.inspect_node(Node::unplaced_dropped),
        );
        figures.gauge(
            "router_contexts",
            "Requests on their way or just answered",
            contexts,
        );
        figures.counter("router_calls", "INVITEs that opened a call", counters.calls);
        figures.counter(
            "router_calls_refused",
            "New requests answered with 503",
            counters.calls_refused,
        );
        figures.counter(
            "router_next_hops",
            "Requests that went on to a further place",
            counters.next_hops,
        );
        figures.counter(
            "router_passed_statelessly",
            "Responses that were a dead router's",
            counters.passed_statelessly,
        );
        figures.sip(&proxy, &counters.drops);
        element.inspect_node(|node| {
            if let Some(replication) = node.replication() {
                metrics::measure(replication, now, figures);
            }
        });
    }
}
