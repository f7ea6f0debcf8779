//! Registries that want certificates.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use common::{Cluster, eventually, run};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

const SET: &str = "name: sets/2\n";

#[test]
fn a_context_shows_the_certificate_and_roles_count() {
    let mut cluster = Cluster::new("127.0.245.1");
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = cluster.file("ca.pem", &authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    let sign = |name: &str, san: SanType| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        cluster.file(&format!("{name}.key"), &key.serialize_pem());
        cluster.file(&format!("{name}.pem"), &certificate.pem())
    };
    let cert = sign(
        "registry",
        SanType::IpAddress("127.0.245.1".parse().unwrap()),
    );
    let address = cluster.registry_address();
    let mut contexts = String::new();
    for role in ["operator", "viewer"] {
        let uri = format!("spiffe://example.com/tandem/{role}/me");
        sign(role, SanType::URI(uri.try_into().unwrap()));
        contexts.push_str(&format!(
            "[contexts.{role}]\nregistries = [\"{address}\"]\nca = \"ca.pem\"\ncert = \"{role}.pem\"\n\
             key = \"{role}.key\"\n"
        ));
    }
    contexts.push_str(&format!(
        "[contexts.nobody]\nregistries = [\"{address}\"]\nca = \"ca.pem\"\n\
         [contexts.lost]\nregistries = [\"{address}\"]\nca = \"none.pem\"\n"
    ));
    cluster.file("config.toml", &contexts);
    let key = cert.replace(".pem", ".key");
    cluster.spawn_registry(&[
        "--grpc-tls-cert",
        &cert,
        "--grpc-tls-key",
        &key,
        "--grpc-tls-client-ca",
        &ca,
    ]);
    let ask = |arguments: &[&str], context: &str| {
        run(
            cluster.command(&[arguments, &["--context", context]].concat()),
            SET,
        )
    };
    eventually("the registry answers", || {
        ask(&["get", "sets"], "viewer").status == 0
    });
    let applied = ask(&["apply", "-f", "-"], "operator").with(0);
    assert_eq!(applied, "sets/2 created\n");
    let denied = ask(&["apply", "-f", "-"], "viewer").complaint(4);
    assert!(denied.contains("take another context"), "{denied}");
    let unknown = ask(&["get", "sets"], "nobody");
    assert!([3, 4].contains(&unknown.status), "{unknown:?}");
    let lost = ask(&["get", "sets"], "lost").complaint(2);
    assert!(lost.contains("none.pem: cannot be read"), "{lost}");
    let clear = cluster.tandem(&["get", "sets"]).complaint(3);
    assert!(clear.contains("or without when it does?"), "{clear}");
}
