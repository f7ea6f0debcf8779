//! Resources of the registry, of whatever kind: what the descriptors of `tandem.registry.v1` say
//! is enough to read, write and show them.

mod cells;
mod check;
pub(crate) mod document;
mod kind;
mod locate;

use control::registry::v1::Resource;
use prost_reflect::{DynamicMessage, SerializeOptions, Value};

pub(crate) use cells::cell;
pub(crate) use kind::Kind;

/// Fields that the registry alone writes.
const OUTPUT_ONLY: [&str; 3] = ["etag", "incarnation", "liveness"];

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) kind: &'static Kind,
    pub(crate) message: DynamicMessage,
}

impl Item {
    /// Takes a resource out of its envelope; `None` for a kind that is not known here.
    pub(crate) fn from_resource(resource: &Resource) -> Option<Self> {
        let mut envelope = DynamicMessage::new(kind::envelope());
        envelope
            .transcode_from(resource)
            .expect("the same message, as its descriptor has it");
        let (field, value) = envelope.take_fields().next()?;
        let kind = Kind::all().iter().find(|kind| kind.field == field)?;
        let message = value.as_message()?.clone();
        Some(Self { kind, message })
    }

    /// Puts the resource into its envelope.
    pub(crate) fn to_resource(&self) -> Resource {
        let mut envelope = DynamicMessage::new(kind::envelope());
        envelope.set_field(&self.kind.field, Value::Message(self.message.clone()));
        envelope
            .transcode_to()
            .expect("the same message, as its descriptor has it")
    }

    /// Returns its name, such as `routes/x`.
    pub(crate) fn name(&self) -> &str {
        self.text("name")
    }

    /// Returns a text field; empty when it is unset or no text.
    pub(crate) fn text(&self, field: &str) -> &str {
        let field = self.kind.message.get_field_by_name(field);
        let set = field.and_then(|field| {
            let mut fields = self.message.fields();
            fields.find(|(other, _)| *other == field)
        });
        set.and_then(|(_, value)| value.as_str())
            .unwrap_or_default()
    }

    /// Returns what an operator would write: without what the registry alone says.
    pub(crate) fn as_written(&self) -> Self {
        let mut written = self.clone();
        for field in OUTPUT_ONLY {
            if written.kind.message.get_field_by_name(field).is_some() {
                written.message.clear_field_by_name(field);
            }
        }
        written
    }

    /// Returns it as YAML that can be applied.
    pub(crate) fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(&self.as_written().message)
            .expect("a message without Any values is always YAML")
    }

    /// Returns it as one line of proto3 JSON, with what the registry alone says.
    pub(crate) fn to_json(&self) -> String {
        let mut text = Vec::new();
        let mut out = serde_json::Serializer::new(&mut text);
        self.message
            .serialize_with_options(&mut out, &SerializeOptions::new())
            .expect("a message without Any values is always JSON");
        String::from_utf8(text).expect("JSON is UTF-8")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use control::registry::v1::resource::Resource as Known;
    use control::registry::v1::{Member, MemberKind};

    use super::*;

    pub(crate) fn item(known: Known) -> Item {
        let resource = Resource {
            resource: Some(known),
        };
        Item::from_resource(&resource).unwrap()
    }

    #[test]
    fn a_resource_survives_its_envelope() {
        let member = Member {
            name: "members/a".into(),
            kind: MemberKind::Router.into(),
            tags: vec!["x".into()],
            incarnation: 5,
            etag: "7-x".into(),
            ..Member::default()
        };
        let item = item(Known::Member(member.clone()));
        assert_eq!((item.name(), item.kind.title()), ("members/a", "Member"));
        assert_eq!(item.to_resource().resource, Some(Known::Member(member)));
        assert_eq!(
            item.to_yaml(),
            "name: members/a\nkind: MEMBER_KIND_ROUTER\ntags:\n- x\n"
        );
        assert_eq!(
            item.to_json(),
            r#"{"name":"members/a","kind":"MEMBER_KIND_ROUTER","tags":["x"],"incarnation":"5","etag":"7-x"}"#
        );
    }
}
