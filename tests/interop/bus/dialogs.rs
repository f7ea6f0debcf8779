//! Dialogs made on nodes of both kinds: listed on all, followed by all, and forgotten by all.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use user_agent::CallId;

use super::held::{CONFIRMED, EARLY, ENDED};
use super::{Bus, KAMAILIOS, NODES, SECOND};
use crate::agents::{Agents, plan};
use crate::quiet::{say, shared};
use crate::system::{PATIENCE, ROUTERS};

/// So many that no kind is without, whatever their Call-IDs.
const CALLS: u32 = 40;
const RING: Duration = Duration::from_secs(4);
const HOLD: Duration = Duration::from_secs(6);

/// Kamailio's number for a dialog of which only the INVITE has passed.
const UNCONFIRMED: u64 = 1;

/// How long after a change all must show it, and after the last BYE forget it.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
const GONE_WITHIN: Duration = Duration::from_secs(40);

#[test]
fn every_node_follows_the_dialogs_of_every_node() {
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let bus = Bus::ready(&NODES);
    let agents = Agents::start(&bus.system);
    let start = Instant::now();
    let calls: Vec<_> = (0..CALLS).map(|_| agents.place(plan(RING, HOLD))).collect();

    bus.assert_all_show(&calls, EARLY, start + KNOWN_WITHIN);
    let makers = bus.makers();
    let made = |kind: &[&str]| makers.values().filter(|by| kind.contains(by)).count();
    let (tandem, stock) = (made(&ROUTERS), made(&KAMAILIOS));
    say(&format!("{tandem} made by Tandem, {stock} by Kamailio"));
    assert!(tandem > 0 && stock > 0, "{makers:?}");

    for call in &calls {
        agents.wait_until_answered(call);
    }
    bus.assert_all_show(&calls, CONFIRMED, Instant::now() + KNOWN_WITHIN);
    agents.assert_all_completed(PATIENCE);
    let ended = Instant::now();
    bus.assert_all_show(&calls, ENDED, ended + KNOWN_WITHIN);
    bus.wait_until_no_dialog_is_left(&NODES, GONE_WITHIN - ended.elapsed());
    say(&format!(
        "all gone {:?} after the last BYE",
        ended.elapsed()
    ));
    bus.assert_no_complaints();
}

impl Bus {
    /// Waits until all nodes show all these calls in a state, and no longer than until the deadline.
    /// One that has ended need not be shown.
    fn assert_all_show(&self, calls: &[CallId], state: u64, deadline: Instant) {
        loop {
            let read_at = Instant::now();
            let (mut wrong, mut excused) = (BTreeMap::new(), 0);
            for name in NODES {
                let states = self.dialog_states(name);
                let shown = |call: &&CallId| states.get(call.as_str()).copied();
                let is_wrong =
                    |call: &&CallId| shown(call).map_or(state != ENDED, |shown| shown != state);
                let is_lost = |call: &&CallId| {
                    state == EARLY && self.lost_by_kamailio(name, call, shown(call))
                };
                let calls = calls.iter().filter(is_wrong);
                let (lost, calls): (Vec<_>, Vec<_>) = calls.partition(is_lost);
                excused += lost.len();
                let calls: Vec<_> = calls
                    .into_iter()
                    .map(|call| (call.as_str(), shown(&call)))
                    .collect();
                if !calls.is_empty() {
                    wrong.insert(name, calls);
                }
            }
            if wrong.is_empty() {
                say(&format!(
                    "state {state} on all nodes, but {excused} times a Kamailio lost what another told it"
                ));
                return;
            }
            assert!(read_at < deadline, "not in state {state}: {wrong:#?}");
            thread::sleep(SECOND / 20);
        }
    }

    /// Tells whether a Kamailio has not heard from another that a dialog rings: what one sends of a
    /// dialog at once, the other may execute in the opposite order, and then it refuses the second. What comes
    /// later, the ACK or the end, it takes.
    fn lost_by_kamailio(&self, name: &str, call: &CallId, shown: Option<u64>) -> bool {
        let is_behind = KAMAILIOS.contains(&name) && shown == Some(UNCONFIRMED);
        let maker = || self.makers().get(call.as_str()).copied();
        is_behind && maker().is_some_and(|maker| maker != name && KAMAILIOS.contains(&maker))
    }

    /// Tells who looks after each dialog, as a Tandem router sees it.
    pub(super) fn makers(&self) -> BTreeMap<String, &'static str> {
        let name = |owner: &str| {
            NODES
                .into_iter()
                .find(|name| self.dmq(name).to_string() == owner)
        };
        let dialogs = self.tandem_dialogs("router-1").into_iter();
        let maker = |dialog: control::router::v1::Dialog| {
            let call_id = String::from_utf8(dialog.call_id).unwrap();
            (call_id, name(&dialog.owner).unwrap())
        };
        dialogs.map(maker).collect()
    }
}

#[test]
fn a_node_that_joins_late_has_everything() {
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let first = ["router-1", "kamailio-1"];
    let mut bus = Bus::ready(&first);
    let agents = Agents::start(&bus.system);
    let calls: Vec<_> = (0..CALLS)
        .map(|_| agents.place(plan(Duration::ZERO, 60 * SECOND)))
        .collect();
    bus.fill_tables("router-1", "kamailio-1");
    for call in &calls {
        agents.wait_until_answered(call);
    }
    bus.wait_until_tables_agree(&first, PATIENCE);

    for late in ["router-2", "kamailio-2"] {
        bus.start(late);
        let start = Instant::now();
        bus.system.wait_until_up(&[late]);
        let here: Vec<_> = NODES.into_iter().filter(|name| bus.runs(name)).collect();
        bus.wait_until_agreed(&here, 20 * SECOND);
        bus.wait_until_tables_agree(&here, 20 * SECOND);
        let expected: BTreeSet<_> = calls.iter().map(|call| call.as_str().to_owned()).collect();
        loop {
            let states = bus.dialog_states(late);
            let all: BTreeSet<_> = states.keys().cloned().collect();
            if all == expected && states.values().all(|state| *state == CONFIRMED) {
                break;
            }
            assert!(
                start.elapsed() < 30 * SECOND,
                "{late} has {} of {}: {states:?}",
                all.len(),
                expected.len()
            );
            thread::sleep(SECOND / 20);
        }
        say(&format!(
            "{late} has everything after {:?}",
            start.elapsed()
        ));
    }
    bus.assert_no_complaints();
}
