//! `tandem.router.v1.StatusService`.

use control::router::v1::status_service_server::{StatusService, StatusServiceServer};
use control::router::v1::{GetStatusRequest, Status as RouterStatus};
use host::Host;
use tonic::{Request, Response, Status};

use crate::node::Node;
use crate::role::Router;
use crate::shard::Shard;

struct Service {
    handle: host::Handle<Shard, Node>,
    node: String,
    incarnation: u64,
    started: std::time::SystemTime,
    view: tokio::sync::watch::Receiver<std::sync::Arc<control::view::View>>,
    connected: tokio::sync::watch::Receiver<bool>,
    shutdown: control::shutdown::Shutdown,
}

/// Returns the service.
pub(crate) fn status_service(host: &Host<Router>) -> StatusServiceServer<impl StatusService> {
    StatusServiceServer::new(Service {
        handle: host.handle.clone(),
        node: host.config.node.clone(),
        incarnation: host.incarnation,
        started: host.started,
        view: host.view.clone(),
        connected: host.connected.clone(),
        shutdown: host.shutdown.clone(),
    })
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<RouterStatus>, Status> {
        let dialogs = self.handle.element().inspect_node(Node::dialogs) as u64;
        let mut transactions = 0;
        self.handle.element().for_each_shard(|shard| {
            transactions += shard.contexts() as u64;
        });
        Ok(Response::new(RouterStatus {
            node: self.node.clone(),
            incarnation: self.incarnation,
            config_generation: self.view.borrow().generation,
            registry_connected: *self.connected.borrow(),
            dialogs,
            transactions,
            draining: self.shutdown.is_cancelled(),
            start_time: Some(self.started.into()),
        }))
    }
}
