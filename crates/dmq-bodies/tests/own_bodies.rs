//! What Tandem writes: the very bytes, and the rules that keep a Kamailio from harm, checked by a
//! reader that is not ours.

use std::fs;

use bytes::Bytes;
use dmq_bodies::{
    BODY_BYTES_MAX, Batches, Cell, Change, DialogDialect, DialogMessage, DialogState, Did,
    EncodeError, Leg, Numbering, PatternKind, Profile, Remove, StateChange, TableDialect,
    TableMessage, Timing, Update, batches,
};
use htable::{By, KEY_BYTES_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX, Value};
use proptest::prelude::*;
use serde_json::Value as Json;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/bodies.txt");

const NEW: TableDialect = TableDialect {
    numbering: Numbering::New,
    last_modified: false,
};

const OLD: TableDialect = TableDialect {
    numbering: Numbering::Old,
    last_modified: false,
};

const STAMPED: TableDialect = TableDialect {
    numbering: Numbering::New,
    last_modified: true,
};

fn leg(number: u8, cseq: &'static str) -> Leg {
    Leg {
        tag: format!("tag-{number}").into(),
        cseq: cseq.into(),
        route_set: format!("<sip:192.0.2.{number};lr>").into(),
        contact: format!("sip:user@198.51.100.{number}:5060").into(),
    }
}

fn update(state: DialogState) -> Update {
    Update {
        did: Did {
            h_entry: 3367,
            h_id: 4_000_000_000,
        },
        last_modified: Some(1_795_421_960),
        init_ts: 1_795_421_910,
        iflags: None,
        call_id: "a1".into(),
        from_uri: "sip:alice@example.com".into(),
        to_uri: "sip:bob@example.com".into(),
        request_uri: "sip:bob@192.0.2.9".into(),
        caller: leg(1, "1"),
        callee: Some(leg(2, "0")),
        variables: vec![
            ("who".into(), "a \"b\"\\\t\u{1}é".into()),
            ("empty".into(), Bytes::new()),
        ],
        profiles: vec![
            Profile {
                name: "caller".into(),
                value: Some("al\"ice".into()),
                puid: "dlgp-1-2-3".into(),
                expires: Some(1_795_429_999),
                flags: 1,
            },
            Profile {
                name: "inbound".into(),
                value: None,
                puid: "dlgp-1-2-4".into(),
                expires: None,
                flags: 0,
            },
        ],
        state,
        timing: Timing {
            start_ts: (state == DialogState::Confirmed).then_some(1_795_421_912),
            lifetime: Some(3600),
        },
    }
}

fn bare_update() -> Update {
    Update {
        last_modified: None,
        callee: None,
        variables: Vec::new(),
        profiles: Vec::new(),
        caller: Leg::default(),
        timing: Timing::default(),
        ..update(DialogState::Unconfirmed)
    }
}

fn table_samples() -> Vec<(&'static str, TableDialect, TableMessage)> {
    let (table, key) = (|| Bytes::from("t1"), || Bytes::from("k"));
    let set = |value| TableMessage::Set {
        table: table(),
        key: key(),
        value,
        last_modified: Some(1_795_421_957_677),
    };
    let remove = |by, pattern| TableMessage::RemoveMatching {
        table: table(),
        by,
        pattern,
        operand: "^a".into(),
    };
    let cell = |value, expire| Cell {
        table: table(),
        key: key(),
        value,
        expire,
        last_modified: Some(1_795_421_957_677),
    };
    let cells = vec![
        cell(Value::Int(-1), None),
        cell(Value::Text("/".into()), Some(1_795_421_999)),
    ];
    let sync = |table| TableMessage::Sync { table };
    let expire = TableMessage::SetExpire {
        table: table(),
        key: key(),
        seconds: 25,
    };
    let delete = TableMessage::Delete {
        table: table(),
        key: key(),
    };
    vec![
        ("sync", NEW, sync(None)),
        ("sync, old numbering", OLD, sync(None)),
        ("sync of a table", NEW, sync(Some(table()))),
        ("sync of a table, old numbering", OLD, sync(Some(table()))),
        ("set of text", NEW, set(Value::Text("v\"\\\n\u{1}é".into()))),
        (
            "set of text, stamped",
            STAMPED,
            set(Value::Text("v".into())),
        ),
        ("set of a number", NEW, set(Value::Int(i32::MIN))),
        ("set of a number, old numbering", OLD, set(Value::Int(7))),
        ("set expire", NEW, expire.clone()),
        ("set expire, old numbering", OLD, expire),
        ("delete", NEW, delete.clone()),
        ("delete, old numbering", OLD, delete),
        ("remove keys", NEW, remove(By::Key, PatternKind::Regex)),
        (
            "remove keys, old numbering",
            OLD,
            remove(By::Key, PatternKind::Regex),
        ),
        (
            "remove by prefix of values",
            NEW,
            remove(By::Value, PatternKind::Prefix),
        ),
        ("cells", NEW, TableMessage::Cells(cells.clone())),
        ("cells, stamped", STAMPED, TableMessage::Cells(cells)),
        ("no cells", NEW, TableMessage::Cells(Vec::new())),
    ]
}

