//! Messages of Kamailios one by one, captured ones among them, and what is made of each.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use replication::stock::{Channel, DIALOG_CHANNEL, TABLE_CHANNEL};
use replication::{
    Cause, DialogKey, DialogRecord, DialogState, DialogsConfig, EntryKey, Now, Origin, Replica,
    node_number,
};

const WALL: u64 = 1_795_421_917_000;

fn node(i: u8) -> SocketAddr {
    ([127, 0, 1, i], 5060).into()
}

/// One node of ours that hears messages.
struct Hearer {
    now: Now,
    replica: Replica,
    channel: Channel,
}

impl Hearer {
    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn new(hash_size: u32) -> Self {
        let own = ([127, 0, 1, 9], 5062).into();
        let now = Now {
            monotonic: Instant::now(),
            wall: WALL,
        };
        let mut replica = Replica::new(own, [0; 16], DialogsConfig::default());
        for (name, autoexpire) in [("te", Some(Duration::from_secs(60))), ("t1", None)] {
            let definition = htable::Definition {
                replicate: true,
                autoexpire,
                ..htable::Definition::new(name)
            };
            replica.define(definition).unwrap();
        }
        Self {
            now,
            replica,
            channel: Channel::new(own, hash_size, 1),
        }
    }

    fn dialog(&mut self, from: u8, body: impl AsRef<[u8]>) -> u16 {
        self.hear(from, DIALOG_CHANNEL, body.as_ref())
    }

    fn table(&mut self, from: u8, body: impl AsRef<[u8]>) -> u16 {
        self.hear(from, TABLE_CHANNEL, body.as_ref())
    }

    fn hear(&mut self, from: u8, channel: &str, body: &[u8]) -> u16 {
        let replica = &mut self.replica;
        let status = self
            .channel
            .handle(self.now, replica, node(from), channel, body);
        while let Some(change) = self.replica.poll_change() {
            assert_eq!(change.origin, Origin::Stock(node(from)));
            self.channel.note(self.now, &self.replica, &change);
        }
        status
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall += time.as_millis() as u64;
        self.replica.handle_timeout(self.now);
        while let Some(change) = self.replica.poll_change() {
            self.channel.note(self.now, &self.replica, &change);
        }
        self.channel.handle_timeout(self.now, &mut self.replica);
    }

    fn record(&self, call_id: &str, h_id: u32) -> &DialogRecord {
        let key = DialogKey {
            call_id: call_id.as_bytes().into(),
            h_id,
        };
        &self.replica.dialogs().dialog(&key).unwrap().record
    }

    fn value(&self, table: &str, key: &str) -> Option<String> {
        let table = self.replica.entries().tables().table(table.as_bytes())?;
        let entry = table.entry(self.now.monotonic, key.as_bytes())?;
        Some(format!("{:?}", entry.value))
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dmq");
    let bytes = std::fs::read(path.join(format!("{name}.sip"))).unwrap();
    let end = b"\r\n\r\n";
    let at = bytes.windows(4).position(|it| it == end).unwrap();
    bytes[at + 4..].to_vec()
}

/// An UPDATE of a dialog with a slot that fits `Hearer::new(1)`.
fn update(call_id: &str, h_id: u32, state: u8, rest: &str) -> String {
    format!(
        r#"{{"action":1,"h_entry":0,"h_id":{h_id},"init_ts":1795421910,"callid":"{call_id}","from_uri":"sip:a@x","to_uri":"sip:b@x","req_uri":"sip:b@y","tag1":"t1","cseq1":"1","route_set1":"","contact1":"sip:a@h1"{rest},"state":{state}}}"#
    )
}

#[test]
fn the_captured_call_is_followed() {
    let mut hearer = Hearer::new(4096);
    let (call_id, h_id) = ("full-call@5.6.3.lab", 5109);
    for (name, state) in [
        ("40-dlg-create", DialogState::Unconfirmed),
        ("41-dlg-early", DialogState::Early),
        ("42-dlg-confirmed", DialogState::Confirmed),
        ("43-dlg-deleted", DialogState::Ended),
        ("44-dlg-remove", DialogState::Ended),
    ] {
        assert_eq!(hearer.dialog(1, fixture(name)), 200, "{name}");
        assert_eq!(hearer.record(call_id, h_id).state, state, "{name}");
    }
    let record = hearer.record(call_id, h_id);
    assert_eq!(&*record.caller.tag, b"a443710");
    assert_eq!((record.caller.cseq, record.callee.cseq), (1, 0));
    assert_eq!(&*record.callee.contact, b"sip:bob@127.0.1.51:5060");
    assert_eq!(record.created, 1_795_421_910);
    assert_eq!(record.answered, 1_795_421_910);
    assert_eq!(record.lifetime.seconds, 3600);
    assert_eq!(
        record.variables[&b"q"[..]].value.as_deref(),
        Some(&b"a\"b\\c"[..])
    );
    assert_eq!(record.profiles.list.len(), 2);
    assert_eq!(record.end.unwrap().cause, Cause::Told);
    assert_eq!(record.ownership.owner, node(1));
}

#[test]
fn every_captured_message_about_dialogs_is_answered_well() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dmq");
    let mut count = 0;
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".sip").map(str::to_owned))
        .filter(|name| !name.ends_with(".reply"))
        .filter(|name| (40..=75).contains(&name[..2].parse::<u32>().unwrap()))
        .collect();
    names.sort();
    for name in names {
        let size = if name.contains("hash-mismatch") || name.contains("nonutf8") {
            128
        } else {
            4096
        };
        let mut hearer = Hearer::new(size);
        // Where a Kamailio says 500: of a slot that is not ours, and RM of a dialog we never heard of.
        let is_refused =
            name.contains("hash-mismatch") || name.contains("-remove") || name.starts_with("53-");
        let status = if is_refused { 500 } else { 200 };
        assert_eq!(hearer.dialog(1, fixture(&name)), status, "{name}");
        count += 1;
    }
    assert!(count >= 36);
}

