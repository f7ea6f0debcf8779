//! From messages to plain types. This is the one place that says which values are good: the registry
//! refuses a request by it, a node refuses a view by it.

mod check;
mod profile;
mod selector;
mod trunk;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::limits::{self, Range};
use super::{
    Algorithm, Cell, DIALOG_LIFETIME, Destination, DestinationSet, DestinationState, HASH_SIZE,
    Liveness, Member, MemberKind, MemberState, Network, NextHop, NotificationAddress, Route,
    RouteMatch, RouteResult, Side, SipEndpoint, TableDefinition,
};
use crate::name::{Name, check_id};
use crate::registry::v1::{self, route_result};
use check::Check;
pub use check::Refusal;

impl TryFrom<&v1::Cell> for Cell {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::Cell) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        let hash_size = message.hash_size.unwrap_or(HASH_SIZE);
        let Range { min, max } = limits::HASH_SIZE;
        check.unless(
            hash_size.is_power_of_two() && limits::HASH_SIZE.contains(&hash_size),
            "hash_size",
            format_args!("{hash_size} is not a power of two in {min} to {max}"),
        );
        check.count(
            "stock_nodes",
            message.stock_nodes.len(),
            limits::STOCK_NODES_MAX,
        );
        let stock_nodes = message.stock_nodes.iter().enumerate();
        let stock_nodes = stock_nodes
            .filter_map(|(i, text)| check.reachable(&format!("stock_nodes[{i}]"), text))
            .collect();
        check.count(
            "notification_addresses",
            message.notification_addresses.len(),
            limits::NOTIFICATION_ADDRESSES_MAX,
        );
        let addresses = message.notification_addresses.iter().enumerate();
        let notification_addresses = addresses
            .filter_map(|(i, text)| {
                let field = format!("notification_addresses[{i}]");
                check.parse(&field, text, "an address or a name, with a port")
            })
            .collect();
        let dialog_lifetime = check.whole_seconds(
            "dialog_lifetime",
            message.dialog_lifetime.as_ref(),
            limits::DIALOG_LIFETIME,
        );
        let cell = id.map(|id| Self {
            id,
            hash_size,
            stock_nodes,
            notification_addresses,
            dialog_lifetime: dialog_lifetime.unwrap_or(DIALOG_LIFETIME),
        });
        check.finish(cell)
    }
}

impl TryFrom<&v1::Member> for Member {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::Member) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        let kind = member_kind(message.kind());
        check.unless(kind.is_some(), "kind", "is required");
        let address: Option<IpAddr> = check.parse("address", &message.address, "a numeric address");
        check.at_least_one(
            "sip",
            message.sip.len(),
            limits::SIP_ENDPOINTS,
            "SIP address",
        );
        let sip = message.sip.iter().enumerate().filter_map(|(i, endpoint)| {
            let field = format!("sip[{i}].address");
            let address = check.reachable(&field, &endpoint.address)?;
            let side = match endpoint.side() {
                v1::SipSide::Unspecified => Side::Both,
                v1::SipSide::Inside => Side::Inside,
                v1::SipSide::Outside => Side::Outside,
            };
            Some(SipEndpoint { side, address })
        });
        let sip = sip.collect();
        let dmq_port = check.range("dmq_port", message.dmq_port, limits::DMQ_PORT);
        let dmq_port = u16::try_from(dmq_port).unwrap_or_default();
        let cell = if message.cell.is_empty() {
            limits::CELL
        } else {
            &message.cell
        };
        if let Err(error) = check_id(cell) {
            check.refuse("cell", error);
        }
        check.text("zone", &message.zone);
        check_tags(&mut check, "tags", &message.tags);
        let desired_state = match message.desired_state() {
            v1::MemberState::Unspecified | v1::MemberState::Active => MemberState::Active,
            v1::MemberState::Draining => MemberState::Draining,
        };
        let liveness = match message.liveness() {
            v1::Liveness::Alive => Liveness::Alive,
            v1::Liveness::Gone => Liveness::Gone,
            v1::Liveness::Unspecified | v1::Liveness::NeverSeen => Liveness::NeverSeen,
        };
        let member = || {
            let address = address?;
            Some(Self {
                id: id?,
                kind: kind?,
                address,
                sip,
                dmq: (dmq_port != 0).then(|| SocketAddr::new(address, dmq_port)),
                cell: cell.to_owned(),
                zone: message.zone.clone(),
                tags: message.tags.clone(),
                desired_state,
                incarnation: message.incarnation,
                liveness,
            })
        };
        check.finish(member())
    }
}

