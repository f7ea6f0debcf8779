//! `tandem bus`: what a router knows of its cell and hears on its bus, over its gRPC face.

mod dialogs;
mod nodes;
mod repair;
mod table;
mod tandem;
mod watch;

use std::io;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use control::channel;
use control::router::v1::VerifyReplicaRequest;
use control::router::v1::replication_service_client::ReplicationServiceClient;
use prost::{Message, Name};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::context::Contexts;
use crate::exit::Exit;
use crate::lines;

pub(crate) const EXAMPLES: &str = "\
Examples:
  tandem bus nodes                              who is on the bus, and since when
  tandem bus watch --channel dialog             what is said of dialogs, as it is said
  tandem bus watch --call-id 1-2@10.0.0.1       what is said of one call
  tandem bus dialogs --call-id 1-2@10.0.0.1     one call as this router knows it
  tandem bus dialogs -o json | jq .owner        every dialog, for programs
  tandem bus table bans                         what is in a table
  tandem bus table bans set 10.0.0.9 1 --number --ttl 60
  tandem bus table bans delete-matching --prefix 10.0.0.
  tandem bus table bans flush                   empty it, at every node of the cell
  tandem bus verify                             whether the replica is what its digests say
  tandem bus repair                             compare the Kamailios' tables with ours, mend what differs
  tandem bus nodes --address 192.0.2.31:7401    the same of another router";

/// Shows what a router knows of its cell
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
    /// The router's grpc.listen
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7401"
    )]
    address: String,
    /// The context whose TLS files are taken instead of the current one's
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "TANDEM_CONTEXT",
        hide_env_values = true
    )]
    context: Option<String>,
    /// How it is printed; json is one object a line
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists the nodes of the bus
    Nodes,
    /// Prints what is said on the bus until Ctrl-C
    Watch(watch::Options),
    /// Lists the dialogs of the cell
    Dialogs(dialogs::Options),
    /// Shows a table, reads and writes one key of it, deletes what matches or all of it
    Table(table::Options),
    /// Recomputes the digests from the records and fails if one is wrong
    Verify,
    /// Compares the tables of all Kamailio nodes with the cell's and mends what differs
    Repair(repair::Options),
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people.
    Table,
    /// proto3 JSON, one object a line.
    Json,
}

/// Runs a command; tells whether what it looked at is well.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Exit> {
    let Options {
        command,
        address,
        context,
        output,
    } = options;
    let router = connect(address, context.as_deref()).await?;
    match command {
        Command::Nodes => nodes::show(router, *output).await?,
        Command::Watch(options) => {
            return watch::show(router, options, *output)
                .await
                .map(Exit::good_if);
        }
        Command::Dialogs(options) => dialogs::show(router, options, *output).await?,
        Command::Table(options) => table::run(router, options, *output).await?,
        Command::Repair(options) => repair::run(router, options, *output).await?,
        Command::Verify => return verify(router, *output).await.map(Exit::good_if),
    }
    Ok(Exit::Good)
}

async fn connect(address: &str, context: Option<&str>) -> anyhow::Result<Channel> {
    let usage = |error: anyhow::Error| Exit::Usage.because(error);
    let contexts = Contexts::load().map_err(usage)?;
    let tls = contexts.choose(context).map_err(usage)?.tls();
    let endpoint = channel::endpoint(address, tls.as_ref());
    let endpoint = endpoint.map_err(|error| usage(anyhow!(error).context("--address")))?;
    let connected = endpoint.connect().await.with_context(|| {
        format!(
            "no router answers at {address}: start it, or name the grpc.listen of another with \
             --address"
        )
    });
    connected.map_err(|error| Exit::Unavailable.because(error))
}

async fn verify(router: Channel, output: Output) -> anyhow::Result<bool> {
    let mut client = ReplicationServiceClient::new(router);
    let answer = client.verify_replica(VerifyReplicaRequest {}).await;
    let answer = answer.map_err(refusal)?.into_inner();
    let wrong = &answer.wrong_partitions;
    match output {
        Output::Json => print_json(&answer)?,
        Output::Table if wrong.is_empty() => {
            lines::say(format_args!(
                "{} records, all digests are right",
                answer.records
            ))?;
        }
        Output::Table => lines::say(format_args!(
            "{} records; the digests of partitions {wrong:?} are wrong: memory was damaged. The router \
             rights them within 64 s; if it happens again, replace the machine",
            answer.records
        ))?,
    }
    Ok(wrong.is_empty())
}

/// Returns what a router said no with, and what to do where it does not say so itself.
fn refusal(status: Status) -> anyhow::Error {
    let (code, message) = (status.code(), status.message());
    if code == Code::Unimplemented {
        return anyhow!(
            "that is no router with a bus: --address takes the grpc.listen of a router, port 7401 \
             unless it was set"
        );
    }
    match message {
        "" => anyhow!("the router said no: {code}"),
        message => anyhow!("{message}"),
    }
}

fn print_json<M: Message + Name>(message: &M) -> io::Result<()> {
    lines::say(control::json::encode(message))
}
