//! Puts the parts together and serves.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use control::shutdown::Shutdown;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use crate::accept::accept;
use crate::config::{FaceConfig, HEADER_BYTES_MAX, STREAMS_PER_CONNECTION_MAX};
use crate::gate::Gate;
use crate::health::Health;
use crate::methods::DESCRIPTOR_SETS;
use crate::tls::{ServerTls, TlsError};

/// A face that is put together: services are added, then it serves.
pub struct Server {
    config: FaceConfig,
    tls: Option<Arc<ServerTls>>,
    health: Health,
    routes: Routes,
    names: Vec<&'static str>,
}

/// Why a face ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptions of the services are no good.
    #[error("reflection cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Connections are not served any more.
    #[error("gRPC cannot be served")]
    Transport(#[from] tonic::transport::Error),
}

impl Server {
    /// Begins a face. The files for TLS are read.
    ///
    /// # Errors
    ///
    /// A file that is no good: which, why, and the remedy.
    pub fn new(config: &FaceConfig) -> Result<Self, TlsError> {
        let tls = config.tls.as_ref().map(ServerTls::load).transpose()?;
        Ok(Self {
            config: config.clone(),
            tls: tls.map(Arc::new),
            health: Health::default(),
            routes: Routes::default(),
            names: Vec::new(),
        })
    }

    /// Returns the health that this face shows.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Adds a service. It is shown by reflection, and as serving.
    pub fn add<S>(&mut self, service: S) -> &mut Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = std::mem::take(&mut self.routes).add_service(service);
        self
    }

    /// Serves until `shutdown` is cancelled and connections have ended. Clients that keep streams
    /// open keep it waiting.
    ///
    /// # Errors
    ///
    /// None that somebody outside of this process can bring about.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        self.warn_of_strangers(&listener);
        for name in &self.names {
            self.health.show(name, true).await;
        }
        let (v1, v1alpha) = (
            self.reflection().build_v1()?,
            self.reflection().build_v1alpha()?,
        );
        let health = self.health.service();
        let routes = std::mem::take(&mut self.routes);
        let routes = routes
            .add_service(health)
            .add_service(v1)
            .add_service(v1alpha);
        let (ready, connections) = mpsc::channel(1);
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(self.config.limits.ping))
            .http2_keepalive_timeout(Some(self.config.limits.ping))
            .layer(Gate::new(&self.config))
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), shutdown.cancelled());
        let accepting = async {
            tokio::select! {
                never = accept(listener, self.tls.clone(), self.config.limits, ready) => match never {},
                never = follow(self.tls.as_deref()) => match never {},
                () = shutdown.cancelled() => {}
            }
            self.health.end().await;
        };
        let (served, ()) = tokio::join!(server, accepting);
        Ok(served?)
    }

    fn reflection(&self) -> tonic_reflection::server::Builder<'static> {
        let mut builder = tonic_reflection::server::Builder::configure();
        for set in DESCRIPTOR_SETS {
            builder = builder.register_encoded_file_descriptor_set(set);
        }
        let always = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        for name in self.names.iter().chain(&always) {
            builder = builder.with_service_name(*name);
        }
        builder
    }

    fn warn_of_strangers(&self, listener: &TcpListener) {
        let is_open = listener
            .local_addr()
            .is_ok_and(|address| !address.ip().is_loopback());
        if is_open && !self.config.knows_callers() {
            tracing::warn!(
                "gRPC is reachable from other machines, and whoever reaches it may do everything; \
                 set grpc.tls.client_ca, or keep it on loopback"
            );
        } else if is_open && self.tls.is_none() {
            tracing::warn!(
                "gRPC is reachable from other machines without TLS; \
                 only what comes through the sidecar is let in"
            );
        }
    }
}

async fn follow(tls: Option<&ServerTls>) -> Infallible {
    match tls {
        Some(tls) => tls.follow().await,
        None => pending().await,
    }
}
