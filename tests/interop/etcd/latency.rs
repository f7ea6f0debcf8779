//! How soon a change counts: from the writer's reply until new calls follow it, through every SBC.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::route_result::NextHop;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::{
    DestinationSet, GetDestinationSetRequest, GetMemberRequest, GetRouteRequest, Route, RouteMatch,
    RouteResult, UpdateDestinationSetRequest, UpdateMemberRequest, UpdateRouteRequest,
};

use super::real::{Etcds, Setup};
use super::{converge, ready};
use crate::quiet::{alone, say};
use crate::raw::Raw;
use crate::sipp::{Calls, Sipp};
use crate::system::System;

const SECOND: Duration = Duration::from_secs(1);
const SBCS: [&str; 3] = ["sbc", "sbc-2", "sbc-3"];
/// Nodes that follow the configuration.
const FOLLOWERS: usize = 5;
/// Time between two probes, each over the next SBC.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// A change counts when so many probes in a row have followed it: four over each SBC, and chance
/// spreads them over the routers.
const IN_A_ROW: usize = 12;
/// Changes by the API, and by hand.
const CHANGES: u32 = 200;
const CHANGES_BY_HAND: u32 = 100;
/// What an operator was promised.
const MEDIAN_MAX: Duration = Duration::from_millis(100);
const P99_MAX: Duration = Duration::from_millis(500);
/// Numbers that begin like this go where the rule says that changes.
const PROBED: &str = "999";
/// Status of the callees between which that rule changes, and the ports at which they are.
const CALLEES: [(u16, u16); 2] = [(486, 5061), (480, 5062)];

/// Returns the rule for probed numbers that leads to one of the callees.
fn rule(system: &System, callee: usize) -> Route {
    let (_, port) = CALLEES[callee];
    let uri = format!("sip:{}:{port}", system.places.of("ipbx").ip);
    Route {
        name: "routes/probed".to_owned(),
        priority: 10,
        r#match: Some(RouteMatch {
            called_prefix: PROBED.to_owned(),
            ..RouteMatch::default()
        }),
        results: vec![RouteResult {
            next_hop: Some(NextHop::Uri(uri)),
            ..RouteResult::default()
        }],
        ..Route::default()
    }
}

/// Writes the rule by the API; returns when the reply had come.
fn put(system: &System, rule: Route) -> Instant {
    let request = UpdateRouteRequest {
        route: Some(rule),
        allow_missing: true,
        ..UpdateRouteRequest::default()
    };
    system.ask("registry", async |channel| {
        let mut client = RouteServiceClient::new(channel);
        client.update_route(request).await.unwrap();
        Instant::now()
    })
}

/// Writes the rule with etcdctl; returns when that had ended.
fn put_by_hand(etcds: &Etcds, rule: &Route) -> Instant {
    let key = format!("/tandem/v1/tandem/config/{}", rule.name);
    etcds.ctl(&["put", &key, &control::json::encode(rule)]);
    Instant::now()
}

/// A caller of probed numbers, and the callees, which refuse at once.
struct Probe<'a> {
    system: &'a System,
    caller: UdpSocket,
    /// Makes Call-IDs; the number of the next call.
    next: u32,
    /// When each call that has no answer yet was placed.
    open: BTreeMap<u32, Instant>,
}

impl<'a> Probe<'a> {
    fn new(system: &'a System) -> Self {
        let caller = UdpSocket::bind((system.places.of("carrier").ip, 5070)).unwrap();
        caller.set_read_timeout(Some(PROBE_INTERVAL)).unwrap();
        for (status, port) in CALLEES {
            let callee = Raw::bind((system.places.of("ipbx").ip, port));
            std::thread::spawn(move || {
                while let Some(request) = callee.receive_any("INVITE ") {
                    callee.respond(&request, &format!("{status} Not now"));
                }
            });
        }
        Self {
            system,
            caller,
            next: 0,
            open: BTreeMap::new(),
        }
    }

    fn sbc(&self, call: u32) -> SocketAddr {
        self.system.sip(SBCS[call as usize % SBCS.len()])
    }

