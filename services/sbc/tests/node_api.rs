//! What an SBC shows of itself over gRPC, and takes from an operator, with a registry beside it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::net::UdpSocket;
use std::time::Duration;

use control::node::v1::node_service_client::NodeServiceClient;
use control::node::v1::{DrainRequest, DrainSource, UndrainRequest};
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::status_service_client::StatusServiceClient as RegistryStatus;
use control::registry::v1::{
    DrainMemberRequest, ListNodeStatusesRequest, Member, MemberKind, NodeStatus, SipEndpoint,
    UndrainMemberRequest, UpdateMemberRequest,
};
use control::sbc::v1::dialog_service_client::DialogServiceClient;
use control::sbc::v1::status_service_client::StatusServiceClient;
use control::sbc::v1::{
    Dialog, DialogState, GetDialogRequest, GetStatusRequest, ListDialogsRequest,
};
use control::shutdown::Shutdown;
use tandem_sbc::Sbc;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic::transport::Channel;
use workbench::process::{PATIENCE, settings, start_node, start_registry};

/// A registry and an SBC in this process; the carrier and the only router are the test's.
struct Fabric {
    registry: Channel,
    sbc: Channel,
    carrier: UdpSocket,
    router: UdpSocket,
    sbc_sip: String,
    shutdown: Shutdown,
    /// Of the SBC alone, as SIGTERM does.
    sbc_shutdown: Shutdown,
    _directory: TempDir,
}

impl Fabric {
    /// Starts it on addresses that only this test uses.
    async fn start(net: u8) -> Self {
        let at = |host: u8| format!("127.12.{net}.{host}");
        let directory = TempDir::new().unwrap();
        let shutdown = Shutdown::new();
        let registry = start_registry(&at(1), directory.path(), &shutdown).await;
        add_router(registry.clone(), &at(31)).await;

        let flags = [
            ("--node", "sbc-1"),
            ("--address", &at(20)),
            ("--registry", &format!("{}:7400", at(1))),
            ("--sip-allow", &at(10)),
            ("--workers", "1"),
            ("--drain-timeout", "2s"),
        ];
        let config = settings::<Sbc>(directory.path(), &flags);
        let sbc_shutdown = Shutdown::new();
        Self {
            registry,
            sbc: start_node::<Sbc>(config, &sbc_shutdown).await,
            carrier: socket(&at(10)),
            router: socket(&at(31)),
            sbc_sip: format!("{}:5060", at(20)),
            shutdown,
            sbc_shutdown,
            _directory: directory,
        }
    }

