//! `tandem run ipbx`: answers calls and counts what becomes of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use control::settings::Span;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use user_agent::{CalleeOutcome, Ipbx, IpbxConfig, IpbxEvent};

use super::endpoint::{Endpoint, wait};
use super::until_signal;

/// Options of the IPBX.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Where it answers: IPv4 address and UDP port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Time between two lines of progress.
    #[arg(long, default_value = "5s")]
    report: Span,
    /// Makes tags, and decides about calls that do not say what shall become of them; random unless
    /// given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Answers calls until SIGTERM and the end of those that it has; tells whether every one went as it
/// should.
pub(crate) fn run(options: Options) -> anyhow::Result<bool> {
    until_signal("ipbx", move |stop| drive(&options, stop))
}

fn drive(options: &Options, stop: &AtomicBool) -> anyhow::Result<bool> {
    let seed = options
        .seed
        .unwrap_or_else(|| StdRng::from_os_rng().next_u64());
    let ipbx = Ipbx::new(IpbxConfig::new(options.address, seed));
    let mut endpoint = Endpoint::open(options.address, ipbx)?;
    println!("ipbx: answering at {} (seed {seed})", options.address);
    let mut reported = Instant::now();
    while !stop.load(Ordering::Relaxed) || endpoint.agent.open_calls() > 0 {
        endpoint.turn()?;
        while let Some(event) = endpoint.agent.poll_event() {
            tell(&event);
        }
        if reported.elapsed() >= options.report.0 {
            reported = Instant::now();
            say(&endpoint.agent, "");
        }
        wait(&[endpoint.fd()], [endpoint.agent.poll_timeout()])?;
    }
    say(&endpoint.agent, "the end: ");
    let report = endpoint.agent.report();
    Ok(report.failed == 0 && endpoint.agent.delivered_twice().next().is_none())
}

/// Says what did not go as it should.
fn tell(event: &IpbxEvent) {
    match event {
        IpbxEvent::CallEnded { call, outcome } => match outcome {
            CalleeOutcome::Completed | CalleeOutcome::Rejected(_) | CalleeOutcome::Cancelled => {}
            CalleeOutcome::NoAck
            | CalleeOutcome::Refused(..)
            | CalleeOutcome::Timeout(_)
            | CalleeOutcome::NoRoute => println!("ipbx: call {call} failed: {outcome:?}"),
        },
        IpbxEvent::CallRinging { .. }
        | IpbxEvent::CallAnswered { .. }
        | IpbxEvent::Garbage { .. } => {}
    }
}

fn say(ipbx: &Ipbx, before: &str) {
    let report = ipbx.report();
    println!(
        "ipbx: {before}{} received, {} going on, {} completed, {} refused or cancelled, {} failed; \
         {} requests came twice",
        report.received,
        ipbx.open_calls(),
        report.completed,
        report.rejected + report.cancelled,
        report.failed,
        ipbx.delivered_twice().count()
    );
}
