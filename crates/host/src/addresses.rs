//! The addresses that the cluster has and had, kept on disk beyond the life of members and processes.
//!
//! A Route may name a router that left the registry hours ago; whoever gets the request must still
//! know it for one of ours. An address is kept until the longest dialog that can name it has ended.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control::view::View;

/// How long an address is kept after its member was last seen: the default lifetime of a dialog.
pub const KEPT_FOR: Duration = Duration::from_secs(3 * 3600);

/// The most addresses that are kept.
pub(crate) const ADDRESSES_MAX: usize = 4096;

/// Who had an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastMember {
    /// Its id.
    pub id: String,
    /// Its cell.
    pub cell: String,
    /// Whether it was a router; an SBC otherwise.
    pub is_router: bool,
    seen: u64,
}

/// The addresses of the cluster, on disk.
#[derive(Debug)]
pub struct Addresses {
    path: PathBuf,
    known: BTreeMap<SocketAddr, PastMember>,
}

impl Addresses {
    /// Reads what an earlier process has kept in `state_dir`; a missing file is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("addresses");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let oldest = seconds_now().saturating_sub(KEPT_FOR.as_secs());
        let known = text
            .lines()
            .filter_map(parse)
            .filter(|(_, member)| member.seen >= oldest)
            .collect();
        Ok(Self { path, known })
    }

    /// Returns what is known.
    pub fn known(&self) -> impl Iterator<Item = (SocketAddr, &PastMember)> {
        self.known
            .iter()
            .map(|(address, member)| (*address, member))
    }

    /// Takes note of a view's members, and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written; what is known in memory is right all the same.
    pub fn note(&mut self, view: &View) -> io::Result<()> {
        let seen = seconds_now();
        let oldest = seen.saturating_sub(KEPT_FOR.as_secs());
        self.known.retain(|_, member| member.seen >= oldest);
        for member in &view.members {
            for endpoint in &member.sip {
                if self.known.len() >= ADDRESSES_MAX && !self.known.contains_key(&endpoint.address)
                {
                    continue;
                }
                let (id, cell) = (member.id.clone(), member.cell.clone());
                let is_router = member.kind.is_router();
                self.known.insert(
                    endpoint.address,
                    PastMember {
                        id,
                        cell,
                        is_router,
                        seen,
                    },
                );
            }
        }
        let line = |(address, member): (&SocketAddr, &PastMember)| {
            let kind = if member.is_router { "router" } else { "sbc" };
            format!(
                "{address} {kind} {} {} {}\n",
                member.id, member.cell, member.seen
            )
        };
        let text: String = self.known.iter().map(line).collect();
        let new = self.path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, &self.path)
    }
}

fn parse(line: &str) -> Option<(SocketAddr, PastMember)> {
    let mut words = line.split(' ');
    let address = words.next()?.parse().ok()?;
    let is_router = words.next()? == "router";
    let (id, cell) = (words.next()?.to_owned(), words.next()?.to_owned());
    let seen = words.next()?.parse().ok()?;
    Some((
        address,
        PastMember {
            id,
            cell,
            is_router,
            seen,
        },
    ))
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_known_to_the_next_process() {
        let dir = std::env::temp_dir().join(format!("tandem-addresses-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut addresses = Addresses::load(&dir).unwrap();
        let old = seconds_now() - KEPT_FOR.as_secs() - 1;
        std::fs::write(
            dir.join("addresses"),
            format!(
                "127.0.0.9:5060 router gone a {old}\n127.0.0.8:5060 router r a {}\n",
                seconds_now()
            ),
        )
        .unwrap();
        assert_eq!(addresses.known().count(), 0);
        addresses = Addresses::load(&dir).unwrap();
        let ids: Vec<_> = addresses
            .known()
            .map(|(_, member)| member.id.clone())
            .collect();
        assert_eq!(ids, ["r"], "and the old one is forgotten");
        addresses.note(&View::default()).unwrap();
        assert_eq!(Addresses::load(&dir).unwrap().known().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
