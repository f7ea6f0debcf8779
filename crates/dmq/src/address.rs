//! Which address a node has, in one spelling, and which networks may speak.
//!
//! To a stock node an address is its text: `sip:10.0.0.1` and `sip:10.0.0.1:5060` are two nodes. Here
//! it is a [`SocketAddr`] without scope or mapping, always written with its port.

use std::net::{IpAddr, SocketAddr};

use sip_types::{Scheme, Uri};

use crate::list::Fault;

/// The port of an address that names none.
const DEFAULT_PORT: u16 = 5060;

/// A network whose addresses may all speak, on any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// How many leading bits are those of the network; more than the address has count as all.
    pub prefix: u8,
}

impl Network {
    /// Tells whether an address is in the network. IPv6 that stands for IPv4 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let difference = own.to_bits() ^ other.to_bits();
                difference.leading_zeros() >= prefix.min(u32::BITS)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let difference = own.to_bits() ^ other.to_bits();
                difference.leading_zeros() >= prefix.min(u128::BITS)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Returns the one spelling of an address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Returns the node that a URI names.
pub(crate) fn node_of(uri: &Uri<'_>) -> Result<SocketAddr, Fault> {
    if uri.scheme != Scheme::Sip {
        return Err(Fault::Uri);
    }
    let transport = uri.params.get("transport");
    if transport.is_some_and(|value| !value.is_some_and(|name| name.eq_ignore_ascii_case(b"udp"))) {
        return Err(Fault::Transport);
    }
    uri.socket_addr(DEFAULT_PORT)
        .map(canonical)
        .ok_or(Fault::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_shares_its_prefix() {
        let network = |address: &str, prefix| Network {
            address: address.parse().unwrap(),
            prefix,
        };
        for (network, address, inside) in [
            (network("10.1.0.0", 16), "10.1.255.1", true),
            (network("10.1.0.0", 16), "10.2.0.1", false),
            (network("10.1.0.0", 16), "::ffff:10.1.0.1", true),
            (network("10.1.0.0", 16), "2001:db8::1", false),
            (network("0.0.0.0", 0), "192.0.2.1", true),
            (network("192.0.2.1", 200), "192.0.2.1", true),
            (network("192.0.2.1", 200), "192.0.2.0", false),
            (network("2001:db8::", 32), "2001:db8:1::1", true),
            (network("2001:db8::", 32), "2001:db9::1", false),
        ] {
            assert_eq!(
                network.contains(address.parse().unwrap()),
                inside,
                "{network:?} {address}"
            );
        }
    }
}
