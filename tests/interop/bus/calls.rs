//! Calls over routers of both kinds, one of each kind killed under them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::sbc::v1::{DestinationHealth, TapDirection, TapMessage, TapRequest};
use user_agent::CallPlan;

use super::complaints::ENDED_UNANSWERED;
use super::held::CONFIRMED;
use super::{Bus, KAMAILIOS, NODES, SECOND, is_stock};
use crate::agents::{Agents, plan};
use crate::quiet::{alone, say, shared};
use crate::system::{PATIENCE, Places, ROUTERS, System, eventually};
use crate::tap::tap;

/// How many calls are placed, and how many of them a second.
const CALLS: u32 = 500;
const RATE: u32 = 40;

/// Who is killed how long after the first call: calls are answered and end all the time by then.
const KILLS: [(Duration, &str); 2] = [
    (Duration::from_secs(6), "kamailio-1"),
    (Duration::from_secs(11), "router-1"),
];

/// How long it stays dead. A Tandem may be back at once; that a Kamailio was gone cannot be seen
/// afterwards, so what it had in hand is lost with it unless its death was.
const DEAD_FOR: Duration = Duration::from_secs(2);

/// How long before its death a Kamailio may not have told the others of a BYE that it had sent on.
const JUST_BEFORE: Duration = Duration::from_millis(100);

/// What a Kamailio that is back says of a BYE whose dialog it was not told of yet.
const UNKNOWN: &str = "unable to find dialog for BYE ";

/// How long after the last BYE a node may list a dialog.
const GONE_AFTER: Duration = Duration::from_secs(40);

#[test]
fn no_call_is_lost_when_one_router_of_each_kind_is_killed() {
    let Some(_permit) = alone(&["kamailio"]) else {
        return;
    };
    let mut bus = Bus::ready(&NODES);
    let agents = Agents::start(&bus.system);
    let places = bus.system.places.clone();
    let done = AtomicBool::new(false);
    let (seen, killed) = thread::scope(|scope| {
        let seen = scope.spawn(|| set_ups(&places, &done));
        // A tap shows what comes after it has begun.
        thread::sleep(SECOND / 2);
        let start = Instant::now();
        let placed = scope.spawn(|| agents.place_all(CALLS, RATE, mixed));
        let killed = KILLS.map(|(after, name)| {
            thread::sleep(after.saturating_sub(start.elapsed()));
            bus.kill(name);
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            thread::sleep(DEAD_FOR);
            bus.start(name);
            (name, at.as_nanos() as u64)
        });
        placed.join().unwrap();
        agents.wait_until_all_ended(2 * PATIENCE);
        // It looks up at the next message.
        done.store(true, Ordering::Relaxed);
        agents.place(plan(Duration::ZERO, Duration::ZERO));
        (seen.join().unwrap(), killed)
    });
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!("slowest request {slowest:?}"));
    // Whatever is told of an end is told before its message goes on, but not by a Kamailio.
    let dead = killed.iter().filter(|(name, _)| is_stock(name));
    let ended_there = dead.flat_map(|(name, at)| {
        let unknown = ends_of(UNKNOWN, bus.kamailio(name).log_lines());
        last_ends(&places, &seen, name, *at).chain(unknown)
    });
    let logs = KAMAILIOS.map(|name| bus.kamailio(name).log_lines());
    let taken = logs.map(|log| ends_of(ENDED_UNANSWERED, log));
    let untold: BTreeSet<String> = ended_there.chain(taken.into_iter().flatten()).collect();
    let ended = bus.wait_until_none_is_left_but(&untold, &NODES, GONE_AFTER);
    let stay = NODES.map(|name| bus.dialog_states(name).len());
    say(&format!(
        "no node lists a dialog {ended:?} later, {} left out that ended in a Kamailio as it died or came back: {stay:?} stay",
        untold.len()
    ));
    // Were it more, more would be left out than calls can have ended in that time anywhere.
    let most = 2 * JUST_BEFORE.as_millis() as usize * RATE as usize / 1000;
    assert!(untold.len() <= most, "{most} at most: {untold:?}");
    for (name, at) in killed {
        let ringing = heirs_of_ringing(&places, &seen, name, at);
        assert!(!ringing.is_empty(), "nothing rang when {name} was killed");
        let to = |kind: &[&str]| ringing.values().filter(|heir| kind.contains(heir)).count();
        let (all, tandem) = (ringing.len(), to(&ROUTERS));
        say(&format!(
            "{all} rang at {name}, the ACKs of {tandem} went over a Tandem heir"
        ));
        assert_eq!(tandem, all, "{ringing:?}");
    }
    // What is not heard excuses Kamailios' lines.
    let heard = bus.mirrors.told_by_us();
    say(&format!(
        "{heard} times a Tandem told that a dialog is confirmed"
    ));
    assert!(heard >= CALLS as usize / 10, "the mirrors miss something");
    bus.assert_no_complaints();
}

