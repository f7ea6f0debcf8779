//! What the store says, in memory: the accepted resources with who is alive, what people want beside
//! them, and which names the latest generations touched. Immutable; every commit makes the next one, which
//! shares with it what stayed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use control::name::Name;
use control::registry::v1::resource::Resource as Kind;
use control::registry::v1::{Liveness, Position};
use control::view::{CLUSTER_KEY_BYTES, Resources};
use serde::{Deserialize, Serialize};
use store::{Commit, Entry, Listing, Point};

use crate::resource::{ACCEPTED, CONFIG, decode, etag, name_of_path, path_of, stamp};
use crate::written::{FAULTS, Written};

/// The secret that ranking and tags are keyed with.
pub(crate) const CLUSTER_KEY: &str = "secrets/cluster-key";
/// Generations whose touched names are remembered; a node further behind gets a snapshot.
const HISTORY_GENERATIONS_MAX: usize = 1024;
/// Deleted names that are remembered; of one that is forgotten a node that missed the deletion thinks that
/// it has vanished.
const DELETED_MAX: usize = 1024;

/// Durable: the last incarnation of a member, `seen/<id>`. Of one that was removed: leased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) incarnation: u64,
    /// When a registry noted that it lives no more, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gone_since: Option<u64>,
    /// Somebody removed it: this incarnation and those before stay out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) removed: bool,
}

/// Leased: a member that lives, `alive/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alive {
    pub(crate) session: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) resources: Resources,
    /// The commit that it shows; a write is decided on it and made for it.
    pub(crate) at: Point,
    pub(crate) position: Position,
    pub(crate) seen: BTreeMap<Arc<str>, Arc<Seen>>,
    pub(crate) alive: BTreeMap<Arc<str>, Arc<Alive>>,
    pub(crate) written: Written,
    /// The commit that changed what people want, or what counts.
    pub(crate) stirred: Point,
    /// Generations in order without a gap, and the names that each touched.
    touched: VecDeque<(u64, Arc<[Name]>)>,
    /// What was deleted and not made again, in the order of the deletions.
    deleted: Arc<VecDeque<Name>>,
}

pub(crate) fn seen_key(id: &str) -> String {
    format!("seen/{id}")
}

pub(crate) fn alive_key(id: &str) -> String {
    format!("alive/{id}")
}

impl State {
    /// Reads a listing. An accepted value that cannot be read, which only a hand can have written, is
    /// missing until the one below `config/` replaces it.
    pub(crate) fn from_listing(listing: &Listing, cluster_key: [u8; 16]) -> Self {
        let resources = Resources {
            generation: listing.at.generation,
            cluster_key,
            ..Resources::default()
        };
        let mut state = Self {
            resources,
            at: listing.at,
            stirred: listing.at,
            ..Self::default()
        };
        for entry in &listing.entries {
            state.put(&entry.key, Some(entry));
        }
        let members: Vec<Arc<Name>> = state.resources.by_name.keys().cloned().collect();
        members.iter().for_each(|name| state.note_liveness(name));
        state.position = state.resources.position();
        state
    }

    pub(crate) fn generation(&self) -> u64 {
        self.position.generation
    }

