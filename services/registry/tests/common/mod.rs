//! A registry in this process, with its store in a directory of its own.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use control::registry::v1::status_service_client::StatusServiceClient;
use control::registry::v1::{
    ConfigStatus, GetConfigStatusRequest, ListNodeStatusesRequest, NodeStatus,
};
use control::shutdown::Shutdown;
use tandem_registry::Config;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

pub(crate) struct Running {
    pub(crate) config: Config,
    pub(crate) directory: TempDir,
    shutdown: Shutdown,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Starts a registry at an address that only this test uses.
pub(crate) async fn registry(address: &str) -> Running {
    let directory = TempDir::new().unwrap();
    let mut config = Config::at(address.parse::<IpAddr>().unwrap());
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
        self.channel().await;
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
            .list_node_statuses(ListNodeStatusesRequest {})
            .await
            .unwrap()
            .into_inner()
            .node_statuses
    }

    pub(crate) async fn generation(&self) -> u64 {
        self.status().await.position.unwrap().generation
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
