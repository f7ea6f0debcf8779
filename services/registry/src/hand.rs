//! What becomes of values that hands wrote below `config/`: what fits goes to `accepted/`, what does not
//! is explained in `faults/`. Values in, writes out; whichever registry sees them first commits them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use control::name::Name;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{Fault, Resource};
use control::view::{Refusal, Resources, check, name_of};
use store::{VALUE_BYTES_MAX, Write};

use crate::catalog::{RESOURCES_MAX, forget};
use crate::resource::{ACCEPTED, decode, is_of_kind, name_of_path};
use crate::state::State;
use crate::written::FAULTS;

/// Most writes at a time; what is left over comes next.
const WRITES_MAX: usize = 100;
/// Most values that are looked at at a time, those without a fault first.
const LOOKED_AT_MAX: usize = 1000;
/// Most of these that are tried one by one, when all together do not fit.
const TRIED_MAX: usize = 200;

/// What a hand wants.
struct Wish {
    path: String,
    name: Arc<Name>,
    /// The value and what it says; nothing for a deletion.
    value: Option<(Vec<u8>, Arc<Resource>)>,
}

/// Returns what is to be written next about values that hands wrote; nothing when all of them are settled.
pub(crate) fn settle(state: &State, now: SystemTime) -> Vec<Write> {
    let (mut wishes, mut faults) = read(state);
    wishes.sort_by_key(|wish| rank(&wish.name, wish.value.is_some()));
    let mut writes = Vec::new();
    let (granted, refused) = grant(state, wishes);
    faults.extend(refused);
    for wish in granted {
        let key = format!("{ACCEPTED}{}", wish.path);
        match wish.value {
            Some((value, _)) => writes.push(Write::Put { key, value }),
            None => {
                writes.push(Write::Delete { key });
                writes.extend(forget(state, &wish.name));
            }
        }
        if writes.len() >= WRITES_MAX {
            return writes;
        }
    }
    writes.extend(explain(state, faults, now));
    writes.truncate(WRITES_MAX);
    writes
}

/// Reads what differs: what can be tried, and why the rest cannot.
fn read(state: &State) -> (Vec<Wish>, BTreeMap<String, Vec<Refusal>>) {
    let known: BTreeMap<&str, Option<&Fault>> = state.written.faults().collect();
    let (old, new): (Vec<_>, Vec<_>) = state
        .written
        .differing()
        .partition(|(path, _)| known.contains_key(path));
    let mut wishes = Vec::new();
    let mut faults = BTreeMap::new();
    for (path, wanted) in new.into_iter().chain(old).take(LOOKED_AT_MAX) {
        match wish(state, path, wanted) {
            Ok(wish) => wishes.push(wish),
            Err(refusals) => drop(faults.insert(path.to_owned(), refusals)),
        }
    }
    (wishes, faults)
}

fn wish(state: &State, path: &str, wanted: Option<&[u8]>) -> Result<Wish, Vec<Refusal>> {
    let refuse = |resource: &str, field: &str, reason: String| {
        vec![Refusal {
            resource: resource.to_owned(),
            field: field.to_owned(),
            reason,
        }]
    };
    let name = match (name_of_path(path), wanted) {
        (Ok(name), _) => name,
        (Err(error), _) => return Err(refuse(path, "", error.to_string())),
    };
    let text = name.to_string();
    let path = path.to_owned();
    let Some(value) = wanted else {
        return Ok(Wish {
            path,
            name: Arc::new(name),
            value: None,
        });
    };
    if value.len() > VALUE_BYTES_MAX {
        let reason = format!("longer than {VALUE_BYTES_MAX} bytes");
        return Err(refuse(&text, "", reason));
    }
    let resource =
        decode(&name, value).map_err(|error| refuse(&text, error.field(), error.reason()))?;
    if name_of(&resource) != text {
        let reason = format!("must be {text:?}, as the key says");
        return Err(refuse(&text, "name", reason));
    }
    check(&resource)?;
    if let (Some(Kind::Member(member)), Some(before)) =
        (&resource.resource, state.resources.by_name.get(&name))
        && let Some(Kind::Member(before)) = &before.resource
        && before.kind() != member.kind()
    {
        return Err(refuse(&text, "kind", "cannot change".to_owned()));
    }
    debug_assert!(is_of_kind(&resource, &name), "it was read as that kind");
    Ok(Wish {
        path,
        name: Arc::new(name),
        value: Some((value.to_owned(), Arc::new(resource))),
    })
}

