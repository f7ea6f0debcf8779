//! What is accepted and yet probably not meant, because it depends on the moment: the order in which
//! things are set up is free.

use std::cell::LazyCell;
use std::collections::BTreeSet;

use control::name::Name;
use control::registry::v1::Warning;
use control::view::{DestinationState, Liveness, NextHop, Resources, View};

/// Warns of what the edits of `names` led to, or touched.
pub(super) fn warnings(
    before: &Resources,
    after: &Resources,
    view: &View,
    names: &[Name],
) -> Vec<Warning> {
    let touched: BTreeSet<&Name> = names.iter().collect();
    let was = LazyCell::new(|| before.to_view().unwrap_or_default());
    let mut warnings = Vec::new();
    let mut idle = BTreeSet::new();
    for set in &view.sets {
        let Some((field, reason)) = idle_because(view, &set.id) else {
            continue;
        };
        idle.insert(set.id.as_str());
        let name = Name::Set(set.id.clone());
        let is_new = idle_because(&was, &set.id).map(|(_, reason)| reason) != Some(reason);
        let is_touched = touched.iter().any(|touched| match touched {
            Name::Set(id) => *id == set.id,
            Name::Destination { set: of, .. } => *of == set.id,
            Name::Cell(_)
            | Name::Member(_)
            | Name::Profile(_)
            | Name::Route(_)
            | Name::Table(_)
            | Name::Trunk(_) => false,
        });
        if is_new || is_touched {
            warnings.push(warning(&name, field, reason));
        }
    }
    for route in &view.routes {
        let name = Name::Route(route.id.clone());
        if !touched.contains(&name) {
            continue;
        }
        for (i, result) in route.results.iter().enumerate() {
            if let NextHop::Set(set) = &result.next_hop
                && idle.contains(set.as_str())
            {
                let field = format!("results[{i}].set");
                let reason = format!("sets/{set} takes no requests now");
                warnings.push(warning(&name, &field, &reason));
            }
        }
    }
    for cell in &view.cells {
        let name = Name::Cell(cell.id.clone());
        let of_cell =
            |member: &&control::view::Member| member.kind.is_router() && member.cell == cell.id;
        if touched.contains(&name) && !view.members.iter().any(|member| of_cell(&member)) {
            warnings.push(warning(&name, "", "no router is in this cell"));
        }
    }
    debug_assert!(
        warnings.iter().all(|warning| {
            let name = warning.resource.parse::<Name>();
            name.is_ok_and(|name| after.by_name.contains_key(&name))
        }),
        "only what is there is warned of"
    );
    warnings
}

/// Tells why a set takes no requests now, and by which field; nothing when it does.
fn idle_because(view: &View, set: &str) -> Option<(&'static str, &'static str)> {
    view.set(set)?;
    let destinations = view.destinations_of(set);
    if destinations.is_empty() {
        let has_selector = view.set(set).is_some_and(|set| set.selector.is_some());
        return Some(if has_selector {
            ("selector", "finds no member, and no destination is listed")
        } else {
            ("", "has no destination")
        });
    }
    let active: Vec<_> = destinations
        .iter()
        .filter(|destination| destination.desired_state == DestinationState::Active)
        .collect();
    if active.is_empty() {
        return Some(("", "every destination is draining or disabled"));
    }
    if active.iter().all(|destination| destination.weight == 0) {
        return Some(("", "every active destination has the weight 0"));
    }
    let gone = |id: &str| {
        let member = view.member(id);
        member.is_some_and(|member| member.liveness == Liveness::Gone)
    };
    let all_gone = active.iter().all(|destination| gone(&destination.id));
    all_gone.then_some(("", "every active destination is a member that is gone"))
}

fn warning(name: &Name, field: &str, reason: &str) -> Warning {
    Warning {
        resource: name.to_string(),
        field: field.to_owned(),
        reason: reason.to_owned(),
    }
}
