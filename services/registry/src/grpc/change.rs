//! What all services do to change one resource.

use control::mask;
use control::name::Name;
use prost_types::FieldMask;

use super::Face;
use crate::catalog::{Edit, Mode, Node, Order, Outcome, RequestId, What, find, join, parse};
use crate::refused::{Refused, invalid};
use crate::resource::Managed;
use crate::state::State;

/// Reads how a request wants to be carried out.
pub(super) fn order<M: prost::Message + prost::Name>(
    request: &M,
    request_id: &str,
    validate_only: bool,
) -> Result<Order, Refused> {
    Ok(Order {
        validate_only,
        request: RequestId::of(request_id, request)?,
    })
}

/// Returns a resource of a request, which stands in `field`.
pub(super) fn required<R>(resource: Option<R>, field: &str) -> Result<R, Refused> {
    resource.ok_or_else(|| invalid("", field, "is required"))
}

/// Returns a resource as it is after a change, or would be.
pub(super) fn result<R: Managed>(outcome: &Outcome, name: &Name) -> Result<R, Refused> {
    let resource = outcome.resource(name);
    let resource = resource.and_then(|resource| R::from_resource(resource));
    // It can only be missing when somebody else has deleted it since.
    resource
        .cloned()
        .ok_or_else(|| Refused::NotFound(name.to_string()))
}

impl Face {
    pub(super) async fn create<R: Managed>(
        &self,
        order: &Order,
        field: &str,
        resource: Option<R>,
    ) -> Result<R, Refused> {
        let resource = required(resource, field)?;
        let name = parse::<R>(resource.name(), &join(field, "name"))?;
        let edits = vec![put(field, resource, Mode::Create)];
        let outcome = self.catalog.change(order, |_| Ok(edits.clone())).await?;
        result(&outcome, &name)
    }

    pub(super) async fn update<R: Managed>(
        &self,
        order: &Order,
        field: &str,
        resource: Option<R>,
        mask: Option<FieldMask>,
        allow_missing: bool,
    ) -> Result<R, Refused> {
        let resource = required(resource, field)?;
        let name = parse::<R>(resource.name(), &join(field, "name"))?;
        let paths = mask.unwrap_or_default().paths;
        let edits = |state: &State| {
            let existing = find::<R>(state, &name);
            let existing = existing.as_ref().unwrap_or(&resource);
            let updated = mask::update(existing, &resource, &paths);
            let mut updated = updated.map_err(|(i, error)| {
                let path = format!("update_mask.paths[{i}]");
                invalid(&name.to_string(), &path, format!("{:?} {error}", paths[i]))
            })?;
            updated.set_etag(resource.etag().to_owned());
            Ok(vec![put(field, updated, Mode::Update { allow_missing })])
        };
        let outcome = self.catalog.change(order, edits).await?;
        result(&outcome, &name)
    }

    pub(super) async fn delete<R: Managed>(
        &self,
        order: &Order,
        name: String,
        etag: String,
    ) -> Result<(), Refused> {
        parse::<R>(&name, "name")?;
        let edits = vec![Edit {
            at: "name".to_owned(),
            what: What::Delete {
                name,
                etag,
                allow_missing: false,
                node: Node::StaysOut,
            },
        }];
        let outcome = self.catalog.change(order, |_| Ok(edits.clone()));
        outcome.await.map(drop)
    }
}

fn put<R: Managed>(field: &str, resource: R, mode: Mode) -> Edit {
    Edit {
        at: field.to_owned(),
        what: What::Put {
            resource: resource.into_resource(),
            mode,
        },
    }
}
