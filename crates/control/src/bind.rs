//! TCP listeners whose failure says who is in the way and what to do about it.

use std::net::{IpAddr, SocketAddr};
use std::{fs, io};

use tokio::net::TcpListener;

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}/tcp: {reason}; {remedy}")]
pub struct BindError {
    setting: &'static str,
    address: SocketAddr,
    reason: String,
    remedy: &'static str,
}

/// Listens on `address`, which came from the setting of this name.
///
/// # Errors
///
/// Says which setting and address, who holds the port if that can be seen, and the remedy.
pub async fn tcp(setting: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| {
        let (reason, remedy) = if error.kind() == io::ErrorKind::AddrInUse {
            let holder = holder(address).unwrap_or_else(|| "another process".to_owned());
            (
                format!("{holder} holds it"),
                "stop that process or choose another port",
            )
        } else if error.kind() == io::ErrorKind::AddrNotAvailable {
            (
                "no interface has this address".to_owned(),
                "add the address or choose another one",
            )
        } else {
            (
                error.to_string(),
                "choose another address, or a port above 1023",
            )
        };
        BindError {
            setting,
            address,
            reason,
            remedy,
        }
    })
}

/// Returns the program and process in the way of a TCP address, as far as `/proc` shows them.
fn holder(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables
        .iter()
        .find_map(|table| listener_inode(&fs::read_to_string(table).ok()?, address))?;
    let link = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pid = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            let open = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten();
            open.filter_map(|file| fs::read_link(file.path()).ok())
                .any(|target| target.as_os_str() == link.as_str())
        })?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (process {pid})", program.trim_end()))
}

/// Finds the inode of the socket that listens on `address`, or on its port on all addresses, in the
/// text of `/proc/net/tcp*`.
fn listener_inode(table: &str, address: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    let wanted = as_in_proc(address.ip());
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (ip, port) = fields.get(1)?.rsplit_once(':')?;
        let same_port = u16::from_str_radix(port, 16).ok()? == address.port();
        let is_wildcard = ip.bytes().all(|digit| digit == b'0');
        let same_ip = ip == wanted || is_wildcard || address.ip().is_unspecified();
        (same_port && same_ip && *fields.get(3)? == LISTEN)
            .then(|| fields.get(9)?.parse().ok())
            .flatten()
    })
}

/// Writes an address as `/proc` does: 32-bit words in this machine's byte order.
fn as_in_proc(ip: IpAddr) -> String {
    let words = |octets: &[u8]| {
        let word = |word: &[u8]| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        octets
            .chunks_exact(4)
            .map(|octets| format!("{:08X}", word(octets)))
            .collect()
    };
    match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_its_holder() {
        let taken = tcp("grpc.listen", "127.0.7.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = taken.local_addr().unwrap();
        let said = tcp("grpc.listen", address).await.unwrap_err().to_string();
        let me = format!("(process {}) holds it", std::process::id());
        assert!(
            said.contains("grpc.listen")
                && said.contains(&address.to_string())
                && said.contains(&me),
            "{said}"
        );
    }
    #[test]
    #[cfg(target_endian = "little")]
    fn a_listener_on_another_address_is_not_in_the_way() {
        let line = |local: &str, inode| {
            format!(
                "   0: {local} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
            )
        };
        let table = format!(
            "  sl  local_address\n{}{}{}",
            line("1F00007F:1CE9", 31),
            line("2000007F:1CE9", 32),
            line("00000000:1CEA", 33)
        );
        let inode = |address: &str| listener_inode(&table, address.parse().unwrap());
        assert_eq!(inode("127.0.0.32:7401"), Some(32));
        assert_eq!(inode("127.0.0.33:7401"), None);
        assert_eq!(
            inode("0.0.0.0:7401"),
            Some(31),
            "any of them is in the way of all"
        );
        assert_eq!(
            inode("127.0.0.32:7402"),
            Some(33),
            "one on all addresses is in every way"
        );
        assert_eq!(
            as_in_proc("::1".parse().unwrap()),
            "00000000000000000000000001000000"
        );
    }
}
