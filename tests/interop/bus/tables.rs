//! Tables written on all nodes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use control::mirror::v1::ListNodesRequest;
use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::node::About;
use control::router::v1::delete_matching_table_entries_request::Pattern;
use control::router::v1::replication_service_client::ReplicationServiceClient;
use control::router::v1::table_entry::Value;
use control::router::v1::table_entry_service_client::TableEntryServiceClient;
use control::router::v1::{
    DeleteMatchingTableEntriesRequest, DeleteTableEntryRequest, FlushTableRequest,
    RepairStockNodesRequest, SetTableEntryRequest, TableEntry,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::held::{CLEARED, TABLES};
use super::{Bus, KAMAILIOS, NODES, SECOND, is_stock};
use crate::kamailio::{Content, Kamailio};
use crate::quiet::{say, shared};
use crate::system::{ROUTERS, System, eventually};

/// Operations on each node.
const OPERATIONS: u32 = 2500;

/// Keys of a table that only one node writes, for each node, and keys that all write.
const OWN_KEYS: u32 = 60;
const SHARED_KEYS: u32 = 60;

/// How long keys live that are to expire while the test runs, and those that are not, in seconds.
const SHORT: std::ops::Range<u32> = 3..8;
const LONG: std::ops::Range<u32> = 200..300;

/// Comparisons without a difference after which a Tandem compares no more by itself.
const CLEAN_ROUNDS: u64 = 2;

/// Kamailio nodes are compared with at most once a minute, and a round takes a moment.
const REPAIR_ROUND: Duration = Duration::from_secs(90);

/// How long it takes until Kamailios have taken what a round found.
const REPAIR_TAKES: Duration = Duration::from_secs(5);

/// A table and a key.
type Key = (&'static str, String);

/// One thing that is done on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    Set(Key, Content),
    /// Lives so many seconds.
    SetFor(Key, Content, u32),
    Delete(Key),
    /// Deletes the keys of a table that begin so.
    DeleteBeginning(&'static str, String),
    /// Deletes the keys of a table that begin and end so, by an expression in capitals: their case is nothing
    /// to expressions.
    DeleteEnding(&'static str, String, u32),
    /// Deletes all keys of a table; on a Kamailio on that node alone, which is as good as a loss.
    Flush(&'static str),
}

impl Operation {
    /// Returns the keys of a plan that it has to do with, and what is there after it if that does not expire
    /// soon.
    fn outcome<'a>(&'a self, keys: &'a BTreeSet<Key>) -> Vec<(&'a Key, Option<&'a Content>)> {
        let is_meant = |(table, key): &Key| match self {
            Self::DeleteBeginning(of, prefix) => table == of && key.starts_with(prefix),
            Self::DeleteEnding(of, prefix, digit) => {
                table == of && key.starts_with(prefix) && key.ends_with(&digit.to_string())
            }
            Self::Flush(of) => table == of,
            Self::Set(..) | Self::SetFor(..) | Self::Delete(_) => false,
        };
        match self {
            Self::Set(key, content) => vec![(key, Some(content))],
            Self::SetFor(key, content, seconds) => {
                vec![(key, (*seconds >= LONG.start).then_some(content))]
            }
            Self::Delete(key) => vec![(key, None)],
            Self::DeleteBeginning(..) | Self::DeleteEnding(..) | Self::Flush(_) => {
                let meant = keys.iter().filter(|key| is_meant(key));
                meant.map(|key| (key, None)).collect()
            }
        }
    }

    /// Returns the only key that it has to do with.
    fn key(&self) -> Option<&Key> {
        match self {
            Self::Set(key, _) | Self::SetFor(key, ..) | Self::Delete(key) => Some(key),
            Self::DeleteBeginning(..) | Self::DeleteEnding(..) | Self::Flush(_) => None,
        }
    }
}

/// Returns an expression for what begins and ends so.
fn expression(prefix: &str, digit: u32) -> String {
    format!("^{}[0-9]*{digit}$", prefix.to_uppercase())
}

#[test]
fn ten_thousand_operations_on_all_nodes_leave_one_content() {
    let Some(_permit) = shared(&["kamailio"]) else {
        return;
    };
    let seed = std::env::var("SEED").map_or_else(
        |_| SmallRng::from_os_rng().random(),
        |seed| seed.parse().unwrap(),
    );
    say(&format!("SEED={seed}"));
    let bus = Bus::ready(&NODES);
    bus.wait_until_nobody_compares();
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
    // The table may have been cleared just before.
    let more = [Operation::Set(
        (CLEARED, "more".to_owned()),
        Content::Number(1),
    )];
    write_on_tandem(&bus.system, ROUTERS[0], &more);
    eventually("a Kamailio has something to lose", || {
        bus.table(KAMAILIOS[0], CLEARED).contains_key("more")
    });
    bus.kamailio(KAMAILIOS[0])
        .ask_to("htable.flush", &json!([CLEARED]));
    let lost = bus.keys_that_differ(&NODES).len();
    say(&format!("one Kamailio was flushed: {lost} keys differ"));
    assert!(lost > 0, "there is something to repair");
    bus.repair_once(ROUTERS[0]);

    let all: BTreeMap<_, _> = TABLES
        .map(|table| (table, bus.table(NODES[0], table)))
        .into();
    let held = |(table, key): &Key| all[table].get(key);
    let keys = plans.iter().flatten().filter_map(Operation::key);
    let keys: BTreeSet<Key> = keys.cloned().collect();
    let mut written: BTreeMap<&Key, BTreeSet<String>> = BTreeMap::new();
    for (node, plan) in NODES.into_iter().zip(&plans) {
        let outcomes = plan.iter().flat_map(|done| done.outcome(&keys));
        let outcomes: Vec<_> = outcomes.collect();
        let last: BTreeMap<_, _> = outcomes.iter().copied().collect();
        for (key, leaves) in last {
            let is_own = key.1.starts_with(node);
            if is_own && !is_stock(node) {
                assert_eq!(held(key), leaves, "{key:?}");
            }
        }
        for (key, leaves) in outcomes {
            let values = written.entry(key).or_default();
            values.insert(format!("{leaves:?}"));
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
fn operations(node: &str, seed: u64) -> Vec<Operation> {
    let place = NODES.iter().position(|other| *other == node).unwrap();
    let mut random = SmallRng::seed_from_u64(seed.wrapping_add(place as u64));
    let mut operation = |number: u32| {
        let table = TABLES[random.random_range(0..TABLES.len())];
        let own = random.random_range(0..OWN_KEYS + SHARED_KEYS);
        let (prefix, key) = match own.checked_sub(OWN_KEYS) {
            None if table != CLEARED => (format!("{node}-"), own),
            None => ("shared-".to_owned(), own % SHARED_KEYS),
            Some(shared) => ("shared-".to_owned(), shared),
        };
        let one = (table, format!("{prefix}{key}"));
        let content = if random.random_bool(0.5) {
            Content::Text(format!("\"{node}\" \\ {number}"))
        } else {
            Content::Number(i64::from(number) - i64::from(random.random_range(0..2 * OPERATIONS)))
        };
        match random.random_range(0..100) {
            0 if table == CLEARED => Operation::Flush(table),
            0 | 1 => Operation::DeleteBeginning(table, one.1),
            2 => Operation::DeleteEnding(table, prefix, key % 10),
            60..70 if table == "auth" => {
                Operation::SetFor(one, content, random.random_range(SHORT))
            }
            70..80 if table == "auth" => Operation::SetFor(one, content, random.random_range(LONG)),
            3..80 => Operation::Set(one, content),
            _ => Operation::Delete(one),
        }
    };
    (0..OPERATIONS).map(&mut operation).collect()
}

fn write_on_kamailio(kamailio: &Kamailio, plan: &[Operation]) {
    let set = |(table, key): &Key, content: &Content| match content {
        Content::Number(number) => kamailio.ask_to("htable.seti", &json!([table, key, number])),
        Content::Text(text) => kamailio.ask_to("htable.sets", &json!([table, key, text])),
    };
    for operation in plan {
        match operation {
            Operation::Set(key, content) => set(key, content),
            // Not at once by htable.setxs: 5.6.3 then forgets the end of a key that existed, on this
            // node alone.
            Operation::SetFor(key, content, seconds) => {
                set(key, content);
                kamailio.ask_to("htable.setex", &json!([key.0, key.1, seconds]));
            }
            Operation::Delete((table, key)) => {
                kamailio.ask_to("htable.delete", &json!([table, key]));
            }
            Operation::DeleteBeginning(table, prefix) => {
                kamailio.remove_matching(table, "sw", prefix);
            }
            Operation::DeleteEnding(table, prefix, digit) => {
                kamailio.remove_matching(table, "re", &expression(prefix, *digit));
            }
            Operation::Flush(table) => kamailio.ask_to("htable.flush", &json!([table])),
        }
    }
}

fn write_on_tandem(system: &System, node: &str, plan: &[Operation]) {
    system.ask(node, async |channel| {
        let mut client = TableEntryServiceClient::new(channel);
        for operation in plan {
            match operation {
                Operation::Set(key, content) => {
                    let request = set_request(key, content, None);
                    client.set_table_entry(request).await.unwrap();
                }
                Operation::SetFor(key, content, seconds) => {
                    let request = set_request(key, content, Some(*seconds));
                    client.set_table_entry(request).await.unwrap();
                }
                Operation::Delete((table, key)) => {
                    let key = base64url(key.as_bytes());
                    let request = DeleteTableEntryRequest {
                        name: format!("tables/{table}/entries/{key}"),
                    };
                    client.delete_table_entry(request).await.unwrap();
                }
                Operation::DeleteBeginning(table, prefix) => {
                    let pattern = Pattern::Prefix(prefix.clone().into_bytes());
                    let request = matching_request(table, pattern);
                    client.delete_matching_table_entries(request).await.unwrap();
                }
                Operation::DeleteEnding(table, prefix, digit) => {
                    let pattern = Pattern::Regex(expression(prefix, *digit).into_bytes());
                    let request = matching_request(table, pattern);
                    client.delete_matching_table_entries(request).await.unwrap();
                }
                Operation::Flush(table) => {
                    let request = FlushTableRequest {
                        parent: format!("tables/{table}"),
                    };
                    client.flush_table(request).await.unwrap();
                }
            }
        }
    });
}

fn set_request(
    (table, key): &Key,
    content: &Content,
    seconds: Option<u32>,
) -> SetTableEntryRequest {
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
    SetTableEntryRequest {
        table_entry: Some(entry),
        ttl: ttl.map(|ttl| ttl.try_into().unwrap()),
    }
}

fn matching_request(table: &str, pattern: Pattern) -> DeleteMatchingTableEntriesRequest {
    DeleteMatchingTableEntriesRequest {
        parent: format!("tables/{table}"),
        pattern: Some(pattern),
        ..DeleteMatchingTableEntriesRequest::default()
    }
}

impl Bus {
    /// Waits until no Tandem compares tables with a Kamailio by itself any more, as each does when it has joined.
    fn wait_until_nobody_compares(&self) {
        let start = Instant::now();
        let compared = || {
            let all = ROUTERS.map(|router| self.comparisons(router)).into_iter();
            all.flat_map(BTreeMap::into_values)
                .map(|(finished, _)| finished)
        };
        while compared().any(|finished| finished < CLEAN_ROUNDS) {
            assert!(
                start.elapsed() < REPAIR_ROUND,
                "{:?}",
                compared().collect::<Vec<_>>()
            );
            thread::sleep(SECOND / 2);
        }
    }

    /// Has the tables of all Kamailios compared and put right by a router, and asserts that one round did it.
    fn repair_once(&self, router: &str) {
        let start = Instant::now();
        let others: Vec<_> = ROUTERS
            .into_iter()
            .filter(|other| *other != router)
            .collect();
        let of_others = || {
            others
                .iter()
                .map(|other| self.comparisons(other))
                .collect::<Vec<_>>()
        };
        let before = of_others();
        let goals = self.repair(router);
        let compared = loop {
            let compared = self.comparisons(router);
            if goals.iter().all(|(node, goal)| compared[node].0 >= *goal) {
                break compared;
            }
            assert!(start.elapsed() < REPAIR_ROUND, "{goals:?}: {compared:?}");
            thread::sleep(SECOND / 20);
        };
        let finished: BTreeMap<_, _> = compared
            .iter()
            .map(|(node, (finished, _))| (node.clone(), *finished))
            .collect();
        assert_eq!(finished, goals, "one round, and no more than that");
        let round = start.elapsed();
        let took = self.wait_until_tables_agree(&NODES, REPAIR_TAKES);
        // Neither this one nor another has begun one more that may have helped.
        assert_eq!(self.comparisons(router), compared, "of {router}");
        assert_eq!(of_others(), before, "of {others:?}");
        say(&format!(
            "the round was over {round:?} after it was asked for, all was equal {took:?} later"
        ));
    }

    /// Has the tables of all Kamailios compared and put right by a router; returns their numbers of comparisons when
    /// that has been done.
    fn repair(&self, router: &str) -> BTreeMap<String, u64> {
        let asked = self.system.ask(router, async |channel| {
            let mut client = ReplicationServiceClient::new(channel);
            let request = RepairStockNodesRequest::default();
            client
                .repair_stock_nodes(request)
                .await
                .unwrap()
                .into_inner()
        });
        let goals = asked.repairs.into_iter();
        let goals: BTreeMap<_, _> = goals
            .map(|repair| (repair.address, repair.comparisons))
            .collect();
        assert_eq!(goals.len(), KAMAILIOS.len());
        goals
    }

    /// Returns for each Kamailio how many comparisons with it a router has finished, and how often it has asked it for
    /// everything.
    fn comparisons(&self, router: &str) -> BTreeMap<String, (u64, u64)> {
        let nodes = self.system.ask(router, async |channel| {
            let mut client = MirrorServiceClient::new(channel);
            let listed = client.list_nodes(ListNodesRequest {}).await;
            listed.unwrap().into_inner().nodes
        });
        let stock = nodes.into_iter().filter_map(|node| match node.about {
            Some(About::Stock(stock)) => {
                Some((node.address, (stock.comparisons, stock.syncs_asked)))
            }
            _ => None,
        });
        stock.collect()
    }

    /// Puts some entries into both tables, some on one node and some on the other.
    pub(super) fn fill_tables(&self, router: &str, kamailio: &str) {
        let sets = |node: &str| {
            let entry = |number: u32| {
                let table = TABLES[number as usize % TABLES.len()];
                let content = Content::Text(format!("of {node}"));
                Operation::Set((table, format!("{node}-{number}")), content)
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
