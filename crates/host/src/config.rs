//! The start-up settings that an SBC and a router share. Everything else lives in the registry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::egress::Egress;
use crate::keys::keys;
use clap::ArgMatches;
use control::channel::ClientTls;
use control::settings::{Effective, Mistakes, Settings, Span, private_face};
use control::view::Network;
use face::FaceConfig;
use telemetry::logs::{Filter, Format};

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
    /// Whether it may send requests elsewhere than back to the SBC.
    pub egress: bool,
    /// Port of the bus; `None` for a role that replicates nothing.
    pub dmq_port: Option<u16>,
    /// Name of the file for call records; `None` for a role that writes none.
    pub records: Option<&'static str>,
}

/// The settings of a router's bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmqConfig {
    /// Where KDMQ is received and sent from: at the node's `address`, since others are told the port only.
    pub listen: SocketAddr,
    /// Who may speak besides members and the cell's stock nodes.
    pub allow: Vec<Network>,
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
    /// TLS towards them; none for connections in the clear.
    pub registry_tls: Option<ClientTls>,
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
    /// How requests leave; only a router has a choice.
    pub egress: Egress,
    /// The bus of the cell; only a router has one.
    pub dmq: Option<DmqConfig>,
    /// Where call records are written; only a router writes them.
    pub records: Option<PathBuf>,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// How gRPC is served: TLS, and who may do what.
    pub face: FaceConfig,
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
        Self::read(defaults, Settings::gather(&keys(defaults), matches))
    }

    fn read(
        defaults: &RoleDefaults,
        mut settings: Settings,
    ) -> Result<(Self, Effective), Mistakes> {
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
        let egress = match defaults.egress {
            true => settings.read("sip.egress", Egress::default()),
            false => Egress::default(),
        };
        if let Some(note) = egress.note() {
            settings.note("sip.egress", note);
        }
        let dmq = defaults
            .dmq_port
            .map(|port| DmqConfig::read(&mut settings, SocketAddr::new(address, port), &listen));
        let state_dir = PathBuf::from("/var/lib/tandem").join(&node);
        let state_dir = settings.read("state_dir", Location(state_dir)).0;
        let records = defaults.records.map(|file| {
            let default = Location(state_dir.join(file));
            settings.read("records.path", default).0
        });
        let face = private_face(address);
        let config = Self {
            cluster: settings.read("cluster", "tandem".to_owned()),
            cell: settings.read("cell", "default".to_owned()),
            advertise: settings.read("advertise", address),
            registry: settings.read_list("registry", vec![SocketAddr::new(face, 7400)]),
            registry_tls: ClientTls::read(&mut settings),
            allow: settings.read_list("sip.allow", vec![]),
            grpc: settings.read("grpc.listen", SocketAddr::new(face, defaults.grpc_port)),
            face: FaceConfig::read(&mut settings),
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
            state_dir,
            listen,
            egress,
            dmq,
            records,
        };
        Ok((config, settings.finish()?))
    }
}

impl DmqConfig {
    fn read(settings: &mut Settings, default: SocketAddr, sip: &[SocketAddr]) -> Self {
        let listen = settings.read("dmq.listen", default);
        if listen.ip() != default.ip() {
            settings.refuse(
                "dmq.listen",
                format!("is not at {}: others are told the port only", default.ip()),
            );
        }
        if listen.port() == 0 {
            settings.refuse("dmq.listen", "has no port");
        }
        if sip.contains(&listen) {
            settings.refuse("dmq.listen", "is the address of SIP, too");
        }
        Self {
            listen,
            allow: settings.read_list("dmq.allow", vec![]),
        }
    }
}

/// A path as a setting.
#[derive(Clone, Debug)]
struct Location(PathBuf);