    /// Places a call that the router answers by itself; the first 503s are of an SBC that has not heard
    /// of the router yet.
    async fn call(&self, call_id: &str) {
        let carrier = self.carrier.local_addr().unwrap();
        let deadline = Instant::now() + PATIENCE;
        for attempt in 0.. {
            let invite = format!(
                "INVITE sip:1@{} SIP/2.0\r\nVia: SIP/2.0/UDP {carrier};branch=z9hG4bK{call_id}{attempt}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:a@a>;tag=caller\r\nTo: <sip:b@b>\r\nCall-ID: {call_id}\r\n\
                 CSeq: 1 INVITE\r\nContact: <sip:a@{carrier}>\r\nContent-Length: 0\r\n\r\n",
                self.sbc_sip
            );
            self.carrier
                .send_to(invite.as_bytes(), &self.sbc_sip)
                .unwrap();
            let until = Instant::now() + Duration::from_millis(500);
            while Instant::now() < until {
                self.answer_as_router();
                let said = receive(&self.carrier);
                if said.is_some_and(|text| text.starts_with("SIP/2.0 200")) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
            assert!(Instant::now() < deadline, "{call_id} is not answered");
        }
    }

    /// Says 200 to whatever the router is asked.
    fn answer_as_router(&self) {
        while let Some(request) = receive(&self.router) {
            if request.starts_with("ACK") || request.starts_with("SIP/2.0") {
                continue;
            }
            let names = ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"];
            let lines = request.lines();
            let kept = lines.filter(|line| names.iter().any(|name| line.starts_with(name)));
            let kept = kept.map(
                |line| match line.starts_with("To:") && !line.contains("tag=") {
                    true => format!("{line};tag=callee\r\n"),
                    false => format!("{line}\r\n"),
                },
            );
            let kept: String = kept.collect();
            let own = self.router.local_addr().unwrap();
            let answer = format!(
                "SIP/2.0 200 OK\r\n{kept}Contact: <sip:b@{own}>\r\nContent-Length: 0\r\n\r\n"
            );
            self.router
                .send_to(answer.as_bytes(), &self.sbc_sip)
                .unwrap();
        }
    }

    async fn list(&self, request: ListDialogsRequest) -> (Vec<Dialog>, String) {
        let mut client = DialogServiceClient::new(self.sbc.clone());
        let answer = client.list_dialogs(request).await.unwrap().into_inner();
        (answer.dialogs, answer.next_page_token)
    }

    /// Waits until SBC and registry say that these want it drained.
    async fn drained_by(&self, wanted: &[DrainSource]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut sbc = StatusServiceClient::new(self.sbc.clone());
            let status = sbc.get_status(GetStatusRequest {}).await.unwrap();
            let status = status.into_inner();
            assert_eq!(status.draining, !status.drained_by.is_empty());
            let node = self.node_status().await;
            let at_node: Vec<_> = status.drained_by().collect();
            let at_registry: Vec<_> = node.drained_by().collect();
            if at_node == wanted && at_registry == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "wanted {wanted:?}; the SBC says {at_node:?}, the registry {at_registry:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn node_status(&self) -> NodeStatus {
        let mut registry = RegistryStatus::new(self.registry.clone());
        let statuses = registry
            .list_node_statuses(ListNodeStatusesRequest::default())
            .await;
        let statuses = statuses.unwrap().into_inner().node_statuses;
        let mut statuses = statuses.into_iter();
        let sbc = statuses.find(|status| status.node == "members/sbc-1");
        sbc.unwrap_or_default()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.sbc_shutdown.cancel();
        self.shutdown.cancel();
    }
}

async fn add_router(registry: Channel, address: &str) {
    let member = Member {
        name: "members/router-1".into(),
        kind: MemberKind::StockRouter.into(),
        address: address.into(),
        sip: vec![SipEndpoint {
            side: 0,
            address: format!("{address}:5060"),
        }],
        ..Member::default()
    };
    let request = UpdateMemberRequest {
        member: Some(member),
        allow_missing: true,
        ..UpdateMemberRequest::default()
    };
    let mut client = MemberServiceClient::new(registry);
    client.update_member(request).await.unwrap();
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(format!("{address}:5060")).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 65_535];
    let (size, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

#[tokio::test]
async fn dialogs_are_listed_page_by_page_and_found_by_call_id_and_name() {
    let fabric = Fabric::start(1).await;
    for call_id in ["one", "two", "three"] {
        fabric.call(call_id).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDialogsRequest {
            page_size: 1,
            page_token,
            ..ListDialogsRequest::default()
        };
        let (dialogs, next) = fabric.list(request).await;
        assert!(dialogs.len() <= 1);
        seen.extend(dialogs);
        page_token = next;
        if page_token.is_empty() {
            break;
        }
    }
    let mut call_ids: Vec<_> = seen.iter().map(|dialog| dialog.call_id.clone()).collect();
    call_ids.sort();
    assert_eq!(call_ids, [&b"one"[..], b"three", b"two"]);

    let request = ListDialogsRequest {
        call_id: b"two".to_vec(),
        ..ListDialogsRequest::default()
    };
    let (found, next) = fabric.list(request).await;
    assert_eq!((found.len(), next.as_str()), (1, ""));
    let two = &found[0];
    assert_eq!(two.state(), DialogState::Confirmed);
    assert_eq!(
        (&two.caller_tag[..], &two.callee_tag[..]),
        (&b"caller"[..], &b"callee"[..])
    );
    assert!(two.create_time.unwrap().seconds < two.expire_time.unwrap().seconds);

    let mut client = DialogServiceClient::new(fabric.sbc.clone());
    let name = two.name.clone();
    let same = client.get_dialog(GetDialogRequest { name }).await.unwrap();
    assert_eq!(same.into_inner().call_id, two.call_id);
    for (name, code) in [
        ("dialogs/0.1", Code::NotFound),
        ("dialogs/9999.1", Code::NotFound),
        ("dialogs/x", Code::InvalidArgument),
    ] {
        let name = name.to_owned();
        let refused = client.get_dialog(GetDialogRequest { name }).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    let request = ListDialogsRequest {
        page_token: "never".into(),
        ..ListDialogsRequest::default()
    };
    let refused = client.list_dialogs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn everybody_sees_who_drains_a_node_and_each_lifts_only_what_it_set() {
    let fabric = Fabric::start(2).await;
    fabric.drained_by(&[]).await;
    let mut node = NodeServiceClient::new(fabric.sbc.clone());
    let mut members = MemberServiceClient::new(fabric.registry.clone());
    let name = "members/sbc-1".to_owned();

    let request = DrainRequest { name: name.clone() };
    let drained = node.drain(request).await.unwrap().into_inner();
    assert_eq!(
        drained.drained_by().collect::<Vec<_>>(),
        [DrainSource::Node]
    );
    fabric.drained_by(&[DrainSource::Node]).await;
    let request = DrainMemberRequest {
        name: name.clone(),
        ..DrainMemberRequest::default()
    };
    members.drain_member(request).await.unwrap();
    let both = [DrainSource::Registry, DrainSource::Node];
    fabric.drained_by(&both).await;

    let request = UndrainMemberRequest {
        name: name.clone(),
        ..UndrainMemberRequest::default()
    };
    members.undrain_member(request).await.unwrap();
    fabric.drained_by(&[DrainSource::Node]).await;
    let request = UndrainRequest { name: name.clone() };
    node.undrain(request).await.unwrap();
    fabric.drained_by(&[]).await;

    let name = "members/sbc-2".to_owned();
    let refused = node.drain(DrainRequest { name }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn a_node_that_a_signal_ends_is_seen_to_drain() {
    let fabric = Fabric::start(3).await;
    fabric.call("held").await;
    fabric.drained_by(&[]).await;
    fabric.sbc_shutdown.cancel();
    fabric.drained_by(&[DrainSource::Signal]).await;
}
