//! Destination sets as configured: who is in them, and how they choose.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::algorithm::Algorithm;
use crate::health::Health;
use crate::rank::ClusterKey;
use crate::view::{SetView, View};

/// The most sets.
pub const SETS_MAX: usize = 256;
/// The most destinations in one set.
pub const MEMBERS_MAX: usize = 256;

/// A destination as one set sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id under which its health is kept.
    pub id: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// Its share of the calls under [`Algorithm::CallIdHash`]; 0: only when nobody else is left.
    pub weight: u32,
    /// Its place under [`Algorithm::Priority`]: the greater comes first.
    pub priority: i32,
    /// The cell of a router; empty for everybody else.
    pub cell: Arc<str>,
    /// Whether it inherits dialogs only where nobody else can: a Kamailio router cannot take over a
    /// call that is not acknowledged yet.
    pub last_heir: bool,
}

/// A set of destinations and the way it chooses among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSet {
    /// What routes call it, such as `1`.
    pub id: Arc<str>,
    /// How it puts its members in order.
    pub algorithm: Algorithm,
    /// Who may be chosen; the order means nothing.
    pub members: Vec<Member>,
}

/// Why sets were refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetsError {
    /// More than [`SETS_MAX`].
    #[error("{count} destination sets are more than {SETS_MAX}")]
    TooManySets {
        /// How many were given.
        count: usize,
    },
    /// More than [`MEMBERS_MAX`].
    #[error("destination set {set} has {count} members, more than {MEMBERS_MAX}")]
    TooManyMembers {
        /// The set.
        set: Arc<str>,
        /// How many it has.
        count: usize,
    },
    /// Two sets of one id.
    #[error("destination set {set} is defined twice")]
    DuplicateSet {
        /// The set.
        set: Arc<str>,
    },
    /// One destination twice in a set.
    #[error("destination {id} is in destination set {set} twice")]
    DuplicateMember {
        /// The set.
        set: Arc<str>,
        /// The destination.
        id: Arc<str>,
    },
}

/// The destination sets of a cluster, checked.
#[derive(Clone, Debug)]
pub struct Sets {
    key: ClusterKey,
    sets: Vec<DestinationSet>,
}

impl Sets {
    /// Checks the sets.
    ///
    /// # Errors
    /// If a bound is passed or an id is not unique.
    pub fn new(key: ClusterKey, mut sets: Vec<DestinationSet>) -> Result<Self, SetsError> {
        if sets.len() > SETS_MAX {
            return Err(SetsError::TooManySets { count: sets.len() });
        }
        sets.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(pair) = sets.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(SetsError::DuplicateSet {
                set: pair[0].id.clone(),
            });
        }
        for set in &mut sets {
            let count = set.members.len();
            if count > MEMBERS_MAX {
                return Err(SetsError::TooManyMembers {
                    set: set.id.clone(),
                    count,
                });
            }
            set.members.sort_by(|a, b| a.id.cmp(&b.id));
            if let Some(pair) = set.members.windows(2).find(|pair| pair[0].id == pair[1].id) {
                let (set, id) = (set.id.clone(), pair[0].id.clone());
                return Err(SetsError::DuplicateMember { set, id });
            }
        }
        Ok(Self { key, sets })
    }

    /// Returns the sets in the order of their ids, members in the order of theirs.
    #[must_use]
    pub fn sets(&self) -> &[DestinationSet] {
        &self.sets
    }

    /// Takes a snapshot of the sets under what is known of their members now.
    ///
    /// Members that `health` does not know count as active.
    #[must_use]
    pub fn view(&self, health: &Health) -> View {
        let sets: BTreeMap<_, _> = self
            .sets
            .iter()
            .map(|set| (set.id.clone(), SetView::new(self.key, set, health)))
            .collect();
        View::new(sets)
    }
}
