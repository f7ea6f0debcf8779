//! The carrier and the IPBX of the demo: sans-IO user agents, driven here over two sockets.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use socket2::{Domain, Socket, Type};
use user_agent::{
    CallPlan, CalleePlan, Carrier, CarrierConfig, CarrierEvent, Ipbx, IpbxConfig, Method, Outcome,
};

use super::network::Block;

/// The longest ring.
const RING_MAX_MS: u64 = 3000;
/// What the sockets ask the kernel to hold.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How many datagrams of one socket are taken before timers are looked after.
const DATAGRAMS_PER_TURN: usize = 256;

/// The calls to place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) calls: u32,
    pub(crate) rate: u32,
    pub(crate) hold: Duration,
    pub(crate) seed: u64,
}

/// How the calls are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) placed: u32,
    pub(crate) ringing: u32,
    pub(crate) talking: u32,
    pub(crate) ended: u32,
}

/// What both ends saw.
#[derive(Debug)]
pub(crate) struct Report {
    /// Calls whose BYE the callee answered with 200.
    pub(crate) completed: usize,
    /// The others: Call-ID and what became of them.
    pub(crate) failed: Vec<(String, String)>,
    /// Requests but ACK that reached the callee under more than one branch.
    pub(crate) delivered_twice: Vec<String>,
    /// The slowest request: method and time.
    pub(crate) slowest: Option<(Method, Duration)>,
}

/// The user agents' thread.
pub(crate) struct Agents {
    thread: JoinHandle<anyhow::Result<Report>>,
    progress: Arc<Mutex<Progress>>,
    stop: Arc<AtomicBool>,
}

impl Agents {
    pub(crate) fn start(block: Block, plan: Plan) -> anyhow::Result<Self> {
        let sockets = [open(block.carrier())?, open(block.ipbx())?];
        let progress = Arc::new(Mutex::new(Progress::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (progress.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("user-agents".to_owned())
            .spawn(move || drive(block, plan, &sockets, &shared, &stopped))?;
        Ok(Self {
            thread,
            progress,
            stop,
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when the thread has ended before it should.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.thread.is_finished() {
            bail!("the user agents ended early");
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(report) => report,
            Err(_) => bail!("the user agents panicked"),
        }
    }
}

fn open(address: std::net::SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("binding {address}/udp"))?;
    Ok(socket.into())
}

fn drive(
    block: Block,
    plan: Plan,
    sockets: &[UdpSocket; 2],
    shared: &Mutex<Progress>,
    stop: &AtomicBool,
) -> anyhow::Result<Report> {
    let [carrier_socket, ipbx_socket] = sockets;
    let mut carrier = Carrier::new(CarrierConfig::new(block.carrier(), block.sbc(), plan.seed));
    let mut ipbx = Ipbx::new(IpbxConfig::new(block.ipbx(), plan.seed ^ 1));
    let mut random = StdRng::seed_from_u64(plan.seed);
    let start = Instant::now();
    let mut progress = Progress::default();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while progress.placed < plan.calls && now >= due(start, plan, progress.placed) {
            let ring = Duration::from_millis(random.random_range(0..=RING_MAX_MS));
            let mut call = CallPlan::new(
                &format!("1514555{:04}", random.random_range(0..10_000)),
                plan.hold,
            );
            call.callee = Some(CalleePlan::answer(ring));
            carrier.place_call(now, call)?;
            progress.placed += 1;
        }
        receive(carrier_socket, &mut buffer, |source, bytes| {
            carrier.handle_datagram(Instant::now(), source, bytes)
        })?;
        receive(ipbx_socket, &mut buffer, |source, bytes| {
            ipbx.handle_datagram(Instant::now(), source, bytes)
        })?;
        let now = Instant::now();
        carrier.handle_timeout(now);
        ipbx.handle_timeout(now);
        while let Some((to, bytes)) = carrier.poll_transmit() {
            send(carrier_socket, to, &bytes)?;
        }
        while let Some((to, bytes)) = ipbx.poll_transmit() {
            send(ipbx_socket, to, &bytes)?;
        }
        while let Some(event) = carrier.poll_event() {
            note(&mut progress, &carrier, &event);
        }
        while ipbx.poll_event().is_some() {}
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        let next_call = (progress.placed < plan.calls).then(|| due(start, plan, progress.placed));
        let wake = [carrier.poll_timeout(), ipbx.poll_timeout(), next_call]
            .into_iter()
            .flatten()
            .min();
        wait(sockets, wake)?;
    }
    Ok(report(&carrier, &ipbx))
}

fn due(start: Instant, plan: Plan, call: u32) -> Instant {
    start + Duration::from_secs(1) * call / plan.rate
}

fn note(progress: &mut Progress, carrier: &Carrier, event: &CarrierEvent) {
    match event {
        CarrierEvent::CallRinging { .. } => progress.ringing += 1,
        CarrierEvent::CallAnswered { call } => {
            let rang = carrier
                .record(call)
                .is_some_and(|record| record.ringing.is_some());
            progress.ringing = progress.ringing.saturating_sub(u32::from(rang));
            progress.talking += 1;
        }
        CarrierEvent::CallEnded { call, .. } => {
            match carrier.record(call) {
                Some(record) if record.answered.is_some() => {
                    progress.talking = progress.talking.saturating_sub(1)
                }
                Some(record) if record.ringing.is_some() => {
                    progress.ringing = progress.ringing.saturating_sub(1)
                }
                Some(_) | None => {}
            }
            progress.ended += 1;
        }
        CarrierEvent::RequestFinished { .. } | CarrierEvent::Garbage { .. } => {}
    }
}

fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    mut handle: impl FnMut(std::net::SocketAddr, &[u8]),
) -> anyhow::Result<()> {
    for _ in 0..DATAGRAMS_PER_TURN {
        match socket.recv_from(buffer) {
            Ok((length, source)) => handle(source, &buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            // What was sent before met a closed port; the user agent's timers deal with it.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("receiving"),
        }
    }
    Ok(())
}

fn send(socket: &UdpSocket, to: std::net::SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
    match socket.send_to(bytes, to) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending to {to}")),
    }
}

fn wait(sockets: &[UdpSocket; 2], wake: Option<Instant>) -> anyhow::Result<()> {
    let mut fds = sockets
        .each_ref()
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    let left = wake.map_or(Duration::from_millis(50), |wake| {
        wake.saturating_duration_since(Instant::now())
    });
    // Rounded up: a poll that returns early would spin.
    let left = (left
        .min(Duration::from_millis(50))
        .as_micros()
        .div_ceil(1000)) as u16;
    match poll(&mut fds, PollTimeout::from(left)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting"),
    }
}

fn report(carrier: &Carrier, ipbx: &Ipbx) -> Report {
    let completed = carrier
        .records()
        .filter(|(_, record)| record.outcome == Some(Outcome::Completed))
        .count();
    let failed = carrier
        .records()
        .filter(|(_, record)| record.outcome != Some(Outcome::Completed));
    let failed = failed
        .map(|(call, record)| (call.to_string(), format!("{:?}", record.outcome)))
        .collect();
    let delivered_twice = ipbx
        .delivered_twice()
        .map(|duplicate| format!("{duplicate:?}"))
        .collect();
    let slowest = carrier
        .report()
        .slowest
        .map(|request| (request.method, request.elapsed));
    Report {
        completed,
        failed,
        delivered_twice,
        slowest,
    }
}
