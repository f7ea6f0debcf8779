//! Field values as cells of a table.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

/// Returns a field of a message in a few words; "-" when it is unset.
pub(crate) fn cell(message: &DynamicMessage, field: &FieldDescriptor) -> String {
    // Text and words may be unset, numbers and flags without presence are what they are.
    let is_what_it_is = !field.supports_presence()
        && !field.is_list()
        && !matches!(
            field.kind(),
            Kind::String | Kind::Enum(_) | Kind::Message(_)
        );
    if !message.has_field(field) && !is_what_it_is {
        return "-".to_owned();
    }
    let text = value(&message.get_field(field), &field.kind());
    let clean = crate::lines::text(text.as_bytes());
    if clean.is_empty() {
        "-".to_owned()
    } else {
        clean
    }
}

fn value(value: &Value, kind: &Kind) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bytes(bytes) => crate::lines::text(bytes),
        Value::EnumNumber(number) => enumerator(*number, kind),
        Value::Message(message) => nested(message),
        Value::List(values) => {
            let values: Vec<_> = values.iter().map(|one| self::value(one, kind)).collect();
            values.join(",")
        }
        Value::I32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Map(map) => format!("{} entries", map.len()),
    }
}

/// `MEMBER_KIND_ROUTER` is `router`; without its name, its number.
fn enumerator(number: i32, kind: &Kind) -> String {
    let Some(descriptor) = kind.as_enum() else {
        return number.to_string();
    };
    let Some(value) = descriptor.get_value(number) else {
        return number.to_string();
    };
    let zero = descriptor.default_value();
    let prefix = zero.name().trim_end_matches("UNSPECIFIED");
    let name = value.name();
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn nested(message: &DynamicMessage) -> String {
    if message.descriptor().full_name() == "google.protobuf.Duration" {
        return duration(message);
    }
    let fields: Vec<_> = message.fields().collect();
    match &fields[..] {
        [(field, only)] => value(only, &field.kind()),
        several => {
            let pairs = several
                .iter()
                .map(|(field, one)| format!("{}={}", field.name(), value(one, &field.kind())));
            pairs.collect::<Vec<_>>().join(" ")
        }
    }
}

fn duration(message: &DynamicMessage) -> String {
    match message.transcode_to::<prost_types::Duration>() {
        Ok(duration) => duration.to_string(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use control::registry::v1::resource::Resource as Known;
    use control::registry::v1::{
        DestinationSet, Member, MemberKind, MemberSelector, Route, RouteMatch, RouteResult,
        SipEndpoint, route_result,
    };

    use super::*;
    use crate::resource::tests::item;

    fn shown(known: Known, field: &str) -> String {
        let item = item(known);
        cell(
            &item.message,
            &item.kind.message.get_field_by_name(field).unwrap(),
        )
    }

    #[test]
    fn cells_are_short() {
        let sip = |address: &str| SipEndpoint {
            side: 1,
            address: address.into(),
        };
        let member = Member {
            kind: MemberKind::StockRouter.into(),
            sip: vec![sip("192.0.2.1:5060"), sip("192.0.2.1:5062")],
            zone: "a\x1b[2J".into(),
            ..Member::default()
        };
        for (field, text) in [
            ("kind", "stock_router"),
            (
                "sip",
                "side=inside address=192.0.2.1:5060,side=inside address=192.0.2.1:5062",
            ),
            ("cell", "-"),
            ("desired_state", "-"),
            ("dmq_port", "0"),
            ("zone", "a\\u{1b}[2J"),
        ] {
            assert_eq!(shown(Known::Member(member.clone()), field), text);
        }
        let route = Route {
            r#match: Some(RouteMatch {
                called_prefix: "49".into(),
                domain: "example.com".into(),
                ..RouteMatch::default()
            }),
            results: vec![RouteResult {
                next_hop: Some(route_result::NextHop::Set("sets/2".into())),
                ..RouteResult::default()
            }],
            ..Route::default()
        };
        assert_eq!(
            shown(Known::Route(route.clone()), "match"),
            "domain=example.com called_prefix=49"
        );
        assert_eq!(shown(Known::Route(route), "results"), "sets/2");
        let set = DestinationSet {
            selector: Some(MemberSelector {
                kind: MemberKind::Router.into(),
                ..MemberSelector::default()
            }),
            first_response: Some(prost_types::Duration {
                seconds: 0,
                nanos: 250_000_000,
            }),
            ..DestinationSet::default()
        };
        assert_eq!(
            shown(Known::DestinationSet(set.clone()), "selector"),
            "router"
        );
        assert_eq!(
            shown(Known::DestinationSet(set), "first_response"),
            "0.250s"
        );
    }
}
