//! The one-by-one replacement of docs/from-kamailio.md, under calls. The numbers are those of its steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use control::registry::v1::destination_service_client::DestinationServiceClient;
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::{
    DeleteDestinationRequest, DeleteMemberRequest, Destination, DestinationState,
    UpdateDestinationRequest,
};
use control::sbc::v1::DestinationHealth;

use serde_json::json;

use super::held::TABLES;
use super::{Bus, KAMAILIOS, SECOND};
use crate::agents::{Agents, plan};
use crate::quiet::{alone, say};
use crate::system::{PATIENCE, Places, ROUTERS, eventually};

/// Calls a second.
const RATE: u32 = 50;

/// Keys in a table before the first is replaced.
const KEYS: usize = 500;

/// The longest that it may take until no INVITE is open.
const DRAINED_AFTER: Duration = Duration::from_secs(30);

#[test]
fn no_call_is_lost_when_two_kamailios_are_replaced_one_by_one() {
    let Some(_permit) = alone(&["kamailio"]) else {
        return;
    };
    let mut places = Places::on_loopback();
    for (router, kamailio) in ROUTERS.into_iter().zip(KAMAILIOS) {
        let place = places.of(kamailio).clone();
        places.0.insert(router, place);
    }
    // Steps 1 to 4: registry, SBC, what is in the registry, and the Kamailios as members.
    let mut bus = Bus::at(places);
    for name in KAMAILIOS {
        bus.start(name);
    }
    bus.system.wait_until_up(&KAMAILIOS);
    bus.wait_until_agreed(&KAMAILIOS, 20 * SECOND);

    // What is only at the Kamailios before.
    for number in 0..KEYS {
        let params = json!([TABLES[1], format!("key-{number}"), number]);
        bus.kamailio(KAMAILIOS[0]).ask_to("htable.seti", &params);
    }
    let agents = Agents::start(&bus.system);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mixed = |number: u32| plan(SECOND * (number % 4) / 4, 5 * SECOND);
                agents.place_all(RATE, RATE, mixed);
            }
        });
        // However this ends, the calls must end.
        let _done = Finally(&done);
        thread::sleep(6 * SECOND);
        for (kamailio, router) in KAMAILIOS.into_iter().zip(ROUTERS) {
            bus.replace(kamailio, router);
            thread::sleep(6 * SECOND);
        }
    });
    let slowest = agents.assert_all_completed(2 * PATIENCE);
    say(&format!(
        "{} calls, slowest request {slowest:?}",
        agents.placed()
    ));
    let gone = bus.wait_until_no_dialog_is_left(&ROUTERS, 40 * SECOND);
    say(&format!("no dialog is listed {gone:?} after the last"));
    for router in ROUTERS {
        assert_eq!(bus.table(router, TABLES[1]).len(), KEYS, "keys at {router}");
    }
    bus.assert_no_complaints();
}

/// Sets a flag when it goes.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Bus {
    /// Replaces a Kamailio by a Tandem router at its address.
    fn replace(&mut self, kamailio: &'static str, router: &'static str) {
        let start = Instant::now();
        // Step 5: it gets no new calls.
        self.set_destination(kamailio, DestinationState::Draining);
        eventually("the SBC gives it no new calls", || {
            let all = self.system.destinations();
            all.iter()
                .any(|status| status.id == kamailio && status.draining)
        });
        // Step 6: the INVITEs that it has in hand come to their end.
        self.wait_until_nothing_is_open(kamailio);
        // Step 7: it gets nothing any more; its dialogs are its heirs'.
        self.set_destination(kamailio, DestinationState::Disabled);
        eventually("the SBC has it disabled", || {
            self.system.health(kamailio) == DestinationHealth::Disabled
        });
        self.wait_until_nothing_is_open(kamailio);
        let drained = start.elapsed();
        // Step 8: it ends.
        self.stop(kamailio);
        // Step 9: it is no member any more, and its destination goes with it.
        self.forget(kamailio);
        // Step 10: Tandem starts at its address.
        self.start(router);
        // Step 11: it is heard, and everybody on the bus agrees who is there.
        self.system.wait_until_up(&[router]);
        let bus: Vec<_> = KAMAILIOS
            .into_iter()
            .chain(ROUTERS)
            .filter(|name| self.runs(name))
            .collect();
        self.wait_until_agreed(&bus, 40 * SECOND);
        eventually("every Kamailio has told what it has", || {
            self.replication_status(router).stock_unheard == 0
        });
        say(&format!(
            "{kamailio} had nothing in hand after {drained:?}, {router} stood in its place after {:?}",
            start.elapsed()
        ));
    }

    /// Waits until every transaction of a Kamailio has come to its end.
    fn wait_until_nothing_is_open(&self, kamailio: &str) {
        let start = Instant::now();
        loop {
            let open = self.kamailio(kamailio).open_transactions();
            if open == 0 {
                return;
            }
            assert!(start.elapsed() < DRAINED_AFTER, "{open} are open");
            thread::sleep(SECOND / 20);
        }
    }

    fn set_destination(&self, kamailio: &str, state: DestinationState) {
        let destination = Destination {
            name: format!("sets/1/destinations/{kamailio}"),
            uri: format!("sip:{}", self.system.sip(kamailio)),
            probing: true,
            desired_state: state.into(),
            ..Destination::default()
        };
        let request = UpdateDestinationRequest {
            destination: Some(destination),
            allow_missing: true,
            ..UpdateDestinationRequest::default()
        };
        self.system.ask("registry", async |channel| {
            let mut client = DestinationServiceClient::new(channel);
            client.update_destination(request).await.unwrap();
        });
    }

    fn forget(&self, kamailio: &str) {
        self.system.ask("registry", async |channel| {
            let request = DeleteMemberRequest {
                name: format!("members/{kamailio}"),
                ..DeleteMemberRequest::default()
            };
            let mut client = MemberServiceClient::new(channel.clone());
            client.delete_member(request).await.unwrap();
            let request = DeleteDestinationRequest {
                name: format!("sets/1/destinations/{kamailio}"),
                ..DeleteDestinationRequest::default()
            };
            let mut client = DestinationServiceClient::new(channel);
            client.delete_destination(request).await.unwrap();
        });
    }
}
