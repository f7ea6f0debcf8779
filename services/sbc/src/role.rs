//! The SBC as a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use control::view::{MemberKind, View as RegistryView};
use dispatch::HealthEvent;
use element::Sharded;
use host::{
    Addresses, Answer, Drain, DrainedBy, Figures, Host, HostConfig, Name, Role, RoleDefaults,
};
use sip::{DialogConfig, ProxyConfig, ProxyCounters};

use crate::counters::Counters;
use crate::node::{Change, Node};
use crate::shard::Shard;
use crate::view::{Owner, View};
use crate::{dialogs, grpc, tap};

/// The SBC's part in [`host::run`].
#[derive(Debug)]
pub struct Sbc;

impl Role for Sbc {
    type Shard = Shard;
    type Node = Node;

    const KIND: MemberKind = MemberKind::Sbc;
    const PROGRAM: &'static str = "tandem-sbc";
    const ABOUT: &'static str =
        "Faces carriers and IPBXs, gives every call to a router, and loses none when one dies";
    const TIMER_C: Duration = Duration::from_secs(185);

    fn defaults() -> RoleDefaults {
        RoleDefaults {
            node: "sbc",
            grpc_port: 7402,
            http_port: 7482,
            listen_max: 2,
            egress: false,
            dmq_port: None,
            records: None,
        }
    }

    fn shard(proxy: ProxyConfig, dialogs: DialogConfig, seed: u64) -> Shard {
        Shard::new(proxy, dialogs, seed)
    }

    fn node(config: &HostConfig, _incarnation: u64, seed: u64) -> Node {
        Node::new(
            config.advertised().into(),
            config.allow.clone().into(),
            seed,
        )
    }

    fn view(node: &Node) -> View {
        node.view()
    }

    fn remember(node: &mut Node, addresses: &Addresses) {
        let owner = |member: &host::PastMember| match member.is_router {
            true => Owner::Router {
                id: member.id.as_str().into(),
                cell: member.cell.as_str().into(),
            },
            false => Owner::Sbc,
        };
        let known = addresses.known();
        node.remember(known.map(|(address, member)| (address, owner(member))));
    }

    fn configure(node: &mut Node, now: Instant, view: &RegistryView) {
        node.configure(now, view);
    }

    fn drain(node: &mut Node, by: DrainedBy, wanted: bool) {
        node.drain(by, wanted);
    }

    fn drained_by(node: &Node) -> Drain {
        node.drained_by()
    }

    /// Nobody inherits an SBC's dialogs: it waits for them.
    fn is_drained(element: &Sharded<Shard, Node>) -> bool {
        let mut left = 0;
        element.for_each_shard(|shard| left += shard.dialogs() + usize::from(shard.is_busy()));
        left == 0
    }

    fn poll_lookup(node: &mut Node) -> Option<Name> {
        node.poll_lookup()
    }

    fn handle_lookup(node: &mut Node, now: Instant, name: Name, answer: Answer) {
        node.handle_lookup(now, name, &answer);
    }

    fn log_changes(node: &mut Node) {
        while let Some(change) = node.poll_change() {
            match change {
                Change::Unusable(reason) => {
                    tracing::warn!(reason, "part of the configuration is not usable")
                }
                Change::Destination(HealthEvent::Lost {
                    destination,
                    reason,
                    ..
                }) => {
                    tracing::warn!(%destination, %reason, "destination lost");
                }
                Change::Destination(HealthEvent::Up { destination }) => {
                    tracing::info!(%destination, "destination is back");
                }
                Change::Destination(HealthEvent::StateChanged {
                    destination,
                    from,
                    to,
                    accepting_new,
                }) => {
                    tracing::info!(%destination, ?from, ?to, accepting_new, "destination changed");
                }
            }
        }
    }

    fn services(face: &mut face::Server, host: &Arc<Host<Self>>) {
        face.add(grpc::status_service(host));
        face.add(dialogs::service(host));
        face.add(tap::service(host));
    }

    fn measure(element: &Sharded<Shard, Node>, _now: Instant, figures: &mut Figures) {
        let mut counters = Counters::default();
        let mut proxy = ProxyCounters::default();
        let (mut dialogs, mut contexts) = (0, 0);
        element.for_each_shard(|shard| {
            counters.add(shard.counters());
            proxy.add(&shard.proxy_counters());
            dialogs += shard.dialogs() as u64;
            contexts += shard.contexts() as u64;
        });
        figures.gauge("sbc_dialogs", "Dialogs, early ones included", dialogs);
        figures.gauge(
            "sbc_contexts",
            "Requests on their way or just answered",
            contexts,
        );
        figures.counter("sbc_calls", "INVITEs that opened a call", counters.calls);
        figures.counter(
            "sbc_calls_refused",
            "New requests answered with 503",
            counters.calls_refused,
        );
        figures.counter(
            "sbc_failovers",
            "Requests sent to another router than the first",
            counters.failovers,
        );
        figures.counter(
            "sbc_answered_in_stead",
            "Responses given in a dead router's stead",
            counters.answered_in_stead,
        );
        figures.counter(
            "sbc_delivered_without_router",
            "Requests delivered past all routers",
            counters.delivered_without_router,
        );
        figures.counter(
            "sbc_late_second_passes",
            "Second passes that came too late",
            counters.late_second_passes,
        );
        figures.counter(
            "sbc_unreachable",
            "Requests answered 503 because the network cannot reach their callee",
            counters.unreachable,
        );
        figures.counter(
            "sbc_next_addresses",
            "Requests sent to another address of the name that they go to",
            counters.next_addresses,
        );
        figures.counter(
            "sbc_unreachable_ignored",
            "ICMP errors beyond what shards are told of at once",
            element.inspect_node(Node::unreachable_ignored),
        );
        figures.sip(&proxy, &counters.drops);
        let statuses: Vec<_> = element.inspect_node(|node| node.statuses().collect());
        for status in statuses {
            figures.gauge_of(
                "dispatch_destination_active",
                "1 while requests go to it",
                ("destination", status.id.to_string()),
                u64::from(status.is_alive()),
            );
        }
    }
}

/// What the gRPC services hold of the process.
pub(crate) type SbcHandle = host::Handle<Shard, Node>;
