//! The route decision: rules by priority, each with the places to try one after the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use control::view::{self as registry, DestinationSet, MemberKind, Networks, NextHop, RouteMatch};
use host::Egress;
use sip_types::{Message, Uri};

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Goes into `X-Destination-URI`.
    pub uri: Box<str>,
    /// Where the request is sent straight to; back to its SBC when absent.
    pub direct: Option<SocketAddr>,
    /// The new Request-URI; as it came when absent.
    pub request_uri: Option<Box<str>>,
    /// Headers to add.
    pub headers: Arc<[(String, String)]>,
    /// How long it may say nothing before the next place is tried.
    pub first_response: Duration,
}

#[derive(Clone, Debug)]
enum Step {
    Hop(Hop),
    Set {
        id: String,
        egress: Egress,
        request_uri: Option<Box<str>>,
        headers: Arc<[(String, String)]>,
        first_response: Duration,
    },
}

#[derive(Clone, Debug)]
struct Rule {
    matches: RouteMatch,
    /// Where the trunk that is asked for sends from.
    trunk: Option<Networks>,
    steps: Vec<Step>,
    /// The hops, when none of the steps depends on the call.
    fixed: Option<Arc<[Hop]>>,
}

/// The rules in force, the first to ask first.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    /// Takes the registry's routes: the highest priority first, equal ones in the order of their ids.
    ///
    /// Also returns what is not usable: a router that sends straight to a place needs its address.
    #[must_use]
    pub fn new(config: &registry::View, egress: Egress) -> (Self, Vec<String>) {
        let mut routes: Vec<_> = config.routes.iter().collect();
        routes.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.id.cmp(&b.id)));
        let mut unusable = Vec::new();
        let rule = |route| Rule::new(route, config, egress, &mut unusable);
        let rules = routes.into_iter().map(rule).collect();
        (Self { rules }, unusable)
    }

    /// Returns where a request goes: the places to try, in order; `turn` counts requests, for round
    /// robin. `None` when no rule applies; empty
    /// when the one that applies has no place left.
    #[must_use]
    pub fn decide(
        &self,
        sets: &dispatch::View,
        first_sender: IpAddr,
        turn: usize,
        request: &Message<'_>,
    ) -> Option<Arc<[Hop]>> {
        let uri = Uri::parse(request.request_uri()).ok();
        let from = request.from();
        let calling = from.as_ref().and_then(|from| from.parsed_uri().ok());
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.applies(uri.as_ref(), calling.as_ref(), first_sender))?;
        if let Some(hops) = &rule.fixed {
            return Some(hops.clone());
        }
        Some(
            rule.steps
                .iter()
                .flat_map(|step| step.hops(sets, request.call_id(), turn))
                .collect(),
        )
    }
}

impl Rule {
    fn new(
        route: &registry::Route,
        config: &registry::View,
        egress: Egress,
        unusable: &mut Vec<String>,
    ) -> Self {
        let mut steps = Vec::new();
        for result in &route.results {
            match Step::new(result, config, egress) {
                Ok(step) => steps.push(step),
                Err(uri) => unusable.push(format!(
                    "route {}: no numeric address in {uri}, and egress is direct",
                    route.id
                )),
            }
        }
        let fixed = steps.iter().map(|step| match step {
            Step::Hop(hop) => Some(hop.clone()),
            Step::Set { .. } => None,
        });
        let trunk = route.matches.trunk.as_ref().map(|id| {
            let networks = config.trunk(id).into_iter();
            networks
                .flat_map(|trunk| &trunk.networks)
                .copied()
                .collect()
        });
        Self {
            matches: route.matches.clone(),
            trunk,
            fixed: fixed.collect(),
            steps,
        }
    }

    fn applies(
        &self,
        uri: Option<&Uri<'_>>,
        calling: Option<&Uri<'_>>,
        first_sender: IpAddr,
    ) -> bool {
        let wanted = &self.matches;
        let user = |uri: Option<&Uri<'_>>| {
            uri.and_then(|uri| uri.user.map(<[u8]>::to_vec))
                .unwrap_or_default()
        };
        wanted.domain.as_ref().is_none_or(|domain| {
            uri.is_some_and(|uri| uri.host.eq_ignore_ascii_case(domain.as_bytes()))
        }) && (wanted.called_prefix.is_empty()
            || user(uri).starts_with(wanted.called_prefix.as_bytes()))
            && (wanted.calling_prefix.is_empty()
                || user(calling).starts_with(wanted.calling_prefix.as_bytes()))
            && wanted
                .source
                .is_none_or(|network| network.contains(first_sender))
            && self
                .trunk
                .as_ref()
                .is_none_or(|networks| networks.contains(first_sender))
    }
}

