//! The kinds of resources: one row each, the rest is in the descriptors.

use std::sync::LazyLock;

use control::name::Name;
use prost_reflect::{FieldDescriptor, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

/// A kind of resource.
#[derive(Debug)]
pub(crate) struct Kind {
    /// What its names begin with; destinations, whose names begin with their set's, by their own part.
    pub(crate) collection: &'static str,
    /// The message, such as `tandem.registry.v1.Route`.
    pub(crate) message: MessageDescriptor,
    /// Where it stands in `tandem.registry.v1.Resource`.
    pub(crate) field: FieldDescriptor,
    /// The fields of the table, beside the name.
    pub(crate) columns: &'static [&'static str],
    /// Kinds of a lower one are made before, and deleted after, those that refer to them.
    pub(crate) rank: u8,
    service: ServiceDescriptor,
}

/// Message, collection, rank, columns.
type Row = (&'static str, &'static str, u8, &'static [&'static str]);

const ROWS: [Row; 8] = [
    (
        "Member",
        "members",
        0,
        &["kind", "address", "cell", "desired_state", "liveness"],
    ),
    (
        "Cell",
        "cells",
        0,
        &["hash_size", "dialog_lifetime", "stock_nodes"],
    ),
    (
        "TableDefinition",
        "tables",
        0,
        &["table", "autoexpire", "replicate", "entries_max"],
    ),
    ("Trunk", "trunks", 0, &["display_name", "networks"]),
    (
        "Profile",
        "profiles",
        0,
        &["log_filter", "drain_timeout", "uri_first_response"],
    ),
    (
        "DestinationSet",
        "sets",
        1,
        &["algorithm", "selector", "first_response", "detect_within"],
    ),
    (
        "Destination",
        "destinations",
        2,
        &["uri", "priority", "weight", "probing", "desired_state"],
    ),
    ("Route", "routes", 3, &["priority", "match", "results"]),
];

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| ROWS.into_iter().map(Kind::new).collect());

/// Returns the message that holds a resource of any kind.
pub(super) fn envelope() -> MessageDescriptor {
    control::json::pool()
        .get_message_by_name("tandem.registry.v1.Resource")
        .expect("the registry's API has it")
}

impl Kind {
    fn new((message, collection, rank, columns): Row) -> Self {
        let full = format!("tandem.registry.v1.{message}");
        let service = format!("{full}Service");
        let pool = control::json::pool();
        let message = pool.get_message_by_name(&full).expect("a known message");
        let is_it = |field: &FieldDescriptor| field.kind().as_message() == Some(&message);
        let field = envelope().fields().find(is_it);
        Self {
            collection,
            field: field.expect("the envelope holds every kind"),
            columns,
            rank,
            service: pool.get_service_by_name(&service).expect("a known service"),
            message,
        }
    }

    /// Returns every kind, in the order in which `get all` shows them.
    pub(crate) fn all() -> &'static [Self] {
        &KINDS
    }

    /// Returns the kind that a name belongs to.
    pub(crate) fn of(name: &Name) -> &'static Self {
        let collection = match name {
            Name::Cell(_) => "cells",
            Name::Member(_) => "members",
            Name::Profile(_) => "profiles",
            Name::Route(_) => "routes",
            Name::Set(_) => "sets",
            Name::Destination { .. } => "destinations",
            Name::Table(_) => "tables",
            Name::Trunk(_) => "trunks",
        };
        let mut all = KINDS.iter();
        all.find(|kind| kind.collection == collection)
            .expect("every name has its row")
    }

    /// Finds a kind by what a person calls it: `routes`, `route`, `Route`.
    pub(crate) fn called(word: &str) -> Option<&'static Self> {
        let lower = word.to_ascii_lowercase();
        KINDS.iter().find(|kind| {
            let title = kind.title().to_ascii_lowercase();
            let singular = kind.collection.trim_end_matches('s');
            [kind.collection, singular, &title].contains(&lower.as_str())
        })
    }

    /// Returns what a document calls it, such as `Route`.
    pub(crate) fn title(&self) -> &str {
        self.message.name()
    }

    /// Returns the method that reads one, and the one that lists all.
    pub(crate) fn methods(&self) -> (MethodDescriptor, MethodDescriptor) {
        let named = |prefix: &str| {
            let mut methods = self.service.methods();
            methods
                .find(|method| method.name().starts_with(prefix))
                .expect("every kind can be read and listed")
        };
        (named("Get"), named("List"))
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.collection == other.collection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_api_has_its_row() {
        let known: Vec<_> = Kind::all().iter().map(|kind| kind.field.number()).collect();
        for field in envelope().fields() {
            assert!(known.contains(&field.number()), "{}", field.full_name());
        }
        assert_eq!(known.len(), envelope().fields().len());
    }

    #[test]
    fn columns_are_fields() {
        for kind in Kind::all() {
            for column in kind.columns {
                let field = kind.message.get_field_by_name(column);
                assert!(field.is_some(), "{}: {column}", kind.title());
            }
            let (get, list) = kind.methods();
            assert_eq!(get.output(), kind.message);
            assert!(list.name().starts_with("List"));
        }
    }

    #[test]
    fn people_say_it_in_their_way() {
        for (word, title) in [
            ("routes", "Route"),
            ("route", "Route"),
            ("set", "DestinationSet"),
            ("DestinationSet", "DestinationSet"),
            ("tables", "TableDefinition"),
            ("trunk", "Trunk"),
            ("profiles", "Profile"),
        ] {
            assert_eq!(Kind::called(word).unwrap().title(), title);
        }
        assert!(Kind::called("trees").is_none());
    }
}
