//! What a carrier must not be able to do: name its own destination, walk in with a To tag, or be
//! somebody that nobody knows.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use control::sbc::v1::{TapDirection, TapMessage, TapRequest};

use crate::quiet::shared;
use crate::raw::Raw;
use crate::system::{ROUTERS, System};
use crate::tap::tap;

#[test]
fn a_carrier_that_names_its_own_destination_is_not_obeyed() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let (carrier, ipbx) = (
        Raw::bind(system.sip("carrier")),
        Raw::bind(system.sip("ipbx")),
    );
    let trap_address = near(&system, 66);
    let trap = Raw::bind(trap_address);
    let forged = format!(
        "X-Destination-URI: sip:{trap_address}\r\nx-destination-uri : <sip:{trap_address}>\r\n\
         X-Forwarded-For: {trap_address}\r\nX-Auth-Username: root\r\nSubject: kept\r\n"
    );
    let request = TapRequest {
        methods: vec!["INVITE".to_owned()],
        ..TapRequest::default()
    };
    let to_a_router = |message: &TapMessage| {
        let routers = ROUTERS.map(|router| system.sip(router).to_string());
        message.direction() == TapDirection::Out && routers.contains(&message.remote_address)
    };
    let seen = std::thread::scope(|scope| {
        let tapped = scope.spawn(|| tap(&system, request, |seen| seen.iter().any(to_a_router)));
        std::thread::sleep(Duration::from_millis(250));
        carrier.send(system.sip("sbc"), "INVITE", "forged", "", &forged);
        tapped.join().unwrap()
    });
    let first_pass = seen.iter().find(|message| to_a_router(message)).unwrap();
    let first_pass = String::from_utf8_lossy(&first_pass.raw).to_ascii_lowercase();
    assert!(
        first_pass.starts_with("invite") && !first_pass.contains("x-destination-uri"),
        "{first_pass}"
    );
    let invite = ipbx.receive("INVITE");
    let text = invite.0.to_ascii_lowercase();
    for gone in ["x-destination-uri", "x-forwarded-for", "x-auth-username"] {
        assert!(!text.contains(gone), "{gone} arrived:\n{}", invite.0);
    }
    assert!(text.contains("subject: kept"), "{}", invite.0);
    trap.assert_silence();
    ipbx.respond(&invite, "486 Busy Here");
    assert!(carrier.receive_final().starts_with("SIP/2.0 486"));
}

#[test]
fn a_to_tag_is_no_pass() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let (carrier, ipbx) = (
        Raw::bind(system.sip("carrier")),
        Raw::bind(system.sip("ipbx")),
    );
    let routes = [
        String::new(),
        format!("Route: <sip:{};lr>\r\n", system.sip("sbc")),
        format!(
            "Route: <sip:{};lr>, <sip:{};lr>\r\n",
            system.sip("sbc"),
            system.sip("ipbx")
        ),
        format!(
            "Route: <sip:{};lr>, <sip:{};lr>\r\n",
            system.sip("sbc"),
            system.sip("router-1")
        ),
    ];
    for (number, route) in routes.iter().enumerate() {
        for method in ["INVITE", "BYE", "MESSAGE"] {
            carrier.send(
                system.sip("sbc"),
                method,
                &format!("tagged{number}"),
                ";tag=guess",
                route,
            );
            let answer = carrier.receive_final();
            assert!(
                answer.starts_with("SIP/2.0 481"),
                "{method} with {route:?}: {answer}"
            );
        }
        carrier.send(
            system.sip("sbc"),
            "ACK",
            &format!("tagged{number}"),
            ";tag=guess",
            route,
        );
    }
    ipbx.assert_silence();
}

#[test]
fn a_stranger_gets_no_word() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let (stranger, ipbx) = (Raw::bind(near(&system, 99)), Raw::bind(system.sip("ipbx")));
    let forged = format!("X-Destination-URI: sip:{}\r\n", system.sip("ipbx"));
    for (number, node) in ["sbc", "router-1"].into_iter().enumerate() {
        stranger.send(
            system.sip(node),
            "INVITE",
            &format!("stranger{number}"),
            "",
            &forged,
        );
    }
    stranger.assert_silence();
    ipbx.assert_silence();
}

/// Returns an address of the test's block that nobody else has.
fn near(system: &System, host: u8) -> SocketAddr {
    let [a, b, c, _] = system.places.of("sbc").ip.octets();
    SocketAddr::new(Ipv4Addr::new(a, b, c, host).into(), 5060)
}
