//! The settings that the registry may change while the process runs: what the profile of its kind
//! says goes over what it was started with, and what it does not say is as it was started.

use std::time::Duration;

use control::view::Profile;
use telemetry::logs::{self, Filter};

use crate::config::HostConfig;

/// What is in force now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    filter: Filter,
    /// How long SIGTERM waits.
    pub(crate) drain_timeout: Duration,
}

impl Live {
    /// Starts with the start-up settings.
    pub(crate) fn new(config: &HostConfig) -> Self {
        Self {
            filter: config.filter.clone(),
            drain_timeout: config.drain_timeout,
        }
    }

    /// Puts a profile in force; without one, or without its word, the start-up settings.
    pub(crate) fn configure(&mut self, config: &HostConfig, profile: Option<&Profile>) {
        let filter = match profile.and_then(|profile| profile.log_filter.as_ref()) {
            None => config.filter.clone(),
            Some(text) => text.parse().unwrap_or_else(|error| {
                tracing::warn!(%error, "log_filter of the profile cannot be read; the one before stays");
                self.filter.clone()
            }),
        };
        if filter != self.filter {
            tracing::info!(%filter, "what is logged changes");
            logs::change(&filter);
            self.filter = filter;
        }
        let drain_timeout = profile.and_then(|profile| profile.drain_timeout);
        self.drain_timeout = drain_timeout.unwrap_or(config.drain_timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RoleDefaults;
    use crate::keys::keys;

    fn config() -> HostConfig {
        let role = RoleDefaults {
            node: "sbc",
            grpc_port: 7402,
            http_port: 7482,
            listen_max: 2,
            egress: false,
            dmq_port: None,
            records: None,
        };
        let command = control::settings::command("sbc", "a test", &keys(&role));
        let matches = command.get_matches_from(["sbc", "--drain-timeout", "5s"]);
        HostConfig::gather(&role, &matches).unwrap().0
    }

    #[test]
    fn a_profile_goes_over_what_a_node_was_started_with_and_its_end_brings_that_back() {
        let config = config();
        let mut live = Live::new(&config);
        let started = live.clone();
        assert_eq!(live.drain_timeout, Duration::from_secs(5));

        let mut profile = Profile {
            id: "sbc".into(),
            log_filter: Some("warn".into()),
            drain_timeout: Some(Duration::from_secs(60)),
            uri_first_response: None,
        };
        live.configure(&config, Some(&profile));
        let expected = Live {
            filter: "warn".parse().unwrap(),
            drain_timeout: Duration::from_secs(60),
        };
        assert_eq!(live, expected);

        profile.drain_timeout = None;
        live.configure(&config, Some(&profile));
        assert_eq!(live.drain_timeout, Duration::from_secs(5));
        assert_eq!(live.filter, expected.filter);
        live.configure(&config, None);
        assert_eq!(live, started);
    }
}
