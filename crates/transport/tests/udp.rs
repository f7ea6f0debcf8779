//! Workers over real sockets on loopback: batches, order, error reports, drops, held-up time.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use element::{Datagram, Element, FlowId, Outbox, Sender, Turn};
use transport::{BindError, RunningClock, SendErrorKind, Sockets, Workers};

/// Sends everything back to where it came from, or does what its message says.
#[derive(Default)]
struct Echo {
    outbox: Mutex<Outbox>,
    /// Datagrams seen, and the most in one batch.
    seen: AtomicU64,
    largest: AtomicU64,
    unreachable: Mutex<Vec<(FlowId, SocketAddr)>>,
    /// Where `relay` goes, in this order.
    relay: Mutex<Vec<SocketAddr>>,
    stalled: AtomicBool,
    due: Mutex<Option<Instant>>,
    fired: Mutex<Vec<Instant>>,
}

impl Element for Echo {
    fn handle_batch(&self, now: Instant, batch: &[Datagram<'_>], _: &mut Turn) {
        self.seen.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.largest
            .fetch_max(batch.len() as u64, Ordering::Relaxed);
        for datagram in batch {
            match datagram.bytes {
                b"relay" => {
                    for &destination in &*self.relay.lock().unwrap() {
                        self.outbox
                            .lock()
                            .unwrap()
                            .push(datagram.flow, destination, b"relayed");
                    }
                }
                b"stall" => {
                    self.stalled.store(true, Ordering::Release);
                    std::thread::sleep(Duration::from_millis(300));
                }
                b"timer" => *self.due.lock().unwrap() = Some(now + Duration::from_millis(30)),
                bytes if bytes.len() > 20_000 => {}
                bytes => self
                    .outbox
                    .lock()
                    .unwrap()
                    .push(datagram.flow, datagram.source, bytes),
            }
        }
    }

    fn handle_unreachable(&self, _: Instant, flow: FlowId, destination: SocketAddr, _: &mut Turn) {
        self.unreachable.lock().unwrap().push((flow, destination));
    }

    fn handle_timeout(&self, now: Instant, _: usize, _: usize, _: &mut Turn) {
        let mut due = self.due.lock().unwrap();
        if due.is_some_and(|due| due <= now) {
            *due = None;
            self.fired.lock().unwrap().push(now);
        }
    }

    fn poll_timeout(&self, worker: usize, _: usize) -> Option<Instant> {
        (worker == 0).then(|| *self.due.lock().unwrap()).flatten()
    }

    fn flush(&self, _: &mut Turn, sender: &mut dyn Sender) {
        let mut outbox = self.outbox.lock().unwrap();
        sender.send(std::slice::from_ref(&outbox));
        outbox.clear();
    }
}

struct Running {
    echo: Arc<Echo>,
    clock: Arc<RunningClock>,
    workers: Workers,
    addresses: Vec<SocketAddr>,
}

fn start(listen: &[&str], workers: usize) -> Running {
    let listen: Vec<SocketAddr> = listen
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    let sockets = Sockets::bind(&listen, NonZeroUsize::new(workers).unwrap()).unwrap();
    let addresses = sockets.addresses().to_vec();
    let (echo, clock) = (Arc::new(Echo::default()), Arc::new(RunningClock::new()));
    let workers = Workers::start(echo.clone(), sockets, clock.clone()).unwrap();
    Running {
        echo,
        clock,
        workers,
        addresses,
    }
}

fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn closed_port(address: &str) -> SocketAddr {
    UdpSocket::bind(address).unwrap().local_addr().unwrap()
}

#[test]
fn two_workers_share_the_clients_and_keep_the_order_of_each() {
    const CLIENTS: usize = 24;
    const EACH: usize = 50;
    let running = start(&["127.0.9.1:0"], 2);
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| client("127.0.9.2:0")).collect();
    for i in 0..EACH {
        for client in &clients {
            client
                .send_to(i.to_string().as_bytes(), running.addresses[0])
                .unwrap();
        }
    }
    for client in &clients {
        let echoed: Vec<Vec<u8>> = (0..EACH).map(|_| receive(client)).collect();
        assert_eq!(
            echoed,
            (0..EACH)
                .map(|i| i.to_string().into_bytes())
                .collect::<Vec<_>>()
        );
    }
    let counters = running.workers.counters();
    let all = (CLIENTS * EACH) as u64;
    eventually("all are counted", || {
        counters.iter().map(|c| c.datagrams_out()).sum::<u64>() == all
    });
    let taken: Vec<u64> = counters.iter().map(|c| c.datagrams_in()).collect();
    assert_eq!(taken.iter().sum::<u64>(), all);
    assert!(
        taken.iter().all(|&n| n > 0),
        "one worker got all: {taken:?}"
    );
    running.workers.join();
}

