//! `grpc.health.v1`: one answer for the process, one for each service, one for each component.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The health of a process as its gRPC face shows it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    reporter: HealthReporter,
    names: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// The process as a whole.
const PROCESS: &str = "";

impl Health {
    /// Shows a service or a component, such as `store`, as serving or not. Watchers hear of it.
    pub async fn show(&self, name: &'static str, serves: bool) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name);
        let status = match serves {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.reporter.set_service_status(name, status).await;
    }

    /// Shows the process as not serving: it drains.
    pub async fn drain(&self) {
        self.show(PROCESS, false).await;
    }

    /// Shows everything as not serving, and ends what watches it.
    pub(crate) async fn end(&self) {
        self.drain().await;
        let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
        for name in names {
            self.reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
            self.reporter.clone().clear_service_status(name).await;
        }
    }

    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }
}
