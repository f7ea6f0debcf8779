//! Which profiles are good.

use super::{Check, limits, some};
use crate::registry::v1;
use crate::view::{MemberKind, Profile, Refusal};

/// How much a part of a log filter lets through.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl TryFrom<&v1::Profile> for Profile {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::Profile) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        let is_of = |kind: MemberKind| id.as_deref() == kind.profile();
        check.unless(
            id.is_none() || is_of(MemberKind::Sbc) || is_of(MemberKind::Router),
            "name",
            "must be profiles/sbc or profiles/router",
        );
        check.text("log_filter", &message.log_filter);
        check.unless(
            message.log_filter.is_empty() || is_log_filter(&message.log_filter),
            "log_filter",
            format_args!(
                "{:?} is not a level ({}) or levels by target, such as info,tandem_sbc=debug",
                message.log_filter,
                LEVELS.join(", ")
            ),
        );
        let drain_timeout = check.duration(
            "drain_timeout",
            message.drain_timeout.as_ref(),
            limits::DRAIN_TIMEOUT,
        );
        let uri_first_response = check.duration(
            "uri_first_response",
            message.uri_first_response.as_ref(),
            limits::FIRST_RESPONSE,
        );
        check.unless(
            message.uri_first_response.is_none() || !is_of(MemberKind::Sbc),
            "uri_first_response",
            "only routers have routes: it belongs into profiles/router",
        );
        let profile = id.map(|id| Self {
            id,
            log_filter: some(&message.log_filter),
            drain_timeout,
            uri_first_response,
        });
        check.finish(profile)
    }
}

/// Tells whether every part is a level or a target with one: what any logger reads in the same way.
fn is_log_filter(text: &str) -> bool {
    let is_target = |target: &str| {
        !target.is_empty()
            && target
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
    };
    text.split(',').all(|part| match part.split_once('=') {
        Some((target, level)) => is_target(target) && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn profile(id: &str) -> v1::Profile {
        v1::Profile {
            name: format!("profiles/{id}"),
            ..v1::Profile::default()
        }
    }

    fn fields(profile: &v1::Profile) -> Vec<String> {
        let refusals = Profile::try_from(profile).unwrap_err();
        refusals.into_iter().map(|refusal| refusal.field).collect()
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn what_a_profile_leaves_out_is_left_to_the_nodes() {
        let empty = Profile::try_from(&profile("sbc")).unwrap();
        let expected = Profile {
            id: "sbc".into(),
            log_filter: None,
            drain_timeout: None,
            uri_first_response: None,
        };
        assert_eq!(empty, expected);
        let told = v1::Profile {
            log_filter: "warn,tandem_router::routes=trace".into(),
            drain_timeout: seconds(60),
            uri_first_response: seconds(5),
            ..profile("router")
        };
        let told = Profile::try_from(&told).unwrap();
        assert_eq!(told.drain_timeout, Some(Duration::from_secs(60)));
        assert_eq!(told.uri_first_response, Some(Duration::from_secs(5)));
        assert!(told.log_filter.is_some());
    }

    #[test]
    fn a_profile_that_no_node_could_obey_is_refused() {
        assert_eq!(fields(&profile("registry")), ["name"]);
        let bad = v1::Profile {
            log_filter: "loud".into(),
            drain_timeout: seconds(-1),
            uri_first_response: seconds(33),
            ..profile("router")
        };
        assert_eq!(
            fields(&bad),
            ["log_filter", "drain_timeout", "uri_first_response"]
        );
        for filter in [
            "info,",
            "=info",
            "a b=info",
            "tandem_sbc",
            "x=info=y",
            "[a]",
        ] {
            let bad = v1::Profile {
                log_filter: filter.into(),
                ..profile("sbc")
            };
            assert_eq!(fields(&bad), ["log_filter"], "{filter}");
        }
        let without_effect = v1::Profile {
            uri_first_response: seconds(5),
            ..profile("sbc")
        };
        assert_eq!(fields(&without_effect), ["uri_first_response"]);
    }
}
