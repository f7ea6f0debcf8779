//! What Tandem routers tell each other, for people and programs that look at the bus.

use control::mirror::v1::tandem_message::Kind;
use control::mirror::v1::{
    PartitionKeys, PartitionKeysList, TandemHello, TandemKeys, TandemMessage, TandemPartitions,
    TandemRecord, TandemRecords, TandemRoot, tandem_record,
};
use replication::tandem::{HelloData, Listed, Told};
use replication::{Key, Record};

use super::{dialogs, entries};

/// Returns what a body says as it is shown.
pub(super) fn shown(told: Told, hash_size: u32) -> TandemMessage {
    let kind = match told {
        Told::Hello(HelloData {
            node_id,
            incarnation,
            hash_size,
        }) => Kind::Hello(TandemHello {
            node: node_id,
            incarnation,
            hash_size,
        }),
        Told::Records(records) => {
            let records = records.iter().map(|(key, of)| record(key, of, hash_size));
            Kind::Records(TandemRecords {
                records: records.collect(),
            })
        }
        Told::Root {
            round,
            root,
            divergence,
        } => Kind::Root(TandemRoot {
            round,
            root,
            divergence,
        }),
        Told::Partitions {
            round,
            first,
            count,
            wanted,
        } => Kind::Partitions(TandemPartitions {
            round,
            first,
            count: count as u32,
            wanted: wanted as u32,
        }),
        Told::Keys {
            round,
            differing,
            held,
        } => Kind::Keys(TandemKeys {
            round,
            differing,
            held: listed(&held),
        }),
        Told::Offer(held) => Kind::Offer(list(&held)),
        Told::Pull(wanted) => Kind::Pull(list(&wanted)),
    };
    TandemMessage { kind: Some(kind) }
}

fn record(key: &Key, record: &Record, hash_size: u32) -> TandemRecord {
    let kind = match (key, record) {
        (Key::Dialog(key), Record::Dialog(record, remaining)) => Some(tandem_record::Kind::Dialog(
            dialogs::of_record(key, record, *remaining, hash_size),
        )),
        (Key::Entry(key), Record::Entry(record)) => Some(tandem_record::Kind::TableEntry(
            entries::shown(key, Some(record)),
        )),
        // A body tells no such thing.
        (Key::Dialog(_), Record::Entry(_)) | (Key::Entry(_), Record::Dialog(..)) => None,
    };
    TandemRecord { kind }
}

fn list(listed_keys: &[Listed]) -> PartitionKeysList {
    PartitionKeysList {
        partitions: listed(listed_keys),
    }
}

fn listed(listed: &[Listed]) -> Vec<PartitionKeys> {
    let listed = listed
        .iter()
        .map(|Listed { partition, keys }| PartitionKeys {
            partition: *partition,
            keys: *keys as u32,
        });
    listed.collect()
}
