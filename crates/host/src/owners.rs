//! Whose an address is, or was, in the memory of a node. Sans-IO.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::addresses::ADDRESSES_MAX;

/// The owners of addresses: members now, and at most [`ADDRESSES_MAX`] former ones.
#[derive(Clone, Debug)]
pub struct Owners<O> {
    members: BTreeMap<SocketAddr, O>,
    /// The longest gone first.
    former: VecDeque<(SocketAddr, O)>,
}

impl<O> Default for Owners<O> {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            former: VecDeque::new(),
        }
    }
}

impl<O: Clone> Owners<O> {
    /// Adds former addresses, the longest gone first.
    pub fn remember(&mut self, former: impl IntoIterator<Item = (SocketAddr, O)>) {
        self.former.extend(former);
        self.forget();
    }

    /// Takes the addresses of the members now: who was one and is none any more is a former one.
    pub fn set_members(&mut self, members: BTreeMap<SocketAddr, O>) {
        let left = std::mem::replace(&mut self.members, members);
        self.former.extend(left);
        self.forget();
    }

    /// Returns the members' addresses.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<SocketAddr, O> {
        &self.members
    }

    /// Returns all addresses; of several owners the present one counts, else the last one.
    #[must_use]
    pub fn all(&self) -> BTreeMap<SocketAddr, O> {
        let members = self
            .members
            .iter()
            .map(|(address, owner)| (*address, owner.clone()));
        self.former.iter().cloned().chain(members).collect()
    }

    fn forget(&mut self) {
        let members = &self.members;
        self.former
            .retain(|(address, _)| !members.contains_key(address));
        let surplus = self.former.len().saturating_sub(ADDRESSES_MAX);
        self.former.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ports: impl IntoIterator<Item = u16>) -> BTreeMap<SocketAddr, char> {
        let owned = |port| (SocketAddr::from(([127, 0, 0, 1], port)), 'm');
        ports.into_iter().map(owned).collect()
    }

    #[test]
    fn former_addresses_are_known_but_no_members() {
        let mut owners = Owners::default();
        owners.remember(at([3]).into_keys().map(|address| (address, 'f')));
        owners.set_members(at([1, 2]));
        owners.set_members(at([2, 3]));
        assert_eq!(owners.members(), &at([2, 3]));
        assert_eq!(owners.all(), at([1, 2, 3]), "who is back is no former one");
    }

    #[test]
    fn at_the_bound_the_longest_gone_is_forgotten_and_never_a_member() {
        let most = u16::try_from(ADDRESSES_MAX).unwrap();
        let mut owners = Owners::default();
        owners.set_members(at([0, 1]));
        owners.set_members(at((2..=most).chain([0])));
        owners.set_members(at([0, most + 1]));
        assert_eq!(owners.all(), at(0..=most + 1));
        owners.set_members(at([0]));
        assert_eq!(owners.all(), at((2..=most + 1).chain([0])));
    }
}
