//! Resource names: `cells/a`, `members/a`, `sets/1`, `sets/1/destinations/a`, `routes/a`,
//! `tables/a`, `trunks/a`, `profiles/sbc`.

use std::fmt;
use std::str::FromStr;

/// Longest id, in bytes: a DNS label.
pub const ID_BYTES_MAX: usize = 63;

/// The name of a resource. Names order as the registry lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// `cells/{id}`
    Cell(String),
    /// `members/{id}`
    Member(String),
    /// `profiles/{kind}`
    Profile(String),
    /// `routes/{id}`
    Route(String),
    /// `sets/{id}`
    Set(String),
    /// `sets/{set}/destinations/{id}`
    Destination {
        /// Id of the set.
        set: String,
        /// Id in the set.
        id: String,
    },
    /// `tables/{id}`
    Table(String),
    /// `trunks/{id}`
    Trunk(String),
}

/// Why a text is no resource name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Another shape than these.
    #[error(
        "must be cells/ID, members/ID, sets/ID, sets/SET/destinations/ID, routes/ID, tables/ID, \
         trunks/ID or profiles/KIND"
    )]
    Shape,
    /// An id with other characters, or too long, or empty.
    #[error("an id is 1 to 63 of a-z, 0-9 and, inside, the hyphen")]
    Id,
}

impl Name {
    /// Returns the last part: the id by which logs and SIP call the resource.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Cell(id)
            | Self::Member(id)
            | Self::Profile(id)
            | Self::Route(id)
            | Self::Set(id)
            | Self::Destination { id, .. }
            | Self::Table(id)
            | Self::Trunk(id) => id,
        }
    }
}

/// Checks an id: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
///
/// # Errors
///
/// [`NameError::Id`] for anything else.
pub fn check_id(id: &str) -> Result<(), NameError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = (1..=ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(inner)
        && !id.starts_with('-')
        && !id.ends_with('-');
    if good { Ok(()) } else { Err(NameError::Id) }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let name = match parts[..] {
            ["cells", id] => Self::Cell(id.to_owned()),
            ["members", id] => Self::Member(id.to_owned()),
            ["profiles", id] => Self::Profile(id.to_owned()),
            ["routes", id] => Self::Route(id.to_owned()),
            ["tables", id] => Self::Table(id.to_owned()),
            ["trunks", id] => Self::Trunk(id.to_owned()),
            ["sets", id] => Self::Set(id.to_owned()),
            ["sets", set, "destinations", id] => {
                check_id(set)?;
                Self::Destination {
                    set: set.to_owned(),
                    id: id.to_owned(),
                }
            }
            _ => return Err(NameError::Shape),
        };
        check_id(name.id())?;
        Ok(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cell(id) => write!(f, "cells/{id}"),
            Self::Member(id) => write!(f, "members/{id}"),
            Self::Profile(id) => write!(f, "profiles/{id}"),
            Self::Route(id) => write!(f, "routes/{id}"),
            Self::Table(id) => write!(f, "tables/{id}"),
            Self::Trunk(id) => write!(f, "trunks/{id}"),
            Self::Set(id) => write!(f, "sets/{id}"),
            Self::Destination { set, id } => write!(f, "sets/{set}/destinations/{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        for text in [
            "cells/default",
            "members/sbc-1",
            "sets/1",
            "sets/1/destinations/router-a",
            "routes/0",
            "tables/bans",
            "trunks/carrier-1",
            "profiles/sbc",
        ] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        let long = format!("members/{}", "a".repeat(64));
        for text in [
            "members/",
            "members/-a",
            "members/a-",
            "members/A",
            "sets/a_b",
            "sets/Ä/destinations/a",
            &long,
        ] {
            assert_eq!(text.parse::<Name>(), Err(NameError::Id), "{text}");
        }
        for text in [
            "",
            "members",
            "sets/1/a",
            "sets/1/destinations/a/b",
            "/members/a",
        ] {
            assert_eq!(text.parse::<Name>(), Err(NameError::Shape), "{text}");
        }
    }
}