impl std::str::FromStr for Location {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.into()))
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use control::settings::Key;

    use super::*;

    const ROUTER: RoleDefaults = RoleDefaults {
        node: "router",
        grpc_port: 7401,
        http_port: 7481,
        listen_max: 1,
        egress: true,
        dmq_port: Some(5062),
        records: Some("calls.jsonl"),
    };
    const SBC: RoleDefaults = RoleDefaults {
        node: "sbc",
        grpc_port: 7402,
        http_port: 7482,
        listen_max: 2,
        egress: false,
        dmq_port: None,
        records: None,
    };

    fn read(role: &RoleDefaults, file: &str) -> Result<(HostConfig, Effective), Mistakes> {
        let mut settings = Settings::default();
        settings.add_file(&keys(role), Path::new("t"), file);
        HostConfig::read(role, settings)
    }

    #[test]
    fn the_defaults_are_those_that_people_read() {
        for role in [ROUTER, SBC] {
            let (_, effective) = HostConfig::read(&role, Settings::default()).unwrap();
            let state = format!("/var/lib/tandem/{}", role.node);
            let said = |key: &Key| {
                let all = key.default.replace("LOOPBACK", "127.0.0.1");
                let all = all
                    .replace("ADDRESS", "127.0.0.1")
                    .replace("NODE", role.node);
                all.replace("STATE_DIR", &state)
            };
            let keys = keys(&role);
            for key in keys.iter().filter(|key| key.name != "workers") {
                let read = effective.defaults().find(|(name, _)| *name == key.name);
                let read = read.map_or("none", |(_, value)| value);
                let read = if read.is_empty() { "none" } else { read };
                let said = said(key);
                assert!(
                    said.split(", ").any(|one| one == read),
                    "{}: {read}, not {said}",
                    key.name
                );
            }
            let read = effective.defaults().filter(|(_, value)| !value.is_empty());
            let said = keys.iter().filter(|key| key.default != "none");
            assert_eq!(read.count(), said.count());
        }
    }

    #[test]
    fn a_router_that_sends_past_the_sbc_is_told_what_fails_over_then() {
        let (config, effective) = read(&ROUTER, "sip.egress = 'direct'").unwrap();
        assert_eq!(config.egress, Egress::Direct);
        let told = "sip.egress = \"direct\"";
        let printed = effective.to_string();
        let line = printed.lines().find(|line| line.starts_with(told)).unwrap();
        assert!(
            line.ends_with("; only first requests and carrier-side in-dialog requests fail over")
        );
        assert!(read(&SBC, "sip.egress = 'direct'").is_err());
        assert!(read(&ROUTER, "sip.egress = 'both'").is_err());
    }

    #[test]
    fn a_router_has_a_bus_and_call_records_beside_its_own_address_and_state() {
        let file =
            "address = '192.0.2.1'\nstate_dir = '/s'\ndmq.allow = ['192.0.2.0/28', '192.0.2.99']";
        let (config, shown) = read(&ROUTER, file).unwrap();
        let dmq = config.dmq.unwrap();
        assert_eq!(dmq.listen, "192.0.2.1:5062".parse().unwrap());
        let allowed: Vec<_> = dmq.allow.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["192.0.2.0/28", "192.0.2.99/32"]);
        assert_eq!(config.records, Some("/s/calls.jsonl".into()));
        assert!(
            shown
                .to_string()
                .contains("dmq.listen = \"192.0.2.1:5062\""),
            "{shown}"
        );

        let (config, _) = read(
            &ROUTER,
            "dmq.listen = '127.0.0.1:5090'\nrecords.path = '/r'",
        )
        .unwrap();
        assert_eq!(config.dmq.unwrap().listen.port(), 5090);
        assert_eq!(config.records, Some("/r".into()));
    }

    #[test]
    fn an_sbc_knows_nothing_of_them() {
        let (config, shown) = read(&SBC, "").unwrap();
        assert_eq!((config.dmq, config.records), (None, None));
        let command = control::settings::command("t", "test", &keys(&SBC));
        for text in [shown.to_string(), command.clone().render_help().to_string()] {
            assert!(
                text.contains("sip") && !text.contains("dmq") && !text.contains("records"),
                "{text}"
            );
        }
        let mistakes = read(&SBC, "dmq.listen = '127.0.0.1:5062'\nrecords.path = '/r'")
            .unwrap_err()
            .0;
        assert_eq!(
            mistakes,
            [
                "t: dmq.listen: no such setting",
                "t: records.path: no such setting"
            ]
        );
    }

    #[test]
    fn a_bus_where_nobody_would_find_it_is_refused() {
        for (listen, reason) in [
            (
                "127.0.0.2:5062",
                "is not at 127.0.0.1: others are told the port only",
            ),
            ("127.0.0.1:0", "has no port"),
            ("127.0.0.1:5060", "is the address of SIP, too"),
        ] {
            let mistakes = read(&ROUTER, &format!("dmq.listen = '{listen}'"))
                .unwrap_err()
                .0;
            assert_eq!(mistakes, [format!("t: dmq.listen: {reason}")]);
        }
        let mistakes = read(&ROUTER, "dmq.listen = 'here'\ndmq.allow = ['there']")
            .unwrap_err()
            .0;
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    }
}
