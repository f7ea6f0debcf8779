//! Calls by hand, whose ends say where they are as they like.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use super::Bus;
use crate::raw::Raw;

/// Who is called.
const CALLED: &str = "15145550199";

/// Between two messages of a call: two that a Kamailio tells others at once, they may execute in the opposite
/// order.
const PAUSE: Duration = Duration::from_millis(150);

/// A carrier and an IPBX that do what they are told.
pub(super) struct Hands {
    sbc: SocketAddr,
    carrier: Raw,
    carrier_address: SocketAddr,
    ipbx: Raw,
    ipbx_address: SocketAddr,
}

/// A call that is answered.
pub(super) struct Call {
    number: u32,
    pub(super) id: String,
    /// Whose it is.
    pub(super) tenant: String,
    /// CSeq of its last request.
    sequence: u32,
    /// Where its requests go through, the nearest first.
    pub(super) routes: Vec<String>,
    pub(super) from_uri: String,
    pub(super) to_uri: String,
    /// Contacts of caller and callee, and those before they moved.
    pub(super) contacts: [String; 2],
    pub(super) before: [String; 2],
}

impl Call {
    pub(super) fn tags(&self) -> [String; 2] {
        ["caller", "callee"].map(|side| format!("{side}-{}", self.number))
    }
}

impl Hands {
    pub(super) fn of(bus: &Bus) -> Self {
        let [carrier_address, ipbx_address] = ["carrier", "ipbx"].map(|name| bus.system.sip(name));
        Self {
            sbc: bus.system.sip("sbc"),
            carrier: Raw::bind(carrier_address),
            carrier_address,
            ipbx: Raw::bind(ipbx_address),
            ipbx_address,
        }
    }

    /// Makes a call and answers it.
    pub(super) fn call(&self, number: u32) -> Call {
        let mut call = Call {
            number,
            id: format!("by-hand-{number}@{}", self.carrier_address.ip()),
            tenant: format!("tenant-{number}"),
            sequence: 0,
            routes: Vec::new(),
            from_uri: format!("sip:100@{}", self.carrier_address),
            to_uri: format!("sip:{CALLED}@{}", self.sbc),
            contacts: self.contacts("first"),
            before: self.contacts("first"),
        };
        let tenant = format!("X-Tenant: {}\r\n", call.tenant);
        self.request(&mut call, "INVITE", &tenant);
        let invite = self.ipbx.receive("INVITE");
        thread::sleep(PAUSE);
        self.respond(&call, &invite, "180 Ringing");
        let _ = self.carrier.receive("180 Ringing");
        thread::sleep(PAUSE);
        self.respond(&call, &invite, "200 OK");
        let (answer, _) = self.carrier.receive("200 OK");
        let routes = answer
            .lines()
            .filter_map(|line| line.strip_prefix("Record-Route: "));
        let routes = routes.flat_map(|line| line.split(',')).map(str::trim);
        call.routes = routes.rev().map(str::to_owned).collect();
        self.acknowledge(&mut call);
        call
    }

    /// Has both ends move to other Contacts.
    pub(super) fn move_ends(&self, call: &mut Call) {
        call.contacts = self.contacts("second");
        self.request(call, "INVITE", "");
        let invite = self.ipbx.receive("INVITE");
        self.respond(call, &invite, "200 OK");
        let _ = self.carrier.receive("200 OK");
        self.acknowledge(call);
    }

    pub(super) fn hang_up(&self, call: &mut Call) {
        self.request(call, "BYE", "");
        let bye = self.ipbx.receive("BYE");
        self.respond(call, &bye, "200 OK");
        let _ = self.carrier.receive("200 OK");
    }

    fn contacts(&self, user: &str) -> [String; 2] {
        [self.carrier_address, self.ipbx_address].map(|at| format!("sip:{user}@{at}"))
    }

    fn acknowledge(&self, call: &mut Call) {
        thread::sleep(PAUSE);
        self.request(call, "ACK", "");
        let _ = self.ipbx.receive("ACK");
        thread::sleep(PAUSE);
    }

    /// Sends the next request of the caller; `more` is whole headers.
    fn request(&self, call: &mut Call, method: &str, more: &str) {
        call.sequence += u32::from(method != "ACK");
        let (sequence, local) = (call.sequence, self.carrier_address);
        let (from_uri, to_uri) = (&call.from_uri, &call.to_uri);
        let ([from_tag, to_tag], [contact, target]) = (call.tags(), &call.contacts);
        let (uri, to_tag) = match call.routes.is_empty() {
            true => (to_uri.clone(), String::new()),
            false => (target.clone(), format!(";tag={to_tag}")),
        };
        let routes = call
            .routes
            .iter()
            .map(|route| format!("Route: {route}\r\n"));
        let routes: String = routes.collect();
        let request = format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {local};branch=z9hG4bK-{}-{sequence}-{method};rport\r\n\
             {routes}From: <{from_uri}>;tag={from_tag}\r\n\
             To: <{to_uri}>{to_tag}\r\n\
             Call-ID: {}\r\nCSeq: {sequence} {method}\r\nContact: <{contact}>\r\n\
             Max-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n",
            call.number, call.id
        );
        self.carrier.transmit(self.sbc, &request);
    }

    /// Answers a request as the callee.
    fn respond(&self, call: &Call, request: &(String, SocketAddr), status: &str) {
        let ([_, tag], [_, contact]) = (call.tags(), &call.contacts);
        let contact = format!("Contact: <{contact}>\r\n");
        self.ipbx.respond_as(&tag, request, status, &contact);
    }
}
