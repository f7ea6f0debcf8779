//! `tandem.sbc.v1.TapService`: SIP as it passes, byte for byte.
//!
//! Here is what a reader may ask for and what it is told; who reads and how far it may fall behind is
//! [`host::tap`]'s.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use control::sbc::v1::tap_response::Event;
use control::sbc::v1::tap_service_server::{TapService, TapServiceServer};
use control::sbc::v1::{TapCut, TapCutReason, TapDirection, TapMessage, TapRequest, TapResponse};
use control::shutdown::Shutdown;
use element::{FlowId, TapPoint};
use host::Host;
use host::tap::{self, CutReason, Lens, Passed, Readers, Reading};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::role::Sbc;

/// How many methods a reader may name.
const METHODS_MAX: usize = 16;

/// All SIP of this SBC.
struct Sip {
    listen: Vec<SocketAddr>,
}

impl Lens for Sip {
    type Filter = TapRequest;
    type Item = TapMessage;

    fn looks_at(&self, _flow: FlowId) -> bool {
        true
    }

    fn wants(&self, filter: &TapRequest, passed: &Passed<'_>) -> bool {
        let TapRequest { call_id, methods } = filter;
        let method = passed.message.method();
        let is_method = |wanted: &String| wanted.as_bytes() == method.as_bytes();
        (call_id.is_empty() || passed.message.call_id() == call_id)
            && (methods.is_empty() || methods.iter().any(is_method))
    }

    fn show(&self, passed: &Passed<'_>) -> TapMessage {
        let local = self.listen.get(usize::from(passed.flow.0));
        let direction = match passed.point {
            TapPoint::In => TapDirection::In,
            TapPoint::Out => TapDirection::Out,
        };
        TapMessage {
            at_nanos: passed.at_nanos,
            direction: direction.into(),
            local_address: local.map(ToString::to_string).unwrap_or_default(),
            remote_address: passed.remote.to_string(),
            raw: passed.message.bytes().to_vec(),
            call_id: passed.message.call_id().to_vec(),
        }
    }
}

struct Service {
    readers: Arc<Readers<TapRequest, TapMessage>>,
    shutdown: Shutdown,
}

/// Returns the service.
pub(crate) fn service(host: &Host<Sbc>) -> TapServiceServer<impl TapService> {
    let lens = Sip {
        listen: host.config.advertised(),
    };
    let handle = host.handle.clone();
    TapServiceServer::new(Service {
        readers: tap::of_element(lens, move |tap| handle.element().set_tap(tap)),
        shutdown: host.shutdown.clone(),
    })
}

#[tonic::async_trait]
impl TapService for Service {
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapResponse, Status>> + Send>>;

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<Self::TapStream>, Status> {
        let filter = request.into_inner();
        if filter.methods.len() > METHODS_MAX {
            return Err(Status::invalid_argument(format!(
                "methods: at most {METHODS_MAX} can be named"
            )));
        }
        let events = self.readers.read(filter, &self.shutdown);
        let events = events.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let responses = events.map(|reading| Ok(response(reading)));
        Ok(Response::new(Box::pin(responses)))
    }
}

fn response(reading: Reading<TapMessage>) -> TapResponse {
    let event = match reading {
        Reading::Item(message) => Event::Message(message),
        Reading::Cut { reason, missed } => {
            let reason = match reason {
                CutReason::SlowReader => TapCutReason::SlowReader,
                CutReason::Shutdown => TapCutReason::Shutdown,
            };
            let reason = reason.into();
            Event::Cut(TapCut { reason, missed })
        }
    };
    TapResponse { event: Some(event) }
}