impl TryFrom<&v1::DestinationSet> for DestinationSet {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::DestinationSet) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        let algorithm = Algorithm::try_from(message.algorithm);
        if let Err(error) = algorithm {
            check.refuse("algorithm", error);
        }
        let selector = message.selector.as_ref();
        let selector = selector.map(|selector| selector::read(&mut check, selector));
        let first_response = check.duration(
            "first_response",
            message.first_response.as_ref(),
            limits::FIRST_RESPONSE,
        );
        let detect_within = check.duration(
            "detect_within",
            message.detect_within.as_ref(),
            limits::DETECT_WITHIN,
        );
        let probe_interval = check.duration(
            "probe_interval",
            message.probe_interval.as_ref(),
            limits::PROBE_INTERVAL,
        );
        let failures = message.failures_to_inactive;
        let failures_to_inactive = check.range(
            "failures_to_inactive",
            failures.unwrap_or(limits::FAILURES_DEFAULT),
            limits::IN_A_ROW,
        );
        let successes = message.successes_to_active;
        let successes_to_active = check.range(
            "successes_to_active",
            successes.unwrap_or(limits::SUCCESSES_DEFAULT),
            limits::IN_A_ROW,
        );
        let set = || {
            Some(Self {
                id: id?,
                algorithm: algorithm.ok()?,
                selector,
                first_response: first_response.unwrap_or(Self::FIRST_RESPONSE),
                detect_within: detect_within.unwrap_or(limits::DETECT_WITHIN_DEFAULT),
                probe_interval: probe_interval.unwrap_or(limits::PROBE_INTERVAL_DEFAULT),
                failures_to_inactive,
                successes_to_active,
            })
        };
        check.finish(set())
    }
}

impl TryFrom<&v1::Destination> for Destination {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::Destination) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let name = match check.name(&message.name) {
            Some(Name::Destination { set, id }) => Some((set, id)),
            Some(_) => {
                check.refuse("name", "must be sets/SET/destinations/ID");
                None
            }
            None => None,
        };
        check.uri("uri", &message.uri);
        let weight = message.weight.unwrap_or(limits::WEIGHT_DEFAULT);
        let weight = check.range("weight", weight, limits::WEIGHT);
        let desired_state = match message.desired_state() {
            v1::DestinationState::Unspecified | v1::DestinationState::Active => {
                DestinationState::Active
            }
            v1::DestinationState::Draining => DestinationState::Draining,
            v1::DestinationState::Disabled => DestinationState::Disabled,
        };
        if !message.cell.is_empty()
            && let Err(error) = check_id(&message.cell)
        {
            check.refuse("cell", error);
        }
        let destination = name.map(|(set, id)| Self {
            set,
            id,
            uri: message.uri.clone(),
            priority: message.priority,
            weight,
            probing: message.probing,
            desired_state,
            cell: message.cell.clone(),
        });
        check.finish(destination)
    }
}

impl TryFrom<&v1::Route> for Route {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::Route) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        let matches = message
            .r#match
            .as_ref()
            .map(|matches| route_match(&mut check, matches))
            .unwrap_or_default();
        check.at_least_one(
            "results",
            message.results.len(),
            limits::ROUTE_RESULTS,
            "result",
        );
        let results = message.results.iter().enumerate();
        let results = results
            .filter_map(|(i, result)| route_result(&mut check, i, result))
            .collect();
        let route = id.map(|id| Self {
            id,
            priority: message.priority,
            matches,
            results,
        });
        check.finish(route)
    }
}

