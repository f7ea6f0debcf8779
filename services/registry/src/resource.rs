//! The kinds of resource as one, and where each is stored.

use std::hash::Hasher;

use control::json::DecodeError;
use control::name::{Name, NameError};
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{
    Cell, Destination, DestinationSet, Member, Profile, Resource, Route, TableDefinition, Trunk,
};
use siphasher::sip::SipHasher24;

/// Below this prefix stands what people want.
pub(crate) const CONFIG: &str = "config/";
/// Below this one, under the same names, what counts.
pub(crate) const ACCEPTED: &str = "accepted/";

/// A kind of resource that is read and written through the API.
pub(crate) trait Managed:
    prost::Message + prost::Name + Default + Clone + PartialEq
{
    fn name(&self) -> &str;
    fn etag(&self) -> &str;
    fn set_etag(&mut self, etag: String);
    /// Takes away what the registry alone says.
    fn strip(&mut self);
    fn into_resource(self) -> Resource;
    fn from_resource(resource: &Resource) -> Option<&Self>;
    /// Tells whether a name is of this kind.
    fn owns(name: &Name) -> bool;
}

macro_rules! managed {
    ($($kind:ident, $name:pat, |$value:ident| $strip:expr;)*) => {
        $(impl Managed for $kind {
            fn name(&self) -> &str {
                &self.name
            }

            fn etag(&self) -> &str {
                &self.etag
            }

            fn set_etag(&mut self, etag: String) {
                self.etag = etag;
            }

            fn strip(&mut self) {
                self.etag.clear();
                let $value = self;
                $strip
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
        })*

        /// Takes away what the registry alone says.
        pub(crate) fn strip(resource: &mut Resource) {
            match &mut resource.resource {
                $(Some(Kind::$kind(value)) => value.strip(),)*
                None => {}
            }
        }

        /// Tells whether a name is of the kind that the resource has.
        pub(crate) fn is_of_kind(resource: &Resource, name: &Name) -> bool {
            match &resource.resource {
                $(Some(Kind::$kind(_)) => $kind::owns(name),)*
                None => false,
            }
        }

        /// Returns what is stored of a resource.
        pub(crate) fn encode(resource: &Resource) -> Vec<u8> {
            match &resource.resource {
                $(Some(Kind::$kind(value)) => control::json::encode(value).into_bytes(),)*
                None => Vec::new(),
            }
        }

        /// Reads a stored value into the resource of that name.
        pub(crate) fn decode(name: &Name, value: &[u8]) -> Result<Resource, DecodeError> {
            match name {
                $($name => decode_as::<$kind>(value),)*
            }
        }

        /// Gives a resource its etag.
        pub(crate) fn stamp(resource: &mut Resource, etag: String) {
            match &mut resource.resource {
                $(Some(Kind::$kind(value)) => value.set_etag(etag),)*
                None => {}
            }
        }
    };
}

managed! {
    Cell, Name::Cell(_), |_cell| ();
    Member, Name::Member(_), |member| {
        member.incarnation = 0;
        member.liveness = 0;
    };
    DestinationSet, Name::Set(_), |_set| ();
    Destination, Name::Destination { .. }, |_destination| ();
    Route, Name::Route(_), |_route| ();
    TableDefinition, Name::Table(_), |_table| ();
    Trunk, Name::Trunk(_), |_trunk| ();
    Profile, Name::Profile(_), |_profile| ();
}

/// Returns where below a prefix a resource is stored.
pub(crate) fn path_of(name: &Name) -> String {
    match name {
        Name::Cell(_)
        | Name::Member(_)
        | Name::Profile(_)
        | Name::Route(_)
        | Name::Set(_)
        | Name::Table(_)
        | Name::Trunk(_) => name.to_string(),
        Name::Destination { set, id } => format!("sets/{set}/{id}"),
    }
}

/// Returns the name of the resource that is stored there.
pub(crate) fn name_of_path(path: &str) -> Result<Name, NameError> {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["sets", set, id] => format!("sets/{set}/destinations/{id}").parse(),
        // A destination has one key.
        ["sets", _, _, _] => Err(NameError::Shape),
        _ => path.parse(),
    }
}

/// Returns the etag of a value: it changes with every write and with the content.
pub(crate) fn etag(value: &[u8], version: u64) -> String {
    format!("{version}-{:016x}", digest(value))
}

/// Returns 64 bits that tell values apart.
pub(crate) fn digest(value: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(value);
    hasher.finish()
}

fn decode_as<R: Managed>(value: &[u8]) -> Result<Resource, DecodeError> {
    let mut resource: R = control::json::decode(value)?;
    resource.strip();
    Ok(resource.into_resource())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_map_one_to_one() {
        for (name, path) in [
            ("cells/a", "cells/a"),
            ("members/a", "members/a"),
            ("sets/1", "sets/1"),
            ("sets/1/destinations/a", "sets/1/a"),
            ("routes/a", "routes/a"),
            ("tables/a", "tables/a"),
            ("trunks/a", "trunks/a"),
            ("profiles/sbc", "profiles/sbc"),
        ] {
            let name: Name = name.parse().unwrap();
            assert_eq!(path_of(&name), path);
            assert_eq!(name_of_path(path), Ok(name));
        }
        for path in [
            "sets",
            "sets/1/",
            "sets/1/a/b",
            "sets/1/destinations/a",
            "secrets/a",
            "",
            "sets/A/a",
        ] {
            assert!(name_of_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn an_etag_changes_with_version_and_content() {
        let [a, b] = [br#"{"name":"sets/1"}"#, br#"{"name":"sets/2"}"#];
        assert_ne!(etag(a, 1), etag(a, 2));
        assert_ne!(etag(a, 1), etag(b, 1));
    }

    #[test]
    fn what_only_the_registry_says_is_not_read() {
        let text =
            br#"{"name":"members/a","etag":"x","incarnation":"7","liveness":"LIVENESS_ALIVE"}"#;
        let resource = decode(&"members/a".parse().unwrap(), text).unwrap();
        let member = Member::from_resource(&resource).unwrap();
        let named = Member {
            name: "members/a".into(),
            ..Member::default()
        };
        assert_eq!(*member, named);
    }
}
