//! How much is worked on at a time. What is over that is refused at once: a queue would only make
//! everybody wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use crate::config::Limits;
use crate::errors::{Reason, because};

/// The places for calls.
pub(crate) struct Load {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Load {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(limits.calls_max)),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
        }
    }

    /// Returns the place of a call, to be kept until it has ended.
    pub(crate) fn place(&self, streams: bool) -> Result<OwnedSemaphorePermit, Status> {
        let (places, what) = match streams {
            true => (&self.streams, "streams are open"),
            false => (&self.calls, "calls are worked on"),
        };
        places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("as many {what} as there may be; try again");
            because(Code::ResourceExhausted, message, Reason::Overloaded, &[])
        })
    }
}