    /// Returns the state after one more commit. An accepted value that cannot be read, which only a hand can
    /// have written, leaves the resource as it was.
    pub(crate) fn after(&self, commit: &Commit) -> Self {
        let mut next = self.clone();
        let mut touched = BTreeSet::new();
        for (key, entry) in &commit.changes {
            touched.extend(next.put(key, entry.as_ref()));
        }
        touched.retain(|name| next.remove_unless_wanted(name, self));
        touched.iter().for_each(|name| next.note_liveness(name));
        next.note_deletions(&touched, self);
        if next.touched.len() == HISTORY_GENERATIONS_MAX {
            next.touched.pop_front();
        }
        next.touched
            .push_back((commit.at.generation, touched.into_iter().collect()));
        let keys = commit.changes.iter().map(|(key, _)| key.as_str());
        let stirs = |key: &str| key.starts_with(CONFIG) || key.starts_with(ACCEPTED);
        if keys.into_iter().any(stirs) {
            next.stirred = commit.at;
        }
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

    /// Returns the state with what is known of deletions from `before`, which is lost between the two: a
    /// listing says what is there, and not why the rest is not.
    pub(crate) fn remembering(mut self, before: &Self) -> Self {
        let deleted = before.deleted.iter();
        let deleted = deleted.filter(|name| !self.resources.by_name.contains_key(*name));
        self.deleted = Arc::new(deleted.cloned().collect());
        self
    }

    /// Returns the names of what was deleted and is not there, as far as they are remembered.
    pub(crate) fn deleted(&self) -> impl Iterator<Item = &Name> {
        self.deleted.iter()
    }

    fn note_deletions(&mut self, touched: &BTreeSet<Name>, before: &Self) {
        let is_there = |state: &Self, name: &Name| state.resources.by_name.contains_key(name);
        for name in touched {
            match (is_there(before, name), is_there(self, name)) {
                (false, true) if self.deleted.contains(name) => {
                    Arc::make_mut(&mut self.deleted).retain(|deleted| deleted != name);
                }
                (true, false) => {
                    let deleted = Arc::make_mut(&mut self.deleted);
                    if deleted.len() == DELETED_MAX {
                        deleted.pop_front();
                    }
                    deleted.push_back(name.clone());
                }
                (false | true, true) | (false, false) => {}
            }
        }
    }

    /// Takes one key; returns the resource that may look different now.
    fn put(&mut self, key: &str, entry: Option<&Entry>) -> Option<Name> {
        let value = entry.map(|entry| entry.value.as_slice());
        let member = |id: &str| Some(Name::Member(id.to_owned()));
        if let Some(path) = key.strip_prefix(CONFIG) {
            self.written.want(path, value);
            None
        } else if let Some(path) = key.strip_prefix(FAULTS) {
            self.written.fault(path, value);
            None
        } else if let Some(path) = key.strip_prefix(ACCEPTED) {
            self.written.accept(path, value);
            self.accept(path, entry)
        } else if let Some(id) = key.strip_prefix("seen/") {
            put_json(&mut self.seen, key, id, value);
            member(id)
        } else if let Some(id) = key.strip_prefix("alive/") {
            put_json(&mut self.alive, key, id, value);
            member(id)
        } else {
            if key == CLUSTER_KEY {
                self.take_cluster_key(value);
            }
            None
        }
    }

    /// Takes another cluster key, which only a hand can have written. It is part of the checksum, so whoever
    /// has the one before is sent everything.
    fn take_cluster_key(&mut self, value: Option<&[u8]>) {
        match value.map(<[u8; CLUSTER_KEY_BYTES]>::try_from) {
            Some(Ok(cluster_key)) => self.resources.cluster_key = cluster_key,
            Some(Err(_)) | None => {
                tracing::error!(
                    key = CLUSTER_KEY,
                    "is not {CLUSTER_KEY_BYTES} bytes long; the one before stays until a restart"
                );
            }
        }
    }

    fn accept(&mut self, path: &str, entry: Option<&Entry>) -> Option<Name> {
        let name = name_of_path(path).ok()?;
        let Some(entry) = entry else {
            self.resources.by_name.remove(&name);
            return Some(name);
        };
        match decode(&name, &entry.value) {
            Ok(mut resource) => {
                stamp(&mut resource, etag(&entry.value, entry.version));
                let held = (Arc::new(name.clone()), Arc::new(resource));
                self.resources.by_name.extend([held]);
                Some(name)
            }
            Err(error) => {
                let (field, reason) = (error.field(), error.reason());
                tracing::error!(%name, field, reason, "an accepted value cannot be read");
                None
            }
        }
    }

    /// Puts back what a hand deleted below `accepted/` alone: it is still wanted, and will be written
    /// again. Tells whether the resource may look different than in `before`.
    fn remove_unless_wanted(&mut self, name: &Name, before: &Self) -> bool {
        if self.resources.by_name.contains_key(name) || !self.written.is_wanted(&path_of(name)) {
            return true;
        }
        if let Some((name, resource)) = before.resources.by_name.get_key_value(name) {
            let held = (Arc::clone(name), Arc::clone(resource));
            self.resources.by_name.extend([held]);
        }
        false
    }

    fn note_liveness(&mut self, name: &Name) {
        let Some(resource) = self.resources.by_name.get_mut(name) else {
            return;
        };
        let Some(Kind::Member(member)) = &mut Arc::make_mut(resource).resource else {
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

/// Takes a value that registries write for each other. One that cannot be read changes nothing.
fn put_json<T: for<'de> Deserialize<'de>>(
    map: &mut BTreeMap<Arc<str>, Arc<T>>,
    key: &str,
    id: &str,
    value: Option<&[u8]>,
) {
    match value.map(serde_json::from_slice) {
        Some(Ok(value)) => drop(map.insert(id.into(), Arc::new(value))),
        Some(Err(error)) => tracing::error!(key, %error, "a value in the store cannot be read"),
        None => drop(map.remove(id)),
    }
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
            let commit = commit(generation, "accepted/sets/1", Some(r#"{"name":"sets/1"}"#));
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
    fn a_deletion_is_remembered_over_a_listing_until_the_name_is_there_again() {
        let deleted = |state: &State| state.deleted().map(ToString::to_string).collect::<Vec<_>>();
        let put = |generation, id: &str| {
            let value = format!(r#"{{"name":"sets/{id}"}}"#);
            commit(generation, &format!("accepted/sets/{id}"), Some(&value))
        };
        let delete =
            |generation, id: &str| commit(generation, &format!("accepted/sets/{id}"), None);
        let mut state = State::default();
        for step in [put(1, "a"), put(2, "b"), delete(3, "a"), delete(4, "b")] {
            state = state.after(&step);
        }
        assert_eq!(deleted(&state), ["sets/a", "sets/b"]);
        let listed = State::default().after(&put(9, "b")).remembering(&state);
        assert_eq!(deleted(&listed), ["sets/a"], "the other is there");
        let again = listed.after(&put(10, "a"));
        assert_eq!(deleted(&again), [""; 0]);

        for i in 0..=DELETED_MAX as u64 {
            let id = i.to_string();
            state = state.after(&put(10 + 2 * i, &id));
            state = state.after(&delete(11 + 2 * i, &id));
        }
        assert_eq!(state.deleted().count(), DELETED_MAX);
        assert_eq!(deleted(&state)[0], "sets/1", "the oldest are forgotten");
    }

    #[test]
    fn another_cluster_key_is_another_position() {
        let key = |generation, text| commit(generation, CLUSTER_KEY, Some(text));
        let first = State::default().after(&key(1, "0123456789abcdef"));
        assert_eq!(first.resources.cluster_key, *b"0123456789abcdef");
        let other = State::default().after(&key(1, "fedcba9876543210"));
        assert_ne!(first.position.checksum, other.position.checksum);
        let damaged = first.after(&key(2, "short"));
        assert_eq!(damaged.resources.cluster_key, first.resources.cluster_key);
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
            "accepted/members/a",
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
        let damaged = state.after(&commit(5, "accepted/members/a", Some("{")));
        assert_eq!(
            liveness(&damaged),
            (Liveness::Gone, 7),
            "it stays as it was"
        );
        assert_eq!(damaged.generation(), 5);
    }
}
