//! `DestinationSetService`, `DestinationService` and `RouteService`: the same five methods each.

use control::name::Name;
use control::registry::v1::destination_service_server::DestinationService;
use control::registry::v1::destination_set_service_server::DestinationSetService;
use control::registry::v1::route_service_server::RouteService;
use control::registry::v1::{
    CreateDestinationRequest, CreateDestinationSetRequest, CreateRouteRequest,
    DeleteDestinationRequest, DeleteDestinationResponse, DeleteDestinationSetRequest,
    DeleteDestinationSetResponse, DeleteRouteRequest, DeleteRouteResponse, Destination,
    DestinationSet, GetDestinationRequest, GetDestinationSetRequest, GetRouteRequest,
    ListDestinationSetsRequest, ListDestinationSetsResponse, ListDestinationsRequest,
    ListDestinationsResponse, ListRoutesRequest, ListRoutesResponse, Route,
    UpdateDestinationRequest, UpdateDestinationSetRequest, UpdateRouteRequest,
};
use tonic::{Request, Response, Status};

use super::Face;
use crate::catalog::{Mode, Refused, invalid};
use crate::resource::Managed;

type Answer<T> = Result<Response<T>, Status>;

fn required<R>(resource: Option<R>, field: &str) -> Result<R, Refused> {
    resource.ok_or_else(|| invalid("", field, "is required"))
}

#[tonic::async_trait]
impl DestinationSetService for Face {
    async fn get_destination_set(
        &self,
        request: Request<GetDestinationSetRequest>,
    ) -> Answer<DestinationSet> {
        Ok(Response::new(self.catalog.get(&request.into_inner().name)?))
    }

    async fn list_destination_sets(
        &self,
        request: Request<ListDestinationSetsRequest>,
    ) -> Answer<ListDestinationSetsResponse> {
        let ListDestinationSetsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let (destination_sets, next_page_token) =
            self.catalog
                .list(page_size, &page_token, DestinationSet::owns)?;
        Ok(Response::new(ListDestinationSetsResponse {
            destination_sets,
            next_page_token,
        }))
    }

    async fn create_destination_set(
        &self,
        request: Request<CreateDestinationSetRequest>,
    ) -> Answer<DestinationSet> {
        let CreateDestinationSetRequest {
            destination_set,
            validate_only,
        } = request.into_inner();
        let set = required(destination_set, "destination_set")?;
        Ok(Response::new(
            self.catalog.put(set, Mode::Create, validate_only).await?,
        ))
    }

    async fn update_destination_set(
        &self,
        request: Request<UpdateDestinationSetRequest>,
    ) -> Answer<DestinationSet> {
        let UpdateDestinationSetRequest {
            destination_set,
            allow_missing,
            validate_only,
        } = request.into_inner();
        let set = required(destination_set, "destination_set")?;
        Ok(Response::new(
            self.catalog
                .put(set, Mode::Update { allow_missing }, validate_only)
                .await?,
        ))
    }

    async fn delete_destination_set(
        &self,
        request: Request<DeleteDestinationSetRequest>,
    ) -> Answer<DeleteDestinationSetResponse> {
        let DeleteDestinationSetRequest {
            name,
            etag,
            validate_only,
        } = request.into_inner();
        self.catalog
            .delete::<DestinationSet>(&name, &etag, validate_only)
            .await?;
        Ok(Response::new(DeleteDestinationSetResponse {}))
    }
}

#[tonic::async_trait]
impl DestinationService for Face {
    async fn get_destination(
        &self,
        request: Request<GetDestinationRequest>,
    ) -> Answer<Destination> {
        Ok(Response::new(self.catalog.get(&request.into_inner().name)?))
    }

    async fn list_destinations(
        &self,
        request: Request<ListDestinationsRequest>,
    ) -> Answer<ListDestinationsResponse> {
        let ListDestinationsRequest {
            parent,
            page_size,
            page_token,
        } = request.into_inner();
        let parent = match parent.as_str() {
            "" => None,
            text => Some(self.catalog.get::<DestinationSet>(text)?.name),
        };
        let wanted = |name: &Name| match name {
            Name::Destination { set, .. } => parent
                .as_ref()
                .is_none_or(|parent| *parent == format!("sets/{set}")),
            Name::Member(_) | Name::Route(_) | Name::Set(_) => false,
        };
        let (destinations, next_page_token) = self.catalog.list(page_size, &page_token, wanted)?;
        Ok(Response::new(ListDestinationsResponse {
            destinations,
            next_page_token,
        }))
    }

    async fn create_destination(
        &self,
        request: Request<CreateDestinationRequest>,
    ) -> Answer<Destination> {
        let CreateDestinationRequest {
            destination,
            validate_only,
        } = request.into_inner();
        let destination = required(destination, "destination")?;
        Ok(Response::new(
            self.catalog
                .put(destination, Mode::Create, validate_only)
                .await?,
        ))
    }

    async fn update_destination(
        &self,
        request: Request<UpdateDestinationRequest>,
    ) -> Answer<Destination> {
        let UpdateDestinationRequest {
            destination,
            allow_missing,
            validate_only,
        } = request.into_inner();
        let destination = required(destination, "destination")?;
        Ok(Response::new(
            self.catalog
                .put(destination, Mode::Update { allow_missing }, validate_only)
                .await?,
        ))
    }

    async fn delete_destination(
        &self,
        request: Request<DeleteDestinationRequest>,
    ) -> Answer<DeleteDestinationResponse> {
        let DeleteDestinationRequest {
            name,
            etag,
            validate_only,
        } = request.into_inner();
        self.catalog
            .delete::<Destination>(&name, &etag, validate_only)
            .await?;
        Ok(Response::new(DeleteDestinationResponse {}))
    }
}

#[tonic::async_trait]
impl RouteService for Face {
    async fn get_route(&self, request: Request<GetRouteRequest>) -> Answer<Route> {
        Ok(Response::new(self.catalog.get(&request.into_inner().name)?))
    }

    async fn list_routes(&self, request: Request<ListRoutesRequest>) -> Answer<ListRoutesResponse> {
        let ListRoutesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let (routes, next_page_token) = self.catalog.list(page_size, &page_token, Route::owns)?;
        Ok(Response::new(ListRoutesResponse {
            routes,
            next_page_token,
        }))
    }

    async fn create_route(&self, request: Request<CreateRouteRequest>) -> Answer<Route> {
        let CreateRouteRequest {
            route,
            validate_only,
        } = request.into_inner();
        let route = required(route, "route")?;
        Ok(Response::new(
            self.catalog.put(route, Mode::Create, validate_only).await?,
        ))
    }

    async fn update_route(&self, request: Request<UpdateRouteRequest>) -> Answer<Route> {
        let UpdateRouteRequest {
            route,
            allow_missing,
            validate_only,
        } = request.into_inner();
        let route = required(route, "route")?;
        Ok(Response::new(
            self.catalog
                .put(route, Mode::Update { allow_missing }, validate_only)
                .await?,
        ))
    }

    async fn delete_route(
        &self,
        request: Request<DeleteRouteRequest>,
    ) -> Answer<DeleteRouteResponse> {
        let DeleteRouteRequest {
            name,
            etag,
            validate_only,
        } = request.into_inner();
        self.catalog
            .delete::<Route>(&name, &etag, validate_only)
            .await?;
        Ok(Response::new(DeleteRouteResponse {}))
    }
}
