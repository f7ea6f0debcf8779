//! What the shards read: destinations with their health, the cluster's addresses, who may send.
//! An immutable snapshot; the node publishes a new one after each change.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control::view::Networks;
use dispatch::{DestinationIndex, SetView};
use element::FlowId;
use host::Name;
use sip_types::{Message, Scheme, Uri};
use siphasher::sip::SipHasher24;

use crate::names::{Hop, Names, NextHop};

/// What an address of the cluster belongs to, or belonged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An SBC: its Routes are ours to take off.
    Sbc,
    /// A router: its dialogs are served by it or its heirs.
    Router {
        /// Its id.
        id: Arc<str>,
        /// Its cell: where its heirs live.
        cell: Arc<str>,
    },
}

/// The addresses of the cluster, present and past.
pub type Addresses = BTreeMap<SocketAddr, Owner>;

/// One immutable snapshot.
#[derive(Clone, Debug)]
pub struct View {
    /// Set 1, where requests from outside go; `None` before the registry was ever seen.
    pub routers: Option<SetView>,
    /// The addresses of the cluster.
    pub addresses: Arc<Addresses>,
    /// Addresses of routers that are members now: their `X-` headers count.
    pub members: Arc<[SocketAddr]>,
    /// Carriers and IPBXs that may send.
    pub allow: Arc<Networks>,
    /// The listen address that faces carriers and IPBXs.
    pub outside: FlowId,
    /// The listen address that faces routers; may be the same.
    pub inside: FlowId,
    /// Our addresses by flow.
    pub listen: Arc<[SocketAddr]>,
    /// The cluster's secret.
    pub cluster_key: [u8; 16],
    /// How long a router may take to say a first word before the next is asked as well.
    pub first_response: Duration,
    /// How long finding a router dead may take.
    pub detect_within: Duration,
    /// No new calls.
    pub draining: bool,
    /// The registry was seen, now or before: the cluster's secret is known.
    pub ready: bool,
    /// What is known of names.
    pub names: Names,
}

/// The URI parameter of our Record-Route that proves that we made it: see [`View::pass`].
pub(crate) const PASS_PARAM: &str = "pass";

impl View {
    /// Returns a view that knows nobody.
    #[must_use]
    pub fn empty(listen: Arc<[SocketAddr]>, allow: Arc<Networks>) -> Self {
        Self {
            routers: None,
            addresses: Arc::new(Addresses::new()),
            members: Arc::new([]),
            allow,
            outside: FlowId(0),
            inside: FlowId(u16::from(listen.len() > 1)),
            listen,
            cluster_key: [0; 16],
            first_response: Duration::from_secs(2),
            detect_within: Duration::from_millis(200),
            draining: false,
            ready: false,
            names: Names::default(),
        }
    }

    /// Tells whether a datagram comes from a router that is a member: from its address, inside.
    #[must_use]
    pub fn is_router(&self, flow: FlowId, source: SocketAddr) -> bool {
        flow == self.inside && self.members.contains(&source)
    }

    /// Tells whether somebody may send as a carrier or an IPBX. A member router may not, whatever
    /// networks its address is in: what it sends counts inside, or not at all.
    #[must_use]
    pub fn allows(&self, source: SocketAddr) -> bool {
        self.allow.contains(source.ip()) && !self.members.contains(&source)
    }

    /// Returns the best router for a new request, `refused` ones excepted; `turn` counts requests, for
    /// round robin.
    #[must_use]
    pub fn router_for(
        &self,
        call_id: &[u8],
        turn: usize,
        refused: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let set = self.routers.as_ref()?;
        let ranking = set.rank(call_id, turn);
        ranking
            .into_iter()
            .map(|index| set.member(index).address)
            .find(|address| !refused.contains(address))
    }

    /// Returns the router for a request inside a dialog whose Route names `route`: that router while
    /// it is active, else its heir.
    #[must_use]
    pub fn heir(
        &self,
        call_id: &[u8],
        route: SocketAddr,
        refused: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let set = self.routers.as_ref()?;
        let address = |index: DestinationIndex| set.member(index).address;
        let itself = set
            .by_address(route)
            .filter(|index| set.is_alive(*index) && !refused.contains(&route));
        let heir = || match self.addresses.get(&route) {
            Some(Owner::Router { cell, .. }) => set.heir(call_id, cell, refused),
            Some(Owner::Sbc) | None => None,
        };
        itself.or_else(heir).map(address)
    }

    /// Tells whether a router is believed to be alive.
    #[must_use]
    pub fn lives(&self, router: SocketAddr) -> bool {
        self.routers.as_ref().is_some_and(|set| {
            set.by_address(router)
                .is_some_and(|index| set.is_alive(index))
        })
    }

    /// Returns how long a router may take to say a first word. One that is believed dead is tried
    /// when too few are left, but not for long: nobody watches over it.
    #[must_use]
    pub fn patience(&self, router: SocketAddr) -> Duration {
        if self.lives(router) {
            self.first_response
        } else {
            self.detect_within
        }
    }

    /// Tells whether a living router is left besides these.
    #[must_use]
    pub fn has_router_besides(&self, refused: &[SocketAddr]) -> bool {
        self.routers.as_ref().is_some_and(|set| {
            set.destinations()
                .any(|index| set.is_alive(index) && !refused.contains(&set.member(index).address))
        })
    }

    /// Tells whether new calls find a router.
    #[must_use]
    pub fn has_router(&self) -> bool {
        self.routers
            .as_ref()
            .is_some_and(|set| set.destinations().any(|index| set.accepts_new(index)))
    }

