//! The one place that turns refusals into gRPC statuses. docs/api.md tells the reasons.

use std::collections::HashMap;
use std::time::Duration;

use control::view::Refusal;
use face::errors::DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::bounded::{REFUSALS_MAX, TEXT_BYTES_MAX, bounded, clip, more};
use crate::refused::Refused;

/// When a request that the store had no answer for may be tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest message but for what refusals add to it, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
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
            Self::Removed(_) => (Code::FailedPrecondition, "MEMBER_REMOVED"),
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
            | Self::Removed(name)
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
        let owned = |(key, value): &(&str, String)| {
            let mut value = value.clone();
            clip(&mut value, TEXT_BYTES_MAX);
            ((*key).to_owned(), value)
        };
        facts.iter().map(owned).collect()
    }

    /// Returns the status with no more than so many of the refusals.
    fn status(&self, told_max: usize) -> Status {
        let (code, reason) = self.kind();
        let mut message = self.to_string();
        clip(&mut message, MESSAGE_BYTES_MAX);
        let mut details = ErrorDetails::new();
        let mut facts = self.facts();
        let (told, untold) = self
            .refusals()
            .split_at(told_max.min(self.refusals().len()));
        if !untold.is_empty() {
            facts.insert("more".to_owned(), untold.len().to_string());
        }
        details.set_error_info(reason, DOMAIN, facts);
        let told = bounded(told.to_vec());
        for Refusal {
            resource,
            field,
            reason,
        } in &told
        {
            if matches!(self, Self::Referenced(_)) {
                let said = format!("{resource}: {field}: {reason}");
                details.add_precondition_failure_violation("REFERENCED", resource, said);
            } else {
                details.add_bad_request_violation(field, reason);
            }
        }
        match self {
            Self::Invalid(_) | Self::Referenced(_) => message = said(&message, &told, untold.len()),
            Self::RequestIdReused(_) => {
                details.add_bad_request_violation("request_id", &message);
            }
            Self::Store(_) | Self::ShuttingDown => drop(details.set_retry_info(Some(RETRY_DELAY))),
            Self::Busy => drop(details.set_retry_info(Some(BUSY_DELAY))),
            Self::NotFound(_)
            | Self::Exists(_)
            | Self::AliveElsewhere(..)
            | Self::Etag { .. }
            | Self::Kind(_)
            | Self::Incarnation(..)
            | Self::Removed(_)
            | Self::Session(_)
            | Self::NoMember(_)
            | Self::Full { .. }
            | Self::SlowWatcher
            | Self::NoHello => {}
        }
        Status::with_error_details(code, message, details)
    }

    /// Returns every single reason; none where the refusal says it all.
    fn refusals(&self) -> &[Refusal] {
        match self {
            Self::Invalid(refusals) | Self::Referenced(refusals) => refusals,
            Self::NotFound(_)
            | Self::Exists(_)
            | Self::AliveElsewhere(..)
            | Self::Etag { .. }
            | Self::Kind(_)
            | Self::Incarnation(..)
            | Self::Removed(_)
            | Self::Session(_)
            | Self::NoMember(_)
            | Self::Full { .. }
            | Self::RequestIdReused(_)
            | Self::Busy
            | Self::Store(_)
            | Self::SlowWatcher
            | Self::NoHello
            | Self::ShuttingDown => &[],
        }
    }
}

impl From<Refused> for Status {
    /// Tells as many of the refusals as every client can read.
    fn from(refused: Refused) -> Self {
        let mut told = refused.refusals().len().min(REFUSALS_MAX);
        loop {
            let status = refused.status(told);
            if told == 0 || face::errors::fits(&status) {
                return status;
            }
            told -= 1;
        }
    }
}

/// Clients that show only the message see the reasons, too.
fn said(message: &str, told: &[Refusal], untold: usize) -> String {
    let mut reasons: Vec<_> = told.iter().map(ToString::to_string).collect();
    if untold > 0 {
        reasons.push(more(untold));
    }
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
            Refused::Removed(text()),
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

    #[test]
    fn whatever_is_wrong_every_client_can_read_the_status() {
        let long = |i: usize, bytes: usize| Refusal {
            resource: format!("members/{i}"),
            field: format!("sip[{i}].address"),
            reason: "\u{e9} ".repeat(bytes),
        };
        for bytes in [1, 20, 200, 100_000] {
            let refusals: Vec<_> = (0..2500).map(|i| long(i, bytes)).collect();
            for refused in [
                Refused::Invalid(refusals.clone()),
                Refused::Referenced(refusals),
            ] {
                let status = Status::from(refused);
                assert!(face::errors::fits(&status), "{bytes}");
                let info = status.get_details_error_info().unwrap();
                let bad = status.get_details_bad_request();
                let failed = status.get_details_precondition_failure();
                let told = bad.map_or(0, |bad| bad.field_violations.len())
                    + failed.map_or(0, |failed| failed.violations.len());
                assert!(told > 0, "{bytes}");
                assert_eq!(info.metadata["more"], (2500 - told).to_string());
                let said = status.message();
                assert!(
                    said.ends_with(&format!("and {} more", 2500 - told)),
                    "{said}"
                );
            }
        }
        let stranger = Status::from(Refused::NoMember("x".repeat(1_000_000)));
        assert!(face::errors::fits(&stranger));
    }
}
