//! What is wrong with a document as such: fields that do not exist, words that are no value, with
//! what would be right. Whether values are good together only the registry knows.

use prost_reflect::{
    DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};
use serde_yaml_ng::{Mapping, Value};
use similar::get_close_matches;

/// How alike a word must be to be meant.
const ALIKE: f32 = 0.6;

/// Something wrong at a path such as `results[0].set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) path: String,
    pub(super) reason: String,
}

/// Reads a message; every mistake that can be told apart is told.
pub(super) fn read(
    mapping: Mapping,
    message: &MessageDescriptor,
) -> Result<DynamicMessage, Vec<Mistake>> {
    let mut checker = Checker::default();
    checker.message(&mapping, message, "");
    if !checker.0.is_empty() {
        return Err(checker.0);
    }
    let mut track = serde_path_to_error::Track::new();
    let reader = serde_path_to_error::Deserializer::new(Value::Mapping(mapping), &mut track);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(message.clone(), reader, &options).map_err(|error| {
        vec![Mistake {
            path: track.path().to_string(),
            reason: error.to_string(),
        }]
    })
}

#[derive(Debug, Default)]
struct Checker(Vec<Mistake>);

impl Checker {
    fn refuse(&mut self, path: &str, reason: String) {
        self.0.push(Mistake {
            path: path.to_owned(),
            reason,
        });
    }

    fn message(&mut self, mapping: &Mapping, message: &MessageDescriptor, path: &str) {
        for (key, value) in mapping {
            let Some(key) = key.as_str() else {
                self.refuse(path, "the name of a field is text".to_owned());
                continue;
            };
            let path = match path {
                "" => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            let field = message.get_field_by_json_name(key);
            match field.or_else(|| message.get_field_by_name(key)) {
                Some(field) => self.field(value, &field, &path),
                None => self.refuse(&path, unknown(key, message)),
            }
        }
    }

    fn field(&mut self, value: &Value, field: &FieldDescriptor, path: &str) {
        let kind = field.kind();
        if value.is_null() {
            // The same as unset.
        } else if !field.is_list() {
            self.value(value, &kind, path);
        } else if let Some(values) = value.as_sequence() {
            for (i, value) in values.iter().enumerate() {
                self.value(value, &kind, &format!("{path}[{i}]"));
            }
        } else {
            self.refuse(path, "must be a list: \"- \" before each".into());
        }
    }

    fn value(&mut self, value: &Value, kind: &Kind, path: &str) {
        if let Some(message) = kind.as_message() {
            if message.full_name() == "google.protobuf.Duration" {
                if !value.as_str().is_some_and(is_duration) {
                    let found = serde_yaml_ng::to_string(value).unwrap_or_default();
                    let reason = "is no duration: seconds with an s, such as 0.2s or 30s";
                    self.refuse(path, format!("{} {reason}", found.trim_end()));
                }
            } else if let Some(mapping) = value.as_mapping() {
                self.message(mapping, message, path);
            } else {
                self.refuse(path, format!("must have fields: {}", fields(message)));
            }
        } else if let Some(enumeration) = kind.as_enum() {
            match value.as_str() {
                Some(word) if enumeration.get_value_by_name(word).is_some() => {}
                word => self.refuse(path, no_such_value(word, enumeration)),
            }
        } else if matches!(kind, Kind::String) && !value.is_string() {
            let reason = match value.is_number() || value.is_bool() {
                true => "is no text as it stands here: put it in quotes",
                false => "must be text",
            };
            self.refuse(path, reason.into());
        }
    }
}

fn is_duration(text: &str) -> bool {
    let number = text.strip_suffix('s');
    number.is_some_and(|number| {
        let plain = |b: u8| b.is_ascii_digit() || b == b'.' || b == b'-';
        number.bytes().all(plain) && number.parse::<f64>().is_ok()
    })
}

fn unknown(key: &str, message: &MessageDescriptor) -> String {
    let names: Vec<_> = message.fields().collect();
    let names: Vec<&str> = names.iter().map(FieldDescriptor::json_name).collect();
    let (title, known) = (message.name(), names.join(", "));
    match get_close_matches(key, &names, 1, ALIKE).first() {
        Some(near) => format!("{title} has no such field; did you mean {near}?"),
        None => format!("{title} has no such field; it has {known}"),
    }
}

fn fields(message: &MessageDescriptor) -> String {
    let names = message.fields().map(|field| field.json_name().to_owned());
    names.collect::<Vec<_>>().join(", ")
}

fn no_such_value(word: Option<&str>, enumeration: &EnumDescriptor) -> String {
    let values: Vec<_> = enumeration.values().collect();
    let names: Vec<&str> = values.iter().skip(1).map(|value| value.name()).collect();
    let upper = word.unwrap_or_default().to_ascii_uppercase();
    let ends = |name: &&&str| !upper.is_empty() && name.ends_with(&format!("_{upper}"));
    let near = names.iter().find(ends).copied();
    let near = near.or_else(|| {
        get_close_matches(upper.as_str(), &names, 1, ALIKE)
            .first()
            .copied()
    });
    let said = match word {
        Some(word) => format!("{word:?} is no value of it"),
        None => "must be a word".to_owned(),
    };
    match near {
        Some(near) => format!("{said}; did you mean {near}?"),
        None => format!("{said}; it is one of {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Kind as ResourceKind;

    fn said(word: &str, text: &str) -> Vec<String> {
        let mapping: Mapping = serde_yaml_ng::from_str(text).unwrap();
        let message = &ResourceKind::called(word).unwrap().message;
        let mistakes = read(mapping, message).unwrap_err();
        let said = mistakes.iter().map(|m| format!("{}: {}", m.path, m.reason));
        said.collect()
    }

    #[test]
    fn every_mistake_says_what_would_be_right() {
        assert_eq!(
            said(
                "set",
                "name: sets/1\nalgoritm: 4\nfirst_response: 200ms\nselector: {kind: router}"
            ),
            [
                "algoritm: DestinationSet has no such field; did you mean algorithm?",
                "first_response: 200ms is no duration: seconds with an s, such as 0.2s or 30s",
                "selector.kind: \"router\" is no value of it; did you mean MEMBER_KIND_ROUTER?",
            ]
        );
        assert_eq!(
            said(
                "route",
                "name: routes/a\nmatch: {calledPrefix: +49, x: 1}\nresults: {set: sets/1}"
            ),
            [
                "match.calledPrefix: is no text as it stands here: put it in quotes",
                "match.x: RouteMatch has no such field; it has domain, calledPrefix, callingPrefix, source, trunk",
                "results: must be a list: \"- \" before each",
            ]
        );
    }

    #[test]
    fn numbers_out_of_their_type_have_a_path() {
        let said = said("route", "name: routes/a\npriority: 3000000000");
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("priority: "), "{said:?}");
    }

    #[test]
    fn both_spellings_of_a_field_are_read() {
        let message = &ResourceKind::called("set").unwrap().message;
        for text in ["detectWithin: 0.3s", "detect_within: 0.3s"] {
            let mapping = serde_yaml_ng::from_str(text).unwrap();
            let read = read(mapping, message).unwrap();
            assert!(read.has_field_by_name("detect_within"), "{text}");
        }
    }
}
