//! What the SBC remembers of a request on its way: which pass it is, and who is bound to whom.
//!
//! docs/failover.md has the rules. A *first pass* is a request given to a router under a branch of
//! ours; what that router sends back to us under this branch is its *second pass* and is *bound*.

use std::net::SocketAddr;
use std::time::Instant;

use host::Name;
use sip::{BranchId, ContextId};
use smallvec::SmallVec;

/// What the SBC keeps with each response context.
#[derive(Debug)]
pub(crate) enum Pass {
    /// Given to a router, then to another when that one is lost.
    First(First),
    /// Sent back to us by the router of a first pass.
    Second {
        /// The try of the first pass that it is bound to.
        first: BranchId,
    },
    /// No router has a part in it.
    Plain,
}

/// A first pass.
#[derive(Debug, Default)]
pub(crate) struct First {
    /// For a request inside a dialog: the router that record-routed. Its heir takes over from it.
    pub(crate) route: Option<SocketAddr>,
    /// Its router sends straight on: no second pass comes, and what it answers is the callee's word.
    pub(crate) direct: bool,
    /// The carrier has cancelled it: nothing new may start for it.
    pub(crate) cancelled: bool,
    /// Routers that are alive and have refused it or kept silent: not asked again.
    pub(crate) refused: SmallVec<[SocketAddr; 2]>,
}

/// What the SBC keeps with each try.
#[derive(Debug, Default)]
pub(crate) struct Try {
    /// It was given to a router: `target.destination` names it.
    pub(crate) router: bool,
    /// The second passes bound to it: more than one when the router forks or tries serially.
    pub(crate) bound: SmallVec<[ContextId; 1]>,
    /// Its router was lost after binding: we play that router's part.
    pub(crate) lost: bool,
    /// When the network first said that it cannot be reached.
    pub(crate) refused_at: Option<Instant>,
    /// The name that it was sent to an address of.
    pub(crate) name: Option<Box<Name>>,
    /// It was to be cancelled: its request goes nowhere else.
    pub(crate) cancelled: bool,
}

impl Try {
    pub(crate) fn at_router() -> Self {
        Self {
            router: true,
            ..Self::default()
        }
    }

    pub(crate) fn at_address_of(name: Option<Box<Name>>) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }
}
