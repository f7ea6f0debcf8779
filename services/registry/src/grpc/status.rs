//! `StatusService`.

use control::registry::v1::status_service_server::StatusService;
use control::registry::v1::{
    ConfigStatus, GetConfigStatusRequest, ListNodeStatusesRequest, ListNodeStatusesResponse,
};
use tonic::{Request, Response, Status};

use super::Face;

#[tonic::async_trait]
impl StatusService for Face {
    async fn get_config_status(
        &self,
        _request: Request<GetConfigStatusRequest>,
    ) -> Result<Response<ConfigStatus>, Status> {
        let position = self.catalog.state().position;
        Ok(Response::new(
            self.catalog
                .statuses()
                .summary(self.catalog.cluster(), position),
        ))
    }

    async fn list_node_statuses(
        &self,
        _request: Request<ListNodeStatusesRequest>,
    ) -> Result<Response<ListNodeStatusesResponse>, Status> {
        Ok(Response::new(ListNodeStatusesResponse {
            node_statuses: self.catalog.statuses().list(),
        }))
    }
}
