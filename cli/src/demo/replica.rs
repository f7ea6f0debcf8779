//! How well the routers' replicas are, as they say themselves.

use std::time::{Duration, Instant};

use control::router::v1::ReplicationStatus;

use super::system::System;

/// How long two living routers may take to finish comparing what they hold.
const COMPARED_MAX: Duration = Duration::from_secs(3);

/// What the routers say, as one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Replicas {
    /// From a change to the other node's answer, a Kamailio's too: what half of them did not exceed; the worst.
    pub(crate) lag_p50: Option<Duration>,
    /// The same of 99 in a hundred.
    pub(crate) lag_p99: Option<Duration>,
    /// Keys that differed when they were compared last.
    pub(crate) divergence: u64,
    /// How long ago that was; `None` with nobody to compare with.
    pub(crate) verify_age: Option<Duration>,
}

impl Replicas {
    /// Reads what the living routers say. `last` is what a router said before it was killed.
    pub(crate) async fn read(
        system: &System,
        last: Option<&ReplicationStatus>,
    ) -> anyhow::Result<Self> {
        let start = Instant::now();
        loop {
            let mut living = Vec::new();
            for router in system.living_tandem_routers() {
                living.push(system.replication_status(router).await?);
            }
            let are_two = living.len() > 1;
            let is_compared = living
                .iter()
                .all(|status| age(status).is_some_and(|age| age <= start.elapsed()));
            if !are_two || is_compared || start.elapsed() > COMPARED_MAX {
                return Ok(Self::of(&living, last));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn of(living: &[ReplicationStatus], last: Option<&ReplicationStatus>) -> Self {
        let all = || living.iter().chain(last);
        let p50 = |status: &ReplicationStatus| [status.lag_p50, status.stock_lag_p50];
        let p99 = |status: &ReplicationStatus| [status.lag_p99, status.stock_lag_p99];
        let lag_p50 = all().flat_map(p50).filter_map(duration).max();
        let lag_p99 = all().flat_map(p99).filter_map(duration).max();
        // A router that is alone may not have noticed yet.
        let ages = living.iter().filter_map(age);
        let verify_age = ages.max().filter(|_| living.len() > 1);
        Self {
            lag_p50,
            lag_p99,
            divergence: living
                .iter()
                .map(|status| status.divergence)
                .max()
                .unwrap_or(0),
            verify_age,
        }
    }
}

fn age(status: &ReplicationStatus) -> Option<Duration> {
    duration(status.verify_age)
}

fn duration(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(lag_ms: u64, divergence: u64, age_s: u64) -> ReplicationStatus {
        let lag = Duration::from_millis(lag_ms).try_into().ok();
        ReplicationStatus {
            lag_p50: lag,
            lag_p99: lag,
            divergence,
            verify_age: Duration::from_secs(age_s).try_into().ok(),
            ..ReplicationStatus::default()
        }
    }

    #[test]
    fn of_two_routers_the_worse_figure_counts() {
        let replicas = Replicas::of(&[status(1, 0, 2), status(3, 4, 1)], None);
        let expected = Replicas {
            lag_p50: Some(Duration::from_millis(3)),
            lag_p99: Some(Duration::from_millis(3)),
            divergence: 4,
            verify_age: Some(Duration::from_secs(2)),
        };
        assert_eq!(replicas, expected);
    }

    #[test]
    fn how_long_a_kamailio_takes_is_shown_too() {
        let (p50, p99) = (Duration::from_millis(2), Duration::from_millis(9));
        let status = ReplicationStatus {
            stock_lag_p50: p50.try_into().ok(),
            stock_lag_p99: p99.try_into().ok(),
            ..ReplicationStatus::default()
        };
        let replicas = Replicas::of(&[status], None);
        assert_eq!(replicas.lag_p50, Some(p50));
        assert_eq!(replicas.lag_p99, Some(p99));
    }

    #[test]
    fn a_killed_router_has_a_lag_and_is_compared_with_nobody() {
        let replicas = Replicas::of(&[status(1, 0, 5)], Some(&status(7, 9, 1)));
        assert_eq!(replicas.lag_p99, Some(Duration::from_millis(7)));
        assert_eq!((replicas.divergence, replicas.verify_age), (0, None));
    }
}
