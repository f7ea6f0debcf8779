//! The floor for every figure of processor time: receives batches and sends them on, nothing else.
//!
//! `forwarder LISTEN DESTINATION` forwards every datagram unread. Once a second it prints what it
//! did and what that cost; it ends when the process is told to.
#![allow(clippy::print_stdout)] // a command of its own

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use element::{FlowId, Transmit};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use transport::{BATCH_DATAGRAMS, ReceiveBatch, send_batch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut address = || {
        arguments
            .next()
            .ok_or("usage: forwarder LISTEN DESTINATION")
    };
    let socket = UdpSocket::bind(address()?.parse::<SocketAddr>()?)?;
    let destination: SocketAddr = address()?.parse()?;
    socket.set_nonblocking(true)?;

    let mut batch = ReceiveBatch::new();
    let mut report = Report::start()?;
    loop {
        nix::poll::poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(100_u8),
        )?;
        match batch.receive(socket.as_fd()) {
            Ok(_) => forward(&socket, &batch, destination, &mut report),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        report.every_second()?;
    }
}

fn forward(socket: &UdpSocket, batch: &ReceiveBatch, destination: SocketAddr, report: &mut Report) {
    let mut transmits = [Transmit {
        flow: FlowId(0),
        destination,
        bytes: &[],
    }; BATCH_DATAGRAMS];
    let mut count = 0;
    for (_, bytes) in batch.datagrams() {
        transmits[count].bytes = bytes;
        count += 1;
    }
    let mut rest = &transmits[..count];
    while !rest.is_empty() {
        match send_batch(socket.as_fd(), rest) {
            Ok(sent) => {
                report.forwarded += sent as u64;
                rest = &rest[sent..];
            }
            Err(_) => {
                report.lost += 1;
                rest = &rest[1..];
            }
        }
    }
}

/// What was done since the last line, and what it cost.
struct Report {
    since: Instant,
    cpu: Duration,
    forwarded: u64,
    lost: u64,
}

impl Report {
    fn start() -> nix::Result<Self> {
        Ok(Self {
            since: Instant::now(),
            cpu: cpu()?,
            forwarded: 0,
            lost: 0,
        })
    }

    fn every_second(&mut self) -> nix::Result<()> {
        if self.since.elapsed() >= Duration::from_secs(1) {
            let used = cpu()?.saturating_sub(self.cpu).as_secs_f64() * 1e6;
            if self.forwarded > 0 {
                let each = used / self.forwarded as f64;
                println!(
                    "{} datagrams forwarded, {} lost, {each:.2} us of processor time each",
                    self.forwarded, self.lost
                );
            }
            *self = Self::start()?;
        }
        Ok(())
    }
}

fn cpu() -> nix::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}
