//! What TLS is served with: three files, read at the start and whenever they change.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use arc_swap::ArcSwap;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Time between two looks at the files. What changed counts once it has stayed as it is for as long,
/// since a certificate and its key are written one after the other.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Where certificate, key and authorities are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate (PEM), and what leads from it to its authority.
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The authorities (PEM) that clients' certificates are signed by. None: anybody may call.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}; {remedy}")]
pub struct TlsError {
    path: PathBuf,
    reason: String,
    remedy: &'static str,
}

impl TlsError {
    fn new(path: &Path, reason: impl ToString, remedy: &'static str) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.to_string(),
            remedy,
        }
    }
}

/// What new connections are served with.
pub(crate) struct ServerTls {
    files: TlsFiles,
    in_force: ArcSwap<ServerConfig>,
    /// How the files looked before they were read.
    stamps: [Option<Stamp>; 3],
}

/// What shows that a file is another one.
type Stamp = (SystemTime, u64);

impl ServerTls {
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            stamps: files.stamps(),
            in_force: ArcSwap::from_pointee(files.read()?),
            files: files.clone(),
        })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.in_force.load_full())
    }

    /// Takes over what the files change to, for as long as it is polled.
    pub(crate) async fn follow(&self) -> Infallible {
        let (mut taken, mut seen) = (self.stamps, self.stamps);
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = self.files.stamps();
            let settled = std::mem::replace(&mut seen, now) == now;
            if !settled || now == taken {
                continue;
            }
            taken = now;
            match self.files.read() {
                Ok(config) => self.in_force.store(Arc::new(config)),
                Err(error) => {
                    tracing::warn!(%error, "certificate refused; the one before stays in force");
                }
            }
        }
    }
}

impl TlsFiles {
    fn stamps(&self) -> [Option<Stamp>; 3] {
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [
            stamp(&self.cert),
            stamp(&self.key),
            self.client_ca.as_ref().and_then(stamp),
        ]
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&content(&self.key)?)
            .map_err(|_| TlsError::new(&self.key, "holds no private key", "give the key as PEM"))?;
        let until = chain.first().and_then(|leaf| expiry(leaf));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(&self.cert, error, "this is a bug"))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let bad = |error: &dyn ToString| {
                    TlsError::new(path, error.to_string(), "give certificates of authorities")
                };
                let mut authorities = RootCertStore::empty();
                for authority in certificates(path)? {
                    authorities.add(authority).map_err(|error| bad(&error))?;
                }
                // Who has no certificate may ask for the health, and is told what is missing otherwise.
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(authorities.into(), provider)
                        .allow_unauthenticated()
                        .build();
                builder.with_client_cert_verifier(verifier.map_err(|error| bad(&error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let remedy = if matches!(error, rustls::Error::InconsistentKeys(_)) {
                "give the key that the certificate was made for"
            } else {
                "give a certificate and its key"
            };
            TlsError::new(&self.key, error, remedy)
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        self.say(until);
        Ok(config)
    }

    /// An expired certificate is served: a node that refused to start would move no calls either.
    fn say(&self, until: Option<SystemTime>) {
        let cert = self.cert.display();
        let left = until.map(|until| until.duration_since(SystemTime::now()));
        match left {
            Some(Ok(left)) => {
                let days_left = left.as_secs() / 86_400;
                tracing::info!(%cert, days_left, "certificate in force");
            }
            Some(Err(_)) => tracing::warn!(%cert, "certificate in force, although it has expired"),
            None => tracing::info!(%cert, "certificate in force"),
        }
    }
}

fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error: io::Error| {
        TlsError::new(path, error, "check the path and its permissions")
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let remedy = "give certificates as PEM";
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content(path)?).collect();
    match all {
        Ok(all) if all.is_empty() => Err(TlsError::new(path, "holds no certificate", remedy)),
        Ok(all) => Ok(all),
        Err(error) => Err(TlsError::new(path, error, remedy)),
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}