fn dialog_samples() -> Vec<(&'static str, DialogMessage)> {
    let did = update(DialogState::Early).did;
    let state = |change| {
        DialogMessage::State(Box::new(StateChange {
            did,
            last_modified: Some(1_795_421_960),
            change,
        }))
    };
    let timing = update(DialogState::Confirmed).timing;
    let early = Change::Early {
        timing: Timing {
            start_ts: None,
            lifetime: Some(3600),
        },
        caller: Some(leg(1, "1")),
    };
    let confirmed = |callee| Change::Confirmed {
        timing,
        caller: Some(leg(1, "1")),
        callee,
    };
    let update = |update| DialogMessage::Update(Box::new(update));
    let whole = |state| update(self::update(state));
    vec![
        ("nothing", DialogMessage::None),
        ("sync", DialogMessage::Sync),
        ("update, bare", update(bare_update())),
        ("update, unconfirmed", whole(DialogState::Unconfirmed)),
        ("update, early", whole(DialogState::Early)),
        ("update, ack missing", whole(DialogState::ConfirmedNoAck)),
        ("update, confirmed", whole(DialogState::Confirmed)),
        ("update, deleted", whole(DialogState::Deleted)),
        ("state early", state(early)),
        ("state confirmed", state(confirmed(Some(leg(2, "7"))))),
        ("state confirmed, callee unknown", state(confirmed(None))),
        ("state deleted", state(Change::Deleted)),
        (
            "remove",
            DialogMessage::Remove(Remove {
                did,
                last_modified: None,
            }),
        ),
    ]
}

/// Compares with `golden/bodies.txt`; with REWRITE_GOLDEN set, writes it instead.
#[test]
fn bodies_are_written_as_reviewed() {
    let mut written = String::new();
    let mut note = |channel: &str, name: &str, body: &Bytes| {
        let body = std::str::from_utf8(body).expect("UTF-8");
        written.push_str(&format!("{channel}, {name}:\n{body}\n"));
    };
    for (name, dialect, message) in table_samples() {
        note("htable", name, &message.encode(dialect).expect("a body"));
    }
    for (name, message) in dialog_samples() {
        let dialect = DialogDialect {
            last_modified: true,
        };
        note("dialog", name, &message.encode(dialect).expect("a body"));
    }
    if std::env::var_os("REWRITE_GOLDEN").is_some() {
        fs::write(GOLDEN, &written).expect("the golden file is written");
    }
    assert_eq!(
        written,
        fs::read_to_string(GOLDEN).expect("the golden file")
    );
}

