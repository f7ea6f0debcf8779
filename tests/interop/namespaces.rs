//! A network of our own: every node in its network namespace, with a namespace between them that
//! forwards, so that a node can fall into a black hole. Its packets and those for it then vanish, and
//! no ICMP, no address resolution and no closed port tells anybody.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::system::{Place, Places};

/// Who lives there; each in the network 10.77.N.0/30 by its place in this list.
const NAMES: [&str; 6] = ["registry", "carrier", "sbc", "router-1", "router-2", "ipbx"];

/// The namespaces; deleted when dropped.
pub(crate) struct Namespaces {
    prefix: String,
}

impl Namespaces {
    /// Makes them, or says why that cannot be done here.
    pub(crate) fn new() -> Result<Self, String> {
        let namespaces = Self {
            prefix: format!("tandem-{}", std::process::id()),
        };
        let hub = namespaces.name("hub");
        ip(&format!("netns add {hub}"))?;
        ip(&format!(
            "netns exec {hub} sysctl -q -w net.ipv4.ip_forward=1"
        ))?;
        for (network, name) in NAMES.iter().enumerate() {
            let node = namespaces.name(name);
            let network = format!("10.77.{network}");
            for words in [
                format!("netns add {node}"),
                format!("-n {node} link set lo up"),
                format!("-n {hub} link add to-{name} type veth peer name hub netns {node}"),
                format!("-n {hub} address add {network}.1/30 dev to-{name}"),
                format!("-n {hub} link set to-{name} up"),
                format!("-n {node} address add {network}.2/30 dev hub"),
                format!("-n {node} link set hub up"),
                format!("-n {node} route add default via {network}.1"),
                // Counts as soon as the way to the node is gone.
                format!("-n {hub} route add blackhole {network}.0/30 metric 4000"),
            ] {
                ip(&words)?;
            }
        }
        Ok(namespaces)
    }

    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    pub(crate) fn places(&self) -> Places {
        let place = |(network, name): (usize, &&'static str)| {
            let ip = Ipv4Addr::new(10, 77, network as u8, 2);
            let namespace = Some(self.name(name));
            (*name, Place { ip, namespace })
        };
        Places(
            NAMES
                .iter()
                .enumerate()
                .map(place)
                .collect::<BTreeMap<_, _>>(),
        )
    }

    /// Lets a node fall into the black hole.
    pub(crate) fn swallow(&self, name: &str) {
        ip(&format!("-n {} link set to-{name} down", self.name("hub"))).unwrap();
    }

    /// Brings it back.
    pub(crate) fn give_back(&self, name: &str) {
        ip(&format!("-n {} link set to-{name} up", self.name("hub"))).unwrap();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in NAMES.iter().chain(&["hub"]) {
            // One that was never made cannot be deleted.
            let _ = ip(&format!("netns delete {}", self.name(name)));
        }
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|error| format!("ip {words}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("ip {words}: {}", said.trim()))
}
