//! A face in this process with services that do as their requests say, and an authority that signs
//! certificates for both ends.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use control::channel::{Channel, ChannelError, ClientTls, connect};
use control::registry::v1::cell_service_client::CellServiceClient;
use control::registry::v1::cell_service_server::{CellService, CellServiceServer};
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::member_service_server::{MemberService, MemberServiceServer};
use control::registry::v1::*;
use control::shutdown::Shutdown;
use face::{FaceConfig, Health, Server, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

/// Signs certificates and keeps them in files.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    pub(crate) directory: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let authority = Self {
            issuer: Issuer::new(params, key),
            pem,
            directory: TempDir::new().unwrap(),
        };
        std::fs::write(authority.ca(), &authority.pem).unwrap();
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the file with the authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Signs a certificate for these names and writes it and its key to `NAME.pem` and `NAME.key`.
    pub(crate) fn sign(&self, name: &str, names: Vec<SanType>) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, private) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        (cert, private)
    }

    /// Returns what a face at `address` needs for TLS.
    pub(crate) fn server(&self, address: &str) -> TlsFiles {
        let ip = SanType::IpAddress(address.parse().unwrap());
        let (cert, key) = self.sign("server", vec![ip]);
        TlsFiles {
            cert,
            key,
            client_ca: None,
        }
    }

    /// Returns what a face at `address` needs to tell clients apart.
    pub(crate) fn mutual(&self, address: &str) -> FaceConfig {
        let tls = TlsFiles {
            client_ca: Some(self.ca()),
            ..self.server(address)
        };
        with_tls(tls)
    }

    /// Returns what a client without a certificate needs.
    pub(crate) fn stranger(&self) -> ClientTls {
        ClientTls {
            ca: self.ca(),
            identity: None,
            server_name: None,
        }
    }

    /// Returns what a client with a certificate for `spiffe://example.com/PATH` needs.
    pub(crate) fn client(&self, path: &str) -> ClientTls {
        let uri = format!("spiffe://example.com/{path}");
        let names = vec![SanType::URI(uri.try_into().unwrap())];
        ClientTls {
            identity: Some(self.sign(&path.replace('/', "-"), names)),
            ..self.stranger()
        }
    }
}

pub(crate) fn with_tls(tls: TlsFiles) -> FaceConfig {
    FaceConfig {
        tls: Some(tls),
        ..FaceConfig::default()
    }
}

/// A face that runs until it is dropped or stopped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) health: Health,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), face::ServeError>>,
}

/// Starts a face at an address that only this test uses, at a port that the system chooses.
pub(crate) async fn serve(address: &str, config: &FaceConfig) -> Running {
    let ip: IpAddr = address.parse().unwrap();
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::new(config).unwrap();
    server
        .add(CellServiceServer::new(Obedient))
        .add(MemberServiceServer::new(Obedient));
    let (health, shutdown) = (server.health(), Shutdown::new());
    Running {
        address,
        health,
        task: tokio::spawn(server.serve(listener, shutdown.clone())),
        shutdown,
    }
}

impl Running {
    pub(crate) async fn connect(&self, tls: Option<&ClientTls>) -> Result<Channel, ChannelError> {
        connect(&self.address.to_string(), tls).await
    }

    pub(crate) async fn channel(&self, tls: Option<&ClientTls>) -> Channel {
        self.connect(tls).await.unwrap()
    }

    pub(crate) async fn cells(&self, tls: Option<&ClientTls>) -> CellServiceClient<Channel> {
        CellServiceClient::new(self.channel(tls).await)
    }

    pub(crate) async fn members(&self, tls: Option<&ClientTls>) -> MemberServiceClient<Channel> {
        MemberServiceClient::new(self.channel(tls).await)
    }

    /// Ends it, and waits for that.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        ended.expect("ends in time").unwrap().unwrap();
    }
}

pub(crate) fn get(name: &str) -> GetCellRequest {
    GetCellRequest {
        name: name.to_owned(),
    }
}

pub(crate) fn create(name: &str) -> CreateCellRequest {
    CreateCellRequest {
        cell: Some(Cell {
            name: name.to_owned(),
            ..Cell::default()
        }),
        ..CreateCellRequest::default()
    }
}

pub(crate) fn register(name: &str) -> RegisterRequest {
    RegisterRequest {
        member: Some(Member {
            name: name.to_owned(),
            ..Member::default()
        }),
        incarnation: 1,
    }
}

pub(crate) fn refresh(name: &str) -> KeepAliveRequest {
    KeepAliveRequest {
        name: name.to_owned(),
        ..KeepAliveRequest::default()
    }
}

/// Returns the reason of a refusal, and one of its facts.
pub(crate) fn why(status: &Status, fact: &str) -> (String, String) {
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo").clone();
    assert_eq!(info.domain, face::errors::DOMAIN);
    let fact = info.metadata.get(fact).cloned().unwrap_or_default();
    (info.reason, fact)
}

/// Writes a file as a renewal does: beside, and renamed.
pub(crate) fn replace(path: &Path, content: impl AsRef<[u8]>) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// Answers everything. A name with `slow` in it takes a minute.
#[derive(Clone)]
struct Obedient;

async fn obey(name: &str) -> Result<Response<Cell>, Status> {
    if name.contains("slow") {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    Ok(Response::new(Cell {
        name: name.to_owned(),
        ..Cell::default()
    }))
}

#[tonic::async_trait]
impl CellService for Obedient {
    async fn get_cell(&self, request: Request<GetCellRequest>) -> Result<Response<Cell>, Status> {
        obey(&request.get_ref().name).await
    }

    async fn list_cells(
        &self,
        _: Request<ListCellsRequest>,
    ) -> Result<Response<ListCellsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn create_cell(
        &self,
        request: Request<CreateCellRequest>,
    ) -> Result<Response<Cell>, Status> {
        obey(&request.into_inner().cell.unwrap_or_default().name).await
    }

    async fn update_cell(&self, _: Request<UpdateCellRequest>) -> Result<Response<Cell>, Status> {
        Err(Status::aborted("somebody else was faster"))
    }

    async fn delete_cell(
        &self,
        _: Request<DeleteCellRequest>,
    ) -> Result<Response<DeleteCellResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MemberService for Obedient {
    type KeepAliveStream = Pin<Box<dyn Stream<Item = Result<KeepAliveResponse, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        Ok(Response::new(RegisterResponse {
            member: request.into_inner().member,
            ..RegisterResponse::default()
        }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let answers = request.into_inner().map(|request| {
            request?;
            Ok(KeepAliveResponse::default())
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_member(&self, _: Request<GetMemberRequest>) -> Result<Response<Member>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn list_members(
        &self,
        _: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn update_member(
        &self,
        _: Request<UpdateMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn delete_member(
        &self,
        _: Request<DeleteMemberRequest>,
    ) -> Result<Response<DeleteMemberResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn drain_member(
        &self,
        _: Request<DrainMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn undrain_member(
        &self,
        _: Request<UndrainMemberRequest>,
    ) -> Result<Response<Member>, Status> {
        Ok(Response::new(Default::default()))
    }
}
