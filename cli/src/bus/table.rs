//! `tandem bus table`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use control::router::v1::table_entry::Value;
use control::router::v1::table_entry_service_client::TableEntryServiceClient;
use control::router::v1::{
    DeleteTableEntryRequest, GetTableEntryRequest, ListTableEntriesRequest, SetTableEntryRequest,
    TableEntry,
};
use tonic::transport::Channel;

use super::{Output, print_json, refusal};
use crate::lines;

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub(super) struct Options {
    /// What the table is called on the bus
    #[arg(value_name = "TABLE")]
    table: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Prints the value of one key
    Get {
        /// The key
        key: String,
    },
    /// Sets one key, in the whole cell if the table is replicated
    Set {
        /// The key
        key: String,
        /// Its value: text, or a number with --number
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// The value is a number of 32 bits
        #[arg(long)]
        number: bool,
        /// How many seconds it lasts; else as the table says
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..=2_147_483_647))]
        ttl: Option<i64>,
    },
    /// Deletes one key, in the whole cell if the table is replicated
    Delete {
        /// The key
        key: String,
    },
}

type Client = TableEntryServiceClient<Channel>;

const HEADS: [&str; 4] = ["KEY", "VALUE", "LEFT", "WRITTEN"];

pub(super) async fn run(router: Channel, options: &Options, output: Output) -> anyhow::Result<()> {
    let mut client = TableEntryServiceClient::new(router);
    let table = &options.table;
    let entries = match &options.command {
        None => list(&mut client, table).await?,
        Some(Command::Get { key }) => {
            let name = name(table, key);
            let entry = client.get_table_entry(GetTableEntryRequest { name }).await;
            vec![entry.map_err(refusal)?.into_inner()]
        }
        Some(Command::Set {
            key,
            value,
            number,
            ttl,
        }) => {
            let value = match number {
                true => Value::Number(value.parse().map_err(|_| {
                    anyhow::anyhow!(
                        "{value:?} is no number of 32 bits: leave --number away for text"
                    )
                })?),
                false => Value::Text(value.clone().into_bytes()),
            };
            vec![set(&mut client, name(table, key), value, *ttl).await?]
        }
        Some(Command::Delete { key }) => {
            let name = name(table, key);
            let answer = client
                .delete_table_entry(DeleteTableEntryRequest { name })
                .await
                .map_err(refusal)?
                .into_inner();
            match (output, answer.existed) {
                (Output::Json, _) => print_json(&answer)?,
                (Output::Table, true) => lines::say("deleted")?,
                (Output::Table, false) => lines::say("there was no such key")?,
            }
            return Ok(());
        }
    };
    match output {
        Output::Json => entries.iter().try_for_each(print_json)?,
        Output::Table => lines::print(HEADS, &entries.iter().map(row).collect::<Vec<_>>())?,
    }
    Ok(())
}

async fn list(client: &mut Client, table: &str) -> anyhow::Result<Vec<TableEntry>> {
    let mut request = ListTableEntriesRequest {
        parent: format!("tables/{table}"),
        ..ListTableEntriesRequest::default()
    };
    let mut entries = Vec::new();
    loop {
        let page = client.list_table_entries(request.clone()).await;
        let page = page.map_err(refusal)?.into_inner();
        entries.extend(page.table_entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(entries);
        }
    }
}

async fn set(
    client: &mut Client,
    name: String,
    value: Value,
    ttl: Option<i64>,
) -> anyhow::Result<TableEntry> {
    let entry = TableEntry {
        name,
        value: Some(value),
        ..TableEntry::default()
    };
    let request = SetTableEntryRequest {
        table_entry: Some(entry),
        ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    };
    let written = client.set_table_entry(request).await;
    Ok(written.map_err(refusal)?.into_inner())
}

fn name(table: &str, key: &str) -> String {
    format!("tables/{table}/entries/{}", URL_SAFE_NO_PAD.encode(key))
}

fn row(entry: &TableEntry) -> [String; 4] {
    let value = match &entry.value {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Text(text)) => format!("\"{}\"", lines::text(text)),
        None => String::new(),
    };
    [
        lines::text(&entry.key),
        value,
        lines::took(entry.remaining),
        format!("{} ago", lines::ago(entry.write_time)),
    ]
}
