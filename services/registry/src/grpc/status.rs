//! `StatusService`.

use control::registry::v1::status_service_server::StatusService;
use control::registry::v1::{
    ConfigStatus, GetConfigStatusRequest, ListFaultsRequest, ListFaultsResponse,
    ListNodeStatusesRequest, ListNodeStatusesResponse, NodeStatus,
};
use tonic::{Request, Response, Status};

use super::Face;
use super::sync::is_member;
use crate::catalog::{faults, page, page_size_of};
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
        self.read(|state| {
            let faults = state.written.faults().count();
            let cluster = self.catalog.cluster();
            Ok(summary(cluster, state.position, &statuses, faults))
        })
        .await
    }

    async fn list_node_statuses(
        &self,
        request: Request<ListNodeStatusesRequest>,
    ) -> Result<Response<ListNodeStatusesResponse>, Status> {
        let ListNodeStatusesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let size = page_size_of(page_size)?;
        let all = self.node_statuses().await.into_iter();
        let rest = all.filter(|status| page_token.is_empty() || status.node > page_token);
        let (node_statuses, next_page_token) = page(rest, size, |last| last.node.clone());
        Ok(Response::new(ListNodeStatusesResponse {
            node_statuses,
            next_page_token,
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
        self.read(|state| {
            let (faults, next_page_token) = faults(state, page_size, &page_token)?;
            Ok(ListFaultsResponse {
                faults,
                next_page_token,
            })
        })
        .await
    }
}