/// Make before break: what is referred to comes first, and goes last.
fn rank(name: &Name, is_put: bool) -> i8 {
    let rank = match name {
        Name::Cell(_) | Name::Profile(_) | Name::Table(_) | Name::Trunk(_) => 1,
        Name::Member(_) => 2,
        Name::Set(_) => 3,
        Name::Destination { .. } => 4,
        Name::Route(_) => 5,
    };
    if is_put { rank } else { 20 - rank }
}

/// Tells what fits, in order, and why the rest does not.
fn grant(state: &State, wishes: Vec<Wish>) -> (Vec<Wish>, BTreeMap<String, Vec<Refusal>>) {
    let mut all = state.resources.clone();
    for wish in &wishes {
        fulfil(&mut all, wish);
    }
    if fits(&all).is_ok() {
        return (wishes, BTreeMap::new());
    }
    let mut all = state.resources.clone();
    let mut granted = Vec::new();
    let mut waiting: Vec<_> = wishes.into_iter().take(TRIED_MAX).collect();
    loop {
        let mut refused = BTreeMap::new();
        let mut left = Vec::new();
        let before = granted.len();
        for wish in waiting {
            let undo = fulfil(&mut all, &wish);
            match fits(&all) {
                Ok(()) => granted.push(wish),
                Err(refusals) => {
                    match undo {
                        Some(resource) => all.by_name.insert(Arc::clone(&wish.name), resource),
                        None => all.by_name.remove(&wish.name),
                    };
                    refused.insert(wish.path.clone(), because(&wish, refusals));
                    left.push(wish);
                }
            }
        }
        // What was refused may fit with what was granted after it.
        if left.is_empty() || granted.len() == before {
            return (granted, refused);
        }
        waiting = left;
    }
}

/// Makes it so; returns what was there.
fn fulfil(all: &mut Resources, wish: &Wish) -> Option<Arc<Resource>> {
    match &wish.value {
        Some((_, resource)) => all
            .by_name
            .insert(Arc::clone(&wish.name), Arc::clone(resource)),
        None => all.by_name.remove(&wish.name),
    }
}

fn fits(all: &Resources) -> Result<(), Vec<Refusal>> {
    if all.by_name.len() > RESOURCES_MAX {
        return Err(vec![Refusal {
            resource: String::new(),
            field: String::new(),
            reason: format!("at most {RESOURCES_MAX} resources"),
        }]);
    }
    all.to_view().map(drop)
}

/// Says of the wish itself why it does not fit.
fn because(wish: &Wish, refusals: Vec<Refusal>) -> Vec<Refusal> {
    let name = wish.name.to_string();
    let own = refusals.into_iter().map(|refusal| {
        if refusal.resource == name {
            return refusal;
        }
        Refusal {
            resource: name.clone(),
            field: String::new(),
            reason: match wish.value {
                Some(_) => refusal.to_string(),
                None => format!("still counts: {} refers to it", refusal.resource),
            },
        }
    });
    own.collect()
}

/// Returns the writes that make `faults/` say what is wrong now.
fn explain(state: &State, faults: BTreeMap<String, Vec<Refusal>>, now: SystemTime) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut known: BTreeMap<&str, Option<&Fault>> = state.written.faults().collect();
    for (path, refusals) in faults {
        let resource = name_of_path(&path).map_or_else(|_| path.clone(), |name| name.to_string());
        let fault = Fault {
            resource,
            refusals: refusals.into_iter().map(Into::into).collect(),
            seen_time: Some(now.into()),
        };
        let same = known.remove(path.as_str()).flatten().is_some_and(|known| {
            known.resource == fault.resource && known.refusals == fault.refusals
        });
        if !same {
            let value = control::json::encode(&fault).into_bytes();
            let key = format!("{FAULTS}{path}");
            writes.push(Write::Put { key, value });
        }
    }
    // What was not looked at this time may still be at fault.
    let healed = known
        .into_keys()
        .filter(|path| !state.written.differs(path));
    writes.extend(healed.map(|path| Write::Delete {
        key: format!("{FAULTS}{path}"),
    }));
    writes
}

#[cfg(test)]
mod tests;
