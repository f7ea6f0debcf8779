//! `tandem.sbc.v1.StatusService`: what this SBC believes of its destinations, and an operator's word.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use control::sbc::v1::status_service_server::{StatusService, StatusServiceServer};
use control::sbc::v1::{
    DestinationHealth, DestinationStatus, DisableDestinationRequest, DrainDestinationRequest,
    EnableDestinationRequest, GetStatusRequest, ListDestinationsRequest, ListDestinationsResponse,
    Status as SbcStatus,
};
use dispatch::{Administrative, State};
use host::Host;
use tonic::{Request, Response, Status};

use crate::node::{FIRST_SET, Node};
use crate::role::Sbc;

struct Service(Arc<Host<Sbc>>);

/// Returns the service.
pub(crate) fn status_service(host: &Arc<Host<Sbc>>) -> StatusServiceServer<impl StatusService> {
    StatusServiceServer::new(Service(host.clone()))
}

impl Service {
    fn destinations(&self) -> Vec<DestinationStatus> {
        let handle = &self.0.handle;
        let (now, wall) = (handle.now(), SystemTime::now());
        let at = |moment: Instant| {
            prost_types::Timestamp::from(wall - now.saturating_duration_since(moment))
        };
        let statuses: Vec<_> = handle
            .element()
            .inspect_node(|node| node.statuses().collect());
        let status = |status: dispatch::Status| DestinationStatus {
            set: FIRST_SET.to_owned(),
            id: status.id.to_string(),
            uri: format!("sip:{}", status.address),
            address: status.address.to_string(),
            state: match status.state {
                State::Active => DestinationHealth::Active,
                State::Trying => DestinationHealth::Trying,
                State::Inactive => DestinationHealth::Inactive,
                State::Disabled => DestinationHealth::Disabled,
            }
            .into(),
            probing: status.probing,
            draining: status.draining,
            reason: status.reason.to_string(),
            last_sign_of_life: status.last_sign_of_life.map(at),
            since: Some(at(status.since)),
        };
        statuses.into_iter().map(status).collect()
    }

    /// `None` lifts what was said here before.
    fn operate(
        &self,
        set: &str,
        id: &str,
        wanted: Option<Administrative>,
    ) -> Result<Response<DestinationStatus>, Status> {
        if set != FIRST_SET && !set.is_empty() {
            return Err(Status::not_found(format!(
                "sets/{set}: this SBC dispatches to set {FIRST_SET} only"
            )));
        }
        self.0
            .handle
            .with_node(|now, node| node.set_operator(now, id, wanted))
            .map_err(|error| Status::not_found(error.to_string()))?;
        tracing::info!(destination = id, ?wanted, "operator");
        let status = self
            .destinations()
            .into_iter()
            .find(|status| status.id == id);
        status
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("sets/{set}/destinations/{id} is gone")))
    }
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<SbcStatus>, Status> {
        let Self(host) = self;
        let element = host.handle.element();
        let (mut dialogs, mut transactions) = (0, 0);
        element.for_each_shard(|shard| {
            dialogs += shard.dialogs() as u64;
            transactions += shard.contexts() as u64;
        });
        let drain = element.inspect_node(Node::drained_by);
        Ok(Response::new(SbcStatus {
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

    async fn list_destinations(
        &self,
        request: Request<ListDestinationsRequest>,
    ) -> Result<Response<ListDestinationsResponse>, Status> {
        let set = request.into_inner().set;
        let mut destinations = self.destinations();
        destinations.retain(|destination| set.is_empty() || destination.set == set);
        Ok(Response::new(ListDestinationsResponse { destinations }))
    }

    async fn enable_destination(
        &self,
        request: Request<EnableDestinationRequest>,
    ) -> Result<Response<DestinationStatus>, Status> {
        let EnableDestinationRequest { set, id } = request.into_inner();
        self.operate(&set, &id, None)
    }

    async fn disable_destination(
        &self,
        request: Request<DisableDestinationRequest>,
    ) -> Result<Response<DestinationStatus>, Status> {
        let DisableDestinationRequest { set, id } = request.into_inner();
        self.operate(&set, &id, Some(Administrative::Disabled))
    }

    async fn drain_destination(
        &self,
        request: Request<DrainDestinationRequest>,
    ) -> Result<Response<DestinationStatus>, Status> {
        let DrainDestinationRequest { set, id } = request.into_inner();
        self.operate(&set, &id, Some(Administrative::Draining))
    }
}
