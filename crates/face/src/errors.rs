//! Statuses with the details of `google.rpc`, so that a program need not read the message.

use std::collections::HashMap;
use std::time::Duration;

use tonic::body::Body;
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

/// Most bytes of a status in the header fields of an answer. Clients take 8 KiB of all fields together
/// (gRPC's C core) or 16 KiB (Rust and Go), and whoever gets more sees a broken connection instead of the
/// reason.
pub const STATUS_BYTES_MAX: usize = 6 * 1024;
/// What HTTP/2 counts for each header field beside its name and value (RFC 9113 section 6.5.2).
const FIELD_BYTES: usize = 32;

/// Tells whether every client can read a status.
#[must_use]
pub fn fits(status: &Status) -> bool {
    let answer = status.clone().into_http::<Body>();
    let fields = answer.headers().iter();
    let bytes = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    bytes.sum::<usize>() <= STATUS_BYTES_MAX
}

/// When a request that found no room may be tried again.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

fn owned(facts: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    facts.iter().map(owned).collect()
}
