//! The registries of a cluster as one: whichever answers.

mod dynamic;
mod errors;

use std::error::Error;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use control::channel::{self, ChannelError, ClientTls};
use control::registry::v1::GetConfigStatusRequest;
use control::registry::v1::status_service_client::StatusServiceClient;
use prost_reflect::{DynamicMessage, Value};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::context::Contexts;
use crate::exit::Exit;
use crate::resource::{Item, Kind};

use errors::unreachable;
pub(crate) use errors::{CallError, Violation, untold, violations};

/// How long a registry may take to answer; it waits up to 2 s for its own store.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest answer that is taken; a page of 1000 resources is some 100 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Where a registry listens unless it is told otherwise.
const DEFAULT: &str = "127.0.0.1:7400";

/// Which registries are asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// Registries, tried in turn [default: the context's, or 127.0.0.1:7400]
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "TANDEM_REGISTRY",
        hide_env_values = true,
        help_heading = "Registry"
    )]
    registry: Vec<String>,
    /// The context to take instead of the current one; see tandem context --help
    #[arg(
        long,
        value_name = "NAME",
        env = "TANDEM_CONTEXT",
        hide_env_values = true,
        help_heading = "Registry"
    )]
    context: Option<String>,
}

/// The registries of one cluster.
#[derive(Debug)]
pub(crate) struct Registry {
    addresses: Vec<(String, Endpoint)>,
    tls: Option<ClientTls>,
    /// The one that answered last, and the connection to it.
    current: usize,
    channel: Option<Channel>,
}

impl Registry {
    /// Finds the registries that the command line, the environment or a context names; asks one of
    /// them for its cluster if the context says which it must be.
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let usage = |error: anyhow::Error| Exit::Usage.because(error);
        let contexts = Contexts::load().map_err(usage)?;
        let mut context = contexts.choose(target.context.as_deref()).map_err(usage)?;
        if !target.registry.is_empty() {
            context.registries.clone_from(&target.registry);
        }
        if context.registries.is_empty() {
            context.registries.push(DEFAULT.to_owned());
        }
        let tls = context.tls();
        let addresses = context.registries.iter().map(|address| {
            let endpoint = channel::endpoint(address, tls.as_ref()).map_err(refuse)?;
            Ok((address.clone(), endpoint))
        });
        let addresses = addresses.collect::<anyhow::Result<_>>()?;
        let mut registry = Self {
            addresses,
            tls,
            current: 0,
            channel: None,
        };
        if let Some(cluster) = &context.cluster {
            registry.require(cluster).await?;
        }
        Ok(registry)
    }

    async fn require(&mut self, cluster: &str) -> anyhow::Result<()> {
        let status = self
            .call(async |channel| {
                let mut client = StatusServiceClient::new(channel);
                client.get_config_status(GetConfigStatusRequest {}).await
            })
            .await?;
        if status.cluster == cluster {
            return Ok(());
        }
        let (address, found) = (self.address(), &status.cluster);
        Err(Exit::Usage.because(anyhow!(
            "the registry at {address} is of the cluster {found:?}, the context says {cluster:?}: \
             take another context, or correct this one"
        )))
    }

    /// Returns the address of the registry that answered last.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[self.current].0
    }

    /// Returns a connection to a node of the cluster, made as those to its registries are.
    ///
    /// # Errors
    ///
    /// An address that is none, or where nobody answers.
    pub(crate) async fn node(&self, address: &str) -> Result<Channel, Status> {
        let endpoint = channel::endpoint(address, self.tls.as_ref());
        let endpoint = endpoint.map_err(|error| Status::unavailable(error.to_string()))?;
        endpoint.connect().await.map_err(unreachable)
    }

    /// Leaves the registry that answered last for the next one.
    pub(crate) fn leave(&mut self) {
        self.current = (self.current + 1) % self.addresses.len();
        self.channel = None;
    }

    /// Asks one registry after the other until one is there.
    ///
    /// # Errors
    ///
    /// What each of them failed with, or what one of them refused it with.
    pub(crate) async fn call<T>(
        &mut self,
        ask: impl AsyncFn(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, CallError> {
        let mut attempts = Vec::new();
        for _ in 0..self.addresses.len() {
            match self.ask(&ask).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_absent(&status) => {
                    attempts.push((self.address().to_owned(), status));
                    self.leave();
                }
                Err(status) => return Err(CallError::Refused(Box::new(status))),
            }
        }
        Err(CallError::Unavailable(attempts))
    }

    async fn ask<T>(
        &mut self,
        ask: &impl AsyncFn(Channel) -> Result<Response<T>, Status>,
    ) -> Result<Response<T>, Status> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = &self.addresses[self.current].1;
                let channel = endpoint.connect().await.map_err(unreachable)?;
                self.channel.insert(channel).clone()
            }
        };
        let asked = tokio::time::timeout(ANSWER_MAX, ask(channel)).await;
        asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within 10 s")))
    }

    /// Returns the resource of this name.
    pub(crate) async fn get(&mut self, kind: &'static Kind, name: &str) -> Result<Item, CallError> {
        let (method, _) = kind.methods();
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("name", Value::String(name.to_owned()));
        let message = self
            .call(async |channel| {
                dynamic::unary(channel, &method, request.clone(), ANSWER_BYTES_MAX).await
            })
            .await?;
        Ok(Item { kind, message })
    }

    /// Returns all resources of a kind, in the order of their names.
    pub(crate) async fn list(&mut self, kind: &'static Kind) -> Result<Vec<Item>, CallError> {
        let (_, method) = kind.methods();
        let mut request = DynamicMessage::new(method.input());
        let mut items = Vec::new();
        loop {
            let mut page = self
                .call(async |channel| {
                    dynamic::unary(channel, &method, request.clone(), ANSWER_BYTES_MAX).await
                })
                .await?;
            let mut token = None;
            for (_, value) in page.take_fields().collect::<Vec<_>>() {
                if let Value::List(values) = value {
                    items.extend(values.into_iter().filter_map(message));
                } else if let Value::String(next) = value {
                    token = Some(next);
                }
            }
            let Some(token) = token else {
                let items = items.into_iter();
                return Ok(items.map(|message| Item { kind, message }).collect());
            };
            request.set_field_by_name("page_token", Value::String(token));
        }
    }

    /// Returns all resources of all kinds.
    pub(crate) async fn list_all(&mut self) -> Result<Vec<Item>, CallError> {
        let mut items = Vec::new();
        for kind in Kind::all() {
            items.extend(self.list(kind).await?);
        }
        Ok(items)
    }
}

