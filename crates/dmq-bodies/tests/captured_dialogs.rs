//! Every captured body of channel `dialog` means what its capture says, and means the same when it
//! is written again.

use bytes::Bytes;
use dmq_bodies::{
    Change, DialogDialect, DialogMessage, DialogState, Did, Leg, Profile, Remove, StateChange,
    Timing, Update,
};

mod captures;

const BOTH: DialogDialect = DialogDialect {
    last_modified: true,
};

fn did(h_entry: u32, h_id: u32) -> Did {
    Did { h_entry, h_id }
}

fn alice(tag: &'static str) -> Leg {
    Leg {
        tag: tag.into(),
        cseq: "1".into(),
        route_set: Bytes::new(),
        contact: "sip:alice@127.0.1.50:5060".into(),
    }
}

fn bob(tag: &'static str) -> Leg {
    Leg {
        tag: tag.into(),
        cseq: "0".into(),
        route_set: Bytes::new(),
        contact: "sip:bob@127.0.1.51:5060".into(),
    }
}

fn variables(names: &[&'static str]) -> Vec<(Bytes, Bytes)> {
    let value = |name: &str| match name {
        "q" => r#"a"b\c"#,
        "who" => "caller-alice",
        "ring" => "yes",
        other => panic!("{other}"),
    };
    let variable = |&name: &&'static str| (name.into(), value(name).into());
    names.iter().map(variable).collect()
}

fn profiles(caller: &'static str, inbound: &'static str) -> Vec<Profile> {
    let profile = |name: &'static str, value, puid: &'static str| Profile {
        name: name.into(),
        value,
        puid: puid.into(),
        expires: None,
        flags: 0,
    };
    vec![
        profile("caller", Some("alice".into()), caller),
        profile("inbound", None, inbound),
    ]
}

fn timing(start_ts: u64, lifetime: u32) -> Timing {
    Timing {
        start_ts: Some(start_ts).filter(|&at| at > 0),
        lifetime: Some(lifetime),
    }
}

/// A call of the lab that has just begun.
fn created(did: Did, init_ts: u64, call_id: &'static str, tag: &'static str) -> Update {
    Update {
        did,
        last_modified: None,
        init_ts,
        iflags: None,
        call_id: call_id.into(),
        from_uri: "sip:alice@lab.example".into(),
        to_uri: "sip:bob@lab.example".into(),
        request_uri: "sip:bob@127.0.1.51:5060".into(),
        caller: alice(tag),
        callee: None,
        variables: variables(&["q", "who"]),
        profiles: Vec::new(),
        state: DialogState::Unconfirmed,
        timing: Timing::default(),
    }
}

/// A call of the lab that is answered, as a sync tells it.
fn held(did: Did, at: u64, call_id: &'static str, tags: [&'static str; 2]) -> Update {
    Update {
        state: DialogState::Confirmed,
        callee: Some(bob(tags[1])),
        timing: timing(at, 600),
        variables: variables(&["ring", "q", "who"]),
        ..created(did, at, call_id, tags[0])
    }
}

fn state(did: Did, last_modified: Option<u64>, change: Change) -> DialogMessage {
    DialogMessage::State(Box::new(StateChange {
        did,
        last_modified,
        change,
    }))
}

fn early(did: Did, last_modified: Option<u64>, lifetime: u32, tag: &'static str) -> DialogMessage {
    let change = Change::Early {
        timing: timing(0, lifetime),
        caller: Some(alice(tag)),
    };
    state(did, last_modified, change)
}