/// An SBC sends on to another router what a dead one had not passed on, and that makes a dialog of its own. (A
/// Kamailio takes it for the dead one's.)
#[test]
fn what_a_dead_kamailio_had_begun_is_over_once_a_tandem_has_set_the_call_up() {
    begun_at_a_dead_kamailio(false);
}

/// Nobody on the bus misses a Kamailio that is started again as soon as the SBC has sent its calls elsewhere.
#[test]
fn what_a_restarted_kamailio_had_begun_is_over_once_a_tandem_has_set_the_call_up() {
    begun_at_a_dead_kamailio(true);
}

fn begun_at_a_dead_kamailio(is_back: bool) {
    const CALLS: u32 = 16;
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let dead = "kamailio-1";
    let mut bus = Bus::ready(&["router-1", "router-2", dead]);
    let agents = Agents::start(&bus.system);
    let stays = bus.system.places.of(dead).ip.to_string();
    for _ in 0..CALLS {
        let mut plan = plan(Duration::ZERO, 3 * SECOND);
        plan.called.clone_from(&stays);
        agents.place(plan);
    }
    let by = bus.dmq(dead).to_string();
    let mut begun = 0;
    eventually("some calls are at the Kamailio", || {
        let all = bus.tandem_dialogs("router-1");
        begun = all.iter().filter(|dialog| dialog.owner == by).count();
        begun > 0
    });
    bus.kill(dead);
    let mut nodes = ROUTERS.to_vec();
    if is_back {
        // Those that the SBC sent to it again would go on as the same dialogs.
        eventually("the SBC misses it", || {
            bus.system.health(dead) == DestinationHealth::Inactive
        });
        bus.start(dead);
        nodes.push(dead);
    }
    let slowest = agents.assert_all_completed(PATIENCE);
    let ended = bus.wait_until_no_dialog_is_left(&nodes, GONE_AFTER);
    say(&format!(
        "{begun} calls were at {dead} when it was killed; slowest request {slowest:?}, none is listed {ended:?} after their ends"
    ));
}

#[test]
fn a_kamailio_heir_finds_the_dialog_in_every_match_mode() {
    const CALLS: u32 = 40;
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let nodes = ["router-1", "kamailio-1"];
    for match_mode in 0..=2 {
        let mut bus = Bus::ready_with(&nodes, match_mode);
        let agents = Agents::start(&bus.system);
        let held = |number: u32| {
            let mut plan = plan(Duration::ZERO, 6 * SECOND);
            if number % 2 == 1 {
                let callee = plan.callee.as_mut().unwrap();
                callee.hang_up_after = Some(6 * SECOND);
            }
            plan
        };
        agents.place_all(CALLS, 40, held);
        thread::sleep(2 * SECOND);
        let listed = bus.dialog_states("kamailio-1");
        let confirmed = listed.values().filter(|state| **state == CONFIRMED);
        assert_eq!(confirmed.count(), CALLS as usize, "{listed:?}");
        let makers = bus.makers();
        let inherited = makers.values().filter(|by| **by == "router-1").count();
        assert!(inherited > 0, "{makers:?}");
        bus.kill("router-1");
        agents.assert_all_completed(PATIENCE);
        // One whose BYE it did not find the dialog for it would list for hours.
        let ended = bus.wait_until_no_dialog_is_left(&nodes[1..], GONE_AFTER);
        say(&format!(
            "dlg_match_mode {match_mode}: {inherited} dialogs of router-1, none is left {ended:?} after their ends"
        ));
        bus.assert_no_complaints();
    }
}

/// Rings for up to two seconds; either side hangs up.
fn mixed(number: u32) -> CallPlan {
    let mut plan = plan(SECOND * (number % 5) / 2, 4 * SECOND);
    if number % 2 == 1 {
        let callee = plan.callee.as_mut().unwrap();
        callee.hang_up_after = Some(3 * SECOND);
    }
    plan
}

