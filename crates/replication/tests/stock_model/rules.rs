//! What must never be told a Kamailio (PROTOCOL 9.9, checklist 11), read by another reader of JSON.

use serde_json::Value;

/// Asserts that a body crashes no Kamailio and makes none complain of a field.
pub fn check(channel: &str, body: &[u8]) {
    let body = std::str::from_utf8(body).unwrap();
    let value: Value = serde_json::from_str(body).unwrap();
    let object = value.as_object().expect("an object");
    assert!(!object.is_empty(), "an empty object crashes 5.6.3");
    match channel {
        "dialog" => object.iter().for_each(|(name, value)| dialog(name, value)),
        "htable" => object.iter().for_each(|(name, value)| table(name, value)),
        other => panic!("channel {other}"),
    }
    if channel == "dialog" && object["action"] == 1 {
        for name in ["callid", "from_uri", "to_uri", "req_uri", "tag1"] {
            assert!(object[name].is_string(), "{name} in {body}");
        }
        for name in ["init_ts", "start_ts", "lifetime", "state"] {
            assert!(object[name].is_u64(), "{name} in {body}");
        }
        assert_ne!(object["h_id"], 0);
        assert_ne!(object["state"], 3, "5.6.3 refuses state 3");
    }
}

fn dialog(name: &str, value: &Value) {
    match name {
        "action" | "h_entry" | "h_id" | "state" | "lifetime" | "iflags" => {
            assert!(value.as_u64().is_some_and(|it| it <= u64::from(u32::MAX)));
        }
        "last_modified" | "init_ts" | "start_ts" => assert!(value.is_u64(), "{name}: {value}"),
        "callid" | "from_uri" | "to_uri" | "req_uri" | "tag1" | "cseq1" | "route_set1"
        | "contact1" | "tag2" | "cseq2" | "route_set2" | "contact2" => {
            assert!(value.is_string(), "{name}: {value}");
        }
        "vars" => {
            let variables = value.as_object().expect("vars is an object");
            assert!(variables.values().all(Value::is_string));
        }
        "profiles" => {
            let text = value.as_str().expect("profiles is a string");
            let inner: Value = serde_json::from_str(text).unwrap();
            assert!(inner["profiles"].is_array());
        }
        other => panic!("no Kamailio knows {other}"),
    }
}

fn table(name: &str, value: &Value) {
    match name {
        "action" => assert!((1..=6).contains(&value.as_u64().unwrap())),
        "htname" | "cname" | "strval" => assert!(value.is_string(), "{name}: {value}"),
        "type" => assert!(*value == 0 || *value == 2),
        "mode" => assert!(*value == 0 || *value == 1),
        "intval" => assert!(i32::try_from(value.as_i64().unwrap()).is_ok()),
        "last_modified" => assert!(value.as_u64().is_some_and(|it| it > 0)),
        "cells" => {
            for cell in value.as_array().expect("cells is an array") {
                let cell = cell.as_object().expect("a cell is an object");
                for name in ["htname", "cname", "type", "expire"] {
                    assert!(cell.contains_key(name), "a cell inherits {name}");
                }
                for (name, value) in cell {
                    match name.as_str() {
                        "expire" => assert!(value.is_u64()),
                        name => table(name, value),
                    }
                }
            }
        }
        other => panic!("no Kamailio knows {other}"),
    }
}
