//! Many networks as one set of addresses.

use std::net::IpAddr;

use super::Network;

/// The addresses of many networks, made once and asked for every datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges,
    v6: Ranges,
}

/// First and last address of each range: in order, and none touches the next.
type Ranges = Vec<(u128, u128)>;

impl Networks {
    /// Tells whether `address` is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ranges, bits) = match address {
            IpAddr::V4(address) => (&self.v4, address.to_bits().into()),
            IpAddr::V6(address) => (&self.v6, address.to_bits()),
        };
        let next = ranges.partition_point(|(first, _)| *first <= bits);
        next.checked_sub(1).is_some_and(|i| bits <= ranges[i].1)
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Ranges::new(), Ranges::new());
        for Network {
            address,
            prefix_bits,
        } in networks
        {
            let (ranges, bits, width) = match address {
                IpAddr::V4(address) => (&mut v4, address.to_bits().into(), 32),
                IpAddr::V6(address) => (&mut v6, address.to_bits(), 128),
            };
            let host_bits = u128::MAX
                .checked_shr(128 - (width - u32::from(prefix_bits)))
                .unwrap_or(0);
            ranges.push((bits & !host_bits, bits | host_bits));
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }
}

fn merged(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut merged = Ranges::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Networks that touch, hold each other, stand alone and hold everything.
    const NETWORKS: [&str; 9] = [
        "10.0.1.0/24",
        "10.0.0.0/24",
        "10.0.0.7/28",
        "192.0.2.9",
        "192.0.2.11/32",
        "255.255.255.255",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "::1",
    ];

    #[test]
    fn a_set_of_networks_knows_the_addresses_that_one_of_them_knows() {
        let networks: Vec<Network> = NETWORKS.map(|text| text.parse().unwrap()).into();
        let all: Networks = networks.iter().copied().collect();
        for address in [
            "0.0.0.0",
            "9.255.255.255",
            "10.0.0.0",
            "10.0.0.255",
            "10.0.1.0",
            "10.0.1.255",
            "10.0.2.0",
            "192.0.2.8",
            "192.0.2.9",
            "192.0.2.10",
            "192.0.2.11",
            "192.0.2.12",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::a00:1",
            "2001:db7:ffff::",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
        ] {
            let address: IpAddr = address.parse().unwrap();
            let known = networks.iter().any(|network| network.contains(address));
            assert_eq!(all.contains(address), known, "{address}");
        }
        assert_eq!((all.v4.len(), all.v6.len()), (4, 2), "what touches is one");
    }

    #[test]
    fn the_whole_world_is_a_network_and_nothing_is_none() {
        let world = ["0.0.0.0/0", "::/0"].map(|text| text.parse::<Network>().unwrap());
        let world: Networks = world.into_iter().collect();
        for address in ["0.0.0.0", "255.255.255.255", "::", "ffff::ffff"] {
            let address = address.parse().unwrap();
            assert!(world.contains(address));
            assert!(!Networks::default().contains(address));
        }
    }
}
