//! `tandem drain` and `tandem undrain`.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use control::name::Name;
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::{
    DrainMemberRequest, GetMemberRequest, Member, MemberKind, MemberState, UndrainMemberRequest,
    UpdateMemberRequest,
};
use control::router::v1::status_service_client::StatusServiceClient as RouterStatus;
use control::sbc::v1::status_service_client::StatusServiceClient as SbcStatus;
use control::{router, sbc};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::kind_and_name;
use crate::exit::Exit;
use crate::lines;
use crate::registry::{Registry, Target};

pub(super) const EXAMPLES: &str = "\
Draining is the registry's: it outlasts a restart of the node, until tandem undrain.

--wait asks the node itself, at its address and port 7401 (router) or 7402 (SBC). gRPC of a node stays on
loopback unless its grpc.listen says otherwise: run the command on its machine then, with --node-address.

Examples:
  tandem drain router-1                     no new calls for it
  tandem drain router-1 --wait              and wait until it can be stopped
  tandem drain sbc-1 --wait --timeout 600   at most so many seconds; ends with 1 if calls are left then
  tandem drain sbc-1 --wait --node-address 127.0.0.1:7402";

pub(super) const UNDRAIN_EXAMPLES: &str = "\
Examples:
  tandem undrain router-1";

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long a node may take to answer one.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Questions without an answer before it is given up.
const SILENCE_MAX: u32 = 10;

#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The member: its id, or members/ID
    name: String,
    /// Have it checked, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UndrainOptions {
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DrainOptions {
    #[command(flatten)]
    which: Which,
    /// Wait until it can be stopped: a router without transactions, an SBC without calls
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Longest wait; for ever if it is left away
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u64>,
    /// The node's grpc.listen [default: its address, port 7401 for a router, 7402 for an SBC]
    #[arg(long, value_name = "HOST:PORT", requires = "wait")]
    node_address: Option<String>,
}

pub(super) async fn run(options: &DrainOptions) -> anyhow::Result<Exit> {
    let mut registry = Registry::open(&options.which.target).await?;
    let member = set(&mut registry, &options.which, MemberState::Draining).await?;
    match options.wait {
        true => wait(&registry, options, &member).await,
        false => Ok(Exit::Good),
    }
}

pub(super) async fn undo(options: &UndrainOptions) -> anyhow::Result<Exit> {
    let mut registry = Registry::open(&options.which.target).await?;
    set(&mut registry, &options.which, MemberState::Active).await?;
    Ok(Exit::Good)
}

async fn set(
    registry: &mut Registry,
    which: &Which,
    wanted: MemberState,
) -> anyhow::Result<Member> {
    let (_, name) = kind_and_name("members", Some(&which.name))?;
    let name = name.as_ref().map(Name::to_string).unwrap_or_default();
    let member = registry
        .call(async |channel| {
            let mut client = MemberServiceClient::new(channel);
            let name = name.clone();
            if which.dry_run {
                let member = client.get_member(GetMemberRequest { name }).await?;
                let mut member = member.into_inner();
                member.set_desired_state(wanted);
                let request = UpdateMemberRequest {
                    member: Some(member),
                    validate_only: true,
                    ..UpdateMemberRequest::default()
                };
                return client.update_member(request).await;
            }
            match wanted {
                MemberState::Draining => {
                    let request = DrainMemberRequest {
                        name,
                        ..DrainMemberRequest::default()
                    };
                    client.drain_member(request).await
                }
                MemberState::Active | MemberState::Unspecified => {
                    let request = UndrainMemberRequest {
                        name,
                        ..UndrainMemberRequest::default()
                    };
                    client.undrain_member(request).await
                }
            }
        })
        .await?;
    let said = match wanted {
        MemberState::Draining => "drains: it gets no new calls",
        MemberState::Active | MemberState::Unspecified => "is in service",
    };
    let mark = if which.dry_run { " (dry run)" } else { "" };
    lines::say(format_args!("{name} {said}{mark}"))?;
    Ok(member)
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    draining: bool,
    dialogs: u64,
    transactions: u64,
}