/// Reads from the SBC's tap how calls are set up, until all is done.
fn set_ups(places: &Places, done: &AtomicBool) -> Vec<TapMessage> {
    let methods = ["INVITE", "ACK", "BYE"].map(str::to_owned).to_vec();
    let request = TapRequest {
        methods,
        ..TapRequest::default()
    };
    // Knows where the nodes are, and runs none.
    let system = System::at(places.clone());
    tap(&system, request, |_| done.load(Ordering::Relaxed))
}

/// Returns the calls whose BYE a router sent on just before it was killed: nobody else need have heard.
fn last_ends(
    places: &Places,
    seen: &[TapMessage],
    dead: &str,
    killed: u64,
) -> impl Iterator<Item = String> {
    let from = places.sip(dead).to_string();
    let since = killed - JUST_BEFORE.as_nanos() as u64;
    let came = seen.iter().filter(move |message| {
        message.direction() == TapDirection::In
            && message.remote_address == from
            && (since..killed + JUST_BEFORE.as_nanos() as u64).contains(&message.at_nanos)
            && message.raw.starts_with(b"BYE ")
    });
    came.map(|message| String::from_utf8(message.call_id.clone()).unwrap())
}

/// Returns the calls whose BYE a Kamailio sent on without knowing them, as its log says with these words: of that it
/// tells nobody.
fn ends_of(words: &str, log: Vec<String>) -> impl Iterator<Item = String> {
    let lines = log.into_iter();
    lines.filter_map(move |line| {
        let (_, about) = line.split_once(words)?;
        let named = about.split_once("call-id '");
        let (_, call_id) = named.or_else(|| about.split_once("clid '"))?;
        Some(call_id.split('\'').next()?.to_owned())
    })
}

/// Returns, for each call that rang at a router when it was killed, over whom its first ACK went that did
/// not go to the dead: until the SBC knows, one may, and is sent again with the 2xx.
fn heirs_of_ringing<'a>(
    places: &Places,
    seen: &'a [TapMessage],
    dead: &str,
    killed: u64,
) -> BTreeMap<&'a [u8], &'static str> {
    let out = |message: &&TapMessage| message.direction() == TapDirection::Out;
    let to =
        |message: &TapMessage, name: &str| message.remote_address == places.sip(name).to_string();
    let (mut ringing, mut heard) = (BTreeSet::new(), BTreeSet::new());
    for message in seen.iter().filter(out) {
        let is_before = message.at_nanos < killed;
        if message.raw.starts_with(b"SIP/2.0 18") && to(message, "carrier") {
            heard.insert(&*message.call_id);
        }
        let is_invite = message.raw.starts_with(b"INVITE ");
        let is_2xx = message.raw.starts_with(b"SIP/2.0 2");
        if is_invite && is_before && to(message, dead) {
            ringing.insert(&*message.call_id);
        } else if is_invite && !to(message, "ipbx") && !heard.contains(&*message.call_id) {
            // Nobody had heard it ring yet: it began anew at another router.
            ringing.remove(&*message.call_id);
        } else if is_2xx && is_before && to(message, "carrier") {
            ringing.remove(&*message.call_id);
        }
    }
    let mut heirs = BTreeMap::new();
    let acks = seen.iter().filter(out);
    let acks = acks.filter(|message| message.raw.starts_with(b"ACK "));
    for message in acks.filter(|message| ringing.contains(&*message.call_id)) {
        if let Some(name) = NODES.into_iter().find(|name| to(message, name)) {
            let heir = heirs.entry(&*message.call_id).or_insert(name);
            if *heir == dead {
                *heir = name;
            }
        }
    }
    heirs
}

#[test]
fn calls_whose_bye_a_kamailio_did_not_know_are_read_from_its_log() {
    let known = "INFO: dialog: a call";
    let unknown = " 2(32669) WARNING: dialog [dlg_handlers.c:1323]: dlg_onroute(): unable to find dialog for BYE \
                   with route param '0bd.5cf2' [3504:12229] and call-id 'a1@127.0.0.1'";
    let unanswered = " 1(18362) CRITICAL: dialog [dlg_hash.c:1245]: next_state_dlg(): bogus event 7 in state 1 for dlg 0x7f4 \
                      [1860:215] with clid 'b2@127.0.0.1' and tags 'b0f4d125cc0d694a' ''";
    let log = [known, unknown, unanswered].map(str::to_owned).to_vec();
    let calls = |words| ends_of(words, log.clone()).collect::<Vec<_>>();
    assert_eq!(calls(UNKNOWN), ["a1@127.0.0.1"]);
    assert_eq!(calls(ENDED_UNANSWERED), ["b2@127.0.0.1"]);
}
