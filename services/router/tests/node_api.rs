//! What a router shows of its cell and its bus over gRPC, with a registry and a Kamailio beside it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use control::mirror::v1::body::Kind;
use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::stream_messages_response::Event as Heard;
use control::mirror::v1::{
    CutReason, DialogAction, DialogMessage as ShownDialog, Direction, ListNodesRequest, NodeKind,
    NodeState, StreamMessagesRequest, tandem_message, tandem_record,
};
use control::registry::v1::cell_service_client::CellServiceClient;
use control::registry::v1::status_service_client::StatusServiceClient as RegistryStatus;
use control::registry::v1::table_definition_service_client::TableDefinitionServiceClient;
use control::registry::v1::{
    Cell, CreateTableDefinitionRequest, ListNodeStatusesRequest, TableDefinition, UpdateCellRequest,
};
use control::router::v1::delete_matching_table_entries_request::Pattern;
use control::router::v1::dialog_service_client::DialogServiceClient;
use control::router::v1::replication_service_client::ReplicationServiceClient;
use control::router::v1::table_entry::Value;
use control::router::v1::table_entry_service_client::TableEntryServiceClient;
use control::router::v1::watch_dialogs_response::Event as DialogEvent;
use control::router::v1::watch_table_entries_response::Event as EntryEvent;
use control::router::v1::{
    DeleteMatchingTableEntriesRequest, DeleteTableEntryRequest, DialogState, FlushTableRequest,
    GetDialogRequest, GetReplicationStatusRequest, GetTableEntryRequest, ListDialogsRequest,
    ListTableEntriesRequest, RepairStockNodesRequest, SetTableEntryRequest, TableEntry,
    VerifyReplicaRequest, WatchDialogsRequest, WatchTableEntriesRequest,
};
use control::shutdown::Shutdown;
use dmq_bodies::{
    Change, DialogDialect, DialogMessage, Did, Leg, Remove, StateChange, Timing, Update, slot,
};
use tandem_router::Router;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;
use workbench::process::{PATIENCE, connect, settings, start_node, start_registry};

/// How many slots the dialog hash of a cell has that nobody has described.
const HASH_SIZE: u32 = 4096;

/// A registry and a router in this process, and a Kamailio played by the test.
struct Fabric {
    net: u8,
    router: Channel,
    kamailio: Kamailio,
    shutdown: Shutdown,
    _directory: TempDir,
}

impl Fabric {
    /// Starts it on addresses that only this test uses.
    async fn start(net: u8) -> Self {
        let at = |host: u8| format!("127.9.{net}.{host}");
        let directory = TempDir::new().unwrap();
        let shutdown = Shutdown::new();
        let registry = start_registry(&at(1), directory.path(), &shutdown).await;
        define_table(registry).await;

        let kamailio = Kamailio::start(&at(40), &at(31));
        let flags = [
            ("--node", "router-1"),
            ("--address", &at(31)),
            ("--registry", &format!("{}:7400", at(1))),
            ("--dmq-allow", &at(40)),
            ("--sip-allow", &at(40)),
            ("--workers", "1"),
            ("--drain-timeout", "1s"),
        ];
        let config = settings::<Router>(directory.path(), &flags);
        let fabric = Self {
            net,
            router: start_node::<Router>(config, &shutdown).await,
            kamailio,
            shutdown,
            _directory: directory,
        };
        fabric.on_bus().await;
        fabric
    }

