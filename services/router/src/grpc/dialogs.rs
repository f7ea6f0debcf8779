//! `tandem.router.v1.DialogService`: the dialogs of the cell as this router holds them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::router::v1::dialog_service_server::DialogService;
use control::router::v1::watch_dialogs_response::Event;
use control::router::v1::{
    self as api, Dialog, DialogState, EndCause, GetDialogRequest, ListDialogsRequest,
    ListDialogsResponse, WatchDialogsRequest, WatchDialogsResponse,
};
use dmq_bodies::Did;
use host::pages;
use host::tap::Reading;
use replication::{Cause, DialogKey, DialogRecord, Held, Leg, Replication};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::base64url;
use super::cell::{Cell, seconds};
use super::watch::{Watch, cut};

/// How many dialogs are copied while the node is locked once.
const CHUNK: usize = 256;

pub(super) struct Dialogs {
    pub(super) cell: Cell,
    pub(super) watch: Arc<Watch>,
}

/// A dialog as it was when the node was locked.
type Copied = (DialogKey, Held);

/// Where a page begins: after a key, if there is one, in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    partition: u8,
    after: Option<DialogKey>,
}

#[tonic::async_trait]
impl DialogService for Dialogs {
    async fn get_dialog(
        &self,
        request: Request<GetDialogRequest>,
    ) -> Result<Response<Dialog>, Status> {
        let name = request.into_inner().name;
        let (h_entry, h_id) = parse_name(&name).ok_or_else(|| {
            Status::invalid_argument(format!(
                "name: {name:?} is not dialogs/H_ENTRY.H_ID in decimal"
            ))
        })?;
        let found = self.cell.look(|replication| {
            let mut named = replication.dialogs_named(Did { h_entry, h_id });
            let (key, held) = named.next()?;
            Some((key, held.clone(), replication.config().hash_size))
        })?;
        let (key, held, size) = found.ok_or_else(|| {
            Status::not_found(format!("{name}: this router holds no such dialog"))
        })?;
        Ok(Response::new(shown(&key, &held, size, self.cell.now())))
    }

    async fn list_dialogs(
        &self,
        request: Request<ListDialogsRequest>,
    ) -> Result<Response<ListDialogsResponse>, Status> {
        let request = request.into_inner();
        let size = pages::size(request.page_size)?;
        let place = Place::decode(&request.page_token)?;
        let (found, next) = match request.call_id.is_empty() {
            true => self.page(place, size, request.show_ended)?,
            false => (self.of_call(&request, place.after, size)?, None),
        };
        let hash_size = self
            .cell
            .look(|replication| replication.config().hash_size)?;
        let now = self.cell.now();
        let dialogs = found.iter();
        let dialogs = dialogs.map(|(key, held)| shown(key, held, hash_size, now));
        Ok(Response::new(ListDialogsResponse {
            dialogs: dialogs.collect(),
            next_page_token: next.map_or_else(String::new, |place| place.encode()),
        }))
    }

    type WatchDialogsStream =
        Pin<Box<dyn Stream<Item = Result<WatchDialogsResponse, Status>> + Send>>;

