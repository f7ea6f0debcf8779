//! Every method of every service: what it needs, and where its requests name what they are about.
//!
//! A method that is not in the table needs an operator; a test holds the table complete.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::roles::Role;

/// What a method needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: a probe has no certificate.
    Nothing,
    /// This role.
    Role(Role),
}

const OPEN: Need = Need::Nothing;
const VIEWER: Need = Need::Role(Role::Viewer);
const OPERATOR: Need = Need::Role(Role::Operator);
const NODE: Need = Need::Role(Role::Node);

/// A method, what it needs, and the fields of its request that name resources, separated by spaces.
/// `*` stands for whichever field is set.
type Row = (&'static str, Need, &'static str);

#[rustfmt::skip]
const TABLE: &[(&str, &[Row])] = &[
    ("grpc.health.v1.Health", &[
        ("Check", OPEN, ""),
        ("Watch", OPEN, ""),
    ]),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", VIEWER, "")]),
    ("grpc.reflection.v1alpha.ServerReflection", &[("ServerReflectionInfo", VIEWER, "")]),

    ("tandem.registry.v1.MemberService", &[
        ("Register", NODE, "member.name"),
        ("KeepAlive", NODE, "name"),
        ("GetMember", VIEWER, "name"),
        ("ListMembers", VIEWER, ""),
        ("UpdateMember", OPERATOR, "member.name"),
        ("DeleteMember", OPERATOR, "name"),
        ("DrainMember", OPERATOR, "name"),
        ("UndrainMember", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.ConfigService", &[("SyncConfig", NODE, "hello.node")]),
    ("tandem.registry.v1.CellService", &[
        ("GetCell", VIEWER, "name"),
        ("ListCells", VIEWER, ""),
        ("CreateCell", OPERATOR, "cell.name"),
        ("UpdateCell", OPERATOR, "cell.name"),
        ("DeleteCell", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.DestinationSetService", &[
        ("GetDestinationSet", VIEWER, "name"),
        ("ListDestinationSets", VIEWER, ""),
        ("CreateDestinationSet", OPERATOR, "destination_set.name"),
        ("UpdateDestinationSet", OPERATOR, "destination_set.name"),
        ("DeleteDestinationSet", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.DestinationService", &[
        ("GetDestination", VIEWER, "name"),
        ("ListDestinations", VIEWER, ""),
        ("CreateDestination", OPERATOR, "destination.name"),
        ("UpdateDestination", OPERATOR, "destination.name"),
        ("DeleteDestination", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.RouteService", &[
        ("GetRoute", VIEWER, "name"),
        ("ListRoutes", VIEWER, ""),
        ("CreateRoute", OPERATOR, "route.name"),
        ("UpdateRoute", OPERATOR, "route.name"),
        ("DeleteRoute", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.TableDefinitionService", &[
        ("GetTableDefinition", VIEWER, "name"),
        ("ListTableDefinitions", VIEWER, ""),
        ("CreateTableDefinition", OPERATOR, "table_definition.name"),
        ("UpdateTableDefinition", OPERATOR, "table_definition.name"),
        ("DeleteTableDefinition", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.TrunkService", &[
        ("GetTrunk", VIEWER, "name"),
        ("ListTrunks", VIEWER, ""),
        ("CreateTrunk", OPERATOR, "trunk.name"),
        ("UpdateTrunk", OPERATOR, "trunk.name"),
        ("DeleteTrunk", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.ProfileService", &[
        ("GetProfile", VIEWER, "name"),
        ("ListProfiles", VIEWER, ""),
        ("CreateProfile", OPERATOR, "profile.name"),
        ("UpdateProfile", OPERATOR, "profile.name"),
        ("DeleteProfile", OPERATOR, "name"),
    ]),
    ("tandem.registry.v1.ApplyService", &[
        ("ApplyResources", OPERATOR, "resources.*.name deletes"),
    ]),
    ("tandem.registry.v1.WatchService", &[("Watch", VIEWER, "")]),
    ("tandem.registry.v1.StatusService", &[
        ("GetConfigStatus", VIEWER, ""),
        ("ListNodeStatuses", VIEWER, ""),
        ("ListFaults", VIEWER, ""),
    ]),

    ("tandem.node.v1.NodeService", &[
        ("Drain", OPERATOR, "name"),
        ("Undrain", OPERATOR, "name"),
    ]),

    ("tandem.sbc.v1.StatusService", &[
        ("GetStatus", VIEWER, ""),
        ("ListDestinations", VIEWER, ""),
        ("EnableDestination", OPERATOR, "set id"),
        ("DisableDestination", OPERATOR, "set id"),
        ("DrainDestination", OPERATOR, "set id"),
    ]),
    ("tandem.sbc.v1.DialogService", &[
        ("GetDialog", VIEWER, "name"),
        ("ListDialogs", VIEWER, ""),
    ]),
    ("tandem.sbc.v1.TapService", &[("Tap", VIEWER, "")]),

    ("tandem.router.v1.StatusService", &[("GetStatus", VIEWER, "")]),
    ("tandem.router.v1.DialogService", &[
        ("GetDialog", VIEWER, "name"),
        ("ListDialogs", VIEWER, ""),
        ("WatchDialogs", VIEWER, ""),
    ]),
    ("tandem.router.v1.TableEntryService", &[
        ("GetTableEntry", VIEWER, "name"),
        ("ListTableEntries", VIEWER, ""),
        ("WatchTableEntries", VIEWER, ""),
        ("SetTableEntry", OPERATOR, "table_entry.name table_entry.table"),
        ("DeleteTableEntry", OPERATOR, "name"),
        ("DeleteMatchingTableEntries", OPERATOR, "parent"),
        ("FlushTable", OPERATOR, "parent"),
    ]),
    ("tandem.router.v1.ReplicationService", &[
        ("GetReplicationStatus", VIEWER, ""),
        ("VerifyReplica", VIEWER, ""),
        ("RepairStockNodes", OPERATOR, "node"),
    ]),
    ("tandem.mirror.v1.MirrorService", &[
        ("ListNodes", VIEWER, ""),
        ("StreamMessages", VIEWER, ""),
    ]),
];

/// Returns what the method of a path, such as `/grpc.health.v1.Health/Check`, needs. None if it is
/// not known.
#[must_use]
pub fn needs(path: &str) -> Option<Need> {
    row(path).map(|(_, need, _)| need)
}

fn row(path: &str) -> Option<Row> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, rows) = TABLE.iter().find(|(name, _)| *name == service)?;
    rows.iter().find(|(name, ..)| *name == method).copied()
}

/// What is known of a method.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) need: Need,
    /// Whether either side may send more than one message.
    pub(crate) streams: bool,
    /// Its request.
    pub(crate) input: Option<MessageDescriptor>,
    /// The fields of the request that name resources.
    pub(crate) names: &'static str,
}

impl Method {
    /// Tells whether it changes something, so that it is worth a line in the audit log.
    pub(crate) fn is_change(&self) -> bool {
        match self.need {
            Need::Role(Role::Operator | Role::Node) => !self.streams,
            Need::Nothing | Need::Role(Role::Viewer) => false,
        }
    }
}

/// All methods, by path.
pub(crate) struct Methods {
    by_path: HashMap<String, Method>,
    unknown: Method,
}

impl Methods {
    pub(crate) fn all() -> Self {
        let pool = descriptors();
        let services = pool.services();
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let by_path = methods.map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let (need, names) = row(&path).map_or((OPERATOR, ""), |(_, need, names)| (need, names));
            let known = Method {
                need,
                streams: method.is_client_streaming() || method.is_server_streaming(),
                input: Some(method.input()),
                names,
            };
            (path, known)
        });
        Self {
            by_path: by_path.collect(),
            unknown: Method {
                need: OPERATOR,
                streams: false,
                input: None,
                names: "",
            },
        }
    }

    /// Returns the method of a path; one that nobody knows needs an operator to be told so.
    pub(crate) fn find(&self, path: &str) -> &Method {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }
}

/// What reflection shows of the services that are served.
pub(crate) const DESCRIPTOR_SETS: [&[u8]; 4] = [
    control::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

fn descriptors() -> DescriptorPool {
    let mut pool = DescriptorPool::new();
    for set in DESCRIPTOR_SETS {
        pool.decode_file_descriptor_set(set)
            .expect("build scripts made valid descriptor sets");
    }
    pool
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::Kind;

    use super::*;

    #[test]
    fn the_table_has_every_method_and_no_other() {
        let pool = descriptors();
        let services = pool.services();
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let said: BTreeSet<String> = methods
            .map(|method| method.full_name().to_owned())
            .collect();
        let rows = TABLE.iter().flat_map(|(service, rows)| {
            rows.iter()
                .map(move |(method, ..)| format!("{service}.{method}"))
        });
        let known: Vec<String> = rows.collect();
        let unique: BTreeSet<String> = known.iter().cloned().collect();
        assert_eq!(unique.len(), known.len(), "a method stands there twice");
        let missing: Vec<_> = said.difference(&unique).collect();
        assert!(missing.is_empty(), "not in the table: {missing:?}");
        let stale: Vec<_> = unique.difference(&said).collect();
        assert!(stale.is_empty(), "in no service: {stale:?}");
    }

    #[test]
    fn every_change_names_what_it_changes_by_fields_that_are_there() {
        let methods = Methods::all();
        for (path, method) in &methods.by_path {
            let names: Vec<_> = method.names.split_whitespace().collect();
            if method.need == NODE || method.is_change() {
                assert!(!names.is_empty(), "{path}");
            }
            for name in names {
                let mut message = method.input.clone();
                let mut text = false;
                for part in name.split('.').filter(|part| *part != "*") {
                    let all = message.take().unwrap();
                    // After a star, any of the fields may lead on.
                    let inner = all.fields().filter_map(|field| {
                        let inner = field.kind().as_message()?.clone();
                        inner.get_field_by_name(part)
                    });
                    let field = all.get_field_by_name(part).or(inner.last());
                    let kind = field.unwrap_or_else(|| panic!("{path}: {name}")).kind();
                    message = kind.as_message().cloned();
                    text = kind == Kind::String;
                }
                assert!(text, "{path}: {name} is no text");
            }
        }
    }

    #[test]
    fn reading_needs_no_operator_and_changing_does() {
        for (service, rows) in TABLE {
            for (method, need, _) in *rows {
                let reads = [
                    "Get", "List", "Watch", "Check", "Stream", "Tap", "Verify", "Server",
                ];
                let reads = reads.iter().any(|verb| method.starts_with(verb));
                let may_read = matches!(need, Need::Nothing | Need::Role(Role::Viewer));
                assert_eq!(may_read, reads, "{service}/{method}");
            }
        }
        assert_eq!(needs("/tandem.registry.v1.MemberService/Nothing"), None);
        assert_eq!(Methods::all().find("/a.B/C").need, OPERATOR);
    }
}
