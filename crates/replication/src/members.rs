//! What one node knows of the other Tandem members of its cell: who is heard, who is lost and who then is the
//! heir, and what each is known to know.
//!
//! Not here: what is left for an heir to do ([`crate::ended`]), and how members rank ([`Dialogs::place`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use crate::dialogs::Dialogs;
use crate::ended::Rest;
use crate::record::{DialogKey, Ownership, STOCK_EPOCH};

/// The other Tandem members of the cell.
#[derive(Debug)]
pub(crate) struct Members {
    own: SocketAddr,
    /// For each member: when the last round with it began that found no difference.
    clean_since: BTreeMap<SocketAddr, Option<Instant>>,
    /// The Tandem nodes that are heard.
    up: BTreeSet<SocketAddr>,
    /// Who is not among them is lost: not so before all have been asked.
    knows_the_lost: bool,
}

impl Members {
    /// Knows nobody but the node itself.
    pub(crate) fn new(own: SocketAddr) -> Self {
        Self {
            own,
            clean_since: BTreeMap::new(),
            up: BTreeSet::new(),
            knows_the_lost: false,
        }
    }

    /// Sets who they are, this node not among them.
    pub(crate) fn set(&mut self, others: &BTreeSet<SocketAddr>) {
        self.clean_since.retain(|member, _| others.contains(member));
        for member in others {
            self.clean_since.entry(*member).or_insert(None);
        }
    }

    /// Returns who they are, heard or not.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        self.clean_since.keys().copied()
    }

    /// A round of comparing with a member, begun at `began`, found no difference.
    pub(crate) fn compared_clean(&mut self, member: SocketAddr, began: Instant) {
        if let Some(since) = self.clean_since.get_mut(&member) {
            *since = (*since).max(Some(began));
        }
    }

    /// Tells whether every member knows of what happened here at a time.
    pub(crate) fn know_of(&self, at: Instant) -> bool {
        let mut clean_since = self.clean_since.values();
        clean_since.all(|clean| clean.is_some_and(|clean| clean > at))
    }

    /// A Tandem node is heard.
    pub(crate) fn handle_up(&mut self, node: SocketAddr) {
        self.up.insert(node);
    }

    /// Every Tandem node that can be is heard: one that is not is lost.
    pub(crate) fn handle_all_up(&mut self) {
        self.knows_the_lost = true;
    }

    /// Tells whether a node is a Tandem node that is heard.
    pub(crate) fn hears(&self, node: SocketAddr) -> bool {
        self.up.contains(&node)
    }

    /// Tells whether this node has the lowest address of itself and those that are heard.
    pub(crate) fn is_lowest(&self) -> bool {
        self.up.first().is_none_or(|other| self.own < *other)
    }

    /// A node is lost: silent, or back under a new incarnation.
    pub(crate) fn handle_lost(&mut self, node: SocketAddr) -> Loss<'_> {
        let before = self.up.clone();
        self.up.remove(&node);
        Loss {
            members: self,
            node,
            before,
        }
    }

    /// Tells whether this node comes first for a dialog, of itself and those that are heard.
    pub(crate) fn is_first(&self, dialogs: &Dialogs, key: &DialogKey) -> bool {
        dialogs.is_first(key, &self.up)
    }

    /// Tells whether a dialog belongs to a router that is lost, and this node is its heir.
    pub(crate) fn is_heir(
        &self,
        dialogs: &Dialogs,
        key: &DialogKey,
        Ownership { epoch, owner }: Ownership,
    ) -> bool {
        let is_a_routers = epoch != STOCK_EPOCH && self.knows_the_lost;
        is_a_routers && self.is_silent(owner) && self.is_first(dialogs, key)
    }

    fn is_silent(&self, owner: SocketAddr) -> bool {
        owner != self.own && !self.up.contains(&owner)
    }
}

/// A node that has just been lost.
#[derive(Debug)]
pub(crate) struct Loss<'a> {
    members: &'a Members,
    node: SocketAddr,
    /// Who was heard until now.
    before: BTreeSet<SocketAddr>,
}

impl Loss<'_> {
    /// Returns what is ours to do for a dialog that ended shortly before: nothing when another is the heir, or
    /// we were it already. A Kamailio's calls have no record, and whether it is lost, too, or may only be lost
    /// next is not asked: of its dialogs the lost node may have been about to tell the end.
    pub(crate) fn rest(&self, dialogs: &Dialogs, key: &DialogKey) -> Option<Rest> {
        let Ownership { epoch, owner } = dialogs.dialog(key)?.record.ownership;
        let is_the_lost_ones = owner == self.node;
        let (may_be_ours, was_lost, rest) = match epoch == STOCK_EPOCH {
            true => (true, !is_the_lost_ones, Rest::End),
            false => {
                let was_lost = !is_the_lost_ones && !self.before.contains(&owner);
                (self.members.is_silent(owner), was_lost, Rest::EndAndRecord)
            }
        };
        let was_ours = was_lost && dialogs.is_first(key, &self.before);
        let is_ours = may_be_ours && !was_ours && self.members.is_first(dialogs, key);
        is_ours.then_some(rest)
    }
}