#[test]
fn a_flow_is_answered_from_its_own_address_in_both_families() {
    let listen: &[&str] = if UdpSocket::bind("[::1]:0").is_ok() {
        &["127.0.9.3:0", "127.0.9.4:0", "[::1]:0"]
    } else {
        println!("left out: IPv6, this machine has no ::1");
        &["127.0.9.3:0", "127.0.9.4:0"]
    };
    let running = start(listen, 1);
    for &address in &running.addresses {
        let client = client(if address.is_ipv6() {
            "[::1]:0"
        } else {
            "127.0.9.2:0"
        });
        let long = vec![b'x'; 9_000];
        client.send_to(&long, address).unwrap();
        let mut buffer = vec![0; 65_536];
        let (length, source) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], source), (&long[..], address));
    }
}

#[test]
fn a_closed_port_is_reported_and_costs_no_other_datagram() {
    const ROUNDS: usize = 20;
    let running = start(&["127.0.9.5:0"], 1);
    let dead = [closed_port("127.0.9.6:0"), closed_port("127.0.9.7:0")];
    let alive = client("127.0.9.8:0");
    let alive_address = alive.local_addr().unwrap();
    *running.echo.relay.lock().unwrap() =
        vec![dead[0], dead[1], alive_address, dead[0], alive_address];
    for _ in 0..ROUNDS {
        alive.send_to(b"relay", running.addresses[0]).unwrap();
        assert_eq!([receive(&alive), receive(&alive)], [b"relayed", b"relayed"]);
    }
    let reported = |address| {
        running
            .echo
            .unreachable
            .lock()
            .unwrap()
            .contains(&(FlowId(0), address))
    };
    eventually("both are reported", || {
        reported(dead[0]) && reported(dead[1])
    });
    assert!(!reported(alive_address));
    let counters = &running.workers.counters()[0];
    assert!(counters.unreachable() >= 2, "{counters:?}");
    assert!(
        SendErrorKind::ALL
            .iter()
            .all(|&kind| counters.send_errors(kind) == 0),
        "{counters:?}"
    );
    eventually("all are counted", || {
        counters.datagrams_out() == 5 * ROUNDS as u64
    });
}

#[test]
fn what_cannot_be_sent_is_counted_by_its_reason_and_the_rest_leaves() {
    let running = start(&["127.0.9.9:0"], 1);
    let alive = client("127.0.9.8:0");
    // A loopback socket has no way out, and a flow of one family cannot send to the other.
    *running.echo.relay.lock().unwrap() = vec![
        "198.51.100.1:5060".parse().unwrap(),
        "[::1]:5060".parse().unwrap(),
        alive.local_addr().unwrap(),
    ];
    alive.send_to(b"relay", running.addresses[0]).unwrap();
    assert_eq!(receive(&alive), b"relayed");
    let counters = &running.workers.counters()[0];
    let errors: u64 = SendErrorKind::ALL
        .iter()
        .map(|&kind| counters.send_errors(kind))
        .sum();
    assert_eq!(
        (errors, counters.send_errors(SendErrorKind::Other) >= 1),
        (2, true),
        "{counters:?}"
    );
}

#[test]
fn a_taken_port_is_refused_with_its_holder_and_the_remedy() {
    let holder = start(&["127.0.9.10:0"], 2);
    let one = NonZeroUsize::MIN;
    let error = Sockets::bind(&holder.addresses, one).unwrap_err();
    let text = error.to_string();
    let port = holder.addresses[0].port();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(
        text.starts_with(&format!("port {port}/udp on 127.0.9.10 is in use by ")),
        "{text}"
    );
    assert!(
        text.contains(&format!("(process {})", std::process::id())),
        "{text}"
    );
    assert!(
        text.ends_with("stop the holder, or listen elsewhere"),
        "{text}"
    );

    let foreign = Sockets::bind(&["198.51.100.1:5060".parse().unwrap()], one).unwrap_err();
    assert!(matches!(foreign, BindError::NotLocal { .. }), "{foreign:?}");
    let twice = Sockets::bind(&["127.0.9.10:5999".parse().unwrap(); 2], one).unwrap_err();
    assert!(matches!(twice, BindError::Duplicate { .. }), "{twice:?}");

    let address = holder.addresses[0];
    holder.workers.join();
    Sockets::bind(&[address], one).unwrap();
}

