//! A carrier that lies: headers of the inside, tags of no dialog, routes of its own choice.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sim::{Agent, HostId};
use tests::{Fabric, FabricConfig, draw};

const SBC: &str = "127.0.0.1:5060";

/// Sends what it is told and remembers what comes.
#[derive(Default)]
struct Wire {
    to_send: VecDeque<(SocketAddr, Vec<u8>)>,
    received: Vec<String>,
}

impl Agent for Wire {
    fn handle_datagram(&mut self, _now: Instant, _source: SocketAddr, bytes: &[u8]) {
        self.received
            .push(String::from_utf8_lossy(bytes).into_owned());
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.to_send.pop_front()
    }
}

/// A fabric, a liar who may send to its SBC, and a victim whom he would like to reach.
struct Lie {
    fabric: Fabric,
    liar: Rc<RefCell<Wire>>,
    liar_host: HostId,
    victim: Rc<RefCell<Wire>>,
    start: Duration,
}

const LIAR: &str = "127.0.1.66:5060";
const VICTIM: &str = "127.0.2.99:5060";

impl Lie {
    fn new(liar_at: &str) -> Self {
        let mut fabric = Fabric::new(FabricConfig::default());
        let (liar, victim) = (
            Rc::<RefCell<Wire>>::default(),
            Rc::<RefCell<Wire>>::default(),
        );
        let liar_host =
            fabric
                .world
                .add_agent("liar", liar_at.parse().unwrap(), Box::new(liar.clone()));
        fabric
            .world
            .add_agent("victim", VICTIM.parse().unwrap(), Box::new(victim.clone()));
        let start = fabric.world.now();
        Self {
            fabric,
            liar,
            liar_host,
            victim,
            start,
        }
    }

    /// Sends a request with these headers besides the usual ones.
    fn send(&mut self, method: &str, to_tag: &str, headers: &str) {
        let request = format!(
            "{method} sip:1000@{SBC} SIP/2.0\r\nVia: SIP/2.0/UDP {LIAR};rport;branch=z9hG4bKlie{method}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:liar@{LIAR}>;tag=1\r\nTo: <sip:1000@{SBC}>{to_tag}\r\n\
             Call-ID: lie\r\nCSeq: 7 {method}\r\nContact: <sip:liar@{LIAR}>\r\n{headers}Content-Length: 0\r\n\r\n"
        );
        let liar = self.liar.clone();
        let request = (SBC.parse().unwrap(), request.into_bytes());
        self.fabric.world.drive(self.liar_host, |_, _| {
            liar.borrow_mut().to_send.push_back(request)
        });
        self.fabric.run_for(Duration::from_secs(3));
        println!("{}", draw(&self.fabric, self.start));
    }

    /// The status of the last response.
    fn status(&self) -> Option<u16> {
        self.liar
            .borrow()
            .received
            .last()?
            .strip_prefix("SIP/2.0 ")?
            .get(..3)?
            .parse()
            .ok()
    }

    /// What was sent to the routers, OPTIONS apart.
    fn at_routers(&self) -> Vec<String> {
        let records = self.fabric.world.trace().records().iter();
        let calls = records.filter(|record| !record.is_of_bus());
        let to_router = calls.filter(|record| {
            record
                .to
                .is_some_and(|to| self.fabric.router_at(to).is_some())
        });
        to_router
            .map(|record| String::from_utf8_lossy(&record.bytes).into_owned())
            .collect()
    }

    fn assert_victim_heard_nothing(&self) {
        assert_eq!(self.victim.borrow().received, [""; 0]);
    }
}

#[test]
fn headers_of_the_inside_do_not_come_from_outside() {
    let mut lie = Lie::new(LIAR);
    let headers = format!(
        "X-Destination-URI: sip:{VICTIM}\r\nX-Forwarded-For: 10.0.0.1:5060\r\n\
         X-Auth-Username: root\r\nX-Auth-Password: secret\r\nx-auth-realm: realm\r\n"
    );
    lie.send("INVITE", "", &headers);
    lie.assert_victim_heard_nothing();
    let at_routers = lie.at_routers();
    assert!(at_routers[0].starts_with("INVITE "), "{at_routers:?}");
    assert!(at_routers[0].contains(&format!("X-Forwarded-For: {LIAR}\r\n")));
    for forged in ["X-Destination-URI", "10.0.0.1", "X-Auth", "x-auth"] {
        assert!(
            !at_routers
                .iter()
                .any(|sent| sent.starts_with("INVITE") && sent.contains(forged)),
            "{forged}"
        );
    }
    let callee = lie.fabric.ipbxs[0].1.borrow().records().count();
    assert_eq!(callee, 1, "the call goes where the routers send it");
}

#[test]
fn a_preloaded_route_leads_nowhere() {
    let mut lie = Lie::new(LIAR);
    lie.send(
        "INVITE",
        "",
        &format!("Route: <sip:{SBC};lr>, <sip:{VICTIM};lr>\r\n"),
    );
    lie.assert_victim_heard_nothing();
    assert_eq!(lie.fabric.ipbxs[0].1.borrow().records().count(), 1);
}

#[test]
fn a_to_tag_is_no_pass() {
    for method in ["BYE", "INFO", "INVITE", "UPDATE"] {
        for route in ["", ";pass=00000000"] {
            let mut lie = Lie::new(LIAR);
            let headers = format!("Route: <sip:{SBC};lr{route}>, <sip:{VICTIM};lr>\r\n");
            lie.send(method, ";tag=made-up", &headers);
            assert_eq!(lie.status(), Some(481), "{method}");
            lie.assert_victim_heard_nothing();
            assert_eq!(lie.at_routers(), [""; 0], "{method}");
        }
    }
}

#[test]
fn an_ack_of_no_dialog_is_dropped() {
    let mut lie = Lie::new(LIAR);
    lie.send(
        "ACK",
        ";tag=made-up",
        &format!("Route: <sip:{SBC};lr>, <sip:{VICTIM};lr>\r\n"),
    );
    assert_eq!(lie.liar.borrow().received, [""; 0]);
    lie.assert_victim_heard_nothing();
    assert_eq!(lie.at_routers(), [""; 0]);
}

#[test]
fn who_may_not_send_hears_nothing() {
    let mut lie = Lie::new("127.0.3.66:5060");
    lie.send("INVITE", "", "");
    assert_eq!(lie.liar.borrow().received, [""; 0]);
    assert_eq!(lie.at_routers(), [""; 0]);
}
