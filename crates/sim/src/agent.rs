//! Hosts that are no element: user agents.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use user_agent::{Carrier, Ipbx};

/// A sans-IO end with one address.
pub trait Agent {
    /// Takes a datagram.
    fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]);
    /// Runs the timers that are due.
    fn handle_timeout(&mut self, now: Instant);
    /// Returns when `handle_timeout` is due.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Returns the next datagram to send, and where to.
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)>;
}

/// A test keeps one handle and the world the other.
impl<A: Agent> Agent for Rc<RefCell<A>> {
    fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        self.borrow_mut().handle_datagram(now, source, bytes);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.borrow_mut().handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.borrow().poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.borrow_mut().poll_transmit()
    }
}

macro_rules! agent {
    ($($end:ty),*) => {$(
        impl Agent for $end {
            fn handle_datagram(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
                self.handle_datagram(now, source, bytes);
            }

            fn handle_timeout(&mut self, now: Instant) {
                self.handle_timeout(now);
            }

            fn poll_timeout(&self) -> Option<Instant> {
                self.poll_timeout()
            }

            fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
                let sent = self.poll_transmit();
                if sent.is_none() {
                    while self.poll_event().is_some() {} // a test reads the records
                }
                sent
            }
        }
    )*};
}

agent!(Carrier, Ipbx);
