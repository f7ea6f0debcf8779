//! Members without a sign of life for long are forgotten. Since when they are without one stands in the
//! store, so that registries may come and go meanwhile.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control::name::Name;
use store::Write;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::Code;

use super::decide::{Decision, EDITS_MAX, Edit, Node, What, decide};
use super::{Catalog, Made, json};
use crate::refused::Refused;
use crate::resource::path_of;
use crate::state::{Seen, State, seen_key};

/// How often it is looked for them at most, and at least.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Most members that are noted or forgotten at a time: each takes up to three writes.
const MEMBERS_MAX: usize = EDITS_MAX / 2;

impl Catalog {
    /// Notes who lives no more, and forgets who has not for long, for as long as it is polled.
    pub(super) async fn forget_on(&self) -> Infallible {
        let (shortest, longest) = LOOK_INTERVALS;
        let wait = (self.forget_after / 10).clamp(shortest, longest);
        // Whoever could not be heard while no registry ran says first that it lives.
        let mut looks = interval_at(Instant::now() + wait, wait);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = millis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            );
            let after = millis(self.forget_after);
            match self.write(None, |state| look(state, now, after)).await {
                Ok(Made::Now(decision)) => {
                    for (name, _) in decision.applied {
                        tracing::info!(node = name.id(), "member forgotten: it lives no more");
                        face::audit::without_call(
                            "registry",
                            "forget",
                            &name.to_string(),
                            Code::Ok,
                        );
                    }
                }
                Ok(Made::Before(_)) => {}
                Err(error) => tracing::debug!(%error, "nobody can be forgotten now"),
            }
        }
    }
}

/// Decides on some of the members that live no more. One of which a hand wants something else stays.
fn look(state: &State, now: u64, after: u64) -> Result<Decision, Refused> {
    let mut noted = Vec::new();
    let mut forgotten = Vec::new();
    let gone = state
        .seen
        .iter()
        .filter(|(id, seen)| !seen.removed && !state.alive.contains_key(*id));
    for (id, seen) in gone {
        let name = Name::Member(id.to_string());
        match seen.gone_since {
            None => noted.push(Write::Put {
                key: seen_key(id),
                value: json(&Seen {
                    gone_since: Some(now),
                    ..Seen::clone(seen)
                }),
            }),
            Some(since)
                if since.saturating_add(after) <= now
                    && state.resources.by_name.contains_key(&name)
                    && !state.written.differs(&path_of(&name)) =>
            {
                forgotten.push(Edit {
                    at: String::new(),
                    what: What::Delete {
                        name: name.to_string(),
                        etag: String::new(),
                        allow_missing: true,
                        node: Node::MayReturn,
                    },
                });
            }
            Some(_) => {}
        }
        if noted.len() + forgotten.len() == MEMBERS_MAX {
            break;
        }
    }
    let mut decision = decide(state, &forgotten)?;
    decision.writes.extend(noted);
    Ok(decision)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
