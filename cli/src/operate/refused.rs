//! Brings what a registry refused back to the files it came from.

use anyhow::anyhow;
use control::view::Refusal;
use tonic::Code;

use crate::registry::{CallError, Violation, untold, violations};
use crate::resource::document::{Document, Problem};

/// Returns the error with file, line, document and field of each violation that has them.
pub(super) fn explain(error: CallError, documents: &[Document]) -> anyhow::Error {
    let CallError::Refused(status) = &error else {
        return error.into();
    };
    let violations = violations(status);
    if violations.is_empty() {
        return error.into();
    }
    let mut lines: Vec<_> = violations
        .iter()
        .map(|violation| match problem(violation, documents) {
            Some(problem) => problem.to_string(),
            None => violation.reason.clone(),
        })
        .collect();
    lines.extend(untold(status).map(|more| format!("and {more} more")));
    let said = lines.join("\n");
    error
        .exit()
        .because(match status.code() == Code::FailedPrecondition {
            // The lines are of resources that stay, and would lack what is to go.
            true => anyhow!("something still needs it:\n{said}"),
            false => anyhow!(said),
        })
}

/// Returns what the registry would refuse, with its place if it is in a document.
pub(super) fn foresee(refusals: &[Refusal], documents: &[Document]) -> anyhow::Error {
    let said = refusals.iter().map(|refusal| {
        let mut documents = documents.iter();
        match documents.find(|document| document.item.name() == refusal.resource) {
            Some(document) => Problem {
                place: document.place.clone(),
                name: refusal.resource.clone(),
                field: refusal.field.clone(),
                reason: refusal.reason.clone(),
            }
            .to_string(),
            None => refusal.to_string(),
        }
    });
    anyhow!("{}", said.collect::<Vec<_>>().join("\n"))
}

/// `resources[3].results[0].set` is `results[0].set` of the fourth document that was sent.
fn problem(violation: &Violation, documents: &[Document]) -> Option<Problem> {
    let rest = violation.subject.strip_prefix("resources[")?;
    let (index, field) = rest.split_once(']')?;
    let document = documents.get(index.parse::<usize>().ok()?)?;
    Some(Problem {
        place: document.place.clone(),
        name: document.item.name().to_owned(),
        field: field.trim_start_matches('.').to_owned(),
        reason: violation.reason.clone(),
    })
}
