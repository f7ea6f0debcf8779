//! `tandem bus table`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use control::router::v1::delete_matching_table_entries_request::Pattern;
use control::router::v1::table_entry::Value;
use control::router::v1::table_entry_service_client::TableEntryServiceClient;
use control::router::v1::{
    DeleteMatchingTableEntriesRequest, DeleteTableEntryRequest, FlushTableRequest,
    GetTableEntryRequest, ListTableEntriesRequest, PatternSubject, SetTableEntryRequest,
    TableEntry,
};
use prost::{Message, Name};
use tonic::transport::Channel;

use super::{Output, print_json, refusal};
use crate::lines;

const EXAMPLES: &str = "\
Examples:
  tandem bus table bans                                what is in it
  tandem bus table bans set 10.0.0.9 1 --number --ttl 60
  tandem bus table bans delete 10.0.0.9
  tandem bus table bans delete-matching --prefix 10.0.0.
  tandem bus table bans flush                          empties it";

const MATCHING_EXAMPLES: &str = "\
Examples:
  tandem bus table bans delete-matching --prefix 10.0.0.          keys that begin so
  tandem bus table bans delete-matching --regex '^10\\.0\\.[01]\\.'
  tandem bus table users delete-matching --regex '@example\\.com$' --value
                                                                  keys whose text ends so";

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = false, after_help = EXAMPLES)]
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
    /// Deletes the keys that match, in the whole cell if the table is replicated; says how many
    #[command(after_help = MATCHING_EXAMPLES)]
    DeleteMatching {
        #[command(flatten)]
        pattern: Wanted,
        /// It is the value that must match, if it is text
        #[arg(long)]
        value: bool,
    },
    /// Deletes every key, in the whole cell if the table is replicated; says how many
    Flush,
}

/// What matches.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Wanted {
    /// A regular expression as of Kamailio's sht_rm_name_re: anywhere in the text, in small or capital letters
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    regex: Option<String>,
    /// How it begins, to the letter
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prefix: Option<String>,
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
        Some(Command::DeleteMatching { pattern, value }) => {
            let request = matching(table, pattern, *value);
            let answer = client.delete_matching_table_entries(request).await;
            let answer = answer.map_err(refusal)?.into_inner();
            return gone(&answer, answer.deleted, output);
        }
        Some(Command::Flush) => {
            let parent = parent(table);
            let answer = client.flush_table(FlushTableRequest { parent }).await;
            let answer = answer.map_err(refusal)?.into_inner();
            return gone(&answer, answer.deleted, output);
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
        parent: parent(table),
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

fn matching(table: &str, wanted: &Wanted, by_value: bool) -> DeleteMatchingTableEntriesRequest {
    let subject = match by_value {
        true => PatternSubject::Value,
        false => PatternSubject::Key,
    };
    let bytes = |text: &String| text.clone().into_bytes();
    let regex = wanted
        .regex
        .as_ref()
        .map(|text| Pattern::Regex(bytes(text)));
    let prefix = wanted
        .prefix
        .as_ref()
        .map(|text| Pattern::Prefix(bytes(text)));
    DeleteMatchingTableEntriesRequest {
        parent: parent(table),
        subject: subject.into(),
        pattern: regex.or(prefix),
    }
}

/// Says how many keys are gone.
fn gone<M: Message + Name>(answer: &M, count: u64, output: Output) -> anyhow::Result<()> {
    match (output, count) {
        (Output::Json, _) => print_json(answer)?,
        (Output::Table, 1) => lines::say("1 key deleted")?,
        (Output::Table, _) => lines::say(format_args!("{count} keys deleted"))?,
    }
    Ok(())
}

fn parent(table: &str) -> String {
    format!("tables/{table}")
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