    async fn watch_dialogs(
        &self,
        request: Request<WatchDialogsRequest>,
    ) -> Result<Response<Self::WatchDialogsStream>, Status> {
        let dialogs = self.watch.dialogs(request.into_inner().call_id).await?;
        let responses = dialogs.map(|reading| {
            let event = Some(match reading {
                Reading::Item(dialog) => Event::Dialog(dialog),
                Reading::Cut { reason, missed } => Event::Cut(cut(reason, missed)),
            });
            Ok(WatchDialogsResponse { event })
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

impl Dialogs {
    /// Returns a page of all dialogs, and where the next begins.
    fn page(
        &self,
        mut place: Place,
        size: usize,
        show_ended: bool,
    ) -> Result<(Vec<Copied>, Option<Place>), Status> {
        let mut found: Vec<Copied> = Vec::new();
        while found.len() < size {
            let room = CHUNK.min(size - found.len());
            let chunk = self
                .cell
                .look(|replication| chunk(replication, &place, room, show_ended))?;
            if chunk.len() == room {
                place.after = chunk.last().map(|(key, _)| key.clone());
            } else if let Some(partition) = place.partition.checked_add(1) {
                place = Place {
                    partition,
                    after: None,
                };
            } else {
                found.extend(chunk);
                return Ok((found, None));
            }
            found.extend(chunk);
        }
        Ok((found, Some(place)))
    }

    /// Returns the dialogs of one Call-ID: a few, and always on one page.
    fn of_call(
        &self,
        request: &ListDialogsRequest,
        after: Option<DialogKey>,
        size: usize,
    ) -> Result<Vec<Copied>, Status> {
        self.cell.look(|replication| {
            let dialogs = replication.replica().dialogs().of_call(&request.call_id);
            let dialogs = dialogs.filter(|(_, held)| request.show_ended || !held.record.is_ended());
            let dialogs = dialogs.filter(|(key, _)| Some(*key) > after.as_ref());
            let copies = dialogs.map(|(key, held)| (key.clone(), held.clone()));
            copies.take(size).collect()
        })
    }
}

fn chunk(replication: &Replication, place: &Place, room: usize, show_ended: bool) -> Vec<Copied> {
    let dialogs = replication.replica().dialogs();
    let dialogs = dialogs.partition_iter(place.partition);
    let dialogs = dialogs.skip_while(|(key, _)| place.after.as_ref() >= Some(*key));
    let dialogs = dialogs.filter(|(_, held)| show_ended || !held.record.is_ended());
    let copies = dialogs.map(|(key, held)| (key.clone(), held.clone()));
    copies.take(room).collect()
}

impl Place {
    fn encode(&self) -> String {
        let mut bytes = vec![self.partition];
        if let Some(DialogKey { call_id, h_id }) = &self.after {
            bytes.extend_from_slice(&h_id.to_be_bytes());
            bytes.extend_from_slice(call_id);
        }
        base64url::encode(&bytes)
    }

    fn decode(token: &str) -> Result<Self, Status> {
        if token.is_empty() {
            return Ok(Self::default());
        }
        let bytes = base64url::decode(token).ok_or_else(pages::bad_token)?;
        let (partition, rest) = bytes.split_first().ok_or_else(pages::bad_token)?;
        let after = match rest.split_first_chunk() {
            Some((h_id, call_id)) => Some(DialogKey {
                call_id: call_id.into(),
                h_id: u32::from_be_bytes(*h_id),
            }),
            None if rest.is_empty() => None,
            None => return Err(pages::bad_token()),
        };
        Ok(Self {
            partition: *partition,
            after,
        })
    }
}

fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (h_entry, h_id) = name.strip_prefix("dialogs/")?.split_once('.')?;
    Some((h_entry.parse().ok()?, h_id.parse().ok()?))
}

/// Returns a dialog as it is held.
pub(super) fn shown(key: &DialogKey, held: &Held, hash_size: u32, now: Instant) -> Dialog {
    let remaining = held.at.saturating_duration_since(now);
    of_record(key, &held.record, remaining, hash_size)
}

/// Returns a dialog as it is shown; `remaining` counts while it goes on.
pub(super) fn of_record(
    key: &DialogKey,
    record: &DialogRecord,
    remaining: Duration,
    hash_size: u32,
) -> Dialog {
    let DialogRecord {
        state,
        ownership,
        created,
        answered,
        from_uri,
        to_uri,
        request_uri,
        caller,
        callee,
        variables,
        profiles,
        lifetime,
        iflags: _,
        end,
    } = record;
    let h_entry = dmq_bodies::slot(&key.call_id, hash_size);
    let remaining = match record.is_ended() {
        true => Duration::ZERO,
        false => remaining,
    };
    let variables = variables.iter().filter_map(|(name, variable)| {
        let value = variable.value.as_ref()?.to_vec();
        let name = name.to_vec();
        Some(api::Variable { name, value })
    });
    let profiles = profiles.list.iter().map(|profile| api::Profile {
        name: profile.name.to_vec(),
        value: profile.value.as_ref().map(|value| value.to_vec()),
        puid: profile.puid.to_vec(),
        expire_time: seconds(profile.expires),
    });
    let whole_seconds = |seconds: u32| prost_types::Duration {
        seconds: seconds.into(),
        nanos: 0,
    };
    Dialog {
        name: format!("dialogs/{h_entry}.{}", key.h_id),
        call_id: key.call_id.to_vec(),
        h_entry,
        h_id: key.h_id,
        state: state_of(*state).into(),
        owner: ownership.owner.to_string(),
        epoch: ownership.epoch,
        create_time: seconds(*created),
        answer_time: seconds(*answered),
        from_uri: from_uri.to_vec(),
        to_uri: to_uri.to_vec(),
        request_uri: request_uri.to_vec(),
        caller: Some(leg(caller)),
        callee: Some(leg(callee)),
        variables: variables.collect(),
        profiles: profiles.collect(),
        lifetime: (lifetime.seconds > 0).then(|| whole_seconds(lifetime.seconds)),
        remaining: remaining.try_into().ok(),
        end_time: end.and_then(|end| seconds(end.at)),
        end_cause: end
            .map_or(EndCause::Unspecified, |end| cause(end.cause))
            .into(),
    }
}

fn leg(leg: &Leg) -> api::Leg {
    api::Leg {
        tag: leg.tag.to_vec(),
        cseq: leg.cseq,
        contact: leg.contact.to_vec(),
        route_set: leg.route_set.to_vec(),
    }
}

fn state_of(state: replication::DialogState) -> DialogState {
    use replication::DialogState as Held;
    match state {
        Held::Unconfirmed => DialogState::Unconfirmed,
        Held::Early => DialogState::Early,
        Held::Answered => DialogState::Answered,
        Held::Confirmed => DialogState::Confirmed,
        Held::Ended => DialogState::Ended,
    }
}

fn cause(cause: Cause) -> EndCause {
    match cause {
        Cause::Bye => EndCause::Bye,
        Cause::Failed => EndCause::Failed,
        Cause::Cancelled => EndCause::Cancelled,
        Cause::Expired => EndCause::Expired,
        Cause::OwnerLost => EndCause::OwnerLost,
        Cause::Told => EndCause::Told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_to_its_place() {
        let key = |call_id: &[u8]| DialogKey {
            call_id: call_id.into(),
            h_id: 0x0102_0304,
        };
        for after in [None, Some(key(b"")), Some(key(b"a@b"))] {
            let partition = 7;
            let place = Place { partition, after };
            assert_eq!(Place::decode(&place.encode()).unwrap(), place);
        }
        assert_eq!(Place::decode("").unwrap(), Place::default());
        for wrong in ["=", "AAA", "!"] {
            assert!(Place::decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_two_numbers() {
        assert_eq!(parse_name("dialogs/3367.12"), Some((3367, 12)));
        for wrong in ["dialogs/3367", "dialogs/a.1", "3367.12", "dialogs/1.2.3"] {
            assert_eq!(parse_name(wrong), None, "{wrong}");
        }
    }
}
