//! The services of the registry, and the health of its store.

mod apply;
mod change;
mod errors;
mod members;
mod outgoing;
mod resources;
mod status;
mod step;
mod sync;
mod watcher;

use std::convert::Infallible;
use std::sync::Arc;

use control::registry::v1::apply_service_server::ApplyServiceServer;
use control::registry::v1::cell_service_server::CellServiceServer;
use control::registry::v1::config_service_server::ConfigServiceServer;
use control::registry::v1::destination_service_server::DestinationServiceServer;
use control::registry::v1::destination_set_service_server::DestinationSetServiceServer;
use control::registry::v1::member_service_server::MemberServiceServer;
use control::registry::v1::profile_service_server::ProfileServiceServer;
use control::registry::v1::route_service_server::RouteServiceServer;
use control::registry::v1::status_service_server::StatusServiceServer;
use control::registry::v1::table_definition_service_server::TableDefinitionServiceServer;
use control::registry::v1::trunk_service_server::TrunkServiceServer;
use control::registry::v1::watch_service_server::WatchServiceServer;
use control::shutdown::Shutdown;
use face::Health;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Response, Status};

use crate::catalog::{Catalog, Latest};
use crate::config::{Config, Pace};
use crate::refused::Refused;
use crate::state::State;

/// What an answer, or a refusal, says in its metadata when it was given from memory and the store did not say
/// in time whether anything is newer.
const STALE: &str = "tandem-stale";

/// The face of one catalog. Clones share it.
#[derive(Clone)]
struct Face {
    catalog: Arc<Catalog>,
    shutdown: Shutdown,
    pace: Pace,
}

impl Face {
    /// Answers with what is read of the latest state.
    async fn read<T>(
        &self,
        read: impl FnOnce(&State) -> Result<T, Refused>,
    ) -> Result<Response<T>, Status> {
        let Latest { state, is_stale } = self.catalog.latest().await;
        let mut answer = read(&state).map(Response::new).map_err(Status::from);
        if is_stale {
            let metadata = match &mut answer {
                Ok(answer) => answer.metadata_mut(),
                Err(refused) => refused.metadata_mut(),
            };
            metadata.insert(STALE, MetadataValue::from_static("true"));
        }
        answer
    }
}

/// Serves until `shutdown` is cancelled and the streams have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    config: &Config,
    catalog: &Arc<Catalog>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let face = Face {
        catalog: Arc::clone(catalog),
        shutdown: shutdown.clone(),
        pace: config.pace,
    };
    let mut server = face::Server::new(&config.face)?;
    server
        .add(MemberServiceServer::new(face.clone()))
        .add(CellServiceServer::new(face.clone()))
        .add(DestinationSetServiceServer::new(face.clone()))
        .add(DestinationServiceServer::new(face.clone()))
        .add(RouteServiceServer::new(face.clone()))
        .add(TableDefinitionServiceServer::new(face.clone()))
        .add(TrunkServiceServer::new(face.clone()))
        .add(ProfileServiceServer::new(face.clone()))
        .add(ApplyServiceServer::new(face.clone()))
        .add(WatchServiceServer::new(face.clone()))
        .add(StatusServiceServer::new(face.clone()))
        .add(ConfigServiceServer::new(face));
    let health = server.health();
    tokio::select! {
        served = server.serve(listener, shutdown.clone()) => Ok(served?),
        never = show_health(catalog.store_health(), &health) => match never {},
    }
}

/// Keeps the health of the component `store` in step. The services stay as they are: a registry
/// without its store serves on from memory.
async fn show_health(mut store: watch::Receiver<store::Health>, health: &Health) -> Infallible {
    loop {
        let is_up = matches!(&*store.borrow_and_update(), store::Health::Up);
        health.show("store", is_up).await;
        if store.changed().await.is_err() {
            // The store is closing, and so is everything.
            std::future::pending::<()>().await;
        }
    }
}
