//! `tandem.sbc.v1.TapService`: SIP as it passes, byte for byte. A slow reader is cut with a reason and
//! never slows a call.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use control::sbc::v1::tap_response::Event;
use control::sbc::v1::tap_service_server::{TapService, TapServiceServer};
use control::sbc::v1::{TapCut, TapCutReason, TapDirection, TapMessage, TapRequest, TapResponse};
use element::{FlowId, TapPoint};
use host::Host;
use parking_lot::Mutex;
use sip_types::{Index, Message};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::role::{Sbc, SbcHandle};

/// How many messages one reader may be behind before it is cut.
pub(crate) const BEHIND_MAX: usize = 16_384;

/// How many readers there may be at once.
pub(crate) const READERS_MAX: usize = 16;

/// How many methods a reader may name.
const METHODS_MAX: usize = 16;

/// One reader, as the workers see it.
struct Reader {
    call_id: Vec<u8>,
    methods: Vec<String>,
    queue: mpsc::Sender<TapMessage>,
    fate: Arc<Fate>,
}

/// What became of a reader.
#[derive(Default)]
struct Fate {
    cut: AtomicBool,
    missed: AtomicU64,
}

/// Everybody who reads.
#[derive(Default)]
struct Readers {
    readers: Mutex<Vec<Reader>>,
    listen: Vec<SocketAddr>,
}

impl element::Tap for Readers {
    fn message(
        &self,
        _now: Instant,
        point: TapPoint,
        flow: FlowId,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        let mut index = Index::new();
        let Ok(message) = Message::parse(bytes, &mut index) else {
            return;
        };
        let readers = self.readers.lock();
        for reader in readers.iter().filter(|reader| reader.wants(&message)) {
            if reader.fate.cut.load(Ordering::Relaxed) {
                reader.fate.missed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let seen = TapMessage {
                at_nanos: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_nanos() as u64,
                direction: match point {
                    TapPoint::In => TapDirection::In,
                    TapPoint::Out => TapDirection::Out,
                }
                .into(),
                local_address: self
                    .listen
                    .get(usize::from(flow.0))
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                remote_address: remote.to_string(),
                raw: bytes.to_vec(),
                call_id: message.call_id().to_vec(),
            };
            if reader.queue.try_send(seen).is_err() {
                reader.fate.cut.store(true, Ordering::Relaxed);
                reader.fate.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Reader {
    fn wants(&self, message: &Message<'_>) -> bool {
        (self.call_id.is_empty() || message.call_id() == self.call_id)
            && (self.methods.is_empty()
                || self
                    .methods
                    .iter()
                    .any(|method| method.as_bytes() == message.method().as_bytes()))
    }
}

struct Service {
    handle: SbcHandle,
    readers: Arc<Readers>,
    shutdown: control::shutdown::Shutdown,
}

/// Returns the service.
pub(crate) fn service(host: &Host<Sbc>) -> TapServiceServer<impl TapService> {
    let readers = Arc::new(Readers {
        readers: Mutex::default(),
        listen: host.config.advertised(),
    });
    TapServiceServer::new(Service {
        handle: host.handle.clone(),
        readers,
        shutdown: host.shutdown.clone(),
    })
}

#[tonic::async_trait]
impl TapService for Service {
    type TapStream = TapStream;

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<TapStream>, Status> {
        let TapRequest { call_id, methods } = request.into_inner();
        if methods.len() > METHODS_MAX {
            return Err(Status::invalid_argument(format!(
                "methods: at most {METHODS_MAX} can be named"
            )));
        }
        let (queue, messages) = mpsc::channel(BEHIND_MAX);
        let fate = Arc::new(Fate::default());
        {
            let mut readers = self.readers.readers.lock();
            if readers.len() >= READERS_MAX {
                return Err(Status::resource_exhausted(format!(
                    "{READERS_MAX} readers are tapping already"
                )));
            }
            readers.push(Reader {
                call_id,
                methods,
                queue,
                fate: fate.clone(),
            });
        }
        self.handle.element().set_tap(Some(self.readers.clone()));
        let shutdown = self.shutdown.clone();
        let stopped = Box::pin(async move { shutdown.cancelled().await });
        let leave = Leave {
            handle: self.handle.clone(),
            readers: self.readers.clone(),
            fate: fate.clone(),
        };
        Ok(Response::new(TapStream {
            messages,
            fate,
            stopped,
            ended: false,
            _leave: leave,
        }))
    }
}

/// Takes a reader off the list when its stream is dropped, and the tap off with the last one.
struct Leave {
    handle: SbcHandle,
    readers: Arc<Readers>,
    fate: Arc<Fate>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut readers = self.readers.readers.lock();
        readers.retain(|reader| !Arc::ptr_eq(&reader.fate, &self.fate));
        if readers.is_empty() {
            self.handle.element().set_tap(None);
        }
    }
}

/// What one reader gets: messages, and at the end why there are no more.
pub(crate) struct TapStream {
    messages: mpsc::Receiver<TapMessage>,
    fate: Arc<Fate>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    _leave: Leave,
}

impl Stream for TapStream {
    type Item = Result<TapResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = match self.messages.poll_recv(context) {
            Poll::Ready(Some(message)) => Event::Message(message),
            Poll::Ready(None) => return Poll::Ready(None),
            // A busy task is made to wait with messages at hand; the end comes after them.
            Poll::Pending if !self.messages.is_empty() => return Poll::Pending,
            Poll::Pending => {
                let reason = if self.fate.cut.load(Ordering::Relaxed) {
                    TapCutReason::SlowReader
                } else {
                    ready!(self.stopped.as_mut().poll(context));
                    TapCutReason::Shutdown
                };
                self.ended = true;
                let missed = self.fate.missed.load(Ordering::Relaxed);
                Event::Cut(TapCut {
                    reason: reason.into(),
                    missed,
                })
            }
        };
        Poll::Ready(Some(Ok(TapResponse { event: Some(event) })))
    }
}
