//! The sockets of all workers: one per worker and listen address, ready for the packet path.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Holder, WORKERS_MAX, sys};

/// What is asked for as receive buffer: some 4000 datagrams of 900 bytes (the usual default: 92).
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Why the sockets could not be had. Every message names the address and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error("port {}/udp on {} is in use{}: stop the holder, or listen elsewhere", .address.port(), .address.ip(), by(.holder))]
    InUse {
        /// The listen address.
        address: SocketAddr,
        /// Who has it, if it can be seen.
        holder: Option<Holder>,
    },
    /// No interface of this machine has the address.
    #[error("{} is no address of this machine: add it to an interface, or listen elsewhere", .address.ip())]
    NotLocal {
        /// The listen address.
        address: SocketAddr,
    },
    /// The port is one of those that only a privileged process may take.
    #[error("no permission to take port {}/udp on {}: grant CAP_NET_BIND_SERVICE, or listen elsewhere", .address.port(), .address.ip())]
    NotPermitted {
        /// The listen address.
        address: SocketAddr,
    },
    /// The same address was given twice.
    #[error("{address} is listed twice as listen address: list it once")]
    Duplicate {
        /// The listen address.
        address: SocketAddr,
    },
    /// More workers than can be had.
    #[error("{workers} workers are asked for: at most {WORKERS_MAX} are possible")]
    TooManyWorkers {
        /// What was asked for.
        workers: usize,
    },
    /// Anything else.
    #[error("cannot listen on {address}")]
    Other {
        /// The listen address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn by(holder: &Option<Holder>) -> String {
    holder
        .as_ref()
        .map_or_else(String::new, |holder| format!(" by {holder}"))
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse {
                address,
                holder: Holder::of(address),
            },
            Some(libc::EADDRNOTAVAIL) => Self::NotLocal { address },
            Some(libc::EACCES) => Self::NotPermitted { address },
            _ => Self::Other { address, source },
        }
    }
}

/// Bound sockets, one per worker and listen address.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) of_workers: Vec<Arc<[Socket]>>,
    addresses: Vec<SocketAddr>,
    receive_buffer_bytes: usize,
}

impl Sockets {
    /// Binds every listen address once per worker, the index in `listen` being the flow.
    ///
    /// A plain bind comes first and proves that each port is free: with SO_REUSEPORT alone, two
    /// processes would share it silently. Port 0 takes any free port.
    pub fn bind(listen: &[SocketAddr], workers: NonZeroUsize) -> Result<Self, BindError> {
        if workers.get() > WORKERS_MAX {
            return Err(BindError::TooManyWorkers {
                workers: workers.get(),
            });
        }
        let mut addresses = Vec::with_capacity(listen.len());
        for (i, &address) in listen.iter().enumerate() {
            if address.port() != 0 && listen[..i].contains(&address) {
                return Err(BindError::Duplicate { address });
            }
            addresses.push(prove_free(address).map_err(|error| BindError::new(address, error))?);
        }
        let mut receive_buffer_bytes = usize::MAX;
        let mut of_workers = Vec::with_capacity(workers.get());
        for _ in 0..workers.get() {
            let mut sockets = Vec::with_capacity(addresses.len());
            for &address in &addresses {
                let (socket, granted) =
                    open(address).map_err(|error| BindError::new(address, error))?;
                receive_buffer_bytes = receive_buffer_bytes.min(granted);
                sockets.push(socket);
            }
            of_workers.push(sockets.into());
        }
        if receive_buffer_bytes < RECEIVE_BUFFER_BYTES {
            tracing::warn!(
                asked_bytes = RECEIVE_BUFFER_BYTES,
                granted_bytes = receive_buffer_bytes,
                remedy = "sysctl -w net.core.rmem_max=4194304, or grant CAP_NET_ADMIN",
                "receive buffer is smaller than asked for: bursts will be dropped"
            );
        }
        Ok(Self {
            of_workers,
            addresses,
            receive_buffer_bytes,
        })
    }

    /// Returns the bound addresses, by flow.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the smallest receive buffer granted, bytes; the kernel counts its own overhead in.
    #[must_use]
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }
}

/// Binds as nobody else can and lets go again; returns the address with its port.
fn prove_free(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Opens one worker's socket; returns it with the receive buffer that it got, in bytes.
fn open(address: SocketAddr) -> io::Result<(Socket, usize)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_port(true)?;
    // Reports name the destination they are about. Long datagrams are cut into fragments instead of
    // being lost to find out what the path can carry.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        sys::set_option(
            &socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )?;
    } else {
        sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        sys::set_option(
            &socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )?;
    }
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    let asked = RECEIVE_BUFFER_BYTES as libc::c_int;
    if sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, asked).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    }
    if sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, asked).is_err() {
        socket.set_send_buffer_size(RECEIVE_BUFFER_BYTES)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // The kernel doubles what it grants, for its own overhead.
    let granted = socket.recv_buffer_size()? / 2;
    Ok((socket, granted))
}