    fn owner(&self, uri: &[u8]) -> Option<&Owner> {
        let address = Uri::parse(uri).ok()?.socket_addr(5060)?;
        self.addresses.get(&address)
    }

    fn is_own(&self, uri: &[u8]) -> bool {
        Uri::parse(uri).is_ok_and(|uri| self.is_own_uri(&uri))
    }

    /// Tells whether a URI names an SBC of the cluster.
    #[must_use]
    pub fn is_own_uri(&self, uri: &Uri<'_>) -> bool {
        uri.socket_addr(5060).is_some_and(|address| {
            self.listen.contains(&address) || self.addresses.get(&address) == Some(&Owner::Sbc)
        })
    }

    /// Returns how many leading Routes are ours: those of any SBC of the cluster.
    #[must_use]
    pub fn own_routes(&self, message: &Message<'_>) -> usize {
        sip::route::leading(message, |uri| self.is_own(uri))
    }

    /// Returns how many leading Routes belong to the cluster, routers included.
    #[must_use]
    pub fn cluster_routes(&self, message: &Message<'_>) -> usize {
        sip::route::leading(message, |uri| self.is_own(uri) || self.owner(uri).is_some())
    }

    /// Returns the router that the Route behind our own names.
    #[must_use]
    pub fn router_route(&self, message: &Message<'_>, own: usize) -> Option<SocketAddr> {
        let route = message.routes().nth(own)?.ok()?;
        match self.owner(route.uri)? {
            Owner::Router { .. } => route.parsed_uri().ok()?.socket_addr(5060),
            Owner::Sbc => None,
        }
    }

    /// Tells whether the router that the Route behind our own names sends straight on, past us: then
    /// nothing comes back to us as a second pass.
    #[must_use]
    pub fn is_direct_route(&self, message: &Message<'_>, own: usize) -> bool {
        let route = message.routes().nth(own).and_then(Result::ok);
        let uri = route.and_then(|route| route.parsed_uri().ok());
        uri.is_some_and(|uri| uri.params.get("direct").is_some())
    }

    /// Returns where a request goes once its first `passed` Routes are taken off: RFC 3261 section
    /// 16.6 step 7.
    pub(crate) fn next_hop(&self, message: &Message<'_>, passed: usize) -> NextHop {
        let uri = match message.routes().nth(passed) {
            Some(Ok(route)) => Uri::parse(route.uri),
            Some(Err(_)) => return NextHop::Nowhere,
            None => Uri::parse(message.request_uri()),
        };
        uri.map_or(NextHop::Nowhere, |uri| self.resolve(&uri))
    }

    /// Returns the address of a URI. Never one of our own: that would be a loop.
    ///
    /// A host name stands for the addresses that were found for it: RFC 3263 section 4.
    pub(crate) fn resolve(&self, uri: &Uri<'_>) -> NextHop {
        if uri.scheme == Scheme::Sips {
            return NextHop::Insecure;
        }
        let (address, name) = match uri.socket_addr(5060) {
            Some(address) => (Some(address), None),
            None => {
                let Some(name) = name_of(uri) else {
                    return NextHop::Nowhere;
                };
                if !self.names.known.contains_key(&name) {
                    return NextHop::Ask(name);
                }
                (self.address_of(&name, &[]), Some(Box::new(name)))
            }
        };
        match address.filter(|address| !self.listen.contains(address)) {
            Some(address) => NextHop::Known(Hop { address, name }),
            None => NextHop::Nowhere,
        }
    }

    /// Returns the address of a name that comes next, `tried` ones and those that our socket cannot
    /// reach excepted.
    pub(crate) fn address_of(&self, name: &Name, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let own = self.listen.get(usize::from(self.outside.0))?;
        self.names.address(name, |address| {
            address.is_ipv4() == own.is_ipv4()
                && !self.listen.contains(&address)
                && !tried.contains(&address)
        })
    }

    /// Returns the short keyed hash of a Call-ID that our Record-Route carries: eight hexadecimal
    /// digits of SipHash-2-4 under the cluster key. Who shows it in a Route was in the dialog.
    #[must_use]
    pub fn pass(&self, call_id: &[u8]) -> [u8; 8] {
        use std::io::Write as _;
        let mut hasher = SipHasher24::new_with_key(&self.cluster_key);
        hasher.write(b"record-route pass");
        hasher.write(call_id);
        let mut pass = [0; 8];
        write!(&mut pass[..], "{:08x}", hasher.finish() >> 32).expect("eight digits fit");
        pass
    }

    /// Tells whether one of our leading Routes carries the hash of this very Call-ID. None does while
    /// the cluster's secret is not known: anybody could compute it.
    #[must_use]
    pub fn has_pass(&self, message: &Message<'_>) -> bool {
        if !self.ready {
            return false;
        }
        let pass = self.pass(message.call_id());
        message
            .routes()
            .take(self.own_routes(message))
            .flatten()
            .any(|route| {
                let Ok(uri) = route.parsed_uri() else {
                    return false;
                };
                uri.params.get(PASS_PARAM).flatten() == Some(&pass[..])
            })
    }
}

/// Returns what a SIP URI has to be looked up by.
fn name_of(uri: &Uri<'_>) -> Option<Name> {
    if uri.scheme != Scheme::Sip || uri.host.is_empty() {
        return None;
    }
    let host = std::str::from_utf8(uri.host).ok()?;
    Some(Name {
        host: host.to_ascii_lowercase().into(),
        port: uri.port,
    })
}
