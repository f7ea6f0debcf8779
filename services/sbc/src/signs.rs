//! What a shard saw since it last told the node: of routers, at most one entry each, and of names.

use std::net::SocketAddr;

use host::Name;
use smallvec::SmallVec;

/// The last thing that happened between us and a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Something came from it.
    Alive,
    /// Something went to it that must come back.
    Owing,
}

/// Signs of life and debts, coalesced: what counts is which came last. All carry the time of the
/// batch they belong to, so nothing is lost by keeping one. Bounded by the number of routers.
#[derive(Debug, Default)]
pub struct Signs {
    entries: SmallVec<[(SocketAddr, Sign); 4]>,
    /// Names that requests need, each once.
    names: Vec<Name>,
    /// Addresses of names that did not serve, each once.
    marks: Vec<SocketAddr>,
}

/// How many different names one batch may need, and how many addresses it may mark; the others wait
/// for the next request that finds them so.
const NAMES_PER_BATCH_MAX: usize = 64;

impl Signs {
    pub(crate) fn alive(&mut self, router: SocketAddr) {
        self.note(router, Sign::Alive);
    }

    pub(crate) fn owing(&mut self, router: SocketAddr) {
        self.note(router, Sign::Owing);
    }

    fn note(&mut self, router: SocketAddr, sign: Sign) {
        match self
            .entries
            .iter_mut()
            .find(|(address, _)| *address == router)
        {
            Some(entry) => entry.1 = sign,
            None => self.entries.push((router, sign)),
        }
    }

    /// A request needs a name.
    pub(crate) fn need(&mut self, name: &Name) {
        if self.names.len() < NAMES_PER_BATCH_MAX && !self.names.contains(name) {
            self.names.push(name.clone());
        }
    }

    /// An address of a name did not serve.
    pub(crate) fn mark(&mut self, address: SocketAddr) {
        if self.marks.len() < NAMES_PER_BATCH_MAX && !self.marks.contains(&address) {
            self.marks.push(address);
        }
    }

    pub(crate) fn drain_names(&mut self) -> impl Iterator<Item = Name> + '_ {
        self.names.drain(..)
    }

    pub(crate) fn drain_marks(&mut self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.marks.drain(..)
    }

    /// Moves everything into `into`; tells whether there was anything.
    pub(crate) fn take(&mut self, into: &mut Self) -> bool {
        let any = !(self.entries.is_empty() && self.names.is_empty() && self.marks.is_empty());
        for (router, sign) in self.entries.drain(..) {
            into.note(router, sign);
        }
        for name in self.names.drain(..) {
            into.need(&name);
        }
        for address in self.marks.drain(..) {
            into.mark(address);
        }
        any
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (SocketAddr, Sign)> + '_ {
        self.entries.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_last_counts() {
        let (a, b) = (
            "127.0.0.1:5060".parse().unwrap(),
            "127.0.0.2:5060".parse().unwrap(),
        );
        let mut signs = Signs::default();
        signs.owing(a);
        signs.alive(b);
        signs.alive(a);
        signs.owing(b);
        let mut merged = Signs::default();
        assert!(signs.take(&mut merged));
        assert!(!signs.take(&mut merged), "taken once");
        assert_eq!(
            merged.drain().collect::<Vec<_>>(),
            [(a, Sign::Alive), (b, Sign::Owing)]
        );
    }
}