#[test]
fn the_longest_entry_of_a_table_fits_a_body() {
    let escaped = |length| Bytes::from(vec![1; length]);
    let cell = Cell {
        table: escaped(NAME_BYTES_MAX),
        key: escaped(KEY_BYTES_MAX),
        value: Value::Text(escaped(VALUE_BYTES_MAX)),
        expire: Some(u64::MAX),
        last_modified: Some(u64::MAX),
    };
    let batches = batches([&cell], true, 1200);
    assert_eq!((batches.bodies.len(), batches.refused), (1, 0));
    assert!(batches.bodies[0].len() <= BODY_BYTES_MAX);
    let set = TableMessage::Set {
        table: cell.table,
        key: cell.key,
        value: cell.value,
        last_modified: cell.last_modified,
    };
    assert!(set.encode(STAMPED).is_ok());
}

#[test]
fn what_fits_no_datagram_is_not_written() {
    let long = Bytes::from(vec![b'x'; BODY_BYTES_MAX]);
    let long = |key: &'static str| Cell {
        table: "t".into(),
        key: key.into(),
        value: Value::Text(long.clone()),
        expire: None,
        last_modified: None,
    };
    let short = Cell {
        value: Value::Int(1),
        ..long("short")
    };
    let cells = [long("a"), short.clone(), long("b")];
    let batches = batches(&cells, false, 1200);
    assert_eq!(batches.refused, 2);
    let read = TableMessage::decode(&batches.bodies[0]).expect("a batch");
    assert_eq!(read, (TableMessage::Cells(vec![short]), None));

    let message = TableMessage::Cells(cells.to_vec());
    assert_eq!(message.encode(NEW), Err(EncodeError::TooLong));
    let dialog = DialogMessage::Update(Box::new(Update {
        variables: vec![("v".into(), vec![1; BODY_BYTES_MAX / 6].into())],
        ..bare_update()
    }));
    let dialect = DialogDialect {
        last_modified: false,
    };
    assert_eq!(dialog.encode(dialect), Err(EncodeError::TooLong));
}

#[test]
fn nothing_to_tell_is_an_empty_batch() {
    let expected = Batches {
        bodies: vec![r#"{"cells":[]}"#.into()],
        refused: 0,
    };
    assert_eq!(batches(&[], false, 1200), expected);
}

/// Text of any length up to 20 characters, control characters and quotes more often than not.
fn text() -> impl Strategy<Value = Bytes> {
    prop_oneof!["[\\x01-\\x1f\"\\\\/a-zé€]{0,20}", "[^\\x00]{0,20}"].prop_map(Bytes::from)
}

/// Bytes that need not be UTF-8. A NUL does not survive the wire.
fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(1..=u8::MAX, 0..20).prop_map(Bytes::from)
}

fn time() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(1..1u64 << 53)
}

fn value(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(Value::Int),
        text.prop_map(Value::Text)
    ]
}

