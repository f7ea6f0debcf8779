//! What becomes of a list of edits: values in, writes out. Every change that the API makes is decided
//! here, on one state, and made as one commit or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use control::name::Name;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{AppliedAction, Resource, Warning};
use control::view::{Refusal, Resources, View, etag_of, name_of};
use store::Write;

use super::warnings::warnings;
use super::{RESOURCES_MAX, json};
use crate::refused::{Refused, invalid};
use crate::resource::{ACCEPTED, CONFIG, encode, is_of_kind, path_of, strip};
use crate::state::{Seen, State, alive_key, seen_key};

/// Most edits of one request: each is up to two writes, and a commit takes so many.
pub(crate) const EDITS_MAX: usize = 60;

/// How long it is remembered that a member was removed: a node that is cut off for longer comes back as a
/// new one.
const REMOVED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Most removed members that are remembered; beyond it one more is not.
const REMOVED_MAX: usize = 1000;

/// One thing that shall be.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    /// Where it stands in the request: the path of the resource, or of the name.
    pub(crate) at: String,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The resource be as given; its etag, if it has one, be the stored one.
    Put { resource: Resource, mode: Mode },
    /// The resource be gone.
    Delete {
        name: String,
        /// If not empty, must be the stored one.
        etag: String,
        allow_missing: bool,
        /// What becomes of the node, if it is a member.
        node: Node,
    },
}

/// What becomes of the node of a member that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// It stays out until it is started again.
    StaysOut,
    /// It may register again.
    MayReturn,
}

/// Whether a resource must be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Create,
    Update {
        allow_missing: bool,
    },
    /// It may be new or not; what a hand wrote and what does not count yet, or is at fault, stays as it is.
    Register,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    /// None when nothing changes.
    pub(crate) writes: Vec<Write>,
    /// What becomes of each, in the order of the edits.
    pub(crate) applied: Vec<(Name, AppliedAction)>,
    pub(crate) warnings: Vec<Warning>,
    /// What will count; what is new in it has no etag yet.
    pub(crate) after: Resources,
}

/// Decides on edits, or says everything that is wrong with them.
pub(crate) fn decide(state: &State, edits: &[Edit]) -> Result<Decision, Refused> {
    if edits.len() > EDITS_MAX {
        return Err(Refused::Full {
            what: "resources in a request",
            max: EDITS_MAX,
        });
    }
    let names = names(edits)?;
    let mut decision = Decision {
        after: state.resources.clone(),
        ..Decision::default()
    };
    for (edit, name) in edits.iter().zip(&names) {
        let action = match &edit.what {
            What::Put { resource, mode } => put(state, name, resource, *mode, &mut decision)?,
            What::Delete {
                etag,
                allow_missing,
                node,
                ..
            } => delete(state, name, etag, *allow_missing, *node, &mut decision)?,
        };
        decision.applied.push((name.clone(), action));
    }
    if decision.after.by_name.len() > RESOURCES_MAX {
        return Err(Refused::Full {
            what: "resources",
            max: RESOURCES_MAX,
        });
    }
    let view = decision.after.to_view();
    let view = view.map_err(|refusals| refused(refusals, edits, &names))?;
    kinds_stay(state, &names, &view)?;
    decision.warnings = warnings(&state.resources, &decision.after, &view, &names);
    Ok(decision)
}

/// Reads the names of what shall be edited, each of which may come once.
fn names(edits: &[Edit]) -> Result<Vec<Name>, Refused> {
    let mut refusals = Vec::new();
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for Edit { at, what } in edits {
        let (text, field, kind) = match what {
            What::Put { resource, .. } => (name_of(resource), join(at, "name"), Some(resource)),
            What::Delete { name, .. } => (name.as_str(), at.clone(), None),
        };
        let mut refuse = |field: &str, reason: String| {
            refusals.push(Refusal {
                resource: text.to_owned(),
                field: field.to_owned(),
                reason,
            });
        };
        match text.parse::<Name>() {
            _ if kind.is_some_and(|kind| kind.resource.is_none()) => {
                refuse(at, "is of no kind that is known here".to_owned());
            }
            Err(error) => refuse(&field, error.to_string()),
            Ok(name) if kind.is_some_and(|kind| !is_of_kind(kind, &name)) => {
                refuse(&field, "names a resource of another kind".to_owned());
            }
            Ok(name) if !seen.insert(name.clone()) => {
                refuse(&field, format!("{name} comes twice"));
            }
            Ok(name) => names.push(name),
        }
    }
    if refusals.is_empty() {
        Ok(names)
    } else {
        Err(Refused::Invalid(refusals))
    }
}

fn put(
    state: &State,
    name: &Name,
    resource: &Resource,
    mode: Mode,
    decision: &mut Decision,
) -> Result<AppliedAction, Refused> {
    let existing = state.resources.by_name.get(name).map(Arc::as_ref);
    match (existing, mode) {
        (Some(_), Mode::Create) => return Err(Refused::Exists(name.to_string())),
        (None, Mode::Update { allow_missing }) if !allow_missing => {
            return Err(Refused::NotFound(name.to_string()));
        }
        (Some(_) | None, Mode::Create | Mode::Update { .. } | Mode::Register) => {}
    }
    check_etag(name, etag_of(resource), existing)?;
    let mut wanted = resource.clone();
    strip(&mut wanted);
    let same = existing.is_some_and(|existing| {
        let mut existing = existing.clone();
        strip(&mut existing);
        existing == wanted
    });
    let path = path_of(name);
    let value = encode(&wanted);
    // A hand wrote something else that does not count (yet).
    let differs = state.written.differs(&path);
    let keeps_wish = differs && mode == Mode::Register;
    if (!same || differs) && !keeps_wish {
        decision.write(CONFIG, &path, Some(value.clone()));
    }
    if !same || differs && !keeps_wish {
        decision.write(ACCEPTED, &path, Some(value));
        let held = (Arc::new(name.clone()), Arc::new(wanted));
        decision.after.by_name.extend([held]);
    }
    Ok(match existing {
        Some(_) if same => AppliedAction::Unchanged,
        Some(_) => AppliedAction::Updated,
        None => AppliedAction::Created,
    })
}

