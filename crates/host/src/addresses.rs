//! The addresses that the cluster has and had, kept on disk beyond the life of members and processes.
//!
//! A Route may name a router that left the registry hours ago; whoever gets the request must still
//! know it for one of ours. An address is kept until the longest dialog that can name it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control::view::{DIALOG_LIFETIME_MAX, View};

/// How long an address is kept after its member was last seen: as long as a dialog may last in any cell. What
/// the cells say now will not do: a dialog keeps the lifetime that held when it was answered.
pub const KEPT_FOR: Duration = DIALOG_LIFETIME_MAX;

/// How many former addresses are remembered, on disk and in memory: beyond it the oldest go first. The
/// addresses of present members do not count.
pub const ADDRESSES_MAX: usize = 4096;

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
    /// Those of the view that was noted last: in use until the next one says otherwise.
    present: BTreeSet<SocketAddr>,
}

impl Addresses {
    /// Reads what an earlier process has kept in `state_dir`; a missing file is an empty one.
    ///
    /// The members of the last view that it noted count as in use until now: nobody knows better.
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
        let known: BTreeMap<_, _> = text.lines().filter_map(parse).collect();
        let last = known.values().map(|member| member.seen).max();
        let noted_last = known.iter().filter(|(_, member)| Some(member.seen) == last);
        let mut addresses = Self {
            path,
            present: noted_last.map(|(address, _)| *address).collect(),
            known,
        };
        addresses.forget(seconds_now());
        Ok(addresses)
    }

    /// Returns what is known; who was seen longest ago comes first.
    pub fn known(&self) -> impl Iterator<Item = (SocketAddr, &PastMember)> {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_by_key(|(_, member)| member.seen);
        known
            .into_iter()
            .map(|(address, member)| (*address, member))
    }

    /// Takes note of a view's members, and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written; what is known in memory is right all the same.
    pub fn note(&mut self, view: &View) -> io::Result<()> {
        self.take(view, seconds_now());
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

    /// Who was a member until now was seen now; so was who is one from now on.
    fn take(&mut self, view: &View, now: u64) {
        for address in std::mem::take(&mut self.present) {
            if let Some(member) = self.known.get_mut(&address) {
                member.seen = now;
            }
        }
        for member in &view.members {
            for endpoint in &member.sip {
                let past = PastMember {
                    id: member.id.clone(),
                    cell: member.cell.clone(),
                    is_router: member.kind.is_router(),
                    seen: now,
                };
                self.known.insert(endpoint.address, past);
                self.present.insert(endpoint.address);
            }
        }
        self.forget(now);
    }

    /// Forgets whom no dialog can name any more, and the oldest beyond the bound.
    fn forget(&mut self, now: u64) {
        let Self { known, present, .. } = self;
        let oldest = now.saturating_sub(KEPT_FOR.as_secs());
        known.retain(|address, member| member.seen >= oldest || present.contains(address));
        let past = known
            .iter()
            .filter(|(address, _)| !present.contains(*address));
        let mut past: Vec<_> = past
            .map(|(address, member)| (member.seen, *address))
            .collect();
        past.sort_unstable();
        for (_, address) in past.iter().take(past.len().saturating_sub(ADDRESSES_MAX)) {
            known.remove(address);
        }
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
    use control::view::{Liveness, Member, MemberKind, MemberState, Side, SipEndpoint};

    const DAY: u64 = 24 * 3600;

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 8], number))
    }

    fn view(ports: impl IntoIterator<Item = u16>) -> View {
        let member = |port: u16| Member {
            id: format!("router-{port}"),
            kind: MemberKind::Router,
            address: address(port).ip(),
            sip: vec![SipEndpoint {
                side: Side::Both,
                address: address(port),
            }],
            dmq: None,
            cell: "a".to_owned(),
            zone: String::new(),
            tags: vec![],
            desired_state: MemberState::Active,
            incarnation: 1,
            liveness: Liveness::Alive,
        };
        View {
            members: ports.into_iter().map(member).collect(),
            ..View::default()
        }
    }

    fn empty() -> Addresses {
        Addresses {
            path: PathBuf::new(),
            known: BTreeMap::new(),
            present: BTreeSet::new(),
        }
    }

    fn ports(addresses: &Addresses) -> Vec<u16> {
        addresses
            .known()
            .map(|(address, _)| address.port())
            .collect()
    }

    #[test]
    fn what_was_noted_is_known_to_the_next_process() {
        let dir = std::env::temp_dir().join(format!("tandem-addresses-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(Addresses::load(&dir).unwrap().known().count(), 0);
        let long_ago = seconds_now() - KEPT_FOR.as_secs() - 1;
        let (gone, left) = (long_ago - 1, long_ago);
        let text = format!("127.0.0.9:5060 router gone a {gone}\n127.0.0.8:7 router r a {left}\n");
        std::fs::write(dir.join("addresses"), text).unwrap();
        let mut addresses = Addresses::load(&dir).unwrap();
        assert_eq!(
            ports(&addresses),
            [7],
            "the last view's members are known, however old it is; who had left before is forgotten"
        );
        addresses.note(&view([9])).unwrap();
        let next = Addresses::load(&dir).unwrap();
        let known: Vec<_> = next.known().map(|(_, member)| member.id.as_str()).collect();
        assert_eq!(known, ["r", "router-9"]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn who_leaves_is_kept_from_the_moment_of_leaving() {
        let mut addresses = empty();
        addresses.take(&view([1, 2]), 0);
        addresses.take(&view([1]), 8 * DAY);
        assert_eq!(ports(&addresses), [1, 2], "8 days a member, just removed");
        addresses.take(&view([1]), 15 * DAY);
        assert_eq!(ports(&addresses), [2, 1], "7 days ago");
        addresses.take(&view([1]), 15 * DAY + 1);
        assert_eq!(ports(&addresses), [1]);
    }

    #[test]
    fn at_the_bound_the_oldest_former_address_goes_and_never_a_member() {
        let most = u16::try_from(ADDRESSES_MAX).unwrap();
        let mut addresses = empty();
        addresses.take(&view(0..2), 0);
        addresses.take(&view((2..=most).chain([0])), 1);
        addresses.take(&view([0, most + 1]), 2);
        assert_eq!(addresses.known().count(), ADDRESSES_MAX + 2);
        addresses.take(&view([0]), 3);
        let known = ports(&addresses);
        assert_eq!(known.len(), ADDRESSES_MAX + 1);
        assert!(known.contains(&0), "a member");
        assert!(!known.contains(&1), "the first to leave");
        assert!(known.contains(&(most + 1)), "the last to leave");
    }
}
