//! Sends a change, in one request or in several.

use control::name::Name;
use control::registry::v1::apply_service_client::ApplyServiceClient;
use control::registry::v1::{
    AppliedAction, ApplyResourcesRequest, ApplyResourcesResponse, Resource,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::plan::{self, BATCH_MAX};
use super::refused;
use crate::exit::Exit;
use crate::lines;
use crate::registry::Registry;
use crate::resource::document::Document;

/// Makes the documents be as they are, and the names be gone; prints what became of each.
///
/// Ends with [`Exit::No`] when something that was to be deleted was not there.
pub(crate) async fn send(
    registry: &mut Registry,
    documents: Vec<Document>,
    deletes: Vec<Name>,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let is_large = documents.len() + deletes.len() > BATCH_MAX;
    if is_large {
        check_whole(registry, &documents, &deletes).await?;
        if dry_run {
            lines::say(format_args!(
                "{} resources would be made so, {} deleted (dry run: checked here, as a whole)",
                documents.len(),
                deletes.len()
            ))?;
            return Ok(Exit::Good);
        }
    }
    let mut requests = Vec::new();
    if is_large {
        let making = plan::making(documents, |document| document.item.kind);
        requests.extend(making.into_iter().map(|documents| (documents, Vec::new())));
        let deleting = plan::deleting(deletes);
        requests.extend(deleting.into_iter().map(|names| (Vec::new(), names)));
    } else {
        requests.push((documents, deletes));
    }
    let (mut exit, mut done) = (Exit::Good, 0);
    for (documents, deletes) in requests {
        let sent = documents.len() + deletes.len();
        let answer = one(registry, &documents, &deletes, dry_run).await;
        let answer = answer.map_err(|error| match done {
            0 => error,
            done => {
                let said = format!("{error:#}\nthe {done} above are done, the rest is not");
                Exit::of(&error).because(anyhow::anyhow!(said))
            }
        })?;
        if !report(&answer, documents.len(), dry_run)? {
            exit = Exit::No;
        }
        done += sent;
    }
    Ok(exit)
}

/// What comes in several requests is not done as one: better to know before the first.
async fn check_whole(
    registry: &mut Registry,
    documents: &[Document],
    deletes: &[Name],
) -> anyhow::Result<()> {
    let present = registry.list_all().await?;
    let wanted = documents.iter().map(|document| &document.item);
    plan::check(&present, wanted, deletes)
        .map_err(|refusals| Exit::No.because(refused::foresee(&refusals, documents)))
}

async fn one(
    registry: &mut Registry,
    documents: &[Document],
    deletes: &[Name],
    dry_run: bool,
) -> anyhow::Result<ApplyResourcesResponse> {
    let resources: Vec<Resource> = documents
        .iter()
        .map(|document| document.item.to_resource())
        .collect();
    let request = ApplyResourcesRequest {
        resources,
        deletes: deletes.iter().map(ToString::to_string).collect(),
        delete_etags: Vec::new(),
        validate_only: dry_run,
        // So that asking a second registry, when the first fell silent, does nothing twice.
        request_id: format!("{:032x}", StdRng::from_os_rng().random::<u128>()),
    };
    let answer = registry
        .call(async |channel| {
            let mut client = ApplyServiceClient::new(channel);
            client.apply_resources(request.clone()).await
        })
        .await;
    answer.map_err(|error| refused::explain(error, documents))
}

/// Prints what was done; tells whether everything that was to be deleted was there.
fn report(answer: &ApplyResourcesResponse, made: usize, dry_run: bool) -> anyhow::Result<bool> {
    let mut all_there = true;
    let mark = if dry_run { " (dry run)" } else { "" };
    for (i, applied) in answer.applied.iter().enumerate() {
        let action = match applied.action() {
            AppliedAction::Created => "created",
            AppliedAction::Updated => "updated",
            AppliedAction::Deleted => "deleted",
            AppliedAction::Unchanged if i >= made => {
                all_there = false;
                "is not there"
            }
            AppliedAction::Unchanged | AppliedAction::Unspecified => "unchanged",
        };
        lines::say(format_args!("{} {action}{mark}", applied.name))?;
    }
    for warning in &answer.warnings {
        let field = match warning.field.as_str() {
            "" => String::new(),
            field => format!(" {field}:"),
        };
        eprintln!("warning: {}:{field} {}", warning.resource, warning.reason);
    }
    Ok(all_there)
}
