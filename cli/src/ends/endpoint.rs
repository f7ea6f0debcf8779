//! A sans-IO user agent and the UDP socket that it is driven over.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use user_agent::{Carrier, Ipbx};

/// What the sockets ask the kernel to hold.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How many datagrams are taken before timers are looked after.
const DATAGRAMS_PER_TURN: usize = 256;
/// The longest sleep: how late a signal may be seen.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// What both user agents have in common.
pub(crate) trait Agent {
    fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)>;
}

macro_rules! agent {
    ($($agent:ty),*) => {$(
        impl Agent for $agent {
            fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
                self.handle_datagram(now, source, bytes);
            }
            fn handle_timeout(&mut self, now: Instant) {
                self.handle_timeout(now);
            }
            fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
                self.poll_transmit()
            }
        }
    )*};
}
agent!(Carrier, Ipbx);

/// A user agent on a socket.
pub(crate) struct Endpoint<A> {
    pub(crate) agent: A,
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl<A: Agent> Endpoint<A> {
    /// Binds the address that `agent` calls its own.
    pub(crate) fn open(address: SocketAddr, agent: A) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.set_nonblocking(true)?;
        socket
            .bind(&address.into())
            .with_context(|| format!("binding {address}/udp"))?;
        Ok(Self {
            agent,
            socket: socket.into(),
            buffer: vec![0; 65_536],
        })
    }

    /// Takes what arrived, runs the timers that are due, sends what comes of it.
    pub(crate) fn turn(&mut self) -> anyhow::Result<()> {
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.socket.recv_from(&mut self.buffer) {
                Ok((length, source)) => {
                    let bytes = &self.buffer[..length];
                    self.agent.handle_datagram(Instant::now(), source, bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
        self.agent.handle_timeout(Instant::now());
        while let Some((to, bytes)) = self.agent.poll_transmit() {
            match self.socket.send_to(&bytes, to) {
                Ok(_) => {}
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error).with_context(|| format!("sending to {to}")),
            }
        }
        Ok(())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Tells whether the network says that nobody was at the end of something sent before; the user
/// agent's timers deal with it.
fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    [ConnectionRefused, HostUnreachable, NetworkUnreachable].contains(&error.kind())
}

/// Sleeps until something arrives or the earliest of `wakes`, 50 ms at most.
pub(crate) fn wait(
    fds: &[BorrowedFd<'_>],
    wakes: impl IntoIterator<Item = Option<Instant>>,
) -> anyhow::Result<()> {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let left = wakes.into_iter().flatten().min().map_or(SLEEP_MAX, |wake| {
        wake.saturating_duration_since(Instant::now())
    });
    // Rounded up: a poll that returns early would spin.
    let left = left.min(SLEEP_MAX).as_micros().div_ceil(1000) as u16;
    match poll(&mut fds, PollTimeout::from(left)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting"),
    }
}
