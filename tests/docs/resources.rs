//! The fields of the resources: what they are from the proto files, their limits and defaults from
//! what values are checked by.

use std::collections::BTreeSet;

use control::view::{Field, fields};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::comments::above;
use crate::{Table, head, row};

const HEAD: [&str; 6] = [
    "field",
    "unit, range",
    "default",
    "a change counts",
    "what it is",
    "what a wrong value does",
];

/// What every resource has, and the file says once.
const OF_ALL: [&str; 2] = ["name", "etag"];

/// Returns a table of each kind of resource, named as its message.
pub(crate) fn tables() -> Vec<Table> {
    let resource = control::json::pool()
        .get_message_by_name("tandem.registry.v1.Resource")
        .unwrap();
    let mut tables = Tables {
        rows: fields(),
        used: BTreeSet::new(),
    };
    let kinds = resource.fields().map(|field| message_of(&field).unwrap());
    let made: Vec<Table> = kinds
        .map(|kind| (kind.name().to_owned(), tables.of(&kind)))
        .collect();
    for row in &tables.rows {
        let name = (row.message, row.name);
        assert!(tables.used.contains(&name), "{name:?} is no field");
    }
    made
}

struct Tables {
    rows: Vec<Field>,
    used: BTreeSet<(&'static str, &'static str)>,
}

impl Tables {
    fn of(&mut self, kind: &MessageDescriptor) -> String {
        let mut table = head(&HEAD);
        self.add(&mut table, kind, "");
        table
    }

    fn add(&mut self, table: &mut String, message: &MessageDescriptor, prefix: &str) {
        let is_of_all =
            |field: &FieldDescriptor| prefix.is_empty() && OF_ALL.contains(&field.name());
        for field in message.fields().filter(|field| !is_of_all(field)) {
            let path = format!("{prefix}{}", field.name());
            *table += &self.line(&field, &path);
            if let Some(inner) = message_of(&field) {
                let brackets = if field.is_list() { "[]" } else { "" };
                self.add(table, &inner, &format!("{path}{brackets}."));
            }
        }
    }

    fn line(&mut self, field: &FieldDescriptor, path: &str) -> String {
        let (message, name) = (field.parent_message(), field.name());
        let is_it = |row: &&Field| (row.message, row.name) == (message.name(), name);
        let row_of = self.rows.iter().find(is_it);
        let said = row_of.unwrap_or_else(|| {
            panic!(
                "{}.{name} has no row in crates/control/src/view/fields.rs",
                message.name()
            )
        });
        self.used.insert((said.message, said.name));
        let values = if let Kind::Enum(kind) = field.kind() {
            let values = kind.values().filter(|value| value.number() != 0);
            let values = values.map(|value| format!("`{}`", value.name()));
            values.collect::<Vec<_>>().join(", ")
        } else if message_of(field).is_some() && said.values.is_empty() {
            "its own fields".to_owned()
        } else {
            said.values.clone()
        };
        assert!(!values.is_empty(), "{path} has no unit");
        assert!(
            !said.wrong.is_empty(),
            "{path}: what does a wrong value do?"
        );
        row(&[
            &format!("`{path}`"),
            &values,
            &said.unset,
            said.counts,
            &what_it_is(field, said),
            said.wrong,
        ])
    }
}

/// Returns the comment in the proto file without the sentence that says limit and default, which must
/// be the one that the checks go by.
fn what_it_is(field: &FieldDescriptor, said: &Field) -> String {
    let file = field.parent_message().parent_file();
    let comment = above(&file, field.path());
    let name = field.full_name();
    assert!(!comment.is_empty(), "{name} has no comment");
    let Some(sentence) = said.sentence() else {
        return comment;
    };
    let rest = comment.strip_suffix(&sentence).unwrap_or_else(|| {
        panic!("the comment of {name} must end in {sentence:?}, as the checks have it: {comment}")
    });
    rest.trim_end().to_owned()
}

/// Returns the message that a field holds, unless it is one of Google's.
fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let kind = field.kind();
    let message = kind.as_message()?;
    (!message.full_name().starts_with("google.")).then(|| message.clone())
}
