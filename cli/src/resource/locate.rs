//! Finds the line of a field in a YAML text.
//!
//! The reader tells the place of an error. So the text is read once more, by a reader that follows
//! the path and fails where it ends.

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Returns the line, from 1, of the field at `path` in the document with this index; of the nearest
/// field around it, if the document does not have it.
pub(super) fn line(text: &str, document: usize, path: &str) -> Option<usize> {
    let mut steps = steps(path);
    loop {
        let reader = serde_yaml_ng::Deserializer::from_str(text).nth(document)?;
        if let Err(error) = Follow(&steps).deserialize(reader) {
            return error.location().map(|location| location.line());
        }
        steps.pop()?;
    }
}

/// Splits `results[0].set`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, indices) = part.split_once('[').unwrap_or((part, ""));
        steps.push(Step::Key(plain(key)));
        let indices = indices.split('[').map(|index| index.trim_end_matches(']'));
        steps.extend(
            indices
                .filter_map(|index| index.parse().ok())
                .map(Step::Index),
        );
    }
    steps
}

/// Fields have two spellings, `first_response` and `firstResponse`.
fn plain(key: &str) -> String {
    key.replace('_', "").to_ascii_lowercase()
}

struct Follow<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Follow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Follow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((Step::Key(key), rest)) => (Some(key.as_str()), rest),
            // The first key of the document, of which the whole is meant.
            None => (None, &[][..]),
            Some((Step::Index(_), _)) => (Some(""), &[][..]),
        };
        let ends = rest.is_empty();
        while let Some(found) = map.next_key_seed(Key { wanted, ends })? {
            if found {
                map.next_value_seed(Follow(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.0.split_first() else {
            while sequence.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let mut index = 0;
        loop {
            let more = match (index == *wanted, rest) {
                (true, []) => sequence.next_element_seed(Here)?.is_some(),
                (true, rest) => sequence.next_element_seed(Follow(rest))?.is_some(),
                (false, _) => sequence.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Fails at whatever comes next.
struct Here;

impl<'de> DeserializeSeed<'de> for Here {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        Key {
            wanted: None,
            ends: true,
        }
        .deserialize(reader)
        .map(drop)
    }
}

/// Reads a key and tells whether it is the wanted one; fails there if the path ends with it.
struct Key<'a> {
    /// Any, when unset.
    wanted: Option<&'a str>,
    ends: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the field that is looked for")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let found = self.wanted.is_none_or(|wanted| plain(key) == wanted);
        match found && self.ends {
            true => Err(E::custom("here")),
            false => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# routes
name: routes/a
---

name: routes/b
firstResponse: 1s
results:
- set: sets/1
- uri: sip:a
  headers:
    - {name: X,
       value: y}
tags: [a,
  b]
";

    #[test]
    fn lines_are_found() {
        for (document, path, expected) in [
            (0, "name", 2),
            (0, "", 2),
            (1, "", 5),
            (1, "first_response", 6),
            (1, "results", 7),
            (1, "results[0].set", 8),
            (1, "results[1].uri", 9),
            (1, "results[1].headers[0].value", 12),
            (1, "results[1].headers[0]", 11),
            (1, "tags[1]", 14),
        ] {
            assert_eq!(line(TEXT, document, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_found_where_it_would_be() {
        assert_eq!(line(TEXT, 1, "results[1].set"), Some(9));
        assert_eq!(line(TEXT, 1, "results[7].set"), Some(7));
        assert_eq!(line(TEXT, 1, "match.domain"), Some(5));
        assert_eq!(line(TEXT, 2, "name"), None);
    }
}
