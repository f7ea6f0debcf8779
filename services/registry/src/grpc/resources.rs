//! The services of the resources that people write: the same five methods each.

use control::name::Name;
use control::registry::v1::cell_service_server::CellService;
use control::registry::v1::destination_service_server::DestinationService;
use control::registry::v1::destination_set_service_server::DestinationSetService;
use control::registry::v1::profile_service_server::ProfileService;
use control::registry::v1::route_service_server::RouteService;
use control::registry::v1::table_definition_service_server::TableDefinitionService;
use control::registry::v1::trunk_service_server::TrunkService;
use control::registry::v1::{
    Cell, CreateCellRequest, CreateDestinationRequest, CreateDestinationSetRequest,
    CreateProfileRequest, CreateRouteRequest, CreateTableDefinitionRequest, CreateTrunkRequest,
    DeleteCellRequest, DeleteCellResponse, DeleteDestinationRequest, DeleteDestinationResponse,
    DeleteDestinationSetRequest, DeleteDestinationSetResponse, DeleteProfileRequest,
    DeleteProfileResponse, DeleteRouteRequest, DeleteRouteResponse, DeleteTableDefinitionRequest,
    DeleteTableDefinitionResponse, DeleteTrunkRequest, DeleteTrunkResponse, Destination,
    DestinationSet, GetCellRequest, GetDestinationRequest, GetDestinationSetRequest,
    GetProfileRequest, GetRouteRequest, GetTableDefinitionRequest, GetTrunkRequest,
    ListCellsRequest, ListCellsResponse, ListDestinationSetsRequest, ListDestinationSetsResponse,
    ListDestinationsRequest, ListDestinationsResponse, ListProfilesRequest, ListProfilesResponse,
    ListRoutesRequest, ListRoutesResponse, ListTableDefinitionsRequest,
    ListTableDefinitionsResponse, ListTrunksRequest, ListTrunksResponse, Profile, Route,
    TableDefinition, Trunk, UpdateCellRequest, UpdateDestinationRequest,
    UpdateDestinationSetRequest, UpdateProfileRequest, UpdateRouteRequest,
    UpdateTableDefinitionRequest, UpdateTrunkRequest,
};
use tonic::{Request, Response, Status};

use super::Face;
use super::change::order;
use crate::catalog::{get, list};
use crate::refused::Refused;
use crate::resource::Managed;
use crate::state::State;

type Answer<T> = Result<Response<T>, Status>;

/// The five methods of a kind.
macro_rules! serves {
    (
        $service:ident: $kind:ident as $one:ident, $many:ident;
        $get:ident($get_request:ident)
        $list:ident($list_request:ident) -> $list_response:ident, $wanted:expr;
        $create:ident($create_request:ident)
        $update:ident($update_request:ident)
        $delete:ident($delete_request:ident) -> $delete_response:ident;
    ) => {
        #[tonic::async_trait]
        impl $service for Face {
            async fn $get(&self, request: Request<$get_request>) -> Answer<$kind> {
                let name = request.into_inner().name;
                self.read(|state| get(state, &name)).await
            }

            async fn $list(&self, request: Request<$list_request>) -> Answer<$list_response> {
                let request = request.into_inner();
                self.read(|state| {
                    let wanted = $wanted(state, &request)?;
                    let ($many, next_page_token) =
                        list(state, request.page_size, &request.page_token, wanted)?;
                    Ok($list_response {
                        $many,
                        next_page_token,
                    })
                })
                .await
            }

            async fn $create(&self, request: Request<$create_request>) -> Answer<$kind> {
                let request = request.into_inner();
                let order = order(&request, &request.request_id, request.validate_only)?;
                let created = self.create(&order, stringify!($one), request.$one);
                Ok(Response::new(created.await?))
            }

            async fn $update(&self, request: Request<$update_request>) -> Answer<$kind> {
                let request = request.into_inner();
                let order = order(&request, &request.request_id, request.validate_only)?;
                let updated = self.update(
                    &order,
                    stringify!($one),
                    request.$one,
                    request.update_mask,
                    request.allow_missing,
                );
                Ok(Response::new(updated.await?))
            }

            async fn $delete(&self, request: Request<$delete_request>) -> Answer<$delete_response> {
                let request = request.into_inner();
                let order = order(&request, &request.request_id, request.validate_only)?;
                let deleted = self.delete::<$kind>(&order, request.name, request.etag);
                deleted.await?;
                Ok(Response::new($delete_response {}))
            }
        }
    };
}

