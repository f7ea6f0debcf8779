//! Names of next hops, looked up as RFC 3263 section 4 says for UDP.
//!
//! NAPTR is left out: it chooses a transport, and UDP is the only one. What is remembered of an
//! answer, and who is asked for a name, is the role's business.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

/// The least time that an answer counts, whatever its records say.
pub const FRESH_MIN: Duration = Duration::from_secs(5);

/// The longest time that an answer counts, whatever its records say.
pub const FRESH_MAX: Duration = Duration::from_secs(3600);

/// How long an answer counts that says nothing of it, such as one of the hosts file without DNS.
const FRESH_FOR: Duration = Duration::from_secs(30);

/// How long it is believed that a record does not exist.
const ABSENT_MAX: Duration = Duration::from_secs(30);

/// How many addresses of one name, and how many targets of one service, are taken.
pub const NAME_ADDRESSES_MAX: usize = 16;

/// How long SRV may take before the host itself is asked for: some servers never answer that.
const SERVICES_TIME_MAX: Duration = Duration::from_millis(900);

/// How long one server gets to answer one question.
const ATTEMPT_MAX: Duration = Duration::from_millis(400);

/// The port of SIP over UDP.
const DEFAULT_PORT: u16 = 5060;

/// What is asked for: a host as a SIP URI names it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The host.
    pub host: Arc<str>,
    /// The port that the URI names. Without one SRV says where the service is.
    pub port: Option<u16>,
}

/// The answer: where to send to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// In the order in which they are to be tried; none when the name is not known.
    pub addresses: Vec<SocketAddr>,
    /// How long that counts, [`FRESH_MIN`] to [`FRESH_MAX`].
    pub fresh_for: Duration,
}

impl Answer {
    fn new(addresses: impl IntoIterator<Item = SocketAddr>, fresh_for: Duration) -> Self {
        let mut distinct = Vec::new();
        for address in addresses {
            if distinct.len() < NAME_ADDRESSES_MAX && !distinct.contains(&address) {
                distinct.push(address);
            }
        }
        Self {
            addresses: distinct,
            fresh_for: fresh_for.clamp(FRESH_MIN, FRESH_MAX),
        }
    }
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error(transparent)]
    Dns(#[from] NetError),
    #[error(transparent)]
    Hosts(#[from] io::Error),
    #[error("the service is not offered there")]
    NotOffered,
    #[error("no target of the service has an address")]
    NoTarget,
}

/// Records of one kind, and how long they count.
#[derive(Clone, Debug)]
pub(crate) struct Records<T> {
    pub(crate) list: Vec<T>,
    pub(crate) fresh_for: Duration,
}

/// One SRV record: RFC 2782.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    pub(crate) port: u16,
    /// The host that offers it; `.` when nobody does.
    pub(crate) target: String,
}

/// Who knows names: the system, or a test.
pub(crate) trait Directory: Send + Sync + 'static {
    /// Returns the SRV records of a name, in any order; an empty list is an answer as well.
    fn services(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Records<Service>, LookupError>> + Send;
    /// Returns the addresses of a host, in the order in which they are to be tried.
    fn addresses(
        &self,
        host: &str,
    ) -> impl Future<Output = Result<Records<IpAddr>, LookupError>> + Send;
}

/// Looks a name up: RFC 3263 section 4.2. `seed` draws the order among targets of one priority.
pub(crate) async fn resolve<D: Directory>(
    directory: &Arc<D>,
    name: &Name,
    seed: u64,
) -> Result<Answer, LookupError> {
    if name.port.is_none()
        && let Some(services) = services(directory, name).await
    {
        return targets(directory, services, seed).await;
    }
    let port = name.port.unwrap_or(DEFAULT_PORT);
    let hosts = directory.addresses(&name.host).await?;
    let addresses = hosts.list.into_iter().map(|ip| SocketAddr::new(ip, port));
    Ok(Answer::new(addresses, hosts.fresh_for))
}

/// Returns the SRV records of a host, if there are any.
async fn services<D: Directory>(directory: &Arc<D>, name: &Name) -> Option<Records<Service>> {
    let service = format!("_sip._udp.{}", name.host);
    let found = tokio::time::timeout(SERVICES_TIME_MAX, directory.services(&service)).await;
    let services = found.ok()?.ok()?;
    (!services.list.is_empty()).then_some(services)
}

