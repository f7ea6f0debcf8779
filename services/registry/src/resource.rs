//! The kinds of resource as one, and where each is stored.

use std::hash::Hasher;

use control::name::Name;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{
    Cell, Destination, DestinationSet, Member, Resource, Route, TableDefinition,
};
use siphasher::sip::SipHasher24;

/// Below this prefix stands what an operator may change.
const CONFIG: &str = "config/";

/// A kind of resource that is read and written through the API.
pub(crate) trait Managed:
    prost::Message + prost::Name + Default + Clone + PartialEq
{
    fn name(&self) -> &str;
    fn etag(&self) -> &str;
    /// Takes away what the registry alone says.
    fn strip(&mut self);
    fn stamp(&mut self, etag: String);
    fn into_resource(self) -> Resource;
    fn from_resource(resource: &Resource) -> Option<&Self>;
    /// Tells whether a name is of this kind.
    fn owns(name: &Name) -> bool;
}

macro_rules! managed {
    ($kind:ident, $name:pat, |$value:ident| $strip:expr) => {
        impl Managed for $kind {
            fn name(&self) -> &str {
                &self.name
            }

            fn etag(&self) -> &str {
                &self.etag
            }

            fn strip(&mut self) {
                self.etag.clear();
                let $value = self;
                $strip
            }

            fn stamp(&mut self, etag: String) {
                self.etag = etag;
            }

            fn into_resource(self) -> Resource {
                Resource {
                    resource: Some(Kind::$kind(self)),
                }
            }

            fn from_resource(resource: &Resource) -> Option<&Self> {
                if let Some(Kind::$kind(value)) = &resource.resource {
                    Some(value)
                } else {
                    None
                }
            }

            fn owns(name: &Name) -> bool {
                matches!(name, $name)
            }
        }
    };
}

managed!(Cell, Name::Cell(_), |_cell| ());
managed!(Member, Name::Member(_), |member| {
    member.incarnation = 0;
    member.liveness = 0;
});
managed!(DestinationSet, Name::Set(_), |_set| ());
managed!(Destination, Name::Destination { .. }, |_destination| ());
managed!(Route, Name::Route(_), |_route| ());
managed!(TableDefinition, Name::Table(_), |_table| ());

/// Returns the key under which a resource is stored.
pub(crate) fn key_of(name: &Name) -> String {
    match name {
        Name::Cell(_) | Name::Member(_) | Name::Route(_) | Name::Set(_) | Name::Table(_) => {
            format!("{CONFIG}{name}")
        }
        Name::Destination { set, id } => format!("{CONFIG}sets/{set}/{id}"),
    }
}

/// Returns the name of the resource that is stored under a key.
pub(crate) fn name_of_key(key: &str) -> Option<Name> {
    let path = key.strip_prefix(CONFIG)?;
    match path.split('/').collect::<Vec<_>>()[..] {
        ["sets", set, id] => format!("sets/{set}/destinations/{id}").parse().ok(),
        _ => path.parse().ok(),
    }
}

/// Reads a stored value into the resource of that name.
pub(crate) fn decode(
    name: &Name,
    value: &[u8],
    version: u64,
) -> Result<Resource, control::json::DecodeError> {
    match name {
        Name::Cell(_) => decode_as::<Cell>(value, version),
        Name::Member(_) => decode_as::<Member>(value, version),
        Name::Set(_) => decode_as::<DestinationSet>(value, version),
        Name::Destination { .. } => decode_as::<Destination>(value, version),
        Name::Route(_) => decode_as::<Route>(value, version),
        Name::Table(_) => decode_as::<TableDefinition>(value, version),
    }
}

fn decode_as<R: Managed>(
    value: &[u8],
    version: u64,
) -> Result<Resource, control::json::DecodeError> {
    let mut resource: R = control::json::decode(value)?;
    let mut hasher = SipHasher24::new();
    hasher.write(value);
    resource.stamp(format!("{version}-{:016x}", hasher.finish()));
    Ok(resource.into_resource())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_map_one_to_one() {
        for (name, key) in [
            ("cells/a", "config/cells/a"),
            ("members/a", "config/members/a"),
            ("sets/1", "config/sets/1"),
            ("sets/1/destinations/a", "config/sets/1/a"),
            ("routes/a", "config/routes/a"),
            ("tables/a", "config/tables/a"),
        ] {
            let name: Name = name.parse().unwrap();
            assert_eq!(key_of(&name), key);
            assert_eq!(name_of_key(key), Some(name));
        }
        assert_eq!(name_of_key("alive/a"), None);
    }

    #[test]
    fn an_etag_changes_with_version_and_content() {
        let name: Name = "sets/1".parse().unwrap();
        let etag = |text: &str, version| {
            control::view::etag_of(&decode(&name, text.as_bytes(), version).unwrap()).to_owned()
        };
        let first = etag(r#"{"name":"sets/1"}"#, 1);
        assert_ne!(first, etag(r#"{"name":"sets/1"}"#, 2));
        assert_ne!(first, etag(r#"{"name":"sets/1","algorithm":4}"#, 1));
    }
}
