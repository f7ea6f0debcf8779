//! Processes as an operator meets them: their settings, their start, their faces and their end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use user_agent::Outcome;

use crate::agents::{Agents, plan};
use crate::quiet::{say, shared};
use crate::system::{NODES, PATIENCE, Places, System, eventually};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn check_prints_every_value_with_its_source() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::at(Places::on_loopback());
    let mut command = system.command("sbc");
    command
        .args(["--check", "--workers", "3"])
        .env("TANDEM_DRAIN_TIMEOUT", "7s");
    let (status, out, err) = said(command.output().unwrap());
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    let file = system.path().join("sbc.toml").display().to_string();
    let [sbc, carrier, ipbx] = ["sbc", "carrier", "ipbx"].map(|name| system.places.of(name).ip);
    let allow = format!("{carrier}/32, {ipbx}/32");
    for (key, value, source) in [
        ("node", "sbc", file.as_str()),
        ("cluster", "tandem", "default"),
        ("cell", "default", "default"),
        ("address", &sbc.to_string(), &file),
        ("advertise", &sbc.to_string(), "default"),
        (
            "registry",
            &system.places.grpc("registry").to_string(),
            &file,
        ),
        ("workers", "3", "--workers"),
        ("shards", "32", "default"),
        (
            "state_dir",
            &system.path().join("sbc").display().to_string(),
            &file,
        ),
        ("sip.listen", &system.sip("sbc").to_string(), "default"),
        ("sip.allow", &allow, &file),
        ("grpc.listen", &system.places.grpc("sbc").to_string(), &file),
        ("http.listen", &system.places.http("sbc").to_string(), &file),
        ("log.filter", "info", "default"),
        ("log.format", "text", "default"),
        ("drain_timeout", "7s", "TANDEM_DRAIN_TIMEOUT"),
        ("grpc.roles.viewer", "spiffe://*/tandem/viewer/*", "default"),
        (
            "grpc.roles.operator",
            "spiffe://*/tandem/operator/*",
            "default",
        ),
        ("grpc.roles.node", "spiffe://*/tandem/node/*", "default"),
        ("grpc.trust_forwarded_client_cert", "false", "default"),
    ] {
        let line = format!("{key} = {value:?} ");
        let line = out.lines().find(|found| found.starts_with(&line));
        let line = line.unwrap_or_else(|| panic!("no {key} = {value:?} in\n{out}"));
        let (_, said) = line
            .split_once('#')
            .unwrap_or_else(|| panic!("no source: {line}"));
        assert!(said.contains(source), "{key} comes from {source}: {line}");
    }
    assert_eq!(out.lines().count(), 20, "one line for each setting\n{out}");
}

#[test]
fn a_bad_configuration_is_refused_with_all_its_mistakes() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::at(Places::on_loopback());
    for check in [&["--check"][..], &[]] {
        let mut command = system.command("sbc");
        command.args([
            "--workers",
            "1000",
            "--shards",
            "0",
            "--sip-allow",
            "10.0.0.0/99",
        ]);
        command
            .args(check)
            .env("TANDEM_SIP__LISTEN", "0.0.0.0:5060")
            .env("TANDEM_LOG__FORMAT", "prose");
        let (status, out, err) = said(command.output().unwrap());
        assert_eq!((status, out.as_str()), (Some(1), ""), "{err}");
        for mistake in ["workers", "shards", "10.0.0.0/99", "wildcard", "prose"] {
            assert!(err.contains(mistake), "{mistake:?} is not named:\n{err}");
        }
        assert!(
            err.contains("TANDEM_SIP__LISTEN") && err.contains("--workers"),
            "{err}"
        );
    }
}

#[test]
fn a_taken_port_names_its_holder() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    // The other router holds the same ports elsewhere.
    let ip = system.places.of("router-2").ip.into();
    let taken = [
        system.sip("router-2"),
        system.places.grpc("router-2"),
        system.places.http("router-2"),
    ];
    for (i, taken) in taken.into_iter().enumerate() {
        let mut listen = [5070, 5071, 5072].map(|port| SocketAddr::new(ip, port));
        listen[i] = taken;
        let mut command = system.command("sbc");
        for (flag, listen) in ["--sip-listen", "--grpc-listen", "--http-listen"]
            .iter()
            .zip(listen)
        {
            command.args([flag, listen.to_string().as_str()]);
        }
        let (status, _, err) = said(command.output().unwrap());
        assert_eq!(status, Some(1), "{err}");
        let holder = format!("(process {})", system.pid("router-2"));
        for word in [ip.to_string(), taken.port().to_string(), holder] {
            assert!(err.contains(&word), "{word} is not named: {err}");
        }
    }
}

