//! `StatusService`.

use control::registry::v1::status_service_server::StatusService;
use control::registry::v1::{
    ConfigStatus, GetConfigStatusRequest, ListFaultsRequest, ListFaultsResponse,
    ListNodeStatusesRequest, ListNodeStatusesResponse, NodeStatus,
};
use tonic::{Request, Response, Status};

use super::Face;
use super::sync::is_member;
use crate::statuses::summary;

impl Face {
    async fn node_statuses(&self) -> Vec<NodeStatus> {
        let state = self.catalog.state();
        let statuses = self.catalog.statuses();
        statuses
            .list(self.catalog.store(), |name| is_member(&state, name))
            .await
    }
}

#[tonic::async_trait]
impl StatusService for Face {
    async fn get_config_status(
        &self,
        _request: Request<GetConfigStatusRequest>,
    ) -> Result<Response<ConfigStatus>, Status> {
        let statuses = self.node_statuses().await;
        let state = self.catalog.state();
        let faults = state.written.faults().count();
        let cluster = self.catalog.cluster();
        Ok(Response::new(summary(
            cluster,
            state.position,
            &statuses,
            faults,
        )))
    }

    async fn list_node_statuses(
        &self,
        _request: Request<ListNodeStatusesRequest>,
    ) -> Result<Response<ListNodeStatusesResponse>, Status> {
        Ok(Response::new(ListNodeStatusesResponse {
            node_statuses: self.node_statuses().await,
        }))
    }

    async fn list_faults(
        &self,
        request: Request<ListFaultsRequest>,
    ) -> Result<Response<ListFaultsResponse>, Status> {
        let ListFaultsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let (faults, next_page_token) = self.catalog.faults(page_size, &page_token)?;
        Ok(Response::new(ListFaultsResponse {
            faults,
            next_page_token,
        }))
    }
}
