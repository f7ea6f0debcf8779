//! Our own carrier and IPBX over sockets: what a few calls meet, message by message.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use user_agent::{
    CallId, CallPlan, CallRecord, CalleePlan, CalleeRecord, Carrier, CarrierConfig, Ipbx,
    IpbxConfig, Outcome,
};

use crate::system::{System, eventually};

/// The longest sleep of the thread that moves datagrams.
const NAP_MS: u16 = 5;

/// Both ends, and the sockets that they share with nobody.
struct Ends {
    carrier: Carrier,
    carrier_socket: Arc<UdpSocket>,
    ipbx: Ipbx,
    ipbx_socket: Arc<UdpSocket>,
}

/// A carrier and an IPBX at work; they stop when dropped.
pub(crate) struct Agents {
    ends: Arc<Mutex<Ends>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Plans a call that rings for `ring` and is held for `hold`.
pub(crate) fn plan(ring: Duration, hold: Duration) -> CallPlan {
    let mut plan = CallPlan::new("15145550199", hold);
    plan.callee = Some(CalleePlan::answer(ring));
    plan
}

impl Agents {
    pub(crate) fn start(system: &System) -> Self {
        let open = |name: &str| {
            let socket = system
                .places
                .within(name, || UdpSocket::bind(system.sip(name)).unwrap());
            socket.set_nonblocking(true).unwrap();
            socket2::SockRef::from(&socket)
                .set_recv_buffer_size(4 << 20)
                .unwrap();
            Arc::new(socket)
        };
        let (carrier_socket, ipbx_socket) = (open("carrier"), open("ipbx"));
        let carrier = CarrierConfig::new(system.sip("carrier"), system.sip("sbc"), 1);
        let sockets = [carrier_socket.clone(), ipbx_socket.clone()];
        let ends = Arc::new(Mutex::new(Ends {
            carrier: Carrier::new(carrier),
            carrier_socket,
            ipbx: Ipbx::new(IpbxConfig::new(system.sip("ipbx"), 2)),
            ipbx_socket,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (ends.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                lock(&shared).turn();
                let mut fds = sockets
                    .each_ref()
                    .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN));
                poll(&mut fds, PollTimeout::from(NAP_MS)).unwrap();
            }
        });
        Self {
            ends,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn place(&self, plan: CallPlan) -> CallId {
        let mut ends = lock(&self.ends);
        let call = ends.carrier.place_call(Instant::now(), plan).unwrap();
        ends.transmit();
        call
    }

    /// Places `calls` calls, `rate` a second.
    pub(crate) fn place_all(&self, calls: u32, rate: u32, plan: impl Fn(u32) -> CallPlan) {
        let start = Instant::now();
        for number in 0..calls {
            let due = start + Duration::from_secs(1) * number / rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.place(plan(number));
        }
    }

    /// Tells how many calls have been placed.
    pub(crate) fn placed(&self) -> u64 {
        lock(&self.ends).carrier.report().placed
    }

    pub(crate) fn caller(&self, call: &CallId) -> CallRecord {
        lock(&self.ends).carrier.record(call).unwrap().clone()
    }

    /// Returns what the callee knows of a call, if it ever heard of it.
    pub(crate) fn callee(&self, call: &CallId) -> Option<CalleeRecord> {
        lock(&self.ends).ipbx.record(call).cloned()
    }

    pub(crate) fn wait_until_answered(&self, call: &CallId) {
        eventually("the call is acknowledged", || {
            self.callee(call)
                .is_some_and(|callee| callee.acknowledged.is_some())
        });
    }

    /// Waits for the end of a call.
    pub(crate) fn outcome(&self, call: &CallId, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(outcome) = self.caller(call).outcome {
                return outcome;
            }
            assert!(
                Instant::now() < deadline,
                "{call} lasts: {:?}",
                self.caller(call)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the last call at both ends, however it ends.
    pub(crate) fn wait_until_all_ended(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let open = || {
            let ends = lock(&self.ends);
            ends.carrier.open_calls() + ends.ipbx.open_calls()
        };
        while open() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the last call, asserts that each was completed for both ends and nothing arrived
    /// twice, and returns the slowest request.
    pub(crate) fn assert_all_completed(&self, patience: Duration) -> Duration {
        self.wait_until_all_ended(patience);
        let ends = lock(&self.ends);
        let failed: Vec<_> = ends
            .carrier
            .records()
            .filter(|(_, call)| call.outcome != Some(Outcome::Completed) || call.extra_answers > 0)
            .take(5)
            .collect();
        let (carrier, ipbx) = (ends.carrier.report(), ends.ipbx.report());
        assert!(
            failed.is_empty(),
            "{carrier:?}, the first few:\n{failed:#?}"
        );
        assert_eq!(ends.ipbx.delivered_twice().collect::<Vec<_>>(), []);
        assert_eq!(
            (ipbx.completed, ipbx.failed),
            (carrier.placed, 0),
            "{ipbx:?}"
        );
        assert_eq!(
            (carrier.garbage, ipbx.garbage),
            (0, 0),
            "{carrier:?}, {ipbx:?}"
        );
        carrier
            .slowest
            .map_or(Duration::ZERO, |slowest| slowest.elapsed)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the user agents panicked");
        }
    }
}

fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ends {
    fn turn(&mut self) {
        let mut buffer = [0; 65_536];
        while let Some((length, source)) = receive(&self.carrier_socket, &mut buffer) {
            self.carrier
                .handle_datagram(Instant::now(), source, &buffer[..length]);
        }
        while let Some((length, source)) = receive(&self.ipbx_socket, &mut buffer) {
            self.ipbx
                .handle_datagram(Instant::now(), source, &buffer[..length]);
        }
        self.carrier.handle_timeout(Instant::now());
        self.ipbx.handle_timeout(Instant::now());
        self.transmit();
        while self.carrier.poll_event().is_some() {}
        while self.ipbx.poll_event().is_some() {}
    }

    fn transmit(&mut self) {
        while let Some((to, bytes)) = self.carrier.poll_transmit() {
            // A closed port is what some tests are about; timers deal with it.
            let _ = self.carrier_socket.send_to(&bytes, to);
        }
        while let Some((to, bytes)) = self.ipbx.poll_transmit() {
            let _ = self.ipbx_socket.send_to(&bytes, to);
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, std::net::SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Ok(received) => return Some(received),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                return None;
            }
        }
    }
}