impl TryFrom<&v1::TableDefinition> for TableDefinition {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::TableDefinition) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        let table = some(&message.table).or_else(|| id.clone());
        if let Some(table) = &table {
            let Range { min, max } = limits::TABLE_BYTES;
            check.unless(
                is_table_name(table),
                "table",
                format_args!("{table:?} is not {min} to {max} of A-Z, a-z, 0-9, _ and -"),
            );
        }
        let autoexpire = check.whole_seconds(
            "autoexpire",
            message.autoexpire.as_ref(),
            limits::AUTOEXPIRE,
        );
        let entries_max = message.entries_max.unwrap_or(limits::ENTRIES_DEFAULT);
        let entries_max = check.range("entries_max", entries_max, limits::ENTRIES);
        let definition = || {
            Some(Self {
                id: id?,
                table: table?,
                autoexpire,
                replicate: message.replicate.unwrap_or(limits::REPLICATE),
                update_expire: message.update_expire.unwrap_or(limits::UPDATE_EXPIRE),
                entries_max,
            })
        };
        check.finish(definition())
    }
}

fn route_match(check: &mut Check, message: &v1::RouteMatch) -> RouteMatch {
    check.text("match.domain", &message.domain);
    check.text("match.called_prefix", &message.called_prefix);
    check.text("match.calling_prefix", &message.calling_prefix);
    let source = some(&message.source)
        .and_then(|text| check.parse("match.source", &text, "an address or a network"));
    let trunk = some(&message.trunk).and_then(|name| match name.parse() {
        Ok(Name::Trunk(id)) => Some(id),
        Ok(_) | Err(_) => {
            let reason = format_args!("{name:?} is not of the form trunks/ID");
            check.refuse("match.trunk", reason);
            None
        }
    });
    RouteMatch {
        domain: some(&message.domain.to_ascii_lowercase()),
        called_prefix: message.called_prefix.clone(),
        calling_prefix: message.calling_prefix.clone(),
        source,
        trunk,
    }
}

fn route_result(check: &mut Check, i: usize, message: &v1::RouteResult) -> Option<RouteResult> {
    if !message.request_uri.is_empty() {
        check.uri(&format!("results[{i}].request_uri"), &message.request_uri);
    }
    check.count(
        &format!("results[{i}].headers"),
        message.headers.len(),
        limits::ROUTE_HEADERS_MAX,
    );
    for (n, header) in message.headers.iter().enumerate() {
        let field = format!("results[{i}].headers[{n}]");
        check.unless(
            is_token(&header.name),
            &field,
            format_args!("{:?} is not a header name", header.name),
        );
        check.text(&field, &header.value);
    }
    let next_hop = match &message.next_hop {
        Some(route_result::NextHop::Set(name)) => match name.parse() {
            Ok(Name::Set(id)) => NextHop::Set(id),
            Ok(_) | Err(_) => {
                check.refuse(
                    format!("results[{i}].set"),
                    format_args!("{name:?} is not of the form sets/ID"),
                );
                return None;
            }
        },
        Some(route_result::NextHop::Uri(uri)) => {
            check.uri(&format!("results[{i}].uri"), uri);
            NextHop::Uri(uri.clone())
        }
        None => {
            check.refuse(format!("results[{i}]"), "either set or uri is required");
            return None;
        }
    };
    let headers = message
        .headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    Some(RouteResult {
        next_hop,
        request_uri: some(&message.request_uri),
        headers,
    })
}

fn check_tags(check: &mut Check, field: &str, tags: &[String]) {
    check.count(field, tags.len(), limits::TAGS_MAX);
    for tag in tags {
        if let Err(error) = check_id(tag) {
            check.refuse(field, format_args!("{tag:?}: {error}"));
        }
    }
}

fn member_kind(kind: v1::MemberKind) -> Option<MemberKind> {
    match kind {
        v1::MemberKind::Unspecified => None,
        v1::MemberKind::Sbc => Some(MemberKind::Sbc),
        v1::MemberKind::Router => Some(MemberKind::Router),
        v1::MemberKind::StockRouter => Some(MemberKind::StockRouter),
    }
}

impl From<MemberKind> for v1::MemberKind {
    fn from(kind: MemberKind) -> Self {
        match kind {
            MemberKind::Sbc => Self::Sbc,
            MemberKind::Router => Self::Router,
            MemberKind::StockRouter => Self::StockRouter,
        }
    }
}