#[test]
fn answers_to_a_request_for_everything_make_dialogs_in_every_state() {
    let mut hearer = Hearer::new(4096);
    for (name, call_id, h_id, state) in [
        (
            "48-dlg-sync-update-early",
            "held-early@5.6.3.lab",
            12_245,
            DialogState::Early,
        ),
        (
            "49-dlg-sync-update-confirmed",
            "held-confirmed@5.6.3.lab",
            7945,
            DialogState::Confirmed,
        ),
        (
            "50-dlg-sync-update-confirmed-na",
            "held-noack@5.6.3.lab",
            8869,
            DialogState::Answered,
        ),
    ] {
        assert_eq!(hearer.dialog(1, fixture(name)), 200, "{name}");
        assert_eq!(hearer.record(call_id, h_id).state, state);
    }
    assert_eq!(hearer.dialog(1, fixture("51-dlg-sync-update-deleted")), 200);
    assert_eq!(hearer.replica.dialogs().len(), 3);
}

#[test]
fn another_hash_size_is_refused_and_learnt() {
    let mut hearer = Hearer::new(128);
    assert_eq!(hearer.dialog(1, fixture("54-dlg-hash-mismatch")), 500);
    assert!(hearer.replica.dialogs().is_empty());
    assert_eq!(hearer.channel.counters().hash_mismatch, 1);
    for name in [
        "40-dlg-create",
        "48-dlg-sync-update-early",
        "49-dlg-sync-update-confirmed",
    ] {
        hearer.dialog(1, fixture(name));
    }
    let status = hearer.channel.status();
    let sizes = status.nodes[0].hash_size_candidates.clone().unwrap();
    assert!(sizes.contains(&4096) && sizes.len() <= 2, "{sizes:?}");
}

#[test]
fn a_state_waits_for_its_update() {
    let mut hearer = Hearer::new(1);
    let state = r#"{"action":2,"h_entry":0,"h_id":7,"state":2,"start_ts":0,"lifetime":600,"tag1":"t1","cseq1":"1","route_set1":"","contact1":"sip:a@h2"}"#;
    assert_eq!(hearer.dialog(1, state), 200);
    assert_eq!(hearer.channel.status().held_back, 1);
    assert_eq!(hearer.dialog(1, update("c", 7, 1, "")), 200);
    assert_eq!(hearer.record("c", 7).state, DialogState::Early);
    assert_eq!(&*hearer.record("c", 7).caller.contact, b"sip:a@h2");
    assert_eq!(hearer.channel.status().held_back, 0);

    assert_eq!(
        hearer.dialog(1, state.replace("\"h_id\":7", "\"h_id\":8")),
        200
    );
    hearer.pass(Duration::from_secs(2));
    assert_eq!(hearer.channel.status().held_back, 0);
    assert_eq!(hearer.channel.counters().held_back_dropped, 1);
    assert_eq!(hearer.dialog(1, update("d", 8, 1, "")), 200);
    assert_eq!(hearer.record("d", 8).state, DialogState::Unconfirmed);
}

#[test]
fn an_update_that_comes_after_the_end_makes_no_dialog() {
    let mut hearer = Hearer::new(1);
    let remove = r#"{"action":3,"h_entry":0,"h_id":7,"state":5}"#;
    assert_eq!(hearer.dialog(1, remove), 500);
    hearer.pass(Duration::from_secs(27));
    assert_eq!(hearer.dialog(1, update("c", 7, 1, "")), 200);
    assert_eq!(hearer.record("c", 7).state, DialogState::Ended);

    assert_eq!(hearer.dialog(1, update("c", 7, 4, "")), 200);
    assert_eq!(hearer.record("c", 7).state, DialogState::Ended);
    assert_eq!(hearer.channel.counters().late_ignored, 1);
}

