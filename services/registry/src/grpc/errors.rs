//! The one place that turns refusals into gRPC statuses.

use std::time::Duration;

use control::view::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::catalog::Refused;

/// When a request that the store had no answer for may be tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Invalid(refusals) => invalid(&message, &refusals),
            Refused::NotFound(_) | Refused::Session(_) => Self::not_found(message),
            Refused::Exists(_) | Refused::AliveElsewhere(..) => Self::already_exists(message),
            Refused::Etag { .. } | Refused::Busy => Self::aborted(message),
            Refused::Referenced(_, refusals) => referenced(&message, &refusals),
            Refused::Kind(_) | Refused::Incarnation(..) => Self::failed_precondition(message),
            Refused::Full { .. } => Self::resource_exhausted(message),
            Refused::Store(_) => {
                let details = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
                Self::with_error_details(Code::Unavailable, message, details)
            }
        }
    }
}

fn invalid(message: &str, refusals: &[Refusal]) -> Status {
    let mut details = ErrorDetails::new();
    for refusal in refusals {
        details.add_bad_request_violation(&refusal.field, &refusal.reason);
    }
    Status::with_error_details(Code::InvalidArgument, said(message, refusals), details)
}

fn referenced(message: &str, refusals: &[Refusal]) -> Status {
    let mut details = ErrorDetails::new();
    for refusal in refusals {
        details.add_precondition_failure_violation(
            "REFERENCED",
            &refusal.resource,
            refusal.to_string(),
        );
    }
    Status::with_error_details(Code::FailedPrecondition, said(message, refusals), details)
}

/// Clients that show only the message see the reasons, too.
fn said(message: &str, refusals: &[Refusal]) -> String {
    let reasons: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    format!("{message}: {}", reasons.join("; "))
}