/// A text is no notification address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not an address with a port or a name, such as 192.0.2.7:5062, bus.example.com:5062 or bus.example.com"
)]
pub struct NotANotificationAddress;

impl FromStr for NotificationAddress {
    type Err = NotANotificationAddress;

    fn from_str(text: &str) -> Result<Self, NotANotificationAddress> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port: NonZeroU16 = port.parse().map_err(|_| NotANotificationAddress)?;
                (host, Some(port.get()))
            }
            None => (text, None),
        };
        if let Ok(address) = text.parse() {
            return Ok(Self::Numeric(address));
        }
        // SRV of a number is nowhere.
        if !is_host_name(host) || host.parse::<IpAddr>().is_ok() {
            return Err(NotANotificationAddress);
        }
        Ok(Self::Name {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

/// A text is no address or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an address or a network such as 192.0.2.0/24")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) => bits.parse().map_err(|_| NotANetwork)?,
            None => width,
        };
        if prefix_bits > width {
            return Err(NotANetwork);
        }
        Ok(Self {
            address,
            prefix_bits,
        })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// Checks what every user of a URI relies on: the scheme, a host, and a port if there is one.
fn check_sip_uri(uri: &str) -> Result<(), &'static str> {
    let scheme_and_rest = uri.split_once(':').ok_or("has no scheme")?;
    let rest = match scheme_and_rest {
        (scheme, rest) if scheme.eq_ignore_ascii_case("sip") => rest,
        (scheme, _) if scheme.eq_ignore_ascii_case("sips") => {
            return Err("needs TLS, which is not spoken yet: use sip:");
        }
        _ => return Err("is not a sip URI"),
    };
    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) || uri.contains(['<', '>', '"']) {
        return Err("contains characters that no URI has");
    }
    // No @ may follow the host unescaped, and a user part may have semicolons: RFC 3261 section 25.1.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let host_port = rest.split(['?', ';']).next().unwrap_or_default();
    let (host, port) = match host_port.strip_prefix('[') {
        Some(inner) => {
            let (address, port) = inner.split_once(']').ok_or("has an unclosed bracket")?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| "has no IPv6 address in its brackets")?;
            (
                address,
                port.strip_prefix(':').or((!port.is_empty()).then_some("")),
            )
        }
        None => host_port
            .split_once(':')
            .map_or((host_port, None), |(host, port)| (host, Some(port))),
    };
    let numeric = host.parse::<Ipv4Addr>().is_ok() || host_port.starts_with('[');
    if !numeric && !is_host_name(host) {
        return Err("has no valid host");
    }
    match port.map(str::parse::<u16>) {
        None => Ok(()),
        Some(Ok(port)) if port != 0 => Ok(()),
        Some(Ok(_) | Err(_)) => Err("has no valid port"),
    }
}

