//! `tandem bus dialogs`.

use clap::Args;
use control::router::v1::dialog_service_client::DialogServiceClient;
use control::router::v1::{Dialog, DialogState, ListDialogsRequest};
use tonic::transport::Channel;

use super::{Output, print_json, refusal};
use crate::lines;

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Only dialogs with this Call-ID
    #[arg(long, value_name = "CALL-ID", default_value = "")]
    call_id: String,
    /// Those too that have ended and are still remembered
    #[arg(long)]
    ended: bool,
    /// No more than so many
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

const HEADS: [&str; 8] = [
    "H_ENTRY.H_ID",
    "STATE",
    "OWNER",
    "EPOCH",
    "AGE",
    "LEFT",
    "FROM",
    "CALL-ID",
];

pub(super) async fn show(router: Channel, options: &Options, output: Output) -> anyhow::Result<()> {
    let mut client = DialogServiceClient::new(router);
    let mut request = ListDialogsRequest {
        call_id: options.call_id.clone().into_bytes(),
        show_ended: options.ended,
        ..ListDialogsRequest::default()
    };
    let mut dialogs: Vec<Dialog> = Vec::new();
    loop {
        request.page_size = options.limit.saturating_sub(dialogs.len()).clamp(1, 1000) as i32;
        let page = client.list_dialogs(request.clone()).await;
        let page = page.map_err(refusal)?.into_inner();
        dialogs.extend(page.dialogs);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || dialogs.len() >= options.limit {
            break;
        }
    }
    dialogs.truncate(options.limit);
    if output == Output::Json {
        dialogs.iter().try_for_each(print_json)?;
        return Ok(());
    }
    let rows: Vec<_> = dialogs.iter().map(row).collect();
    lines::print(HEADS, &rows)?;
    if !request.page_token.is_empty() {
        let limit = options.limit;
        lines::say(format_args!(
            "\nthere are more: --limit takes more than {limit}"
        ))?;
    }
    Ok(())
}

fn row(dialog: &Dialog) -> [String; 8] {
    let state = match dialog.state() {
        DialogState::Unspecified => "-",
        DialogState::Unconfirmed => "unconfirmed",
        DialogState::Early => "early",
        DialogState::Answered => "answered",
        DialogState::Confirmed => "confirmed",
        DialogState::Ended => "ended",
    };
    [
        format!("{}.{}", dialog.h_entry, dialog.h_id),
        state.to_owned(),
        dialog.owner.clone(),
        dialog.epoch.to_string(),
        lines::ago(dialog.create_time),
        lines::took(dialog.remaining),
        lines::text(&dialog.from_uri),
        lines::text(&dialog.call_id),
    ]
}
