//! The view as messages: what registry and node each hold, compare by checksum and turn into a
//! [`View`]. Both ends use this one type, so that they cannot disagree about what a change does.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher24;

use super::{
    CLUSTER_KEY_BYTES, Cell, Destination, DestinationSet, Member, NextHop, Profile, Refusal, Route,
    TableDefinition, Trunk, View,
};
use crate::name::Name;
use crate::registry::v1::resource::Resource as Kind;
use crate::registry::v1::{Position, Resource, Version};

/// Every resource of a view by its name, and where the view stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// The registry's counter of changes; 0 for none.
    pub generation: u64,
    /// The secret that ranking and tags are keyed with.
    pub cluster_key: [u8; CLUSTER_KEY_BYTES],
    /// The resources. Every generation is a view of its own, of which nearly all is the one's before.
    pub by_name: BTreeMap<Arc<Name>, Arc<Resource>>,
    /// Names and etags of resources whose kinds this version does not know: they count, and are not used.
    pub not_known: BTreeMap<String, String>,
}

impl Resources {
    /// Returns where the view stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            generation: self.generation,
            checksum: self.checksum(),
        }
    }

    /// Returns the checksum over the cluster key, and name, etag, incarnation and liveness of every
    /// resource.
    ///
    /// A sum of SipHash-2-4 with a zero key; see `Position` in `config.proto`. An etag is made of
    /// generation and content, so a node need not know every field, or even the kind, to know that it
    /// has the same resource.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        let mut key = SipHasher24::new();
        key.write(&self.cluster_key);
        let known = self.by_name.iter().map(|(name, resource)| {
            let mut hasher = hasher_of(&name.to_string(), etag_of(resource));
            if let Some(Kind::Member(member)) = &resource.resource {
                hasher.write(&member.incarnation.to_le_bytes());
                hasher.write(&member.liveness.to_le_bytes());
            }
            hasher.finish()
        });
        let not_known = self.not_known.iter();
        let not_known = not_known.map(|(name, etag)| hasher_of(name, etag).finish());
        known.chain(not_known).fold(key.finish(), u64::wrapping_add)
    }

    /// Puts a resource in, over the one of the same name.
    ///
    /// # Errors
    ///
    /// A refusal when it has no kind that is known here, or no good name.
    pub fn insert(&mut self, resource: Resource) -> Result<(), Refusal> {
        let text = name_of(&resource);
        let refusal = |reason: String| Refusal {
            resource: text.to_owned(),
            field: "name".into(),
            reason,
        };
        let name: Name = text
            .parse()
            .map_err(|error: crate::name::NameError| refusal(error.to_string()))?;
        self.by_name.insert(Arc::new(name), Arc::new(resource));
        Ok(())
    }

    /// Puts in what came over the wire: a resource of a kind that is not known is counted by its version.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert), for one of no known kind that has no version either.
    pub fn receive(&mut self, resource: Resource, version: Option<Version>) -> Result<(), Refusal> {
        match version {
            Some(version) if resource.resource.is_none() => {
                self.not_known.insert(version.name, version.etag);
                Ok(())
            }
            Some(_) | None => self.insert(resource),
        }
    }

    /// Takes a resource out, of whatever kind it is.
    pub fn remove(&mut self, name: &str) {
        if let Ok(name) = name.parse::<Name>() {
            self.by_name.remove(&name);
        }
        self.not_known.remove(name);
    }

    /// Turns the messages into plain types and checks all of them and what they refer to.
    ///
    /// # Errors
    ///
    /// Every reason why the view is refused.
    pub fn to_view(&self) -> Result<View, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut view = View {
            generation: self.generation,
            checksum: self.checksum(),
            cluster_key: self.cluster_key,
            ..View::default()
        };
        // The names are in order, so the lists come out sorted.
        for resource in self.by_name.values() {
            refusals.extend(view.read(resource).err().into_iter().flatten());
        }
        refusals.extend(self.missing_references(&view));
        refusals.extend(tables_of_one_name(&view));
        if refusals.is_empty() {
            Ok(view)
        } else {
            Err(refusals)
        }
    }

    fn missing_references(&self, view: &View) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut require = |wanted: Name, resource: Name, field: String| {
            if !self.by_name.contains_key(&wanted) {
                refusals.push(Refusal {
                    resource: resource.to_string(),
                    field,
                    reason: format!("{wanted} does not exist"),
                });
            }
        };
        for Destination { set, id, .. } in &view.destinations {
            require(
                Name::Set(set.clone()),
                Name::Destination {
                    set: set.clone(),
                    id: id.clone(),
                },
                "name".into(),
            );
        }
        for route in &view.routes {
            if let Some(trunk) = &route.matches.trunk {
                require(
                    Name::Trunk(trunk.clone()),
                    Name::Route(route.id.clone()),
                    "match.trunk".into(),
                );
            }
            for (i, result) in route.results.iter().enumerate() {
                if let NextHop::Set(set) = &result.next_hop {
                    require(
                        Name::Set(set.clone()),
                        Name::Route(route.id.clone()),
                        format!("results[{i}].set"),
                    );
                }
            }
        }
        refusals
    }
}

