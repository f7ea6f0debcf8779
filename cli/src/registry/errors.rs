//! What a registry says no with, and what to do.

use std::error::Error;
use std::fmt::Write;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::exit::Exit;

/// What to do, where the registry does not say so itself.
const ADVICE: [(Code, &str); 3] = [
    (
        Code::PermissionDenied,
        "; ask for the role operator, or take another context",
    ),
    (
        Code::Unauthenticated,
        "; name your certificate in a context (tandem context --help)",
    ),
    (
        Code::Unimplemented,
        "; is it a registry, and as new as this program?",
    ),
];

/// Why a call had no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody was there: each address and what it failed with.
    #[error("{}", nobody(.0))]
    Unavailable(Vec<(String, Status)>),
    /// A registry answered, and refused.
    #[error("{}", said(.0))]
    Refused(Box<Status>),
}

/// One thing that a registry refused: a path in the request or a name, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path in the request such as `resources[3].results[0].set`, or the name of a resource.
    pub(crate) subject: String,
    pub(crate) reason: String,
}

impl CallError {
    /// Returns how the program ends with it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unavailable(_) => Exit::Unavailable,
            Self::Refused(status) => {
                let is_denied = [Code::PermissionDenied, Code::Unauthenticated];
                match is_denied.contains(&status.code()) {
                    true => Exit::Denied,
                    false => Exit::No,
                }
            }
        }
    }
}

/// Returns what a status has in its details: field violations, or what stands in the way.
pub(crate) fn violations(status: &Status) -> Vec<Violation> {
    let details = status.get_error_details();
    let fields = details.bad_request().into_iter();
    let fields = fields
        .flat_map(|bad| &bad.field_violations)
        .map(|violation| Violation {
            subject: violation.field.clone(),
            reason: violation.description.clone(),
        });
    let preconditions = details.precondition_failure().into_iter();
    let preconditions = preconditions
        .flat_map(|failure| &failure.violations)
        .map(|violation| Violation {
            subject: violation.subject.clone(),
            reason: violation.description.clone(),
        });
    fields.chain(preconditions).collect()
}

/// Returns how many violations a status has no room for; nothing when it tells all.
pub(crate) fn untold(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info()?;
    info.metadata.remove("more")
}

/// Turns what kept a connection from being made into a status, with its innermost cause.
pub(super) fn unreachable(error: tonic::transport::Error) -> Status {
    let mut cause: &dyn Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Status::unavailable(cause.to_string())
}

fn nobody(attempts: &[(String, Status)]) -> String {
    let mut text = "no registry is available:\n".to_owned();
    for (address, status) in attempts {
        let hint = match status.source() {
            Some(_) => " (with TLS when it wants none, or without when it does?)",
            None => "",
        };
        let _infallible = writeln!(text, "  {address}: {}{hint}", status.message());
    }
    text.push_str(
        "start one, or name others with --registry HOST:PORT or a context (tandem context --help)",
    );
    text
}

fn said(status: &Status) -> String {
    let advice = ADVICE.iter().find(|(code, _)| *code == status.code());
    let mut advice = advice.map_or("", |(_, advice)| advice);
    let reason = status.get_details_error_info().map(|info| info.reason);
    if reason.as_deref() == Some("ETAG_MISMATCH") {
        advice = "; read it again (tandem get), change that, and apply it";
    }
    match status.message() {
        "" => format!("the registry said no: {}{advice}", status.code()),
        message => format!("{message}{advice}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn details_are_found() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("resources[0].uri", "is no URI");
        details.add_precondition_failure_violation("REFERENCED", "routes/a", "leads to it");
        details.set_retry_info(Some(Duration::from_secs(1)));
        let status = Status::with_error_details(Code::InvalidArgument, "no", details);
        let found: Vec<_> = violations(&status)
            .into_iter()
            .map(|violation| (violation.subject, violation.reason))
            .collect();
        let expected = [
            ("resources[0].uri", "is no URI"),
            ("routes/a", "leads to it"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(violations(&Status::not_found("x")).is_empty());
    }

    #[test]
    fn the_status_depends_on_the_answer() {
        let refused = |code| CallError::Refused(Box::new(Status::new(code, ""))).exit();
        assert_eq!(refused(Code::NotFound), Exit::No);
        assert_eq!(refused(Code::PermissionDenied), Exit::Denied);
        assert_eq!(refused(Code::Unauthenticated), Exit::Denied);
        assert_eq!(CallError::Unavailable(Vec::new()).exit(), Exit::Unavailable);
    }
}