#[test]
fn dialogs_with_the_same_numbers_are_kept_apart() {
    let mut hearer = Hearer::new(1);
    assert_eq!(hearer.dialog(1, update("one", 7, 1, "")), 200);
    assert_eq!(hearer.dialog(2, update("two", 7, 1, "")), 200);
    assert_eq!(hearer.channel.counters().collisions, 1);
    assert_eq!(hearer.replica.dialogs().len(), 2);
    // Each node means its own.
    let end = r#"{"action":2,"h_entry":0,"h_id":7,"state":5}"#;
    assert_eq!(hearer.dialog(2, end), 200);
    assert_eq!(hearer.record("two", 7).state, DialogState::Ended);
    assert_eq!(hearer.record("one", 7).state, DialogState::Unconfirmed);
}

#[test]
fn a_lower_state_and_a_leg_of_long_ago_change_nothing() {
    let mut hearer = Hearer::new(1);
    let legs = r#","start_ts":1795421911,"lifetime":600,"tag2":"t2","cseq2":"0","route_set2":"","contact2":"sip:b@h3""#;
    assert_eq!(hearer.dialog(1, update("c", 7, 4, legs)), 200);
    let before = hearer.record("c", 7).clone();
    let early = r#"{"action":2,"h_entry":0,"h_id":7,"state":2,"start_ts":0,"lifetime":300,"tag1":"t1","cseq1":"0","route_set1":"","contact1":"sip:old"}"#;
    assert_eq!(hearer.dialog(1, early), 200);
    assert_eq!(hearer.dialog(1, update("c", 7, 1, "")), 200);
    assert_eq!(hearer.dialog(2, update("c", 7, 4, legs)), 200);
    assert_eq!(*hearer.record("c", 7), before);
}

#[test]
fn a_ringing_call_is_not_ended_in_a_kamailios_stead_before_its_own_time() {
    let mut hearer = Hearer::new(1);
    assert_eq!(hearer.dialog(1, update("c", 7, 2, "")), 200);
    hearer.pass(Duration::from_secs(301));
    assert_eq!(hearer.record("c", 7).state, DialogState::Early);
}

#[test]
fn rm_before_its_time_is_the_owners_and_after_it_anybodys() {
    let mut hearer = Hearer::new(1);
    let answered = r#","start_ts":1795421911,"lifetime":600"#;
    let remove = r#"{"action":3,"h_entry":0,"h_id":7,"state":5}"#;
    assert_eq!(hearer.dialog(1, update("c", 7, 4, answered)), 200);
    assert_eq!(hearer.dialog(2, remove), 200);
    assert_eq!(hearer.record("c", 7).state, DialogState::Confirmed);
    assert_eq!(hearer.channel.counters().removals_not_obeyed, 1);
    // A backup may come first once the time is over, before we are a backup ourselves.
    hearer.now.monotonic += Duration::from_secs(600);
    assert_eq!(hearer.dialog(2, remove), 200);
    assert_eq!(hearer.record("c", 7).state, DialogState::Ended);
    assert_eq!(hearer.dialog(1, remove), 200, "once more");
}

#[test]
fn what_cannot_be_read_is_answered_400_and_changes_nothing() {
    let mut hearer = Hearer::new(1);
    for body in [
        "",
        "{",
        "[]",
        r#"{"action":1}"#,
        r#"{"action":1,"h_entry":0,"h_id":0}"#,
    ] {
        assert_eq!(hearer.dialog(1, body), 400, "{body}");
        assert_eq!(
            hearer.table(1, body),
            if body.contains('1') { 200 } else { 400 },
            "{body}"
        );
    }
    assert_eq!(hearer.dialog(1, update("c", 7, 9, "")), 500);
    assert!(hearer.replica.dialogs().is_empty());
}

