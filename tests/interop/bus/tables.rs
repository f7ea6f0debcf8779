//! Tables written on all nodes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use control::router::v1::table_entry::Value;
use control::router::v1::table_entry_service_client::TableEntryServiceClient;
use control::router::v1::{DeleteTableEntryRequest, SetTableEntryRequest, TableEntry};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::held::TABLES;
use super::{Bus, KAMAILIOS, NODES, SECOND, is_stock};
use crate::kamailio::{Content, Kamailio};
use crate::quiet::{alone, say};
use crate::system::{ROUTERS, System};

/// Operations on each node.
const OPERATIONS: u32 = 2500;

/// Keys of a table that only one node writes, for each node, and keys that all write.
const OWN_KEYS: u32 = 60;
const SHARED_KEYS: u32 = 60;

/// How long keys live that are to expire while the test runs, and those that are not, in seconds.
const SHORT: std::ops::Range<u32> = 3..8;
const LONG: std::ops::Range<u32> = 200..300;

/// Kamailio nodes are compared with at most once a minute, and a round takes a moment.
const REPAIR_ROUND: Duration = Duration::from_secs(90);

/// A table and a key.
type Key = (&'static str, String);

/// What is done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    Set(Content),
    /// Lives so many seconds.
    SetFor(Content, u32),
    Delete,
}

impl Operation {
    /// What is there after it, if it does not expire soon.
    fn leaves(&self) -> Option<&Content> {
        match self {
            Self::Set(content) => Some(content),
            Self::SetFor(content, seconds) => (*seconds >= LONG.start).then_some(content),
            Self::Delete => None,
        }
    }
}

#[test]
fn ten_thousand_operations_on_all_nodes_leave_one_content() {
    let Some(_permit) = alone(&["kamailio"]) else {
        return;
    };
    let seed = std::env::var("SEED").map_or_else(
        |_| SmallRng::from_os_rng().random(),
        |seed| seed.parse().unwrap(),
    );
    say(&format!("SEED={seed}"));
    let bus = Bus::ready(&NODES);
    let plans: Vec<_> = NODES
        .into_iter()
        .map(|node| operations(node, seed))
        .collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for (node, plan) in NODES.into_iter().zip(&plans) {
            // Each Kamailio is asked over one socket, by one thread at a time.
            let (system, kamailio) = (&bus.system, bus.kamailios.get(node));
            let place = move || match kamailio {
                Some(kamailio) => write_on_kamailio(kamailio, plan),
                None => write_on_tandem(system, node, plan),
            };
            scope.spawn(place);
        }
    });
    say(&format!("written in {:?}", start.elapsed()));

    // Whatever is to expire has, and is 2 s past it.
    thread::sleep(SECOND * (SHORT.end + 2));
    let lost = bus.keys_that_differ(&NODES).len();
    let tandem = bus.keys_that_differ(&ROUTERS).len();
    let stock = bus.keys_that_differ(&KAMAILIOS).len();
    say(&format!(
        "before repair {lost} keys differ, {stock} between the Kamailios, {tandem} between the Tandems"
    ));
    assert_eq!(tandem, 0, "Tandem nodes need no repair");
    let took = bus.wait_until_tables_agree(&NODES, REPAIR_ROUND);
    say(&format!("all equal after {took:?} more"));

    let all: BTreeMap<_, _> = TABLES
        .map(|table| (table, bus.table(NODES[0], table)))
        .into();
    let held = |(table, key): &Key| all[table].get(key);
    let mut written: BTreeMap<&Key, BTreeSet<String>> = BTreeMap::new();
    for (node, plan) in NODES.into_iter().zip(&plans) {
        let last: BTreeMap<_, _> = plan.iter().map(|(key, done)| (key, done)).collect();
        for (key, operation) in last {
            let is_own = key.1.starts_with(node);
            if is_own && !is_stock(node) {
                assert_eq!(held(key), operation.leaves(), "{key:?} after {operation:?}");
            }
        }
        for (key, operation) in plan {
            let values = written.entry(key).or_default();
            values.insert(format!("{:?}", operation.leaves()));
        }
    }
    for (key, values) in written {
        let held = format!("{:?}", held(key));
        assert!(
            values.contains(&held),
            "{key:?} is {held}, not of {values:?}"
        );
    }
    bus.assert_no_complaints();
}

