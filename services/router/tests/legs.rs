//! Where the two ends of a call want to be reached, as a router keeps it.

#![allow(clippy::unwrap_used)] // helpers of tests

mod bench;

use bench::{Bench, SBC, place, values, view};
use replication::DialogRecord;
use workbench::answer;

const CARRIER: &str = "<sip:a@carrier.example>";
const IPBX: &str = "<sip:b@ipbx.example>";

fn with_contact(message: &str, contact: &str) -> String {
    let line = format!("Contact: {contact}\r\nContent-Length");
    message.replacen("Content-Length", &line, 1)
}

fn with_to_tag(message: &str) -> String {
    message.replacen("To: <sip:b@b>\r\n", "To: <sip:b@b>;tag=b\r\n", 1)
}

/// A call that is answered and confirmed: its INVITE as it went on.
fn established(bench: &mut Bench) -> String {
    let invite = with_contact(&bench::invite("x"), CARRIER);
    let mut sent = bench.receive(SBC, &invite);
    let answered = with_contact(&with_to_tag(&answer(&sent[0], "200 OK")), IPBX);
    bench.receive(SBC, &answered);
    bench.receive(SBC, &in_dialog(&sent[0], "ACK", 1));
    sent.swap_remove(0)
}

/// A request from the caller along the route set that the INVITE recorded.
fn in_dialog(invite: &str, method: &str, cseq: u32) -> String {
    let route = values(invite, "Record-Route")[0];
    format!(
        "{method} sip:b@ipbx.example SIP/2.0\r\nVia: SIP/2.0/UDP {SBC};branch=z9hG4bK{method}{cseq}\r\n\
         Route: {route}\r\nFrom: <sip:a@a>;tag=a\r\nTo: <sip:b@b>;tag=b\r\nCall-ID: x\r\n\
         CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn contacts(bench: &Bench) -> [String; 2] {
    contacts_in(&bench.dialog("x"))
}

/// Those of every dialog of the call.
fn all_contacts(bench: &Bench) -> Vec<[String; 2]> {
    bench.router.element.inspect_node(|node| {
        let dialogs = node.replication().unwrap().replica().dialogs();
        let held = dialogs.of_call(b"x");
        held.map(|(_, held)| contacts_in(&held.record)).collect()
    })
}

fn contacts_in(record: &DialogRecord) -> [String; 2] {
    [&record.caller, &record.callee].map(|leg| String::from_utf8(leg.contact.to_vec()).unwrap())
}

#[test]
fn a_re_invite_that_is_accepted_moves_both_legs_and_one_that_is_refused_none() {
    let mut bench = Bench::new(&view(vec![place("sip:127.0.0.40:5060", None, &[])]));
    let invite = established(&mut bench);
    let before = ["sip:a@carrier.example", "sip:b@ipbx.example"].map(str::to_owned);
    assert_eq!(contacts(&bench), before);
    for method in ["INVITE", "UPDATE"] {
        let request = |cseq| {
            let request = in_dialog(&invite, method, cseq);
            with_contact(&request, "<sip:a@elsewhere.example>")
        };
        let (refused, accepted) = match method {
            "INVITE" => (2, 3),
            _ => (4, 5),
        };
        let before = contacts(&bench);
        let sent = bench.receive(SBC, &request(refused));
        bench.receive(SBC, &answer(&sent[0], "488 Not Acceptable Here"));
        assert_eq!(contacts(&bench), before, "{method} refused");
        assert_eq!(bench.dialog("x").caller.cseq, refused);

        let sent = bench.receive(SBC, &request(accepted));
        let there = format!("<sip:b@{method}.example>");
        bench.receive(SBC, &with_contact(&answer(&sent[0], "200 OK"), &there));
        let after = [
            "sip:a@elsewhere.example",
            &format!("sip:b@{method}.example"),
        ];
        assert_eq!(
            contacts(&bench),
            after.map(str::to_owned),
            "{method} accepted"
        );
    }
}

#[test]
fn a_re_invite_that_passes_twice_moves_the_legs_of_both_dialogs_of_its_call() {
    let mut bench = Bench::new(&view(vec![place("sip:127.0.0.40:5060", None, &[])]));
    let first = bench.receive(SBC, &with_contact(&bench::invite("x"), CARRIER));
    // Comes back, for somebody else.
    let again = first[0].replacen("INVITE sip:123@", "INVITE sip:456@", 1);
    let via = format!("SIP/2.0\r\nVia: SIP/2.0/UDP {SBC};branch=z9hG4bKagain\r\n");
    let second = bench.receive(SBC, &again.replacen("SIP/2.0\r\n", &via, 1));
    for invite in [&second, &first] {
        let answered = with_contact(&with_to_tag(&answer(&invite[0], "200 OK")), IPBX);
        bench.receive(SBC, &answered);
    }
    for passing in [&first, &second] {
        bench.receive(SBC, &in_dialog(&passing[0], "ACK", 1));
    }

    for method in ["INVITE", "UPDATE"] {
        let cseq = bench.dialog("x").caller.cseq + 1;
        let [caller, callee] = ["a", "b"].map(|user| format!("sip:{user}@{method}.example"));
        let mut passed = Vec::new();
        for (pass, passing) in [&first, &second].into_iter().enumerate() {
            let request = in_dialog(&passing[0], method, cseq);
            let request = request.replacen("branch=", &format!("branch=z9hG4bK{pass}"), 1);
            passed.push(bench.receive(SBC, &with_contact(&request, &format!("<{caller}>"))));
        }
        for sent in passed.iter().rev() {
            let answered = answer(&sent[0], "200 OK");
            bench.receive(SBC, &with_contact(&answered, &format!("<{callee}>")));
        }
        let moved = [caller, callee];
        assert_eq!(all_contacts(&bench), [moved.clone(), moved], "{method}");
    }
}

#[test]
fn a_dialog_that_somebody_behind_us_names_is_not_ours() {
    let mut bench = Bench::new(&view(vec![place("sip:127.0.0.40:5060", None, &[])]));
    let invite = with_contact(&bench::invite("x"), CARRIER);
    let sent = bench.receive(SBC, &invite);
    let ours = values(&sent[0], "Record-Route")[0];
    let theirs = "<sip:127.0.0.40;lr;did=72d.5272>";
    let answered = with_contact(&with_to_tag(&answer(&sent[0], "200 OK")), IPBX);
    let routes = format!("Record-Route: {theirs}\r\nRecord-Route: {ours}\r\nContent-Length");
    bench.receive(SBC, &answered.replacen("Content-Length", &routes, 1));
    let route_set = bench.dialog("x").callee.route_set;
    assert_eq!(&*route_set, theirs.as_bytes());
}
