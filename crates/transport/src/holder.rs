//! Who holds a UDP port, as far as `/proc` tells.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The name of the program, at most 15 bytes of it.
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.program, self.pid)
    }
}

impl Holder {
    /// Looks for the process whose UDP socket is bound to `address`, or to its port on all addresses.
    ///
    /// Returns `None` if there is none or if it cannot be seen: other users' processes are hidden
    /// from an ordinary user.
    #[must_use]
    pub fn of(address: SocketAddr) -> Option<Self> {
        let inode = ["/proc/net/udp", "/proc/net/udp6"]
            .into_iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| inode_of(&table, address))?;
        let link = format!("socket:[{inode}]");
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find_map(|pid| {
                let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
                open.any(|entry| {
                    fs::read_link(entry.path())
                        .is_ok_and(|target| target.as_os_str() == link.as_str())
                })
                .then(|| {
                    let program =
                        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    Self {
                        pid,
                        program: program.trim_end().to_owned(),
                    }
                })
            })
    }
}

/// Finds the inode of the socket that is in the way of `address` in the text of `/proc/net/udp*`.
fn inode_of(table: &str, address: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = parse_address(fields.nth(1)?)?;
        let inode = fields.nth(7)?.parse().ok()?;
        let same = local.ip() == address.ip()
            || local.ip().is_unspecified()
            || address.ip().is_unspecified();
        (same && local.port() == address.port()).then_some(inode)
    })
}

/// Reads `0100007F:13C4`: 32-bit words in this machine's byte order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = (0..ip.len() / 8).map(|i| u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16).ok());
    let bytes = words
        .collect::<Option<Vec<u32>>>()?
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect::<Vec<u8>>();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families_are_read() {
        assert_eq!(
            parse_address("1400007F:13C4"),
            Some("127.0.0.20:5060".parse().unwrap())
        );
        assert_eq!(
            parse_address("00000000000000000000000001000000:13C6"),
            Some("[::1]:5062".parse().unwrap())
        );
        assert_eq!(parse_address("1400007F"), None);
        assert_eq!(parse_address("14:13C4"), None);
    }

    #[test]
    fn the_holder_of_a_port_is_found_through_the_wildcard_too() {
        let me = std::process::id();
        let socket = std::net::UdpSocket::bind("127.0.9.1:0").unwrap();
        assert_eq!(
            Holder::of(socket.local_addr().unwrap()).map(|holder| holder.pid),
            Some(me)
        );
        let wildcard = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let address = SocketAddr::new(
            "127.0.9.1".parse().unwrap(),
            wildcard.local_addr().unwrap().port(),
        );
        assert_eq!(Holder::of(address).map(|holder| holder.pid), Some(me));
    }
}
