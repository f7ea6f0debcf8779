//! Why a request was not carried out.

use control::view::Refusal;
use store::StoreError;

/// Why a request was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the request is invalid")]
    Invalid(Vec<Refusal>),
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} is alive at {1}")]
    AliveElsewhere(String, String),
    #[error("{name} has the etag {stored} by now")]
    Etag { name: String, stored: String },
    #[error("something refers to what shall go")]
    Referenced(Vec<Refusal>),
    #[error("{0}: its kind cannot change")]
    Kind(String),
    #[error("{0}: incarnation {1} was seen, {2} is older")]
    Incarnation(String, u64, u64),
    #[error("{0} was removed; the node stays out until it is started again")]
    Removed(String),
    #[error("the session of {0} is not known; register again")]
    Session(String),
    #[error("{0} is no member; register first")]
    NoMember(String),
    #[error("{what}: at most {max}")]
    Full { what: &'static str, max: usize },
    #[error("the request id {0:?} was used for another request")]
    RequestIdReused(String),
    #[error("others keep writing; try again")]
    Busy,
    #[error("the store is not available; nodes carry on with what they have")]
    Store(#[source] Option<StoreError>),
    #[error("nothing was read or answered for too long")]
    SlowWatcher,
    #[error("no Hello came")]
    NoHello,
    #[error("the registry is shutting down")]
    ShuttingDown,
}

/// Refuses one field of a request.
pub(crate) fn invalid(resource: &str, field: &str, reason: impl Into<String>) -> Refused {
    Refused::Invalid(vec![Refusal {
        resource: resource.to_owned(),
        field: field.to_owned(),
        reason: reason.into(),
    }])
}
