//! Worker threads: each has its own sockets, drives the one element, and keeps the clock running.
//!
//! A turn: wait (10 ms at most), drain the sockets, then run timers, and flush after every batch. So
//! an answer that is already here is seen before the timer that would have missed it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use element::{Datagram, Element, FlowId, Turn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use socket2::Socket;

use crate::clock::Beat;
use crate::counters::{Counters, add};
use crate::sys::{self, BATCH_DATAGRAMS, ReceiveBatch};
use crate::{RunningClock, SendErrorKind, Sockets, Transmitter};

/// How many workers one process can have.
pub const WORKERS_MAX: usize = 64;

/// The longest wait: how late a worker is for what another thread has caused on its shards.
const WAIT_MAX: Duration = Duration::from_millis(10);

/// The least time from one turn that found datagrams to the next turn.
///
/// Waking up is what costs: a bare forwarder needs some 20 us for each of 3000 datagrams a second that
/// come one by one, and 2 us for each of those that come in full batches. So a busy worker lets them
/// gather, as a network card does with its interrupts. Whoever comes after a quiet millisecond is
/// served at once; nobody waits longer than this.
const BUSY_TURN_MIN: Duration = Duration::from_millis(1);

/// How many rounds over its sockets a worker makes before it looks after its timers.
const ROUNDS_MAX: usize = 8;

/// How many error reports of one socket are taken in a row.
const REPORTS_MAX: usize = 64;

/// Running workers. Dropping them stops them and waits for them.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    wakers: Vec<Arc<EventFd>>,
    sockets: Arc<[Socket]>,
    counters: Vec<Arc<Counters>>,
    stopping: Arc<AtomicBool>,
}

impl Workers {
    /// Starts one thread for each worker that `sockets` were bound for.
    ///
    /// A panic in a worker ends the process: its share of the traffic would vanish otherwise.
    pub fn start(
        element: Arc<dyn Element>,
        sockets: Sockets,
        clock: Arc<RunningClock>,
    ) -> io::Result<Self> {
        let count = sockets.of_workers.len();
        let mut workers = Self {
            threads: Vec::with_capacity(count),
            wakers: Vec::with_capacity(count),
            sockets: sockets.of_workers[0].clone(),
            counters: Vec::with_capacity(count),
            stopping: Arc::new(AtomicBool::new(false)),
        };
        for (index, sockets) in sockets.of_workers.into_iter().enumerate() {
            let counters = Arc::new(Counters::default());
            let waker = Arc::new(EventFd::from_flags(
                EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
            )?);
            workers.counters.push(counters.clone());
            workers.wakers.push(waker.clone());
            let mut worker = Worker {
                index,
                count,
                element: element.clone(),
                transmitter: Transmitter::new(sockets.clone(), counters.clone()),
                drops: vec![0; sockets.len()],
                readable: vec![false; sockets.len()],
                sockets,
                clock: clock.clone(),
                counters,
                waker,
                stopping: workers.stopping.clone(),
                batch: ReceiveBatch::new(),
                turn: Turn::new(),
                busy_since: None,
            };
            let run = move || {
                let _guard = AbortOnPanic;
                worker.run();
            };
            workers.threads.push(
                std::thread::Builder::new()
                    .name(format!("worker-{index}"))
                    .spawn(run)?,
            );
        }
        Ok(workers)
    }

    /// Wakes every worker, so that it looks after its timers now.
    pub fn wake(&self) {
        for waker in &self.wakers {
            // Full is as good as written.
            let _ = waker.write(1);
        }
    }

    /// Tells the workers to end their turn and stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Stops the workers and waits until they have.
    pub fn join(self) {
        drop(self);
    }

    /// Returns what each worker has counted.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Returns a sender for another thread, such as the control plane after it changed the node.
    ///
    /// It sends from the first worker's sockets and counts there.
    #[must_use]
    pub fn transmitter(&self) -> Transmitter {
        Transmitter::new(self.sockets.clone(), self.counters[0].clone())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // A worker that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker panicked");
            std::process::abort();
        }
    }
}

struct Worker {
    index: usize,
    count: usize,
    element: Arc<dyn Element>,
    sockets: Arc<[Socket]>,
    transmitter: Transmitter,
    /// The kernel's drop counter of each socket, as last seen.
    drops: Vec<u32>,
    /// Whether each socket may hold something, in this turn.
    readable: Vec<bool>,
    clock: Arc<RunningClock>,
    counters: Arc<Counters>,
    waker: Arc<EventFd>,
    stopping: Arc<AtomicBool>,
    batch: ReceiveBatch,
    turn: Turn,
    /// When the last turn began, if it found datagrams and left none behind.
    busy_since: Option<Instant>,
}

impl Worker {
    fn run(&mut self) {
        let beat = self.clock.add_worker();
        let sockets = self.sockets.clone();
        let waker = self.waker.clone();
        let mut polled: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        polled.push(PollFd::new(waker.as_fd(), PollFlags::POLLIN));
        while !self.stopping.load(Ordering::Acquire) {
            self.rest(&beat);
            self.wait(&beat, &mut polled);
            let began = Instant::now();
            add(&self.counters.turns, 1);
            for (i, socket) in sockets.iter().enumerate() {
                let events = polled[i].revents().unwrap_or(PollFlags::empty());
                self.readable[i] = !events.is_empty();
                if events.contains(PollFlags::POLLERR) {
                    self.take_reports(FlowId(i as u16), socket);
                }
            }
            let found = self.readable.contains(&true);
            let more = found && (0..ROUNDS_MAX).all(|_| self.drain(&sockets));
            self.busy_since = (found && !more).then_some(began);
            self.report_failed();
            self.expire();
            if polled[sockets.len()].any().unwrap_or(false) {
                // Nothing to read means that it was read before.
                let _ = waker.read();
            }
        }
    }