#[test]
fn what_the_kernel_drops_is_counted() {
    let running = start(&["127.0.9.11:0"], 1);
    let sender = client("127.0.9.2:0");
    sender.send_to(b"stall", running.addresses[0]).unwrap();
    eventually("the worker stalls", || {
        running.echo.stalled.load(Ordering::Acquire)
    });
    let mut sent = 1;
    let long = vec![0; 60_000];
    for _ in 0..400 {
        sender.send_to(&long, running.addresses[0]).unwrap();
        sent += 1;
    }
    std::thread::sleep(Duration::from_millis(400));
    sender.send_to(b"last", running.addresses[0]).unwrap();
    sent += 1;
    assert_eq!(receive(&sender), b"last");
    let counters = &running.workers.counters()[0];
    assert!(counters.kernel_drops() > 0, "{counters:?}");
    assert_eq!(
        counters.datagrams_in() + counters.kernel_drops(),
        sent,
        "{counters:?}"
    );
    assert!(
        running.echo.largest.load(Ordering::Relaxed) > 1,
        "batches hold more than one datagram"
    );
}

#[test]
fn timers_run_on_time_and_a_held_up_worker_stops_the_clock() {
    let running = start(&["127.0.9.12:0"], 2);
    let client = client("127.0.9.2:0");
    let began = running.clock.now();
    client.send_to(b"timer", running.addresses[0]).unwrap();
    eventually("the timer fires", || {
        !running.echo.fired.lock().unwrap().is_empty()
    });
    let fired = running.echo.fired.lock().unwrap()[0] - began;
    assert!(
        (Duration::from_millis(30)..Duration::from_millis(200)).contains(&fired),
        "{fired:?}"
    );

    let (before, raw) = (running.clock.now(), Instant::now());
    client.send_to(b"stall", running.addresses[0]).unwrap();
    client.send_to(b"end", running.addresses[0]).unwrap();
    assert_eq!(receive(&client), b"end");
    let (ran, passed) = (running.clock.now() - before, raw.elapsed());
    assert!(passed >= Duration::from_millis(300), "{passed:?}");
    assert!(
        ran < Duration::from_millis(150),
        "the clock ran {ran:?} of {passed:?}"
    );
    // It is counted when the sockets are empty, which is after the answer.
    eventually("the pause is counted", || running.clock.pauses().0 >= 1);
}

#[test]
fn another_thread_can_send_and_wake() {
    let running = start(&["127.0.9.13:0"], 1);
    let client = client("127.0.9.2:0");
    let mut outbox = Outbox::new();
    outbox.push(FlowId(0), client.local_addr().unwrap(), b"from outside");
    running.workers.transmitter().send(&[outbox]);
    assert_eq!(receive(&client), b"from outside");
    let turns = running.workers.counters()[0].turns();
    running.workers.wake();
    eventually("the worker turns", || {
        running.workers.counters()[0].turns() > turns
    });
}

#[test]
fn a_busy_worker_lets_datagrams_gather_and_an_idle_one_does_not() {
    let running = start(&["127.0.9.14:0"], 1);
    let client = client("127.0.9.2:0");
    let turns = || running.workers.counters()[0].turns();
    let (before, began) = (turns(), Instant::now());
    let (unanswered, mut sent) = (vec![0; 20_001], 0_u64);
    while began.elapsed() < Duration::from_millis(200) {
        client.send_to(&unanswered, running.addresses[0]).unwrap();
        sent += 1;
        std::thread::sleep(Duration::from_micros(50));
    }
    let (taken, passed) = (turns() - before, began.elapsed());
    if sent < 2 * u64::try_from(passed.as_millis()).unwrap() {
        println!("left out: too busy a machine to tell, {sent} datagrams in {passed:?}");
        return;
    }
    assert!(
        u128::from(taken) <= passed.as_millis() + 20,
        "{taken} turns in {passed:?}"
    );

    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(3));
        let began = Instant::now();
        client.send_to(b"alone", running.addresses[0]).unwrap();
        assert_eq!(receive(&client), b"alone");
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < Duration::from_millis(1), "{fastest:?}");
}
