//! Connections to a gRPC face, in the clear or with TLS.
//!
//! The files are read at every [`connect`], so a client that connects again has what a certificate
//! was renewed to.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::settings::{Key, Settings};
use crate::trace::Propagate;

/// Longest wait for a connection, and for a sign of life of one.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The settings of a node's TLS towards the registry; see [`ClientTls::read`].
pub const KEYS: &[Key] = &[
    Key::new(
        "registry_tls.ca",
        "File with the certificates that the registries' are signed with. Given, they are spoken \
         to with TLS; read again for every connection",
    )
    .unit("path, PEM")
    .wrong(
        "No such certificates in it: the start fails and says so. Others: as if no registry \
         answered, with the reason in the log",
    )
    .live(),
    Key::new(
        "registry_tls.cert",
        "File with this node's certificate, if the registries want one",
    )
    .unit("path, PEM")
    .wrong("Its URI does not end in the node's id: PERMISSION_DENIED, and the node stays out")
    .live(),
    Key::new("registry_tls.key", "File with the key of that certificate")
        .unit("path, PEM")
        .wrong("Not its key: the start fails and says so")
        .live(),
    Key::new(
        "registry_tls.server_name",
        "Name that the registries' certificates are for, if not the host in `registry`",
    )
    .unit("name or address")
    .wrong("As if no registry answered, with the reason in the log"),
];

/// A connection that says with every request which trace it belongs to. Clones share it.
pub type Channel = InterceptedService<tonic::transport::Channel, Propagate>;

/// What a client needs to speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// File with the certificates (PEM) that servers' are signed with.
    pub ca: PathBuf,
    /// Files with our certificate and its key (PEM), for servers that want one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name that a server's certificate must be for, if not the host of its address.
    pub server_name: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address is no host and port.
    #[error("{0:?} is not of the form host:port")]
    Address(String),
    /// A file cannot be read.
    #[error("{path}: cannot be read; check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path}: holds no {wanted}; give it as PEM")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Certificate, key and authorities are no good together.
    #[error("{files}: cannot be used together; give a certificate, its key, and authorities")]
    Tls {
        /// Their files.
        files: String,
        /// What is wrong.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answered, or not as wanted.
    #[error("not connected")]
    Connect(#[from] tonic::transport::Error),
}

impl ClientTls {
    /// Reads [`KEYS`]; none if TLS is not wanted.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let mut file = |key| settings.read_optional::<String>(key).map(PathBuf::from);
        let [ca, cert, key] =
            ["registry_tls.ca", "registry_tls.cert", "registry_tls.key"].map(&mut file);
        let server_name = settings.read_optional::<String>("registry_tls.server_name");
        match (&cert, &key) {
            (Some(_), None) => settings.refuse("registry_tls.cert", "needs registry_tls.key, too"),
            (None, Some(_)) => settings.refuse("registry_tls.key", "needs registry_tls.cert, too"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let Some(ca) = ca else {
            if cert.is_some() {
                settings.refuse("registry_tls.cert", "needs registry_tls.ca, too");
            }
            if server_name.is_some() {
                settings.refuse("registry_tls.server_name", "needs registry_tls.ca, too");
            }
            return None;
        };
        let tls = Self {
            ca,
            identity: cert.zip(key),
            server_name,
        };
        // Any address shows whether the files can be used.
        if let Err(error) = endpoint("localhost:1", Some(&tls)) {
            settings.refuse("registry_tls.ca", chain(&error));
        }
        Some(tls)
    }

    fn files(&self) -> String {
        let pair = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let all = std::iter::once(&self.ca).chain(pair);
        let all: Vec<_> = all.map(|path| path.display().to_string()).collect();
        all.join(", ")
    }

    /// Reads the files as they are now.
    fn config(&self) -> Result<ClientTlsConfig, ChannelError> {
        let certificate = "BEGIN CERTIFICATE";
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read_pem(&self.ca, certificate)?));
        if let Some((cert, key)) = &self.identity {
            config = config.identity(Identity::from_pem(
                read_pem(cert, certificate)?,
                read_pem(key, "PRIVATE KEY")?,
            ));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

fn read_pem(path: &Path, wanted: &'static str) -> Result<Vec<u8>, ChannelError> {
    let content = fs::read(path).map_err(|source| ChannelError::Read {
        path: path.to_owned(),
        source,
    })?;
    if String::from_utf8_lossy(&content).contains(wanted) {
        Ok(content)
    } else {
        let path = path.to_owned();
        Err(ChannelError::Content { path, wanted })
    }
}

/// Returns how to reach `address`, a `host:port`; the files of `tls` are read.
///
/// # Errors
///
/// An address of another form; a file that is missing or holds something else.
pub fn endpoint(address: &str, tls: Option<&ClientTls>) -> Result<Endpoint, ChannelError> {
    let bad = || ChannelError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let is_bare_v6 = host.contains(':') && address.parse::<SocketAddr>().is_err();
    if host.is_empty() || port.parse::<u16>().is_err() || is_bare_v6 {
        return Err(bad());
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| bad())?;
    let endpoint = endpoint
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .keep_alive_while_idle(true);
    match tls {
        Some(tls) => endpoint
            .tls_config(tls.config()?)
            .map_err(|source| ChannelError::Tls {
                files: tls.files(),
                source,
            }),
        None => Ok(endpoint),
    }
}

/// Connects to `address`, a `host:port`.
///
/// # Errors
///
/// Those of [`endpoint`]; nobody who answers; a server whose certificate is not what is wanted.
pub async fn connect(address: &str, tls: Option<&ClientTls>) -> Result<Channel, ChannelError> {
    let channel = endpoint(address, tls)?.connect().await?;
    Ok(InterceptedService::new(channel, Propagate))
}

/// Returns an error with everything it comes from, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Some errors repeat what they come from.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ClientTls>, Vec<String>> {
        let mut settings = Settings::default();
        settings.add_file(KEYS, Path::new("t"), text);
        let tls = ClientTls::read(&mut settings);
        settings
            .finish()
            .map(|_| tls)
            .map_err(|mistakes| mistakes.0)
    }

    #[test]
    fn what_belongs_together_is_wanted_together() {
        assert_eq!(read(""), Ok(None));
        for (text, said) in [
            ("cert = 'a'", "needs registry_tls.key, too"),
            ("key = 'a'", "needs registry_tls.cert, too"),
            ("server_name = 'a'", "needs registry_tls.ca, too"),
            ("ca = '/none'", "/none: cannot be read; check the path"),
            ("ca = '/dev/null'", "/dev/null: holds no BEGIN CERTIFICATE"),
        ] {
            let mistakes = read(&format!("[registry_tls]\n{text}")).unwrap_err();
            assert!(
                mistakes.iter().any(|mistake| mistake.contains(said)),
                "{text}: {mistakes:?}"
            );
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7400", "[::1]:7400", "registry.example.com:1"] {
            assert!(endpoint(good, None).is_ok(), "{good}");
        }
        for bad in [
            "", ":7400", "a", "a:", "a:x", "a:70000", "::1:7400", "a b:1",
        ] {
            assert!(endpoint(bad, None).is_err(), "{bad}");
        }
    }
}