fn hasher_of(name: &str, etag: &str) -> SipHasher24 {
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    hasher.write_u8(0);
    hasher.write(etag.as_bytes());
    hasher.write_u8(0);
    hasher
}

impl View {
    /// Adds a resource, unless something is wrong with it.
    fn read(&mut self, resource: &Resource) -> Result<(), Vec<Refusal>> {
        match &resource.resource {
            Some(Kind::Cell(cell)) => self.cells.push(Cell::try_from(cell)?),
            Some(Kind::Member(member)) => self.members.push(Member::try_from(member)?),
            Some(Kind::DestinationSet(set)) => self.sets.push(DestinationSet::try_from(set)?),
            Some(Kind::Destination(destination)) => {
                self.destinations.push(Destination::try_from(destination)?);
            }
            Some(Kind::Route(route)) => self.routes.push(Route::try_from(route)?),
            Some(Kind::TableDefinition(table)) => {
                self.tables.push(TableDefinition::try_from(table)?);
            }
            Some(Kind::Trunk(trunk)) => self.trunks.push(Trunk::try_from(trunk)?),
            Some(Kind::Profile(profile)) => self.profiles.push(Profile::try_from(profile)?),
            None => {}
        }
        Ok(())
    }
}

/// Checks one resource, apart from what it refers to.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn check(resource: &Resource) -> Result<(), Vec<Refusal>> {
    View::default().read(resource)
}

/// On the bus a table is known by its name alone.
fn tables_of_one_name(view: &View) -> Vec<Refusal> {
    let mut first = BTreeMap::new();
    let mut refusals = Vec::new();
    for TableDefinition { id, table, .. } in &view.tables {
        let owner = *first.entry(table).or_insert(id);
        if owner != id {
            refusals.push(Refusal {
                resource: Name::Table(id.clone()).to_string(),
                field: "table".into(),
                reason: format!("tables/{owner} is called {table:?}, too"),
            });
        }
    }
    refusals
}

/// Returns what a node needs of a resource to count it.
#[must_use]
pub fn version_of(resource: &Resource) -> Version {
    Version {
        name: name_of(resource).to_owned(),
        etag: etag_of(resource).to_owned(),
    }
}

/// Returns the name of a resource; empty when it is of no kind known here.
#[must_use]
pub fn name_of(resource: &Resource) -> &str {
    match &resource.resource {
        Some(Kind::Cell(cell)) => &cell.name,
        Some(Kind::Member(member)) => &member.name,
        Some(Kind::DestinationSet(set)) => &set.name,
        Some(Kind::Destination(destination)) => &destination.name,
        Some(Kind::Route(route)) => &route.name,
        Some(Kind::TableDefinition(table)) => &table.name,
        Some(Kind::Trunk(trunk)) => &trunk.name,
        Some(Kind::Profile(profile)) => &profile.name,
        None => "",
    }
}

