//! The registry's start-up settings.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::ArgMatches;
use control::name::check_id;
use control::settings::{Effective, Key, Mistakes, Settings, private_face};
use telemetry::logs::{Filter, Format};

/// Port of the gRPC face.
const GRPC_PORT: u16 = 7400;
/// Port of the HTTP face.
const HTTP_PORT: u16 = 7480;

pub(crate) const KEYS: &[Key] = &[
    Key::new("cluster", "Name of the cluster; default tandem"),
    Key::new("address", "Address of this node; default 127.0.0.1"),
    Key::new(
        "grpc.listen",
        "Where gRPC listens; default port 7400 on loopback",
    ),
    Key::new(
        "http.listen",
        "Where metrics and health listen; default port 7480 on loopback",
    ),
    Key::new(
        "state_dir",
        "Directory of the store; default /var/lib/tandem",
    ),
    Key::new(
        "log.filter",
        "What is logged, such as info or info,tandem_registry=debug; default info",
    ),
    Key::new("log.format", "text or json; default text"),
];

/// What a registry needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster: the part of every key after `/tandem/v1/`. Default `tandem`. A registry
    /// with another name sees an empty cluster.
    pub cluster: String,
    /// Where gRPC listens. Default: port 7400 on loopback.
    pub grpc_listen: SocketAddr,
    /// Where metrics and health listen. Default: port 7480 on loopback.
    pub http_listen: SocketAddr,
    /// Directory of the store; made if it is missing. Default `/var/lib/tandem`.
    pub state_dir: PathBuf,
    /// What is logged. Default `info`.
    pub log_filter: Filter,
    /// How a log line looks. Default text.
    pub log_format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }
}

impl Config {
    /// Returns the defaults of a registry at `address`.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self {
            cluster: "tandem".to_owned(),
            grpc_listen: SocketAddr::new(private_face(address), GRPC_PORT),
            http_listen: SocketAddr::new(private_face(address), HTTP_PORT),
            state_dir: PathBuf::from("/var/lib/tandem"),
            log_filter: Filter::default(),
            log_format: Format::default(),
        }
    }

    /// Returns the file of the store.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.state_dir.join("registry.redb")
    }

    pub(crate) fn gather(matches: &ArgMatches) -> Result<(Self, Effective), Mistakes> {
        Self::read(Settings::gather(KEYS, matches))
    }

    fn read(mut settings: Settings) -> Result<(Self, Effective), Mistakes> {
        let address = settings.read("address", IpAddr::from(Ipv4Addr::LOCALHOST));
        let default = Self::at(address);
        let state_dir = Text(default.state_dir.display().to_string());
        let config = Self {
            cluster: settings.read("cluster", default.cluster),
            grpc_listen: settings.read("grpc.listen", default.grpc_listen),
            http_listen: settings.read("http.listen", default.http_listen),
            state_dir: settings.read("state_dir", state_dir).0.into(),
            log_filter: settings.read("log.filter", default.log_filter),
            log_format: settings.read("log.format", default.log_format),
        };
        if let Err(error) = check_id(&config.cluster) {
            settings.refuse("cluster", error);
        }
        if config.grpc_listen == config.http_listen {
            settings.refuse("http.listen", "is the address of gRPC, too");
        }
        settings.finish().map(|effective| (config, effective))
    }
}

/// Text that is good as it is.
struct Text(String);

impl std::str::FromStr for Text {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn faces_stay_on_loopback_unless_told_otherwise() {
        let mut settings = Settings::default();
        settings.add_file(KEYS, Path::new("t"), "address = '192.0.2.1'");
        assert_eq!(
            Config::read(settings).unwrap().0.grpc_listen,
            "127.0.0.1:7400".parse().unwrap()
        );
        let mut settings = Settings::default();
        settings.add_file(
            KEYS,
            Path::new("t"),
            "address = '127.0.0.9'\nhttp.listen = '192.0.2.1:80'",
        );
        let config = Config::read(settings).unwrap().0;
        assert_eq!(config.grpc_listen, "127.0.0.9:7400".parse().unwrap());
        assert_eq!(config.http_listen, "192.0.2.1:80".parse().unwrap());
    }

    #[test]
    fn mistakes_come_together() {
        let mut settings = Settings::default();
        settings.add_file(
            KEYS,
            Path::new("t"),
            "cluster = 'A b'\nlog.format = 'xml'\ngrpc.listen = '127.0.0.1:7480'",
        );
        assert_eq!(Config::read(settings).unwrap_err().0.len(), 3);
    }
}
