//! `tandem bus watch`.

use clap::Args;
use control::mirror::v1::body::Kind;
use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::stream_messages_response::Event;
use control::mirror::v1::table_cell::Value;
use control::mirror::v1::{
    CutReason, DialogAction, DialogMessage, Direction, Message, NodeList, StreamMessagesRequest,
    TableAction, TableMessage,
};
use tonic::transport::Channel;

use super::{Output, print_json, refusal, tandem};
use crate::lines;

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Only these channels, such as dialog, htable, tandem or notification_peer
    #[arg(long, value_name = "CHANNEL")]
    channel: Vec<String>,
    /// Only what this node says and is told
    #[arg(long, value_name = "IP:PORT", default_value = "")]
    node: String,
    /// Only bodies about this Call-ID, or with the numbers of its dialog
    #[arg(long, value_name = "CALL-ID", default_value = "")]
    call_id: String,
    /// Only bodies about this table
    #[arg(long, value_name = "TABLE", default_value = "")]
    table: String,
}

/// Prints until it is interrupted; fails when it was cut.
pub(super) async fn show(
    router: Channel,
    options: &Options,
    output: Output,
) -> anyhow::Result<bool> {
    let request = StreamMessagesRequest {
        channels: options.channel.clone(),
        node: options.node.clone(),
        call_id: options.call_id.clone().into_bytes(),
        table: options.table.clone(),
    };
    let mut client = MirrorServiceClient::new(router);
    let stream = client.stream_messages(request).await;
    let mut stream = stream.map_err(refusal)?.into_inner();
    while let Some(response) = stream.message().await.map_err(refusal)? {
        match response.event {
            Some(Event::Message(message)) => match output {
                Output::Json => print_json(&message)?,
                Output::Table => lines::say(line(&message))?,
            },
            Some(Event::Cut(cut)) if cut.reason() == CutReason::SlowReader => anyhow::bail!(
                "too slow: cut after {} missed messages; ask for less with --channel or --node",
                cut.missed
            ),
            Some(Event::Cut(_)) => return Ok(true),
            None => {}
        }
    }
    Ok(true)
}

fn line(message: &Message) -> String {
    let arrow = match message.direction() {
        Direction::Out => "->",
        Direction::In | Direction::Unspecified => "<-",
    };
    let what = match message.status {
        0 => "KDMQ".to_owned(),
        status => status.to_string(),
    };
    let kind = message.body.as_ref().and_then(|body| body.kind.as_ref());
    let body = kind.map_or_else(String::new, |kind| match kind {
        Kind::NodeList(list) => node_list(list),
        Kind::Dialog(dialog) => of_dialog(dialog),
        Kind::Table(table) => of_table(table),
        Kind::Tandem(message) => tandem::line(message),
        Kind::Unread(why) => format!("{} bytes: {why}", message.raw.len()),
    });
    let line = format!(
        "{} {arrow} {} {} {what} {body}",
        lines::time_of_day(message.at_nanos),
        lines::text(message.node.as_bytes()),
        lines::text(message.channel.as_bytes()),
    );
    line.trim_end().to_owned()
}

fn node_list(list: &NodeList) -> String {
    let nodes = list.lines.iter().map(|line| match line.disabled {
        true => format!("{} leaves", line.node),
        false => line.node.clone(),
    });
    let mut text = nodes.collect::<Vec<_>>().join(", ");
    if list.skipped > 0 {
        text.push_str(&format!("; {} lines cannot be read", list.skipped));
    }
    text
}

fn of_dialog(dialog: &DialogMessage) -> String {
    let action = match dialog.action() {
        DialogAction::Unspecified | DialogAction::None => return "nothing".to_owned(),
        DialogAction::Sync => return "asks for all".to_owned(),
        DialogAction::Update => "update",
        DialogAction::State => "state",
        DialogAction::Remove => "remove",
    };
    let state = match dialog.state {
        0 => "",
        1 => "unconfirmed",
        2 => "early",
        3 => "answered",
        4 => "confirmed",
        5 => "deleted",
        _ => "unknown",
    };
    let call_id = lines::text(&dialog.call_id);
    let (h_entry, h_id) = (dialog.h_entry, dialog.h_id);
    format!("{action} {h_entry}.{h_id} {state} {call_id}")
}

fn of_table(message: &TableMessage) -> String {
    let (table, key, value) = match message.cells.first() {
        Some(cell) => (
            lines::text(&cell.table),
            lines::text(&cell.key),
            match &cell.value {
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Text(text)) => format!("\"{}\"", lines::text(text)),
                None => String::new(),
            },
        ),
        None => Default::default(),
    };
    let by = if message.by_value { "values" } else { "keys" };
    match message.action() {
        TableAction::Unspecified => String::new(),
        TableAction::Sync if table.is_empty() => "asks for all".to_owned(),
        TableAction::Sync => format!("asks for {table}"),
        TableAction::Set => format!("set {table}[{key}] = {value}"),
        TableAction::SetExpire => format!("expire {table}[{key}] in {value} s"),
        TableAction::Delete => format!("delete {table}[{key}]"),
        TableAction::RemoveRegex => format!("delete from {table} {by} like {value}"),
        TableAction::RemovePrefix => format!("delete from {table} {by} that begin {value}"),
        TableAction::Cells => format!("{} cells, {table}[{key}] first", message.cells.len()),
    }
}

#[cfg(test)]
mod tests {
    use control::mirror::v1::{Body, TableCell};

    use super::*;

    #[test]
    fn a_line_tells_who_said_what() {
        let cell = TableCell {
            table: b"bans".to_vec(),
            key: b"k".to_vec(),
            value: Some(Value::Text(b"v\n".to_vec())),
            ..TableCell::default()
        };
        let table = TableMessage {
            action: TableAction::Set.into(),
            cells: vec![cell],
            ..TableMessage::default()
        };
        let mut message = Message {
            at_nanos: 1_500_000_000,
            direction: Direction::In.into(),
            node: "192.0.2.1:5062".into(),
            channel: "htable".into(),
            body: Some(Body {
                kind: Some(Kind::Table(table)),
            }),
            ..Message::default()
        };
        assert_eq!(
            line(&message),
            "00:00:01.500 <- 192.0.2.1:5062 htable KDMQ set bans[k] = \"v\\n\""
        );
        message.status = 200;
        message.body = None;
        assert_eq!(line(&message), "00:00:01.500 <- 192.0.2.1:5062 htable 200");
    }
}
