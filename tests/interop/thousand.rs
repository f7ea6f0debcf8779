//! A thousand nodes on one registry: what each costs it, and how soon a change is with all of them.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::registry::v1::config_service_client::ConfigServiceClient;
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::route_result::NextHop;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::{
    Ack, Hello, KeepAliveRequest, Member, MemberKind, Position, RegisterRequest, Route,
    RouteResult, SipEndpoint, SyncConfigRequest, UpdateRouteRequest, sync_config_request,
    sync_config_response,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{interval, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{IntervalStream, ReceiverStream};
use tonic::transport::{Channel, Endpoint};

use crate::quiet::{alone, say};
use crate::system::{Places, System};

const NODES: usize = 1000;
/// Nodes that register at the same time.
const AT_ONCE: usize = 32;
const CHANGES: u32 = 50;
/// What a node may cost the registry; most of it are the buffers of its connection.
const BYTES_MAX: usize = 64 * 1024;
/// How long nothing but refreshes comes before the memory is read, so that it is what a node costs and
/// not what the last change did.
const QUIET: Duration = Duration::from_secs(5);
const P99_MAX: Duration = Duration::from_secs(1);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);

/// A node, by its number, got the configuration of this generation.
struct Got {
    node: usize,
    generation: u64,
    at: Instant,
}

/// Returns an SBC: they are no members of a set, so that the sets stay small.
fn member(number: usize) -> Member {
    let [_, _, high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
    let address = Ipv4Addr::new(127, 15, high, low);
    Member {
        name: format!("members/sbc-{number}"),
        kind: MemberKind::Sbc.into(),
        address: address.to_string(),
        sip: vec![SipEndpoint {
            address: format!("{address}:5060"),
            ..SipEndpoint::default()
        }],
        ..Member::default()
    }
}

/// Lives as a node does, on a connection of its own, for as long as the test.
async fn live(endpoint: Endpoint, node: usize, permits: Arc<Semaphore>, got: mpsc::Sender<Got>) {
    let permit = permits.acquire().await.unwrap();
    let channel = endpoint.connect().await.unwrap();
    let member = member(node);
    let name = member.name.clone();
    let request = RegisterRequest {
        member: Some(member),
        incarnation: 1,
    };
    let mut client = MemberServiceClient::new(channel.clone());
    let session = client.register(request).await.unwrap().into_inner().session;
    let refresh = KeepAliveRequest {
        name: name.clone(),
        session,
        leaving: false,
    };
    let refreshes =
        IntervalStream::new(interval(KEEP_ALIVE_INTERVAL)).map(move |_| refresh.clone());
    let mut kept = client.keep_alive(refreshes).await.unwrap().into_inner();
    let kept = async { while kept.message().await.unwrap().is_some() {} };
    let followed = async {
        let (requests, outgoing) = mpsc::channel(1);
        let say = async |message| {
            let message = Some(message);
            requests.send(SyncConfigRequest { message }).await.unwrap();
        };
        let hello = Hello {
            node: name,
            kind: MemberKind::Sbc.into(),
            ..Hello::default()
        };
        say(sync_config_request::Message::Hello(hello)).await;
        let mut client = ConfigServiceClient::new(channel);
        let mut stream = client
            .sync_config(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        let mut permit = Some(permit);
        while let Some(response) = stream.message().await.unwrap() {
            let position: Option<Position> = match response.message.unwrap() {
                sync_config_response::Message::Snapshot(part) if part.complete => part.position,
                sync_config_response::Message::Change(change) => change.position,
                sync_config_response::Message::Snapshot(_)
                | sync_config_response::Message::Bookmark(_) => continue,
            };
            let generation = position.unwrap().generation;
            got.send(Got {
                node,
                generation,
                at: Instant::now(),
            })
            .await
            .unwrap();
            say(sync_config_request::Message::Ack(Ack {
                position,
                ..Ack::default()
            }))
            .await;
            permit.take();
        }
    };
    tokio::join!(kept, followed);
}

/// Returns the memory of a process that it shares with nobody, in bytes.
fn memory(system: &System) -> usize {
    let rollup =
        fs::read_to_string(format!("/proc/{}/smaps_rollup", system.pid("registry"))).unwrap();
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .unwrap();
    1024 * line
        .trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .unwrap()
}

async fn change(channel: &Channel, number: u32) -> (u64, Instant) {
    let route = Route {
        name: "routes/a".to_owned(),
        results: vec![RouteResult {
            next_hop: Some(NextHop::Uri(format!("sip:127.0.0.1:{}", 6000 + number))),
            ..RouteResult::default()
        }],
        ..Route::default()
    };
    let request = UpdateRouteRequest {
        route: Some(route),
        allow_missing: true,
        ..UpdateRouteRequest::default()
    };
    let mut client = RouteServiceClient::new(channel.clone());
    let stored = client.update_route(request).await.unwrap().into_inner();
    let replied = Instant::now();
    // An etag begins with the generation of the change.
    let (generation, _) = stored.etag.split_once('-').unwrap();
    (generation.parse().unwrap(), replied)
}

/// The nodes, as far as they have told.
struct Crowd {
    got: mpsc::Receiver<Got>,
    /// By number of the node, the newest generation it got.
    newest: Vec<u64>,
}

impl Crowd {
    /// Waits until every node has got this generation or a later one; returns when each did.
    async fn reach(&mut self, generation: u64) -> Vec<Instant> {
        let mut reached = Vec::new();
        while self.newest.iter().any(|newest| *newest < generation) {
            let got = timeout(PATIENCE, self.got.recv()).await;
            let Got {
                node,
                generation: its,
                at,
            } = got.expect("a node hangs").unwrap();
            if self.newest[node] < generation && its >= generation {
                reached.push(at);
            }
            self.newest[node] = its;
        }
        reached
    }
}

#[test]
fn a_thousand_nodes_cost_little_and_hear_of_a_change_at_once() {
    let Some(_permit) = alone(&[]) else { return };
    let mut system = System::at(Places::on_loopback());
    system.start("registry");
    // What every later request uses, too, is there after the first.
    system.ask("registry", async |channel| change(&channel, 0).await);
    let before = memory(&system);

    let endpoint = format!("http://{}", system.places.grpc("registry"));
    let endpoint = Endpoint::from_shared(endpoint).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (sender, got) = mpsc::channel(10 * NODES);
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let began = Instant::now();
        for node in 0..NODES {
            let life = live(endpoint.clone(), node, Arc::clone(&permits), sender.clone());
            tokio::spawn(life);
        }
        let mut crowd = Crowd { got, newest: vec![0; NODES] };
        crowd.reach(1).await;
        let joined = began.elapsed();

        let channel = endpoint.connect().await.unwrap();
        let mut latencies = Vec::new();
        for number in 1..=CHANGES {
            let (generation, replied) = change(&channel, number).await;
            let reached = crowd.reach(generation).await;
            latencies.extend(reached.into_iter().map(|at| at.saturating_duration_since(replied)));
        }
        let at_once = memory(&system).saturating_sub(before) / NODES;
        sleep(QUIET).await;
        let each = memory(&system).saturating_sub(before) / NODES;
        latencies.sort();
        assert_eq!(latencies.len(), NODES * CHANGES as usize);
        let [median, p99, max] = [50, 99, 100].map(|percent| latencies[(latencies.len() - 1) * percent / 100]);
        say(&format!(
            "{NODES} nodes joined in {joined:?}, {each} bytes of the registry each ({at_once} right after the last change); {CHANGES} changes to all: p50 {median:?}, p99 {p99:?}, max {max:?}"
        ));
        assert!(each < BYTES_MAX, "{each} bytes");
        assert!(p99 < P99_MAX, "{p99:?}");
    });
    runtime.shutdown_background();
}
