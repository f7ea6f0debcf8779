//! What a node of either kind holds: tables and dialogs, asked of it in its own way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use control::router::v1::dialog_service_client::DialogServiceClient;
use control::router::v1::replication_service_client::ReplicationServiceClient;
use control::router::v1::table_entry::Value;
use control::router::v1::table_entry_service_client::TableEntryServiceClient;
use control::router::v1::{
    Dialog, DialogState, GetReplicationStatusRequest, ListDialogsRequest, ListTableEntriesRequest,
    ReplicationStatus, TableEntry,
};

use super::{Bus, is_stock};
use crate::kamailio::Content;
use crate::system::PATIENCE;

/// The tables of the tests: one whose keys expire, one whose do not, and one that is cleared now and then.
pub(super) const TABLES: [&str; 3] = ["auth", "plain", CLEARED];
pub(super) const CLEARED: &str = "cleared";

/// What a key is on each of some nodes.
type Held = Vec<(String, Option<Content>)>;

/// States of a dialog: a provisional response has passed, the ACK has, it is over.
pub(super) const EARLY: u64 = 2;
pub(super) const CONFIRMED: u64 = 4;
pub(super) const ENDED: u64 = 5;

impl Bus {
    /// Returns what a node holds in a table.
    pub(super) fn table(&self, name: &str, table: &str) -> BTreeMap<String, Content> {
        if is_stock(name) {
            return self.kamailio(name).table(table);
        }
        let entries = self.tandem_table(name, table).into_iter();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let entry = |entry: TableEntry| {
            let content = match entry.value.unwrap() {
                Value::Number(number) => Content::Number(number.into()),
                Value::Text(bytes) => Content::Text(text(bytes)),
            };
            (text(entry.key), content)
        };
        entries.map(entry).collect()
    }

    /// Returns the entries of a table as a Tandem router lists them.
    fn tandem_table(&self, name: &str, table: &str) -> Vec<TableEntry> {
        self.system.ask(name, async |channel| {
            let mut client = TableEntryServiceClient::new(channel);
            let mut request = ListTableEntriesRequest {
                parent: format!("tables/{table}"),
                ..ListTableEntriesRequest::default()
            };
            let mut all = Vec::new();
            loop {
                let page = client.list_table_entries(request.clone()).await.unwrap();
                let page = page.into_inner();
                all.extend(page.table_entries);
                if page.next_page_token.is_empty() {
                    return all;
                }
                request.page_token = page.next_page_token;
            }
        })
    }

    /// Returns the dialogs that go on, as a Tandem router lists them.
    pub(super) fn tandem_dialogs(&self, name: &str) -> Vec<Dialog> {
        self.system.ask(name, async |channel| {
            let mut client = DialogServiceClient::new(channel);
            let mut request = ListDialogsRequest::default();
            let mut all = Vec::new();
            loop {
                let page = client.list_dialogs(request.clone()).await.unwrap();
                let page = page.into_inner();
                all.extend(page.dialogs);
                if page.next_page_token.is_empty() {
                    return all;
                }
                request.page_token = page.next_page_token;
            }
        })
    }

    /// Returns how well a Tandem router replicates.
    pub(super) fn replication_status(&self, name: &str) -> ReplicationStatus {
        self.system.ask(name, async |channel| {
            let mut client = ReplicationServiceClient::new(channel);
            let answer = client.get_replication_status(GetReplicationStatusRequest {});
            answer.await.unwrap().into_inner()
        })
    }

    /// Returns the state of every dialog that a node lists, by Call-ID, in Kamailio's numbers.
    pub(super) fn dialog_states(&self, name: &str) -> BTreeMap<String, u64> {
        if is_stock(name) {
            return self.kamailio(name).dialogs();
        }
        let number = |state: DialogState| i32::from(state).unsigned_abs().into();
        let dialogs = self.tandem_dialogs(name).into_iter();
        let dialog = |dialog: Dialog| {
            let state = number(dialog.state());
            (String::from_utf8(dialog.call_id).unwrap(), state)
        };
        dialogs.map(dialog).collect()
    }

    /// Waits until none of these nodes lists a dialog; returns how long it took.
    pub(super) fn wait_until_no_dialog_is_left(
        &self,
        nodes: &[&'static str],
        patience: Duration,
    ) -> Duration {
        self.wait_until_none_is_left_but(&BTreeSet::new(), nodes, patience)
    }

    /// The same; those of some calls may stay.
    pub(super) fn wait_until_none_is_left_but(
        &self,
        may_stay: &BTreeSet<String>,
        nodes: &[&'static str],
        patience: Duration,
    ) -> Duration {
        let start = Instant::now();
        let left = |name: &str| {
            let mut dialogs = self.dialog_states(name);
            dialogs.retain(|call, _| !may_stay.contains(call));
            dialogs
        };
        loop {
            let lists = nodes
                .iter()
                .map(|name| (*name, left(name)))
                .filter(|(_, dialogs)| !dialogs.is_empty());
            let left: BTreeMap<_, _> = lists.collect();
            if left.is_empty() {
                return start.elapsed();
            }
            if start.elapsed() >= patience {
                let knows = left.keys().find(|name| !is_stock(name));
                let mut known = knows.map_or(Vec::new(), |name| self.tandem_dialogs(name));
                let is_left = |call: &[u8]| {
                    let call = String::from_utf8_lossy(call);
                    left.values().any(|dialogs| dialogs.contains_key(&*call))
                };
                known.retain(|dialog| is_left(&dialog.call_id));
                panic!(
                    "after {patience:?} dialogs are left: {left:#?}, {knows:?} knows {known:#?}"
                );
            }
            std::thread::sleep(PATIENCE / 50);
        }
    }

    /// Waits until all these nodes hold the same in all tables; returns how long it took.
    pub(super) fn wait_until_tables_agree(&self, nodes: &[&str], patience: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let differ = self.keys_that_differ(nodes);
            if differ.is_empty() {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < patience,
                "after {patience:?} {} keys differ: {:#?}",
                differ.len(),
                differ.iter().take(5).collect::<Vec<_>>()
            );
            std::thread::sleep(PATIENCE / 50);
        }
    }

    /// Returns the keys that these nodes do not all hold alike, with what each holds.
    pub(super) fn keys_that_differ(&self, nodes: &[&str]) -> Vec<(String, Held)> {
        let mut differ = Vec::new();
        for table in TABLES {
            let all: Vec<_> = nodes.iter().map(|name| self.table(name, table)).collect();
            let keys: BTreeSet<_> = all.iter().flat_map(BTreeMap::keys).collect();
            for key in keys {
                let held = all.iter().map(|held| held.get(key).cloned());
                let mut held: Vec<_> = nodes
                    .iter()
                    .map(|name| (*name).to_owned())
                    .zip(held)
                    .collect();
                let is_same = |held: &Held| held.iter().all(|(_, content)| *content == held[0].1);
                if is_same(&held) {
                    continue;
                }
                for (name, content) in &mut held {
                    if is_stock(name) && !self.kamailio(name).has(table, key) {
                        *content = None;
                    }
                }
                if !is_same(&held) {
                    differ.push((format!("{table}/{key}"), held));
                }
            }
        }
        differ
    }
}