async fn wait(
    registry: &Registry,
    options: &DrainOptions,
    member: &Member,
) -> anyhow::Result<Exit> {
    let name = &member.name;
    let port = match member.kind() {
        MemberKind::Router => 7401,
        MemberKind::Sbc => 7402,
        MemberKind::StockRouter | MemberKind::Unspecified => {
            return Err(anyhow!(
                "{name} is no Tandem node and cannot be asked: at Kamailio wait until tm.stats shows \
                 current no greater than waiting (docs/from-kamailio.md)"
            ));
        }
    };
    let address = options.node_address.clone().unwrap_or_else(|| {
        let ip = &member.address;
        match ip.contains(':') {
            true => format!("[{ip}]:{port}"),
            false => format!("{ip}:{port}"),
        }
    });
    let deadline = options
        .timeout
        .map(|s| Instant::now() + Duration::from_secs(s));
    let (mut last, mut silent) = (None, 0);
    loop {
        match timeout(ANSWER_MAX, ask(registry, &address, member.kind())).await {
            Ok(Ok(load)) => {
                silent = 0;
                if is_idle(member.kind(), load) {
                    lines::say(format_args!("{name} can be stopped"))?;
                    return Ok(Exit::Good);
                }
                if last != Some(load) {
                    lines::say(left(name, load))?;
                }
                last = Some(load);
            }
            failed => {
                silent += 1;
                if silent >= SILENCE_MAX || last.is_none() {
                    let why = match failed {
                        Ok(Err(error)) => error.message().to_owned(),
                        Ok(Ok(_)) | Err(_) => "no answer within 3 s".to_owned(),
                    };
                    return Err(Exit::Unavailable.because(anyhow!(
                        "{name} drains, but does not say how many calls it has, at {address}: {why}; \
                         --node-address takes its grpc.listen"
                    )));
                }
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(anyhow!("{name} still has calls; it goes on draining"));
        }
        sleep(ASK_EVERY).await;
    }
}

async fn ask(registry: &Registry, address: &str, kind: MemberKind) -> Result<Load, Status> {
    let channel = registry.node(address).await?;
    if kind == MemberKind::Sbc {
        let mut client = SbcStatus::new(channel);
        let status = client.get_status(sbc::v1::GetStatusRequest {}).await?;
        let status = status.into_inner();
        return Ok(Load {
            draining: status.draining,
            dialogs: status.dialogs,
            transactions: status.transactions,
        });
    }
    let mut client = RouterStatus::new(channel);
    let status = client.get_status(router::v1::GetStatusRequest {}).await?;
    let status = status.into_inner();
    Ok(Load {
        draining: status.draining,
        dialogs: status.dialogs,
        transactions: status.transactions,
    })
}

/// As SIGTERM has it: a router's dialogs are with its heirs, an SBC's are its own.
fn is_idle(kind: MemberKind, load: Load) -> bool {
    let dialogs = match kind {
        MemberKind::Sbc => load.dialogs,
        MemberKind::Router | MemberKind::StockRouter | MemberKind::Unspecified => 0,
    };
    load.draining && dialogs == 0 && load.transactions == 0
}

fn left(name: &str, load: Load) -> String {
    match load {
        Load {
            draining: false, ..
        } => format!("{name} does not know yet that it drains"),
        Load {
            dialogs,
            transactions,
            ..
        } => format!("{name} has {transactions} transactions and {dialogs} dialogs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_may_leave_its_dialogs_to_its_heirs() {
        let load = |draining, dialogs, transactions| Load {
            draining,
            dialogs,
            transactions,
        };
        for (kind, load, idle) in [
            (MemberKind::Router, load(true, 5, 0), true),
            (MemberKind::Router, load(true, 5, 1), false),
            (MemberKind::Router, load(false, 0, 0), false),
            (MemberKind::Sbc, load(true, 5, 0), false),
            (MemberKind::Sbc, load(true, 0, 0), true),
        ] {
            assert_eq!(is_idle(kind, load), idle, "{kind:?} {load:?}");
        }
    }
}
