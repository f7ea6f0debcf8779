//! Which dialogs bear the numbers that Kamailio nodes name them by.
//!
//! A Kamailio node names a dialog by `(h_entry, h_id)` alone, so two dialogs can bear one name
//! (PROTOCOL 9.7): all of them are found here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use dmq_bodies::{Did, slot};

use crate::record::DialogKey;
use crate::replica::Replica;

/// The numbers of every dialog that a node holds, those that are over included.
#[derive(Debug)]
pub(crate) struct Numbers {
    hash_size: u32,
    keys: BTreeSet<(Did, Arc<[u8]>)>,
    /// Those that are over, in the order of their end: that in which they are forgotten.
    ended: VecDeque<DialogKey>,
}

impl Numbers {
    pub(crate) fn new(hash_size: u32) -> Self {
        Self {
            hash_size,
            keys: BTreeSet::new(),
            ended: VecDeque::new(),
        }
    }

    /// Returns the numbers of a dialog.
    pub(crate) fn did(&self, key: &DialogKey) -> Did {
        Did {
            h_entry: slot(&key.call_id, self.hash_size),
            h_id: key.h_id,
        }
    }

    pub(crate) fn insert(&mut self, key: &DialogKey) {
        self.keys.insert((self.did(key), key.call_id.clone()));
    }

    /// Takes note that a dialog is over: it will be forgotten.
    pub(crate) fn note_ended(&mut self, key: &DialogKey) {
        self.ended.push_back(key.clone());
    }

    /// Returns the dialogs with these numbers.
    pub(crate) fn find(&self, did: Did) -> impl Iterator<Item = DialogKey> {
        let from = (did, Arc::from([]));
        let found = self
            .keys
            .range(from..)
            .take_while(move |(at, _)| *at == did);
        found.map(|(did, call_id)| DialogKey {
            call_id: call_id.clone(),
            h_id: did.h_id,
        })
    }

    /// Forgets what the replica has forgotten.
    pub(crate) fn forget(&mut self, replica: &Replica) {
        while let Some(key) = self.ended.front() {
            if replica.dialogs().dialog(key).is_some() {
                break;
            }
            self.keys.remove(&(self.did(key), key.call_id.clone()));
            self.ended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialogs::DialogsConfig;

    #[test]
    fn dialogs_with_the_same_numbers_are_all_found_until_forgotten() {
        let key = |call_id: &[u8], h_id| DialogKey {
            call_id: call_id.into(),
            h_id,
        };
        let mut numbers = Numbers::new(1);
        let keys = [key(b"a", 7), key(b"b", 7), key(b"c", 8)];
        for key in &keys {
            numbers.insert(key);
        }
        let did = numbers.did(&keys[0]);
        assert_eq!(numbers.find(did).collect::<Vec<_>>(), keys[..2]);

        numbers.note_ended(&keys[0]);
        let own = ([127, 0, 0, 1], 5060).into();
        numbers.forget(&Replica::new(own, [0; 16], DialogsConfig::default()));
        assert_eq!(numbers.find(did).collect::<Vec<_>>(), keys[1..2]);
    }
}
