//! How a destination set finds members, and what they are in it.

use super::{Member, MemberKind};

/// What must hold for a member: everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// It is of this cell.
    pub cell: Option<String>,
    /// It stands in this zone.
    pub zone: Option<String>,
    /// It has all these tags.
    pub tags: Vec<String>,
}

impl Conditions {
    fn hold(&self, member: &Member) -> bool {
        self.cell.as_ref().is_none_or(|cell| *cell == member.cell)
            && self.zone.as_ref().is_none_or(|zone| *zone == member.zone)
            && self.tags.iter().all(|tag| member.tags.contains(tag))
    }
}

/// What members that a selector finds are in its set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorRule {
    /// Which of them.
    pub conditions: Conditions,
    /// Higher first.
    pub priority: i32,
    /// Share of the requests, 0 to 1000.
    pub weight: u32,
}

/// What a member is that no rule is about.
static ANY: SelectorRule = SelectorRule {
    conditions: Conditions {
        cell: None,
        zone: None,
        tags: Vec::new(),
    },
    priority: 0,
    weight: 1,
};

/// Finds members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Members of this kind; `Router` finds stock routers too.
    pub kind: Option<MemberKind>,
    /// Members for which this holds.
    pub conditions: Conditions,
    /// What they are in the set: the first that holds for a member decides.
    pub rules: Vec<SelectorRule>,
}

impl Selector {
    /// Returns what `member` is in the set; `None` when it is not of the set.
    #[must_use]
    pub fn find(&self, member: &Member) -> Option<&SelectorRule> {
        let kind = match self.kind {
            None => true,
            Some(MemberKind::Router) => member.kind.is_router(),
            Some(kind) => member.kind == kind,
        };
        let found = kind && self.conditions.hold(member);
        found.then(|| {
            let rule = self.rules.iter().find(|rule| rule.conditions.hold(member));
            rule.unwrap_or(&ANY)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::v1;

    fn member(cell: &str, zone: &str, tags: &[&str]) -> Member {
        let message = v1::Member {
            name: "members/a".into(),
            kind: v1::MemberKind::Router.into(),
            address: "192.0.2.1".into(),
            sip: vec![v1::SipEndpoint {
                side: 0,
                address: "192.0.2.1:5060".into(),
            }],
            cell: cell.into(),
            zone: zone.into(),
            tags: tags.iter().map(ToString::to_string).collect(),
            ..v1::Member::default()
        };
        Member::try_from(&message).unwrap()
    }

    fn in_zone(zone: &str) -> Conditions {
        Conditions {
            zone: Some(zone.into()),
            ..Conditions::default()
        }
    }

    #[test]
    fn every_condition_that_is_given_must_hold() {
        let selector = Selector {
            kind: Some(MemberKind::Router),
            conditions: Conditions {
                cell: Some("a".into()),
                zone: Some("east".into()),
                tags: vec!["x".into(), "y".into()],
            },
            rules: Vec::new(),
        };
        let found = |member| selector.find(&member).is_some();
        assert!(found(member("a", "east", &["y", "z", "x"])));
        assert!(!found(member("b", "east", &["x", "y"])));
        assert!(!found(member("a", "west", &["x", "y"])));
        assert!(!found(member("a", "east", &["x"])));
        let sbc = Selector {
            kind: Some(MemberKind::Sbc),
            ..Selector::default()
        };
        assert!(sbc.find(&member("a", "", &[])).is_none());
    }

    #[test]
    fn the_first_rule_that_holds_says_priority_and_weight() {
        let rule = |conditions, priority, weight| SelectorRule {
            conditions,
            priority,
            weight,
        };
        let big = Conditions {
            tags: vec!["big".into()],
            ..Conditions::default()
        };
        let selector = Selector {
            rules: vec![rule(in_zone("east"), 10, 5), rule(big, 3, 100)],
            ..Selector::default()
        };
        let found = |member| {
            let rule = selector.find(&member).unwrap();
            (rule.priority, rule.weight)
        };
        assert_eq!(found(member("a", "east", &["big"])), (10, 5));
        assert_eq!(found(member("a", "west", &["big"])), (3, 100));
        assert_eq!(found(member("a", "west", &[])), (0, 1));
    }
}
