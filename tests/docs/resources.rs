//! What lives in the registry: the fields of its resources, by the comments of their proto files.

use std::collections::BTreeMap;

use control::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::{Table, head, row};

/// The resources in the order of the file, and the messages that are only found inside them.
const RESOURCES: [(&str, &[&str]); 6] = [
    ("Member", &["SipEndpoint"]),
    ("Cell", &[]),
    ("DestinationSet", &["MemberSelector"]),
    ("Destination", &[]),
    ("Route", &["RouteMatch", "RouteResult", "HeaderField"]),
    ("TableDefinition", &[]),
];
/// The word before what a wrong value does.
const WRONG: &str = "Wrong: ";

/// Returns a table of every resource.
pub(crate) fn tables() -> Vec<Table> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let (messages, words) = (messages(&set), enums(&set));
    let table = |(resource, inner): (&'static str, &[&str])| {
        let mut table = head(&["field", "type", "what it says", "what a wrong value does"]);
        table += &rows(&messages[resource], "", &words);
        for name in inner {
            let field = holder(&messages, resource, name);
            table += &rows(&messages[*name], &format!("{field}."), &words);
        }
        (resource, table)
    };
    RESOURCES.map(table).into()
}

/// A message with the comments of its fields.
struct Commented {
    message: DescriptorProto,
    comments: BTreeMap<usize, String>,
}

fn messages(set: &FileDescriptorSet) -> BTreeMap<String, Commented> {
    let ours = |package: Option<&str>| package == Some("tandem.registry.v1");
    let files = set.file.iter().filter(|file| ours(file.package.as_deref()));
    let mut all = BTreeMap::new();
    for file in files {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let locations: Vec<_> = locations.collect();
        for (number, message) in file.message_type.iter().enumerate() {
            let comment = |field: usize| {
                // File: message_type 4; message: field 2.
                let path = [4, number, 2, field].map(|n| i32::try_from(n).unwrap());
                let location = locations.iter().find(|location| location.path == path);
                let text = location.and_then(|location| location.leading_comments.clone());
                (field, words(&text.unwrap_or_default()))
            };
            let comments = (0..message.field.len()).map(comment).collect();
            let message = message.clone();
            all.insert(message.name().to_owned(), Commented { message, comments });
        }
    }
    all
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Finds the field path of `resource` that holds messages of type `inner`.
fn holder(all: &BTreeMap<String, Commented>, resource: &str, inner: &str) -> String {
    for field in &all[resource].message.field {
        let Some(name) = message_name(field) else {
            continue;
        };
        let path = shown(field);
        if name == inner {
            return path;
        }
        if let Some(message) = all.get(name) {
            let mut deeper = message.message.field.iter();
            if let Some(field) = deeper.find(|field| message_name(field) == Some(inner)) {
                return format!("{path}.{}", shown(field));
            }
        }
    }
    panic!("{resource} has no {inner}");
}

fn message_name(field: &FieldDescriptorProto) -> Option<&str> {
    field.type_name().strip_prefix(".tandem.registry.v1.")
}

fn shown(field: &FieldDescriptorProto) -> String {
    match field.label() {
        Label::Repeated => format!("{}[]", field.json_name()),
        Label::Optional | Label::Required => field.json_name().to_owned(),
    }
}

fn rows(message: &Commented, before: &str, words: &BTreeMap<String, String>) -> String {
    let fields = message.message.field.iter().enumerate();
    let rows = fields.filter_map(|(number, field)| {
        let comment = &message.comments[&number];
        // What stands over every table, and what nobody writes.
        let general = before.is_empty() && ["name", "etag"].contains(&field.name());
        if general || comment.starts_with("Output only") {
            return None;
        }
        let (says, wrong) = comment.split_once(WRONG).unwrap_or_else(|| {
            panic!(
                "{}.{}: what does a wrong value do? its comment ends without {WRONG:?}",
                message.message.name(),
                field.name()
            )
        });
        let name = format!("`{before}{}`", shown(field));
        Some(row(&[&name, &kind(field, words), says.trim_end(), wrong]))
    });
    rows.collect()
}

fn kind(field: &FieldDescriptorProto, words: &BTreeMap<String, String>) -> String {
    let one = match field.r#type() {
        Type::Bool => "true or false",
        Type::String => "text",
        Type::Enum => &words[field.type_name()],
        Type::Message if field.type_name() == ".google.protobuf.Duration" => "duration, as `1.5s`",
        Type::Message => "fields below",
        _ => "number",
    };
    match field.label() {
        Label::Repeated => format!("list: {one}"),
        Label::Optional | Label::Required => one.to_owned(),
    }
}

/// Returns what may stand in fields of an enum type, by the type's full name.
fn enums(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let files = set.file.iter();
    let all = files.flat_map(|file| file.enum_type.iter().map(move |one| (file.package(), one)));
    let all = all.map(|(package, one)| {
        let values = one.value.iter().filter(|value| value.number() != 0);
        let values: Vec<_> = values.map(|value| format!("`{}`", value.name())).collect();
        (format!(".{package}.{}", one.name()), values.join(", "))
    });
    all.collect()
}