/// Returns the addresses of all targets, in the order of the targets. One without is passed over.
async fn targets<D: Directory>(
    directory: &Arc<D>,
    services: Records<Service>,
    seed: u64,
) -> Result<Answer, LookupError> {
    let fresh_for = services.fresh_for;
    let services = in_order(services.list, &mut SmallRng::seed_from_u64(seed));
    if matches!(&services[..], [only] if only.target == ".") {
        return Err(LookupError::NotOffered);
    }
    let mut lookups = JoinSet::new();
    for (position, service) in services.into_iter().take(NAME_ADDRESSES_MAX).enumerate() {
        let directory = directory.clone();
        lookups.spawn(async move {
            let hosts = directory.addresses(&service.target).await.ok()?;
            Some((position, service.port, hosts))
        });
    }
    let mut found: Vec<_> = lookups.join_all().await.into_iter().flatten().collect();
    found.sort_by_key(|(position, ..)| *position);
    let fresh_for = found
        .iter()
        .map(|(_, _, hosts)| hosts.fresh_for)
        .fold(fresh_for, Duration::min);
    let addresses = found.into_iter().flat_map(|(_, port, hosts)| {
        let addresses = hosts.list.into_iter();
        addresses.map(move |ip| SocketAddr::new(ip, port))
    });
    let answer = Answer::new(addresses, fresh_for);
    match answer.addresses.is_empty() {
        true => Err(LookupError::NoTarget),
        false => Ok(answer),
    }
}

/// Puts services in the order of RFC 2782: by priority, and drawn by weight among equals.
fn in_order(mut services: Vec<Service>, random: &mut SmallRng) -> Vec<Service> {
    // Weight 0 comes first: it is drawn only when the draw is 0.
    services.sort_by(|a, b| {
        let key = |service: &Service| (service.priority, service.weight);
        key(a).cmp(&key(b)).then_with(|| a.target.cmp(&b.target))
    });
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(priority) = services.first().map(|service| service.priority) {
        let equals = services
            .iter()
            .take_while(|service| service.priority == priority);
        let sums: Vec<u32> = equals
            .scan(0, |sum, service| {
                *sum += u32::from(service.weight);
                Some(*sum)
            })
            .collect();
        let drawn = random.random_range(0..=sums.last().copied().unwrap_or(0));
        let at = sums.partition_point(|sum| *sum < drawn);
        ordered.push(services.remove(at));
    }
    ordered
}

/// What the system knows: `/etc/hosts` and the servers of `/etc/resolv.conf`, as they are at the start.
pub(crate) struct System {
    /// `None`: the system names no servers that could be asked.
    resolver: Option<TokioResolver>,
}

impl System {
    /// Reads the system's configuration. Without one, names are the system library's to look up, and
    /// SRV is not asked for.
    pub(crate) fn new() -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = ATTEMPT_MAX;
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.negative_max_ttl = Some(ABSENT_MAX);
            builder.build()
        });
        let resolver = resolver
            .inspect_err(|error| tracing::warn!(%error, "no DNS: names from the hosts file alone"));
        Self {
            resolver: resolver.ok(),
        }
    }
}

impl Directory for System {
    async fn services(&self, name: &str) -> Result<Records<Service>, LookupError> {
        let Some(resolver) = &self.resolver else {
            let list = Vec::new();
            let fresh_for = FRESH_FOR;
            return Ok(Records { list, fresh_for });
        };
        let found = resolver.srv_lookup(name).await?;
        let services = found.answers().iter().filter_map(|record| {
            let RData::SRV(srv) = &record.data else {
                return None;
            };
            Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_string(),
            })
        });
        Ok(Records {
            list: services.collect(),
            fresh_for: left(found.valid_until()),
        })
    }

    async fn addresses(&self, host: &str) -> Result<Records<IpAddr>, LookupError> {
        let (mut list, fresh_for): (Vec<_>, _) = match &self.resolver {
            Some(resolver) => {
                let found = resolver.lookup_ip(host).await?;
                (found.iter().collect(), left(found.valid_until()))
            }
            None => {
                let found = tokio::net::lookup_host((host, 0)).await?;
                (found.map(|address| address.ip()).collect(), FRESH_FOR)
            }
        };
        list.sort_by_key(IpAddr::is_ipv6);
        Ok(Records { list, fresh_for })
    }
}