fn message(value: Value) -> Option<DynamicMessage> {
    if let Value::Message(message) = value {
        Some(message)
    } else {
        None
    }
}

/// Tells whether another registry may do better. One that is without its store answers UNAVAILABLE; what
/// has a source is no answer, but what the connection failed with, unless an answer came.
fn is_absent(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        || status.source().is_some() && !has_broken_answer(status)
}

/// Tells whether an answer came that this end does not take, because its header fields are too many: another
/// registry's would be the same.
fn has_broken_answer(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_too_much = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
            return error.is_library() && (error.is_reset() || is_too_much);
        }
        cause = error.source();
    }
    false
}

/// Says everything that is wrong with an address or the files of TLS.
fn refuse(error: ChannelError) -> anyhow::Error {
    Exit::Usage.because(anyhow::Error::new(error).context("the registry"))
}

#[cfg(test)]
mod tests {
    use control::registry::v1::status_service_server::{StatusService, StatusServiceServer};
    use control::registry::v1::{
        ConfigStatus, ListFaultsRequest, ListFaultsResponse, ListNodeStatusesRequest,
        ListNodeStatusesResponse,
    };
    use tokio::net::TcpListener;
    use tonic::Request;

    use super::*;

    /// Says more than a client takes: so many bytes.
    struct Talkative(usize);

    impl Talkative {
        fn too_much<T>(&self) -> Result<Response<T>, Status> {
            Err(Status::invalid_argument("x".repeat(self.0)))
        }
    }

    #[tonic::async_trait]
    impl StatusService for Talkative {
        async fn get_config_status(
            &self,
            _request: Request<GetConfigStatusRequest>,
        ) -> Result<Response<ConfigStatus>, Status> {
            self.too_much()
        }

        async fn list_node_statuses(
            &self,
            _request: Request<ListNodeStatusesRequest>,
        ) -> Result<Response<ListNodeStatusesResponse>, Status> {
            self.too_much()
        }

        async fn list_faults(
            &self,
            _request: Request<ListFaultsRequest>,
        ) -> Result<Response<ListFaultsResponse>, Status> {
            self.too_much()
        }
    }

    #[tokio::test]
    async fn whose_answer_is_broken_is_there_all_the_same() {
        for bytes in [17 * 1024, 64 * 1024, 1024 * 1024] {
            is_there(Talkative(bytes)).await;
        }
    }

    async fn is_there(talkative: Talkative) {
        // A port that is free now.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let server = tonic::transport::Server::builder()
            .add_service(StatusServiceServer::new(talkative))
            .serve(address);
        let asking = async {
            let address = address.to_string();
            let endpoint = channel::endpoint(&address, None).unwrap();
            let mut registry = Registry {
                addresses: vec![(address, endpoint)],
                tls: None,
                current: 0,
                channel: None,
            };
            loop {
                let answer = registry.require("tandem").await.unwrap_err();
                let answer = answer.downcast_ref::<CallError>();
                match answer {
                    // It has not begun to listen.
                    Some(CallError::Unavailable(attempts))
                        if attempts[0].1.message().contains("refused") => {}
                    Some(CallError::Refused(_)) => return,
                    Some(CallError::Unavailable(_)) | None => panic!("{answer:?}"),
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = server => panic!("{ended:?}"),
            () = asking => {}
        }
    }
}