#[test]
fn metrics_and_health_answer() {
    let Some(_permit) = shared(&[]) else { return };
    let system = System::ready();
    let agents = Agents::start(&system);
    agents.place_all(20, 50, |_| plan(Duration::ZERO, SECOND / 5));
    agents.assert_all_completed(PATIENCE);
    for node in NODES {
        for path in ["/healthz", "/readyz"] {
            let answer = fetch(&system, node, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{node}{path}: {answer}");
        }
        let metrics = fetch(&system, node, "/metrics");
        assert!(metrics.trim_end().ends_with("# EOF"), "{node}: {metrics}");
    }
    for node in ["router-1", "router-2"] {
        let router = fetch(&system, node, "/metrics");
        let active = figure(&router, "tandem_bus_nodes{state=\"active\"}");
        assert_eq!(active, 1, "{router}");
        let ready = figure(&router, "tandem_replica_ready");
        assert_eq!(ready, 1, "{router}");
        let differing = figure(&router, "tandem_replica_divergence");
        assert_eq!(differing, 0, "{router}");
    }
    let sbc = fetch(&system, "sbc", "/metrics");
    assert_eq!(figure(&sbc, "tandem_sbc_calls_total"), 20, "{sbc}");
    assert_eq!(figure(&sbc, "tandem_sbc_calls_refused_total"), 0, "{sbc}");
    let active = |router| format!("tandem_dispatch_destination_active{{destination=\"{router}\"}}");
    assert_eq!(
        figure(&sbc, &active("router-1")) + figure(&sbc, &active("router-2")),
        2,
        "{sbc}"
    );
}

#[test]
fn a_router_that_is_asked_to_end_drains_and_harms_no_call() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    // Some ring for long, so that the router has something to wait for.
    let mixed = |number: u32| plan(SECOND * (number % 3), 2 * SECOND);
    agents.place_all(60, 50, mixed);
    system.terminate("router-1");
    let asked = Instant::now();
    agents.place_all(60, 50, mixed);
    let status = system.ended("router-1", PATIENCE);
    assert!(status.success(), "{status}");
    let slowest = agents.assert_all_completed(PATIENCE);
    say(&format!(
        "ended after {:?}, slowest request {slowest:?}",
        asked.elapsed()
    ));
    assert!(slowest <= SECOND / 2, "a request waited {slowest:?}");
}

#[test]
fn an_sbc_without_dialogs_ends_at_once() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    system.terminate("sbc");
    let asked = Instant::now();
    let status = system.ended("sbc", PATIENCE);
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < 2 * SECOND, "{:?}", asked.elapsed());
}

#[test]
fn an_sbc_with_dialogs_waits_for_them_and_takes_no_new_ones() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    let held = agents.place(plan(Duration::ZERO, 4 * SECOND));
    agents.wait_until_answered(&held);
    system.terminate("sbc");
    eventually("the SBC says that it is not ready", || {
        fetch(&system, "sbc", "/readyz").starts_with("HTTP/1.1 503")
    });
    let new = agents.place(plan(Duration::ZERO, SECOND));
    assert_eq!(agents.outcome(&new, PATIENCE), Outcome::Rejected(503));
    assert_eq!(agents.callee(&new), None);
    assert!(system.is_running("sbc"), "it left a dialog behind");
    assert_eq!(agents.outcome(&held, PATIENCE), Outcome::Completed);
    // The BYE's transactions are the last to go.
    let status = system.ended("sbc", 40 * SECOND);
    assert!(status.success(), "{status}");
}

#[test]
fn a_second_request_to_end_is_obeyed_at_once() {
    let Some(_permit) = shared(&[]) else { return };
    let mut system = System::ready();
    let agents = Agents::start(&system);
    let held = agents.place(plan(Duration::ZERO, 20 * SECOND));
    agents.wait_until_answered(&held);
    system.terminate("sbc");
    std::thread::sleep(SECOND / 2);
    assert!(system.is_running("sbc"));
    system.signal("sbc", Signal::SIGTERM);
    system.ended("sbc", 2 * SECOND);
}

fn said(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Fetches a page of a node's HTTP face, status line and headers included.
pub(crate) fn fetch(system: &System, node: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(system.places.http(node)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Returns the value of a metric, name and labels as they are printed.
pub(crate) fn figure(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| {
        line.strip_prefix(name)?
            .trim_start_matches("{}")
            .strip_prefix(' ')
    });
    line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
        .parse()
        .unwrap()
}
