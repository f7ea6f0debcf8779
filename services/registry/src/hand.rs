//! What becomes of values that hands wrote below `config/`: what fits goes to `accepted/`, what does not
//! is explained in `faults/`. Values in, writes out; whichever registry sees them first commits them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use control::name::Name;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{Fault, Resource};
use control::view::{Refusal, Resources, check, name_of};
use store::{Point, VALUE_BYTES_MAX, Write};

use crate::batch::Batch;
use crate::bounded::bounded;
use crate::catalog::{Node, RESOURCES_MAX, forget};
use crate::resource::{ACCEPTED, decode, is_of_kind, name_of_path};
use crate::state::State;
use crate::written::FAULTS;

/// Most values that are looked at at a time.
const LOOKED_AT_MAX: usize = 1000;
/// Most trials at a time of what fits: each looks at everything that counts.
const TRIALS_MAX: usize = 100;

/// What a hand wants.
struct Wish {
    path: String,
    name: Arc<Name>,
    /// The value and what it says; nothing for a deletion.
    value: Option<(Vec<u8>, Arc<Resource>)>,
}

/// What is to be done next about values that hands wrote.
#[derive(Debug)]
pub(crate) enum Next {
    /// To make these writes, as one commit, and to look again.
    Write(Vec<Write>),
    /// To look at those that have had no turn yet.
    Look,
    /// Nothing: every value counts or is explained.
    Rest,
}

/// The paths that were looked at and are explained since anything changed by which they might fit: however
/// many there are, everyone gets its turn.
#[derive(Debug, Default)]
pub(crate) struct Round {
    since: Option<Point>,
    explained: BTreeSet<String>,
}

impl Round {
    fn go_on_at(&mut self, stirred: Point) {
        if self.since != Some(stirred) {
            self.since = Some(stirred);
            self.explained.clear();
        }
    }
}

/// Settles some of what hands wrote.
pub(crate) fn settle(state: &State, round: &mut Round, now: SystemTime) -> Next {
    round.go_on_at(state.stirred);
    let (mut wishes, mut faults) = read(state, round);
    wishes.sort_by_key(|wish| rank(&wish.name, wish.value.is_some()));
    let mut trial = Trial::new(state);
    trial.judge(wishes);
    faults.extend(trial.refused);
    let mut batch = Batch::default();
    for wish in trial.granted {
        if !batch.add(writes(state, wish)) {
            return Next::Write(batch.into_writes());
        }
    }
    explain(state, round, faults, now, &mut batch);
    let is_explained = |(path, _): (&str, _)| round.explained.contains(path);
    if !batch.is_empty() {
        Next::Write(batch.into_writes())
    } else if state.written.differing().all(is_explained) {
        Next::Rest
    } else {
        Next::Look
    }
}

/// Returns what makes a wish count.
fn writes(state: &State, wish: Wish) -> Vec<Write> {
    let key = format!("{ACCEPTED}{}", wish.path);
    match wish.value {
        Some((value, _)) => vec![Write::Put { key, value }],
        None => {
            let mut writes = forget(state, &wish.name, Node::StaysOut);
            writes.push(Write::Delete { key });
            writes
        }
    }
}

