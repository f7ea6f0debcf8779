//! The members of an etcd cluster, asked one at a time: the same one until it fails, then the next.
//!
//! One client per member and no balancing between them: a balanced client goes on giving a dead
//! member its share of the requests although the others have a quorum.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::{Health, StoreError};

/// How long one member may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
/// How long all of them together may take: an election takes about 1.6 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// Longest wait after a round in which nobody answered.
const ROUND_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Time between two pings of a connection, and how long it may take to answer one: without them a
/// watch at a hung member stays silent for ever.
const PING_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Members {
    places: Vec<Place>,
    chosen: AtomicUsize,
    options: ConnectOptions,
    health: watch::Sender<Health>,
}

struct Place {
    endpoint: String,
    client: OnceCell<Client>,
}

impl Members {
    pub(super) fn new(endpoints: &[String], options: ConnectOptions) -> Self {
        let place = |endpoint: &String| Place {
            endpoint: endpoint.clone(),
            client: OnceCell::new(),
        };
        Self {
            places: endpoints.iter().map(place).collect(),
            chosen: AtomicUsize::new(0),
            options: options
                .with_keep_alive(PING_INTERVAL, PING_INTERVAL)
                .with_keep_alive_while_idle(true)
                .with_connect_timeout(ATTEMPT_MAX)
                .with_require_leader(true)
                .with_auto_token_refresh(true),
            health: watch::Sender::new(Health::Down("not connected yet".to_owned())),
        }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(super) fn note_health(&self, health: Health) {
        self.health.send_if_modified(|current| {
            if *current == health {
                return false;
            }
            match &health {
                Health::Up => tracing::info!("etcd answers"),
                Health::Down(reason) => tracing::warn!(reason, "etcd does not answer"),
            }
            *current = health;
            true
        });
    }

    /// Has the chosen member do something, and another one if that member does not answer.
    ///
    /// `operation` may run more than once, and its effect may come when nobody waits for it any more.
    pub(super) async fn ask<T, F>(&self, operation: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.patience();
        let mut tries = 0;
        loop {
            let chosen = self.chosen.load(Ordering::Relaxed);
            let error = match timeout(ATTEMPT_MAX, self.try_at(chosen, &operation)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) if !may_pass(&error) => return Err(error),
                Ok(Err(error)) => error,
                Err(_elapsed) => Error::IoError(std::io::ErrorKind::TimedOut.into()),
            };
            tries += 1;
            self.leave(chosen);
            let round_over = tries % self.places.len() == 0;
            if round_over && Instant::now() > deadline {
                return Err(error);
            }
            if round_over {
                let pause = SmallRng::from_os_rng().random_range(Duration::ZERO..ROUND_PAUSE_MAX);
                sleep(ROUND_PAUSE_MAX / 4 + pause).await;
            }
        }
    }

    /// Turns to the next member, unless somebody has already.
    pub(super) fn leave(&self, chosen: usize) {
        let next = (chosen + 1) % self.places.len();
        let order = Ordering::Relaxed;
        // Whoever was first has turned to the next one.
        let _moved = self.chosen.compare_exchange(chosen, next, order, order);
    }

    /// Returns the chosen member and its number.
    pub(super) async fn chosen(&self) -> Result<(usize, Client), Error> {
        let chosen = self.chosen.load(Ordering::Relaxed);
        Ok((chosen, self.client(chosen).await?))
    }

    async fn try_at<T, F>(&self, place: usize, operation: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        operation(self.client(place).await?).await
    }

    async fn client(&self, place: usize) -> Result<Client, Error> {
        let place = &self.places[place];
        let connect = || Client::connect([&place.endpoint], Some(self.options.clone()));
        place.client.get_or_try_init(connect).await.cloned()
    }

    /// Once etcd is known to be gone nobody is kept waiting to find that out again.
    fn patience(&self) -> Duration {
        match *self.health.borrow() {
            Health::Up => PATIENCE,
            Health::Down(_) => Duration::ZERO,
        }
    }
}

/// Tells whether another try, or another member, may do better.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::Aborted
        ),
        Error::IoError(_)
        | Error::TransportError(_)
        | Error::WatchError(_)
        | Error::EndpointError(_)
        | Error::Internal(_) => true,
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::Utf8Error(_)
        | Error::LeaseKeepAliveError(_)
        | Error::ElectError(_)
        | Error::InvalidMetadataValue(_)
        | Error::EndpointsNotManaged => false,
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        if may_pass(&error) {
            Self::Unavailable(Some(Box::new(error)))
        } else {
            Self::Refused(Box::new(error))
        }
    }
}
