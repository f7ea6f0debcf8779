//! The gRPC face: the services, health, and reflection for new and old clients.

mod errors;
mod members;
mod resources;
mod status;
mod sync;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use control::registry::v1::cell_service_server::CellServiceServer;
use control::registry::v1::config_service_server::ConfigServiceServer;
use control::registry::v1::destination_service_server::DestinationServiceServer;
use control::registry::v1::destination_set_service_server::DestinationSetServiceServer;
use control::registry::v1::member_service_server::MemberServiceServer;
use control::registry::v1::route_service_server::RouteServiceServer;
use control::registry::v1::status_service_server::StatusServiceServer;
use control::registry::v1::table_definition_service_server::TableDefinitionServiceServer;
use control::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::catalog::Catalog;

/// Most requests and streams at a time on one connection.
const STREAMS_MAX: u32 = 256;
/// Time between two pings of a connection, and how long it may take to answer one: a node behind a
/// dead network is not connected.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The face of one catalog. Clones share it.
#[derive(Clone)]
struct Face {
    catalog: Arc<Catalog>,
    shutdown: Shutdown,
}

/// Serves until `shutdown` is cancelled and the streams have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    catalog: &Arc<Catalog>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let face = Face {
        catalog: Arc::clone(catalog),
        shutdown: shutdown.clone(),
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MemberServiceServer<Face>>().await;
    health.set_serving::<ConfigServiceServer<Face>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(control::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let incoming = TcpListenerStream::new(listener);
    let server = Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_INTERVAL))
        .add_service(MemberServiceServer::new(face.clone()))
        .add_service(CellServiceServer::new(face.clone()))
        .add_service(DestinationSetServiceServer::new(face.clone()))
        .add_service(DestinationServiceServer::new(face.clone()))
        .add_service(RouteServiceServer::new(face.clone()))
        .add_service(TableDefinitionServiceServer::new(face.clone()))
        .add_service(StatusServiceServer::new(face.clone()))
        .add_service(ConfigServiceServer::new(face))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled());
    tokio::select! {
        served = server => Ok(served?),
        never = show_health(catalog.store_health(), &health) => match never {},
    }
}

/// Keeps the health of the component `store` in step. The services stay as they are: a registry
/// without its store serves on from memory.
async fn show_health(
    mut store: watch::Receiver<store::Health>,
    health: &HealthReporter,
) -> Infallible {
    loop {
        let status = match &*store.borrow_and_update() {
            store::Health::Up => ServingStatus::Serving,
            store::Health::Down(_) => ServingStatus::NotServing,
        };
        health.set_service_status("store", status).await;
        if store.changed().await.is_err() {
            // The store is closing, and so is everything.
            std::future::pending::<()>().await;
        }
    }
}