#[test]
fn table_operations_are_executed_for_the_node_that_wrote() {
    let mut hearer = Hearer::new(1);
    let set = r#"{"action":2,"htname":"te","cname":"k","type":2,"strval":"v","mode":1}"#;
    assert_eq!(hearer.table(1, set), 200);
    assert_eq!(hearer.value("te", "k").unwrap(), r#"Text(b"v")"#);
    let key = EntryKey {
        table: "te".into(),
        key: "k".into(),
    };
    let record = hearer
        .replica
        .entries()
        .record(hearer.now.monotonic, &key)
        .unwrap();
    assert_eq!(record.write.stamp.node, node_number(node(1)));
    assert_eq!(record.remaining, Some(Duration::from_secs(60)));

    let expire = r#"{"action":3,"htname":"te","cname":"k","type":0,"intval":9,"mode":0}"#;
    assert_eq!(hearer.table(2, expire), 200);
    let record = hearer
        .replica
        .entries()
        .record(hearer.now.monotonic, &key)
        .unwrap();
    assert_eq!(record.remaining, Some(Duration::from_secs(9)));
    assert_eq!(record.write.stamp.node, node_number(node(2)));

    let other = set.replace(r#""k""#, r#""other""#);
    assert_eq!(hearer.table(1, other), 200);
    let matching = r#"{"action":5,"htname":"te","type":2,"strval":"^OTH","mode":0}"#;
    assert_eq!(hearer.table(1, matching), 200);
    assert_eq!(hearer.value("te", "other"), None);
    assert_eq!(hearer.table(1, matching.replace("^OTH", "(")), 500);

    let delete = r#"{"action":4,"htname":"te","cname":"k","mode":0}"#;
    assert_eq!(hearer.table(1, delete), 200);
    assert_eq!(hearer.value("te", "k"), None);
    for body in [set, expire, delete, matching] {
        assert_eq!(hearer.table(1, body.replace("te", "no")), 500, "{body}");
    }
}

#[test]
fn a_lifetime_waits_a_second_for_its_value() {
    let mut hearer = Hearer::new(1);
    let set = r#"{"action":2,"htname":"te","cname":"k","type":0,"intval":5,"mode":1}"#;
    let expire = r#"{"action":3,"htname":"te","cname":"k","type":0,"intval":9,"mode":0}"#;
    let remaining = |hearer: &Hearer| {
        let key = EntryKey {
            table: "te".into(),
            key: "k".into(),
        };
        let record = hearer.replica.entries().record(hearer.now.monotonic, &key);
        record.unwrap().remaining.unwrap().as_secs()
    };
    assert_eq!(hearer.table(1, expire), 200);
    assert_eq!(hearer.table(1, set), 200);
    assert_eq!(remaining(&hearer), 9);

    hearer.table(1, r#"{"action":4,"htname":"te","cname":"k","mode":0}"#);
    assert_eq!(hearer.table(1, expire), 200);
    hearer.pass(Duration::from_millis(1_001));
    assert_eq!(hearer.table(1, set), 200);
    assert_eq!(remaining(&hearer), 60);
}

#[test]
fn the_old_numbering_is_understood_and_remembered() {
    let mut hearer = Hearer::new(1);
    let set = r#"{"action":1,"htname":"t1","cname":"k","type":2,"strval":"v","mode":1}"#;
    assert_eq!(hearer.table(1, set), 200);
    assert_eq!(hearer.value("t1", "k").unwrap(), r#"Text(b"v")"#);
    assert!(hearer.channel.status().nodes[0].old_numbering);
    assert_eq!(
        hearer.table(1, r#"{"action":3,"htname":"t1","cname":"k","mode":0}"#),
        200
    );
    assert_eq!(hearer.value("t1", "k"), None);
}

#[test]
fn among_nodes_that_show_when_they_wrote_the_later_write_counts_and_not_the_later_message() {
    let mut hearer = Hearer::new(1);
    let set = |value: &str, at: u64| {
        let shown = match at {
            0 => String::new(),
            at => format!(r#","last_modified":{}"#, WALL + at),
        };
        format!(
            r#"{{"action":2,"htname":"t1","cname":"k","type":2,"strval":"{value}"{shown},"mode":1}}"#
        )
    };
    let is = |hearer: &Hearer, value: &str| {
        let held = hearer.value("t1", "k");
        assert!(
            held.as_ref().is_some_and(|held| held.contains(value)),
            "{held:?}"
        );
    };
    assert_eq!(hearer.table(2, set("newer", 500)), 200);
    // It was lost, and comes again.
    assert_eq!(hearer.table(3, set("older", 400)), 200);
    is(&hearer, "newer");
    assert_eq!(hearer.table(3, set("equal", 500)), 200);
    is(&hearer, "newer");
    assert_eq!(hearer.channel.counters().overtaken, 2);
    assert_eq!(hearer.table(3, set("newest", 501)), 200);
    is(&hearer, "newest");
    // Whoever shows nothing is believed as it comes, and what was shown before still counts.
    assert_eq!(hearer.table(4, set("unstamped", 0)), 200);
    assert_eq!(hearer.table(3, set("late", 450)), 200);
    is(&hearer, "unstamped");
    // After a deletion nothing is held that could be newer: they see it the same way.
    let delete = r#"{"action":4,"htname":"t1","cname":"k","mode":0}"#;
    assert_eq!(hearer.table(2, delete), 200);
    assert_eq!(hearer.table(2, set("anew", 300)), 200);
    is(&hearer, "anew");
}