/// Lists all of a kind.
fn all<R: Managed, M>(_state: &State, _request: &M) -> Result<fn(&Name) -> bool, Refused> {
    Ok(R::owns)
}

/// Lists the destinations of one set, or of all.
fn of_parent(
    state: &State,
    request: &ListDestinationsRequest,
) -> Result<impl Fn(&Name) -> bool + use<>, Refused> {
    let parent = match request.parent.as_str() {
        "" => None,
        parent => Some(get::<DestinationSet>(state, parent)?.name),
    };
    Ok(move |name: &Name| match name {
        Name::Destination { set, .. } => parent
            .as_ref()
            .is_none_or(|parent| *parent == format!("sets/{set}")),
        Name::Cell(_)
        | Name::Member(_)
        | Name::Profile(_)
        | Name::Route(_)
        | Name::Set(_)
        | Name::Table(_)
        | Name::Trunk(_) => false,
    })
}

serves! {
    CellService: Cell as cell, cells;
    get_cell(GetCellRequest)
    list_cells(ListCellsRequest) -> ListCellsResponse, all::<Cell, _>;
    create_cell(CreateCellRequest)
    update_cell(UpdateCellRequest)
    delete_cell(DeleteCellRequest) -> DeleteCellResponse;
}

serves! {
    DestinationSetService: DestinationSet as destination_set, destination_sets;
    get_destination_set(GetDestinationSetRequest)
    list_destination_sets(ListDestinationSetsRequest) -> ListDestinationSetsResponse, all::<DestinationSet, _>;
    create_destination_set(CreateDestinationSetRequest)
    update_destination_set(UpdateDestinationSetRequest)
    delete_destination_set(DeleteDestinationSetRequest) -> DeleteDestinationSetResponse;
}

serves! {
    RouteService: Route as route, routes;
    get_route(GetRouteRequest)
    list_routes(ListRoutesRequest) -> ListRoutesResponse, all::<Route, _>;
    create_route(CreateRouteRequest)
    update_route(UpdateRouteRequest)
    delete_route(DeleteRouteRequest) -> DeleteRouteResponse;
}

serves! {
    TableDefinitionService: TableDefinition as table_definition, table_definitions;
    get_table_definition(GetTableDefinitionRequest)
    list_table_definitions(ListTableDefinitionsRequest) -> ListTableDefinitionsResponse, all::<TableDefinition, _>;
    create_table_definition(CreateTableDefinitionRequest)
    update_table_definition(UpdateTableDefinitionRequest)
    delete_table_definition(DeleteTableDefinitionRequest) -> DeleteTableDefinitionResponse;
}

serves! {
    TrunkService: Trunk as trunk, trunks;
    get_trunk(GetTrunkRequest)
    list_trunks(ListTrunksRequest) -> ListTrunksResponse, all::<Trunk, _>;
    create_trunk(CreateTrunkRequest)
    update_trunk(UpdateTrunkRequest)
    delete_trunk(DeleteTrunkRequest) -> DeleteTrunkResponse;
}

serves! {
    ProfileService: Profile as profile, profiles;
    get_profile(GetProfileRequest)
    list_profiles(ListProfilesRequest) -> ListProfilesResponse, all::<Profile, _>;
    create_profile(CreateProfileRequest)
    update_profile(UpdateProfileRequest)
    delete_profile(DeleteProfileRequest) -> DeleteProfileResponse;
}

serves! {
    DestinationService: Destination as destination, destinations;
    get_destination(GetDestinationRequest)
    list_destinations(ListDestinationsRequest) -> ListDestinationsResponse, of_parent;
    create_destination(CreateDestinationRequest)
    update_destination(UpdateDestinationRequest)
    delete_destination(DeleteDestinationRequest) -> DeleteDestinationResponse;
}
