//! The registry's start-up settings.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgMatches;
use control::name::check_id;
use control::settings::{Effective, Mistakes, Settings, Span, private_face};
use face::FaceConfig;
use store::EtcdConfig;
use telemetry::logs::{Filter, Format};

use crate::keys::keys;

/// Port of the gRPC face.
const GRPC_PORT: u16 = 7400;
/// Port of the HTTP face.
const HTTP_PORT: u16 = 7480;

/// Least time without life after which a member is forgotten by setting: longer than a restart.
const FORGET_AFTER_MIN: Duration = Duration::from_secs(60);

/// Which store a registry has.
#[derive(Clone, Debug, Default)]
pub enum StoreConfig {
    /// A file that is this registry's alone.
    #[default]
    Embedded,
    /// etcd, which any number of registries may share.
    Etcd(EtcdConfig),
}

/// How often a registry says where it stands, and how patient it is. No settings: only tests are in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time to a bookmark while nothing else is sent. Default 15 s. Longer, and a view that went astray is
    /// found later.
    pub bookmark_interval: Duration,
    /// How long whoever follows may take to read, or to answer. Default 30 s. Shorter, and a node that is busy
    /// is cut off.
    pub slow_watcher_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            bookmark_interval: Duration::from_secs(15),
            slow_watcher_after: Duration::from_secs(30),
        }
    }
}

/// What a registry needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster: the part of every key after `/tandem/v1/`. Default `tandem`. A registry
    /// with another name sees an empty cluster.
    pub cluster: String,
    /// Where gRPC listens. Default: port 7400 on loopback.
    pub grpc_listen: SocketAddr,
    /// How gRPC is served: TLS, and who may do what. Default: in the clear, everybody everything.
    pub face: FaceConfig,
    /// Where metrics and health listen. Default: port 7480 on loopback.
    pub http_listen: SocketAddr,
    /// Directory of the embedded store; made if it is missing. Default `/var/lib/tandem`.
    pub state_dir: PathBuf,
    /// Where the store is. Default: in a file of this registry.
    pub store: StoreConfig,
    /// How long a member may be without life before it is forgotten. Default 24 h. Shorter than a node
    /// may be away, and its state and tags are gone when it comes back.
    pub forget_after: Duration,
    /// How it goes about with those who follow.
    pub pace: Pace,
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
            face: FaceConfig::default(),
            http_listen: SocketAddr::new(private_face(address), HTTP_PORT),
            state_dir: PathBuf::from("/var/lib/tandem"),
            store: StoreConfig::Embedded,
            forget_after: Duration::from_secs(24 * 60 * 60),
            pace: Pace::default(),
            log_filter: Filter::default(),
            log_format: Format::default(),
        }
    }

    /// Returns the file of the embedded store.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.state_dir.join("registry.redb")
    }

    /// Says where the store is, for people.
    pub(crate) fn store_place(&self) -> String {
        match &self.store {
            StoreConfig::Embedded => self.store_path().display().to_string(),
            StoreConfig::Etcd(etcd) => format!("etcd at {}", etcd.endpoints.join(", ")),
        }
    }

    pub(crate) fn gather(matches: &ArgMatches) -> Result<(Self, Effective), Mistakes> {
        Self::read(Settings::gather(&keys(), matches))
    }

    fn read(mut settings: Settings) -> Result<(Self, Effective), Mistakes> {
        let address = settings.read("address", IpAddr::from(Ipv4Addr::LOCALHOST));
        let default = Self::at(address);
        let state_dir = Text(default.state_dir.display().to_string());
        let config = Self {
            cluster: settings.read("cluster", default.cluster),
            grpc_listen: settings.read("grpc.listen", default.grpc_listen),
            face: FaceConfig::read(&mut settings),
            http_listen: settings.read("http.listen", default.http_listen),
            state_dir: settings.read("state_dir", state_dir).0.into(),
            store: read_store(&mut settings),
            forget_after: settings
                .read("members.forget_after", Span(default.forget_after))
                .0,
            pace: default.pace,
            log_filter: settings.read("log.filter", default.log_filter),
            log_format: settings.read("log.format", default.log_format),
        };
        if let Err(error) = check_id(&config.cluster) {
            settings.refuse("cluster", error);
        }
        if config.forget_after < FORGET_AFTER_MIN {
            settings.refuse(
                "members.forget_after",
                format!("must be at least {}", Span(FORGET_AFTER_MIN)),
            );
        }
        if config.grpc_listen == config.http_listen {
            settings.refuse("http.listen", "is the address of gRPC, too");
        }
        settings.finish().map(|effective| (config, effective))
    }
}

