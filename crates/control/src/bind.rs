//! TCP listeners whose failure says who is in the way and what to do about it.

use std::net::SocketAddr;
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
            let holder = holder(address.port()).unwrap_or_else(|| "another process".to_owned());
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

/// Returns the program and process that listen on a TCP port, as far as `/proc` shows them.
fn holder(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables
        .iter()
        .find_map(|table| listener_inode(&fs::read_to_string(table).ok()?, port))?;
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

/// Finds the inode of the socket that listens on `port` in the text of `/proc/net/tcp*`.
fn listener_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let held = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == LISTEN;
        held.then(|| fields.get(9)?.parse().ok()).flatten()
    })
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
}
