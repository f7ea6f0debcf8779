//! The one place that turns refusals into gRPC statuses. docs/api.md tells the reasons.

use std::collections::HashMap;
use std::time::Duration;

use control::view::Refusal;
use face::errors::DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::refused::Refused;

/// When a request that the store had no answer for may be tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// When a request that others were faster than may be tried again.
const BUSY_DELAY: Duration = Duration::from_millis(100);

impl Refused {
    /// Returns the code and the `reason` of the `ErrorInfo`.
    fn kind(&self) -> (Code, &'static str) {
        match self {
            Self::Invalid(_) => (Code::InvalidArgument, "INVALID_VALUE"),
            Self::NotFound(_) => (Code::NotFound, "RESOURCE_NOT_FOUND"),
            Self::Exists(_) => (Code::AlreadyExists, "RESOURCE_EXISTS"),
            Self::AliveElsewhere(..) => (Code::AlreadyExists, "ALIVE_ELSEWHERE"),
            Self::Etag { .. } => (Code::Aborted, "ETAG_MISMATCH"),
            Self::Referenced(_) => (Code::FailedPrecondition, "STILL_REFERENCED"),
            Self::Kind(_) => (Code::FailedPrecondition, "KIND_CHANGED"),
            Self::Incarnation(..) => (Code::FailedPrecondition, "INCARNATION_TOO_OLD"),
            Self::Session(_) => (Code::NotFound, "SESSION_UNKNOWN"),
            Self::NoMember(_) => (Code::NotFound, "NO_MEMBER"),
            Self::Full { .. } => (Code::ResourceExhausted, "LIMIT_REACHED"),
            Self::RequestIdReused(_) => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
            Self::Busy => (Code::Aborted, "CONTENTION"),
            Self::Store(_) => (Code::Unavailable, "STORE_UNAVAILABLE"),
            Self::SlowWatcher => (Code::ResourceExhausted, "SLOW_WATCHER"),
            Self::NoHello => (Code::DeadlineExceeded, "NO_HELLO"),
            Self::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
        }
    }

    /// Returns what a program may want to know beside the reason.
    fn facts(&self) -> HashMap<String, String> {
        let facts: &[(&str, String)] = match self {
            Self::NotFound(name)
            | Self::Exists(name)
            | Self::Kind(name)
            | Self::Session(name)
            | Self::NoMember(name) => &[("resource", name.clone())],
            Self::AliveElsewhere(name, address) => {
                &[("resource", name.clone()), ("address", address.clone())]
            }
            Self::Etag { name, stored } => &[("resource", name.clone()), ("etag", stored.clone())],
            Self::Incarnation(name, seen, _) => {
                &[("resource", name.clone()), ("seen", seen.to_string())]
            }
            Self::Full { what, max } => &[("what", (*what).to_owned()), ("max", max.to_string())],
            Self::RequestIdReused(id) => &[("request_id", id.clone())],
            Self::Invalid(_)
            | Self::Referenced(_)
            | Self::Busy
            | Self::Store(_)
            | Self::SlowWatcher
            | Self::NoHello
            | Self::ShuttingDown => &[],
        };
        let owned = |(key, value): &(&str, String)| ((*key).to_owned(), value.clone());
        facts.iter().map(owned).collect()
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let (code, reason) = refused.kind();
        let mut message = refused.to_string();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, refused.facts());
        match &refused {
            Refused::Invalid(refusals) => {
                for refusal in refusals {
                    details.add_bad_request_violation(&refusal.field, &refusal.reason);
                }
                message = said(&message, refusals);
            }
            Refused::Referenced(refusals) => {
                for refusal in refusals {
                    let said = refusal.to_string();
                    details.add_precondition_failure_violation(
                        "REFERENCED",
                        &refusal.resource,
                        said,
                    );
                }
                message = said(&message, refusals);
            }
            Refused::RequestIdReused(_) => {
                details.add_bad_request_violation("request_id", &message);
            }
            Refused::Store(_) | Refused::ShuttingDown => {
                details.set_retry_info(Some(RETRY_DELAY));
            }
            Refused::Busy => drop(details.set_retry_info(Some(BUSY_DELAY))),
            Refused::NotFound(_)
            | Refused::Exists(_)
            | Refused::AliveElsewhere(..)
            | Refused::Etag { .. }
            | Refused::Kind(_)
            | Refused::Incarnation(..)
            | Refused::Session(_)
            | Refused::NoMember(_)
            | Refused::Full { .. }
            | Refused::SlowWatcher
            | Refused::NoHello => {}
        }
        Self::with_error_details(code, message, details)
    }
}

/// Clients that show only the message see the reasons, too.
fn said(message: &str, refusals: &[Refusal]) -> String {
    let reasons: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    format!("{message}: {}", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = include_str!("../../../../docs/api.md");

    #[test]
    fn every_reason_is_documented_with_its_code() {
        let text = String::new;
        let all = [
            Refused::Invalid(Vec::new()),
            Refused::NotFound(text()),
            Refused::Exists(text()),
            Refused::AliveElsewhere(text(), text()),
            Refused::Etag {
                name: text(),
                stored: text(),
            },
            Refused::Referenced(Vec::new()),
            Refused::Kind(text()),
            Refused::Incarnation(text(), 0, 0),
            Refused::Session(text()),
            Refused::NoMember(text()),
            Refused::Full { what: "", max: 0 },
            Refused::RequestIdReused(text()),
            Refused::Busy,
            Refused::Store(None),
            Refused::SlowWatcher,
            Refused::NoHello,
            Refused::ShuttingDown,
        ];
        let rows: Vec<_> = TABLE
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        for refused in all {
            let (code, reason) = refused.kind();
            let code = format!("{code:?}");
            let row = rows.iter().find(|row| row.contains(&format!("`{reason}`")));
            let row = row.unwrap_or_else(|| panic!("{reason} is not in docs/api.md"));
            let said: String = row
                .split('|')
                .nth(2)
                .unwrap_or_default()
                .replace([' ', '_'], "");
            assert!(
                said.eq_ignore_ascii_case(&code),
                "{reason}: {said} is not {code}"
            );
            for fact in refused.facts().keys() {
                assert!(row.contains(&format!("`{fact}`")), "{reason} tells {fact}");
            }
        }
    }
}