/// Plans what is done on a node.
fn operations(node: &str, seed: u64) -> Vec<(Key, Operation)> {
    let place = NODES.iter().position(|other| *other == node).unwrap();
    let mut random = SmallRng::seed_from_u64(seed.wrapping_add(place as u64));
    let mut operation = |number: u32| {
        let table = TABLES[random.random_range(0..TABLES.len())];
        let key = match random.random_range(0..OWN_KEYS + SHARED_KEYS) {
            own if own < OWN_KEYS => format!("{node}-{own}"),
            shared => format!("shared-{shared}"),
        };
        let content = if random.random_bool(0.5) {
            Content::Text(format!("\"{node}\" \\ {number}"))
        } else {
            Content::Number(i64::from(number) - i64::from(random.random_range(0..2 * OPERATIONS)))
        };
        let done = match random.random_range(0..10) {
            0..6 => Operation::Set(content),
            6 if table == "auth" => Operation::SetFor(content, random.random_range(SHORT)),
            7 if table == "auth" => Operation::SetFor(content, random.random_range(LONG)),
            6 | 7 => Operation::Set(content),
            _ => Operation::Delete,
        };
        ((table, key), done)
    };
    (0..OPERATIONS).map(&mut operation).collect()
}

fn write_on_kamailio(kamailio: &Kamailio, plan: &[(Key, Operation)]) {
    let set = |table: &str, key: &str, content: &Content| match content {
        Content::Number(number) => kamailio.ask_to("htable.seti", &json!([table, key, number])),
        Content::Text(text) => kamailio.ask_to("htable.sets", &json!([table, key, text])),
    };
    for ((table, key), operation) in plan {
        match operation {
            Operation::Set(content) => set(table, key, content),
            // Not at once by htable.setxs: 5.6.3 then forgets the end of a key that existed, on this
            // node alone.
            Operation::SetFor(content, seconds) => {
                set(table, key, content);
                kamailio.ask_to("htable.setex", &json!([table, key, seconds]));
            }
            Operation::Delete => kamailio.ask_to("htable.delete", &json!([table, key])),
        }
    }
}

fn write_on_tandem(system: &System, node: &str, plan: &[(Key, Operation)]) {
    system.ask(node, async |channel| {
        let mut client = TableEntryServiceClient::new(channel);
        for ((table, key), operation) in plan {
            let (content, seconds) = match operation {
                Operation::Set(content) => (content, None),
                Operation::SetFor(content, seconds) => (content, Some(*seconds)),
                Operation::Delete => {
                    let key = base64url(key.as_bytes());
                    let request = DeleteTableEntryRequest {
                        name: format!("tables/{table}/entries/{key}"),
                    };
                    client.delete_table_entry(request).await.unwrap();
                    continue;
                }
            };
            let value = match content {
                Content::Number(number) => Value::Number((*number).try_into().unwrap()),
                Content::Text(text) => Value::Text(text.clone().into_bytes()),
            };
            let entry = TableEntry {
                table: (*table).to_owned(),
                key: key.clone().into_bytes(),
                value: Some(value),
                ..TableEntry::default()
            };
            let ttl = seconds.map(|seconds| Duration::from_secs(seconds.into()));
            let request = SetTableEntryRequest {
                table_entry: Some(entry),
                ttl: ttl.map(|ttl| ttl.try_into().unwrap()),
            };
            client.set_table_entry(request).await.unwrap();
        }
    });
}

impl Bus {
    /// Puts some entries into both tables, some on one node and some on the other.
    pub(super) fn fill_tables(&self, router: &str, kamailio: &str) {
        let sets = |node: &str| {
            let entry = |number: u32| {
                let table = TABLES[number as usize % TABLES.len()];
                let content = Content::Text(format!("of {node}"));
                ((table, format!("{node}-{number}")), Operation::Set(content))
            };
            (0..200).map(entry).collect::<Vec<_>>()
        };
        write_on_tandem(&self.system, router, &sets(router));
        write_on_kamailio(self.kamailio(kamailio), &sets(kamailio));
    }
}

/// Encodes as resource names have keys: RFC 4648 section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(ALPHABET[index as usize].into());
        }
    }
    text
}