fn left(valid_until: Instant) -> Duration {
    valid_until.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Names and what they stand for; a host without addresses is not known.
    #[derive(Default)]
    struct Fake {
        services: BTreeMap<&'static str, Vec<Service>>,
        hosts: BTreeMap<&'static str, (Vec<IpAddr>, u64)>,
        silent: bool,
    }

    impl Directory for Fake {
        async fn services(&self, name: &str) -> Result<Records<Service>, LookupError> {
            if self.silent {
                std::future::pending::<()>().await;
            }
            let list = self.services.get(name).cloned().unwrap_or_default();
            let fresh_for = Duration::from_secs(600);
            Ok(Records { list, fresh_for })
        }

        async fn addresses(&self, host: &str) -> Result<Records<IpAddr>, LookupError> {
            let known = self.hosts.get(host);
            let unknown = || io::Error::from(io::ErrorKind::NotFound);
            let (list, seconds) = known.cloned().ok_or_else(unknown)?;
            let fresh_for = Duration::from_secs(seconds);
            Ok(Records { list, fresh_for })
        }
    }

    fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
        Service {
            priority,
            weight,
            port,
            target: target.to_owned(),
        }
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn at(last: u8, port: u16) -> SocketAddr {
        (ip(last), port).into()
    }

    fn name(port: Option<u16>) -> Name {
        let host = "pbx.example".into();
        Name { host, port }
    }

    /// `pbx.example` has two addresses, and a service at two other hosts of which one is preferred.
    fn fake() -> Fake {
        let mut fake = Fake::default();
        fake.hosts.insert("pbx.example", (vec![ip(1), ip(2)], 60));
        fake.hosts.insert("a.example.", (vec![ip(3), ip(4)], 90));
        fake.hosts.insert("b.example.", (vec![ip(5)], 120));
        fake.services.insert(
            "_sip._udp.pbx.example",
            vec![
                service(20, 1, 5071, "a.example."),
                service(10, 1, 5072, "b.example."),
            ],
        );
        fake
    }

    #[tokio::test]
    async fn with_a_port_the_host_itself_is_meant() {
        let answer = resolve(&Arc::new(fake()), &name(Some(5080)), 1).await;
        let answer = answer.unwrap();
        assert_eq!(answer.addresses, [at(1, 5080), at(2, 5080)]);
        assert_eq!(answer.fresh_for, Duration::from_secs(60));
    }

    #[tokio::test]
    async fn without_a_port_services_come_by_priority_with_their_ports() {
        let answer = resolve(&Arc::new(fake()), &name(None), 1).await.unwrap();
        assert_eq!(answer.addresses, [at(5, 5072), at(3, 5071), at(4, 5071)]);
        assert_eq!(answer.fresh_for, Duration::from_secs(90), "the least");
    }

    #[tokio::test]
    async fn without_services_it_is_the_host_at_5060() {
        let mut fake = fake();
        fake.services.clear();
        let answer = resolve(&Arc::new(fake), &name(None), 1).await.unwrap();
        assert_eq!(answer.addresses, [at(1, 5060), at(2, 5060)]);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_for_services_does_not_hide_the_host() {
        let fake = Fake {
            silent: true,
            ..fake()
        };
        let answer = resolve(&Arc::new(fake), &name(None), 1).await.unwrap();
        assert_eq!(answer.addresses, [at(1, 5060), at(2, 5060)]);
    }

    #[tokio::test]
    async fn a_target_without_address_is_passed_over_and_none_is_an_error() {
        let mut fake = fake();
        fake.hosts.remove("b.example.");
        let mut fake = Arc::new(fake);
        let answer = resolve(&fake, &name(None), 1).await.unwrap();
        assert_eq!(answer.addresses, [at(3, 5071), at(4, 5071)]);
        Arc::get_mut(&mut fake).unwrap().hosts.clear();
        let answer = resolve(&fake, &name(None), 1).await;
        assert!(matches!(answer, Err(LookupError::NoTarget)));
    }

    #[tokio::test]
    async fn a_service_that_is_not_offered_goes_nowhere() {
        let mut fake = fake();
        let nobody = vec![service(0, 0, 0, ".")];
        fake.services.insert("_sip._udp.pbx.example", nobody);
        let answer = resolve(&Arc::new(fake), &name(None), 1).await;
        assert!(matches!(answer, Err(LookupError::NotOffered)));
    }

    #[tokio::test]
    async fn an_answer_counts_for_5_s_at_least_and_an_hour_at_most() {
        for (seconds, counts) in [
            (0, FRESH_MIN),
            (7, Duration::from_secs(7)),
            (86400, FRESH_MAX),
        ] {
            let mut fake = fake();
            fake.hosts.insert("pbx.example", (vec![ip(1)], seconds));
            let answer = resolve(&Arc::new(fake), &name(Some(1)), 1).await.unwrap();
            assert_eq!(answer.fresh_for, counts);
        }
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let name = Name {
            host: "localhost".into(),
            port: None,
        };
        let answer = resolve(&Arc::new(System::new()), &name, 1).await.unwrap();
        assert!(answer.addresses.contains(&([127, 0, 0, 1], 5060).into()));
    }

    #[test]
    fn addresses_are_distinct_and_few() {
        let many = (0..=255).flat_map(|last| [at(last, 1), at(last, 1)]);
        let answer = Answer::new(many, FRESH_FOR);
        assert_eq!(answer.addresses.len(), NAME_ADDRESSES_MAX);
        assert_eq!(answer.addresses[..2], [at(0, 1), at(1, 1)]);
    }

    #[test]
    fn equals_are_drawn_by_their_weight() {
        let services = || {
            vec![
                service(1, 30, 1, "light"),
                service(1, 0, 1, "hardly"),
                service(1, 70, 1, "heavy"),
                service(2, 9999, 1, "last"),
            ]
        };
        let mut firsts = BTreeMap::<String, u32>::new();
        for seed in 0..1000 {
            let ordered = in_order(services(), &mut SmallRng::seed_from_u64(seed));
            assert_eq!(ordered.len(), 4);
            assert_eq!(ordered[3].target, "last");
            *firsts.entry(ordered[0].target.clone()).or_default() += 1;
        }
        assert!((640..760).contains(&firsts["heavy"]), "{firsts:?}");
        assert!((240..360).contains(&firsts["light"]), "{firsts:?}");
        let hardly = firsts.get("hardly").copied().unwrap_or(0);
        assert!(hardly < 40, "{firsts:?}");
    }
}
