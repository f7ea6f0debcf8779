//! `WatchService`: the configuration for people, tools and meshes. Like a node's, without answers.

use std::sync::Arc;

use control::name::Name;
use control::registry::v1::watch_service_server::WatchService;
use control::registry::v1::{
    Bookmark, Change, Position, Resource, Snapshot, SnapshotReason, WatchRequest, WatchResponse,
    watch_response,
};
use prost::Message;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

use super::Face;
use super::outgoing::{Answers, Outgoing, outgoing};
use super::step::{CHANGE_BYTES_MAX, Step, parts_of, step};
use crate::catalog::Catalog;
use crate::config::Pace;
use crate::refused::{Refused, invalid};
use crate::state::State;

/// Most filters of one watcher.
const FILTERS_MAX: usize = 16;

#[tonic::async_trait]
impl WatchService for Face {
    type WatchStream = Outgoing<WatchResponse>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { filters, since } = request.into_inner();
        let filter = Filter::new(filters)?;
        let (answers, outgoing) = outgoing();
        let face = self.clone();
        tokio::spawn(async move {
            let mut watcher = Watcher {
                answers: &answers,
                pace: face.pace,
                filter,
                sent: since,
                quiet_since: Instant::now(),
            };
            let end = tokio::select! {
                end = watcher.follow(&face.catalog) => end,
                () = face.shutdown.cancelled() => Err(Refused::ShuttingDown.into()),
                () = answers.closed() => return,
            };
            if let Err(status) = end {
                answers.end(status);
            }
        });
        Ok(Response::new(outgoing))
    }
}

/// What a watcher wants to see.
#[derive(Debug)]
struct Filter(Vec<String>);

impl Filter {
    fn new(filters: Vec<String>) -> Result<Self, Refused> {
        if filters.len() > FILTERS_MAX {
            let reason = format!(
                "{} entries, at most {FILTERS_MAX} are allowed",
                filters.len()
            );
            return Err(invalid("", "filters", reason));
        }
        for (i, filter) in filters.iter().enumerate() {
            // What a beginning begins is seen by giving it an end.
            let probe = match filter.strip_suffix('/') {
                Some("sets") => "sets/x".to_owned(),
                Some(set) if set.starts_with("sets/") && !set.ends_with("/destinations") => {
                    set.to_owned()
                }
                Some(_) => format!("{filter}x"),
                None => filter.clone(),
            };
            if let Err(error) = probe.parse::<Name>() {
                let reason =
                    format!("{filter:?} is neither a name nor the beginning of one: {error}");
                return Err(invalid("", &format!("filters[{i}]"), reason));
            }
        }
        Ok(Self(filters))
    }

    fn lets_through(&self, name: &Name) -> bool {
        let name = name.to_string();
        let passes = |filter: &String| {
            *filter == name || filter.ends_with('/') && name.starts_with(filter.as_str())
        };
        self.0.is_empty() || self.0.iter().any(passes)
    }
}

struct Watcher<'a> {
    answers: &'a Answers<WatchResponse>,
    pace: Pace,
    filter: Filter,
    /// What the watcher has; `None` for nothing.
    sent: Option<Position>,
    /// When something was sent last, whatever happened since that the watcher does not want to see.
    quiet_since: Instant,
}

impl Watcher<'_> {
    async fn follow(&mut self, catalog: &Catalog) -> Result<(), Status> {
        let mut states = catalog.states();
        let known = self.sent.map_or(0, |position| position.generation);
        catalog.catch_up(known).await?;
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            self.catch_up(&state).await?;
            // Not kept while nothing happens: it may be the last to hold it.
            drop(state);
            tokio::select! {
                changed = states.changed() => changed.map_err(|_| Refused::ShuttingDown)?,
                () = sleep_until(self.quiet_since + self.pace.bookmark_interval) => {
                    let position = self.sent;
                    self.send(watch_response::Message::Bookmark(Bookmark { position })).await?;
                }
            }
        }
    }

    /// Sends what the watcher lacks of what it wants to see.
    async fn catch_up(&mut self, state: &State) -> Result<(), Status> {
        match step(self.sent, state) {
            Step::None => {}
            Step::Snapshot(reason) => self.send_snapshot(state, reason).await?,
            Step::Change(touched) => {
                let mut change = Change {
                    position: Some(state.position),
                    ..Change::default()
                };
                for name in touched {
                    if !self.filter.lets_through(name) {
                        continue;
                    }
                    match state.resources.by_name.get(name) {
                        Some(resource) => change.changed.push(Resource::clone(resource)),
                        None => change.deleted.push(name.to_string()),
                    }
                }
                if change.encoded_len() > CHANGE_BYTES_MAX {
                    let reason = SnapshotReason::HistoryLost;
                    self.send_snapshot(state, reason).await?;
                } else if !(change.changed.is_empty() && change.deleted.is_empty()) {
                    self.send(watch_response::Message::Change(change)).await?;
                }
            }
        }
        self.sent = Some(state.position);
        Ok(())
    }

    async fn send_snapshot(&mut self, state: &State, reason: SnapshotReason) -> Result<(), Status> {
        let all = state.resources.by_name.iter();
        let wanted = all.filter(|(name, _)| self.filter.lets_through(name));
        let parts = parts_of(wanted.map(|(_, resource)| &**resource));
        let mut parts = parts.into_iter().peekable();
        while let Some(resources) = parts.next() {
            let part = Snapshot {
                position: Some(state.position),
                reason: reason.into(),
                resources: resources.into_iter().cloned().collect(),
                complete: parts.peek().is_none(),
                ..Snapshot::default()
            };
            self.send(watch_response::Message::Snapshot(part)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: watch_response::Message) -> Result<(), Status> {
        let response = WatchResponse {
            message: Some(message),
        };
        let patience = self.pace.slow_watcher_after;
        let sent = self.answers.send(response, patience).await;
        self.quiet_since = Instant::now();
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_names_or_their_beginnings() {
        for good in [
            "members/",
            "sets/",
            "sets/1",
            "sets/1/",
            "sets/1/destinations/",
            "routes/a",
        ] {
            assert!(Filter::new(vec![good.to_owned()]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "member/",
            "members",
            "sets/A/",
            "sets/1/destinations",
            "members/a/",
        ] {
            let refused = Filter::new(vec!["sets/1".to_owned(), bad.to_owned()]).unwrap_err();
            assert!(
                matches!(&refused, Refused::Invalid(found) if found[0].field == "filters[1]"),
                "{bad}: {refused}"
            );
        }
        assert!(Filter::new(vec!["sets/".to_owned(); 17]).is_err());
    }

    #[test]
    fn a_beginning_lets_through_what_it_begins() {
        let filter = ["sets/1", "sets/2/", "members/"].map(str::to_owned);
        let filter = Filter::new(filter.to_vec()).unwrap();
        let passes = |name: &str| filter.lets_through(&name.parse().unwrap());
        for name in ["sets/1", "sets/2/destinations/a", "members/a"] {
            assert!(passes(name), "{name}");
        }
        for name in ["sets/1/destinations/a", "sets/12", "sets/2", "routes/a"] {
            assert!(!passes(name), "{name}");
        }
        assert!(
            Filter::new(Vec::new())
                .unwrap()
                .lets_through(&"routes/a".parse().unwrap())
        );
    }
}
