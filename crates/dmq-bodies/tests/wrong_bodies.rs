//! Bodies that lie about type, length or presence are refused with the answer of a Kamailio; no
//! bytes at all make a reader panic.

use dmq_bodies::{BODY_BYTES_MAX, DecodeError, DialogMessage, Did, TableMessage};
use proptest::prelude::*;

fn table(body: &str) -> DecodeError {
    TableMessage::decode(body.as_bytes()).expect_err(body)
}

fn dialog(body: &str) -> DecodeError {
    DialogMessage::decode(body.as_bytes()).expect_err(body)
}

/// An UPDATE in which one field, `"name":value`, stands in place of the right one.
fn update_with(name: &str, value: &str) -> String {
    let fields = [
        ("action", "1"),
        ("h_entry", "3766"),
        ("h_id", "5109"),
        ("init_ts", "1"),
        ("callid", "\"c\""),
        ("from_uri", "\"f\""),
        ("to_uri", "\"t\""),
        ("req_uri", "\"r\""),
        ("tag1", "\"a\""),
        ("cseq1", "\"1\""),
        ("route_set1", "\"\""),
        ("contact1", "\"\""),
        ("vars", "{\"k\":\"v\"}"),
        ("profiles", "\"{\\\"profiles\\\":[]}\""),
        ("state", "4"),
        ("start_ts", "1"),
        ("lifetime", "1"),
        ("tag2", "\"b\""),
    ];
    let field = |(own, right): &(&str, &str)| {
        let written = if *own == name { value } else { *right };
        format!("\"{own}\":{written}")
    };
    format!(
        "{{{}}}",
        fields.iter().map(field).collect::<Vec<_>>().join(",")
    )
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in ["[]", "1", "\"x\"", "null", "true"] {
        assert_eq!(table(body), DecodeError::NotAnObject);
        assert_eq!(dialog(body), DecodeError::NotAnObject);
    }
    assert_eq!(table(""), DecodeError::NotJson { at: 0 });
    assert_eq!(table("{}"), DecodeError::Missing("action"));
    assert_eq!(dialog("{}"), DecodeError::Missing("action"));
    assert_eq!(table(&" ".repeat(BODY_BYTES_MAX + 1)), DecodeError::TooLong);
}

