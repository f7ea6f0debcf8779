//! Members as they come, live and leave.

use control::name::Name;
use control::registry::v1::{self, MemberKind, MemberState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store::{RefreshError, Write};
use tokio::time::timeout;

use super::decide::{Decision, Edit, Mode, What, decide, parse};
use super::read::find;
use super::{Catalog, LEASE, Order, Outcome, REFRESH_MAX, json};
use crate::refused::{Refused, invalid};
use crate::resource::Managed;
use crate::state::{Alive, Seen, State, alive_key, seen_key};

impl Catalog {
    /// Sets what the operator wants of a member.
    pub(crate) async fn set_member_state(
        &self,
        order: &Order,
        name: &str,
        wanted: MemberState,
    ) -> Result<Outcome, Refused> {
        let name = parse::<v1::Member>(name, "name")?;
        let edits = |state: &State| {
            let mut member: v1::Member = find(state, &name)?;
            member.set_desired_state(wanted);
            Ok(vec![Edit {
                at: String::new(),
                what: What::Put {
                    resource: member.into_resource(),
                    mode: Mode::Update {
                        allow_missing: false,
                    },
                },
            }])
        };
        self.change(order, edits).await
    }

    /// Makes a node a member that is alive; returns it and its new session.
    pub(crate) async fn register(
        &self,
        node: v1::Member,
        incarnation: u64,
    ) -> Result<(v1::Member, String), Refused> {
        let name = parse::<v1::Member>(&node.name, "member.name")?;
        if node.kind() == MemberKind::StockRouter {
            let reason = "a stock router is added by hand";
            return Err(invalid(&node.name, "member.kind", reason));
        }
        let session = format!("{:032x}", StdRng::from_os_rng().random::<u128>());
        let registration = |state: &State| {
            check_return(state, &name, incarnation)?;
            let existing = find::<v1::Member>(state, &name).ok();
            if let Some(existing) = &existing {
                check_registration(state, &name, existing, &node, incarnation)?;
            }
            let mut decision = decide(state, &[as_edit(&node, existing.as_ref())])?;
            decision.writes.push(Write::Put {
                key: seen_key(name.id()),
                value: json(&Seen {
                    incarnation,
                    ..Seen::default()
                }),
            });
            let alive = json(&Alive {
                session: session.clone(),
            });
            decision.writes.push(Write::PutLeased {
                key: alive_key(name.id()),
                value: alive,
                lease: LEASE,
            });
            Ok(decision)
        };
        self.write(None, registration).await?;
        tracing::info!(
            node = name.id(),
            incarnation,
            address = node.address,
            "member registered"
        );
        Ok((find(&self.state(), &name)?, session))
    }

    /// Gives a member's lease its full time again, or takes it away when the member is leaving.
    pub(crate) async fn keep_alive(
        &self,
        name: &str,
        session: &str,
        leaving: bool,
    ) -> Result<(), Refused> {
        let name = parse::<v1::Member>(name, "name")?;
        let unknown = || Refused::Session(name.to_string());
        let check = |state: &State| match state.alive.get(name.id()) {
            Some(alive) if alive.session == session => Ok(()),
            Some(_) | None => Err(unknown()),
        };
        let key = alive_key(name.id());
        if leaving {
            tracing::info!(node = name.id(), "member is leaving");
            let leave = |state: &State| {
                check(state)?;
                Ok(Decision {
                    writes: vec![Write::Delete { key: key.clone() }],
                    ..Decision::default()
                })
            };
            return self.write(None, leave).await.map(drop);
        }
        check(&self.state())?;
        let refreshed = timeout(REFRESH_MAX, self.store.refresh(&key)).await;
        let refreshed = refreshed.map_err(|_| Refused::Store(None))?;
        refreshed.map_err(|error| match error {
            RefreshError::NoLease => unknown(),
            RefreshError::Store(error) => Refused::Store(Some(error)),
        })
    }
}

/// What a node says of itself, with what people may have changed.
fn as_edit(node: &v1::Member, existing: Option<&v1::Member>) -> Edit {
    let mut member = node.clone();
    member.etag.clear();
    if let Some(existing) = existing {
        member.cell.clone_from(&existing.cell);
        member.zone.clone_from(&existing.zone);
        member.tags.clone_from(&existing.tags);
        member.desired_state = existing.desired_state;
    }
    Edit {
        at: "member".to_owned(),
        what: What::Put {
            resource: member.into_resource(),
            mode: Mode::Register,
        },
    }
}

/// Whoever was removed stays out until it is started again.
fn check_return(state: &State, name: &Name, incarnation: u64) -> Result<(), Refused> {
    match state.seen.get(name.id()) {
        Some(seen) if seen.removed && incarnation <= seen.incarnation => {
            Err(Refused::Removed(name.to_string()))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_registration(
    state: &State,
    name: &Name,
    existing: &v1::Member,
    node: &v1::Member,
    incarnation: u64,
) -> Result<(), Refused> {
    let alive = state.alive.contains_key(name.id());
    if alive && (existing.address != node.address || existing.sip != node.sip) {
        let address = existing
            .sip
            .first()
            .map_or(&existing.address, |endpoint| &endpoint.address);
        return Err(Refused::AliveElsewhere(name.to_string(), address.clone()));
    }
    if incarnation < existing.incarnation {
        return Err(Refused::Incarnation(
            name.to_string(),
            existing.incarnation,
            incarnation,
        ));
    }
    Ok(())
}
