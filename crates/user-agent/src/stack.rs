//! Transactions over UDP, RFC 3261 section 17 with RFC 6026: what carrier and IPBX have in common.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::message::{self, Extra, Message, Method, NewRequest, Request, Response};
use crate::queue::Queue;
use crate::timers::Timers;

/// RFC 3261 section 17.1.1.1.
pub(crate) const T1: Duration = Duration::from_millis(500);
pub(crate) const T2: Duration = Duration::from_secs(4);
/// Timers B, D, F, H, J, L, M: how long a transaction waits, and how long it absorbs repeats.
pub(crate) const PATIENCE: Duration = Duration::from_secs(32);
/// The most transactions of each side; requests beyond are dropped and counted.
const TRANSACTIONS_MAX: usize = 262_144;

/// What a received message means to the transaction user.
#[derive(Debug)]
pub(crate) enum Input<P> {
    /// Nothing: a repeat, or a stray.
    Absorbed,
    /// A request that is new, or an ACK that belongs to no transaction.
    Request(Request),
    /// What became of a request of ours.
    Answer(Answer<P>),
}

/// A response to a request of ours, or its timeout.
#[derive(Debug)]
pub(crate) struct Answer<P> {
    /// As given to `send`.
    pub(crate) purpose: P,
    pub(crate) method: Method,
    /// `None`: nothing final came in time.
    pub(crate) response: Option<Response>,
    /// Since the request was first sent.
    pub(crate) elapsed: Duration,
    /// The first response that counts: 101 or more for INVITE, a final one for others.
    pub(crate) is_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Calling or Trying: nothing came yet.
    Waiting,
    Proceeding,
    /// Completed, or Accepted: the final response is there, and may come again.
    Final,
}

type ClientKey = (String, Method);

#[derive(Debug)]
struct Client<P> {
    purpose: P,
    request: NewRequest,
    bytes: Vec<u8>,
    destination: SocketAddr,
    sent: Instant,
    interval: Duration,
    phase: Phase,
    is_answered: bool,
    ack: Option<Vec<u8>>,
}

/// Section 17.2.3: branch, sent-by and method.
type ServerKey = (String, String, Method);

#[derive(Debug)]
struct Server {
    last: Option<(SocketAddr, Vec<u8>)>,
    interval: Duration,
    /// A final response to an INVITE that is repeated until its ACK.
    awaits_ack: bool,
}

#[derive(Debug)]
enum Timer {
    /// A and E.
    Retransmit(ClientKey),
    /// B and F.
    GiveUp(ClientKey),
    /// D, K and M.
    ForgetClient(ClientKey),
    /// G.
    Repeat(ServerKey),
    /// H, I, J and L.
    ForgetServer(ServerKey),
}

/// Counts of what went unseen by the transaction user.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) garbage: u64,
    pub(crate) retransmissions: u64,
    pub(crate) overflows: u64,
}

/// The transactions of one user agent; `P` is what the user wants to remember with a request.
#[derive(Debug)]
pub(crate) struct Stack<P> {
    local: SocketAddr,
    rng: StdRng,
    clients: BTreeMap<ClientKey, Client<P>>,
    servers: BTreeMap<ServerKey, Server>,
    timers: Timers<Timer>,
    out: Queue<(SocketAddr, Vec<u8>)>,
    timeouts: Queue<Answer<P>>,
    pub(crate) counts: Counts,
}

impl<P: Clone> Stack<P> {
    pub(crate) fn new(local: SocketAddr, seed: u64) -> Self {
        Self {
            local,
            rng: StdRng::seed_from_u64(seed),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            timers: Timers::new(),
            out: Queue::new(),
            timeouts: Queue::new(),
            counts: Counts::default(),
        }
    }

    /// Returns 64 random bits in hexadecimal, for tags and the like.
    pub(crate) fn token(&mut self) -> String {
        format!("{:016x}", self.rng.random::<u64>())
    }

