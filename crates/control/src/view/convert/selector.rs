//! Which selectors are good.

use super::{Check, check_tags, limits, member_kind, some};
use crate::name::check_id;
use crate::registry::v1;
use crate::view::{Conditions, Selector, SelectorRule};

/// Reads a set's selector; what is wrong with it goes to `check`.
pub(super) fn read(check: &mut Check, message: &v1::MemberSelector) -> Selector {
    let v1::MemberSelector {
        cell,
        zone,
        tags,
        rules,
        ..
    } = message;
    let conditions = conditions(check, "selector", cell, zone, tags);
    check.count("selector.rules", rules.len(), limits::RULES_MAX);
    let rules = rules.iter().enumerate();
    let rules = rules.map(|(i, message)| rule(check, &format!("selector.rules[{i}]"), message));
    Selector {
        kind: member_kind(message.kind()),
        conditions,
        rules: rules.collect(),
    }
}

fn rule(check: &mut Check, at: &str, message: &v1::SelectorRule) -> SelectorRule {
    let v1::SelectorRule {
        cell,
        zone,
        tags,
        priority,
        weight,
    } = message;
    let field = format!("{at}.weight");
    SelectorRule {
        conditions: conditions(check, at, cell, zone, tags),
        priority: *priority,
        weight: check.range(
            &field,
            weight.unwrap_or(limits::WEIGHT_DEFAULT),
            limits::WEIGHT,
        ),
    }
}

fn conditions(check: &mut Check, at: &str, cell: &str, zone: &str, tags: &[String]) -> Conditions {
    if !cell.is_empty()
        && let Err(error) = check_id(cell)
    {
        check.refuse(format!("{at}.cell"), error);
    }
    check.text(&format!("{at}.zone"), zone);
    check_tags(check, &format!("{at}.tags"), tags);
    Conditions {
        cell: some(cell),
        zone: some(zone),
        tags: tags.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use crate::registry::v1;
    use crate::view::DestinationSet;

    #[test]
    fn every_mistake_of_a_selector_names_its_field() {
        let rule = v1::SelectorRule {
            cell: "A".into(),
            zone: "a\nb".into(),
            tags: vec!["-".into()],
            priority: 0,
            weight: Some(1001),
        };
        let selector = v1::MemberSelector {
            zone: "x".repeat(513),
            cell: "_".into(),
            rules: [vec![v1::SelectorRule::default()], vec![rule; 16]].concat(),
            ..v1::MemberSelector::default()
        };
        let set = v1::DestinationSet {
            name: "sets/1".into(),
            selector: Some(selector),
            ..v1::DestinationSet::default()
        };
        let refusals = DestinationSet::try_from(&set).unwrap_err();
        let fields: Vec<_> = refusals.iter().map(|refusal| &*refusal.field).collect();
        let mut wanted: Vec<_> = ["selector.cell", "selector.zone", "selector.rules"]
            .map(String::from)
            .into();
        for i in 1..=16 {
            let fields = ["weight", "cell", "zone", "tags"];
            wanted.extend(fields.map(|field| format!("selector.rules[{i}].{field}")));
        }
        let mut found: Vec<_> = fields.into_iter().map(String::from).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}
