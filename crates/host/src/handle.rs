//! How the control plane of a process reaches its element: under the node's lock, then out it goes.

use std::sync::Arc;
use std::time::Instant;

use element::{Element, Sharded, Turn};
use parking_lot::Mutex;
use transport::{RunningClock, Transmitter};

/// An element with its clock and a way to send what the control plane causes. Clones share it.
pub struct Handle<S: element::Shard, N> {
    element: Arc<Sharded<S, N>>,
    clock: Arc<RunningClock>,
    output: Arc<Mutex<(Turn, Transmitter)>>,
}

impl<S: element::Shard, N> Clone for Handle<S, N> {
    fn clone(&self) -> Self {
        Self {
            element: self.element.clone(),
            clock: self.clock.clone(),
            output: self.output.clone(),
        }
    }
}

impl<S, N> Handle<S, N>
where
    S: element::Shard,
    N: element::Node<View = S::View, Notice = S::Notice, Outcomes = S::Outcomes>,
{
    pub(crate) fn new(
        element: Arc<Sharded<S, N>>,
        clock: Arc<RunningClock>,
        transmitter: Transmitter,
    ) -> Self {
        Self {
            element,
            clock,
            output: Arc::new(Mutex::new((Turn::new(), transmitter))),
        }
    }

    /// Changes the node; what follows from it has been published and sent when this returns.
    pub fn with_node<R>(&self, f: impl FnOnce(Instant, &mut N) -> R) -> R {
        let mut output = self.output.lock();
        let (turn, transmitter) = &mut *output;
        let now = self.clock.now();
        let result = self.element.with_node(now, turn, |node| f(now, node));
        self.element.flush(turn, transmitter);
        result
    }

    /// Returns the element.
    #[must_use]
    pub fn element(&self) -> &Sharded<S, N> {
        &self.element
    }

    /// Returns the time by which the element runs.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }
}
