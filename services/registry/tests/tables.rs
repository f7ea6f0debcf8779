//! Table definitions over real gRPC: as operators write them, and as routers see them.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::time::Duration;

use control::registry::v1::table_definition_service_client::TableDefinitionServiceClient;
use control::registry::v1::*;
use control::view;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use common::{Running, node, reaches, registry, session};

async fn tables(registry: &Running) -> TableDefinitionServiceClient<Channel> {
    TableDefinitionServiceClient::new(registry.channel().await)
}

fn table(id: &str) -> TableDefinition {
    TableDefinition {
        name: format!("tables/{id}"),
        ..TableDefinition::default()
    }
}

fn create(table: TableDefinition) -> CreateTableDefinitionRequest {
    CreateTableDefinitionRequest {
        table_definition: Some(table),
        ..CreateTableDefinitionRequest::default()
    }
}

fn update(table: TableDefinition) -> UpdateTableDefinitionRequest {
    UpdateTableDefinitionRequest {
        table_definition: Some(table),
        ..UpdateTableDefinitionRequest::default()
    }
}

fn refusal(status: &Status) -> (Code, Vec<String>) {
    let details = status.get_details_bad_request().expect("field violations");
    let fields = details.field_violations.into_iter();
    (status.code(), fields.map(|found| found.field).collect())
}

#[tokio::test]
async fn a_table_is_created_listed_replaced_and_deleted() {
    let registry = registry("127.0.7.70").await;
    let mut tables = tables(&registry).await;
    let b = tables.create_table_definition(create(table("b"))).await;
    let b = b.unwrap().into_inner();
    tables
        .create_table_definition(create(table("a")))
        .await
        .unwrap();
    let again = tables.create_table_definition(create(table("b"))).await;
    assert_eq!(again.unwrap_err().code(), Code::AlreadyExists);

    let page = |page_token: String| ListTableDefinitionsRequest {
        page_size: 1,
        page_token,
    };
    let first = tables.list_table_definitions(page(String::new())).await;
    let first = first.unwrap().into_inner();
    assert_eq!(first.table_definitions[0].name, "tables/a");
    let second = tables
        .list_table_definitions(page(first.next_page_token))
        .await;
    assert_eq!(
        second.unwrap().into_inner(),
        ListTableDefinitionsResponse {
            table_definitions: vec![b.clone()],
            next_page_token: String::new()
        }
    );

    let local = TableDefinition {
        replicate: Some(false),
        ..b.clone()
    };
    let updated = tables.update_table_definition(update(local.clone())).await;
    let updated = updated.unwrap().into_inner();
    assert_eq!(
        (updated.replicate, updated.update_expire),
        (Some(false), None)
    );
    assert_ne!(updated.etag, b.etag);
    let stale = tables.update_table_definition(update(local)).await;
    assert_eq!(stale.unwrap_err().code(), Code::Aborted);
    let name = GetTableDefinitionRequest {
        name: "tables/b".into(),
    };
    let found = tables.get_table_definition(name.clone()).await.unwrap();
    assert_eq!(found.into_inner(), updated);

    let delete = |etag: String| DeleteTableDefinitionRequest {
        name: "tables/b".into(),
        etag,
        ..DeleteTableDefinitionRequest::default()
    };
    let stale = tables.delete_table_definition(delete(b.etag)).await;
    assert_eq!(stale.unwrap_err().code(), Code::Aborted);
    tables
        .delete_table_definition(delete(updated.etag))
        .await
        .unwrap();
    let gone = tables.get_table_definition(name).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let missing = tables.update_table_definition(update(table("b"))).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn bad_values_are_named_and_validate_only_changes_nothing() {
    let registry = registry("127.0.7.71").await;
    let mut tables = tables(&registry).await;
    let taken = TableDefinition {
        table: "Bans".into(),
        ..table("bans")
    };
    tables.create_table_definition(create(taken)).await.unwrap();
    let before = registry.generation().await;
    let bad = TableDefinition {
        table: "a:b".into(),
        autoexpire: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        entries_max: Some(0),
        ..table("a")
    };
    for validate_only in [true, false] {
        let request = CreateTableDefinitionRequest {
            validate_only,
            ..create(bad.clone())
        };
        let status = tables.create_table_definition(request).await.unwrap_err();
        let (code, fields) = refusal(&status);
        assert_eq!(code, Code::InvalidArgument);
        assert_eq!(
            fields,
            ["table", "autoexpire", "entries_max"].map(|field| format!("table_definition.{field}"))
        );
    }
    let same = TableDefinition {
        table: "Bans".into(),
        ..table("others")
    };
    for (resource, field) in [(same, "table"), (table("A"), "name"), (table(""), "name")] {
        let status = tables.create_table_definition(create(resource)).await;
        let expected = (
            Code::InvalidArgument,
            vec![format!("table_definition.{field}")],
        );
        assert_eq!(refusal(&status.unwrap_err()), expected);
    }
    let none = tables
        .create_table_definition(CreateTableDefinitionRequest::default())
        .await;
    assert_eq!(refusal(&none.unwrap_err()).1, ["table_definition"]);
    let only = CreateTableDefinitionRequest {
        validate_only: true,
        ..create(table("a"))
    };
    let said = tables.create_table_definition(only).await.unwrap();
    assert_eq!(said.into_inner(), table("a"));
    assert_eq!(registry.generation().await, before);
}

#[tokio::test]
async fn a_router_sees_the_tables_as_told() {
    let registry = registry("127.0.7.72").await;
    let session = session(node("router-a", &registry, registry.directory.path())).await;
    let mut tables = tables(&registry).await;
    let told = TableDefinition {
        table: "Ban_List".into(),
        autoexpire: Some(prost_types::Duration {
            seconds: 300,
            nanos: 0,
        }),
        ..table("bans")
    };
    tables.create_table_definition(create(told)).await.unwrap();
    let mut seen = session.view();
    let view = reaches(&mut seen, "the table", |view| !view.tables.is_empty()).await;
    let expected = view::TableDefinition {
        id: "bans".into(),
        table: "Ban_List".into(),
        autoexpire: Some(Duration::from_secs(300)),
        replicate: true,
        update_expire: true,
        entries_max: 65_536,
    };
    assert_eq!(view.tables, [expected]);

    let delete = DeleteTableDefinitionRequest {
        name: "tables/bans".into(),
        ..DeleteTableDefinitionRequest::default()
    };
    tables.delete_table_definition(delete).await.unwrap();
    reaches(&mut seen, "its end", |view| view.tables.is_empty()).await;
}
