//! What the store says, in memory: the resources with who is alive, and which names the latest
//! generations touched. Immutable; every commit makes the next one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use control::name::Name;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{Liveness, Position};
use control::view::Resources;
use serde::{Deserialize, Serialize};
use store::{Commit, Entry, Listing, Point};

use crate::resource::{decode, name_of_key};

/// Generations whose touched names are remembered; a node further behind gets a snapshot.
const HISTORY_GENERATIONS_MAX: usize = 1024;

/// Durable: the last incarnation of a member, `seen/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) incarnation: u64,
}

/// Leased: a member that lives, `alive/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alive {
    pub(crate) session: String,
}

/// A value in the store that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{key} in the store is damaged")]
pub(crate) struct DamagedError {
    key: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) resources: Resources,
    /// The commit that it shows; a write is decided on it and made for it.
    pub(crate) at: Point,
    pub(crate) position: Position,
    pub(crate) seen: BTreeMap<String, Seen>,
    pub(crate) alive: BTreeMap<String, Alive>,
    /// Generations in order without a gap, and the names that each touched.
    touched: VecDeque<(u64, Arc<[Name]>)>,
}

pub(crate) fn seen_key(id: &str) -> String {
    format!("seen/{id}")
}

pub(crate) fn alive_key(id: &str) -> String {
    format!("alive/{id}")
}

impl State {
    pub(crate) fn from_listing(
        listing: &Listing,
        cluster_key: [u8; 16],
    ) -> Result<Self, DamagedError> {
        let resources = Resources {
            generation: listing.at.generation,
            cluster_key,
            ..Resources::default()
        };
        let mut state = Self {
            resources,
            at: listing.at,
            ..Self::default()
        };
        for entry in &listing.entries {
            state.put(&entry.key, Some(entry))?;
        }
        let members: Vec<Name> = state.resources.by_name.keys().cloned().collect();
        members.iter().for_each(|name| state.note_liveness(name));
        state.position = state.resources.position();
        Ok(state)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.position.generation
    }

    /// Returns the state after one more commit. A key whose new value cannot be read, which a hand
    /// may have written, stays as it was.
    pub(crate) fn after(&self, commit: &Commit) -> Self {
        let mut next = self.clone();
        let mut touched = BTreeSet::new();
        for (key, entry) in &commit.changes {
            match next.put(key, entry.as_ref()) {
                Ok(name) => touched.extend(name),
                Err(error) => {
                    let reason = error.source.to_string();
                    tracing::error!(key, reason, "a value in the store cannot be read");
                }
            }
        }
        touched.iter().for_each(|name| next.note_liveness(name));
        if next.touched.len() == HISTORY_GENERATIONS_MAX {
            next.touched.pop_front();
        }
        next.touched
            .push_back((commit.at.generation, touched.into_iter().collect()));
        next.at = commit.at;
        next.resources.generation = commit.at.generation;
        next.position = next.resources.position();
        next
    }

    /// Returns the names that were touched after `generation`; `None` when that is forgotten.
    pub(crate) fn touched_since(&self, generation: u64) -> Option<BTreeSet<&Name>> {
        if generation == self.generation() {
            return Some(BTreeSet::new());
        }
        let (oldest, _) = self.touched.front()?;
        if generation + 1 < *oldest || generation > self.generation() {
            return None;
        }
        let later = self
            .touched
            .iter()
            .filter(|(touched_at, _)| *touched_at > generation);
        Some(later.flat_map(|(_, names)| names.iter()).collect())
    }