fn cell(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = Cell> {
    let parts = (text.clone(), text.clone(), value(text), time(), time());
    parts.prop_map(|(table, key, value, expire, last_modified)| Cell {
        table,
        key,
        value,
        expire,
        last_modified,
    })
}

fn table_message(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = TableMessage> {
    let name = || text.clone();
    let set =
        (name(), name(), value(name()), time()).prop_map(|(table, key, value, last_modified)| {
            TableMessage::Set {
                table,
                key,
                value,
                last_modified,
            }
        });
    let expire =
        (name(), name(), any::<i32>()).prop_map(|(table, key, seconds)| TableMessage::SetExpire {
            table,
            key,
            seconds,
        });
    let delete = (name(), name()).prop_map(|(table, key)| TableMessage::Delete { table, key });
    let by = prop::sample::select(vec![By::Key, By::Value]);
    let kind = prop::sample::select(vec![PatternKind::Regex, PatternKind::Prefix]);
    let remove = (name(), by, kind, name()).prop_map(|(table, by, pattern, operand)| {
        TableMessage::RemoveMatching {
            table,
            by,
            pattern,
            operand,
        }
    });
    prop_oneof![
        prop::option::of(name()).prop_map(|table| TableMessage::Sync { table }),
        set,
        expire,
        delete,
        remove,
        prop::collection::vec(cell(name()), 0..6).prop_map(TableMessage::Cells),
    ]
}

fn any_did() -> impl Strategy<Value = Did> {
    (any::<u32>(), 1..=u32::MAX).prop_map(|(h_entry, h_id)| Did { h_entry, h_id })
}

/// A leg that can be told: its tag is not empty.
fn any_leg(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = Leg> {
    let tag = text.clone().prop_map(|tag| [b"t", &*tag].concat().into());
    (tag, text.clone(), text.clone(), text).prop_map(|(tag, cseq, route_set, contact)| Leg {
        tag,
        cseq,
        route_set,
        contact,
    })
}

fn any_timing() -> impl Strategy<Value = Timing> {
    (time(), prop::option::of(1..=u32::MAX))
        .prop_map(|(start_ts, lifetime)| Timing { start_ts, lifetime })
}

fn any_profile(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = Profile> {
    let value = prop::option::of(text.clone());
    (text.clone(), value, text, time(), any::<u32>()).prop_map(
        |(name, value, puid, expires, flags)| Profile {
            name,
            value,
            puid,
            expires,
            flags,
        },
    )
}

fn any_state() -> impl Strategy<Value = DialogState> {
    prop::sample::select(vec![
        DialogState::Unconfirmed,
        DialogState::Early,
        DialogState::ConfirmedNoAck,
        DialogState::Confirmed,
        DialogState::Deleted,
    ])
}

fn any_update(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = Update> {
    let variables = prop::collection::btree_map(text.clone(), text.clone(), 0..4);
    let profiles = prop::collection::vec(any_profile(text.clone()), 0..3);
    let uris = (text.clone(), text.clone(), text.clone(), text.clone());
    let times = (time(), 0..1u64 << 53, prop::option::of(any::<u32>()));
    let legs = (any_leg(text.clone()), prop::option::of(any_leg(text)));
    let rest = (variables, profiles, any_state(), any_timing());
    (any_did(), times, uris, legs, rest).prop_map(|(did, times, uris, legs, rest)| {
        let (variables, profiles, state, timing) = rest;
        Update {
            did,
            last_modified: times.0,
            init_ts: times.1,
            iflags: times.2,
            call_id: uris.0,
            from_uri: uris.1,
            to_uri: uris.2,
            request_uri: uris.3,
            caller: legs.0,
            callee: legs.1.filter(|_| state == DialogState::Confirmed),
            variables: variables.into_iter().collect(),
            profiles,
            state,
            timing,
        }
    })
}

fn any_change(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = Change> {
    let leg = || prop::option::of(any_leg(text.clone()));
    let early = (any_timing(), leg()).prop_map(|(timing, caller)| Change::Early { timing, caller });
    let confirmed =
        (any_timing(), leg(), leg()).prop_map(|(timing, caller, callee)| Change::Confirmed {
            timing,
            caller,
            callee,
        });
    prop_oneof![early, confirmed, Just(Change::Deleted)]
}

fn dialog_message(text: BoxedStrategy<Bytes>) -> impl Strategy<Value = DialogMessage> {
    let state =
        (any_did(), time(), any_change(text.clone())).prop_map(|(did, last_modified, change)| {
            DialogMessage::State(Box::new(StateChange {
                did,
                last_modified,
                change,
            }))
        });
    let remove = (any_did(), time())
        .prop_map(|(did, last_modified)| DialogMessage::Remove(Remove { did, last_modified }));
    prop_oneof![
        Just(DialogMessage::None),
        Just(DialogMessage::Sync),
        any_update(text).prop_map(|update| DialogMessage::Update(Box::new(update))),
        state,
        remove,
    ]
}

/// The fields that hold text; all others but containers hold numbers.
const TEXTS: [&str; 20] = [
    "htname",
    "cname",
    "strval",
    "callid",
    "from_uri",
    "to_uri",
    "req_uri",
    "tag1",
    "cseq1",
    "route_set1",
    "contact1",
    "tag2",
    "cseq2",
    "route_set2",
    "contact2",
    "vars",
    "profiles",
    "name",
    "value",
    "puid",
];

/// Checks what a Kamailio takes harm from, with serde_json's reader.
fn check_harmless(body: &[u8]) {
    assert!(body.len() <= BODY_BYTES_MAX);
    let Json::Object(fields) = serde_json::from_slice(body).expect("JSON") else {
        panic!("no object");
    };
    assert!(!fields.is_empty());
    for (name, value) in &fields {
        check_field(name, value);
    }
}

fn check_field(name: &str, value: &Json) {
    match (name, value) {
        ("cells", Json::Array(cells)) => {
            for cell in cells {
                check_harmless(cell.to_string().as_bytes());
                assert!(cell["expire"].is_u64() && cell["htname"].is_string());
            }
        }
        ("vars", Json::Object(variables)) => {
            assert!(!variables.is_empty() && variables.values().all(Json::is_string));
        }
        ("profiles", Json::String(document)) => {
            let document: Json = serde_json::from_str(document).expect("JSON in the string");
            let profiles = document["profiles"].as_array().expect("an array");
            assert!(!profiles.is_empty());
            for profile in profiles {
                check_harmless(profile.to_string().as_bytes());
            }
        }
        ("intval" | "action" | "type" | "mode" | "state", number) => {
            let number = number.as_i64().expect("a number");
            assert!(i32::try_from(number).is_ok(), "{name}: {number}");
        }
        ("h_entry" | "h_id" | "lifetime" | "iflags" | "flags", number) => {
            let number = number.as_u64().expect("a number");
            assert!(u32::try_from(number).is_ok(), "{name}: {number}");
        }
        (name, Json::String(_)) => assert!(TEXTS.contains(&name), "{name}"),
        (name, value) => assert!(value.is_u64() && !TEXTS.contains(&name), "{name}: {value}"),
    }
}

/// Which fields each action has, from section 4.1 of the description of the wire.
fn table_fields(message: &TableMessage, dialect: TableDialect) -> Vec<&'static str> {
    let mut fields = match message {
        TableMessage::Sync { table } => match (table, dialect.numbering) {
            (Some(_), Numbering::New) => vec!["action", "htname"],
            _ => vec!["action"],
        },
        TableMessage::Set {
            value,
            last_modified,
            ..
        } => {
            let mut fields = vec!["action", "htname", "cname", "type", "mode"];
            fields.push(match value {
                Value::Int(_) => "intval",
                Value::Text(_) => "strval",
            });
            fields.extend(
                last_modified
                    .filter(|_| dialect.last_modified)
                    .map(|_| "last_modified"),
            );
            fields
        }
        TableMessage::SetExpire { .. } => {
            vec!["action", "htname", "cname", "type", "intval", "mode"]
        }
        TableMessage::Delete { .. } => vec!["action", "htname", "cname", "mode"],
        TableMessage::RemoveMatching { .. } => vec!["action", "htname", "type", "strval", "mode"],
        TableMessage::Cells(_) => vec!["cells"],
    };
    fields.sort_unstable();
    fields
}

fn has_nowhere_to_go(message: &TableMessage, dialect: TableDialect) -> bool {
    let prefix = matches!(
        message,
        TableMessage::RemoveMatching {
            pattern: PatternKind::Prefix,
            ..
        }
    );
    prefix && dialect.numbering == Numbering::Old
}

proptest! {
    #[test]
    fn table_bodies_do_no_harm(
        message in table_message(text().boxed()),
        dialect in prop::sample::select(vec![NEW, OLD, STAMPED]),
    ) {
        prop_assume!(!has_nowhere_to_go(&message, dialect));
        let body = message.encode(dialect).expect("a body");
        check_harmless(&body);
        let fields: Json = serde_json::from_slice(&body).expect("JSON");
        let mut names: Vec<_> = fields.as_object().expect("an object").keys().collect();
        names.sort_unstable();
        prop_assert_eq!(names, table_fields(&message, dialect));
        if let TableMessage::Set { key, value: Value::Text(value), .. } = &message {
            prop_assert_eq!(fields["cname"].as_str().map(str::as_bytes), Some(&key[..]));
            prop_assert_eq!(fields["strval"].as_str().map(str::as_bytes), Some(&value[..]));
        }
    }

    #[test]
    fn table_messages_survive_the_wire(message in table_message(bytes().boxed())) {
        let body = message.encode(STAMPED).expect("a body");
        let numbering = (!matches!(message, TableMessage::Cells(_))).then_some(Numbering::New);
        prop_assert_eq!(TableMessage::decode(&body), Ok((message, numbering)));
    }

    /// The numberings misread each other; we never do.
    #[test]
    fn old_numbers_are_told_from_new_ones(message in table_message(bytes().boxed())) {
        prop_assume!(!has_nowhere_to_go(&message, OLD));
        prop_assume!(!matches!(message, TableMessage::Cells(_) | TableMessage::Sync { table: Some(_) }));
        let body = message.encode(TableDialect { last_modified: true, ..OLD }).expect("a body");
        prop_assert_eq!(TableMessage::decode(&body), Ok((message, Some(Numbering::Old))));
    }

    #[test]
    fn dialog_bodies_do_no_harm(message in dialog_message(text().boxed()), last_modified: bool) {
        let body = message.encode(DialogDialect { last_modified }).expect("a body");
        check_harmless(&body);
        let fields: Json = serde_json::from_slice(&body).expect("JSON");
        let always: &[&str] = match &message {
            DialogMessage::None | DialogMessage::Sync => &["action"],
            DialogMessage::Update(_) => &[
                "h_entry", "h_id", "init_ts", "callid", "from_uri", "to_uri", "req_uri", "tag1",
                "cseq1", "route_set1", "contact1", "state", "start_ts", "lifetime",
            ],
            DialogMessage::State(change) => match change.change {
                Change::Early { .. } => &[
                    "h_entry", "h_id", "state", "start_ts", "lifetime", "tag1", "cseq1",
                    "route_set1", "contact1",
                ],
                Change::Confirmed { .. } => &[
                    "h_entry", "h_id", "state", "start_ts", "lifetime", "tag1", "cseq1",
                    "route_set1", "contact1", "tag2", "cseq2", "route_set2", "contact2",
                ],
                Change::Deleted => &["h_entry", "h_id", "state"],
            },
            DialogMessage::Remove(_) => &["h_entry", "h_id", "state"],
        };
        for name in always {
            prop_assert!(fields.get(name).is_some(), "{}", name);
        }
        prop_assert!(last_modified || fields.get("last_modified").is_none());
        if let DialogMessage::Update(update) = &message {
            prop_assert_eq!(fields["callid"].as_str().map(str::as_bytes), Some(&update.call_id[..]));
        }
    }

    #[test]
    fn dialog_messages_survive_the_wire(message in dialog_message(bytes().boxed())) {
        let body = message.encode(DialogDialect { last_modified: true }).expect("a body");
        prop_assert_eq!(DialogMessage::decode(&body), Ok(message));
    }

    /// All cells arrive, in order, in bodies as full as they may be.
    #[test]
    fn batches_carry_every_cell(
        cells in prop::collection::vec(cell(bytes().boxed()), 0..40),
        bytes_max in 0..1500usize,
    ) {
        let batches = batches(&cells, true, bytes_max);
        prop_assert_eq!(batches.refused, 0);
        let mut read = Vec::new();
        let mut former: Option<usize> = None;
        for body in &batches.bodies {
            let Ok((TableMessage::Cells(cells), None)) = TableMessage::decode(body) else {
                panic!("no batch");
            };
            prop_assert!(body.len() <= bytes_max || cells.len() <= 1);
            if let (Some(former), Some(first)) = (former, cells.first()) {
                let alone = TableMessage::Cells(vec![first.clone()]).encode(STAMPED).expect("a body");
                let frame = r#"{"cells":[]}"#.len();
                prop_assert!(former + 1 + alone.len() - frame > bytes_max);
            }
            former = Some(body.len());
            read.extend(cells);
        }
        prop_assert_eq!(read, cells);
    }
}
