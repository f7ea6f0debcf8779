//! What people want beside what counts: the values below `config/`, those below `accepted/`, and why
//! some of the former are not among the latter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::registry::v1::Fault;

use crate::resource::digest;

/// Below this prefix stands why a value below `config/` does not count.
pub(crate) const FAULTS: &str = "faults/";
/// Longest path that is looked at, in bytes; no resource has a longer one.
const PATH_BYTES_MAX: usize = 160;

/// The three, by the path that they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    values: BTreeMap<Arc<str>, Value>,
    /// Where what people want is not what counts.
    differing: BTreeSet<Arc<str>>,
    /// What is stored of faults; nothing where it cannot be read.
    faults: BTreeMap<Arc<str>, Option<Arc<Fault>>>,
}

#[derive(Clone, Debug, Default)]
struct Value {
    wanted: Option<Arc<[u8]>>,
    /// Digest of what counts.
    accepted: Option<u64>,
}

impl Value {
    fn differs(&self) -> bool {
        self.wanted.as_deref().map(digest) != self.accepted
    }
}

impl Written {
    /// Takes what stands below `config/` now.
    pub(crate) fn want(&mut self, path: &str, value: Option<&[u8]>) {
        if path.len() > PATH_BYTES_MAX {
            tracing::error!(path, "a key below config/ is too long for any resource");
            return;
        }
        self.change(path, |held| held.wanted = value.map(Arc::from));
    }

    /// Takes what stands below `accepted/` now.
    pub(crate) fn accept(&mut self, path: &str, value: Option<&[u8]>) {
        self.change(path, |held| held.accepted = value.map(digest));
    }

    /// Takes what stands below `faults/` now.
    pub(crate) fn fault(&mut self, path: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                let fault = control::json::decode(value).ok().map(Arc::new);
                self.faults.insert(path.into(), fault);
            }
            None => drop(self.faults.remove(path)),
        }
    }

    /// Returns where what people want is not what counts, and what they want: nothing for a deletion.
    pub(crate) fn differing(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.differing.iter().map(|path| {
            let wanted = self.values.get(path);
            (&**path, wanted.and_then(|held| held.wanted.as_deref()))
        })
    }

    /// Tells whether what people want is not what counts.
    pub(crate) fn differs(&self, path: &str) -> bool {
        self.differing.contains(path)
    }

    /// Tells whether people want anything there.
    pub(crate) fn is_wanted(&self, path: &str) -> bool {
        let held = self.values.get(path);
        held.is_some_and(|held| held.wanted.is_some())
    }

    /// Returns the faults in the order of their paths.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&str, Option<&Fault>)> {
        let faults = self.faults.iter();
        faults.map(|(path, fault)| (&**path, fault.as_deref()))
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&mut Value)) {
        let path: Arc<str> = path.into();
        let held = self.values.entry(Arc::clone(&path)).or_default();
        change(held);
        let (differs, gone) = (
            held.differs(),
            held.wanted.is_none() && held.accepted.is_none(),
        );
        if gone {
            self.values.remove(&path);
        }
        if differs {
            self.differing.insert(path);
        } else {
            self.differing.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let mut written = Written::default();
        let told = |written: &Written| {
            let all = written.differing();
            all.map(|(path, wanted)| (path.to_owned(), wanted.map(<[u8]>::to_vec)))
                .collect::<Vec<_>>()
        };
        written.want("sets/1", Some(b"a"));
        assert_eq!(told(&written), [("sets/1".to_owned(), Some(b"a".to_vec()))]);
        written.accept("sets/1", Some(b"a"));
        assert_eq!(told(&written), []);
        written.accept("sets/1", Some(b"b"));
        assert_eq!(told(&written), [("sets/1".to_owned(), Some(b"a".to_vec()))]);
        written.want("sets/1", None);
        assert_eq!(told(&written), [("sets/1".to_owned(), None)]);
        written.accept("sets/1", None);
        assert_eq!(told(&written), []);
        assert!(written.values.is_empty());
    }
}