/// Returns the etag of a resource; empty when it is of no kind known here.
#[must_use]
pub fn etag_of(resource: &Resource) -> &str {
    match &resource.resource {
        Some(Kind::Cell(cell)) => &cell.etag,
        Some(Kind::Member(member)) => &member.etag,
        Some(Kind::DestinationSet(set)) => &set.etag,
        Some(Kind::Destination(destination)) => &destination.etag,
        Some(Kind::Route(route)) => &route.etag,
        Some(Kind::TableDefinition(table)) => &table.etag,
        Some(Kind::Trunk(trunk)) => &trunk.etag,
        Some(Kind::Profile(profile)) => &profile.etag,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::v1;
    use crate::view::{DestinationState, MemberKind};

    fn resources(kinds: impl IntoIterator<Item = Kind>) -> Resources {
        let mut resources = Resources {
            generation: 1,
            ..Resources::default()
        };
        for kind in kinds {
            resources
                .insert(Resource {
                    resource: Some(kind),
                })
                .unwrap();
        }
        resources
    }

    fn router(id: &str, port: u16) -> v1::Member {
        v1::Member {
            name: format!("members/{id}"),
            kind: v1::MemberKind::Router.into(),
            address: "127.0.0.2".into(),
            sip: vec![v1::SipEndpoint {
                side: 0,
                address: format!("127.0.0.2:{port}"),
            }],
            ..Default::default()
        }
    }

    fn set(id: &str) -> v1::DestinationSet {
        let selector = v1::MemberSelector {
            kind: MemberKind::Router.into_wire(),
            ..Default::default()
        };
        v1::DestinationSet {
            name: format!("sets/{id}"),
            selector: Some(selector),
            ..Default::default()
        }
    }

    impl MemberKind {
        fn into_wire(self) -> i32 {
            v1::MemberKind::from(self).into()
        }
    }

    #[test]
    fn a_set_holds_selected_members_and_listed_destinations() {
        let mut draining = router("b", 5061);
        draining.desired_state = v1::MemberState::Draining.into();
        let listed = v1::Destination {
            name: "sets/1/destinations/a".into(),
            uri: "sip:192.0.2.1".into(),
            weight: Some(5),
            ..Default::default()
        };
        let resources = resources([
            Kind::Member(draining),
            Kind::Member(router("a", 5060)),
            Kind::DestinationSet(set("1")),
            Kind::Destination(listed),
        ]);
        let view = resources.to_view().unwrap();
        let found = view.destinations_of("1");
        let found: Vec<_> = found
            .iter()
            .map(|d| (d.id.as_str(), d.uri.as_str(), d.desired_state))
            .collect();
        assert_eq!(
            found,
            [
                ("a", "sip:192.0.2.1", DestinationState::Active),
                ("b", "sip:127.0.0.2:5061", DestinationState::Draining),
            ]
        );
        assert_eq!(view.member("b").map(|member| member.id.as_str()), Some("b"));
    }

    #[test]
    fn a_reference_to_a_missing_set_is_refused() {
        let destination = v1::Destination {
            name: "sets/2/destinations/a".into(),
            uri: "sip:a".into(),
            ..Default::default()
        };
        let next_hop = Some(v1::route_result::NextHop::Set("sets/3".into()));
        let route = v1::Route {
            name: "routes/r".into(),
            results: vec![v1::RouteResult {
                next_hop,
                ..Default::default()
            }],
            ..Default::default()
        };
        let refusals = resources([Kind::Destination(destination), Kind::Route(route)])
            .to_view()
            .unwrap_err();
        let said: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "sets/2/destinations/a: name: sets/2 does not exist",
                "routes/r: results[0].set: sets/3 does not exist",
            ]
        );
    }

    #[test]
    fn a_route_needs_the_trunk_that_it_asks_for() {
        let next_hop = Some(v1::route_result::NextHop::Uri("sip:a".into()));
        let route = Kind::Route(v1::Route {
            name: "routes/r".into(),
            r#match: Some(v1::RouteMatch {
                trunk: "trunks/a".into(),
                ..Default::default()
            }),
            results: vec![v1::RouteResult {
                next_hop,
                ..Default::default()
            }],
            ..Default::default()
        });
        let trunk = Kind::Trunk(v1::Trunk {
            name: "trunks/a".into(),
            networks: vec!["192.0.2.1".into()],
            ..Default::default()
        });
        let view = resources([route.clone(), trunk]).to_view().unwrap();
        assert_eq!(view.routes[0].matches.trunk.as_deref(), Some("a"));
        assert!(view.trunk("a").is_some());
        let refusals = resources([route]).to_view().unwrap_err();
        let said: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["routes/r: match.trunk: trunks/a does not exist"]);
    }

    #[test]
    fn two_tables_of_one_name_are_refused() {
        let table = |id: &str, table: &str| {
            Kind::TableDefinition(v1::TableDefinition {
                name: format!("tables/{id}"),
                table: table.into(),
                ..Default::default()
            })
        };
        let named = resources([table("a", "Bans"), table("b", ""), table("c", "bans")]);
        let view = named.to_view().unwrap();
        let names: Vec<_> = view
            .tables
            .iter()
            .map(|table| table.table.as_str())
            .collect();
        assert_eq!(names, ["Bans", "b", "bans"]);

        let twice = resources([table("a", ""), table("b", "x"), table("c", "a")]);
        let refusals = twice.to_view().unwrap_err();
        let said: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(said, [r#"tables/c: table: tables/a is called "a", too"#]);
    }

    #[test]
    fn the_checksum_sees_etags_and_liveness() {
        let mut member = router("a", 5060);
        let before = resources([Kind::Member(member.clone())]).checksum();
        member.liveness = v1::Liveness::Gone.into();
        let gone = resources([Kind::Member(member.clone())]).checksum();
        member.etag = "7-x".into();
        let edited = resources([Kind::Member(member)]).checksum();
        assert!(before != gone && gone != edited);
    }

    #[test]
    fn a_resource_of_a_kind_that_is_not_known_counts_as_at_who_knows_it() {
        let mut route = v1::Route {
            name: "routes/a".into(),
            etag: "7-x".into(),
            ..Default::default()
        };
        let registry = resources([
            Kind::DestinationSet(set("1")),
            Kind::Route(route.clone()),
            Kind::Member(router("z", 5060)),
        ]);
        let mut node = Resources {
            generation: 1,
            ..Resources::default()
        };
        for resource in registry.by_name.values() {
            // As an older version reads a kind that it does not know.
            let kind = resource.resource.clone();
            let kind = kind.filter(|kind| !matches!(kind, Kind::Route(_)));
            let version = version_of(resource);
            let received = Resource { resource: kind };
            node.receive(received.clone(), Some(version)).unwrap();
            assert_eq!(
                node.clone().receive(received.clone(), None).is_err(),
                received.resource.is_none()
            );
        }
        assert_eq!(node.position(), registry.position());
        assert_eq!(node.not_known.keys().collect::<Vec<_>>(), ["routes/a"]);

        route.etag = "8-x".into();
        let changed = resources([Kind::Route(route)]);
        assert_ne!(changed.checksum(), {
            node.by_name.clear();
            node.checksum()
        });
        node.remove("routes/a");
        assert_eq!(node.checksum(), Resources::default().checksum());
    }
}
