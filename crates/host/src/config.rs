//! The start-up settings that an SBC and a router share. Everything else lives in the registry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use control::settings::{Effective, Key, Mistakes, Settings, Span, private_face};
use control::view::Network;
use telemetry::logs::{Filter, Format};

/// The settings, in the order of `--help` and `--check`.
pub const KEYS: &[Key] = &[
    Key::new("node", "Id of this node in the cluster; default: the role"),
    Key::new("cluster", "Name of the cluster [default: tandem]"),
    Key::new(
        "cell",
        "Cell of a router: those that share its dialogs [default: default]",
    ),
    Key::new(
        "address",
        "The one address that all faces bind to [default: 127.0.0.1]",
    ),
    Key::new(
        "advertise",
        "Address that others are told; default: `address`",
    ),
    Key::new(
        "registry",
        "gRPC addresses of the registries [default: ADDRESS:7400]",
    ),
    Key::new(
        "workers",
        "Threads that move SIP, 1 to 64 [default: one for each core]",
    ),
    Key::new(
        "shards",
        "Independent parts that calls are spread over, 1 to 1024 [default: 32]",
    ),
    Key::new(
        "state_dir",
        "Where the last good configuration is kept [default: /var/lib/tandem/NODE]",
    ),
    Key::new(
        "sip.listen",
        "SIP addresses; an SBC may have two: outside, inside [default: ADDRESS:5060]",
    ),
    Key::new(
        "sip.allow",
        "Networks that may send SIP besides the cluster's members [default: none]",
    ),
    Key::new(
        "grpc.listen",
        "Where gRPC is served [default: loopback, the role's port]",
    ),
    Key::new(
        "http.listen",
        "Where /metrics, /healthz and /readyz are served [default: loopback, the role's port]",
    ),
    Key::new(
        "log.filter",
        "What is logged, such as info or info,sip=debug [default: info]",
    ),
    Key::new("log.format", "text or json [default: text]"),
    Key::new(
        "drain_timeout",
        "How long SIGTERM waits for what is going on [default: 30s]",
    ),
];

/// What differs between the roles.
#[derive(Clone, Copy, Debug)]
pub struct RoleDefaults {
    /// The node's id unless another is given.
    pub node: &'static str,
    /// Port of the gRPC face.
    pub grpc_port: u16,
    /// Port of the HTTP face.
    pub http_port: u16,
    /// How many SIP addresses it may have.
    pub listen_max: usize,
}

/// The settings of one SBC or router.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its id.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// Its cell.
    pub cell: String,
    /// The address that its faces bind to.
    pub address: IpAddr,
    /// The address that others are told.
    pub advertise: IpAddr,
    /// Where the registries are.
    pub registry: Vec<SocketAddr>,
    /// How many worker threads.
    pub workers: NonZeroUsize,
    /// How many shards.
    pub shards: usize,
    /// Where the last good configuration is kept.
    pub state_dir: PathBuf,
    /// SIP addresses.
    pub listen: Vec<SocketAddr>,
    /// Who may send besides members.
    pub allow: Vec<Network>,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// What is logged.
    pub filter: Filter,
    /// How a log line looks.
    pub format: Format,
    /// How long SIGTERM waits.
    pub drain_timeout: Duration,
}

impl HostConfig {
    /// Returns the SIP addresses that others are told: they stand in Via and Record-Route.
    #[must_use]
    pub fn advertised(&self) -> Vec<SocketAddr> {
        let told = |listen: &SocketAddr| {
            let ip = if listen.ip() == self.address {
                self.advertise
            } else {
                listen.ip()
            };
            SocketAddr::new(ip, listen.port())
        };
        self.listen.iter().map(told).collect()
    }

    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn gather(
        defaults: &RoleDefaults,
        matches: &ArgMatches,
    ) -> Result<(Self, Effective), Mistakes> {
        let mut settings = Settings::gather(KEYS, matches);
        let node = settings.read("node", defaults.node.to_owned());
        if let Err(error) = control::name::check_id(&node) {
            settings.refuse("node", error);
        }
        let address = settings.read("address", IpAddr::V4(Ipv4Addr::LOCALHOST));
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let workers = settings.read("workers", cores);
        if workers.get() > transport::WORKERS_MAX {
            settings.refuse(
                "workers",
                format!("{workers} is more than {}", transport::WORKERS_MAX),
            );
        }
        let shards = settings.read("shards", 32);
        if !(1..=1024).contains(&shards) {
            settings.refuse("shards", format!("{shards} is not between 1 and 1024"));
        }
        let listen = settings.read_list("sip.listen", vec![SocketAddr::new(address, 5060)]);
        if listen.is_empty() || listen.len() > defaults.listen_max {
            settings.refuse(
                "sip.listen",
                format!("takes 1 to {} addresses", defaults.listen_max),
            );
        }
        if listen.iter().any(|listen| listen.ip().is_unspecified()) {
            settings.refuse(
                "sip.listen",
                "is the wildcard: name the address that stands in Via and Record-Route",
            );
        }
        let face = private_face(address);
        let config = Self {
            cluster: settings.read("cluster", "tandem".to_owned()),
            cell: settings.read("cell", "default".to_owned()),
            advertise: settings.read("advertise", address),
            registry: settings.read_list("registry", vec![SocketAddr::new(face, 7400)]),
            state_dir: settings
                .read(
                    "state_dir",
                    Dir(PathBuf::from("/var/lib/tandem").join(&node)),
                )
                .0,
            allow: settings.read_list("sip.allow", vec![]),
            grpc: settings.read("grpc.listen", SocketAddr::new(face, defaults.grpc_port)),
            http: settings.read("http.listen", SocketAddr::new(face, defaults.http_port)),
            filter: settings.read("log.filter", Filter::default()),
            format: settings.read("log.format", Format::default()),
            drain_timeout: settings
                .read("drain_timeout", Span(Duration::from_secs(30)))
                .0,
            node,
            address,
            workers,
            shards,
            listen,
        };
        Ok((config, settings.finish()?))
    }
}

/// A path as a setting.
#[derive(Clone, Debug)]
struct Dir(PathBuf);

impl std::str::FromStr for Dir {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.into()))
    }
}

impl std::fmt::Display for Dir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}
