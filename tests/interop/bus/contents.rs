//! What dialogs are on every node, not only that they are there: tags, Contacts, route sets, variables and
//! profiles, also after both ends have moved, and on a node that joins late.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use control::router::v1::{Dialog, Leg as TandemLeg};
use serde_json::Value;

use super::held::CONFIRMED;
use super::moving::{Call, Hands};
use super::{Bus, KAMAILIOS, NODES, SECOND, is_stock};
use crate::kamailio::TENANT;
use crate::quiet::{say, shared};
use crate::system::ROUTERS;

/// Dialogs made by each kind before and after the last node joins, at least.
const OF_EACH_KIND: usize = 2;

/// So many calls and no more are placed for that.
const CALLS_MAX: u32 = 30;

const KNOWN_WITHIN: Duration = Duration::from_secs(2);
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(30);
const GONE_WITHIN: Duration = Duration::from_secs(40);

/// The two lines that a Kamailio 5.6.3 writes on a second STATE(4), of which the second names the dialog.
const TWICE: [&str; 2] = [
    "Trying to insert a bogus dlg",
    "Unable to insert dlg timer ",
];

/// One side of a dialog. Its CSeq is left out: a Kamailio tells nobody of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leg {
    tag: String,
    contact: String,
    route_set: String,
}

/// What a dialog is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    /// Slot and number.
    did: (u32, u32),
    state: u64,
    from_uri: String,
    to_uri: String,
    /// Of caller and callee.
    legs: [Leg; 2],
    variables: BTreeMap<String, String>,
    profiles: BTreeMap<String, String>,
}

/// A call, by whom its dialog was made, and who had joined when its ends moved, if they did.
struct Made {
    call: Call,
    by: &'static str,
    did: (u32, u32),
    moved_before: Vec<&'static str>,
}

#[test]
fn every_node_knows_what_dialogs_are_and_a_kamailio_that_joins_late() {
    compare_dialogs("kamailio-2");
}

#[test]
fn every_node_knows_what_dialogs_are_and_a_tandem_that_joins_late() {
    compare_dialogs("router-2");
}

fn compare_dialogs(late: &'static str) {
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let first: Vec<_> = NODES.into_iter().filter(|name| *name != late).collect();
    let mut bus = Bus::ready(&first);
    let hands = Hands::of(&bus);
    let mut all = bus.make_dialogs(&hands, 0);
    bus.assert_contents(&all, &first, KNOWN_WITHIN);
    bus.move_ends(&hands, &mut all, &first);

    bus.start(late);
    bus.system.wait_until_up(&[late]);
    bus.wait_until_agreed(&NODES, 20 * SECOND);
    bus.assert_contents(&all, &NODES, CAUGHT_UP_WITHIN);

    let mut more = bus.make_dialogs(&hands, CALLS_MAX);
    bus.assert_contents(&more, &NODES, KNOWN_WITHIN);
    bus.move_ends(&hands, &mut more, &NODES);
    all.append(&mut more);
    bus.assert_contents(&all, &NODES, KNOWN_WITHIN);
    bus.say_what_tandem_missed(&all);

    for made in &mut all {
        hands.hang_up(&mut made.call);
    }
    bus.wait_until_no_dialog_is_left(&NODES, GONE_WITHIN);
    bus.assert_only_complaints_are_of_moves(&all);
}

impl Bus {
    /// Makes calls until each kind has made dialogs; their numbers begin here.
    fn make_dialogs(&self, hands: &Hands, from: u32) -> Vec<Made> {
        let mut all: Vec<Made> = Vec::new();
        let made_by = |all: &[Made], stock: bool| {
            let by_kind = all.iter().filter(|made| is_stock(made.by) == stock);
            by_kind.count()
        };
        for number in from..from + CALLS_MAX {
            let call = hands.call(number);
            let dialogs = self.tandem_dialogs("router-1").into_iter();
            let mut dialogs = dialogs.filter(|dialog| dialog.call_id == call.id.as_bytes());
            let dialog = dialogs.next().unwrap();
            all.push(Made {
                by: self.makers()[&call.id],
                did: (dialog.h_entry, dialog.h_id),
                moved_before: Vec::new(),
                call,
            });
            let (tandem, stock) = (made_by(&all, false), made_by(&all, true));
            if tandem >= OF_EACH_KIND && stock >= OF_EACH_KIND {
                say(&format!("{tandem} made by Tandem, {stock} by Kamailio"));
                return all;
            }
        }
        panic!("{CALLS_MAX} calls were not enough");
    }

