//! `tandem.mirror.v1.MirrorService`: who is on the bus and what is said on it.
//!
//! The packet path copies KDMQ messages of the bus's own listen address for readers that want their
//! channel and node; what their bodies say is read in the readers' tasks.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use control::mirror::v1::body::Kind;
use control::mirror::v1::mirror_service_server::MirrorService;
use control::mirror::v1::stream_messages_response::Event;
use control::mirror::v1::{
    self as api, Body, DialogAction, DialogMessage, Direction, ListNodesRequest, ListNodesResponse,
    Message as Shown, MessagesCut, StreamMessagesRequest, StreamMessagesResponse,
};
use control::shutdown::Shutdown;
use dmq_bodies::Did;
use element::{FlowId, TapPoint};
use host::Host;
use host::tap::{self, CutReason, Lens, Passed, Readers, Reading};
use sip_types::{Index, Message, Method, Uri};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::cell::Cell;
use super::{body, nodes};
use crate::role::Router;

/// How many channels a reader may name.
const CHANNELS_MAX: usize = 16;

/// What passes on the bus.
struct Bus {
    flow: FlowId,
}

/// What can be told from the head of a message; empty and `None` want all.
struct Filter {
    channels: Vec<String>,
    node: Option<SocketAddr>,
}

/// A KDMQ message as it passed.
struct Heard {
    at_nanos: u64,
    point: TapPoint,
    node: SocketAddr,
    raw: Vec<u8>,
}

impl Lens for Bus {
    type Filter = Filter;
    type Item = Heard;

    fn looks_at(&self, flow: FlowId) -> bool {
        flow == self.flow
    }

    fn wants(&self, filter: &Filter, passed: &Passed<'_>) -> bool {
        let Filter { channels, node } = filter;
        let channel = channel(passed.message);
        passed.message.method() == Method::Kdmq
            && node.is_none_or(|node| node == passed.remote)
            && (channels.is_empty()
                || channels
                    .iter()
                    .any(|wanted| Some(wanted.as_bytes()) == channel))
    }

    fn show(&self, passed: &Passed<'_>) -> Heard {
        Heard {
            at_nanos: passed.at_nanos,
            point: passed.point,
            node: passed.remote,
            raw: passed.message.bytes().to_vec(),
        }
    }
}

pub(super) struct Mirror {
    cell: Cell,
    readers: Arc<Readers<Filter, Heard>>,
    shutdown: Shutdown,
}

impl Mirror {
    pub(super) fn new(host: &Host<Router>, cell: Cell) -> Self {
        // The bus is the listen address after those of SIP.
        let flow = FlowId(host.config.listen.len() as u16);
        let handle = host.handle.clone();
        Self {
            cell,
            readers: tap::of_element(Bus { flow }, move |tap| handle.element().set_tap(tap)),
            shutdown: host.shutdown.clone(),
        }
    }
}

#[tonic::async_trait]
impl MirrorService for Mirror {
    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let clock = self.cell.clock();
        let answer = self.cell.look(|replication| ListNodesResponse {
            own_address: replication.replica().own().to_string(),
            nodes: nodes::list(replication, clock),
            counters: Some(nodes::counters(replication.bus_counters())),
        })?;
        Ok(Response::new(answer))
    }

    type StreamMessagesStream =
        Pin<Box<dyn Stream<Item = Result<StreamMessagesResponse, Status>> + Send>>;

    async fn stream_messages(
        &self,
        request: Request<StreamMessagesRequest>,
    ) -> Result<Response<Self::StreamMessagesStream>, Status> {
        let StreamMessagesRequest {
            channels,
            node,
            call_id,
            table,
        } = request.into_inner();
        if channels.len() > CHANNELS_MAX {
            return Err(Status::invalid_argument(format!(
                "channels: at most {CHANNELS_MAX} can be named"
            )));
        }
        let node = match node.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                Status::invalid_argument(format!(
                    "node: {text:?} is no numeric address and port, such as 192.0.2.31:5062"
                ))
            })?),
        };
        let heard = self
            .readers
            .read(Filter { channels, node }, &self.shutdown)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let cell = self.cell.clone();
        let hash_size = cell.look(|replication| replication.config().hash_size)?;
        let reader = Reader {
            about: body::About { call_id, table },
            cell,
            hash_size,
        };
        let responses = heard.filter_map(move |reading| {
            let event = Some(match reading {
                Reading::Item(heard) => Event::Message(reader.message(heard)?),
                Reading::Cut { reason, missed } => Event::Cut(cut(reason, missed)),
            });
            Some(Ok(StreamMessagesResponse { event }))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// Returns the channel of a request, or of the request that a response answers.
fn channel<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    let uri = match message.is_request() {
        true => Uri::parse(message.request_uri()),
        false => message.from()?.parsed_uri(),
    };
    uri.ok()?.user
}

/// Who looks, in a task of its own.
struct Reader {
    about: body::About,
    cell: Cell,
    hash_size: u32,
}

impl Reader {
    /// Returns a message as it is shown, if it is about what the reader wants.
    fn message(&self, heard: Heard) -> Option<Shown> {
        let mut index = Index::new();
        let message = Message::parse(&heard.raw, &mut index).ok()?;
        let channel = channel(&message).unwrap_or_default();
        let mut body = body::read(channel, message.body(), self.hash_size);
        if let Some(Body {
            kind: Some(Kind::Dialog(dialog)),
        }) = &mut body
        {
            self.name(dialog);
        }
        if !self.about.includes(body.as_ref()) {
            return None;
        }
        let direction = match heard.point {
            TapPoint::In => Direction::In,
            TapPoint::Out => Direction::Out,
        };
        Some(Shown {
            at_nanos: heard.at_nanos,
            direction: direction.into(),
            node: heard.node.to_string(),
            status: message.status().unwrap_or_default().into(),
            channel: String::from_utf8_lossy(channel).into_owned(),
            max_forwards: message.max_forwards().and_then(Result::ok).map(u32::from),
            kdmq_call_id: message.call_id().to_vec(),
            body,
            raw: heard.raw,
        })
    }

    /// Gives a change of state and a removal, which have only numbers, the Call-ID of their dialog, if
    /// this router holds it. SIP waits meanwhile: a dialog that cannot be the wanted one is not asked for.
    fn name(&self, dialog: &mut DialogMessage) {
        let DialogMessage { h_entry, h_id, .. } = *dialog;
        let did = Did { h_entry, h_id };
        let has_numbers = matches!(dialog.action(), DialogAction::State | DialogAction::Remove);
        if !has_numbers || !self.about.may_include(did, self.hash_size) {
            return;
        }
        let wanted = &self.about.call_id[..];
        let found = self.cell.look(|replication| {
            let mut named = replication.dialogs_named(did).map(|(key, _)| key.call_id);
            named.find(|call_id| wanted.is_empty() || call_id[..] == *wanted)
        });
        // Where there is no bus any more, nothing is said on it either.
        if let Ok(Some(call_id)) = found {
            dialog.call_id = call_id.to_vec();
        }
    }
}

fn cut(reason: CutReason, missed: u64) -> MessagesCut {
    let reason = match reason {
        CutReason::SlowReader => api::CutReason::SlowReader,
        CutReason::Shutdown => api::CutReason::Shutdown,
    };
    let reason = reason.into();
    MessagesCut { reason, missed }
}
