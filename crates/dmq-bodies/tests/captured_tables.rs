//! Every captured body of channel `htable` means what its capture says, and is written again
//! byte for byte.

use bytes::Bytes;
use dmq_bodies::{Cell, DecodeError, Numbering, PatternKind, TableDialect, TableMessage, batches};
use htable::{By, Value};

mod captures;

type Decoded = Result<(TableMessage, Option<Numbering>), DecodeError>;

fn text(value: &'static str) -> Value {
    Value::Text(value.into())
}

fn set(table: &'static str, key: &'static str, value: Value) -> TableMessage {
    set_at(table, key, value, None)
}

fn set_at(
    table: &'static str,
    key: &'static str,
    value: Value,
    last_modified: Option<u64>,
) -> TableMessage {
    TableMessage::Set {
        table: table.into(),
        key: key.into(),
        value,
        last_modified,
    }
}

fn set_expire(key: &'static str, seconds: i32) -> TableMessage {
    TableMessage::SetExpire {
        table: "te".into(),
        key: key.into(),
        seconds,
    }
}

fn delete(key: &'static str) -> TableMessage {
    TableMessage::Delete {
        table: "t1".into(),
        key: key.into(),
    }
}

fn remove(by: By, pattern: PatternKind, operand: &'static str) -> TableMessage {
    TableMessage::RemoveMatching {
        table: "t1".into(),
        by,
        pattern,
        operand: operand.into(),
    }
}

fn cell(
    table: &'static str,
    key: impl Into<Bytes>,
    value: Value,
    expire: Option<u64>,
    last_modified: Option<u64>,
) -> Cell {
    Cell {
        table: table.into(),
        key: key.into(),
        value,
        expire,
        last_modified,
    }
}

fn lab_cells(expire: [u64; 2], modified: Option<[u64; 5]>) -> TableMessage {
    let at = |index: usize| modified.map(|modified| modified[index]);
    TableMessage::Cells(vec![
        cell("ti", "cnt", Value::Int(2), None, at(0)),
        cell("te", "e5", text("vv"), Some(expire[0]), at(1)),
        cell("te", "exp1", text("willexpire"), Some(expire[1]), at(2)),
        cell("t1", "keep2", Value::Int(7), None, at(3)),
        cell("t1", "keep1", text("stays"), None, at(4)),
    ])
}

/// What each capture says; the batch of 60 KB has a test of its own.
fn expected(name: &str) -> Decoded {
    use Numbering::{New, Old};
    use PatternKind::{Prefix, Regex};
    let (message, numbering) = match name {
        "09-ht-set-string" => (set("t1", "alpha", text("hello")), Some(New)),
        "10-ht-set-int" => (set("t1", "num", Value::Int(42)), Some(New)),
        "11-ht-set-int-negative" => (set("t1", "neg", Value::Int(-7)), Some(New)),
        "12-ht-set-escapes" => {
            let value = text("he said \"hi\" \\ tab\tend é");
            (set("t1", "quoted", value), Some(New))
        }
        "13-ht-set-autoexpire-table" => (set("te", "exp1", text("willexpire")), Some(New)),
        "14-ht-set-expire" => (set_expire("exp1", 25), Some(New)),
        "15-ht-set-then-expire-1" => (set("te", "e5", text("vv")), Some(New)),
        "16-ht-set-then-expire-2" => (set_expire("e5", 66), Some(New)),
        "17-ht-set-expire-zero" => (set_expire("e5", 0), Some(New)),
        "18-ht-inc" => (set("ti", "cnt", Value::Int(2)), Some(New)),
        "19-ht-delete" => (delete("num"), Some(New)),
        "20-ht-rm-name-re" => (remove(By::Key, Regex, "^al.*"), Some(New)),
        "21-ht-rm-value-re" => (remove(By::Value, Regex, "^hel"), Some(New)),
        "22-ht-rm-name-sw" => (remove(By::Key, Prefix, "ne"), Some(New)),
        "23-ht-rm-value-sw" => (remove(By::Value, Prefix, "zz"), Some(New)),
        "24-ht-sync-request" => (TableMessage::Sync { table: None }, Some(New)),
        "25-ht-sync-cells" => (lab_cells([1795421974, 1795421933], None), None),
        "26-ht-sync-cells-empty" => (TableMessage::Cells(Vec::new()), None),
        "28-ht-set-string-old-numbering" => (set("t1", "alpha", text("hello")), Some(Old)),
        "29-ht-delete-old-numbering" => (delete("num"), Some(Old)),
        "30-ht-rm-re-old-numbering" => (remove(By::Key, Regex, "^al.*"), Some(Old)),
        "31-ht-sync-request-old-numbering" => (TableMessage::Sync { table: None }, Some(Old)),
        "32-ht-set-old-numbering-misread" => (set("t1", "fromOld", text("x")), Some(Old)),
        "33-ht-set-old-numbering-misread-cells" => {
            let base = cell("te", "base", text("v"), Some(1795422581), None);
            (TableMessage::Cells(vec![base]), None)
        }
        "34-ht-set-string-lww" => {
            let set = set_at("t1", "alpha", text("hello"), Some(1795421957677));
            (set, Some(New))
        }
        "35-ht-set-lww-rejected" => {
            let set = set_at("t1", "fromC", text("master"), Some(1795420782441));
            (set, Some(New))
        }
        "36-ht-sync-request-one-table" => {
            let table = Some("t1".into());
            (TableMessage::Sync { table }, Some(New))
        }
        "37-ht-sync-cells-lww" => {
            let modified = [
                1795421958838,
                1795421958521,
                1795421958246,
                1795421960320,
                1795421960194,
            ];
            (lab_cells([1795422024, 1795421983], Some(modified)), None)
        }
        "38-ht-rm-name-ew" => return Err(DecodeError::Unsupported("action")),
        "39-ht-set-stateless" => {
            let set = set_at("t1", "k", text("v"), Some(1795421655679));
            (set, Some(New))
        }
        "78-ht-bad-json" => return Err(DecodeError::NotJson { at: 1 }),
        "79-ht-unknown-table" => (set("nope", "k2", text("v")), Some(New)),
        other => panic!("{other} is not expected"),
    };
    Ok((message, numbering))
}

