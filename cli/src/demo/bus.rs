//! What the routers told each other of calls, as their mirrors showed it.
//!
//! Each request is seen at both ends and kept once; a router that was killed has told what it could.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use control::mirror::v1::body::Kind;
use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::stream_messages_response::Event;
use control::mirror::v1::{
    DialogAction, DialogMessage, Direction, Message, StreamMessagesRequest, StreamMessagesResponse,
    TandemMessage, tandem_message, tandem_record,
};
use tokio::task::JoinHandle;
use tonic::Streaming;

use super::system::System;

/// One KDMQ request that tells of calls.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// When it was first seen, nanoseconds since 1970.
    pub(crate) at: u64,
    /// The router that sent it: 0 or 1. The other one got it.
    pub(crate) from: usize,
    /// Whether a 200 to it was seen.
    pub(crate) answered: bool,
    /// What it tells: `records` of Tandem's, or `update`, `state` or `remove` in Kamailio's words.
    pub(crate) what: &'static str,
    calls: BTreeSet<String>,
}

/// Everything that was told of calls.
#[derive(Debug, Default)]
pub(crate) struct BusTraffic {
    /// By Call-ID of the request itself.
    told: BTreeMap<Vec<u8>, Told>,
    /// Calls by slot and number: of what Kamailio nodes are told, only updates have the Call-ID.
    dialogs: BTreeMap<(u32, u32), String>,
}

impl BusTraffic {
    /// Returns what was told of one call, in its order.
    pub(crate) fn of_call(&self, call_id: &str) -> Vec<&Told> {
        let told = self.told.values();
        let mut told: Vec<_> = told.filter(|told| told.calls.contains(call_id)).collect();
        told.sort_by_key(|told| told.at);
        told
    }

    /// Counts the calls that a router was told of first by `from`, or by any when there is none, and that
    /// it has acknowledged. A Kamailio that is asked for its dialogs tells those of others, too.
    pub(crate) fn calls_told(&self, from: Option<usize>) -> usize {
        let mut first = BTreeMap::<&str, (u64, usize)>::new();
        for told in self.told.values().filter(|told| told.answered) {
            for call in &told.calls {
                let seen = (told.at, told.from);
                let first = first.entry(call).or_insert(seen);
                *first = seen.min(*first);
            }
        }
        let by = |(_, teller): &&(u64, usize)| from.is_none_or(|from| *teller == from);
        first.values().filter(by).count()
    }

    /// Takes a message that one router showed; `routers` are their addresses.
    fn record(&mut self, router: usize, routers: [IpAddr; 2], message: &Message) {
        if message.status != 0 {
            if let Some(told) = self.told.get_mut(&message.kdmq_call_id) {
                told.answered |= message.status == 200;
            }
            return;
        }
        let node = message.node.parse().map(|node: SocketAddr| node.ip());
        if node.ok() != Some(routers[1 - router]) {
            return;
        }
        let Some((what, calls)) = self.read(message) else {
            return;
        };
        let from = match message.direction() {
            Direction::Out => router,
            Direction::In | Direction::Unspecified => 1 - router,
        };
        let told = self.told.entry(message.kdmq_call_id.clone());
        let told = told.or_insert_with(|| Told {
            at: message.at_nanos,
            from,
            answered: false,
            what,
            calls,
        });
        told.at = told.at.min(message.at_nanos);
    }

    /// Returns what a request tells and of which calls; `None` when it is of none.
    fn read(&mut self, message: &Message) -> Option<(&'static str, BTreeSet<String>)> {
        let (what, calls) = match message.body.as_ref()?.kind.as_ref()? {
            Kind::Dialog(dialog) => self.of_dialog(dialog)?,
            Kind::Tandem(message) => ("records", of_records(message)),
            Kind::Unread(_) | Kind::NodeList(_) | Kind::Table(_) => return None,
        };
        (!calls.is_empty()).then_some((what, calls))
    }

    fn of_dialog(&mut self, dialog: &DialogMessage) -> Option<(&'static str, BTreeSet<String>)> {
        let what = match dialog.action() {
            DialogAction::Update => "update",
            DialogAction::State => "state",
            DialogAction::Remove => "remove",
            DialogAction::Unspecified | DialogAction::None | DialogAction::Sync => return None,
        };
        let did = (dialog.h_entry, dialog.h_id);
        if !dialog.call_id.is_empty() {
            self.dialogs.insert(did, text(&dialog.call_id));
        }
        Some((what, self.dialogs.get(&did).cloned().into_iter().collect()))
    }
}

