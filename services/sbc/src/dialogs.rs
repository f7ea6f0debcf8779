//! `tandem.sbc.v1.DialogService`: the dialogs of this SBC, shard by shard. A shard's SIP waits while it is
//! looked at, so that is never for long.

use std::time::{Instant, SystemTime};

use control::sbc::v1::dialog_service_server::{DialogService, DialogServiceServer};
use control::sbc::v1::{
    Dialog, DialogState, GetDialogRequest, ListDialogsRequest, ListDialogsResponse,
};
use host::{Host, pages};
use sip::{DialogKey, KnownDialog};
use tonic::{Request, Response, Status};

use crate::role::{Sbc, SbcHandle};

/// How many dialogs are looked at while a shard is locked once.
const CHUNK: usize = 256;

struct Service(SbcHandle);

/// Returns the service.
pub(crate) fn service(host: &Host<Sbc>) -> DialogServiceServer<impl DialogService> {
    DialogServiceServer::new(Service(host.handle.clone()))
}

/// A dialog, or where a list goes on: behind one, or at the beginning of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    shard: usize,
    key: Option<DialogKey>,
}

/// The two clocks at one moment.
#[derive(Clone, Copy)]
struct Clock {
    now: Instant,
    wall: SystemTime,
}

#[tonic::async_trait]
impl DialogService for Service {
    async fn get_dialog(
        &self,
        request: Request<GetDialogRequest>,
    ) -> Result<Response<Dialog>, Status> {
        let name = request.into_inner().name;
        let place = name.strip_prefix("dialogs/").and_then(Place::read);
        let Some(Place {
            shard,
            key: Some(key),
        }) = place
        else {
            return Err(Status::invalid_argument(format!(
                "name: {name:?} is not dialogs/SHARD.KEY"
            )));
        };
        let clock = self.clock();
        let found = self.0.element().inspect_shard(shard, |held| {
            let known = held.dialogs.find(key)?;
            Some(shown(shard, known, clock))
        });
        let missing = || Status::not_found(format!("{name}: there is no such dialog (any more)"));
        found.flatten().map(Response::new).ok_or_else(missing)
    }

    async fn list_dialogs(
        &self,
        request: Request<ListDialogsRequest>,
    ) -> Result<Response<ListDialogsResponse>, Status> {
        let ListDialogsRequest {
            call_id,
            page_size,
            page_token,
        } = request.into_inner();
        let size = pages::size(page_size)?;
        // All dialogs of a Call-ID are in one shard.
        let only = (!call_id.is_empty()).then(|| self.0.element().shard_of(&call_id));
        let start = Place {
            shard: only.unwrap_or_default(),
            key: None,
        };
        let place = match page_token.as_str() {
            "" => start,
            token => Place::read(token).ok_or_else(pages::bad_token)?,
        };
        let (dialogs, next) = self.page(place, size, &call_id, only);
        Ok(Response::new(ListDialogsResponse {
            dialogs,
            next_page_token: next.map_or_else(String::new, Place::write),
        }))
    }
}

impl Service {
    fn clock(&self) -> Clock {
        Clock {
            now: self.0.now(),
            wall: SystemTime::now(),
        }
    }

    /// Returns a page, and where the next begins: of all dialogs, or of those of one Call-ID, which are
    /// in the shard `only`.
    fn page(
        &self,
        mut place: Place,
        size: usize,
        call_id: &[u8],
        only: Option<usize>,
    ) -> (Vec<Dialog>, Option<Place>) {
        let clock = self.clock();
        let mut dialogs = Vec::new();
        while dialogs.len() < size {
            let Place { shard, key } = place;
            let looked_at = self.0.element().inspect_shard(shard, |held| {
                let mut last = None;
                let following = held.dialogs.following(key).take(CHUNK);
                for known in following {
                    if dialogs.len() == size {
                        return last;
                    }
                    last = Some(known.key);
                    if call_id.is_empty() || known.call_id == call_id {
                        dialogs.push(shown(shard, known, clock));
                    }
                }
                last
            });
            place = match looked_at {
                Some(Some(last)) => Place {
                    key: Some(last),
                    ..place
                },
                // The shard is through.
                Some(None) if only.is_none() => Place {
                    shard: shard + 1,
                    key: None,
                },
                Some(None) | None => return (dialogs, None),
            };
        }
        (dialogs, Some(place))
    }
}

fn shown(shard: usize, known: KnownDialog<'_>, clock: Clock) -> Dialog {
    let place = Place {
        shard,
        key: Some(known.key),
    };
    let created = clock.wall - clock.now.saturating_duration_since(known.created);
    let expires = clock.wall + known.expires.saturating_duration_since(clock.now);
    Dialog {
        name: format!("dialogs/{}", place.write()),
        call_id: known.call_id.to_vec(),
        state: match known.state {
            sip::DialogState::Early => DialogState::Early,
            sip::DialogState::Confirmed => DialogState::Confirmed,
        }
        .into(),
        caller_tag: known.caller_tag.to_vec(),
        callee_tag: known.callee_tag.to_vec(),
        create_time: Some(created.into()),
        expire_time: Some(expires.into()),
    }
}

impl Place {
    fn write(self) -> String {
        let Self { shard, key } = self;
        key.map_or_else(
            || format!("{shard}."),
            |key| format!("{shard}.{:016x}", key.bits()),
        )
    }

    fn read(text: &str) -> Option<Self> {
        let (shard, key) = text.split_once('.')?;
        let key = match key {
            "" => None,
            key => Some(DialogKey::of_bits(u64::from_str_radix(key, 16).ok()?)),
        };
        let shard = shard.parse().ok()?;
        Some(Self { shard, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_was_written() {
        for key in [None, Some(DialogKey::of_bits(0xfe))] {
            let place = Place { shard: 7, key };
            assert_eq!(Place::read(&place.write()), Some(place));
        }
        for wrong in ["", "7", "a.1", "7.x", "-1.2"] {
            assert_eq!(Place::read(wrong), None, "{wrong}");
        }
    }
}