const BATCH: &str = "27-ht-sync-cells-batch60k";

#[test]
fn every_capture_is_understood() {
    let bodies = captures::bodies("htable");
    assert_eq!(bodies.len(), 33);
    for (name, body) in bodies {
        if name != BATCH {
            assert_eq!(TableMessage::decode(&body), expected(&name), "{name}");
        }
    }
}

#[test]
fn refusals_are_answered_as_by_kamailio() {
    let status = |name: &str| expected(name).err().map(DecodeError::status);
    assert_eq!(status("38-ht-rm-name-ew"), Some(500));
    assert_eq!(status("78-ht-bad-json"), Some(400));
}

/// Writing in the sender's dialect gives its very bytes.
#[test]
fn every_capture_is_written_again_byte_for_byte() {
    let mut written = 0;
    for (name, body) in captures::bodies("htable") {
        let Ok((message, numbering)) = TableMessage::decode(&body) else {
            continue;
        };
        let dialect = TableDialect {
            numbering: numbering.unwrap_or(Numbering::New),
            last_modified: true,
        };
        let again = message.encode(dialect).expect("a body");
        assert_eq!(again, body, "{name}");
        written += 1;
    }
    assert_eq!(written, 31);
}

#[test]
fn a_receiver_before_6_2_is_spared_last_modified() {
    let message = set_at("t1", "alpha", text("hello"), Some(1795421957677));
    let dialect = TableDialect {
        numbering: Numbering::New,
        last_modified: false,
    };
    let written = message.encode(dialect).expect("a body");
    let decoded = TableMessage::decode(&written);
    assert_eq!(decoded, expected("09-ht-set-string"));
}

#[test]
fn a_batch_of_60_kilobytes_is_read_whole_and_split_into_packets() {
    let mut bodies = captures::bodies("htable");
    bodies.retain(|(name, _)| name == BATCH);
    let (_, body) = bodies.pop().expect("the batch");
    let Ok((TableMessage::Cells(cells), None)) = TableMessage::decode(&body) else {
        panic!("no batch");
    };
    assert!(body.len() > 60_000);
    assert_eq!(cells[0], cell("ti", "cnt", Value::Int(2), None, None));
    let mut keys: Vec<_> = cells[1..].iter().map(|cell| cell.key.clone()).collect();
    assert!(
        cells[1..]
            .iter()
            .all(|cell| cell.table == "t1" && cell.expire.is_none())
    );
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), cells.len() - 1);

    let batches = batches(&cells, false, 1200);
    assert_eq!(batches.refused, 0);
    let mut read = Vec::new();
    for body in &batches.bodies {
        assert!(body.len() <= 1200);
        let Ok((TableMessage::Cells(cells), None)) = TableMessage::decode(body) else {
            panic!("no batch");
        };
        read.extend(cells);
    }
    assert_eq!(read, cells);
}
