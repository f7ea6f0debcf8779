//! `ApplyService`.

use control::name::Name;
use control::registry::v1::apply_service_server::ApplyService;
use control::registry::v1::{
    AppliedAction, AppliedResource, ApplyResourcesRequest, ApplyResourcesResponse,
};
use control::view::etag_of;
use tonic::{Request, Response, Status};

use super::Face;
use crate::catalog::{Edit, Mode, Node, Order, Outcome, RequestId, What};
use crate::refused::{Refused, invalid};

#[tonic::async_trait]
impl ApplyService for Face {
    async fn apply_resources(
        &self,
        request: Request<ApplyResourcesRequest>,
    ) -> Result<Response<ApplyResourcesResponse>, Status> {
        let request = request.into_inner();
        let order = Order {
            validate_only: request.validate_only,
            request: RequestId::of(&request.request_id, &request)?,
        };
        let edits = edits(request)?;
        let outcome = self.catalog.change(&order, |_| Ok(edits.clone())).await?;
        let applied = outcome.applied.iter();
        let applied = applied.map(|(name, action)| applied_resource(&outcome, name, *action));
        Ok(Response::new(ApplyResourcesResponse {
            position: Some(outcome.state.position),
            applied: applied.collect(),
            warnings: outcome.warnings.clone(),
        }))
    }
}

fn edits(request: ApplyResourcesRequest) -> Result<Vec<Edit>, Refused> {
    if request.delete_etags.len() > request.deletes.len() {
        return Err(invalid("", "delete_etags", "more than there are deletes"));
    }
    let puts = request.resources.into_iter().enumerate();
    let puts = puts.map(|(i, resource)| Edit {
        at: format!("resources[{i}]"),
        what: What::Put {
            resource,
            mode: Mode::Update {
                allow_missing: true,
            },
        },
    });
    let etags = request.delete_etags.into_iter();
    let etags = etags.chain(std::iter::repeat(String::new()));
    let deletes = request.deletes.into_iter().zip(etags).enumerate();
    let deletes = deletes.map(|(i, (name, etag))| Edit {
        at: format!("deletes[{i}]"),
        what: What::Delete {
            name,
            etag,
            allow_missing: true,
            node: Node::StaysOut,
        },
    });
    Ok(puts.chain(deletes).collect())
}

fn applied_resource(outcome: &Outcome, name: &Name, action: AppliedAction) -> AppliedResource {
    let etag = outcome.resource(name).map_or("", etag_of);
    AppliedResource {
        name: name.to_string(),
        action: action.into(),
        etag: etag.to_owned(),
    }
}
