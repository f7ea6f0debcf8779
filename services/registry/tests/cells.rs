//! Cells over real gRPC: as operators write them, and as routers see them.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use control::registry::v1::cell_service_client::CellServiceClient;
use control::registry::v1::*;
use control::view::{self, NotificationAddress};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use common::{Running, has_set, node, reaches, registry, session};

async fn cells(registry: &Running) -> CellServiceClient<Channel> {
    CellServiceClient::new(registry.channel().await)
}

fn cell(id: &str) -> Cell {
    Cell {
        name: format!("cells/{id}"),
        ..Cell::default()
    }
}

fn create(cell: Cell) -> CreateCellRequest {
    CreateCellRequest {
        cell: Some(cell),
        ..CreateCellRequest::default()
    }
}

fn update(cell: Cell) -> UpdateCellRequest {
    UpdateCellRequest {
        cell: Some(cell),
        ..UpdateCellRequest::default()
    }
}

fn refusal(status: &Status) -> (Code, Vec<String>) {
    let details = status.get_details_bad_request().expect("field violations");
    let fields = details.field_violations.into_iter();
    (status.code(), fields.map(|found| found.field).collect())
}

#[tokio::test]
async fn a_cell_is_created_listed_replaced_and_deleted() {
    let registry = registry("127.0.7.60").await;
    let mut cells = cells(&registry).await;
    let b = cells
        .create_cell(create(cell("b")))
        .await
        .unwrap()
        .into_inner();
    cells.create_cell(create(cell("a"))).await.unwrap();
    let again = cells.create_cell(create(cell("b"))).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);

    let page = |page_token: String| ListCellsRequest {
        page_size: 1,
        page_token,
    };
    let first = cells
        .list_cells(page(String::new()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.cells[0].name, "cells/a");
    let second = cells.list_cells(page(first.next_page_token)).await.unwrap();
    assert_eq!(
        second.into_inner(),
        ListCellsResponse {
            cells: vec![b.clone()],
            next_page_token: String::new()
        }
    );

    let larger = Cell {
        hash_size: Some(8192),
        ..b.clone()
    };
    let updated = cells
        .update_cell(update(larger.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(updated.hash_size, Some(8192));
    assert_ne!(updated.etag, b.etag);
    let stale = cells.update_cell(update(larger)).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    let name = GetCellRequest {
        name: "cells/b".into(),
    };
    let found = cells.get_cell(name.clone()).await.unwrap().into_inner();
    assert_eq!(found, updated);

    let delete = |etag: String| DeleteCellRequest {
        name: "cells/b".into(),
        etag,
        ..DeleteCellRequest::default()
    };
    let stale = cells.delete_cell(delete(b.etag)).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    cells.delete_cell(delete(updated.etag)).await.unwrap();
    let gone = cells.get_cell(name).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let missing = cells.update_cell(update(cell("b"))).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn bad_values_are_named_and_validate_only_changes_nothing() {
    let registry = registry("127.0.7.61").await;
    let mut cells = cells(&registry).await;
    let before = registry.generation().await;
    let bad = Cell {
        hash_size: Some(1000),
        stock_nodes: vec!["192.0.2.1:5062".into(), "192.0.2.2".into()],
        notification_addresses: vec!["bus.example.com:".into()],
        dialog_lifetime: Some(prost_types::Duration {
            seconds: 60,
            nanos: 1,
        }),
        ..cell("a")
    };
    let expected = [
        "cell.hash_size",
        "cell.stock_nodes[1]",
        "cell.notification_addresses[0]",
        "cell.dialog_lifetime",
    ];
    for validate_only in [true, false] {
        let request = CreateCellRequest {
            validate_only,
            ..create(bad.clone())
        };
        let (code, fields) = refusal(&cells.create_cell(request).await.unwrap_err());
        assert_eq!(code, Code::InvalidArgument);
        assert_eq!(fields, expected);
    }
    for name in ["cells/A", "sets/1", "a"] {
        let named = Cell {
            name: name.into(),
            ..Cell::default()
        };
        let status = cells.create_cell(create(named)).await.unwrap_err();
        let expected = (Code::InvalidArgument, vec!["cell.name".into()]);
        assert_eq!(refusal(&status), expected, "{name}");
    }
    let none = cells.create_cell(CreateCellRequest::default()).await;
    assert_eq!(refusal(&none.unwrap_err()).1, ["cell"]);
    let only = CreateCellRequest {
        validate_only: true,
        ..create(cell("a"))
    };
    let said = cells.create_cell(only).await.unwrap().into_inner();
    assert_eq!(said, cell("a"));
    assert_eq!(registry.generation().await, before);
}

#[tokio::test]
async fn a_router_sees_its_cell_as_told_and_the_defaults_before_and_after() {
    let registry = registry("127.0.7.62").await;
    let session = session(node("router-a", &registry, registry.directory.path())).await;
    let mut seen = session.view();
    let before = reaches(&mut seen, "the first view", has_set("1")).await;
    assert_eq!(before.cell("default"), view::Cell::new("default"));

    let mut cells = cells(&registry).await;
    let told = Cell {
        hash_size: Some(128),
        stock_nodes: vec!["127.0.7.210:5062".into()],
        notification_addresses: vec!["bus.example.com:5062".into()],
        dialog_lifetime: Some(prost_types::Duration {
            seconds: 10_800,
            nanos: 0,
        }),
        ..cell("default")
    };
    cells.create_cell(create(told)).await.unwrap();
    let after = reaches(&mut seen, "the cell", |view| !view.cells.is_empty()).await;
    let name = NotificationAddress::Name {
        host: "bus.example.com".into(),
        port: Some(5062),
    };
    let expected = view::Cell {
        hash_size: 128,
        stock_nodes: vec!["127.0.7.210:5062".parse().unwrap()],
        notification_addresses: vec![name],
        dialog_lifetime: Duration::from_secs(10_800),
        ..view::Cell::new("default")
    };
    assert_eq!(after.cell("default"), expected);
    assert_eq!(after.cell_key("default"), before.cell_key("default"));

    let delete = DeleteCellRequest {
        name: "cells/default".into(),
        ..DeleteCellRequest::default()
    };
    cells.delete_cell(delete).await.unwrap();
    let last = reaches(&mut seen, "its end", |view| view.cells.is_empty()).await;
    assert_eq!(last.cell("default"), view::Cell::new("default"));
}