impl Step {
    /// # Errors
    /// The URI that a router which sends straight to it cannot use.
    fn new<'a>(
        result: &'a registry::RouteResult,
        config: &registry::View,
        egress: Egress,
    ) -> Result<Self, &'a str> {
        let request_uri = result.request_uri.as_deref().map(Into::into);
        let headers: Arc<[_]> = result.headers.clone().into();
        Ok(match &result.next_hop {
            NextHop::Uri(uri) => Self::Hop(Hop {
                uri: uri.as_str().into(),
                direct: match egress {
                    Egress::Sbc => None,
                    Egress::Direct => Some(numeric(uri).ok_or(uri.as_str())?),
                },
                request_uri,
                headers,
                first_response: config
                    .profile(MemberKind::Router)
                    .and_then(|profile| profile.uri_first_response)
                    .unwrap_or(DestinationSet::FIRST_RESPONSE),
            }),
            NextHop::Set(id) => Self::Set {
                id: id.clone(),
                egress,
                request_uri,
                headers,
                first_response: config
                    .set(id)
                    .map_or(DestinationSet::FIRST_RESPONSE, |set| set.first_response),
            },
        })
    }

    fn hops(&self, sets: &dispatch::View, call_id: &[u8], turn: usize) -> Vec<Hop> {
        match self {
            Self::Hop(hop) => vec![hop.clone()],
            Self::Set {
                id,
                egress,
                request_uri,
                headers,
                first_response,
            } => {
                let Some(set) = sets.set(id) else {
                    return vec![];
                };
                let hop = |address| Hop {
                    uri: format!("sip:{address}").into(),
                    direct: (*egress == Egress::Direct).then_some(address),
                    request_uri: request_uri.clone(),
                    headers: headers.clone(),
                    first_response: *first_response,
                };
                let ranking = set.rank(call_id, turn).into_iter();
                ranking
                    .map(|index| hop(set.member(index).address))
                    .collect()
            }
        }
    }
}

fn numeric(uri: &str) -> Option<SocketAddr> {
    Uri::parse(uri.as_bytes()).ok()?.socket_addr(5060)
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::view::{Network, Route, RouteResult};
    use sip_types::Index;

    fn route(id: &str, priority: i32, matches: RouteMatch, uri: &str) -> Route {
        let result = RouteResult {
            next_hop: NextHop::Uri(uri.into()),
            request_uri: None,
            headers: vec![],
        };
        Route {
            id: id.into(),
            priority,
            matches,
            results: vec![result],
        }
    }

    fn decide(rules: &Rules, request_uri: &str, sender: &str) -> Option<String> {
        let text = format!(
            "INVITE {request_uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n\
             From: <sip:+1514555@example.com>;tag=a\r\nTo: <sip:b@example.com>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n"
        );
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        let hops = rules.decide(
            &dispatch::View::default(),
            sender.parse().unwrap(),
            0,
            &message,
        )?;
        Some(hops[0].uri.to_string())
    }

    #[test]
    fn a_rule_of_a_trunk_applies_to_whoever_sends_from_it() {
        let matches = RouteMatch {
            trunk: Some("a".into()),
            ..Default::default()
        };
        let trunk = registry::Trunk {
            id: "a".into(),
            display_name: String::new(),
            networks: ["10.0.0.0/8", "192.0.2.7"]
                .map(|text| text.parse().unwrap())
                .into(),
        };
        let config = registry::View {
            routes: vec![route("r", 0, matches, "sip:a")],
            trunks: vec![trunk],
            ..Default::default()
        };
        let (rules, _) = Rules::new(&config, Egress::Sbc);
        let from = |sender| decide(&rules, "sip:1@example.com", sender);
        assert_eq!(from("10.1.2.3").as_deref(), Some("sip:a"));
        assert_eq!(from("192.0.2.7").as_deref(), Some("sip:a"));
        assert_eq!(from("192.0.2.8"), None);
    }

    #[test]
    fn a_place_that_a_route_names_by_uri_has_the_patience_of_the_profile() {
        let profile = registry::Profile {
            id: "router".into(),
            log_filter: None,
            drain_timeout: None,
            uri_first_response: Some(Duration::from_secs(7)),
        };
        let mut config = registry::View {
            routes: vec![route("r", 0, RouteMatch::default(), "sip:a")],
            ..Default::default()
        };
        let patience =
            |config: &registry::View| match &Rules::new(config, Egress::Sbc).0.rules[0].steps[..] {
                [Step::Hop(hop)] => hop.first_response,
                steps => panic!("{steps:?}"),
            };
        assert_eq!(patience(&config), DestinationSet::FIRST_RESPONSE);
        config.profiles = vec![profile];
        assert_eq!(patience(&config), Duration::from_secs(7));
    }

    #[test]
    fn the_highest_priority_that_applies_decides() {
        let source = Network {
            address: "10.0.0.0".parse().unwrap(),
            prefix_bits: 8,
        };
        let routes = vec![
            route("a", 1, RouteMatch::default(), "sip:last"),
            route(
                "b",
                9,
                RouteMatch {
                    called_prefix: "44".into(),
                    ..Default::default()
                },
                "sip:uk",
            ),
            route(
                "c",
                9,
                RouteMatch {
                    domain: Some("example.org".into()),
                    ..Default::default()
                },
                "sip:org",
            ),
            route(
                "d",
                5,
                RouteMatch {
                    source: Some(source),
                    ..Default::default()
                },
                "sip:ten",
            ),
            route(
                "e",
                3,
                RouteMatch {
                    calling_prefix: "+1".into(),
                    ..Default::default()
                },
                "sip:us",
            ),
        ];
        let config = registry::View {
            routes,
            ..Default::default()
        };
        let (rules, unusable) = Rules::new(&config, Egress::Sbc);
        assert_eq!(unusable, [""; 0]);
        let to = |uri, sender| decide(&rules, uri, sender).unwrap();
        assert_eq!(
            to("sip:4420@example.org", "127.0.0.1"),
            "sip:uk",
            "equal priorities: by id"
        );
        assert_eq!(to("sip:1@Example.ORG", "127.0.0.1"), "sip:org");
        assert_eq!(to("sip:1@example.com", "10.1.2.3"), "sip:ten");
        assert_eq!(to("sip:1@example.com", "127.0.0.1"), "sip:us");
        assert_eq!(
            decide(&Rules::default(), "sip:1@example.com", "127.0.0.1"),
            None
        );
    }
}
