//! Two Tandem and two Kamailio routers on one bus, beside an SBC: what they know of each other, of
//! dialogs and of tables, and what becomes of calls when they die or are replaced.

mod calls;
mod complaints;
mod contents;
mod dialogs;
mod held;
mod membership;
mod mirrors;
mod moving;
mod replacement;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::{ListNodesRequest, NodeState};
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::table_definition_service_client::TableDefinitionServiceClient;
use control::registry::v1::{
    Member, MemberKind, SipEndpoint, TableDefinition, UpdateMemberRequest,
    UpdateTableDefinitionRequest,
};

use tonic::Code;

use complaints::Life;
use mirrors::Mirrors;

use crate::kamailio::{DMQ_PORT, Kamailio, dmq};
use crate::system::{Places, ROUTERS, System, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// Both Kamailio routers.
pub(crate) const KAMAILIOS: [&str; 2] = ["kamailio-1", "kamailio-2"];

/// Who can be on the bus.
const NODES: [&str; 4] = ["router-1", "router-2", "kamailio-1", "kamailio-2"];

/// A Kamailio that does not answer is found out in 30 s, by the last ping before it.
const STOCK_NOTICES: Duration = Duration::from_secs(75);

/// Everything that runs; killed when dropped.
struct Bus {
    system: System,
    kamailios: BTreeMap<&'static str, Kamailio>,
    /// How they find the dialog of a request (`dlg_match_mode`).
    match_mode: u8,
    /// What is to be known of them to judge their logs.
    lives: BTreeMap<&'static str, Life>,
    /// What they were told by Tandem routers.
    mirrors: Mirrors,
    /// The logs of those that have ended.
    logs: Vec<(Life, Vec<String>)>,
    /// Kamailios that were killed.
    killed: BTreeSet<&'static str>,
    /// Dialogs that went on at them then.
    died_with_them: usize,
}

impl Bus {
    /// Starts registry, SBC and these nodes, and waits until each knows the others and the SBC hears
    /// them all.
    fn ready(nodes: &[&'static str]) -> Self {
        Self::ready_with(nodes, 0)
    }

    /// The same, and Kamailios find the dialogs of requests so.
    fn ready_with(nodes: &[&'static str], match_mode: u8) -> Self {
        let mut bus = Self::at(Places::on_loopback());
        bus.match_mode = match_mode;
        for node in nodes {
            bus.start(node);
        }
        bus.system.wait_until_up(nodes);
        bus.wait_until_agreed(nodes, 20 * SECOND);
        eventually("all take new calls", || {
            bus.system
                .destinations()
                .iter()
                .all(|status| !status.draining || !nodes.contains(&status.id.as_str()))
        });
        bus
    }

    /// Starts registry and SBC, and tells the registry of Kamailio routers, tables and the route.
    fn at(places: Places) -> Self {
        let mut system = System::at(places);
        system.start("registry");
        let bus = Self {
            system,
            kamailios: BTreeMap::new(),
            match_mode: 0,
            lives: BTreeMap::new(),
            mirrors: Mirrors::default(),
            logs: Vec::new(),
            killed: BTreeSet::new(),
            died_with_them: 0,
        };
        for name in KAMAILIOS {
            bus.put_stock_member(name);
        }
        bus.put_table("auth", Some(300 * SECOND));
        bus.put_table("plain", None);
        bus.put_table(held::CLEARED, None);
        bus.system.put_route();
        let mut bus = bus;
        bus.system.start("sbc");
        bus
    }

    fn put_stock_member(&self, name: &str) {
        let member = Member {
            name: format!("members/{name}"),
            kind: MemberKind::StockRouter.into(),
            address: self.system.places.of(name).ip.to_string(),
            sip: vec![SipEndpoint {
                address: self.system.sip(name).to_string(),
                ..SipEndpoint::default()
            }],
            dmq_port: DMQ_PORT.into(),
            ..Member::default()
        };
        let request = UpdateMemberRequest {
            member: Some(member),
            allow_missing: true,
            ..UpdateMemberRequest::default()
        };
        self.system.ask("registry", async |channel| {
            let mut client = MemberServiceClient::new(channel);
            client.update_member(request).await.unwrap();
        });
    }

    fn put_table(&self, table: &str, autoexpire: Option<Duration>) {
        let definition = TableDefinition {
            name: format!("tables/{table}"),
            autoexpire: autoexpire.map(|lifetime| lifetime.try_into().unwrap()),
            ..TableDefinition::default()
        };
        let request = UpdateTableDefinitionRequest {
            table_definition: Some(definition),
            allow_missing: true,
            ..UpdateTableDefinitionRequest::default()
        };
        self.system.ask("registry", async |channel| {
            let mut client = TableDefinitionServiceClient::new(channel);
            client.update_table_definition(request).await.unwrap();
        });
    }

    /// Starts a node, of whichever kind.
    ///
    /// A Kamailio joins at the other one, and hears of Tandem nodes from themselves: two Kamailios
    /// that are told of a third in their configuration never agree that it is dead, each believing
    /// the other's list.
    fn start(&mut self, name: &'static str) {
        if is_stock(name) {
            let seeds = KAMAILIOS.into_iter().filter(|seed| *seed != name);
            let seeds: Vec<_> = seeds.collect();
            let kamailio = Kamailio::start(&self.system, name, &NODES, &seeds, self.match_mode);
            self.kamailios.insert(name, kamailio);
            self.note_start(name);
        } else {
            self.system.start(name);
            self.mirrors.listen(&self.system.places, name);
        }
    }

    /// Kills a node, of whichever kind, as nothing kinder would.
    fn kill(&mut self, name: &'static str) {
        match self.kamailios.remove(name) {
            Some(kamailio) => {
                self.killed.insert(name);
                let dialogs = kamailio.dialogs().into_values();
                self.died_with_them += dialogs.filter(|state| *state != held::ENDED).count();
                self.note_end(name, kamailio.log_lines());
                kamailio.kill();
            }
            None => self.system.kill(name),
        }
        self.note_kill();
    }

    /// Asks a Kamailio to end, and waits until it has.
    fn stop(&mut self, name: &str) {
        let kamailio = self.kamailios.remove(name).unwrap();
        self.note_end(name, kamailio.log_lines());
        kamailio.stop();
    }

    /// Tells whether a node of either kind was started and has not ended.
    fn runs(&self, name: &str) -> bool {
        self.kamailios.contains_key(name) || self.system.runs(name)
    }

    fn kamailio(&self, name: &str) -> &Kamailio {
        &self.kamailios[name]
    }

    /// Returns the DMQ address of a node.
    fn dmq(&self, name: &str) -> SocketAddr {
        dmq(&self.system.places, name)
    }

    /// Returns the nodes that a node holds active, itself included; nobody before it is on the bus.
    fn active_nodes(&self, name: &str) -> BTreeSet<SocketAddr> {
        if is_stock(name) {
            return self.kamailio(name).active_nodes();
        }
        let listed = self.system.ask(name, async |channel| {
            let mut client = MirrorServiceClient::new(channel);
            client.list_nodes(ListNodesRequest {}).await
        });
        let listed = match listed {
            Ok(listed) => listed.into_inner(),
            Err(status) if status.code() == Code::Unavailable => return BTreeSet::new(),
            Err(status) => panic!("{name}: {status}"),
        };
        let active = listed.nodes.iter();
        let active = active.filter(|node| node.state() == NodeState::Active);
        let active = active.map(|node| &node.address);
        let active = active.chain([&listed.own_address]);
        active.map(|address| address.parse().unwrap()).collect()
    }

    /// Waits until each of these nodes holds exactly these active, and returns how long it took.
    fn wait_until_agreed(&self, nodes: &[&str], patience: Duration) -> Duration {
        let start = Instant::now();
        let expected: BTreeSet<_> = nodes.iter().map(|name| self.dmq(name)).collect();
        loop {
            let seen = nodes.iter().map(|name| (*name, self.active_nodes(name)));
            let differ: Vec<_> = seen.filter(|(_, seen)| *seen != expected).collect();
            if differ.is_empty() {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < patience,
                "after {patience:?} not {expected:?} but {differ:#?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn is_stock(name: &str) -> bool {
    KAMAILIOS.contains(&name)
}
