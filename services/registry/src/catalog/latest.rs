//! Reading the latest: what was accepted anywhere before somebody asked is in what he is shown. Where the
//! store does not say in time where it stands, memory is shown, and is said to be memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use store::Point;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Catalog;
use crate::state::State;

/// How long the store may take to say where it stands, and memory to get there.
const READ_MAX: Duration = Duration::from_millis(500);

/// A state to read.
#[derive(Clone, Debug)]
pub(crate) struct Latest {
    pub(crate) state: Arc<State>,
    /// Something later may have been accepted before it was asked for.
    pub(crate) is_stale: bool,
}

/// What the store is asked for: one reading serves all who came before it began.
#[derive(Debug, Default)]
pub(super) struct Readings {
    asked: AtomicU64,
    last: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    /// How many had asked when it began.
    serves: u64,
    /// Nothing when the store did not say.
    point: Option<Point>,
}

impl Catalog {
    /// Returns a state with everything that was accepted before, if the store answers.
    pub(crate) async fn latest(&self) -> Latest {
        let before = self.state().generation();
        let get_there = async {
            match self.stands().await {
                Some(point) => {
                    self.gets_to(point, before).await;
                    true
                }
                None => false,
            }
        };
        let is_there = timeout(READ_MAX, get_there).await.unwrap_or(false);
        Latest {
            state: self.state(),
            is_stale: !is_there,
        }
    }

    /// Asks the store where it stands, or takes what it said to somebody who asked later than this.
    async fn stands(&self) -> Option<Point> {
        let number = self.readings.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.readings.last.lock().await;
        if last.serves < number {
            let serves = self.readings.asked.load(Ordering::SeqCst);
            let point = self.store.point().await.ok();
            *last = Reading { serves, point };
        }
        last.point
    }

    /// Waits until memory shows a point of the store, or what followed it; memory was at `before` when the
    /// store was asked.
    async fn gets_to(&self, point: Point, before: u64) {
        // A store that is behind what was in memory already went back: that is no point to have passed.
        let has_passed =
            |state: &State| state.generation() > point.generation && point.generation >= before;
        let mut states = self.states();
        let there = states.wait_for(|state| state.at == point || has_passed(state));
        // The sender is here, so it cannot be gone.
        let _there = there.await;
    }
}