fn confirmed(
    did: Did,
    last_modified: Option<u64>,
    start_ts: u64,
    tags: [&'static str; 2],
) -> DialogMessage {
    let change = Change::Confirmed {
        timing: timing(start_ts, 3600),
        caller: Some(alice(tags[0])),
        callee: Some(bob(tags[1])),
    };
    state(did, last_modified, change)
}

fn deleted(did: Did, last_modified: Option<u64>) -> DialogMessage {
    state(did, last_modified, Change::Deleted)
}

fn removed(did: Did, last_modified: Option<u64>) -> DialogMessage {
    DialogMessage::Remove(Remove { did, last_modified })
}

fn update(update: Update) -> DialogMessage {
    DialogMessage::Update(Box::new(update))
}

fn expected(name: &str) -> DialogMessage {
    let full = "full-call@5.6.3.lab";
    match name {
        "40-dlg-create" => update(Update {
            profiles: profiles("dlgp-6b03f6d6-65aa-2", "dlgp-6b03f6d6-65aa-1"),
            ..created(did(3766, 5109), 1795421910, full, "a443710")
        }),
        "41-dlg-early" => early(did(3766, 5109), None, 3600, "a443710"),
        "42-dlg-confirmed" => confirmed(did(3766, 5109), None, 1795421910, ["a443710", "b694570"]),
        "43-dlg-deleted" => deleted(did(3766, 5109), None),
        "44-dlg-remove" => removed(did(3766, 5109), None),
        "45-dlg-create-busy" => {
            let call_id = "busy-call@5.6.3.lab";
            update(created(did(1527, 3574), 1795421911, call_id, "a480891"))
        }
        "46-dlg-deleted-busy" => deleted(did(1527, 3574), None),
        "47-dlg-sync-request" => DialogMessage::Sync,
        "48-dlg-sync-update-early" => update(Update {
            state: DialogState::Early,
            timing: timing(0, 600),
            variables: variables(&["who", "q"]),
            ..created(
                did(1737, 12245),
                1795421917,
                "held-early@5.6.3.lab",
                "a207840",
            )
        }),
        "49-dlg-sync-update-confirmed" => update(Update {
            profiles: profiles("dlgp-6b03f6dd-65ab-2", "dlgp-6b03f6dd-65ab-1"),
            ..held(
                did(3155, 7945),
                1795421917,
                "held-confirmed@5.6.3.lab",
                ["a820781", "b423494"],
            )
        }),
        "50-dlg-sync-update-confirmed-na" => update(Update {
            state: DialogState::ConfirmedNoAck,
            variables: variables(&["ring", "q", "who"]),
            ..created(
                did(1427, 8869),
                1795421917,
                "held-noack@5.6.3.lab",
                "a37416",
            )
        }),
        "51-dlg-sync-update-deleted" => update(Update {
            state: DialogState::Deleted,
            variables: variables(&["who", "q"]),
            ..created(
                did(2572, 11977),
                1795421918,
                "just-ended@5.6.3.lab",
                "a22507",
            )
        }),
        "52-dlg-confirmed-routeset" => {
            let caller = Leg {
                route_set: "<sip:127.0.1.30;lr;ftag=a494281>".into(),
                ..alice("a494281")
            };
            let change = Change::Confirmed {
                timing: timing(1795422039, 600),
                caller: Some(caller),
                callee: Some(bob("b364288")),
            };
            state(did(2009, 10592), None, change)
        }
        "53-dlg-expired-remove" => removed(did(542, 1193), None),
        "54-dlg-hash-mismatch" => {
            let call_id = "hash-mismatch-xyz@lab";
            update(created(did(1711, 5122), 1795421125, call_id, "a91560"))
        }
        "55-dlg-nonutf8-callid" => update(Update {
            call_id: Bytes::from_static(b"\xe9\xe8tel@lab"),
            ..created(did(28, 82), 1795421131, "", "a503078")
        }),
        "56-dlg-create-5.3.9" => update(Update {
            profiles: profiles("dlgp-6b03f721-681e-2", "dlgp-6b03f721-681e-1"),
            ..created(
                did(1664, 10548),
                1795421985,
                "full-call@5.3.9.lab",
                "a576124",
            )
        }),
        "57-dlg-early-5.3.9" => early(did(1664, 10548), None, 3600, "a576124"),
        "58-dlg-confirmed-5.3.9" => {
            confirmed(did(1664, 10548), None, 1795421985, ["a576124", "b26289"])
        }
        "59-dlg-deleted-5.3.9" => deleted(did(1664, 10548), None),
        "60-dlg-remove-5.3.9" => removed(did(1664, 10548), None),
        "61-dlg-sync-update-confirmed-5.3.9" => update(Update {
            profiles: profiles("dlgp-6b03f728-681f-2", "dlgp-6b03f728-681f-1"),
            ..held(
                did(3339, 332),
                1795421992,
                "held-confirmed@5.3.9.lab",
                ["a809977", "b512023"],
            )
        }),
        "62-dlg-create-6.1.4" => update(Update {
            profiles: profiles("dlgp-6b03f6ef-66c9-2", "dlgp-6b03f6ef-66c9-1"),
            timing: timing(0, 3600),
            ..created(
                did(3714, 4764),
                1795421935,
                "full-call@6.1.4.lab",
                "a499774",
            )
        }),
        "63-dlg-early-6.1.4" => early(did(3714, 4764), None, 3600, "a499774"),
        "64-dlg-confirmed-6.1.4" => {
            confirmed(did(3714, 4764), None, 1795421935, ["a499774", "b942178"])
        }
        "65-dlg-deleted-6.1.4" => deleted(did(3714, 4764), None),
        "66-dlg-remove-6.1.4" => removed(did(3714, 4764), None),
        "67-dlg-sync-update-confirmed-6.1.4" => update(Update {
            profiles: profiles("dlgp-6b03f6ef-66c9-4", "dlgp-6b03f6ef-66c9-3"),
            ..held(
                did(3394, 5145),
                1795421942,
                "held-confirmed@6.1.4.lab",
                ["a327547", "b936364"],
            )
        }),
        "68-dlg-create-6.2.0" => update(Update {
            last_modified: Some(1795421960),
            profiles: profiles("dlgp-6b03f708-6770-2", "dlgp-6b03f708-6770-1"),
            timing: timing(0, 3600),
            ..created(
                did(2773, 1675),
                1795421960,
                "full-call@master.lab",
                "a439394",
            )
        }),
        "69-dlg-early-6.2.0" => early(did(2773, 1675), Some(1795421960), 3600, "a439394"),
        "70-dlg-confirmed-6.2.0" => confirmed(
            did(2773, 1675),
            Some(1795421960),
            1795421960,
            ["a439394", "b945352"],
        ),
        "71-dlg-deleted-6.2.0" => deleted(did(2773, 1675), Some(1795421961)),
        "72-dlg-remove-6.2.0" => removed(did(2773, 1675), Some(1795421961)),
        "73-dlg-sync-update-confirmed-6.2.0" => update(Update {
            last_modified: Some(1795421967),
            profiles: profiles("dlgp-6b03f708-6770-4", "dlgp-6b03f708-6770-3"),
            ..held(
                did(2064, 1549),
                1795421967,
                "held-confirmed@master.lab",
                ["a498773", "b282034"],
            )
        }),
        "74-dlg-create-iflags" => update(Update {
            last_modified: Some(1795421655),
            iflags: Some(66),
            timing: timing(0, 600),
            ..created(
                did(1711, 1566),
                1795421655,
                "hash-mismatch-xyz@lab",
                "a991538",
            )
        }),
        "75-dlg-state-before-create" => early(did(3476, 2218), None, 600, "a811532"),
        "80-dlg-state-unknown-dialog" => {
            let change = Change::Confirmed {
                timing: timing(1, 100),
                caller: None,
                callee: None,
            };
            state(did(1, 99), None, change)
        }
        "88-dlg-deleted-by-router2" => deleted(did(2009, 10592), None),
        other => panic!("{other} is not expected"),
    }
}

#[test]
fn every_capture_is_understood() {
    let bodies = captures::bodies("dialog");
    assert_eq!(bodies.len(), 38);
    for (name, body) in bodies {
        assert_eq!(DialogMessage::decode(&body), Ok(expected(&name)), "{name}");
    }
}

#[test]
fn every_capture_means_the_same_when_written_again() {
    for (name, body) in captures::bodies("dialog") {
        let message = DialogMessage::decode(&body).expect("a message");
        let written = message.encode(BOTH).expect("a body");
        assert_eq!(DialogMessage::decode(&written), Ok(message), "{name}");
    }
}

/// What newer versions write has our shape to the byte, save for times that they leave out of an
/// UPDATE.
#[test]
fn what_6_2_says_is_written_again_byte_for_byte() {
    let same = [
        "69-dlg-early-6.2.0",
        "70-dlg-confirmed-6.2.0",
        "71-dlg-deleted-6.2.0",
        "72-dlg-remove-6.2.0",
        "73-dlg-sync-update-confirmed-6.2.0",
        "47-dlg-sync-request",
        "64-dlg-confirmed-6.1.4",
        "67-dlg-sync-update-confirmed-6.1.4",
    ];
    let mut bodies = captures::bodies("dialog");
    bodies.retain(|(name, _)| same.contains(&name.as_str()));
    assert_eq!(bodies.len(), same.len());
    for (name, body) in bodies {
        let written = expected(&name).encode(BOTH).expect("a body");
        assert_eq!(written, body, "{name}");
    }
}

#[test]
fn last_modified_can_be_left_out() {
    let dialect = DialogDialect {
        last_modified: false,
    };
    let written = expected("71-dlg-deleted-6.2.0").encode(dialect);
    let body = r#"{"action":2,"h_entry":2773,"h_id":1675,"state":5}"#;
    assert_eq!(written, Ok(body.into()));
}
