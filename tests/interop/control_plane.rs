//! gRPC at a running system: the tap, and an operator's word about a router.

use std::collections::BTreeSet;
use std::time::Duration;

use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::{DrainMemberRequest, UndrainMemberRequest};
use control::router::v1::GetStatusRequest;
use control::router::v1::status_service_client::StatusServiceClient as RouterStatusClient;
use control::sbc::v1::status_service_client::StatusServiceClient;
use control::sbc::v1::tap_response::Event;
use control::sbc::v1::tap_service_client::TapServiceClient;
use control::sbc::v1::{
    DestinationHealth, DisableDestinationRequest, DrainDestinationRequest,
    EnableDestinationRequest, TapCutReason, TapDirection, TapMessage, TapRequest,
};
use tokio::time::timeout;
use tonic::Code;
use user_agent::Outcome;

use crate::agents::{Agents, plan};
use crate::quiet::{alone, say, shared};
use crate::raw::Raw;
use crate::system::{PATIENCE, ROUTERS, System, eventually};
use crate::tap::tap;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_tap_shows_one_call_byte_for_byte() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let agents = Agents::start(&system);
    let call = agents.place(plan(Duration::ZERO, 2 * SECOND));
    let other = agents.place(plan(Duration::ZERO, 2 * SECOND));
    agents.wait_until_answered(&call);
    agents.wait_until_answered(&other);
    let call_id = call.as_str().as_bytes().to_vec();
    let request = TapRequest {
        call_id: call_id.clone(),
        methods: vec!["BYE".to_owned()],
    };
    let seen = tap(&system, request, |seen| seen.len() == 8);
    assert_eq!(agents.outcome(&other, PATIENCE), Outcome::Completed);
    let lines: Vec<_> = seen
        .iter()
        .map(|message| {
            let text = String::from_utf8_lossy(&message.raw);
            assert_eq!(message.call_id, call_id);
            assert!(
                text.contains(call.as_str()) && text.ends_with("\r\n\r\n"),
                "{text}"
            );
            assert_eq!(message.local_address, system.sip("sbc").to_string());
            let start = text.split(' ').next().unwrap().to_owned();
            let remote = message.remote_address.parse().unwrap();
            let who = ["carrier", "router-1", "router-2", "ipbx"]
                .into_iter()
                .find(|name| system.sip(name) == remote);
            (
                message.direction(),
                start,
                who.unwrap().split('-').next().unwrap(),
            )
        })
        .collect();
    use TapDirection::{In, Out};
    let expected = [
        (In, "BYE", "carrier"),
        (Out, "BYE", "router"),
        (In, "BYE", "router"),
        (Out, "BYE", "ipbx"),
        (In, "SIP/2.0", "ipbx"),
        (Out, "SIP/2.0", "router"),
        (In, "SIP/2.0", "router"),
        (Out, "SIP/2.0", "carrier"),
    ];
    let expected = expected.map(|(way, start, who)| (way, start.to_owned(), who));
    assert_eq!(lines, expected);
    assert!(seen.is_sorted_by_key(|message| message.at_nanos));
}

#[test]
fn a_slow_reader_is_cut_and_told_what_it_missed() {
    let Some(_permit) = alone(&[]) else { return };
    let system = System::ready();
    let agents = Agents::start(&system);
    let ip = system.places.of("carrier").ip;
    let carrier = Raw::bind((ip, 5070));
    let (cut, delivered) = system.ask("sbc", async |channel| {
        let mut client = TapServiceClient::new(channel);
        let mut stream = client
            .tap(TapRequest::default())
            .await
            .unwrap()
            .into_inner();
        // Nothing is read while the SBC gets more than it keeps for a reader: 16384 messages.
        // The connection lives meanwhile: one that answers no ping is closed.
        let sbc = system.sip("sbc");
        let burst = tokio::task::spawn_blocking(move || {
            for number in 0..4_000 {
                carrier.send(sbc, "OPTIONS", &format!("o{number}"), "", "");
                carrier.receive("SIP/2.0 ");
            }
        });
        burst.await.unwrap();
        let mut delivered = 0;
        loop {
            let next = timeout(PATIENCE, stream.message())
                .await
                .expect("the stream hangs");
            match next
                .unwrap()
                .expect("it ended without a word")
                .event
                .unwrap()
            {
                Event::Message(_) => delivered += 1,
                Event::Cut(cut) => break (cut, delivered),
            }
        }
    });
    say(&format!(
        "{delivered} messages delivered, {} missed",
        cut.missed
    ));
    assert_eq!(cut.reason(), TapCutReason::SlowReader);
    assert!(
        cut.missed > 0 && delivered >= 16_384,
        "{cut:?}, {delivered} delivered"
    );
    let call = agents.place(plan(Duration::ZERO, Duration::ZERO));
    assert_eq!(agents.outcome(&call, PATIENCE), Outcome::Completed);
}

#[test]
fn readers_that_come_and_go_hold_up_no_call() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let agents = Agents::start(&system);
    for _ in 0..20 {
        std::thread::scope(|scope| {
            // Leaves in the middle of a burst.
            scope.spawn(|| tap(&system, TapRequest::default(), |seen| seen.len() > 200));
            std::thread::sleep(SECOND / 20);
            for _ in 0..24 {
                agents.place(plan(Duration::ZERO, Duration::ZERO));
            }
        });
    }
    let slowest = agents.assert_all_completed(PATIENCE);
    assert!(slowest <= SECOND / 2, "a request waited {slowest:?}");
}

