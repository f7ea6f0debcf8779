//! What was answered to requests with an id, so that a repeat changes nothing: `requests/<id>`, leased.

use std::hash::Hasher;
use std::time::Duration;

use control::name::Name;
use control::registry::v1::{AppliedAction, Warning};
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};
use store::Write;

use super::decide::Decision;
use crate::refused::{Refused, invalid};

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Longest id, in bytes.
const ID_BYTES_MAX: usize = 64;

/// A request that may be repeated.
#[derive(Clone, Debug)]
pub(crate) struct RequestId {
    id: String,
    /// Tells two requests apart.
    hash: String,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    hash: String,
    pub(crate) generation: u64,
    applied: Vec<(String, i32)>,
    /// Resource, field and reason of each.
    warnings: Vec<(String, String, String)>,
}

impl RequestId {
    /// Reads the id of a request; nothing when it has none.
    pub(crate) fn of<M: prost::Message + prost::Name>(
        id: &str,
        request: &M,
    ) -> Result<Option<Self>, Refused> {
        if id.is_empty() {
            return Ok(None);
        }
        if id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = format!("must be up to {ID_BYTES_MAX} characters of ASCII without spaces");
            return Err(invalid("", "request_id", reason));
        }
        let mut hasher = SipHasher24::new();
        hasher.write(M::full_name().as_bytes());
        hasher.write(&request.encode_to_vec());
        Ok(Some(Self {
            id: id.to_owned(),
            hash: format!("{:032x}", hasher.finish128().as_u128()),
        }))
    }

    pub(super) fn key(&self) -> String {
        format!("requests/{}", self.id)
    }

    /// Reads what is remembered under the key.
    pub(super) fn read(&self, value: &[u8]) -> Result<Done, Refused> {
        match serde_json::from_slice::<Done>(value) {
            Ok(done) if done.hash == self.hash => Ok(done),
            Ok(_) | Err(_) => Err(Refused::RequestIdReused(self.id.clone())),
        }
    }

    /// Returns the write that remembers a decision.
    pub(super) fn remember(&self, generation: u64, decision: &Decision) -> Write {
        let applied = decision.applied.iter();
        let warnings = decision.warnings.iter().cloned();
        let done = Done {
            hash: self.hash.clone(),
            generation,
            applied: applied
                .map(|(name, action)| (name.to_string(), (*action).into()))
                .collect(),
            warnings: warnings
                .map(|warning| (warning.resource, warning.field, warning.reason))
                .collect(),
        };
        Write::PutLeased {
            key: self.key(),
            value: super::json(&done),
            lease: REMEMBERED,
        }
    }
}

impl Done {
    pub(super) fn applied(&self) -> Vec<(Name, AppliedAction)> {
        let applied = self.applied.iter().filter_map(|(name, action)| {
            let action = AppliedAction::try_from(*action).unwrap_or_default();
            Some((name.parse().ok()?, action))
        });
        applied.collect()
    }

    pub(super) fn warnings(&self) -> Vec<Warning> {
        let warnings = self.warnings.iter().cloned();
        warnings
            .map(|(resource, field, reason)| Warning {
                resource,
                field,
                reason,
            })
            .collect()
    }
}
