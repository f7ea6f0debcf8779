//! Sends what an element has queued, in order, from the sockets of one worker.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use element::{FlowId, Outbox, Sender, Transmit};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::Socket;

use crate::counters::{Counters, SendErrorKind, add};
use crate::sys::{BATCH_DATAGRAMS, send_batch};

/// How often one datagram is tried. More than once because the error can be another datagram's: each
/// datagram to a dead neighbour on this machine makes the next send fail.
const ATTEMPTS_MAX: usize = 4;

/// How long a full send buffer is waited for, per attempt.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// How many failed destinations are kept until somebody asks.
const FAILED_MAX: usize = 64;

/// A [`Sender`] over real sockets.
///
/// A datagram that cannot be sent is counted by the reason, and the next one's turn has come.
#[derive(Debug)]
pub struct Transmitter {
    sockets: Arc<[Socket]>,
    counters: Arc<Counters>,
    failed: Vec<(FlowId, SocketAddr)>,
}

impl Transmitter {
    pub(crate) fn new(sockets: Arc<[Socket]>, counters: Arc<Counters>) -> Self {
        Self {
            sockets,
            counters,
            failed: Vec::with_capacity(FAILED_MAX),
        }
    }

    /// Takes a destination to which a datagram could not be sent at all.
    pub(crate) fn take_failed(&mut self) -> Option<(FlowId, SocketAddr)> {
        self.failed.pop()
    }

    /// Sends datagrams of one flow.
    fn send_run(&mut self, mut run: &[Transmit<'_>]) {
        let mut attempts = 0;
        while let Some(first) = run.first() {
            let socket = self
                .sockets
                .get(usize::from(first.flow.0))
                .expect("elements send on flows they listen on");
            match send_batch(socket.as_fd(), run) {
                Ok(sent) => {
                    add(&self.counters.datagrams_out, sent);
                    run = &run[sent..];
                    attempts = 0;
                }
                Err(error) => {
                    let kind = SendErrorKind::of(&error);
                    attempts += 1;
                    if attempts < ATTEMPTS_MAX && worth_another(kind, socket) {
                        add(&self.counters.resent, 1);
                        continue;
                    }
                    add(&self.counters.send_errors[kind as usize], 1);
                    tracing::debug!(remote_addr = %first.destination, reason = kind.as_str(), %error, "datagram not sent");
                    let unreachable =
                        matches!(kind, SendErrorKind::Refused | SendErrorKind::Unreachable);
                    if unreachable && self.failed.len() < FAILED_MAX {
                        self.failed.push((first.flow, first.destination));
                    }
                    run = &run[1..];
                    attempts = 0;
                }
            }
        }
    }
}

/// Tells whether the same datagram may leave after all; waits for room if that is what is missing.
fn worth_another(kind: SendErrorKind, socket: &Socket) -> bool {
    match kind {
        SendErrorKind::Refused | SendErrorKind::Unreachable => true,
        SendErrorKind::Full => {
            let wait = PollTimeout::try_from(FULL_WAIT).unwrap_or(PollTimeout::ZERO);
            // Whatever comes of the wait, the next attempt shows.
            let _ = nix::poll::poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], wait);
            true
        }
        // A path that carries less than was sent earlier reports itself in this way.
        SendErrorKind::TooLong => true,
        SendErrorKind::NotPermitted | SendErrorKind::Other => false,
    }
}

impl Sender for Transmitter {
    fn send(&mut self, outboxes: &[Outbox]) {
        let nothing = Transmit {
            flow: FlowId(0),
            destination: (Ipv4Addr::UNSPECIFIED, 0).into(),
            bytes: &[],
        };
        let mut run = [nothing; BATCH_DATAGRAMS];
        let mut length = 0;
        for transmit in outboxes.iter().flat_map(Outbox::iter) {
            if length == BATCH_DATAGRAMS || (length > 0 && run[0].flow != transmit.flow) {
                self.send_run(&run[..length]);
                length = 0;
            }
            run[length] = transmit;
            length += 1;
        }
        self.send_run(&run[..length]);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::num::NonZeroUsize;

    use super::*;
    use crate::Sockets;

    fn transmitter(address: &str) -> (Transmitter, Arc<Counters>) {
        let listen = [address.parse().unwrap()];
        let sockets = Sockets::bind(&listen, NonZeroUsize::MIN).unwrap();
        let counters = Arc::new(Counters::default());
        let transmitter = Transmitter::new(sockets.of_workers[0].clone(), counters.clone());
        (transmitter, counters)
    }

    fn outbox(destinations: &[SocketAddr]) -> Outbox {
        let mut outbox = Outbox::new();
        for (i, &destination) in destinations.iter().enumerate() {
            outbox.push(FlowId(0), destination, i.to_string().as_bytes());
        }
        outbox
    }

    #[test]
    fn a_pending_error_of_another_destination_only_costs_an_attempt() {
        let (mut transmitter, counters) = transmitter("127.0.9.20:0");
        let dead = UdpSocket::bind("127.0.9.21:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let alive = UdpSocket::bind("127.0.9.22:0").unwrap();
        for _ in 0..3 {
            transmitter.send(&[outbox(&[dead])]);
            transmitter.send(&[outbox(&[alive.local_addr().unwrap()])]);
            assert_eq!(alive.recv(&mut [0; 8]).unwrap(), 1);
        }
        assert_eq!((counters.resent(), counters.datagrams_out()), (3, 6));
        assert_eq!(transmitter.take_failed(), None);
    }

    #[test]
    fn more_than_a_batch_leaves_in_order() {
        let (mut transmitter, counters) = transmitter("127.0.9.23:0");
        let sink = UdpSocket::bind("127.0.9.24:0").unwrap();
        let outboxes = [
            outbox(&[sink.local_addr().unwrap(); 100]),
            outbox(&[sink.local_addr().unwrap(); 30]),
        ];
        transmitter.send(&outboxes);
        let mut buffer = [0; 8];
        for expected in (0..100).chain(0..30) {
            let length = sink.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], *expected.to_string().as_bytes());
        }
        assert_eq!(counters.datagrams_out(), 130);
    }
}
