//! The order of a change that is larger than one request.
//!
//! Each request must be good as it stands: what is referred to is made before what refers to it,
//! and deleted after it (make before break).

use control::name::Name;
use control::registry::v1::Resource;
use control::view::{Refusal, Resources};

use crate::resource::{Item, Kind};

/// Most resources in one request, which is done as one or not at all.
pub(crate) const BATCH_MAX: usize = 60;

/// Puts what is to be made into requests: members, cells, tables, trunks, profiles; sets; destinations; routes.
pub(super) fn making<T>(mut wanted: Vec<T>, kind: impl Fn(&T) -> &'static Kind) -> Vec<Vec<T>> {
    // The sort is stable: within a kind, as the files have it.
    wanted.sort_by_key(|one| kind(one).rank);
    batches(wanted)
}

/// Puts what is to be deleted into requests: routes; destinations; sets; the others.
pub(super) fn deleting(mut names: Vec<Name>) -> Vec<Vec<Name>> {
    names.sort_by_key(|name| std::cmp::Reverse(Kind::of(name).rank));
    batches(names)
}

fn batches<T>(all: Vec<T>) -> Vec<Vec<T>> {
    let mut all = all.into_iter().peekable();
    let mut batches = Vec::new();
    while all.peek().is_some() {
        batches.push(all.by_ref().take(BATCH_MAX).collect());
    }
    batches
}

/// Checks the whole of a change as the registry would, if it took it in one.
///
/// # Errors
///
/// What the registry would refuse the result for.
pub(super) fn check<'a>(
    present: &[Item],
    wanted: impl IntoIterator<Item = &'a Item>,
    deletes: &[Name],
) -> Result<(), Vec<Refusal>> {
    let mut resources = Resources::default();
    let insert = |resources: &mut Resources, resource: Resource| {
        resources.insert(resource).map_err(|refusal| vec![refusal])
    };
    for item in present {
        insert(&mut resources, item.to_resource())?;
    }
    for item in wanted {
        insert(&mut resources, item.to_resource())?;
    }
    for name in deletes {
        resources.by_name.remove(name);
    }
    resources.to_view().map(drop)
}

#[cfg(test)]
mod tests {
    use control::registry::v1::resource::Resource as Known;
    use control::registry::v1::{Destination, DestinationSet, Route, RouteResult, route_result};

    use super::*;
    use crate::resource::tests::item;

    fn set(id: usize) -> Item {
        item(Known::DestinationSet(DestinationSet {
            name: format!("sets/{id}"),
            ..DestinationSet::default()
        }))
    }

    fn destination(set: usize) -> Item {
        item(Known::Destination(Destination {
            name: format!("sets/{set}/destinations/a"),
            uri: "sip:192.0.2.1".into(),
            ..Destination::default()
        }))
    }

    fn route(set: usize) -> Item {
        item(Known::Route(Route {
            name: format!("routes/{set}"),
            results: vec![RouteResult {
                next_hop: Some(route_result::NextHop::Set(format!("sets/{set}"))),
                ..RouteResult::default()
            }],
            ..Route::default()
        }))
    }

    #[test]
    fn every_batch_is_good_as_it_stands() {
        let wanted: Vec<_> = (0..50)
            .flat_map(|i| [route(i), destination(i), set(i)])
            .collect();
        assert!(check(&[], &wanted, &[]).is_ok());
        let batches = making(wanted.clone(), |item| item.kind);
        assert_eq!(
            batches.iter().map(Vec::len).collect::<Vec<_>>(),
            [60, 60, 30]
        );
        let mut present = Vec::new();
        for batch in batches {
            check(&present, &batch, &[]).unwrap();
            present.extend(batch);
        }

        let names = wanted.iter().map(|item| item.name().parse().unwrap());
        let batches = deleting(names.collect());
        let mut gone = Vec::new();
        for batch in batches {
            gone.extend(batch);
            check(&present, &[], &gone).unwrap();
        }
        assert_eq!(gone.len(), present.len());
    }

    #[test]
    fn what_the_registry_would_refuse_is_known_before() {
        let refusals = check(&[set(1)], &[route(2)], &[]).unwrap_err();
        assert_eq!(refusals[0].field, "results[0].set");
        let refusals = check(&[set(1), destination(1)], &[], &["sets/1".parse().unwrap()]);
        assert_eq!(refusals.unwrap_err()[0].resource, "sets/1/destinations/a");
    }
}