fn delete(
    state: &State,
    name: &Name,
    etag: &str,
    allow_missing: bool,
    node: Node,
    decision: &mut Decision,
) -> Result<AppliedAction, Refused> {
    let existing = state.resources.by_name.get(name).map(Arc::as_ref);
    let path = path_of(name);
    check_etag(name, etag, existing)?;
    if existing.is_none() && !state.written.is_wanted(&path) {
        return if allow_missing {
            Ok(AppliedAction::Unchanged)
        } else {
            Err(Refused::NotFound(name.to_string()))
        };
    }
    decision.write(CONFIG, &path, None);
    if existing.is_some() {
        decision.write(ACCEPTED, &path, None);
    }
    decision.after.by_name.remove(name);
    decision.writes.extend(forget(state, name, node));
    Ok(AppliedAction::Deleted)
}

/// Returns what becomes of what is known of a member's life, when it is removed.
pub(crate) fn forget(state: &State, name: &Name, node: Node) -> Vec<Write> {
    let Name::Member(id) = name else {
        return Vec::new();
    };
    let mut writes = Vec::new();
    if let Some(seen) = state.seen.get(id.as_str()) {
        let removed = state.seen.values().filter(|seen| seen.removed);
        let key = seen_key(id);
        writes.push(match node {
            Node::StaysOut if removed.count() < REMOVED_MAX => Write::PutLeased {
                key,
                value: json(&Seen {
                    removed: true,
                    ..Seen::clone(seen)
                }),
                lease: REMOVED_FOR,
            },
            Node::StaysOut | Node::MayReturn => Write::Delete { key },
        });
    }
    if state.alive.contains_key(id.as_str()) {
        let key = alive_key(id);
        writes.push(Write::Delete { key });
    }
    writes
}

impl Decision {
    fn write(&mut self, prefix: &str, path: &str, value: Option<Vec<u8>>) {
        let key = format!("{prefix}{path}");
        self.writes.push(match value {
            Some(value) => Write::Put { key, value },
            None => Write::Delete { key },
        });
    }
}

fn check_etag(name: &Name, given: &str, existing: Option<&Resource>) -> Result<(), Refused> {
    let stored = existing.map_or("", etag_of);
    if given.is_empty() || given == stored {
        return Ok(());
    }
    Err(Refused::Etag {
        name: name.to_string(),
        stored: stored.to_owned(),
    })
}

/// Tells what the request got wrong from what stays and refers to what it takes away.
fn refused(refusals: Vec<Refusal>, edits: &[Edit], names: &[Name]) -> Refused {
    let places: BTreeMap<String, &str> = edits
        .iter()
        .zip(names)
        .filter(|(edit, _)| matches!(edit.what, What::Put { .. }))
        .map(|(edit, name)| (name.to_string(), edit.at.as_str()))
        .collect();
    let (mut own, others): (Vec<_>, Vec<_>) = refusals
        .into_iter()
        .partition(|refusal| places.contains_key(&refusal.resource));
    if own.is_empty() {
        if places.len() < edits.len() {
            return Refused::Referenced(others);
        }
        // One that stays does not go together with one that came.
        let [(name, at), ..] = &places.iter().collect::<Vec<_>>()[..] else {
            return Refused::Invalid(others);
        };
        let clash = |refusal: Refusal| Refusal {
            resource: (*name).clone(),
            field: join(at, &refusal.field),
            reason: refusal.to_string(),
        };
        return Refused::Invalid(others.into_iter().map(clash).collect());
    }
    for refusal in &mut own {
        let at = places.get(&refusal.resource).copied();
        refusal.field = join(at.unwrap_or_default(), &refusal.field);
    }
    Refused::Invalid(own)
}

/// What a member does never changes: others have built on it.
fn kinds_stay(state: &State, names: &[Name], view: &View) -> Result<(), Refused> {
    for name in names {
        let before = state.resources.by_name.get(name).map(Arc::as_ref);
        let (Some(Kind::Member(before)), Some(after)) = (
            before.and_then(|before| before.resource.as_ref()),
            view.member(name.id()),
        ) else {
            continue;
        };
        if before.kind() != after.kind.into() {
            return Err(Refused::Kind(name.to_string()));
        }
    }
    Ok(())
}

/// Joins two parts of a field's path, of which either may be empty.
pub(crate) fn join(at: &str, field: &str) -> String {
    match (at, field) {
        ("", field) => field.to_owned(),
        (at, "") => at.to_owned(),
        (at, field) => format!("{at}.{field}"),
    }
}

/// Reads a name that must be of one kind.
pub(crate) fn parse<R: crate::resource::Managed>(text: &str, field: &str) -> Result<Name, Refused> {
    let name: Name = text
        .parse()
        .map_err(|error: control::name::NameError| invalid(text, field, error.to_string()))?;
    if R::owns(&name) {
        Ok(name)
    } else {
        Err(invalid(text, field, format!("names no {}", R::NAME)))
    }
}
