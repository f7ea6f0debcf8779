//! Two registries over three real etcd members, all of them struck in turn under 100 calls a second:
//! no call fails, and every node has the newest configuration soon after.

mod latency;
#[path = "../../crates/store/tests/common/etcd.rs"]
mod real;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::status_service_client::StatusServiceClient;
use control::registry::v1::{
    ConfigStatus, DestinationSet, GetConfigStatusRequest, ListNodeStatusesRequest, NodeStatus,
    Position, UpdateDestinationSetRequest,
};
use nix::sys::signal::Signal;
use real::{Etcds, Setup};

use crate::quiet::{alone, say};
use crate::sipp::{Calls, Sipp};
use crate::system::{NODES, PATIENCE, Places, ROUTERS, System};

const SECOND: Duration = Duration::from_secs(1);
/// How soon after etcd is well again every node must have the newest generation.
const CONVERGED_WITHIN: Duration = Duration::from_secs(3);
/// Nodes that follow the configuration.
const FOLLOWERS: usize = 3;

/// A system over etcd, ready for calls.
fn ready(etcds: &Etcds) -> System {
    let mut system = System::at(Places::on_loopback());
    system.etcd = etcds.endpoints();
    system.start("registry-2");
    for node in NODES {
        system.start(node);
    }
    system.put_route();
    converge(&system, FOLLOWERS);
    system.wait_until_up(&ROUTERS);
    system
}

fn status(system: &System, registry: &str) -> ConfigStatus {
    system.ask(registry, async |channel| {
        let mut client = StatusServiceClient::new(channel);
        let status = client.get_config_status(GetConfigStatusRequest {}).await;
        // One that has no store yet ends its connections.
        status.map_or_else(|_| ConfigStatus::default(), tonic::Response::into_inner)
    })
}

/// What a registry knows of the nodes: of its own at once, of the others' soon after.
fn nodes(system: &System, registry: &str) -> Vec<NodeStatus> {
    system.ask(registry, async |channel| {
        let mut client = StatusServiceClient::new(channel);
        let nodes = client.list_node_statuses(ListNodeStatusesRequest::default());
        nodes.await.map_or_else(
            |_| Vec::new(),
            |response| response.into_inner().node_statuses,
        )
    })
}

/// Returns the nodes of which one registry at least knows that they have this configuration.
fn in_force(system: &System, position: Option<Position>) -> BTreeSet<String> {
    let nodes = system.registries().flat_map(|name| nodes(system, name));
    let such =
        nodes.filter(|node| node.connected && node.in_force.is_some() && node.in_force == position);
    such.map(|node| node.node).collect()
}

/// Makes a change; `false` if the registries do not take it now.
fn change(system: &System) -> bool {
    let registry = system.registries().last().unwrap();
    let generation = status(system, registry)
        .position
        .map_or(0, |at| at.generation);
    let request = UpdateDestinationSetRequest {
        destination_set: Some(DestinationSet {
            name: format!("sets/change-{generation}"),
            ..DestinationSet::default()
        }),
        allow_missing: true,
        ..UpdateDestinationSetRequest::default()
    };
    system.ask(registry, async |channel| {
        let mut client = DestinationSetServiceClient::new(channel);
        client.update_destination_set(request).await.is_ok()
    })
}

/// Makes a change, and waits until so many nodes have acknowledged it; returns how long both took.
fn converge(system: &System, followers: usize) -> Duration {
    let began = Instant::now();
    let deadline = began + 2 * PATIENCE;
    let mut changed = false;
    loop {
        changed = changed || change(system);
        let all: Vec<_> = system
            .registries()
            .map(|name| status(system, name))
            .collect();
        let alike = all.iter().all(|one| one.position == all[0].position);
        let in_force = in_force(system, all[0].position);
        if changed && alike && in_force.len() == followers {
            return began.elapsed();
        }
        assert!(
            Instant::now() < deadline,
            "no agreement: {all:#?}, in force at {in_force:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that everybody agrees soon after etcd answered its own tool again.
fn converges(system: &System, etcds: &Etcds, what: &str) {
    etcds.wait_until_ready();
    let took = converge(system, FOLLOWERS);
    say(&format!("{what}: converged {took:?} after it was healed"));
    assert!(took < CONVERGED_WITHIN, "{what}: {took:?}");
}

#[test]
fn no_call_is_lost_whatever_happens_to_etcd_and_its_registries() {
    let Some(_permit) = alone(&["sipp", "etcd", "etcdctl"]) else {
        return;
    };
    let Some(mut etcds) = Etcds::start(3, Setup::default()) else {
        return;
    };
    let mut system = ready(&etcds);
    let calls = Calls {
        calls: 16_000,
        rate: 100,
        hold: 2 * SECOND,
    };
    let sipp = Sipp::start(&system, calls);
    let wait = |seconds| std::thread::sleep(seconds * SECOND);

    wait(2);
    let leader = etcds.leader();
    etcds.kill(leader);
    converges_without(&system, "the leader killed");
    etcds.run(leader);
    converges(&system, &etcds, "the leader back");

    etcds.signal(0, Signal::SIGSTOP);
    wait(5);
    etcds.signal(0, Signal::SIGCONT);
    converges(&system, &etcds, "a member hung");

    etcds.kill_all();
    wait(2);
    assert!(!change(&system), "nothing is accepted without etcd");
    system.kill("router-2");
    wait(1);
    system.start("router-2");
    wait(5);
    etcds.run_all();
    converges(&system, &etcds, "all killed, and a router meanwhile");
    system.wait_until_up(&ROUTERS);

    system.kill("registry");
    wait(3);
    system.start("registry");
    converges(&system, &etcds, "a registry killed");

    system.signal("registry", Signal::SIGSTOP);
    let at_another: Vec<_> = (0..3).map(|_| change(&system)).collect();
    assert_eq!(at_another, [true; 3], "the other registry takes changes");
    etcds.compact();
    wait(3);
    system.signal("registry", Signal::SIGCONT);
    converges(&system, &etcds, "history compacted while a registry hung");

    let leases = etcds.revoke_leases();
    assert!(leases >= FOLLOWERS, "only {leases} leases");
    converges(&system, &etcds, "the leases of all nodes lost");

    let both: Vec<_> = system.registries().collect();
    both.iter().for_each(|registry| system.kill(registry));
    wait(20);
    system.kill("router-1");
    wait(1);
    system.start("router-1");
    wait(39);
    both.iter().for_each(|registry| system.start(registry));
    converges(
        &system,
        &etcds,
        "both registries gone for 60 s, a router restarted meanwhile",
    );
    system.wait_until_up(&ROUTERS);

    let report = sipp.finish();
    say(&report.to_string());
    report.assert_all_completed(calls.calls);
}

/// Asserts that two members of three are enough.
fn converges_without(system: &System, what: &str) {
    let took = converge(system, FOLLOWERS);
    say(&format!("{what}: converged {took:?} later"));
    // An election comes first.
    assert!(took < PATIENCE, "{what}: {took:?}");
}