#[test]
fn a_table_message_with_a_wrong_type_is_refused() {
    let cases = [
        (r#"{"action":"2"}"#, "action"),
        (
            r#"{"action":2,"htname":1,"cname":"k","type":2,"strval":"v","mode":1}"#,
            "htname",
        ),
        (
            r#"{"action":2,"htname":"t","cname":null,"type":2,"strval":"v","mode":1}"#,
            "cname",
        ),
        (
            r#"{"action":2,"htname":"t","cname":"k","type":2,"strval":5,"mode":1}"#,
            "strval",
        ),
        (
            r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":"5","mode":1}"#,
            "intval",
        ),
        (
            r#"{"action":2,"htname":"t","cname":"k","type":[],"intval":5,"mode":1}"#,
            "type",
        ),
        (
            r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":5,"mode":{}}"#,
            "mode",
        ),
        (
            r#"{"action":5,"htname":"t","type":2,"strval":{},"mode":0}"#,
            "strval",
        ),
        (r#"{"cells":{}}"#, "cells"),
        (r#"{"cells":[1]}"#, "cells"),
        (
            r#"{"cells":[{"htname":"t","cname":"k","type":0,"intval":5,"expire":"1"}]}"#,
            "expire",
        ),
    ];
    for (body, field) in cases {
        assert_eq!(table(body), DecodeError::WrongType(field), "{body}");
        assert_eq!(table(body).status(), 400);
    }
}

#[test]
fn a_table_message_that_lacks_something_is_refused() {
    let cases = [
        (r#"{"htname":"t"}"#, "action"),
        (
            r#"{"action":2,"htname":"t","cname":"k","type":2,"intval":5,"mode":1}"#,
            "strval",
        ),
        (
            r#"{"action":2,"htname":"t","cname":"k","type":0,"strval":"v","mode":1}"#,
            "intval",
        ),
        (
            r#"{"action":2,"cname":"k","type":0,"intval":5,"mode":1}"#,
            "htname",
        ),
        (r#"{"action":3,"htname":"t","intval":5}"#, "cname"),
        (r#"{"action":4,"htname":"t"}"#, "cname"),
        (r#"{"action":5,"htname":"t","type":2,"mode":0}"#, "strval"),
        (r#"{"action":6}"#, "htname"),
        (
            r#"{"cells":[{"htname":"t","type":0,"intval":5,"expire":1}]}"#,
            "cname",
        ),
        // A Kamailio takes the value of the cell before.
        (
            r#"{"cells":[{"htname":"t","cname":"k","intval":5},{"htname":"t","cname":"l"}]}"#,
            "intval",
        ),
    ];
    for (body, field) in cases {
        assert_eq!(table(body), DecodeError::Missing(field), "{body}");
        assert_eq!(table(body).status(), 400);
    }
}

#[test]
fn unknown_actions_are_what_a_kamailio_cannot_do() {
    for action in ["0", "7", "8", "9", "-1", "4294967297", "1e300"] {
        let body = format!("{{\"action\":{action},\"htname\":\"t\",\"mode\":0}}");
        assert_eq!(table(&body).status(), 500, "{action}");
    }
    for action in ["5", "-1", "1e300"] {
        let body = format!("{{\"action\":{action}}}");
        assert_eq!(dialog(&body).status(), 500, "{action}");
    }
    for state in ["0", "1", "3", "6"] {
        let body = format!("{{\"action\":2,\"h_entry\":1,\"h_id\":1,\"state\":{state}}}");
        assert_eq!(dialog(&body).status(), 500, "{state}");
    }
}

#[test]
fn an_update_with_a_wrong_type_is_refused() {
    let good = update_with("", "");
    assert!(DialogMessage::decode(good.as_bytes()).is_ok(), "{good}");
    for name in [
        "callid",
        "from_uri",
        "to_uri",
        "req_uri",
        "tag1",
        "cseq1",
        "route_set1",
        "contact1",
        "tag2",
        "profiles",
    ] {
        for value in ["null", "1", "{}", "[\"x\"]", "false"] {
            let body = update_with(name, value);
            assert_eq!(dialog(&body), DecodeError::WrongType(name), "{body}");
            assert_eq!(dialog(&body).status(), 400);
        }
    }
    for name in [
        "h_entry", "h_id", "init_ts", "state", "start_ts", "lifetime",
    ] {
        let body = update_with(name, "\"1\"");
        assert_eq!(dialog(&body), DecodeError::WrongType(name), "{body}");
    }
    for value in ["[]", "\"x\"", "{\"k\":1}", "{\"k\":null}", "{\"k\":{}}"] {
        let body = update_with("vars", value);
        assert_eq!(dialog(&body), DecodeError::WrongType("vars"), "{body}");
    }
    for value in [
        r#""""#,
        r#""[]""#,
        r#""{\"profiles\":{}}""#,
        r#""{\"profiles\":[1]}""#,
    ] {
        let body = update_with("profiles", value);
        assert_eq!(dialog(&body), DecodeError::WrongType("profiles"), "{body}");
    }
}

#[test]
fn an_update_must_name_its_dialog() {
    for name in [
        "callid", "from_uri", "to_uri", "req_uri", "tag1", "h_entry", "h_id", "state",
    ] {
        let body = update_with("", "").replace(&format!("\"{name}\":"), "\"other\":");
        assert_eq!(dialog(&body), DecodeError::Missing(name), "{body}");
    }
    for value in ["0", "-1", "4294967296"] {
        let body = update_with("h_id", value);
        assert_eq!(dialog(&body), DecodeError::OutOfRange("h_id"), "{body}");
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let known = br#"{"action":3,"h_entry":1,"h_id":2,"state":5}"#;
    let more = br#"{"action":3,"extra":{"a":[null]},"h_entry":1,"h_id":2,"state":5,"z":"q"}"#;
    assert_eq!(DialogMessage::decode(more), DialogMessage::decode(known));
    let known = br#"{"action":4,"htname":"t","cname":"k","mode":0}"#;
    let more = br#"{"action":4,"htname":"t","new":1,"cname":"k","mode":0}"#;
    assert_eq!(TableMessage::decode(more), TableMessage::decode(known));
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = TableMessage::decode(&body);
        let _ = DialogMessage::decode(&body);
        let _ = Did::parse(&body);
    }

    /// Text of the right alphabet gets further into the readers.
    #[test]
    fn no_text_like_json_makes_a_reader_panic(
        body in r#"\{("(action|cells|state|vars|profiles|h_id)":|[\[\]{}",:\\u0-9e.-]|null|"k"){0,60}"#
    ) {
        let _ = TableMessage::decode(body.as_bytes());
        let _ = DialogMessage::decode(body.as_bytes());
    }

    /// A message that is cut, or of which one byte is another, is read or refused.
    #[test]
    fn no_damage_makes_a_reader_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = update_with("", "").into_bytes();
        let at = at.index(good.len());
        prop_assert!(DialogMessage::decode(&good[..at]).is_err());
        let mut damaged = good;
        damaged[at] = byte;
        let _ = DialogMessage::decode(&damaged);
    }
}
