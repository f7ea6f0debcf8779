//! A free block of 127.x.y.0/24: every run has its own, so that runs do not meet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How many blocks are tried.
const ATTEMPTS: usize = 64;

/// Where routers speak with each other.
pub(crate) const DMQ_PORT: u16 = 5062;

/// One block of loopback addresses and who lives where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block(u8, u8);

impl Block {
    /// Finds a block on which nobody holds the ports that the demo needs.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let mut random = StdRng::from_os_rng();
        for _ in 0..ATTEMPTS {
            let block = Self(random.random_range(64..250), random.random_range(1..250));
            if block.is_free() {
                return Ok(block);
            }
        }
        bail!(
            "none of {ATTEMPTS} blocks of 127.0.0.0/8 has port 5060 free; see `ss -lunp` for who holds it"
        )
    }

    fn is_free(self) -> bool {
        let sip = [
            self.carrier(),
            self.sbc(),
            self.router(0),
            self.router(1),
            self.ipbx(),
        ];
        let dmq = [self.dmq(0), self.dmq(1)];
        let etcd = (0..3).flat_map(|index| [2379, 2380].map(|port| self.etcd(index, port)));
        sip.into_iter()
            .chain(dmq)
            .all(|address| UdpSocket::bind(address).is_ok())
            && [self.grpc(self.registry(), 7400)]
                .into_iter()
                .chain(etcd)
                .all(|address| TcpListener::bind(address).is_ok())
    }

    fn host(self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, last).into()
    }

    pub(crate) fn registry(self) -> IpAddr {
        self.host(1)
    }

    /// Returns a port of member 0, 1 or 2 of etcd.
    pub(crate) fn etcd(self, index: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.host(2 + index), port)
    }

    pub(crate) fn carrier(self) -> SocketAddr {
        SocketAddr::new(self.host(10), 5060)
    }

    pub(crate) fn sbc(self) -> SocketAddr {
        SocketAddr::new(self.host(20), 5060)
    }

    /// Returns the address of router 0 or 1.
    pub(crate) fn router(self, index: usize) -> SocketAddr {
        SocketAddr::new(self.host(if index == 0 { 31 } else { 32 }), 5060)
    }

    /// Returns where router 0 or 1 speaks with the other.
    pub(crate) fn dmq(self, index: usize) -> SocketAddr {
        SocketAddr::new(self.router(index).ip(), DMQ_PORT)
    }

    pub(crate) fn ipbx(self) -> SocketAddr {
        SocketAddr::new(self.host(40), 5060)
    }

    pub(crate) fn grpc(self, host: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(host, port)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.{}.{}.0/24", self.0, self.1)
    }
}
