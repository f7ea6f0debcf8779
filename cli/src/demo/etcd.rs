//! A real etcd of three members under the registry.

use std::path::Path;
use std::process::{Command, Stdio};

use super::network::Block;

/// How to get it.
pub(crate) const NEEDED: &str = "\
--etcd: there is no etcd here; on Debian and Ubuntu this installs it:
  apt-get install etcd-server
The package starts an etcd of its own on 127.0.0.1, which is not in the way of this one.
";

/// Members of the demo's etcd.
pub(crate) const NAMES: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

/// Tells whether it is installed.
pub(crate) fn is_installed() -> bool {
    let mut version = Command::new("etcd");
    version
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Returns the command that runs member 0, 1 or 2, which keeps its data in `directory`.
pub(crate) fn command(block: Block, index: u8, directory: &Path) -> Command {
    let peer = |index| format!("http://{}", block.etcd(index, 2380));
    let all = [0, 1, 2].map(|index| format!("{}={}", NAMES[usize::from(index)], peer(index)));
    let client = endpoint(block, index);
    let mut command = Command::new("etcd");
    command
        .arg(format!("--name={}", NAMES[usize::from(index)]))
        .arg(format!("--data-dir={}", directory.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={}", peer(index)))
        .arg(format!("--initial-advertise-peer-urls={}", peer(index)))
        .arg(format!("--initial-cluster={}", all.join(",")));
    command
}

/// Returns what the registry's file says of its store.
pub(crate) fn settings(block: Block) -> String {
    let endpoints = [0, 1, 2].map(|index| format!("{:?}", endpoint(block, index)));
    format!(
        "[store]\nbackend = \"etcd\"\netcd.endpoints = [{}]\n",
        endpoints.join(", ")
    )
}

fn endpoint(block: Block, index: u8) -> String {
    format!("http://{}", block.etcd(index, 2379))
}