fn read_store(settings: &mut Settings) -> StoreConfig {
    let backend = settings.read("store.backend", Backend::Embedded);
    let etcd = read_etcd(settings);
    match backend {
        Backend::Embedded if !etcd.endpoints.is_empty() => {
            settings.refuse("store.etcd.endpoints", "needs store.backend to be etcd");
            StoreConfig::Embedded
        }
        Backend::Embedded => StoreConfig::Embedded,
        Backend::Etcd => {
            if etcd.endpoints.is_empty() {
                settings.refuse("store.etcd.endpoints", "is needed to find etcd");
            }
            StoreConfig::Etcd(etcd)
        }
    }
}

fn read_etcd(settings: &mut Settings) -> EtcdConfig {
    let endpoints = settings.read_list::<EtcdEndpoint>("store.etcd.endpoints", Vec::new());
    let user = settings.read_optional::<Text>("store.etcd.user");
    let password = read_file(settings, "store.etcd.password_file", "");
    let ca = read_file(settings, "store.etcd.ca", "BEGIN CERTIFICATE");
    let certificate = read_file(settings, "store.etcd.cert", "BEGIN CERTIFICATE");
    let key = read_file(settings, "store.etcd.key", "PRIVATE KEY");
    let mut pair = |[first, second]: [&str; 2], given: [bool; 2]| {
        if given == [true, false] {
            settings.refuse(first, format!("needs {second}, too"));
        } else if given == [false, true] {
            settings.refuse(second, format!("needs {first}, too"));
        }
    };
    let names = ["store.etcd.user", "store.etcd.password_file"];
    pair(names, [user.is_some(), password.is_some()]);
    let names = ["store.etcd.cert", "store.etcd.key"];
    pair(names, [certificate.is_some(), key.is_some()]);
    if certificate.is_some() && ca.is_none() {
        settings.refuse("store.etcd.cert", "needs store.etcd.ca, too");
    }
    let wrong = if ca.is_some() { "http://" } else { "https://" };
    if let Some(endpoint) = endpoints.iter().find(|one| one.0.starts_with(wrong)) {
        let reason = match ca {
            Some(_) => format!("{} is without TLS, and store.etcd.ca is given", endpoint.0),
            None => format!("{} needs store.etcd.ca", endpoint.0),
        };
        settings.refuse("store.etcd.endpoints", reason);
    }
    EtcdConfig {
        endpoints: endpoints.into_iter().map(|endpoint| endpoint.0).collect(),
        user: user.map(|user| user.0).zip(password.map(|password| {
            let password = String::from_utf8_lossy(&password);
            password.trim_end_matches(['\r', '\n']).to_owned()
        })),
        ca,
        identity: certificate.zip(key),
    }
}

/// Reads a file that a setting names; what it holds must contain `mark`.
fn read_file(settings: &mut Settings, name: &'static str, mark: &str) -> Option<Vec<u8>> {
    let path = settings.read_optional::<Text>(name)?.0;
    match std::fs::read(&path) {
        Ok(content) if String::from_utf8_lossy(&content).contains(mark) => return Some(content),
        Ok(_) => settings.refuse(name, format!("{path} does not contain {mark:?} (PEM)")),
        Err(error) => settings.refuse(name, format!("{path}: {error}")),
    }
    // So that what belongs together is not said to be missing as well.
    Some(Vec::new())
}

#[derive(Clone, Copy, Debug)]
enum Backend {
    Embedded,
    Etcd,
}

impl FromStr for Backend {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "etcd" => Ok(Self::Etcd),
            _ => Err("must be embedded or etcd"),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        })
    }
}

/// Where a member of etcd serves clients: host and port, and perhaps a scheme.
struct EtcdEndpoint(String);

impl FromStr for EtcdEndpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix("https://");
        let bare = bare.or(text.strip_prefix("http://")).unwrap_or(text);
        let good = bare.rsplit_once(':').is_some_and(|(host, port)| {
            let host = !host.is_empty() && !host.contains(['/', '@', ' ']);
            host && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        good.then(|| Self(text.to_owned()))
            .ok_or("is not HOST:PORT, with http:// or https:// or nothing before it")
    }
}

