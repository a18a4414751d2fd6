//! A VM that is renamed, gone, back, or imported anew: what is known of it is kept, and what only a human knows is asked.

use serde_json::json;
use site_recovery::host::lab::spec::Arrival;
use site_recovery::units::MIB;

use super::hands::{hand_over, relocate, write};
use super::world::{World, blocking, machine, protected_vm, until};

const DATA: u64 = 16 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_imported_anew_is_compared_once_somebody_says_that_it_is_the_same() {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    let old = machine(&host, "web", &[("scsi:0:0", 32 * MIB)], DATA).await;
    host.start_agent().unwrap();
    let by_hand = |spec: &mut serde_json::Value| {
        spec["resynchronization"] = json!({ "automatic": false });
    };
    world.apply(&world.site(&["hv1"], by_hand)).await;
    world.apply(&[protected_vm("web")]).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    world.until_changes_follow("hv1").await;
    let before = world.manifest(&replica).await.unwrap();

    // Given a copy of it under a new id, which has changed
    let copy = Arrival {
        id: Some("5c1a0f34-6f1e-4c83-9a53-0d1f7be0a111".parse().unwrap()),
        ..Arrival::default()
    };
    let new = relocate(&world, (&host, &host), &old, copy).await;
    write(&host, "web/scsi:0:0", (3, 4), 9).await;
    let said = world.until_ready_says("VMReplaced").await;
    assert_eq!(world.record().await.vm, old.id);

    // When somebody does as the condition says, after having said it of another VM
    let annotation = said
        .split_whitespace()
        .find(|word| word.starts_with("siterecovery.dev/rebind="))
        .expect("the condition says what to do");
    let annotation = annotation.trim_end_matches(':');
    let other = annotation.replace(new.id.as_str(), "5c1a0f34-6f1e-4c83-9a53-0d1f7be0a222");
    world.annotate("protectedvm", "web", &other).await;
    world.annotate("protectedvm", "web", annotation).await;

    // Then the replica goes on with it at once, and what differs is sent, no more.
    let bound = until("the new id in the record", async || {
        let record = world.record().await;
        (record.vm == new.id).then_some(record)
    })
    .await;
    assert_eq!(bound.former_vms, [old.id]);
    let status = world.until_changes_follow("hv1").await;
    assert_eq!(status.replica_id.as_deref(), Some(replica.as_str()));
    world.synchronize("rebound").await;
    let after = world
        .until_point_is_source(&host, "web", &["scsi:0:0"])
        .await;
    assert_ne!(after.chain, before.chain);
    assert!(after.disks.keys().eq(before.disks.keys()));
    let parts = after.disks.values().flat_map(|disk| &disk.tables);
    let told = parts.filter(|part| part.from > before.last_applied.sequence);
    // A hash of each chunk of 64 KiB.
    let told: u64 = told.map(|part| part.length).sum();
    assert!(
        told < DATA / (64 << 10) * 32 / 2,
        "{told} bytes of tables: it was copied"
    );
    let status = world.until_protected("web").await;
    assert_eq!(status.vm_id.as_deref(), Some(new.id.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_keeps_its_replica_when_it_is_renamed_and_when_it_is_gone_for_a_while() {
    let (world, host, web) = World::with_web(&[("scsi:0:0", 16 * MIB)], MIB).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    world.until_changes_follow("hv1").await;

    let renamed = Arrival {
        name: Some("shop".to_owned()),
        ..Arrival::default()
    };
    let shop = relocate(&world, (&host, &host), &web, renamed).await;
    write(&host, "shop/scsi:0:0", (1, 2), 1).await;
    until("the new name", async || {
        let machine = world.fence(&replica).await.machine;
        (machine.name == "shop" && machine.vm == web.id).then_some(())
    })
    .await;
    // The policy changes, and the engine goes on by the new one.
    let often = json!({ "replicationPolicy": { "copyFrequency": "30s" } });
    world.patch("protectedvm", "web", &often).await;
    world
        .until_point_is_source(&host, "shop", &["scsi:0:0"])
        .await;

    // Gone: nobody waits for it silently, and the replica stays.
    let away = hand_over(&world, &host, &shop).await;
    let said = world.until_ready_says("VmNotFound").await;
    assert!(said.contains("no host of the site reports this VM"));
    let left = world.manifest(&replica).await.unwrap();
    assert!(!left.points.is_empty());

    // Back: it goes on with what it has changed.
    let console = host.console();
    blocking(move || console.take_in(away, &Arrival::default()).unwrap()).await;
    write(&host, "shop/scsi:0:0", (3, 4), 2).await;
    world.until_changes_follow("hv1").await;
    let after = world
        .until_point_is_source(&host, "shop", &["scsi:0:0"])
        .await;
    assert_eq!(after.chain, left.chain);
    world.until_protected("web").await;
}