    fn send(&self, call: u32, method: &str, to_tag: &str) {
        let (local, sbc) = (self.caller.local_addr().unwrap(), self.sbc(call));
        let request = format!(
            "{method} sip:{PROBED}1@{sbc} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {local};branch=z9hG4bKprobe{call}\r\n\
             From: <sip:100@{local}>;tag=probe\r\nTo: <sip:{PROBED}1@{sbc}>{to_tag}\r\n\
             Call-ID: {call}@{local}\r\nCSeq: 1 {method}\r\nContact: <sip:100@{local}>\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        self.caller.send_to(request.as_bytes(), sbc).unwrap();
    }

    /// Takes answers for as long as one probe lasts; returns when each answered call was placed, and
    /// the status it got.
    fn answers(&mut self) -> Vec<(Instant, u16)> {
        let until = Instant::now() + PROBE_INTERVAL;
        let mut answers = Vec::new();
        let mut buffer = [0; 65_536];
        while Instant::now() < until {
            let Ok((length, _)) = self.caller.recv_from(&mut buffer) else {
                break;
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            let status: u16 = text[8..11].parse().unwrap();
            let line = |name: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap()
            };
            let (call, _) = line("Call-ID: ").split_once('@').unwrap();
            let call: u32 = call.parse().unwrap();
            if status < 200 {
                continue;
            }
            let (_, tag) = line("To: ").split_once(";tag=").unwrap();
            self.send(call, "ACK", &format!(";tag={tag}"));
            // A final answer that was sent again is of no use.
            answers.extend(self.open.remove(&call).map(|placed| (placed, status)));
        }
        answers
    }

    /// Places calls until they follow the rule; returns how long after `since` the first of them
    /// did for good.
    fn follows(&mut self, callee: usize, since: Instant) -> Duration {
        let (wanted, _) = CALLEES[callee];
        let mut all = BTreeMap::new();
        loop {
            self.open.insert(self.next, Instant::now());
            self.send(self.next, "INVITE", "");
            self.next += 1;
            all.extend(self.answers());
            let in_a_row = all
                .iter()
                .rev()
                .take_while(|(_, status)| **status == wanted);
            let in_a_row: Vec<_> = in_a_row.filter(|(placed, _)| **placed >= since).collect();
            if in_a_row.len() >= IN_A_ROW {
                let (first, _) = in_a_row.last().unwrap();
                return first.duration_since(since);
            }
            assert!(
                since.elapsed() < 10 * SECOND,
                "the rule is not followed: {all:?}"
            );
        }
    }
}

/// Says how the latencies are spread, and asserts what was promised.
fn judge(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    let (median, p99) = (at(50), at(99));
    let changes = latencies.len();
    say(&format!(
        "{what}, {changes} changes: p50 {median:?}, p99 {p99:?}, max {:?}",
        at(100)
    ));
    assert!(median < MEDIAN_MAX, "{what}: p50 {median:?}");
    assert!(p99 < P99_MAX, "{what}: p99 {p99:?}");
}

#[test]
fn a_change_counts_within_milliseconds_and_costs_no_call() {
    let Some(_permit) = alone(&["sipp", "etcd", "etcdctl"]) else {
        return;
    };
    let Some(etcds) = Etcds::start(3, Setup::default()) else {
        return;
    };
    let mut system = ready(&etcds);
    SBCS[1..].iter().for_each(|sbc| system.start(sbc));
    put(&system, rule(&system, 0));
    converge(&system, FOLLOWERS);

    let mut probe = Probe::new(&system);
    probe.follows(0, Instant::now());
    let by_api = (1..=CHANGES).map(|change| {
        let callee = change as usize % 2;
        let replied = put(&system, rule(&system, callee));
        probe.follows(callee, replied)
    });
    judge("by the API", by_api.collect());
    let by_hand = (1..=CHANGES_BY_HAND).map(|change| {
        let callee = change as usize % 2;
        let ended = put_by_hand(&etcds, &rule(&system, callee));
        probe.follows(callee, ended)
    });
    judge("by etcdctl", by_hand.collect());

    let calls = Calls {
        calls: 12_000,
        rate: 200,
        hold: 2 * SECOND,
    };
    let sipp = Sipp::start(&system, calls);
    for change in 0..1000 {
        sipp.sleep_until(SECOND + SECOND / 20 * change);
        disturb(&system, change);
    }
    let report = sipp.finish();
    say(&format!("1000 changes: {report}"));
    report.assert_all_completed(calls.calls);
}

/// Changes something that every call depends on, another thing each time, back and forth.
fn disturb(system: &System, change: u32) {
    let back = (change / 4).is_multiple_of(2);
    system.ask("registry-2", async |channel| match change % 4 {
        0 => {
            let route = Some(rule(system, usize::from(back)));
            let request = UpdateRouteRequest {
                route,
                ..UpdateRouteRequest::default()
            };
            drop(
                RouteServiceClient::new(channel)
                    .update_route(request)
                    .await
                    .unwrap(),
            );
        }
        1 => {
            let mut client = RouteServiceClient::new(channel);
            let name = "routes/to-the-ipbx".to_owned();
            let route = client
                .get_route(GetRouteRequest { name })
                .await
                .unwrap()
                .into_inner();
            let route = Some(Route {
                priority: if back { 1 } else { 2 },
                ..route
            });
            let request = UpdateRouteRequest {
                route,
                ..UpdateRouteRequest::default()
            };
            drop(client.update_route(request).await.unwrap());
        }
        2 => {
            let mut client = DestinationSetServiceClient::new(channel);
            let name = "sets/1".to_owned();
            let set = client
                .get_destination_set(GetDestinationSetRequest { name })
                .await;
            let destination_set = Some(DestinationSet {
                successes_to_active: Some(if back { 2 } else { 3 }),
                ..set.unwrap().into_inner()
            });
            let request = UpdateDestinationSetRequest {
                destination_set,
                ..UpdateDestinationSetRequest::default()
            };
            drop(client.update_destination_set(request).await.unwrap());
        }
        _ => {
            let mut client = MemberServiceClient::new(channel);
            let name = "members/router-1".to_owned();
            let mut member = client
                .get_member(GetMemberRequest { name })
                .await
                .unwrap()
                .into_inner();
            member.tags = vec![format!("change-{change}")];
            let request = UpdateMemberRequest {
                member: Some(member),
                ..UpdateMemberRequest::default()
            };
            drop(client.update_member(request).await.unwrap());
        }
    });
}
