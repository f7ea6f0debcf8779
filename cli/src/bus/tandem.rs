//! What Tandem routers tell each other, as a line.

use control::mirror::v1::tandem_message::Kind;
use control::mirror::v1::{PartitionKeys, TandemMessage, TandemRecord, tandem_record};
use control::router::v1::table_entry::Value;
use control::router::v1::{Dialog, DialogState, TableEntry};

use crate::lines;

/// How many records are told of one message, and how many partitions.
const SHOWN_MAX: usize = 4;

pub(super) fn line(message: &TandemMessage) -> String {
    let Some(kind) = &message.kind else {
        return "nothing".to_owned();
    };
    match kind {
        Kind::Hello(hello) => format!(
            "hello from {}, start {}, hash size {}",
            lines::text(hello.node.as_bytes()),
            hello.incarnation,
            hello.hash_size
        ),
        Kind::Records(records) => {
            let count = records.records.len();
            format!(
                "{}: {}",
                counted(count, "record"),
                some(&records.records, "; ", record)
            )
        }
        Kind::Root(root) => {
            let sum: String = root
                .root
                .iter()
                .take(4)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let divergence = match root.divergence {
                0 => String::new(),
                count => format!(", {count} differed before"),
            };
            format!("round {} begins, root {sum}{divergence}", root.round)
        }
        Kind::Partitions(sums) => format!(
            "round {}, sums of {} from {}, wants to know {}",
            sums.round,
            counted(sums.count as usize, "partition"),
            sums.first,
            sums.wanted
        ),
        Kind::Keys(keys) => {
            let differing = match keys.differing.len() {
                0 => "no more differ".to_owned(),
                1 => "1 partition differs".to_owned(),
                count => format!("{count} partitions differ"),
            };
            format!(
                "round {}, {differing}{}",
                keys.round,
                held(", holds ", &keys.held)
            )
        }
        Kind::Offer(offer) => format!("offers{}", held(" ", &offer.partitions)),
        Kind::Pull(pull) => format!("wants{}", held(" ", &pull.partitions)),
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn held(before: &str, partitions: &[PartitionKeys]) -> String {
    if partitions.is_empty() {
        return String::new();
    }
    let keys = partitions.iter().map(|part| part.keys as usize).sum();
    let places = some(partitions, ", ", |part| part.partition.to_string());
    format!("{before}{} of partitions {places}", counted(keys, "key"))
}

/// Tells the first few of many.
fn some<T>(all: &[T], between: &str, tell: impl Fn(&T) -> String) -> String {
    let told = all.iter().take(SHOWN_MAX).map(tell);
    let mut text = told.collect::<Vec<_>>().join(between);
    if all.len() > SHOWN_MAX {
        text.push_str(between);
        text.push_str("...");
    }
    text
}

fn record(record: &TandemRecord) -> String {
    match &record.kind {
        Some(tandem_record::Kind::Dialog(record)) => dialog(record),
        Some(tandem_record::Kind::TableEntry(record)) => entry(record),
        None => "nothing".to_owned(),
    }
}

fn dialog(dialog: &Dialog) -> String {
    let state = match dialog.state() {
        DialogState::Unspecified => "unknown",
        DialogState::Unconfirmed => "unconfirmed",
        DialogState::Early => "early",
        DialogState::Answered => "answered",
        DialogState::Confirmed => "confirmed",
        DialogState::Ended => "ended",
    };
    let call_id = lines::text(&dialog.call_id);
    format!(
        "dialog {}.{} {state} {call_id}",
        dialog.h_entry, dialog.h_id
    )
}

fn entry(entry: &TableEntry) -> String {
    let place = format!(
        "{}[{}]",
        lines::text(entry.table.as_bytes()),
        lines::text(&entry.key)
    );
    match &entry.value {
        Some(Value::Number(number)) => format!("{place} = {number}"),
        Some(Value::Text(text)) => format!("{place} = \"{}\"", lines::text(text)),
        None => format!("{place} is gone"),
    }
}

#[cfg(test)]
mod tests {
    use control::mirror::v1::{
        PartitionKeysList, TandemHello, TandemKeys, TandemPartitions, TandemRecords, TandemRoot,
    };

    use super::*;

    fn told(kind: Kind) -> String {
        line(&TandemMessage { kind: Some(kind) })
    }

    #[test]
    fn records_are_told_until_there_are_many() {
        let dialog = Dialog {
            call_id: b"1-2@10.0.0.1".to_vec(),
            h_entry: 3367,
            h_id: 1204,
            state: DialogState::Early.into(),
            ..Dialog::default()
        };
        let entry = |value| TableEntry {
            table: "bans".to_owned(),
            key: b"k\n".to_vec(),
            value,
            ..TableEntry::default()
        };
        let record = |kind| TandemRecord { kind: Some(kind) };
        let dialog = record(tandem_record::Kind::Dialog(dialog));
        let gone = record(tandem_record::Kind::TableEntry(entry(None)));
        let set = record(tandem_record::Kind::TableEntry(entry(Some(Value::Number(
            1,
        )))));
        let few = vec![dialog.clone(), set, gone];
        assert_eq!(
            told(Kind::Records(TandemRecords { records: few })),
            "3 records: dialog 3367.1204 early 1-2@10.0.0.1; bans[k\\n] = 1; bans[k\\n] is gone"
        );
        let many = told(Kind::Records(TandemRecords {
            records: vec![dialog; 5],
        }));
        assert_eq!(many.matches("dialog").count(), SHOWN_MAX, "{many}");
        assert!(
            many.starts_with("5 records: ") && many.ends_with("; ..."),
            "{many}"
        );
    }

    #[test]
    fn a_round_is_told_step_by_step() {
        let hello = TandemHello {
            node: "router-1".to_owned(),
            incarnation: 3,
            hash_size: 4096,
        };
        assert_eq!(
            told(Kind::Hello(hello)),
            "hello from router-1, start 3, hash size 4096"
        );
        let root = |divergence| {
            told(Kind::Root(TandemRoot {
                round: 61,
                root: vec![0x4f, 0x1d, 0x22, 0xa9, 1],
                divergence,
            }))
        };
        assert_eq!(root(0), "round 61 begins, root 4f1d22a9");
        assert_eq!(root(2), "round 61 begins, root 4f1d22a9, 2 differed before");
        let partitions = TandemPartitions {
            round: 61,
            first: 86,
            count: 86,
            wanted: 80,
        };
        assert_eq!(
            told(Kind::Partitions(partitions)),
            "round 61, sums of 86 partitions from 86, wants to know 80"
        );
        let part = |partition, keys| PartitionKeys { partition, keys };
        let keys = TandemKeys {
            round: 61,
            differing: vec![90, 91],
            held: vec![part(90, 40), part(91, 38)],
        };
        assert_eq!(
            told(Kind::Keys(keys)),
            "round 61, 2 partitions differ, holds 78 keys of partitions 90, 91"
        );
        let one = PartitionKeysList {
            partitions: vec![part(90, 1)],
        };
        assert_eq!(
            told(Kind::Offer(one.clone())),
            "offers 1 key of partitions 90"
        );
        assert_eq!(told(Kind::Pull(one)), "wants 1 key of partitions 90");
    }
}
