//! What every call passes before its service sees it, in this order: its trace, who calls, whether
//! that is enough, whether there is room, and how long it may take. A change leaves an audit line.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use control::trace::{TRACEPARENT, TraceContext};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::access::Access;
use crate::audit::Change;
use crate::config::FaceConfig;
use crate::deadline::granted;
use crate::identity::{Identity, Unknown};
use crate::load::Load;
use crate::messages::{Look, Names, Watched};
use crate::methods::{Method, Methods, Need};
use crate::peer::Peer;

/// The gate of a face. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Rules>);

struct Rules {
    methods: Methods,
    access: Access,
    load: Load,
    deadline: Duration,
}

impl Gate {
    pub(crate) fn new(config: &FaceConfig) -> Self {
        Self(Arc::new(Rules {
            methods: Methods::all(),
            access: Access::new(config),
            load: Load::new(&config.limits),
            deadline: config.limits.deadline,
        }))
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated {
            rules: self.0.clone(),
            service,
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    rules: Arc<Rules>,
    service: S,
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let arrived = Instant::now();
        // The clone that was found ready takes the call.
        let next = self.service.clone();
        let service = std::mem::replace(&mut self.service, next);
        let rules = self.rules.clone();
        Box::pin(async move { Ok(rules.pass(arrived, service, request).await) })
    }
}

impl Rules {
    async fn pass<S>(&self, arrived: Instant, service: S, request: Request<Body>) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let rpc = request.uri().path().trim_start_matches('/').to_owned();
        let method = self.methods.find(request.uri().path());
        let trace = trace_of(request.headers());
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.unwrap_or_else(nobody);
        let call = Call {
            arrived,
            method,
            identity: self.access.identify(&peer, request.headers()),
            names: Names::default(),
        };
        let mut change = method.is_change().then(|| Change {
            rpc: rpc.clone(),
            identity: call.identity.as_ref().ok().map(ToString::to_string),
            role: None,
            remote_addr: peer.address,
            trace_id: trace.trace_id(),
            names: call.names.clone(),
            outcome: Code::Cancelled,
        });
        let span = tracing::info_span!("grpc", rpc, remote_addr = %peer.address, trace_id = trace.trace_id());
        let answer = async {
            self.access.admit(method.need, &call.identity)?;
            if let (Some(change), Ok(_), Need::Role(role)) =
                (&mut change, &call.identity, method.need)
            {
                change.role = Some(role.to_string());
            }
            self.serve(&call, service, request).await
        };
        let answer = trace.scope(answer).instrument(span.clone()).await;
        let response = answer.unwrap_or_else(Status::into_http);
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |end| end.code());
        span.in_scope(|| tracing::debug!(?code, elapsed = ?arrived.elapsed(), "call answered"));
        if let Some(change) = &mut change {
            change.outcome = code;
        }
        response
    }

    /// Serves a call of somebody who may.
    async fn serve<S>(
        &self,
        call: &Call<'_>,
        mut service: S,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let method = call.method;
        // A process that is busy is healthy.
        let place = match method.need {
            Need::Nothing => None,
            Need::Role(_) => Some(self.load.place(method.streams)?),
        };
        let time = granted(request.headers(), self.deadline);
        let look = self.look(call);
        let request = request.map(|body| Body::new(Watched::new(body, look)));
        if method.streams {
            let response = match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            return Ok(response.map(|body| {
                Body::new(Placed {
                    body,
                    _place: place,
                })
            }));
        }
        match timeout_at(call.arrived + time, service.call(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_) => Err(Status::deadline_exceeded(format!(
                "not done within {time:?}; it may happen all the same"
            ))),
        }
    }

    /// Returns what to look for in the messages of a call, if anything.
    fn look(&self, call: &Call<'_>) -> Option<Look> {
        let node = self.access.node(call.method.need, &call.identity);
        let input = call.method.input.clone();
        input
            .filter(|_| node.is_some() || call.method.is_change())
            .map(|input| Look {
                input,
                fields: call.method.names,
                names: call.names.clone(),
                node,
            })
    }
}

/// What is known of a call.
struct Call<'a> {
    arrived: Instant,
    method: &'a Method,
    identity: Result<Identity, Unknown>,
    names: Names,
}

fn trace_of(headers: &HeaderMap) -> TraceContext {
    let said = headers.get(TRACEPARENT);
    let said = said.and_then(|said| said.to_str().ok()?.parse::<TraceContext>().ok());
    said.map_or_else(TraceContext::begin, TraceContext::child)
}

/// The peer of a connection that was not accepted here.
fn nobody() -> Peer {
    Peer {
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        identity: Err(Unknown::NoCertificate),
    }
}

/// The body of a stream's answer, which has a place for as long as it is open.
struct Placed {
    body: Body,
    _place: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Placed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