    /// Lets datagrams gather after a turn that found some.
    fn rest(&self, beat: &Beat) {
        let rest = self.busy_since.map_or(Duration::ZERO, |since| {
            BUSY_TURN_MIN.saturating_sub(since.elapsed())
        });
        if !rest.is_zero() {
            beat.beat(rest);
            std::thread::sleep(rest);
        }
    }

    /// Waits until a socket has something, a timer is due, or somebody calls.
    fn wait(&self, beat: &Beat, polled: &mut [PollFd<'_>]) {
        let due = self.element.poll_timeout(self.index, self.count);
        let wait = due.map_or(WAIT_MAX, |due| {
            due.saturating_duration_since(self.clock.now())
                .min(WAIT_MAX)
        });
        beat.beat(wait);
        match nix::poll::ppoll(polled, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("polling our own sockets failed: {error}"),
        }
        beat.beat(Duration::ZERO);
    }

    /// Takes one batch from every socket that is readable; tells whether some may hold more.
    fn drain(&mut self, sockets: &[Socket]) -> bool {
        for (i, socket) in sockets.iter().enumerate() {
            if !self.readable[i] {
                continue;
            }
            let flow = FlowId(i as u16);
            match self.batch.receive(socket.as_fd()) {
                Ok(received) => {
                    self.take_batch(flow);
                    // A batch that is not full has left nothing behind.
                    self.readable[i] = received == BATCH_DATAGRAMS;
                }
                Err(error) => self.readable[i] = self.survives(flow, socket, &error),
            }
        }
        self.readable.contains(&true)
    }

    /// Deals with a failed receive; tells whether to try again at once.
    fn survives(&mut self, flow: FlowId, socket: &Socket, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return false,
            Some(libc::EINTR) => return true,
            _ => {}
        }
        if matches!(
            SendErrorKind::of(error),
            SendErrorKind::Refused | SendErrorKind::Unreachable
        ) {
            // The error of a datagram sent earlier; the queue says whose.
            self.take_reports(flow, socket);
            return true;
        }
        add(&self.counters.receive_errors, 1);
        tracing::warn!(flow = flow.0, %error, "receive failed");
        false
    }

    fn take_batch(&mut self, flow: FlowId) {
        let nothing = Datagram {
            flow,
            source: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            bytes: &[],
        };
        let mut datagrams = [nothing; BATCH_DATAGRAMS];
        let mut count = 0;
        for (source, bytes) in self.batch.datagrams() {
            datagrams[count] = Datagram {
                flow,
                source,
                bytes,
            };
            count += 1;
        }
        add(&self.counters.batches, 1);
        add(&self.counters.datagrams_in, count);
        if let Some(drops) = self.batch.drops() {
            let seen = std::mem::replace(&mut self.drops[usize::from(flow.0)], drops);
            add(
                &self.counters.kernel_drops,
                drops.wrapping_sub(seen) as usize,
            );
        }
        let now = self.clock.now();
        self.element
            .handle_batch(now, &datagrams[..count], &mut self.turn);
        self.element.flush(&mut self.turn, &mut self.transmitter);
    }

    /// Hands on what the error queue of a socket says about destinations.
    fn take_reports(&mut self, flow: FlowId, socket: &Socket) {
        for _ in 0..REPORTS_MAX {
            match sys::take_report(socket.as_fd()) {
                Ok(Some(report)) => {
                    let error = io::Error::from_raw_os_error(report.errno);
                    let kind = SendErrorKind::of(&error);
                    tracing::debug!(flow = flow.0, remote_addr = %report.destination, %error, "error reported");
                    if matches!(kind, SendErrorKind::Refused | SendErrorKind::Unreachable) {
                        self.report_unreachable(flow, report.destination);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    add(&self.counters.receive_errors, 1);
                    tracing::warn!(flow = flow.0, %error, "reading the error queue failed");
                    break;
                }
            }
        }
    }

    fn report_failed(&mut self) {
        while let Some((flow, destination)) = self.transmitter.take_failed() {
            self.report_unreachable(flow, destination);
        }
    }

    fn report_unreachable(&mut self, flow: FlowId, destination: SocketAddr) {
        add(&self.counters.unreachable, 1);
        self.element
            .handle_unreachable(self.clock.now(), flow, destination, &mut self.turn);
        self.element.flush(&mut self.turn, &mut self.transmitter);
    }

    fn expire(&mut self) {
        let now = self.clock.now();
        if self
            .element
            .poll_timeout(self.index, self.count)
            .is_some_and(|due| due <= now)
        {
            self.element
                .handle_timeout(now, self.index, self.count, &mut self.turn);
            self.element.flush(&mut self.turn, &mut self.transmitter);
        }
    }
}
