//! The router's gRPC face: `tandem.router.v1.StatusService` is here, the services of its cell are below.

mod base64url;
mod body;
mod cell;
mod dialogs;
mod entries;
mod mirror;
mod nodes;
mod replication;
mod tandem;
mod watch;

use std::sync::Arc;

use control::mirror::v1::mirror_service_server::MirrorServiceServer;
use control::router::v1::dialog_service_server::DialogServiceServer;
use control::router::v1::replication_service_server::ReplicationServiceServer;
use control::router::v1::status_service_server::{StatusService, StatusServiceServer};
use control::router::v1::table_entry_service_server::TableEntryServiceServer;
use control::router::v1::{GetStatusRequest, Status as RouterStatus};
use host::Host;
use tonic::{Request, Response, Status};

use crate::node::Node;
use crate::role::Router;

struct Service(Arc<Host<Router>>);

/// Adds the services of a router.
pub(crate) fn add_services(face: &mut face::Server, host: &Arc<Host<Router>>) {
    face.add(StatusServiceServer::new(Service(host.clone())));
    if host.config.dmq.is_none() {
        return;
    }
    let cell = cell::Cell::new(host.handle.clone());
    let watch = watch::Watch::start(cell.clone(), host.shutdown.clone());
    face.add(DialogServiceServer::new(dialogs::Dialogs {
        cell: cell.clone(),
        watch: watch.clone(),
    }));
    face.add(TableEntryServiceServer::new(entries::Entries {
        cell: cell.clone(),
        watch,
    }));
    let health = replication::Health(cell.clone());
    face.add(ReplicationServiceServer::new(health));
    face.add(MirrorServiceServer::new(mirror::Mirror::new(host, cell)));
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<RouterStatus>, Status> {
        let Self(host) = self;
        let element = host.handle.element();
        let dialogs = element.inspect_node(Node::dialogs) as u64;
        let drain = element.inspect_node(Node::drained_by);
        let mut transactions = 0;
        element.for_each_shard(|shard| {
            transactions += shard.contexts() as u64;
        });
        Ok(Response::new(RouterStatus {
            node: host.config.node.clone(),
            incarnation: host.incarnation,
            config_generation: host.view.borrow().generation,
            registry_connected: *host.connected.borrow(),
            dialogs,
            transactions,
            draining: drain.is_wanted(),
            start_time: Some(host.started.into()),
            drained_by: drain.on_wire(),
        }))
    }
}
