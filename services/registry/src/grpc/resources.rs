//! The services of the resources that people write: the same five methods each.

use control::name::Name;
use control::registry::v1::cell_service_server::CellService;
use control::registry::v1::destination_service_server::DestinationService;
use control::registry::v1::destination_set_service_server::DestinationSetService;
use control::registry::v1::route_service_server::RouteService;
use control::registry::v1::table_definition_service_server::TableDefinitionService;
use control::registry::v1::{
    Cell, CreateCellRequest, CreateDestinationRequest, CreateDestinationSetRequest,
    CreateRouteRequest, CreateTableDefinitionRequest, DeleteCellRequest, DeleteCellResponse,
    DeleteDestinationRequest, DeleteDestinationResponse, DeleteDestinationSetRequest,
    DeleteDestinationSetResponse, DeleteRouteRequest, DeleteRouteResponse,
    DeleteTableDefinitionRequest, DeleteTableDefinitionResponse, Destination, DestinationSet,
    GetCellRequest, GetDestinationRequest, GetDestinationSetRequest, GetRouteRequest,
    GetTableDefinitionRequest, ListCellsRequest, ListCellsResponse, ListDestinationSetsRequest,
    ListDestinationSetsResponse, ListDestinationsRequest, ListDestinationsResponse,
    ListRoutesRequest, ListRoutesResponse, ListTableDefinitionsRequest,
    ListTableDefinitionsResponse, Route, TableDefinition, UpdateCellRequest,
    UpdateDestinationRequest, UpdateDestinationSetRequest, UpdateRouteRequest,
    UpdateTableDefinitionRequest,
};
use tonic::{Request, Response, Status};

use super::Face;
use crate::catalog::{Mode, Refused, invalid};
use crate::resource::Managed;

type Answer<T> = Result<Response<T>, Status>;

fn required<R>(resource: Option<R>, field: &str) -> Result<R, Refused> {
    resource.ok_or_else(|| invalid("", field, "is required"))
}

/// The five methods of a kind that is read and written like any other.
macro_rules! serves {
    (
        $service:ident: $kind:ident as $one:ident, $many:ident;
        $get:ident($get_request:ident)
        $list:ident($list_request:ident) -> $list_response:ident;
        $create:ident($create_request:ident)
        $update:ident($update_request:ident)
        $delete:ident($delete_request:ident) -> $delete_response:ident;
    ) => {
        #[tonic::async_trait]
        impl $service for Face {
            async fn $get(&self, request: Request<$get_request>) -> Answer<$kind> {
                Ok(Response::new(self.catalog.get(&request.into_inner().name)?))
            }

            async fn $list(&self, request: Request<$list_request>) -> Answer<$list_response> {
                let $list_request {
                    page_size,
                    page_token,
                } = request.into_inner();
                let ($many, next_page_token) =
                    self.catalog.list(page_size, &page_token, $kind::owns)?;
                Ok(Response::new($list_response {
                    $many,
                    next_page_token,
                }))
            }

            async fn $create(&self, request: Request<$create_request>) -> Answer<$kind> {
                let $create_request {
                    $one,
                    validate_only,
                } = request.into_inner();
                let $one = required($one, stringify!($one))?;
                Ok(Response::new(
                    self.catalog.put($one, Mode::Create, validate_only).await?,
                ))
            }

            async fn $update(&self, request: Request<$update_request>) -> Answer<$kind> {
                let $update_request {
                    $one,
                    allow_missing,
                    validate_only,
                } = request.into_inner();
                let $one = required($one, stringify!($one))?;
                Ok(Response::new(
                    self.catalog
                        .put($one, Mode::Update { allow_missing }, validate_only)
                        .await?,
                ))
            }

            async fn $delete(&self, request: Request<$delete_request>) -> Answer<$delete_response> {
                let $delete_request {
                    name,
                    etag,
                    validate_only,
                } = request.into_inner();
                self.catalog
                    .delete::<$kind>(&name, &etag, validate_only)
                    .await?;
                Ok(Response::new($delete_response {}))
            }
        }
    };
}

serves! {
    CellService: Cell as cell, cells;
    get_cell(GetCellRequest)
    list_cells(ListCellsRequest) -> ListCellsResponse;
    create_cell(CreateCellRequest)
    update_cell(UpdateCellRequest)
    delete_cell(DeleteCellRequest) -> DeleteCellResponse;
}

serves! {
    DestinationSetService: DestinationSet as destination_set, destination_sets;
    get_destination_set(GetDestinationSetRequest)
    list_destination_sets(ListDestinationSetsRequest) -> ListDestinationSetsResponse;
    create_destination_set(CreateDestinationSetRequest)
    update_destination_set(UpdateDestinationSetRequest)
    delete_destination_set(DeleteDestinationSetRequest) -> DeleteDestinationSetResponse;
}

serves! {
    RouteService: Route as route, routes;
    get_route(GetRouteRequest)
    list_routes(ListRoutesRequest) -> ListRoutesResponse;
    create_route(CreateRouteRequest)
    update_route(UpdateRouteRequest)
    delete_route(DeleteRouteRequest) -> DeleteRouteResponse;
}

serves! {
    TableDefinitionService: TableDefinition as table_definition, table_definitions;
    get_table_definition(GetTableDefinitionRequest)
    list_table_definitions(ListTableDefinitionsRequest) -> ListTableDefinitionsResponse;
    create_table_definition(CreateTableDefinitionRequest)
    update_table_definition(UpdateTableDefinitionRequest)
    delete_table_definition(DeleteTableDefinitionRequest) -> DeleteTableDefinitionResponse;
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
            Name::Cell(_) | Name::Member(_) | Name::Route(_) | Name::Set(_) | Name::Table(_) => {
                false
            }
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