    /// Takes one key; returns the resource that looks different now.
    fn put(&mut self, key: &str, entry: Option<&Entry>) -> Result<Option<Name>, DamagedError> {
        let damaged = |source| DamagedError {
            key: key.to_owned(),
            source,
        };
        if let Some(name) = name_of_key(key) {
            match entry {
                Some(entry) => {
                    let resource = decode(&name, &entry.value, entry.version);
                    let resource = resource.map_err(|error| damaged(Box::new(error)))?;
                    self.resources.by_name.insert(name.clone(), resource);
                }
                None => drop(self.resources.by_name.remove(&name)),
            }
            return Ok(Some(name));
        }
        let member = |id: &str| Ok(Some(Name::Member(id.to_owned())));
        if let Some(id) = key.strip_prefix("seen/") {
            put_json(&mut self.seen, id, entry).map_err(|error| damaged(Box::new(error)))?;
            return member(id);
        }
        if let Some(id) = key.strip_prefix("alive/") {
            put_json(&mut self.alive, id, entry).map_err(|error| damaged(Box::new(error)))?;
            return member(id);
        }
        Ok(None)
    }

    fn note_liveness(&mut self, name: &Name) {
        let Some(resource) = self.resources.by_name.get_mut(name) else {
            return;
        };
        let Some(Kind::Member(member)) = &mut resource.resource else {
            return;
        };
        let seen = self.seen.get(name.id());
        member.incarnation = seen.map_or(0, |seen| seen.incarnation);
        let liveness = match (self.alive.contains_key(name.id()), seen) {
            (true, _) => Liveness::Alive,
            (false, Some(_)) => Liveness::Gone,
            (false, None) => Liveness::NeverSeen,
        };
        member.set_liveness(liveness);
    }
}

fn put_json<T: for<'de> Deserialize<'de>>(
    map: &mut BTreeMap<String, T>,
    id: &str,
    entry: Option<&Entry>,
) -> Result<(), serde_json::Error> {
    match entry {
        Some(entry) => drop(map.insert(id.to_owned(), serde_json::from_slice(&entry.value)?)),
        None => drop(map.remove(id)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(generation: u64, key: &str, value: Option<&str>) -> Commit {
        let entry = value.map(|value| Entry {
            key: key.into(),
            value: value.into(),
            version: generation,
        });
        Commit {
            at: Point {
                generation,
                mark: 0,
            },
            changes: vec![(key.into(), entry)],
        }
    }

    #[test]
    fn touched_names_are_merged_and_forgotten_in_order() {
        let mut state = State::default();
        for generation in 1..=3 {
            let commit = commit(generation, "config/sets/1", Some(r#"{"name":"sets/1"}"#));
            state = state.after(&commit);
        }
        assert_eq!(state.touched_since(1).unwrap().len(), 1);
        assert_eq!(state.touched_since(0).unwrap().len(), 1);
        assert_eq!(state.touched_since(3).unwrap().len(), 0);
        assert!(state.touched_since(4).is_none(), "nobody can be ahead");
        for generation in 4..=HISTORY_GENERATIONS_MAX as u64 + 1 {
            state = state.after(&commit(generation, "other", None));
        }
        assert!(state.touched_since(0).is_none());
        assert!(state.touched_since(1).is_some());
    }

    #[test]
    fn liveness_follows_lease_and_memory() {
        let liveness =
            |state: &State| match &state.resources.by_name.values().next().unwrap().resource {
                Some(Kind::Member(member)) => (member.liveness(), member.incarnation),
                _ => panic!("a member"),
            };
        let state = State::default().after(&commit(
            1,
            "config/members/a",
            Some(r#"{"name":"members/a"}"#),
        ));
        assert_eq!(liveness(&state), (Liveness::NeverSeen, 0));
        let state = state.after(&commit(2, "seen/a", Some(r#"{"incarnation":7}"#)));
        let state = state.after(&commit(3, "alive/a", Some(r#"{"session":"x"}"#)));
        assert_eq!(liveness(&state), (Liveness::Alive, 7));
        let before = state.position;
        let state = state.after(&commit(4, "alive/a", None));
        assert_eq!(liveness(&state), (Liveness::Gone, 7));
        assert_ne!(before.checksum, state.position.checksum);
        let damaged = state.after(&commit(5, "config/members/a", Some("{")));
        assert_eq!(
            liveness(&damaged),
            (Liveness::Gone, 7),
            "it stays as it was"
        );
        assert_eq!(damaged.generation(), 5);
    }
}
