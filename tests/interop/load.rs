//! SIPp through an SBC and two routers: steady, and with a router that dies or freezes under it.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::quiet::{alone, say};
use crate::sipp::{Calls, Report, Sipp};
use crate::system::System;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_thousand_calls_complete_at_both_ends() {
    let Some(_permit) = alone(&["sipp"]) else {
        return;
    };
    let system = System::ready();
    let calls = Calls {
        calls: 1000,
        rate: 200,
        hold: SECOND,
    };
    let report = Sipp::start(&system, calls).finish();
    say(&report.to_string());
    report.assert_all_completed(calls.calls);
    // Nobody loses datagrams on loopback; a busy machine may be late now and then.
    assert!(
        report.carrier.retransmissions + report.ipbx.retransmissions <= 5,
        "{report}"
    );
}

#[test]
fn no_call_is_lost_when_a_router_is_killed() {
    let Some(_permit) = alone(&["sipp"]) else {
        return;
    };
    let mut system = System::ready();
    let calls = Calls {
        calls: 3000,
        rate: 200,
        hold: 6 * SECOND,
    };
    let sipp = Sipp::start(&system, calls);
    sipp.sleep_until(6 * SECOND);
    system.kill("router-1");
    nobody_waited(&sipp.finish(), calls);
}

#[test]
fn no_call_is_lost_when_a_router_freezes_for_300_ms() {
    let Some(_permit) = alone(&["sipp"]) else {
        return;
    };
    let system = System::ready();
    let calls = Calls {
        calls: 1000,
        rate: 200,
        hold: 3 * SECOND,
    };
    let sipp = Sipp::start(&system, calls);
    sipp.sleep_until(3 * SECOND);
    system.signal("router-1", Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(300));
    system.signal("router-1", Signal::SIGCONT);
    nobody_waited(&sipp.finish(), calls);
}

#[test]
fn no_call_is_lost_when_a_router_freezes_for_good() {
    let Some(_permit) = alone(&["sipp"]) else {
        return;
    };
    let system = System::ready();
    let calls = Calls {
        calls: 1000,
        rate: 200,
        hold: 3 * SECOND,
    };
    let sipp = Sipp::start(&system, calls);
    sipp.sleep_until(3 * SECOND);
    system.signal("router-1", Signal::SIGSTOP);
    nobody_waited(&sipp.finish(), calls);
}

fn nobody_waited(report: &Report, calls: Calls) {
    say(&report.to_string());
    report.assert_all_completed(calls.calls);
    assert!(report.slowest() <= SECOND, "a request waited: {report}");
}