    /// Returns the Contact URI.
    pub(crate) fn contact(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.local)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends a request under a new branch, again and again until it is answered.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        destination: SocketAddr,
        request: NewRequest,
        purpose: P,
    ) -> String {
        let branch = format!("z9hG4bK{}", self.token());
        self.start(now, destination, request, branch.clone(), purpose);
        branch
    }

    /// Cancels the INVITE sent under `branch`, section 9.1.
    pub(crate) fn cancel(&mut self, now: Instant, branch: &str, purpose: P) {
        let Some(invite) = self.clients.get(&(branch.to_owned(), Method::Invite)) else {
            return;
        };
        let (destination, mut request) = (invite.destination, invite.request.clone());
        request.method = Method::Cancel;
        request.contact = None;
        request.extra = Extra::default();
        self.start(now, destination, request, branch.to_owned(), purpose);
    }

    /// Sends an ACK to a 2xx, once, and returns it so that it can be repeated.
    pub(crate) fn send_ack(
        &mut self,
        destination: SocketAddr,
        ack: NewRequest,
    ) -> (SocketAddr, Vec<u8>) {
        let branch = format!("z9hG4bK{}", self.token());
        let bytes = ack.print(self.local, &branch);
        self.out.push((destination, bytes.clone()));
        (destination, bytes)
    }

    /// Sends a datagram outside of any transaction: an ACK or a 2xx once more.
    pub(crate) fn repeat(&mut self, (destination, bytes): (SocketAddr, Vec<u8>)) {
        self.counts.retransmissions += 1;
        self.out.push((destination, bytes));
    }

    /// Answers a request, and returns the datagram so that a 2xx to an INVITE can be repeated.
    pub(crate) fn respond(
        &mut self,
        now: Instant,
        request: &Request,
        status: u16,
        to_tag: &str,
        contact: Option<&str>,
        extra: Extra,
    ) -> (SocketAddr, Vec<u8>) {
        let response = message::respond(request, status, to_tag, contact, extra);
        self.out.push(response.clone());
        let key = server_key(request);
        if let Some(server) = self.servers.get_mut(&key) {
            server.last = Some(response.clone());
            if status >= 300 && key.2 == Method::Invite {
                server.awaits_ack = true;
                server.interval = T1;
                self.timers.schedule(now + T1, Timer::Repeat(key.clone()));
            }
            if status >= 200 {
                self.timers
                    .schedule(now + PATIENCE, Timer::ForgetServer(key));
            }
        }
        response
    }

    /// Reads a datagram; `None`, counted, if it is garbage.
    pub(crate) fn parse(&mut self, source: SocketAddr, bytes: &[u8]) -> Option<Message> {
        let message = Message::parse(source, bytes).ok();
        self.counts.garbage += u64::from(message.is_none());
        message
    }

    pub(crate) fn receive(&mut self, now: Instant, message: Message) -> Input<P> {
        match message {
            Message::Request(request) => self.receive_request(request),
            Message::Response(response) => self.receive_response(now, response),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Retransmit(key) => self.retransmit(now, key),
                Timer::GiveUp(key) => self.give_up(now, &key),
                Timer::ForgetClient(key) => {
                    self.clients.remove(&key);
                }
                Timer::Repeat(key) => self.repeat_final(now, key),
                Timer::ForgetServer(key) => {
                    self.servers.remove(&key);
                }
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop()
    }

    /// Returns the next request that nobody answered.
    pub(crate) fn poll_unanswered(&mut self) -> Option<Answer<P>> {
        self.timeouts.pop()
    }

    fn start(
        &mut self,
        now: Instant,
        destination: SocketAddr,
        request: NewRequest,
        branch: String,
        purpose: P,
    ) {
        let key = (branch, request.method);
        let bytes = request.clone().print(self.local, &key.0);
        self.out.push((destination, bytes.clone()));
        self.timers
            .schedule(now + T1, Timer::Retransmit(key.clone()));
        self.timers
            .schedule(now + PATIENCE, Timer::GiveUp(key.clone()));
        let client = Client {
            purpose,
            request,
            bytes,
            destination,
            sent: now,
            interval: T1,
            phase: Phase::Waiting,
            is_answered: false,
            ack: None,
        };
        self.clients.insert(key, client);
    }

    fn retransmit(&mut self, now: Instant, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let is_invite = key.1 == Method::Invite;
        client.interval = match (client.phase, is_invite) {
            (Phase::Final, _) | (Phase::Proceeding, true) => return,
            (Phase::Proceeding, false) => T2,
            (Phase::Waiting, true) => client.interval * 2,
            (Phase::Waiting, false) => (client.interval * 2).min(T2),
        };
        self.timers
            .schedule(now + client.interval, Timer::Retransmit(key));
        self.out.push((client.destination, client.bytes.clone()));
        self.counts.retransmissions += 1;
    }

    fn give_up(&mut self, now: Instant, key: &ClientKey) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        match (client.phase, key.1) {
            (Phase::Final, _) | (Phase::Proceeding, Method::Invite) => return,
            (Phase::Waiting | Phase::Proceeding, _) => {}
        }
        let Some(client) = self.clients.remove(key) else {
            return;
        };
        self.timeouts.push(Answer {
            purpose: client.purpose,
            method: key.1,
            response: None,
            elapsed: now.duration_since(client.sent),
            is_first: !client.is_answered,
        });
    }

    fn repeat_final(&mut self, now: Instant, key: ServerKey) {
        let Some(server) = self
            .servers
            .get_mut(&key)
            .filter(|server| server.awaits_ack)
        else {
            return;
        };
        let Some(last) = server.last.clone() else {
            return;
        };
        server.interval = (server.interval * 2).min(T2);
        self.timers
            .schedule(now + server.interval, Timer::Repeat(key));
        self.repeat(last);
    }

    fn receive_request(&mut self, request: Request) -> Input<P> {
        let key = server_key(&request);
        let is_ack = request.head.method == Method::Ack;
        match self.servers.get_mut(&key) {
            Some(server) if is_ack && server.awaits_ack => {
                server.awaits_ack = false;
                return Input::Absorbed;
            }
            Some(_) | None if is_ack => return Input::Request(request),
            Some(server) => {
                if let Some(last) = server.last.clone() {
                    self.repeat(last);
                }
                return Input::Absorbed;
            }
            None => {}
        }
        if self.servers.len() >= TRANSACTIONS_MAX {
            self.counts.overflows += 1;
            return Input::Absorbed;
        }
        self.servers.insert(
            key,
            Server {
                last: None,
                interval: T1,
                awaits_ack: false,
            },
        );
        Input::Request(request)
    }

    fn receive_response(&mut self, now: Instant, response: Response) -> Input<P> {
        let key = (response.head.branch.clone(), response.head.method);
        let Some(client) = self.clients.get_mut(&key) else {
            return Input::Absorbed;
        };
        let is_invite = key.1 == Method::Invite;
        let is_final = response.status >= 200;
        if client.phase == Phase::Final {
            // RFC 6026: a repeated 2xx is for the transaction user, anything else gets its ACK.
            let repeat = is_invite && (200..300).contains(&response.status) && client.ack.is_none();
            if !repeat {
                if let Some(ack) = client.ack.clone().filter(|_| is_final) {
                    let destination = client.destination;
                    self.repeat((destination, ack));
                }
                return Input::Absorbed;
            }
        } else {
            client.phase = if is_final {
                Phase::Final
            } else {
                Phase::Proceeding
            };
            if is_final {
                self.timers
                    .schedule(now + PATIENCE, Timer::ForgetClient(key.clone()));
            }
            if is_invite && response.status >= 300 {
                let mut ack = client.request.clone();
                ack.method = Method::Ack;
                ack.to.clone_from(&response.head.to);
                ack.contact = None;
                ack.extra = Extra::default();
                let ack = ack.print(self.local, &key.0);
                client.ack = Some(ack.clone());
                self.out.push((client.destination, ack));
            }
        }
        let counts = is_final || (is_invite && response.status > 100);
        let is_first = counts && !client.is_answered;
        client.is_answered |= counts;
        Input::Answer(Answer {
            purpose: client.purpose.clone(),
            method: key.1,
            response: Some(response),
            elapsed: now.duration_since(client.sent),
            is_first,
        })
    }
}

fn server_key(request: &Request) -> ServerKey {
    let method = match request.head.method {
        Method::Ack => Method::Invite,
        method @ (Method::Invite
        | Method::Bye
        | Method::Cancel
        | Method::Info
        | Method::Options
        | Method::Prack
        | Method::Update
        | Method::Other) => method,
    };
    (
        request.head.branch.clone(),
        request.head.sent_by.clone(),
        method,
    )
}