    /// Has the ends of these calls move, before these nodes, and waits until all know what they should.
    fn move_ends(&self, hands: &Hands, all: &mut [Made], before: &[&'static str]) {
        for made in &mut *all {
            hands.move_ends(&mut made.call);
            made.moved_before = before.to_vec();
        }
        self.assert_contents(all, before, KNOWN_WITHIN);
    }

    /// Waits until each of these nodes knows what each of these dialogs is.
    fn assert_contents(&self, all: &[Made], nodes: &[&'static str], patience: Duration) {
        let start = Instant::now();
        loop {
            let mut wrong = Vec::new();
            for made in all {
                for node in nodes {
                    let shown = self.contents(node, &made.call);
                    let expected = expected(made, node, nodes.len() == NODES.len());
                    if !shown.as_ref().is_some_and(|shown| expected.contains(shown)) {
                        wrong.push((*node, made.by, shown, expected));
                    }
                }
            }
            if wrong.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < patience,
                "after {patience:?} wrong: (node, made by, shown, allowed) {wrong:#?}"
            );
            thread::sleep(SECOND / 20);
        }
    }

    /// Says how many of the Contacts that no Kamailio told of at once each Tandem knows.
    fn say_what_tandem_missed(&self, all: &[Made]) {
        let moved: Vec<_> = all.iter().filter(|made| is_stock(made.by)).collect();
        for router in ROUTERS {
            let is_known = |made: &&&Made| {
                let shown = self.contents(router, &made.call);
                shown.is_some_and(|shown| shown.legs[0].contact == made.call.contacts[0])
            };
            let known = moved.iter().filter(is_known).count();
            say(&format!(
                "{router} knows where {known} of {} callers of Kamailio moved to",
                moved.len()
            ));
        }
    }

    /// Returns what a node says of the dialog of a call.
    fn contents(&self, node: &str, call: &Call) -> Option<Contents> {
        if is_stock(node) {
            return self.kamailio(node).dialog(&call.id).map(of_kamailio);
        }
        let mut dialogs = self.tandem_dialogs(node).into_iter();
        dialogs
            .find(|dialog| dialog.call_id == call.id.as_bytes())
            .map(of_tandem)
    }

    /// Asserts that each Kamailio complained once of each dialog of a Tandem whose ends moved before it, and that
    /// nobody complained of anything else.
    fn assert_only_complaints_are_of_moves(&self, all: &[Made]) {
        let mut rest = self.complaints();
        for name in KAMAILIOS {
            let of_tandem = all.iter().filter(|made| !is_stock(made.by));
            let moved: Vec<_> = of_tandem
                .filter(|made| made.moved_before.contains(&name))
                .collect();
            let log = self.kamailio(name).log_lines();
            let lines = TWICE.map(|words| {
                let lines = log.iter().filter(|line| line.contains(words));
                lines.collect::<Vec<_>>()
            });
            for made in &moved {
                let (entry, number) = made.did;
                let ending = format!(" [{entry}:{number}]");
                let of_it = lines[1].iter().filter(|line| line.ends_with(&ending));
                assert_eq!(of_it.count(), 1, "{name}, {ending}: {lines:#?}");
            }
            assert_eq!(
                lines.each_ref().map(Vec::len),
                [moved.len(); 2],
                "{name}: {lines:#?}"
            );
            say(&format!(
                "{name} complained twice of each of {} moves",
                moved.len()
            ));
            rest.retain(|line| !lines[1].contains(&line));
        }
        assert!(rest.is_empty(), "Kamailio complained:\n{}", rest.join("\n"));
    }
}

/// Returns what a node may say of a dialog; `is_complete` tells that the last node has joined.
fn expected(made: &Made, node: &'static str, is_complete: bool) -> Vec<Contents> {
    let call = &made.call;
    let tenant = || is_stock(made.by).then(|| (TENANT.to_owned(), call.tenant.clone()));
    let of = |[caller, callee]: [&String; 2]| {
        let leg = |side: usize, contact: &String, route: Option<&String>| Leg {
            tag: call.tags()[side].clone(),
            contact: contact.clone(),
            route_set: route.unwrap().clone(),
        };
        Contents {
            did: made.did,
            state: CONFIRMED,
            from_uri: call.from_uri.clone(),
            to_uri: call.to_uri.clone(),
            // The SBC stands on both sides of the router.
            legs: [
                leg(0, caller, call.routes.first()),
                leg(1, callee, call.routes.last()),
            ],
            variables: tenant().into_iter().collect(),
            profiles: tenant().into_iter().collect(),
        }
    };
    let ([caller, callee], [caller_before, callee_before]) = (&call.contacts, &call.before);
    let (now, before) = ([caller, callee], [caller_before, callee_before]);
    if made.moved_before.is_empty() || !is_stock(made.by) {
        return vec![of(now)];
    }
    // A Kamailio takes note of where the caller is, not of where the callee is, and says so when somebody asks it
    // for everything. Other Kamailios that know of the dialog do not listen.
    let half = [caller, callee_before];
    let was_there = made.moved_before.contains(&node);
    let was_asked = is_complete && made.moved_before.len() < NODES.len();
    match (node == made.by, was_there, is_stock(node)) {
        (true, ..) | (_, false, true) => vec![of(half)],
        (_, true, true) => vec![of(before)],
        (.., false) if was_asked => vec![of(half)],
        (.., false) => vec![of(before), of(half)],
    }
}

fn of_tandem(dialog: Dialog) -> Contents {
    let state = i32::from(dialog.state()).unsigned_abs().into();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let leg = |leg: Option<TandemLeg>| {
        let leg = leg.unwrap();
        Leg {
            tag: text(leg.tag),
            contact: text(leg.contact),
            route_set: text(leg.route_set),
        }
    };
    let variables = dialog.variables.into_iter();
    let profiles = dialog.profiles.into_iter();
    Contents {
        did: (dialog.h_entry, dialog.h_id),
        state,
        from_uri: text(dialog.from_uri),
        to_uri: text(dialog.to_uri),
        legs: [leg(dialog.caller), leg(dialog.callee)],
        variables: variables
            .map(|variable| (text(variable.name), text(variable.value)))
            .collect(),
        profiles: profiles
            .map(|profile| (text(profile.name), text(profile.value.unwrap())))
            .collect(),
    }
}

fn of_kamailio(dialog: Value) -> Contents {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // It shows them as numbers with a sign.
    let number = |name: &str| dialog[name].as_i64().unwrap() as u32;
    let leg = |side: &str| Leg {
        tag: text(&dialog[side]["tag"]),
        contact: text(&dialog[side]["contact"]),
        route_set: text(&dialog[side]["route_set"]),
    };
    let pairs = |name: &str| {
        let pairs = dialog[name].as_array().unwrap().iter();
        let pairs = pairs.flat_map(|pair| pair.as_object().unwrap());
        pairs
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    };
    Contents {
        did: (number("h_entry"), number("h_id")),
        state: dialog["state"].as_u64().unwrap(),
        from_uri: text(&dialog["from_uri"]),
        to_uri: text(&dialog["to_uri"]),
        legs: [leg("caller"), leg("callee")],
        variables: pairs("variables"),
        profiles: pairs("profiles"),
    }
}
