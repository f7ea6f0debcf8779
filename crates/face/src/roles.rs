//! Who may do what: patterns of URIs for each role.

use std::fmt;
use std::str::FromStr;

use crate::identity::Identity;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May read.
    Viewer,
    /// May change, and read.
    Operator,
    /// May register, refresh and report one node: itself.
    Node,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Node => "node",
        })
    }
}

/// The URIs of each role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Of viewers. Default `spiffe://*/tandem/viewer/*`.
    pub viewer: Vec<Pattern>,
    /// Of operators, who are viewers as well. Default `spiffe://*/tandem/operator/*`.
    pub operator: Vec<Pattern>,
    /// Of nodes; the last segment is the node's id. Default `spiffe://*/tandem/node/*`.
    pub node: Vec<Pattern>,
}

impl Default for Roles {
    fn default() -> Self {
        let default = |role| vec![Pattern(format!("spiffe://*/tandem/{role}/*"))];
        Self {
            viewer: default(Role::Viewer),
            operator: default(Role::Operator),
            node: default(Role::Node),
        }
    }
}

impl Roles {
    /// Tells whether somebody has a role.
    #[must_use]
    pub fn has(&self, identity: &Identity, role: Role) -> bool {
        let any = |patterns: &[Pattern]| {
            let uri = identity.uri();
            patterns.iter().any(|pattern| pattern.matches(uri))
        };
        match role {
            Role::Viewer => any(&self.viewer) || any(&self.operator),
            Role::Operator => any(&self.operator),
            Role::Node => any(&self.node),
        }
    }
}

/// A pattern of URIs. `*` stands for any characters of one segment, never for a `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Tells whether a URI fits.
    #[must_use]
    pub fn matches(&self, uri: &str) -> bool {
        let (mut patterns, mut segments) = (self.0.split('/'), uri.split('/'));
        loop {
            match (patterns.next(), segments.next()) {
                (Some(pattern), Some(segment)) if fits(pattern, segment) => {}
                (None, None) => return true,
                (Some(_) | None, Some(_) | None) => return false,
            }
        }
    }
}

/// Tells whether a segment fits a pattern: what is between the stars must occur one after the other,
/// the first at the beginning and the last at the end.
fn fits(pattern: &str, segment: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == segment;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = segment.strip_prefix(first);
    let Some(mut inner) = inner.and_then(|inner| inner.strip_suffix(last)) else {
        return false;
    };
    middle.split('*').all(|part| {
        let found = inner.find(part);
        found.is_some_and(|at| {
            inner = &inner[at + part.len()..];
            true
        })
    })
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = text.contains(':') && !text.contains(|c: char| c.is_whitespace());
        good.then(|| Self(text.to_owned()))
            .ok_or("is no URI, such as spiffe://example.com/tandem/operator/*")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_segment() {
        let matches = |pattern: &str, uri| pattern.parse::<Pattern>().unwrap().matches(uri);
        let any = "spiffe://*/tandem/node/*";
        assert!(matches(any, "spiffe://example.com/tandem/node/sbc-1"));
        for other in [
            "spiffe://example.com/tandem/node/a/b",
            "spiffe://example.com/x/tandem/node/a",
            "spiffe://example.com/tandem/node",
            "spiffe://example.com/tandem/nodes/a",
            "http://example.com/tandem/node/a",
        ] {
            assert!(!matches(any, other), "{other}");
        }
        let mesh = "spiffe://cluster.local/ns/tandem/sa/router-*-*x";
        assert!(matches(
            mesh,
            "spiffe://cluster.local/ns/tandem/sa/router-a-bx"
        ));
        assert!(!matches(
            mesh,
            "spiffe://cluster.local/ns/tandem/sa/router-x"
        ));
        assert!(!matches(
            mesh,
            "spiffe://cluster.local/ns/tandem/sa/router-a-b"
        ));
        assert!(!matches("u:a*a", "u:a"), "one letter is not both ends");
        assert!(matches("u:a*a", "u:aa"));
        assert!(matches("u:*", "u:"));
    }

    #[test]
    fn an_operator_may_read_and_a_node_may_not() {
        let roles = Roles::default();
        let has = |uri: &str, role| roles.has(&Identity::new(uri), role);
        let operator = "spiffe://a/tandem/operator/anna";
        assert!(has(operator, Role::Operator) && has(operator, Role::Viewer));
        assert!(!has(operator, Role::Node));
        let node = "spiffe://a/tandem/node/sbc";
        assert!(has(node, Role::Node) && !has(node, Role::Viewer));
        let viewer = "spiffe://a/tandem/viewer/grafana";
        assert!(has(viewer, Role::Viewer) && !has(viewer, Role::Operator));
    }
}
