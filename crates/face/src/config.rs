//! The settings of a face, and its limits.

use std::path::PathBuf;
use std::time::Duration;

use control::channel::chain;
use control::settings::{Key, Settings};

use crate::roles::{Pattern, Roles};
use crate::tls::{ServerTls, TlsFiles};

/// Most bytes of one message of a request. The largest that anybody needs, 60 resources to apply, is
/// far below it.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of the header fields of one request, `x-forwarded-client-cert` included.
pub(crate) const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Most calls at a time on one connection.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// The settings of a face, in the order of `--help`. Where it listens is its process's own.
pub const KEYS: &[Key] = &[
    Key::new(
        "grpc.tls.cert",
        "File with the certificate that gRPC is served with, and what leads from it to its \
         authority. Given, it is TLS",
    )
    .unit("path, PEM")
    .wrong(BAD_FILE)
    .live(),
    Key::new("grpc.tls.key", "File with the key of that certificate")
        .unit("path, PEM")
        .wrong(BAD_FILE)
        .live(),
    Key::new(
        "grpc.tls.client_ca",
        "File with the certificates that clients' are signed with. Given, every method needs a role",
    )
    .unit("path, PEM")
    .wrong("Others than those: nobody gets in, nodes included; they go on with what they have")
    .live(),
    Key::new("grpc.roles.viewer", "Who may read")
        .unit("patterns of URIs")
        .default("spiffe://*/tandem/viewer/*")
        .wrong(BAD_ROLE),
    Key::new("grpc.roles.operator", "Who may change, and read")
        .unit("patterns of URIs")
        .default("spiffe://*/tandem/operator/*")
        .wrong(BAD_ROLE),
    Key::new(
        "grpc.roles.node",
        "Who may register and follow, each as the member that its URI ends in",
    )
    .unit("patterns of URIs")
    .default("spiffe://*/tandem/node/*")
    .wrong(BAD_ROLE),
    Key::new(
        "grpc.trust_forwarded_client_cert",
        "Whether `x-forwarded-client-cert` of a connection from loopback says who calls",
    )
    .unit("true or false")
    .default("false")
    .wrong("`true` where others than a sidecar reach the port: anybody can be anybody"),
];

/// What a file that is no good does.
const BAD_FILE: &str = "At the start: it fails, and names the file, the reason and the remedy. \
                        Later: what was in force stays, with a line at WARN";
/// What patterns that are no good do.
const BAD_ROLE: &str = "Too narrow: PERMISSION_DENIED, which names the URI that was seen. Too wide: \
                        strangers operate the cluster";

/// What a face needs to start.
#[derive(Clone, Debug, Default)]
pub struct FaceConfig {
    /// Certificate and key; none for gRPC in the clear.
    pub tls: Option<TlsFiles>,
    /// Who may do what. It counts once clients can be told apart: with
    /// [`client_ca`](TlsFiles::client_ca) or with the next field.
    pub roles: Roles,
    /// Whether `x-forwarded-client-cert` of a caller on loopback says who calls. Where anything but
    /// the sidecar reaches the port, anybody can claim anything.
    pub trust_forwarded_client_cert: bool,
    /// How much at a time, and for how long.
    pub limits: Limits,
}

/// How much a face takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest a call with one answer may take, whatever its caller would grant it. Default 30 s.
    /// Shorter than the store needs, and changes are answered DEADLINE_EXCEEDED and happen all the same.
    pub deadline: Duration,
    /// Calls with one answer that are worked on at a time; more are refused at once. Default 1024.
    pub calls_max: usize,
    /// Streams that are open at a time; more are refused. Default 8192: two for each of 4096 nodes.
    pub streams_max: usize,
    /// Connections at a time; more wait in the listener's queue. Default 4096.
    pub connections_max: usize,
    /// TLS handshakes at a time; more wait in the listener's queue. Default 256.
    pub handshakes_max: usize,
    /// Longest a TLS handshake may take. Default 5 s.
    pub handshake: Duration,
    /// Time between two pings of a connection, and how long it may take to answer one: a node behind a
    /// dead network is not connected. Default 5 s.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            calls_max: 1024,
            streams_max: 8192,
            connections_max: 4096,
            handshakes_max: 256,
            handshake: Duration::from_secs(5),
            ping: Duration::from_secs(5),
        }
    }
}

impl FaceConfig {
    /// Reads [`KEYS`].
    pub fn read(settings: &mut Settings) -> Self {
        let roles = Roles::default();
        let mut list = |key, default| settings.read_list::<Pattern>(key, default);
        let roles = Roles {
            viewer: list("grpc.roles.viewer", roles.viewer),
            operator: list("grpc.roles.operator", roles.operator),
            node: list("grpc.roles.node", roles.node),
        };
        Self {
            tls: read_tls(settings),
            roles,
            trust_forwarded_client_cert: settings.read("grpc.trust_forwarded_client_cert", false),
            limits: Limits::default(),
        }
    }

    /// Tells whether callers must say who they are.
    pub(crate) fn knows_callers(&self) -> bool {
        let client_ca = self.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
        client_ca.is_some() || self.trust_forwarded_client_cert
    }
}

fn read_tls(settings: &mut Settings) -> Option<TlsFiles> {
    let mut file = |key| settings.read_optional::<String>(key).map(PathBuf::from);
    let [cert, key, client_ca] =
        ["grpc.tls.cert", "grpc.tls.key", "grpc.tls.client_ca"].map(&mut file);
    if cert.is_none() && client_ca.is_some() {
        settings.refuse("grpc.tls.client_ca", "needs grpc.tls.cert, too");
    }
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => {
            settings.refuse("grpc.tls.cert", "needs grpc.tls.key, too");
            return None;
        }
        (None, Some(_)) => {
            settings.refuse("grpc.tls.key", "needs grpc.tls.cert, too");
            return None;
        }
        (None, None) => return None,
    };
    let files = TlsFiles {
        cert,
        key,
        client_ca,
    };
    if let Err(error) = ServerTls::load(&files) {
        settings.refuse("grpc.tls.cert", chain(&error));
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<FaceConfig, Vec<String>> {
        let mut settings = Settings::default();
        settings.add_file(KEYS, Path::new("t"), &format!("[grpc]\n{text}"));
        let config = FaceConfig::read(&mut settings);
        let read = settings.finish().map(|_| config);
        read.map_err(|mistakes| mistakes.0)
    }

    #[test]
    fn nothing_is_asked_of_a_face_on_loopback() {
        let config = read("").unwrap();
        assert!(config.tls.is_none() && !config.knows_callers());
        assert!(
            read("trust_forwarded_client_cert = true")
                .unwrap()
                .knows_callers()
        );
    }

    #[test]
    fn what_belongs_together_is_wanted_together() {
        for (text, said) in [
            ("tls.cert = 'a'", "grpc.tls.cert: needs grpc.tls.key, too"),
            ("tls.key = 'a'", "grpc.tls.key: needs grpc.tls.cert, too"),
            ("tls.client_ca = 'a'", "needs grpc.tls.cert, too"),
            (
                "tls.cert = '/none'\ntls.key = '/none'",
                "/none: No such file",
            ),
            ("roles.viewer = ['anna']", "\"anna\": is no URI"),
            ("trust_forwarded_client_cert = 'maybe'", "maybe"),
        ] {
            let mistakes = read(text).unwrap_err();
            assert!(
                mistakes.iter().any(|mistake| mistake.contains(said)),
                "{text}: {mistakes:?}"
            );
        }
    }
}