#[test]
fn an_operator_moves_new_calls_away_and_back() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let agents = Agents::start(&system);
    let all = system.destinations();
    let ids: Vec<_> = all.iter().map(|status| status.id.as_str()).collect();
    assert_eq!(ids, ROUTERS);
    for status in &all {
        assert_eq!((status.set.as_str(), status.probing), ("1", true));
        assert_eq!(status.address, system.sip(&status.id).to_string());
        assert_eq!(status.uri, format!("sip:{}", status.address));
        assert!(status.last_sign_of_life.is_some() && status.since.is_some());
    }
    let both = BTreeSet::from(ROUTERS.map(str::to_owned));
    let second = BTreeSet::from(["router-2".to_owned()]);
    // These are held while their routers are drained and disabled.
    assert_eq!(routers_of_new_calls(&system, &agents, 2 * SECOND), both);
    let (set, id) = ("1".to_owned(), "router-1".to_owned());
    let drain = DrainDestinationRequest {
        set: set.clone(),
        id: id.clone(),
    };
    let drained = system.ask("sbc", async |channel| {
        StatusServiceClient::new(channel)
            .drain_destination(drain)
            .await
            .unwrap()
            .into_inner()
    });
    assert!(drained.draining, "{drained:?}");
    assert_eq!(
        routers_of_new_calls(&system, &agents, Duration::ZERO),
        second
    );
    assert!(
        dialogs(&system, "router-1") > 0,
        "it has calls that must go on"
    );

    let disable = DisableDestinationRequest {
        set: set.clone(),
        id: id.clone(),
    };
    let disabled = system.ask("sbc", async |channel| {
        StatusServiceClient::new(channel)
            .disable_destination(disable)
            .await
            .unwrap()
            .into_inner()
    });
    assert_eq!(disabled.state(), DestinationHealth::Disabled);
    assert_eq!(
        routers_of_new_calls(&system, &agents, Duration::ZERO),
        second
    );

    let enable = EnableDestinationRequest { set, id };
    system.ask("sbc", async |channel| {
        StatusServiceClient::new(channel)
            .enable_destination(enable)
            .await
            .unwrap();
    });
    system.wait_until_up(&ROUTERS);
    assert_eq!(routers_of_new_calls(&system, &agents, Duration::ZERO), both);
    agents.assert_all_completed(PATIENCE);

    let unknown = DrainDestinationRequest {
        set: "1".to_owned(),
        id: "nobody".to_owned(),
    };
    let status = system.ask("sbc", async |channel| {
        StatusServiceClient::new(channel)
            .drain_destination(unknown)
            .await
            .unwrap_err()
    });
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[test]
fn a_member_that_the_registry_drains_gets_no_new_calls() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let agents = Agents::start(&system);
    let name = "members/router-1".to_owned();
    let is_draining = || {
        let all = system.destinations();
        all.iter()
            .any(|status| status.id == "router-1" && status.draining)
    };
    let request = DrainMemberRequest {
        name: name.clone(),
        ..DrainMemberRequest::default()
    };
    system.ask("registry", async |channel| {
        MemberServiceClient::new(channel)
            .drain_member(request)
            .await
            .unwrap();
    });
    eventually("the SBC hears of it", is_draining);
    let second = BTreeSet::from(["router-2".to_owned()]);
    assert_eq!(
        routers_of_new_calls(&system, &agents, Duration::ZERO),
        second
    );
    let request = UndrainMemberRequest {
        name,
        ..UndrainMemberRequest::default()
    };
    system.ask("registry", async |channel| {
        MemberServiceClient::new(channel)
            .undrain_member(request)
            .await
            .unwrap();
    });
    eventually("the SBC hears of it", || !is_draining());
    let both = BTreeSet::from(ROUTERS.map(str::to_owned));
    assert_eq!(routers_of_new_calls(&system, &agents, Duration::ZERO), both);
    agents.assert_all_completed(PATIENCE);
}

/// Places calls and returns the routers that got their INVITE.
fn routers_of_new_calls(system: &System, agents: &Agents, hold: Duration) -> BTreeSet<String> {
    const CALLS: usize = 24;
    let request = TapRequest {
        methods: vec!["INVITE".to_owned()],
        ..TapRequest::default()
    };
    let routers = ROUTERS.map(|router| (system.sip(router).to_string(), router));
    let first_passes = |seen: &[TapMessage]| -> Vec<String> {
        let invites = seen.iter().filter(|message| {
            message.direction() == TapDirection::Out && message.raw.starts_with(b"INVITE ")
        });
        let router = |invite: &TapMessage| {
            let found = routers
                .iter()
                .find(|(address, _)| *address == invite.remote_address);
            found.map(|(_, router)| (*router).to_owned())
        };
        invites.filter_map(router).collect()
    };
    let seen = std::thread::scope(|scope| {
        let tapped = scope.spawn(|| tap(system, request, |seen| first_passes(seen).len() == CALLS));
        // The tap is a stream that nobody sees opening.
        std::thread::sleep(SECOND / 4);
        for _ in 0..CALLS {
            agents.place(plan(Duration::ZERO, hold));
        }
        tapped.join().unwrap()
    });
    first_passes(&seen).into_iter().collect()
}

fn dialogs(system: &System, router: &str) -> u64 {
    system.ask(router, async |channel| {
        let status = RouterStatusClient::new(channel)
            .get_status(GetStatusRequest {})
            .await;
        status.unwrap().into_inner().dialogs
    })
}