    /// Waits until the router is on the bus and has found out that the other node is a Kamailio.
    async fn on_bus(&self) {
        let own = self.kamailio.own;
        let list = format!("sip:{own};status=active\r\n");
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.kamailio
                .tell("notification_peer", "text/plain", list.as_bytes());
            let mut mirror = MirrorServiceClient::new(self.router.clone());
            let nodes = mirror.list_nodes(ListNodesRequest {}).await;
            let nodes = nodes.map(|answer| answer.into_inner().nodes);
            if let Ok([node]) = nodes.as_deref()
                && node.state() == NodeState::Active
                && node.kind() == NodeKind::Stock
            {
                assert_eq!(node.address, own.to_string());
                assert!(node.received > 0 && node.last_heard.is_some());
                return;
            }
            assert!(Instant::now() < deadline, "{nodes:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn define_table(registry: Channel) {
    let definition = TableDefinition {
        name: "tables/bans".into(),
        autoexpire: Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        ..TableDefinition::default()
    };
    let request = CreateTableDefinitionRequest {
        table_definition: Some(definition),
        ..CreateTableDefinitionRequest::default()
    };
    let mut client = TableDefinitionServiceClient::new(registry);
    client.create_table_definition(request).await.unwrap();
}

/// A Kamailio: says 200 to everything but the channel that it does not know.
struct Kamailio {
    socket: UdpSocket,
    own: SocketAddr,
    bus: SocketAddr,
    answers: mpsc::Receiver<u16>,
    sent: std::cell::Cell<u32>,
}

impl Kamailio {
    fn start(own: &str, router: &str) -> Self {
        let own: SocketAddr = format!("{own}:5060").parse().unwrap();
        let socket = UdpSocket::bind(own).unwrap();
        let (answered, answers) = mpsc::channel();
        let listening = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = listening.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if let Some(status) = text.strip_prefix("SIP/2.0 ") {
                    let _test_over = answered.send(status[..3].parse().unwrap());
                } else {
                    let _router_gone = listening.send_to(reply(&text).as_bytes(), from);
                }
            }
        });
        Self {
            socket,
            own,
            bus: format!("{router}:5062").parse().unwrap(),
            answers,
            sent: Default::default(),
        }
    }

    /// Sends a KDMQ request and waits for its final status.
    fn tell(&self, channel: &str, content: &str, body: &[u8]) -> Option<u16> {
        let Self { own, bus, .. } = self;
        let number = self.sent.replace(self.sent.get() + 1);
        let mut request = format!(
            "KDMQ sip:{channel}@{bus} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKk{number}\r\n\
             To: <sip:{channel}@{bus}>\r\nFrom: <sip:{channel}@{own}>;tag=t{number}\r\n\
             CSeq: 10 KDMQ\r\nCall-ID: {number}@k\r\nContent-Length: {}\r\nMax-Forwards: 1\r\n\
             Content-Type: {content}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.socket.send_to(&request, bus).unwrap();
        self.answers.recv_timeout(Duration::from_secs(1)).ok()
    }

    fn say_dialog(&self, message: &DialogMessage) -> Option<u16> {
        let dialect = DialogDialect {
            last_modified: false,
        };
        let body = message.encode(dialect).unwrap();
        self.tell("dialog", "application/json", &body)
    }

    fn tell_dialog(&self, message: &DialogMessage) {
        assert_eq!(self.say_dialog(message), Some(200));
    }
}

fn reply(request: &str) -> String {
    let status = match request.starts_with("KDMQ sip:tandem@") {
        true => "404 User Not Found",
        false => "200 OK",
    };
    let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines = request.lines().take_while(|line| !line.is_empty());
    let copied: String = lines
        .filter(|line| names.iter().any(|name| line.starts_with(name)))
        .map(|line| match line.starts_with("To:") {
            true => format!("{line};tag=k\r\n"),
            false => format!("{line}\r\n"),
        })
        .collect();
    format!("SIP/2.0 {status}\r\n{copied}Content-Length: 0\r\n\r\n")
}

fn update(call_id: &str, h_id: u32) -> DialogMessage {
    let leg = |tag: &'static str| Leg {
        tag: tag.into(),
        cseq: "1".into(),
        route_set: Bytes::new(),
        contact: "sip:a@192.0.2.1".into(),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    DialogMessage::Update(Box::new(Update {
        did: Did {
            h_entry: slot(call_id.as_bytes(), HASH_SIZE),
            h_id,
        },
        last_modified: None,
        init_ts: now,
        iflags: None,
        call_id: Bytes::copy_from_slice(call_id.as_bytes()),
        from_uri: "sip:a@example.com".into(),
        to_uri: "sip:b@example.com".into(),
        request_uri: "sip:b@example.com".into(),
        caller: leg("a"),
        callee: Some(leg("b")),
        variables: vec![("color".into(), "red".into())],
        profiles: vec![],
        state: dmq_bodies::DialogState::Confirmed,
        timing: Timing {
            start_ts: Some(now),
            lifetime: Some(3600),
        },
    }))
}

