//! Field masks, as in AIP-134: which fields of a resource an update replaces.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage};

/// Fields that only the registry sets, and the name, which never changes.
const NOT_TO_SET: [&str; 4] = ["name", "etag", "incarnation", "liveness"];

/// Why a path is not one that can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is no such field.
    #[error("is no field")]
    Unknown,
    /// It goes on behind a field that has no fields of its own.
    #[error("has no fields: lists are replaced as a whole")]
    NoMessage,
    /// The registry sets it.
    #[error("is set by the registry alone")]
    OutputOnly,
}

/// Returns `existing` with the fields that `paths` name as they are in `given`; all of `given` when
/// there is no path, or one of them is `*`.
///
/// # Errors
///
/// The number of the first wrong path, and what is wrong with it.
pub fn update<M>(existing: &M, given: &M, paths: &[String]) -> Result<M, (usize, PathError)>
where
    M: Message + Name + Default + Clone,
{
    if paths.is_empty() || paths.iter().any(|path| path == "*") {
        return Ok(given.clone());
    }
    let descriptor = crate::json::descriptor::<M>();
    let [mut result, given] = [existing, given].map(|message| {
        let mut dynamic = DynamicMessage::new(descriptor.clone());
        dynamic
            .transcode_from(message)
            .expect("a message transcodes from the type it was made for");
        dynamic
    });
    for (i, path) in paths.iter().enumerate() {
        check(&descriptor, path).map_err(|error| (i, error))?;
        copy(&mut result, &given, path);
    }
    Ok(result
        .transcode_to()
        .expect("a message transcodes to the type it was made for"))
}

fn check(message: &MessageDescriptor, path: &str) -> Result<(), PathError> {
    if NOT_TO_SET.contains(&path) {
        return Err(PathError::OutputOnly);
    }
    let (first, rest) = split(path);
    let field = message.get_field_by_name(first);
    let field = field.ok_or(PathError::Unknown)?;
    match (rest, field.kind()) {
        (None, _) => Ok(()),
        (Some(rest), Kind::Message(inner)) if !field.is_list() && !field.is_map() => {
            check(&inner, rest)
        }
        (Some(_), _) => Err(PathError::NoMessage),
    }
}

/// Copies what a path that was checked leads to, set or unset.
fn copy(to: &mut DynamicMessage, from: &DynamicMessage, path: &str) {
    let (first, rest) = split(path);
    let Some(field) = to.descriptor().get_field_by_name(first) else {
        return;
    };
    match rest {
        None if from.has_field(&field) => to.set_field(&field, from.get_field(&field).into_owned()),
        None => to.clear_field(&field),
        Some(rest) => {
            let from = from.get_field(&field);
            if let (Some(to), Some(from)) =
                (to.get_field_mut(&field).as_message_mut(), from.as_message())
            {
                copy(to, from, rest);
            }
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::v1::{DestinationSet, MemberSelector, Route, RouteMatch};

    fn set(algorithm: u32, cell: &str, zone: &str) -> DestinationSet {
        DestinationSet {
            name: "sets/1".into(),
            algorithm,
            selector: Some(MemberSelector {
                cell: cell.into(),
                zone: zone.into(),
                ..MemberSelector::default()
            }),
            failures_to_inactive: Some(3),
            ..DestinationSet::default()
        }
    }

    fn updated(paths: &[&str]) -> Result<DestinationSet, (usize, PathError)> {
        let given = DestinationSet {
            failures_to_inactive: None,
            ..set(4, "b", "west")
        };
        let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
        update(&set(0, "a", "east"), &given, &paths)
    }

    #[test]
    fn only_the_named_fields_are_replaced() {
        assert_eq!(updated(&["algorithm"]), Ok(set(4, "a", "east")));
        assert_eq!(updated(&["selector.zone"]), Ok(set(0, "a", "west")));
        let unset = updated(&["selector", "failures_to_inactive"]).unwrap();
        let wanted = DestinationSet {
            failures_to_inactive: None,
            ..set(0, "b", "west")
        };
        assert_eq!(unset, wanted);
        for all in [&["*"][..], &[]] {
            assert_eq!(updated(all).unwrap().algorithm, 4);
            assert_eq!(updated(all).unwrap().failures_to_inactive, None);
        }
    }

    #[test]
    fn a_field_below_one_that_is_unset_is_set_with_it() {
        let given = Route {
            r#match: Some(RouteMatch {
                domain: "a".into(),
                source: "192.0.2.1".into(),
                ..RouteMatch::default()
            }),
            ..Route::default()
        };
        let updated = update(&Route::default(), &given, &["match.domain".into()]).unwrap();
        let found = updated.r#match.unwrap();
        assert_eq!((&*found.domain, &*found.source), ("a", ""));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_told_by_its_number() {
        use PathError::*;
        assert_eq!(updated(&["algorithm", "colour"]), Err((1, Unknown)));
        assert_eq!(updated(&["selector.colour"]), Err((0, Unknown)));
        assert_eq!(updated(&["selector.tags.x"]), Err((0, NoMessage)));
        assert_eq!(updated(&["algorithm.x"]), Err((0, NoMessage)));
        assert_eq!(updated(&[""]), Err((0, Unknown)));
        for path in NOT_TO_SET {
            assert_eq!(updated(&[path]), Err((0, OutputOnly)), "{path}");
        }
    }
}
