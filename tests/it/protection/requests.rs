//! What people ask of a VM that is protected: a barrier now, a comparison now, a pause.

use serde_json::json;
use site_recovery::api::condition::is_true;
use site_recovery::api::vm_status::{LastHandled, ProtectedVMStatus, ReplicationState};
use site_recovery::replica::manifest::Manifest;
use site_recovery::units::MIB;

use super::world::{World, until};

fn handled(status: &ProtectedVMStatus) -> LastHandled {
    status.last_handled.clone().unwrap_or_default()
}

fn is_suspended(status: &ProtectedVMStatus) -> bool {
    status.state == Some(ReplicationState::Suspended) && is_true(&status.conditions, "Ready")
}

/// Whether a point was added. Their number says nothing: older ones of the same hour go.
fn is_newer(after: &Manifest, before: &Manifest) -> bool {
    let newest = |manifest: &Manifest| manifest.points.last().map(|point| point.sequence);
    newest(after) > newest(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_a_comparison_and_a_pause_come_when_they_are_asked_for() {
    let (world, _host, _) = World::with_web(&[("scsi:0:0", 64 * MIB)], 16 * MIB).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    let first = world.manifest(&replica).await.unwrap();

    world
        .annotate("protectedvm", "web", "siterecovery.dev/sync-now=a")
        .await;
    let done = |status: &ProtectedVMStatus| handled(status).sync_now.as_deref() == Some("a");
    world.until_status("web", "synchronized", done).await;
    let second = until("the point of the barrier", async || {
        let manifest = world.manifest(&replica).await?;
        is_newer(&manifest, &first).then_some(manifest)
    })
    .await;

    // Nothing needs a comparison, and no window has to open for what a human asks for.
    world
        .annotate("protectedvm", "web", "siterecovery.dev/resynchronize=b")
        .await;
    let done = |status: &ProtectedVMStatus| {
        let token = handled(status).resynchronize;
        token.as_deref() == Some("b") && status.resynchronization.is_none()
    };
    world.until_status("web", "compared", done).await;
    let third = until("the point after the comparison", async || {
        let manifest = world.manifest(&replica).await?;
        is_newer(&manifest, &second).then_some(manifest)
    })
    .await;
    assert!(third.points.starts_with(&first.points));
    assert_eq!(third.chain, first.chain);
    world.until_protected("web").await;

    world
        .patch("protectedvm", "web", &json!({ "suspend": true }))
        .await;
    let paused = world.until_status("web", "suspended", is_suspended).await;
    assert!(paused.health_reasons[0].contains("spec.suspend of the VM"));
    let said = world.until_ready_says("Suspended").await;
    assert!(said.contains("more than half of a disk"), "{said}");
    world
        .patch("protectedvm", "web", &json!({ "suspend": false }))
        .await;
    world.until_protected("web").await;

    world
        .patch("hypervsite", "site", &json!({ "suspend": true }))
        .await;
    let paused = world.until_status("web", "suspended", is_suspended).await;
    assert!(paused.health_reasons[0].contains("of its HyperVSite"));
    world
        .patch("hypervsite", "site", &json!({ "suspend": false }))
        .await;
    world.until_protected("web").await;

    // Work on its host holds it as well, and alarms nobody.
    let hosts = |maintenance| json!({ "hosts": [{ "name": "hv1", "maintenance": maintenance }] });
    world.patch("hypervsite", "site", &hosts(true)).await;
    let held = world.until_status("web", "held", is_suspended).await;
    assert_eq!(held.health_reasons, Vec::<String>::new());
    world.patch("hypervsite", "site", &hosts(false)).await;
    world.until_protected("web").await;
}
