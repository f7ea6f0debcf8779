//! Who may do what, once clients show certificates.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::path::PathBuf;

use common::{PATIENCE, node, reaches, registry_with, session};
use control::channel::{ClientTls, connect};
use control::client::NodeConfig;
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::{DeleteMemberRequest, ListMembersRequest, Member, RegisterRequest};
use face::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tandem_registry::Config;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Code;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let directory = TempDir::new().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(directory.path().join("ca.pem"), pem).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            directory,
        }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn sign(&self, file: &str, san: SanType) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        let key = KeyPair::generate().unwrap();
        let path = |end: &str| self.directory.path().join(format!("{file}.{end}"));
        let (cert, private) = (path("pem"), path("key"));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        (cert, private)
    }

    fn client(&self, role: &str, id: &str) -> ClientTls {
        let uri = format!("spiffe://example.com/tandem/{role}/{id}");
        ClientTls {
            ca: self.ca(),
            identity: Some(self.sign(id, SanType::URI(uri.try_into().unwrap()))),
            server_name: None,
        }
    }

    fn registry(&self, address: &str) -> Config {
        let address = address.parse().unwrap();
        let (cert, key) = self.sign("registry", SanType::IpAddress(address));
        let mut config = Config::at(address);
        config.face.tls = Some(TlsFiles {
            cert,
            key,
            client_ca: Some(self.ca()),
        });
        config
    }
}

#[tokio::test]
async fn a_nodes_certificate_registers_that_node_and_no_other() {
    let ours = Authority::new();
    let registry = registry_with(ours.registry("127.0.22.80")).await;
    let address = registry.address().to_string();
    let members = async |tls: &ClientTls| {
        MemberServiceClient::new(connect(&address, Some(tls)).await.unwrap())
    };
    let router = ours.client("node", "router-1");
    let register = |id: &str| RegisterRequest {
        member: Some(Member {
            name: format!("members/{id}"),
            kind: control::registry::v1::MemberKind::Router.into(),
            address: "127.0.7.200".to_owned(),
            sip: vec![control::registry::v1::SipEndpoint {
                side: 0,
                address: "127.0.7.200:5060".to_owned(),
            }],
            ..Member::default()
        }),
        incarnation: 1,
    };
    let mut client = members(&router).await;
    let refused = client.register(register("router-2")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("members/router-2"), "{refused}");
    client.register(register("router-1")).await.unwrap();
    let refused = client.list_members(ListMembersRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    let mut client = members(&ours.client("viewer", "grafana")).await;
    let listed = client.list_members(ListMembersRequest::default()).await;
    let listed = listed.unwrap().into_inner().members;
    let names: Vec<_> = listed.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["members/router-1"]);
    let delete = || DeleteMemberRequest {
        name: "members/router-1".to_owned(),
        ..DeleteMemberRequest::default()
    };
    let refused = client.delete_member(delete()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut client = members(&ours.client("operator", "anna")).await;
    client.delete_member(delete()).await.unwrap();
}

#[tokio::test]
async fn a_node_with_a_certificate_follows_its_registry_and_one_without_stays_out() {
    let ours = Authority::new();
    let registry = registry_with(ours.registry("127.0.22.81")).await;
    let directory = TempDir::new().unwrap();
    let with = |id: &str, tls| NodeConfig {
        tls: Some(tls),
        ..node(id, &registry, directory.path())
    };
    let good = session(with("router-1", ours.client("node", "router-1"))).await;
    reaches(&mut good.view(), "registered", |view| view.generation > 0).await;

    let stranger = ClientTls {
        identity: None,
        ..ours.client("node", "router-2")
    };
    let kept_out = session(with("router-2", stranger)).await;
    let mut other = with("router-3", ours.client("node", "router-4"));
    other.state_dir = directory.path().join("other");
    let other = session(other).await;
    // A change reaches the good one; by then the others would have been let in, too.
    let operator = ours.client("operator", "anna");
    let channel = connect(&registry.address().to_string(), Some(&operator)).await;
    let mut members = MemberServiceClient::new(channel.unwrap());
    let began = tokio::time::Instant::now();
    while began.elapsed() < PATIENCE / 5 {
        let listed = members.list_members(ListMembersRequest::default()).await;
        assert_eq!(listed.unwrap().into_inner().members.len(), 1);
        tokio::time::sleep(PATIENCE / 50).await;
    }
    assert!(!*kept_out.connected().borrow() && !*other.connected().borrow());
    timeout(PATIENCE, good.leave()).await.unwrap();
}
