//! What stands in storage is found again by whoever has lost everything else.

use serde_json::{Value, json};
use site_recovery::lab::stage::host::Host;
use site_recovery::replica::manifest::Manifest;
use site_recovery::units::MIB;

use super::world::{World, machine, protected_vm, until, values};

/// Cycles follow each other soon, so that a test sees some.
fn often(spec: &mut Value) {
    spec["replicationPolicy"] = json!({ "copyFrequency": "30s" });
}

async fn protected() -> (World, Host, String) {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    machine(&host, "web", &[("scsi:0:0", 128 * MIB)], 48 * MIB).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], often)).await;
    world.apply(&[protected_vm("web")]).await;
    let controller = world.stage.controller("c0").await.unwrap();
    let status = world.until_protected("web").await;
    drop(controller);
    (world, host, status.replica_id.unwrap())
}

/// Waits for a point that `before` does not have, and checks that only barriers led to it: a copy would have taken
/// sequences of its own, and a new chain.
async fn only_changes_followed(world: &World, replica: &str, before: &Manifest) {
    let after = until("another recovery point", async || {
        let manifest = world.manifest(replica).await?;
        (manifest.points.len() > before.points.len()).then_some(manifest)
    })
    .await;
    assert_eq!(after.chain, before.chain);
    assert!(after.points.starts_with(&before.points));
    let value = |manifest: &Manifest| usize::try_from(manifest.last_applied.sequence.value());
    let sequences = value(&after).unwrap() - value(before).unwrap();
    assert_eq!(sequences, after.points.len() - before.points.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_cluster_stands_back_until_told_and_then_copies_nothing_again() {
    let (mut world, _host, replica) = protected().await;
    let before = world.manifest(&replica).await.unwrap();

    world.stage.rebuild_cluster(&values()).await.unwrap();
    let _controller = world.stage.controller("c1").await.unwrap();
    world.apply(&world.site(&["hv1"], often)).await;
    world.apply(&[protected_vm("web")]).await;

    // Whether the other cluster is gone nobody can know but a human.
    let said = world
        .until_site("Stalled", |status, said| {
            status == "True" && said.starts_with("ManagedByAnotherCluster")
        })
        .await;
    let stalled = |status: &site_recovery::api::vm_status::ProtectedVMStatus| {
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        ready.is_some_and(|ready| ready.reason == "ManagedByAnotherCluster")
    };
    world.until_status("web", "stalled", stalled).await;
    assert_eq!(
        world.manifest(&replica).await.unwrap().writer,
        before.writer
    );

    let annotation = said
        .split_whitespace()
        .find(|word| word.contains("take-over-from-cluster="))
        .expect("the condition says what to do");
    let annotation = annotation.trim_matches(|c: char| !c.is_alphanumeric());
    let arguments = ["annotate", "hypervsite", super::world::SITE, annotation];
    world.stage.kubectl(&arguments, b"").await.unwrap();
    let status = world.until_protected("web").await;

    assert_eq!(status.replica_id.as_deref(), Some(replica.as_str()));
    only_changes_followed(&world, &replica, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_lost_its_folder_goes_on_with_the_changes() {
    let (world, mut host, replica) = protected().await;
    let before = world.manifest(&replica).await.unwrap();

    host.kill_agent();
    std::fs::remove_dir_all(host.agent_state()).unwrap();
    host.start_agent().unwrap();
    let _controller = world.stage.controller("c1").await.unwrap();

    only_changes_followed(&world, &replica, &before).await;
    world.until_protected("web").await;
}
