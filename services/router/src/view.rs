//! What the shards read: the rules, the cluster's addresses, who may send. An immutable snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use control::view::{MemberKind, Network};
use host::Egress;
use sip_types::{Message, Scheme, Uri};

use crate::decision::Rules;

/// Addresses of the cluster, with what has them.
pub type Addresses = BTreeMap<SocketAddr, MemberKind>;

/// One immutable snapshot.
#[derive(Clone, Debug)]
pub struct View {
    /// Where calls go.
    pub rules: Arc<Rules>,
    /// The destination sets that rules name.
    pub sets: dispatch::View,
    /// The addresses that members have: they may send, and an SBC is believed.
    pub members: Arc<Addresses>,
    /// Those and the ones that members had: a router's is own for Route, an SBC may still answer.
    pub addresses: Arc<Addresses>,
    /// Who else may send.
    pub allow: Arc<[Network]>,
    /// How requests leave.
    pub egress: Egress,
    /// Our addresses by flow.
    pub listen: Arc<[SocketAddr]>,
    /// No new calls: OPTIONS is answered with 503.
    pub draining: bool,
    /// The registry was seen, now or before: there are rules to go by.
    pub configured: bool,
    /// What the cell knows is known here, or cannot be found out. Until then OPTIONS is answered with
    /// 503, so that new calls go elsewhere; one that comes all the same is served, since it may be the
    /// repeat of a call that we forgot when we started anew.
    pub ready: bool,
    /// There is no room for another dialog.
    pub full: bool,
    /// How many slots Kamailio's dialog hash has in the cell.
    pub hash_size: u32,
}

impl View {
    /// Returns a view that knows nobody.
    #[must_use]
    pub fn empty(listen: Arc<[SocketAddr]>, allow: Arc<[Network]>) -> Self {
        Self {
            rules: Arc::new(Rules::default()),
            sets: dispatch::View::default(),
            members: Arc::new(Addresses::new()),
            addresses: Arc::new(Addresses::new()),
            allow,
            egress: Egress::default(),
            listen,
            draining: false,
            configured: false,
            ready: false,
            full: false,
            hash_size: control::view::HASH_SIZE,
        }
    }

    /// Tells whether somebody may send requests to us: a member, or who is configured.
    #[must_use]
    pub fn allows(&self, source: SocketAddr) -> bool {
        self.members.contains_key(&source)
            || self
                .allow
                .iter()
                .any(|network| network.contains(source.ip()))
    }

    /// Tells whether somebody may send responses to us: also an SBC that is no member any more, and
    /// whoever requests are sent straight to, whom the branch proves.
    #[must_use]
    pub fn may_answer(&self, source: SocketAddr) -> bool {
        self.allows(source) || self.is_sbc(source) || self.egress == Egress::Direct
    }

    fn is_router(&self, address: SocketAddr) -> bool {
        let kind = self.addresses.get(&address);
        self.listen.contains(&address) || kind.is_some_and(|kind| kind.is_router())
    }

    fn is_sbc(&self, address: SocketAddr) -> bool {
        self.addresses.get(&address) == Some(&MemberKind::Sbc)
    }

    /// Returns how many leading Routes are ours: those of any router of the cluster, so that an heir
    /// serves the dialogs of the dead.
    #[must_use]
    pub fn own_routes(&self, message: &Message<'_>) -> usize {
        sip::route::leading(message, |uri| {
            Uri::parse(uri)
                .ok()
                .and_then(|uri| uri.socket_addr(5060))
                .is_some_and(|address| self.is_router(address))
        })
    }

    /// Returns the address that a request goes to once its first `passed` Routes are taken off: RFC
    /// 3261 section 16.6 step 7. `None` for a name, for `sips:`, which needs TLS, and
    /// for our own, which would be a loop.
    #[must_use]
    pub fn next_hop(&self, message: &Message<'_>, passed: usize) -> Option<SocketAddr> {
        let uri = match message.routes().nth(passed) {
            Some(route) => Uri::parse(route.ok()?.uri),
            None => Uri::parse(message.request_uri()),
        };
        let uri = uri.ok().filter(|uri| uri.scheme != Scheme::Sips)?;
        let address = uri.socket_addr(5060)?;
        (!self.listen.contains(&address)).then_some(address)
    }

    /// Tells whether a response that no transaction here waits for may pass: it came from an SBC, and
    /// its Vias are a router's and then an SBC's. docs/failover.md section 1.
    #[must_use]
    pub fn may_pass_statelessly(&self, source: SocketAddr, response: &Message<'_>) -> bool {
        let mut vias = response.vias();
        let mut next = || vias.next()?.ok()?.sent_by_addr();
        self.is_sbc(source)
            && next().is_some_and(|top| self.is_router(top))
            && next().is_some_and(|below| self.is_sbc(below))
    }

    /// Returns the address of who sent a request to the SBC: `X-Forwarded-For` of an SBC that is
    /// a member counts.
    #[must_use]
    pub fn first_sender(&self, source: SocketAddr, request: &Message<'_>) -> IpAddr {
        let told = || {
            let value = request
                .header(sip_types::HeaderName::XForwardedFor)?
                .value();
            std::str::from_utf8(value).ok()?.parse::<SocketAddr>().ok()
        };
        let told = match self.members.get(&source) {
            Some(MemberKind::Sbc) => told(),
            _ => None,
        };
        told.unwrap_or(source).ip()
    }
}
