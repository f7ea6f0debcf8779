//! proto3 JSON for the messages of this crate: what the store keeps and what people edit.
//!
//! Reading is strict: an unknown field is an error, because in a hand-edited value it is a typo.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};

/// Returns the descriptors of every service and message of this crate.
#[must_use]
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET)
        .expect("the build script made a valid descriptor set")
});

/// Why a text is no such message.
#[derive(Debug, thiserror::Error)]
#[error("not a {message} in proto3 JSON")]
pub struct DecodeError {
    message: &'static str,
    field: String,
    #[source]
    source: serde_json::Error,
}

impl DecodeError {
    /// Returns the path of the field at fault, as in the proto files; empty when it is none.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Returns what is wrong with it.
    #[must_use]
    pub fn reason(&self) -> String {
        self.source.to_string()
    }
}

/// Returns the message as one line of proto3 JSON.
#[must_use]
pub fn encode<M: Message + Name>(message: &M) -> String {
    let mut text = Vec::new();
    write(message, &mut serde_json::Serializer::new(&mut text));
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Returns the message as indented proto3 JSON.
#[must_use]
pub fn encode_pretty<M: Message + Name>(message: &M) -> String {
    let mut text = Vec::new();
    write(message, &mut serde_json::Serializer::pretty(&mut text));
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Reads a message from proto3 JSON.
///
/// # Errors
///
/// Text that is no JSON, or has a field the message does not have, or a value out of its range.
pub fn decode<M: Message + Name + Default>(text: &[u8]) -> Result<M, DecodeError> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let decoded = DynamicMessage::deserialize_with_options(
        descriptor::<M>(),
        serde_path_to_error::Deserializer::new(&mut reader, &mut track),
        &options,
    );
    let dynamic = decoded
        .and_then(|dynamic| reader.end().map(|()| dynamic))
        .map_err(|source| DecodeError {
            message: M::NAME,
            field: field_of(&track.path()),
            source,
        })?;
    Ok(dynamic
        .transcode_to()
        .expect("a message transcodes to the type it was made for"))
}

fn write<M, W, F>(message: &M, out: &mut serde_json::Serializer<W, F>)
where
    M: Message + Name,
    W: std::io::Write,
    F: serde_json::ser::Formatter,
{
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic
        .transcode_from(message)
        .expect("a message transcodes from the type it was made for");
    dynamic
        .serialize_with_options(out, &SerializeOptions::new())
        .expect("a message without Any values is always JSON");
}

/// Says a path in JSON as the proto files do: `sip[0].address`, `first_response`.
fn field_of(path: &serde_path_to_error::Path) -> String {
    let text = path.to_string();
    // What was not read as far as a field is no field.
    let text = text.trim_end_matches(['.', '?']);
    let mut field = String::new();
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            field.push('_');
        }
        field.push(c.to_ascii_lowercase());
    }
    field
}

pub(crate) fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name())
        .expect("every generated message is in the descriptor set")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::v1::{Destination, DestinationSet, Member};

    #[test]
    fn a_message_survives_json() {
        let destination = Destination {
            name: "sets/1/destinations/a".into(),
            uri: "sip:192.0.2.1".into(),
            weight: Some(0),
            ..Default::default()
        };
        let text = encode(&destination);
        assert!(text.contains(r#""weight":0"#), "{text}");
        assert_eq!(decode::<Destination>(text.as_bytes()).unwrap(), destination);
    }

    #[test]
    fn a_typo_is_refused() {
        let error = decode::<DestinationSet>(br#"{"name":"sets/1","algoritm":4}"#).unwrap_err();
        assert!(
            std::error::Error::source(&error)
                .unwrap()
                .to_string()
                .contains("algoritm")
        );
    }

    #[test]
    fn an_error_names_the_field_as_the_proto_files_do() {
        fn field<M: Message + Name + Default + std::fmt::Debug>(text: &str) -> String {
            decode::<M>(text.as_bytes()).unwrap_err().field().to_owned()
        }
        for (text, wanted) in [
            (r#"{"firstResponse":"soon"}"#, "first_response"),
            (r#"{"first_response":"soon"}"#, "first_response"),
            (r#"{"selector":{"tags":"x"}}"#, "selector.tags"),
            (
                r#"{"selector":{"rules":[{},{"weight":-1}]}}"#,
                "selector.rules[1].weight",
            ),
            ("{", ""),
            ("[]", ""),
        ] {
            assert_eq!(field::<DestinationSet>(text), wanted, "{text}");
        }
        assert_eq!(
            field::<Member>(r#"{"sip":[{"side":"TOP"}]}"#),
            "sip[0].side"
        );
        let unknown = decode::<Member>(br#"{"colour":"red"}"#).unwrap_err();
        assert!(unknown.reason().contains("colour"), "{}", unknown.reason());
    }
}