impl std::fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is good as it is.
struct Text(String);

impl FromStr for Text {
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

    use control::settings::Key;

    use super::*;

    #[test]
    fn faces_stay_on_loopback_unless_told_otherwise() {
        let mut settings = Settings::default();
        settings.add_file(&keys(), Path::new("t"), "address = '192.0.2.1'");
        assert_eq!(
            Config::read(settings).unwrap().0.grpc_listen,
            "127.0.0.1:7400".parse().unwrap()
        );
        let mut settings = Settings::default();
        settings.add_file(
            &keys(),
            Path::new("t"),
            "address = '127.0.0.9'\nhttp.listen = '192.0.2.1:80'",
        );
        let config = Config::read(settings).unwrap().0;
        assert_eq!(config.grpc_listen, "127.0.0.9:7400".parse().unwrap());
        assert_eq!(config.http_listen, "192.0.2.1:80".parse().unwrap());
    }

    fn read_text(text: &str) -> Result<Config, Vec<String>> {
        let mut settings = Settings::default();
        settings.add_file(&keys(), Path::new("t"), text);
        let read = Config::read(settings).map_err(|mistakes| mistakes.0);
        read.map(|(config, _)| config)
    }

    #[test]
    fn etcd_is_found_by_its_endpoints() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (password, ca) = (
            file("password", "secret\n"),
            file("ca", "-----BEGIN CERTIFICATE-----"),
        );
        let config = read_text(&format!(
            "[store]\nbackend = 'etcd'\n[store.etcd]\nendpoints = ['https://a:1', 'b:2']\n\
             user = 'tandem'\npassword_file = '{password}'\nca = '{ca}'"
        ));
        let StoreConfig::Etcd(etcd) = config.unwrap().store else {
            panic!("etcd");
        };
        assert_eq!(etcd.endpoints, ["https://a:1", "b:2"]);
        assert_eq!(etcd.user, Some(("tandem".into(), "secret".into())));
        assert!(etcd.ca.is_some() && etcd.identity.is_none());
    }

    #[test]
    fn what_etcd_lacks_is_said() {
        for (text, said) in [
            ("backend = 'etcd'", "store.etcd.endpoints: is needed"),
            ("backend = 'file'", "must be embedded or etcd"),
            ("etcd.endpoints = ['a:1']", "needs store.backend to be etcd"),
            ("etcd.endpoints = ['a']", "is not HOST:PORT"),
            ("etcd.endpoints = ['http://a:1/x']", "is not HOST:PORT"),
            ("etcd.endpoints = ['https://a:1']", "needs store.etcd.ca"),
            ("etcd.user = 'x'", "needs store.etcd.password_file, too"),
            ("etcd.password_file = '/none'", "/none: No such file"),
            (
                "etcd.ca = '/dev/null'",
                "does not contain \"BEGIN CERTIFICATE\"",
            ),
            ("etcd.key = '/dev/null'", "needs store.etcd.cert, too"),
        ] {
            let mistakes = read_text(&format!("[store]\n{text}")).unwrap_err();
            assert!(
                mistakes.iter().any(|mistake| mistake.contains(said)),
                "{text}: {mistakes:?}"
            );
        }
    }

    #[test]
    fn the_defaults_are_those_that_people_read() {
        let (_, effective) = Config::read(Settings::default()).unwrap();
        let said = |key: &Key| key.default.replace("LOOPBACK", "127.0.0.1");
        for key in keys().iter().filter(|key| key.default != "none") {
            let read = effective.defaults().find(|(name, _)| *name == key.name);
            assert_eq!(read, Some((key.name, said(key).as_str())));
        }
        let read = effective.defaults().filter(|(_, value)| !value.is_empty());
        let said = keys();
        let said = said.iter().filter(|key| key.default != "none");
        assert_eq!(read.count(), said.count());
    }

    #[test]
    fn mistakes_come_together() {
        let mut settings = Settings::default();
        settings.add_file(
            &keys(),
            Path::new("t"),
            "cluster = 'A b'\nlog.format = 'xml'\ngrpc.listen = '127.0.0.1:7480'\n\
             members.forget_after = '1s'",
        );
        assert_eq!(Config::read(settings).unwrap_err().0.len(), 4);
    }
}
