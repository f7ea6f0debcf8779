//! Deaths that leave little behind: both routers, a router that is back at once, and calls that are
//! held for longer than the registry remembers the dead.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::{GetMemberRequest, Liveness};
use user_agent::{CalleeOutcome, Outcome};

use crate::agents::{Agents, plan};
use crate::quiet::{alone, say, shared};
use crate::raw::Raw;
use crate::system::{PATIENCE, ROUTERS, System, eventually};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn with_both_routers_dead_calls_end_and_new_ones_are_told_to_come_back() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    let held: Vec<_> = (0..20)
        .map(|_| agents.place(plan(Duration::ZERO, 3 * SECOND)))
        .collect();
    for call in &held {
        agents.wait_until_answered(call);
    }
    system.kill("router-1");
    system.kill("router-2");
    let ip = system.places.of("carrier").ip.into();
    let carrier = Raw::bind(SocketAddr::new(ip, 5070));
    for attempt in 0..3 {
        carrier.send(
            system.sip("sbc"),
            "INVITE",
            &format!("new{attempt}"),
            "",
            "",
        );
        let answer = carrier.receive_final();
        assert!(answer.starts_with("SIP/2.0 503"), "{answer}");
        let retry_after = answer
            .lines()
            .find_map(|line| line.strip_prefix("Retry-After:"));
        let seconds = retry_after.unwrap_or_else(|| panic!("no Retry-After: {answer}"));
        assert!(
            seconds
                .trim()
                .parse::<u32>()
                .is_ok_and(|seconds| seconds > 0),
            "{answer}"
        );
    }
    for call in &held {
        assert_eq!(agents.outcome(call, PATIENCE), Outcome::Completed);
        let callee = agents.callee(call).unwrap();
        assert_eq!(callee.outcome, Some(CalleeOutcome::Completed));
    }
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!(
        "BYE with no router left: slowest request {slowest:?}"
    ));

    system.start("router-2");
    system.wait_until_up(&["router-2"]);
    let call = agents.place(plan(Duration::ZERO, Duration::ZERO));
    assert_eq!(agents.outcome(&call, PATIENCE), Outcome::Completed);
}

#[test]
fn a_router_that_is_back_at_once_loses_no_ringing_call() {
    let Some(_permit) = alone(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    const CALLS: u32 = 60;
    let calls = |ring: u64| {
        agents.place_all(CALLS, 100, |number| {
            plan(
                Duration::from_millis(ring + 20 * u64::from(number)),
                2 * SECOND,
            )
        });
    };
    calls(800);
    system.kill("router-1");
    std::thread::sleep(Duration::from_millis(50));
    system.start("router-1");
    calls(0);
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!("back at once: slowest request {slowest:?}"));
    assert!(slowest <= SECOND / 2, "a request waited {slowest:?}");
    // Also of those whose BYE passed it before it had its memory back.
    wait_until_recorded(&system, 2 * CALLS);
    // An INVITE that it got as it came back, when the SBC had just given it up, is a dialog of its own that ends.
    let records = ROUTERS.map(|router| system.records(router));
    let mut others = records
        .iter()
        .flatten()
        .filter(|line| line["cause"] != "bye");
    assert!(
        others.all(|line| line["cause"] == "cancelled"),
        "{records:?}"
    );
}

/// Waits until so many calls have a record of their BYE: a router writes them a moment after the end, an heir what ended a
/// moment before its router's death once that is missed.
fn wait_until_recorded(system: &System, calls: u32) {
    eventually("every call has a record", || {
        let lines = ROUTERS
            .into_iter()
            .flat_map(|router| system.records(router));
        let hung_up = lines.filter(|line| line["cause"] == "bye");
        let recorded = hung_up.map(|line| line["call_id"].as_str().unwrap().to_owned());
        recorded.collect::<BTreeSet<_>>().len() == calls as usize
    });
}

#[test]
fn every_call_has_a_record_though_its_router_died() {
    const CALLS: u32 = 300;
    let Some(_permit) = alone(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    let mixed = |number: u32| plan(SECOND * (number % 3) / 2, 3 * SECOND);
    std::thread::scope(|scope| {
        scope.spawn(|| agents.place_all(CALLS, 60, mixed));
        std::thread::sleep(3 * SECOND);
        system.kill("router-1");
    });
    agents.assert_all_completed(PATIENCE);
    wait_until_recorded(&system, CALLS);
    let mut ids = BTreeSet::new();
    let mut inherited = 0;
    for router in ROUTERS {
        // A dead process has written what it had.
        let (mut lines, mut own) = (0, BTreeSet::new());
        for line in system.records(router) {
            lines += 1;
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            assert_eq!(text("cause"), "bye", "{line}");
            assert!(line["duration"].as_u64().unwrap() >= 2, "{line}");
            inherited += u32::from(line["epoch"].as_u64().unwrap() > 1);
            own.insert(text("id"));
            ids.insert(text("id"));
        }
        assert_eq!(own.len(), lines, "{router} has written one twice");
    }
    say(&format!("{inherited} calls were recorded by an heir"));
    assert_eq!(ids.len(), CALLS as usize, "a call has two ids");
    assert!(inherited > 0, "nobody inherited anything");
}

#[test]
fn a_call_held_beyond_three_leases_ends_well() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    agents.place_all(40, 100, |_| plan(Duration::ZERO, 10 * SECOND));
    std::thread::sleep(SECOND / 2);
    system.kill("router-1");
    std::thread::sleep(8 * SECOND);
    let request = GetMemberRequest {
        name: "members/router-1".to_owned(),
    };
    let member = system.ask("registry", async |channel| {
        MemberServiceClient::new(channel)
            .get_member(request)
            .await
            .unwrap()
            .into_inner()
    });
    assert_eq!(member.liveness(), Liveness::Gone, "its lease is long over");
    let slowest = agents.assert_all_completed(2 * PATIENCE);
    say(&format!("BYE after 10 s: slowest request {slowest:?}"));
    assert!(slowest <= SECOND / 2, "a request waited {slowest:?}");
}