/// Tells whether a text may be a name to look up. Underscores are no part of host names, but in use.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_table_name(text: &str) -> bool {
    limits::TABLE_BYTES.contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// RFC 3261 section 25.1.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::view::DIALOG_LIFETIME_MAX;

    #[test]
    fn sip_uris_are_told_from_other_text() {
        for good in [
            "sip:192.0.2.1",
            "sip:192.0.2.1:5060",
            "sip:alice@pbx.example.com:5070;transport=udp",
            "sip:[2001:db8::1]:5060",
            "SIP:a.b.",
            "sip:1000;phone-context=x@host",
        ] {
            assert_eq!(check_sip_uri(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "192.0.2.1",
            "tel:+123",
            "sip:",
            "sip:a:0",
            "sip:a:99999",
            "sip:a:",
            "sip:[::1",
            "sip:[x]",
            "sip:[::1]x",
            "sip:a b",
            "sip:a\r\nX: y",
            "sip:<a>",
            "sip:a..b",
            "sips:pbx.example.com",
        ] {
            assert!(check_sip_uri(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_cell_is_read_as_it_is_told() {
        let cell = v1::Cell {
            name: "cells/a".into(),
            hash_size: Some(1),
            stock_nodes: vec!["[2001:db8::1]:5062".into()],
            notification_addresses: ["192.0.2.1:5062", "Bus.example.com:5090", "Bus.example.com"]
                .map(str::to_owned)
                .into(),
            dialog_lifetime: Some(prost_types::Duration {
                seconds: 604_800,
                nanos: 0,
            }),
            ..Default::default()
        };
        let cell = Cell::try_from(&cell).unwrap();
        assert_eq!((cell.id.as_str(), cell.hash_size), ("a", 1));
        assert_eq!(cell.dialog_lifetime, DIALOG_LIFETIME_MAX);
        assert_eq!(cell.stock_nodes, ["[2001:db8::1]:5062".parse().unwrap()]);
        let said: Vec<_> = cell
            .notification_addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected = ["192.0.2.1:5062", "bus.example.com:5090", "bus.example.com"];
        assert_eq!(said, expected);

        let empty = v1::Cell {
            name: "cells/default".into(),
            ..Default::default()
        };
        assert_eq!(Cell::try_from(&empty).unwrap(), Cell::new("default"));
    }

    #[test]
    fn all_mistakes_of_a_cell_are_said_at_once() {
        let cell = v1::Cell {
            name: "cells/A".into(),
            hash_size: Some(0),
            stock_nodes: vec![
                "kamailio:5062".into(),
                "192.0.2.1:5062".into(),
                "192.0.2.1:0".into(),
            ],
            notification_addresses: [
                "",
                "192.0.2.1",
                "host:",
                "host:0",
                ":5062",
                "a b:1",
                "192.0.2.1:99999",
            ]
            .map(str::to_owned)
            .into(),
            ..Default::default()
        };
        let refusals = Cell::try_from(&cell).unwrap_err();
        let fields: Vec<_> = refusals.into_iter().map(|r| r.field).collect();
        let expected = ["name", "hash_size", "stock_nodes[0]", "stock_nodes[2]"].map(str::to_owned);
        let addresses = (0..7).map(|i| format!("notification_addresses[{i}]"));
        assert_eq!(
            fields,
            expected.into_iter().chain(addresses).collect::<Vec<_>>()
        );

        for hash_size in [4095, 1 << 21] {
            let cell = v1::Cell {
                name: "cells/a".into(),
                hash_size: Some(hash_size),
                stock_nodes: vec!["192.0.2.1:5062".into(); 17],
                ..Default::default()
            };
            let fields = Cell::try_from(&cell)
                .unwrap_err()
                .into_iter()
                .map(|r| r.field);
            assert_eq!(fields.collect::<Vec<_>>(), ["hash_size", "stock_nodes"]);
        }
    }

    #[test]
    fn a_dialog_lasts_a_minute_to_a_week_in_whole_seconds() {
        let read = |seconds, nanos| {
            Cell::try_from(&v1::Cell {
                name: "cells/a".into(),
                dialog_lifetime: Some(prost_types::Duration { seconds, nanos }),
                ..Default::default()
            })
        };
        for seconds in [60, 10_800, 604_800] {
            let lifetime = read(seconds, 0).unwrap().dialog_lifetime;
            assert_eq!(i64::try_from(lifetime.as_secs()), Ok(seconds));
        }
        for (seconds, nanos) in [
            (-60, 0),
            (0, 0),
            (59, 0),
            (59, 999_999_999),
            (60, 1),
            (90, 500_000_000),
            (604_800, 1),
            (604_801, 0),
            (i64::MAX, 0),
        ] {
            let refusals = read(seconds, nanos).unwrap_err();
            let fields: Vec<_> = refusals.iter().map(|refusal| &*refusal.field).collect();
            assert_eq!(fields, ["dialog_lifetime"], "{seconds} s {nanos} ns");
        }
    }

    #[test]
    fn an_unset_table_has_the_documented_defaults() {
        let table = v1::TableDefinition {
            name: "tables/bans".into(),
            ..Default::default()
        };
        let expected = TableDefinition {
            id: "bans".into(),
            table: "bans".into(),
            autoexpire: None,
            replicate: true,
            update_expire: true,
            entries_max: 65_536,
        };
        assert_eq!(TableDefinition::try_from(&table).unwrap(), expected);

        let told = v1::TableDefinition {
            table: "Ban_List".into(),
            autoexpire: Some(prost_types::Duration {
                seconds: 300,
                nanos: 0,
            }),
            replicate: Some(false),
            update_expire: Some(false),
            entries_max: Some(1_000_000),
            ..table
        };
        let expected = TableDefinition {
            table: "Ban_List".into(),
            autoexpire: Some(Duration::from_secs(300)),
            replicate: false,
            update_expire: false,
            entries_max: 1_000_000,
            ..expected
        };
        assert_eq!(TableDefinition::try_from(&told).unwrap(), expected);
    }

    #[test]
    fn tables_that_no_bus_could_carry_are_refused() {
        let fields = |table: v1::TableDefinition| -> Vec<_> {
            let refusals = TableDefinition::try_from(&table).unwrap_err();
            refusals.into_iter().map(|refusal| refusal.field).collect()
        };
        let seconds = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let bad = v1::TableDefinition {
            name: "tables/A".into(),
            table: "a b".into(),
            autoexpire: seconds(1, 500_000_000),
            entries_max: Some(0),
            ..Default::default()
        };
        assert_eq!(fields(bad), ["name", "table", "autoexpire", "entries_max"]);
        for autoexpire in [seconds(0, 0), seconds(-1, 0), seconds(1 << 31, 0)] {
            let bad = v1::TableDefinition {
                name: "tables/a".into(),
                table: "t".repeat(65),
                autoexpire,
                entries_max: Some(1_000_001),
                ..Default::default()
            };
            assert_eq!(fields(bad), ["table", "autoexpire", "entries_max"]);
        }
    }

    #[test]
    fn all_mistakes_of_a_member_are_said_at_once() {
        let member = v1::Member {
            name: "members/A".into(),
            address: "localhost".into(),
            sip: vec![v1::SipEndpoint {
                side: 0,
                address: "192.0.2.1".into(),
            }],
            dmq_port: 70_000,
            cell: "-".into(),
            ..Default::default()
        };
        let fields: Vec<_> = Member::try_from(&member)
            .unwrap_err()
            .into_iter()
            .map(|r| r.field)
            .collect();
        assert_eq!(
            fields,
            [
                "name",
                "kind",
                "address",
                "sip[0].address",
                "dmq_port",
                "cell"
            ]
        );
    }

    #[test]
    fn an_unset_set_has_the_documented_defaults() {
        let set = v1::DestinationSet {
            name: "sets/1".into(),
            ..Default::default()
        };
        let set = DestinationSet::try_from(&set).unwrap();
        assert_eq!(
            (set.algorithm, set.first_response),
            (Algorithm::CallIdHash, Duration::from_secs(2))
        );
        assert_eq!((set.failures_to_inactive, set.successes_to_active), (1, 2));
    }

    #[test]
    fn unknown_algorithms_and_times_out_of_range_are_refused() {
        let set = v1::DestinationSet {
            name: "sets/1".into(),
            algorithm: 5,
            detect_within: Some(prost_types::Duration {
                seconds: 0,
                nanos: 1_000_000,
            }),
            probe_interval: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            failures_to_inactive: Some(0),
            ..Default::default()
        };
        let fields: Vec<_> = DestinationSet::try_from(&set)
            .unwrap_err()
            .into_iter()
            .map(|r| r.field)
            .collect();
        assert_eq!(
            fields,
            [
                "algorithm",
                "detect_within",
                "probe_interval",
                "failures_to_inactive"
            ]
        );
    }

    #[test]
    fn a_network_knows_its_addresses() {
        let network: Network = "192.0.2.0/24".parse().unwrap();
        assert!(network.contains("192.0.2.255".parse().unwrap()));
        assert!(!network.contains("192.0.3.0".parse().unwrap()));
        assert!(!network.contains("::1".parse().unwrap()));
        assert!(
            "0.0.0.0/0"
                .parse::<Network>()
                .unwrap()
                .contains("8.8.8.8".parse().unwrap())
        );
        assert!("192.0.2.0/33".parse::<Network>().is_err());
        assert!(
            "::/0"
                .parse::<Network>()
                .unwrap()
                .contains("::1".parse().unwrap())
        );
    }
}
