//! What is wrong with a resource, found field by field and said at once.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::check_sip_uri;
use crate::name::Name;
use crate::view::limits::{self, Range};

/// One reason why a resource is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the resource.
    pub resource: String,
    /// Path of the field in it; empty for the whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.resource, self.field, self.reason)
    }
}

/// Collects what is wrong with one resource, so that all of it is said at once.
pub(super) struct Check {
    resource: String,
    refusals: Vec<Refusal>,
}

impl Check {
    pub(super) fn new(resource: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            refusals: Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, field: impl Into<String>, reason: impl Display) {
        self.refusals.push(Refusal {
            resource: self.resource.clone(),
            field: field.into(),
            reason: reason.to_string(),
        });
    }

    pub(super) fn unless(&mut self, good: bool, field: &str, reason: impl Display) {
        if !good {
            self.refuse(field, reason);
        }
    }

    pub(super) fn name(&mut self, name: &str) -> Option<Name> {
        name.parse()
            .map_err(|error| self.refuse("name", error))
            .ok()
    }

    pub(super) fn parse<T: FromStr>(&mut self, field: &str, text: &str, what: &str) -> Option<T> {
        let value = text.parse().ok();
        self.unless(
            value.is_some(),
            field,
            format_args!("{text:?} is not {what}"),
        );
        value
    }

    pub(super) fn reachable(&mut self, field: &str, text: &str) -> Option<SocketAddr> {
        let address: SocketAddr = self.parse(field, text, "a numeric address with a port")?;
        self.unless(address.port() != 0, field, "port 0 cannot be reached");
        Some(address)
    }

    pub(super) fn count(&mut self, field: &str, count: usize, max: usize) {
        self.unless(
            count <= max,
            field,
            format_args!("{count} entries, at most {max} are allowed"),
        );
    }

    pub(super) fn at_least_one(
        &mut self,
        field: &str,
        count: usize,
        range: Range<usize>,
        what: &str,
    ) {
        self.unless(
            count >= range.min,
            field,
            format_args!("at least one {what} is required"),
        );
        self.count(field, count, range.max);
    }

    pub(super) fn text(&mut self, field: &str, text: &str) {
        let max = limits::TEXT_BYTES_MAX;
        self.unless(
            text.len() <= max,
            field,
            format_args!("longer than {max} bytes"),
        );
        self.unless(
            !text.chars().any(char::is_control),
            field,
            "contains a control character",
        );
    }

    pub(super) fn uri(&mut self, field: &str, uri: &str) {
        self.text(field, uri);
        if let Err(reason) = check_sip_uri(uri) {
            self.refuse(field, format_args!("{uri:?} {reason}"));
        }
    }

    pub(super) fn duration(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        range: Range<Duration>,
    ) -> Option<Duration> {
        let value = value?;
        let duration = Duration::try_from(*value).ok();
        let duration = duration.filter(|duration| range.contains(duration));
        self.unless(
            duration.is_some(),
            field,
            format_args!("must be {:?} to {:?}", range.min, range.max),
        );
        duration
    }

    /// A duration of which stock nodes are told.
    pub(super) fn whole_seconds(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        range: Range<Duration>,
    ) -> Option<Duration> {
        let duration = self.duration(field, value, range);
        self.unless(
            duration.is_none_or(|duration| duration.subsec_nanos() == 0),
            field,
            "must be whole seconds: stock nodes know no other",
        );
        duration
    }

    pub(super) fn range(&mut self, field: &str, value: u32, range: Range<u32>) -> u32 {
        let Range { min, max } = range;
        self.unless(
            range.contains(&value),
            field,
            format_args!("{value} is not in {min} to {max}"),
        );
        value
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Refusal>> {
        match value {
            Some(value) if self.refusals.is_empty() => Ok(value),
            Some(_) | None => Err(self.refusals),
        }
    }
}
