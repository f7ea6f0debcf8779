//! A registry in this process, with its store in a directory of its own.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control::client::{NodeConfig, NodeSession};
use control::registry::v1::destination_set_service_client::DestinationSetServiceClient;
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::status_service_client::StatusServiceClient;
use control::registry::v1::{
    ConfigStatus, DestinationSet, GetConfigStatusRequest, ListNodeStatusesRequest, NodeStatus,
    UpdateDestinationSetRequest,
};
use control::shutdown::Shutdown;
use control::view::{self, Liveness, Side, SipEndpoint, View};
use tandem_registry::Config;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

pub(crate) struct Running {
    pub(crate) config: Config,
    pub(crate) directory: TempDir,
    shutdown: Shutdown,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Starts a registry at an address that only this test uses.
pub(crate) async fn registry(address: &str) -> Running {
    registry_with(Config::at(address.parse::<IpAddr>().unwrap())).await
}

/// Starts a registry with these settings.
pub(crate) async fn registry_with(mut config: Config) -> Running {
    let directory = TempDir::new().unwrap();
    config.state_dir = directory.path().join("state");
    let mut registry = Running {
        config,
        directory,
        shutdown: Shutdown::new(),
        task: None,
    };
    registry.start().await;
    registry
}

impl Running {
    pub(crate) async fn start(&mut self) {
        self.shutdown = Shutdown::new();
        self.task = Some(tokio::spawn(tandem_registry::run(
            self.config.clone(),
            self.shutdown.clone(),
        )));
        self.listens().await;
    }

    async fn listens(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = tokio::net::TcpStream::connect(self.address()).await {
            assert!(Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the registry as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    /// Stops the registry and starts it again on the same store.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.config.grpc_listen
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) async fn status(&self) -> ConfigStatus {
        let mut client = StatusServiceClient::new(self.channel().await);
        client
            .get_config_status(GetConfigStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn node_statuses(&self) -> Vec<NodeStatus> {
        let mut client = StatusServiceClient::new(self.channel().await);
        client
            .list_node_statuses(ListNodeStatusesRequest::default())
            .await
            .unwrap()
            .into_inner()
            .node_statuses
    }

    pub(crate) async fn generation(&self) -> u64 {
        self.status().await.position.unwrap().generation
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn node(id: &str, registry: &Running, state_dir: &Path) -> NodeConfig {
    let sip: SocketAddr = "127.0.7.200:5060".parse().unwrap();
    NodeConfig {
        id: id.into(),
        kind: view::MemberKind::Router,
        address: sip.ip(),
        sip: vec![SipEndpoint {
            side: Side::Both,
            address: sip,
        }],
        dmq_port: Some(5062),
        cell: "default".into(),
        zone: String::new(),
        registries: vec![registry.address().to_string()],
        tls: None,
        state_dir: state_dir.to_owned(),
    }
}

pub(crate) async fn session(config: NodeConfig) -> NodeSession {
    NodeSession::start(config, Box::new(|_: &View| Ok(Vec::new())))
        .await
        .unwrap()
}

pub(crate) async fn reaches(
    view: &mut watch::Receiver<Arc<View>>,
    what: &str,
    reached: impl Fn(&View) -> bool,
) -> Arc<View> {
    let waited = timeout(PATIENCE, view.wait_for(|view| reached(view))).await;
    Arc::clone(
        &waited
            .unwrap_or_else(|_| panic!("waited in vain: {what}"))
            .unwrap(),
    )
}

pub(crate) async fn members(registry: &Running) -> MemberServiceClient<Channel> {
    MemberServiceClient::new(registry.channel().await)
}

pub(crate) async fn put_set(registry: &Running, id: &str, algorithm: u32) {
    let destination_set = Some(DestinationSet {
        name: format!("sets/{id}"),
        algorithm,
        ..DestinationSet::default()
    });
    let request = UpdateDestinationSetRequest {
        destination_set,
        allow_missing: true,
        ..UpdateDestinationSetRequest::default()
    };
    DestinationSetServiceClient::new(registry.channel().await)
        .update_destination_set(request)
        .await
        .unwrap();
}

pub(crate) fn has_set(id: &'static str) -> impl Fn(&View) -> bool {
    move |view| view.set(id).is_some()
}

pub(crate) fn liveness(id: &'static str, wanted: Liveness) -> impl Fn(&View) -> bool {
    move |view| {
        view.member(id)
            .is_some_and(|member| member.liveness == wanted)
    }
}

/// Waits until `reached` is true, at most 10 s.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut reached: impl FnMut() -> F,
) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reached().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
