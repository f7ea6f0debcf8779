//! What is read of the state: one resource, or pages of them.

use control::name::Name;
use control::registry::v1::Fault;

use super::decide::parse;
use crate::refused::{Refused, invalid};
use crate::resource::Managed;
use crate::state::State;

/// Entries of a page unless the request wants fewer.
const PAGE_MAX: usize = 1000;

/// Finds a resource by the name that a request gives.
pub(crate) fn get<R: Managed>(state: &State, name: &str) -> Result<R, Refused> {
    find(state, &parse::<R>(name, "name")?)
}

/// Returns a page of the resources that `wanted` lets through, and the token of the next page.
pub(crate) fn list<R: Managed>(
    state: &State,
    page_size: i32,
    page_token: &str,
    wanted: impl Fn(&Name) -> bool,
) -> Result<(Vec<R>, String), Refused> {
    let size = page_size_of(page_size)?;
    let after = match page_token {
        "" => None,
        token => {
            let name = token.parse::<Name>().ok().filter(|name| wanted(name));
            Some(name.ok_or_else(|| invalid("", "page_token", "came from no page of this list"))?)
        }
    };
    let all = state.resources.by_name.iter();
    let rest = all
        .filter(|(name, _)| after.as_ref().is_none_or(|after| ***name > *after) && wanted(name))
        .filter_map(|(_, resource)| R::from_resource(resource))
        .cloned();
    Ok(page(rest, size, |last| last.name().to_owned()))
}

/// Returns a page of the values that do not count, and the token of the next page.
pub(crate) fn faults(
    state: &State,
    page_size: i32,
    page_token: &str,
) -> Result<(Vec<Fault>, String), Refused> {
    let size = page_size_of(page_size)?;
    let mut all: Vec<_> = state
        .written
        .faults()
        .filter_map(|(_, fault)| fault)
        .collect();
    all.sort_by(|a, b| a.resource.cmp(&b.resource));
    let rest = all
        .into_iter()
        .filter(|fault| page_token.is_empty() || *fault.resource > *page_token)
        .cloned();
    Ok(page(rest, size, |last| last.resource.clone()))
}

/// Finds a resource as it counts.
pub(crate) fn find<R: Managed>(state: &State, name: &Name) -> Result<R, Refused> {
    let found = state.resources.by_name.get(name);
    let found = found.and_then(|resource| R::from_resource(resource));
    found
        .cloned()
        .ok_or_else(|| Refused::NotFound(name.to_string()))
}

pub(crate) fn page_size_of(page_size: i32) -> Result<usize, Refused> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_MAX),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(invalid("", "page_size", "must not be negative")),
    }
}

/// Takes a page; its token is the name of the last, if more follow.
pub(crate) fn page<T>(
    mut rest: impl Iterator<Item = T>,
    size: usize,
    name: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let token = page.last().filter(|_| more).map(name).unwrap_or_default();
    (page, token)
}
