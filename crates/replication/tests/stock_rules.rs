//! Whatever a router holds, what it tells a Kamailio crashes none and is complained of by none.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stock_model;

use std::collections::BTreeMap;
use std::time::Duration;

use htable::Value;
use proptest::prelude::*;
use replication::{
    DialogKey, DialogRecord, DialogState, EntryKey, Leg, Lifetime, Origin, Ownership, Profile,
    Profiles, Stamp, Text, Variable,
};
use stock_model::kamailio::Version::{V56, V62};
use stock_model::{LONG, SHORT, World, ms, ours, stock};

/// Text that the other reader of JSON takes too.
fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        Just(String::new()),
        "[a-z\"\\\\{},:\u{1}-\u{1f}\u{7f}é]{0,12}",
    ]
    .prop_map(|text| text.into_bytes().into())
}

prop_compose! {
    fn leg()(
        cseq in any::<u32>(),
        tag in text(),
        contact in text(),
        route_set in text(),
    ) -> Leg {
        Leg { cseq, stamp: Stamp::default(), tag, contact, route_set }
    }
}

prop_compose! {
    fn profile()(
        name in text(),
        value in prop::option::of(text()),
        puid in text(),
        expires in 0..u64::from(u32::MAX),
        flags in any::<u32>(),
    ) -> Profile {
        Profile { name, value, puid, expires, flags }
    }
}

prop_compose! {
    fn dialog()(
        state in 1..6u32,
        epoch in 0..3u32,
        is_ours in any::<bool>(),
        times in (0..u64::from(u32::MAX), 0..u64::from(u32::MAX), any::<u32>()),
        uris in (text(), text(), text()),
        (caller, callee) in (leg(), leg()),
        variables in prop::collection::btree_map(text(), prop::option::of(text()), 0..4),
        list in prop::collection::vec(profile(), 0..3),
    ) -> DialogRecord {
        let owner = if is_ours { ours() } else { stock(7) };
        let stamp = Stamp { clock: 1, node: 1 };
        let variables = variables.into_iter();
        let variables: BTreeMap<_, _> = variables
            .map(|(name, value)| (name, Variable { stamp, value }))
            .collect();
        DialogRecord {
            state: DialogState::try_from(state).unwrap(),
            created: times.0,
            answered: times.1,
            from_uri: uris.0,
            to_uri: uris.1,
            request_uri: uris.2,
            caller,
            callee,
            variables,
            profiles: Profiles { stamp, list },
            lifetime: Lifetime { stamp, seconds: times.2 },
            ..DialogRecord::new(Ownership { epoch, owner })
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = text().prop_map(|text| Value::Text(text.into_vec().into()));
    prop_oneof![any::<i32>().prop_map(Value::Int), text]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // `World` checks every message that leaves by `stock_model::rules`.
    #[test]
    fn what_is_told_of_dialogs_keeps_the_rules(
        version in prop_oneof![Just(V56), Just(V62)],
        dialogs in prop::collection::vec((text(), 1..u32::MAX, dialog()), 1..6),
        variable in text(),
    ) {
        let mut world = World::settled(1, &[version]);
        world.kamailio(0, |now, it| it.invite(now, "shows its clock", 9));
        world.run(ms(100));
        for (call_id, h_id, record) in dialogs {
            let key = DialogKey { call_id: call_id.into_vec().into(), h_id };
            let lasts = Duration::from_secs(1_000);
            world.write(|now, replica| {
                replica.merge_dialog(now, key.clone(), record, lasts, Origin::Local);
            });
            world.run(ms(20));
            let value = Some(variable.clone());
            world.write(|now, replica| replica.set_variable(now, &key, &variable, value));
            world.run(ms(20));
        }
        world.kamailio(0, |now, it| it.sync(now));
        world.run(ms(2_000));
        prop_assert!(!world.said.is_empty() || world.ours.replica.dialogs().len() <= 1);
        for line in &world.kamailios[0].log {
            prop_assert!(!line.contains("no message") && !line.contains("unhandled"), "{}", line);
        }
    }

    #[test]
    fn what_is_told_of_tables_keeps_the_rules(
        version in prop_oneof![Just(V56), Just(V62)],
        writes in prop::collection::vec((any::<bool>(), text(), value(), -5..500i64), 1..12),
    ) {
        let mut world = World::settled(1, &[version]);
        world.kamailio(0, |now, it| it.set(now, SHORT, "shows its clock", "v"));
        world.run(ms(100));
        for (is_short, key, value, seconds) in writes {
            let table = if is_short { SHORT } else { LONG };
            let key = EntryKey { table: table.into(), key: key.into_vec().into() };
            world.write(|now, replica| {
                replica.set(now, &key, value, Origin::Local).unwrap();
                replica.set_expire(now, &key, seconds, Origin::Local).unwrap();
            });
            world.run(ms(20));
        }
        world.kamailio(0, |now, it| it.sync(now));
        world.run(ms(2_000));
        prop_assert!(world.said.iter().any(|said| said.word().starts_with("SET ")));
        prop_assert!(world.said.iter().any(|said| said.word().starts_with("CELLS ")));
        prop_assert_eq!(&world.kamailios[0].log, &Vec::<String>::new());
    }
}
