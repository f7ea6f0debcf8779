//! What the shards read: the rules, the cluster's addresses, who may send. An immutable snapshot.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use control::view::Network;
use sip_types::{Message, Uri};

use crate::decision::Rules;

/// One immutable snapshot.
#[derive(Clone, Debug)]
pub struct View {
    /// Where calls go.
    pub rules: Arc<Rules>,
    /// The destination sets that rules name.
    pub sets: dispatch::View,
    /// Every address that a router of the cluster has or had: own for Route.
    pub routers: Arc<BTreeSet<SocketAddr>>,
    /// Every address that an SBC of the cluster has or had.
    pub sbcs: Arc<BTreeSet<SocketAddr>>,
    /// Who else may send.
    pub allow: Arc<[Network]>,
    /// Our addresses by flow.
    pub listen: Arc<[SocketAddr]>,
    /// No new calls: OPTIONS is answered with 503.
    pub draining: bool,
    /// The registry was seen, now or before: there are rules to go by.
    pub ready: bool,
}

impl View {
    /// Returns a view that knows nobody.
    #[must_use]
    pub fn empty(listen: Arc<[SocketAddr]>, allow: Arc<[Network]>) -> Self {
        Self {
            rules: Arc::new(Rules::default()),
            sets: dispatch::View::default(),
            routers: Arc::new(BTreeSet::new()),
            sbcs: Arc::new(BTreeSet::new()),
            allow,
            listen,
            draining: false,
            ready: false,
        }
    }

    /// Tells whether somebody may send SIP to us.
    #[must_use]
    pub fn allows(&self, source: SocketAddr) -> bool {
        self.sbcs.contains(&source)
            || self.routers.contains(&source)
            || self
                .allow
                .iter()
                .any(|network| network.contains(source.ip()))
    }

    /// Returns how many leading Routes are ours: those of any router of the cluster, so that an heir
    /// serves the dialogs of the dead.
    #[must_use]
    pub fn own_routes(&self, message: &Message<'_>) -> usize {
        let own = |uri| {
            Uri::parse(uri)
                .ok()
                .and_then(|uri| uri.socket_addr(5060))
                .is_some_and(|address| {
                    self.listen.contains(&address) || self.routers.contains(&address)
                })
        };
        message
            .routes()
            .take_while(|route| route.as_ref().is_ok_and(|route| own(route.uri)))
            .count()
    }

    /// Tells whether a response that no transaction here waits for may pass: it came from an SBC, and
    /// its Vias are a router's and then an SBC's. docs/failover.md section 1.
    #[must_use]
    pub fn may_pass_statelessly(&self, source: SocketAddr, response: &Message<'_>) -> bool {
        let mut vias = response.vias();
        let mut next = || vias.next()?.ok()?.sent_by_addr();
        self.sbcs.contains(&source)
            && next().is_some_and(|top| self.listen.contains(&top) || self.routers.contains(&top))
            && next().is_some_and(|below| self.sbcs.contains(&below))
    }

    /// Returns the address of who sent a request to the SBC: `X-Forwarded-For` of a member counts.
    #[must_use]
    pub fn first_sender(&self, source: SocketAddr, request: &Message<'_>) -> IpAddr {
        let told = || {
            let value = request
                .header(sip_types::HeaderName::XForwardedFor)?
                .value();
            std::str::from_utf8(value).ok()?.parse::<SocketAddr>().ok()
        };
        let told = if self.sbcs.contains(&source) {
            told()
        } else {
            None
        };
        told.unwrap_or(source).ip()
    }
}
