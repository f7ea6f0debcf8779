//! Statuses with the details of `google.rpc`, so that a program need not read the message.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every `ErrorInfo` of Tandem.
pub const DOMAIN: &str = "tandem";

/// Why a call was refused, as an `ErrorInfo` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody knows who calls: there is no client certificate, or none that names one URI. UNAUTHENTICATED.
    IdentityMissing,
    /// The caller has not the role that the method needs. PERMISSION_DENIED, with `role` and `identity`.
    RoleMissing,
    /// A node spoke for another one. PERMISSION_DENIED, with `identity` and `resource`.
    NotYourself,
    /// More is going on than this process takes on. RESOURCE_EXHAUSTED, with a `RetryInfo`.
    Overloaded,
    /// The request has a message over the limit. RESOURCE_EXHAUSTED, with `bytes_max`.
    MessageTooLarge,
}

impl Reason {
    /// Returns the text that stands in an `ErrorInfo`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityMissing => "IDENTITY_MISSING",
            Self::RoleMissing => "ROLE_MISSING",
            Self::NotYourself => "NOT_YOURSELF",
            Self::Overloaded => "OVERLOADED",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
        }
    }
}

/// Returns a status whose `ErrorInfo` has this reason and these facts.
#[must_use]
pub fn because(
    code: Code,
    message: impl Into<String>,
    reason: Reason,
    facts: &[(&str, &str)],
) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.as_str(), DOMAIN, owned(facts));
    if reason == Reason::Overloaded {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(code, message, details)
}

/// When a request that found no room may be tried again.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

fn owned(facts: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    facts.iter().map(owned).collect()
}