/// Reads what differs and had no turn yet, first what has no fault: what can be tried, and why the rest
/// cannot.
fn read(state: &State, round: &Round) -> (Vec<Wish>, BTreeMap<String, Vec<Refusal>>) {
    let known: BTreeMap<&str, Option<&Fault>> = state.written.faults().collect();
    let (old, new): (Vec<_>, Vec<_>) = state
        .written
        .differing()
        .filter(|(path, _)| !round.explained.contains(*path))
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

/// Finds out what fits, and in which order, and why the rest does not.
struct Trial {
    /// What counts, with what was granted so far.
    all: Resources,
    trials_left: usize,
    granted: Vec<Wish>,
    /// By path. What is neither here nor granted had no turn.
    refused: BTreeMap<String, Vec<Refusal>>,
}

impl Trial {
    fn new(state: &State) -> Self {
        Self {
            all: state.resources.clone(),
            trials_left: TRIALS_MAX,
            granted: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Judges wishes, in order of their rank.
    ///
    /// Whatever is at fault by its own name is put aside, all of it at once: a thousand destinations
    /// of no set cost no more than one, and hold up nobody. Where the rest does not go together with what
    /// stays, halves of it are tried.
    fn judge(&mut self, mut wishes: Vec<Wish>) {
        while !wishes.is_empty() {
            let mut aside = BTreeMap::new();
            let mut rest = wishes;
            let fits = loop {
                let Some(fits) = self.fits(&rest) else { return };
                let Err(refusals) = fits else { break true };
                let before = rest.len();
                rest = put_aside(rest, refusals, &mut aside);
                if rest.is_empty() || rest.len() == before {
                    break false;
                }
            };
            if rest.is_empty() {
                let refused = aside.into_iter();
                self.refused
                    .extend(refused.map(|(path, (_, refusals))| (path, refusals)));
                return;
            }
            if fits {
                self.grant(rest);
            } else {
                self.halve(rest);
            }
            // They were refused beside everything that was wanted; not all of that came true.
            wishes = aside.into_values().map(|(wish, _)| wish).collect();
            wishes.sort_by_key(|wish| rank(&wish.name, wish.value.is_some()));
        }
    }

    /// Judges wishes that do not fit all together.
    fn halve(&mut self, mut wishes: Vec<Wish>) {
        let latter = wishes.split_off(wishes.len().div_ceil(2));
        for half in [wishes, latter] {
            if half.is_empty() {
                continue;
            }
            match (self.fits(&half), &half[..]) {
                (None, _) => return,
                (Some(Ok(())), _) => self.grant(half),
                (Some(Err(refusals)), [wish]) => {
                    let because = because(wish, refusals);
                    self.refused.insert(wish.path.clone(), because);
                }
                (Some(Err(_)), _) => self.halve(half),
            }
        }
    }

    fn grant(&mut self, wishes: Vec<Wish>) {
        wishes.iter().for_each(|wish| fulfil(&mut self.all, wish));
        self.granted.extend(wishes);
    }

    /// Tells whether these fit; nothing when that was asked too often.
    fn fits(&mut self, wishes: &[Wish]) -> Option<Result<(), Vec<Refusal>>> {
        self.trials_left = self.trials_left.checked_sub(1)?;
        let mut all = self.all.clone();
        wishes.iter().for_each(|wish| fulfil(&mut all, wish));
        Some(fits(&all))
    }
}

/// Takes those values out that are at fault by their own names, with the reasons, by their paths.
fn put_aside(
    wishes: Vec<Wish>,
    refusals: Vec<Refusal>,
    aside: &mut BTreeMap<String, (Wish, Vec<Refusal>)>,
) -> Vec<Wish> {
    let mut by_name: BTreeMap<String, Vec<Refusal>> = BTreeMap::new();
    for refusal in refusals {
        let same = by_name.entry(refusal.resource.clone()).or_default();
        same.push(refusal);
    }
    let mut rest = Vec::new();
    for wish in wishes {
        let named = by_name.get_mut(&wish.name.to_string());
        match named.filter(|_| wish.value.is_some()) {
            Some(refusals) => {
                let refusals = std::mem::take(refusals);
                aside.insert(wish.path.clone(), (wish, refusals));
            }
            None => rest.push(wish),
        }
    }
    rest
}

/// Makes it so.
fn fulfil(all: &mut Resources, wish: &Wish) {
    match &wish.value {
        Some((_, resource)) => {
            let held = (Arc::clone(&wish.name), Arc::clone(resource));
            all.by_name.extend([held]);
        }
        None => drop(all.by_name.remove(&wish.name)),
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

/// Adds the writes that make `faults/` say what is wrong now, as many as there is room for.
fn explain(
    state: &State,
    round: &mut Round,
    faults: BTreeMap<String, Vec<Refusal>>,
    now: SystemTime,
    batch: &mut Batch,
) {
    let known: BTreeMap<&str, Option<&Fault>> = state.written.faults().collect();
    for (path, refusals) in faults {
        let resource = name_of_path(&path).map_or_else(|_| path.clone(), |name| name.to_string());
        let fault = Fault {
            resource,
            refusals: bounded(refusals).into_iter().map(Into::into).collect(),
            seen_time: Some(now.into()),
        };
        let known = known.get(path.as_str()).copied().flatten();
        if known.is_some_and(|known| {
            known.resource == fault.resource && known.refusals == fault.refusals
        }) {
            round.explained.insert(path);
            continue;
        }
        let value = control::json::encode(&fault).into_bytes();
        let key = format!("{FAULTS}{path}");
        if !batch.add([Write::Put { key, value }]) {
            return;
        }
    }
    // What was not looked at this time may still be at fault.
    let healed = known
        .into_keys()
        .filter(|path| !state.written.differs(path));
    for path in healed {
        let key = format!("{FAULTS}{path}");
        if !batch.add([Write::Delete { key }]) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