fn confirmed(did: Did) -> DialogMessage {
    DialogMessage::State(Box::new(StateChange {
        did,
        last_modified: None,
        change: Change::Confirmed {
            timing: Timing {
                start_ts: Some(1),
                lifetime: Some(3600),
            },
            caller: None,
            callee: None,
        },
    }))
}

/// Returns what a message of channel `dialog` says.
fn dialog_of(event: Option<Heard>) -> ShownDialog {
    let Some(Heard::Message(message)) = event else {
        panic!("{event:?}");
    };
    match message.body.unwrap().kind {
        Some(Kind::Dialog(dialog)) => dialog,
        kind => panic!("{kind:?}"),
    }
}

async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    let message = timeout(PATIENCE, stream.message()).await;
    let message = message.expect("nothing more came").unwrap();
    message.expect("the stream ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn dialogs_are_listed_page_by_page_and_watched() {
    let fabric = Fabric::start(1).await;
    let mut dialogs = DialogServiceClient::new(fabric.router.clone());
    let call_id = b"call-3@k".to_vec();
    let mut watch = dialogs
        .watch_dialogs(WatchDialogsRequest {
            call_id: call_id.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    for number in 0..7 {
        let call_id = format!("call-{number}@k");
        fabric.kamailio.tell_dialog(&update(&call_id, 100 + number));
    }
    let Some(DialogEvent::Dialog(seen)) = next(&mut watch).await.event else {
        panic!("cut");
    };
    assert_eq!(seen.call_id, call_id);
    assert_eq!(seen.state(), DialogState::Confirmed);

    let mut listed = Vec::new();
    let mut request = ListDialogsRequest {
        page_size: 2,
        ..ListDialogsRequest::default()
    };
    loop {
        let page = dialogs.list_dialogs(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.dialogs.len() <= 2);
        listed.extend(page.dialogs.into_iter().map(|dialog| dialog.h_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    listed.sort_unstable();
    assert_eq!(listed, (100..107).collect::<Vec<_>>());

    let request = ListDialogsRequest {
        call_id: call_id.clone(),
        ..ListDialogsRequest::default()
    };
    let found = dialogs.list_dialogs(request).await.unwrap().into_inner();
    let [dialog] = &found.dialogs[..] else {
        panic!("{found:?}");
    };
    let h_entry = slot(&call_id, HASH_SIZE);
    assert_eq!(dialog.name, format!("dialogs/{h_entry}.103"));
    assert_eq!(dialog.owner, fabric.kamailio.own.to_string());
    assert_eq!(
        (dialog.epoch, &dialog.variables[0].value[..]),
        (0, &b"red"[..])
    );
    let name = dialog.name.clone();
    let got = dialogs.get_dialog(GetDialogRequest { name }).await.unwrap();
    assert_eq!(got.into_inner().call_id, call_id);
    let name = format!("dialogs/{h_entry}.9");
    let missing = dialogs.get_dialog(GetDialogRequest { name }).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);

    let mut health = ReplicationServiceClient::new(fabric.router.clone());
    let status = health.get_replication_status(GetReplicationStatusRequest {});
    let status = status.await.unwrap().into_inner();
    assert_eq!((status.dialogs, status.nodes_active), (7, 1));
    let verified = health
        .verify_replica(VerifyReplicaRequest {})
        .await
        .unwrap();
    let verified = verified.into_inner();
    assert_eq!((verified.records, verified.wrong_partitions), (7, vec![]));
    let own = fabric.kamailio.own.to_string();
    for node in ["", &own] {
        let node = node.to_owned();
        let repairs = health.repair_stock_nodes(RepairStockNodesRequest { node });
        let repairs = repairs.await.unwrap().into_inner().repairs;
        let asked: Vec<_> = repairs.iter().map(|repair| &*repair.address).collect();
        assert_eq!(asked, [&own]);
    }
    for (node, code) in [
        ("nobody", Code::InvalidArgument),
        ("127.0.0.1:9", Code::NotFound),
    ] {
        let node = node.to_owned();
        let refused = health.repair_stock_nodes(RepairStockNodesRequest { node });
        assert_eq!(refused.await.unwrap_err().code(), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_written_read_and_watched() {
    let fabric = Fabric::start(2).await;
    let mut tables = TableEntryServiceClient::new(fabric.router.clone());
    let parent = "tables/bans".to_owned();
    let mut watch = tables
        .watch_table_entries(WatchTableEntriesRequest {
            parent: parent.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    let set = |key: &str, value, ttl: Option<i64>| SetTableEntryRequest {
        table_entry: Some(TableEntry {
            table: "bans".into(),
            key: key.into(),
            value: Some(value),
            ..TableEntry::default()
        }),
        ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    };
    let written = tables.set_table_entry(set("k/\u{fc}", Value::Number(-7), Some(60)));
    let written = written.await.unwrap().into_inner();
    assert!(written.remaining.unwrap().seconds <= 60);
    let Some(EntryEvent::TableEntry(seen)) = next(&mut watch).await.event else {
        panic!("cut");
    };
    assert_eq!(seen.value, Some(Value::Number(-7)));

    let name = written.name.clone();
    let got = tables.get_table_entry(GetTableEntryRequest { name });
    assert_eq!(got.await.unwrap().into_inner().key, "k/\u{fc}".as_bytes());
    for key in ["a", "b", "c"] {
        let text = Value::Text(key.into());
        tables.set_table_entry(set(key, text, None)).await.unwrap();
    }
    let mut keys = Vec::new();
    let mut request = ListTableEntriesRequest {
        parent: parent.clone(),
        page_size: 3,
        ..ListTableEntriesRequest::default()
    };
    loop {
        let page = tables.list_table_entries(request.clone()).await.unwrap();
        let page = page.into_inner();
        keys.extend(page.table_entries.into_iter().map(|entry| entry.key));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, [&b"a"[..], b"b", b"c", "k/\u{fc}".as_bytes()]);

    let deletion = |name: &String| DeleteTableEntryRequest { name: name.clone() };
    for existed in [true, false] {
        let deleted = tables.delete_table_entry(deletion(&written.name)).await;
        assert_eq!(deleted.unwrap().into_inner().existed, existed);
    }
    let gone = loop {
        let Some(EntryEvent::TableEntry(seen)) = next(&mut watch).await.event else {
            panic!("cut");
        };
        if seen.name == written.name {
            break seen;
        }
    };
    assert_eq!(gone.value, None);
    let matching = DeleteMatchingTableEntriesRequest {
        parent: parent.clone(),
        pattern: Some(Pattern::Regex(b"^[ab]$".to_vec())),
        ..DeleteMatchingTableEntriesRequest::default()
    };
    let deleted = tables.delete_matching_table_entries(matching).await;
    assert_eq!(deleted.unwrap().into_inner().deleted, 2);
    // More than are looked at while the router is locked once.
    const MANY: u64 = 600;
    for n in 0..MANY {
        let many = set(&format!("m{n}"), Value::Number(1), None);
        tables.set_table_entry(many).await.unwrap();
    }
    let even = DeleteMatchingTableEntriesRequest {
        parent: parent.clone(),
        pattern: Some(Pattern::Regex(b"[02468]$".to_vec())),
        ..DeleteMatchingTableEntriesRequest::default()
    };
    let deleted = tables.delete_matching_table_entries(even).await;
    assert_eq!(deleted.unwrap().into_inner().deleted, MANY / 2);
    for left in [MANY / 2 + 1, 0] {
        let parent = parent.clone();
        let flushed = tables.flush_table(FlushTableRequest { parent }).await;
        assert_eq!(flushed.unwrap().into_inner().deleted, left);
    }

    let mut unknown = set("k", Value::Number(1), None);
    unknown.table_entry.as_mut().unwrap().table = "none".into();
    let refused = tables.set_table_entry(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_shows_what_is_said_by_channel_and_call() {
    let fabric = Fabric::start(3).await;
    let mut mirror = MirrorServiceClient::new(fabric.router.clone());
    let stream = |channel: &str, call_id: &str| {
        let request = StreamMessagesRequest {
            channels: vec![channel.into()],
            node: fabric.kamailio.own.to_string(),
            call_id: call_id.into(),
            ..StreamMessagesRequest::default()
        };
        let mut mirror = mirror.clone();
        async move { mirror.stream_messages(request).await.unwrap().into_inner() }
    };
    let mut all = stream("dialog", "").await;
    let mut one = stream("dialog", "two@k").await;
    fabric.kamailio.tell_dialog(&update("one@k", 1));
    fabric.kamailio.tell_dialog(&update("two@k", 2));
    for call_id in ["one@k", "two@k"] {
        let Some(Heard::Message(request)) = next(&mut all).await.event else {
            panic!("cut");
        };
        assert_eq!(request.direction(), Direction::In);
        assert_eq!((request.status, request.max_forwards), (0, Some(1)));
        assert!(request.raw.starts_with(b"KDMQ sip:dialog@"));
        let Some(Kind::Dialog(dialog)) = request.body.unwrap().kind else {
            panic!("no dialog");
        };
        assert_eq!(dialog.action(), DialogAction::Update);
        assert_eq!(dialog.call_id, call_id.as_bytes());
        let Some(Heard::Message(response)) = next(&mut all).await.event else {
            panic!("cut");
        };
        assert_eq!(response.direction(), Direction::Out);
        assert_eq!((response.status, &*response.channel), (200, "dialog"));
        assert_eq!(response.kdmq_call_id, request.kdmq_call_id);
    }
    let Some(Heard::Message(request)) = next(&mut one).await.event else {
        panic!("cut");
    };
    assert!(request.raw.windows(5).any(|part| part == b"two@k"));

    let did = |h_entry, h_id| Did { h_entry, h_id };
    let slot_of = |call_id: &[u8]| slot(call_id, HASH_SIZE);
    // Of a dialog that nobody knows, of another one, and of the one that is looked at: they have numbers only.
    let dids = [
        did(slot_of(b"two@k"), 9),
        did(slot_of(b"one@k"), 1),
        did(slot_of(b"two@k"), 2),
    ];
    let removal = |did| {
        DialogMessage::Remove(Remove {
            did,
            last_modified: None,
        })
    };
    for message in dids.map(confirmed).into_iter().chain(dids.map(removal)) {
        assert!(fabric.kamailio.say_dialog(&message).is_some());
    }
    for action in [DialogAction::State, DialogAction::Remove] {
        let seen = dialog_of(next(&mut one).await.event);
        assert_eq!((seen.action(), seen.h_id), (action, 2));
        assert_eq!(seen.call_id, b"two@k");
    }
    let mut shown = Vec::new();
    while shown.len() < 6 {
        let event = next(&mut all).await.event;
        if matches!(&event, Some(Heard::Message(message)) if message.status == 0) {
            shown.push(String::from_utf8(dialog_of(event).call_id).unwrap());
        }
    }
    assert_eq!(shown, ["", "one@k", "two@k", "", "one@k", "two@k"]);

    let bad = StreamMessagesRequest {
        node: "k.example.com".into(),
        ..StreamMessagesRequest::default()
    };
    let refused = mirror.stream_messages(bad).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_shows_what_routers_say_among_themselves() {
    let fabric = Fabric::start(7).await;
    let request = StreamMessagesRequest {
        channels: vec!["tandem".into()],
        table: "bans".into(),
        ..StreamMessagesRequest::default()
    };
    let mut mirror = MirrorServiceClient::new(fabric.router.clone());
    let mut heard = mirror.stream_messages(request).await.unwrap().into_inner();
    // Schema 1, a hello without content; then an entry: table "bans", key "k", text "v".
    let status = fabric
        .kamailio
        .tell("tandem", "application/octet-stream", &[8, 1, 18, 0]);
    assert_eq!(status, Some(200));
    let entry = b"\x08\x01\x1a\x10\x0a\x0e\x12\x0c\x0a\x04bans\x12\x01k\x32\x01v";
    let status = fabric
        .kamailio
        .tell("tandem", "application/octet-stream", entry);
    assert_eq!(status, Some(200));
    let Some(Heard::Message(message)) = next(&mut heard).await.event else {
        panic!("cut");
    };
    let Some(Kind::Tandem(said)) = message.body.unwrap().kind else {
        panic!("not typed");
    };
    let Some(tandem_message::Kind::Records(records)) = said.kind else {
        panic!("no records: {said:?}");
    };
    let Some(tandem_record::Kind::TableEntry(entry)) = &records.records[0].kind else {
        panic!("no entry: {records:?}");
    };
    assert_eq!((&*entry.table, &*entry.key), ("bans", &b"k"[..]));
    assert_eq!(entry.value, Some(Value::Text(b"v".to_vec())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_the_mirror_is_cut_and_sip_goes_on() {
    const REQUESTS: u64 = 1200;
    let fabric = Fabric::start(4).await;
    let mut mirror = MirrorServiceClient::new(fabric.router.clone());
    let request = StreamMessagesRequest {
        channels: vec!["bulk".into()],
        ..StreamMessagesRequest::default()
    };
    let mut slow = mirror.stream_messages(request).await.unwrap().into_inner();
    let body = vec![b'x'; 50_000];
    for _ in 0..REQUESTS {
        // Nobody reads meanwhile; every request is answered all the same.
        let status = fabric.kamailio.tell("bulk", "text/plain", &body);
        assert_eq!(status, Some(404));
    }
    assert!(answers_options(fabric.net));
    let mut shown = 0;
    let cut = loop {
        match next(&mut slow).await.event.unwrap() {
            Heard::Message(_) => shown += 1,
            Heard::Cut(cut) => break cut,
        }
    };
    assert_eq!(cut.reason(), CutReason::SlowReader);
    assert!(shown > 100 && cut.missed > 100, "{shown} {cut:?}");
    assert_eq!(shown + cut.missed, 2 * REQUESTS, "requests and replies");
    assert!(slow.message().await.unwrap().is_none(), "the cut is last");
}

fn answers_options(net: u8) -> bool {
    let own = format!("127.9.{net}.40:5070");
    let socket = UdpSocket::bind(&own).unwrap();
    let options = format!(
        "OPTIONS sip:127.9.{net}.31:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKo\r\n\
         Max-Forwards: 0\r\nFrom: <sip:k@k>;tag=k\r\nTo: <sip:r@r>\r\nCall-ID: o@k\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    let router = format!("127.9.{net}.31:5060");
    socket.send_to(options.as_bytes(), router).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).is_ok()
}

#[tokio::test]
async fn the_registry_says_what_of_a_cell_counts_only_after_a_restart() {
    let fabric = Fabric::start(8).await;
    let registry = connect(&format!("127.9.{}.1:7400", fabric.net)).await;
    let says = async |wanted: &[&str]| {
        let mut client = RegistryStatus::new(registry.clone());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let statuses = client.list_node_statuses(ListNodeStatusesRequest::default());
            let statuses = statuses.await.unwrap().into_inner().node_statuses;
            let mut statuses = statuses.into_iter();
            let router = statuses.find(|status| status.node == "members/router-1");
            let needed = router.unwrap_or_default().restart_needed;
            if needed == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "wanted {wanted:?}, not {needed:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    };
    let mut cells = CellServiceClient::new(registry.clone());
    for (hash_size, needed) in [(128, &["hash_size 128"][..]), (HASH_SIZE, &[])] {
        let cell = Cell {
            name: "cells/default".into(),
            hash_size: Some(hash_size),
            ..Cell::default()
        };
        let request = UpdateCellRequest {
            cell: Some(cell),
            allow_missing: true,
            ..UpdateCellRequest::default()
        };
        cells.update_cell(request).await.unwrap();
        says(needed).await;
    }
}
