//! A store that was restored from a backup: everybody ends with the same view, and nobody who is well
//! is dropped on the way.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::fs;

use common::{eventually, has_set, liveness, members, node, put_set, reaches, registry, session};
use control::registry::v1::DrainMemberRequest;
use control::view::Liveness;

#[tokio::test]
async fn a_restored_store_drops_nobody_and_all_agree_again() {
    let mut registry = registry("127.0.7.50").await;
    let state_dir = registry.directory.path().to_owned();
    let old = session(node("old", &registry, &state_dir)).await;
    let mut view = old.view();
    reaches(&mut view, "the old node", liveness("old", Liveness::Alive)).await;
    registry.stop().await;
    let backup = state_dir.join("backup.redb");
    fs::copy(registry.config.store_path(), &backup).unwrap();

    registry.start().await;
    let young = session(node("young", &registry, &state_dir)).await;
    let mut young_view = young.view();
    put_set(&registry, "lost", 0).await;
    reaches(&mut view, "the set that the backup lacks", has_set("lost")).await;
    reaches(
        &mut view,
        "the young node",
        liveness("young", Liveness::Alive),
    )
    .await;
    reaches(
        &mut young_view,
        "the set at the young node",
        has_set("lost"),
    )
    .await;

    registry.stop().await;
    fs::copy(&backup, registry.config.store_path()).unwrap();
    let follower = tokio::spawn(async move {
        // Every view on the way to the restored one must know both nodes.
        loop {
            view.changed().await.unwrap();
            let seen = view.borrow_and_update().clone();
            assert!(
                seen.member("old").is_some() && seen.member("young").is_some(),
                "{seen:?}"
            );
            if seen.set("lost").is_none() && liveness("young", Liveness::Alive)(&seen) {
                return view;
            }
        }
    });
    registry.start().await;
    let mut view = tokio::time::timeout(common::PATIENCE, follower)
        .await
        .unwrap()
        .unwrap();

    // Past every generation that was seen before the restore.
    for i in 0..8 {
        put_set(&registry, "new", [0, 4][i % 2]).await;
    }
    let drain = DrainMemberRequest {
        name: "members/young".into(),
        ..DrainMemberRequest::default()
    };
    members(&registry).await.drain_member(drain).await.unwrap();
    reaches(&mut view, "the new set", has_set("new")).await;
    eventually("both nodes agree with the registry", || async {
        registry.status().await.nodes_in_force == 2
    })
    .await;
    let position = registry.status().await.position.unwrap();
    for view in [old.view(), young_view] {
        let view = view.borrow().clone();
        assert_eq!(
            (view.generation, view.checksum),
            (position.generation, position.checksum)
        );
        assert_eq!(view.members.len(), 2);
    }
}