/// Returns the calls that a request on the channel `tandem` has records of.
fn of_records(message: &TandemMessage) -> BTreeSet<String> {
    let Some(tandem_message::Kind::Records(records)) = &message.kind else {
        return BTreeSet::new();
    };
    let kinds = records
        .records
        .iter()
        .filter_map(|record| record.kind.as_ref());
    let calls = kinds.filter_map(|kind| match kind {
        tandem_record::Kind::Dialog(dialog) => Some(text(&dialog.call_id)),
        tandem_record::Kind::TableEntry(_) => None,
    });
    calls.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads the mirrors in the background.
pub(crate) struct BusRecorder {
    traffic: Arc<Mutex<BusTraffic>>,
    /// One for each Tandem router.
    tasks: Vec<(usize, JoinHandle<anyhow::Result<()>>)>,
}

impl BusRecorder {
    pub(crate) async fn start(system: &System) -> anyhow::Result<Self> {
        let traffic = Arc::new(Mutex::new(BusTraffic::default()));
        let addresses = system.routers().map(|address| address.ip());
        let mut tasks = Vec::new();
        for router in system.tandem_routers() {
            let request = StreamMessagesRequest {
                channels: ["tandem", "dialog"].map(str::to_owned).to_vec(),
                ..StreamMessagesRequest::default()
            };
            let mut client = MirrorServiceClient::new(system.router_channel(router).await?);
            let stream = client.stream_messages(request).await;
            let stream = stream.context("watching the bus")?.into_inner();
            let task = tokio::spawn(follow(stream, router, addresses, traffic.clone()));
            tasks.push((router, task));
        }
        Ok(Self { traffic, tasks })
    }

    /// Ends; fails when the mirror of a router ended before, unless that router was killed.
    pub(crate) fn finish(self, killed: Option<usize>) -> anyhow::Result<BusTraffic> {
        for (router, task) in self.tasks {
            if task.is_finished() && Some(router) != killed {
                bail!("a mirror of the bus ended early: replication cannot be followed");
            }
            task.abort();
        }
        Ok(std::mem::take(
            &mut *self.traffic.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

async fn follow(
    mut stream: Streaming<StreamMessagesResponse>,
    router: usize,
    routers: [IpAddr; 2],
    traffic: Arc<Mutex<BusTraffic>>,
) -> anyhow::Result<()> {
    while let Some(response) = stream.message().await? {
        match response.event {
            Some(Event::Message(message)) => {
                let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
                traffic.record(router, routers, &message);
            }
            Some(Event::Cut(cut)) => bail!(
                "the mirror was cut ({:?}); {} messages were missed",
                cut.reason(),
                cut.missed
            ),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use control::mirror::v1::Body;

    use super::*;

    fn update(action: DialogAction, call_id: &str) -> Body {
        let kind = Kind::Dialog(DialogMessage {
            action: action.into(),
            h_entry: 3,
            h_id: 7,
            call_id: call_id.into(),
            ..DialogMessage::default()
        });
        Body { kind: Some(kind) }
    }

    #[test]
    fn a_request_seen_at_both_ends_counts_once_and_when_it_is_answered() {
        let routers = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let nodes = ["192.0.2.1:5062", "192.0.2.2:5062"];
        let seen = |at, id: &str, router: usize, direction: Direction, status, body| Message {
            at_nanos: at,
            direction: direction.into(),
            node: nodes[1 - router].to_owned(),
            status,
            channel: "dialog".to_owned(),
            kdmq_call_id: id.into(),
            body,
            ..Message::default()
        };
        let mut traffic = BusTraffic::default();
        let told = Some(update(DialogAction::Update, "a"));
        traffic.record(1, routers, &seen(5, "x", 1, Direction::In, 0, told.clone()));
        traffic.record(0, routers, &seen(4, "x", 0, Direction::Out, 0, told));
        assert_eq!(traffic.calls_told(None), 0);
        traffic.record(0, routers, &seen(6, "x", 0, Direction::In, 200, None));
        // Kamailio tells the Call-ID with an update only.
        let state = Some(update(DialogAction::State, ""));
        traffic.record(0, routers, &seen(7, "y", 0, Direction::In, 0, state));
        let of_call: Vec<_> = traffic
            .of_call("a")
            .iter()
            .map(|told| (told.at, told.from, told.what, told.answered))
            .collect();
        assert_eq!(of_call, [(4, 0, "update", true), (7, 1, "state", false)]);
        assert_eq!(traffic.calls_told(None), 1);
        // It was asked for everything.
        let again = Some(update(DialogAction::Update, "a"));
        traffic.record(0, routers, &seen(8, "z", 1, Direction::In, 0, again));
        traffic.record(1, routers, &seen(9, "z", 1, Direction::Out, 200, None));
        assert_eq!(traffic.calls_told(Some(0)), 1);
        assert_eq!(traffic.calls_told(Some(1)), 0);
    }
}
