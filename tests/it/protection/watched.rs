//! How well it goes is told: in conditions, in metrics, and by one event per thing that happened.

use site_recovery::api::vm_status::{Health, ProtectedVMStatus};
use site_recovery::host::Kind;
use site_recovery::host::lab::fault::{Effect, Fault, Place};
use site_recovery::units::MIB;

use super::look::{condition, is, looks, until_metric};
use super::world::{SITE, World, blocking, machine, protected_vm, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_keeps_up_meets_its_objective_and_is_in_the_metrics_as_long_as_it_exists() {
    let (world, _host, _) = World::with_web(&[("scsi:0:0", 64 * MIB)], 8 * MIB).await;
    let controller = world.stage.controller("c0").await.unwrap();

    let met = |status: &ProtectedVMStatus| is(status, "RPOMet", ("True", "WithinTarget"));
    let status = world.until_status("web", "within its objective", met).await;
    let copied = |status: &ProtectedVMStatus| status.health == Some(Health::Normal);
    world.until_status("web", "healthy", copied).await;
    assert_eq!(condition(&status, "Critical").unwrap().0, "False");

    let of = r#"{namespace="default",name="web""#;
    until_metric(
        &controller,
        &format!("site_recovery_vm_rpo_seconds{of},by=\"upload\"}}"),
    )
    .await;
    until_metric(
        &controller,
        &format!("site_recovery_vm_rpo_seconds{of},by=\"processing\"}}"),
    )
    .await;
    until_metric(
        &controller,
        &format!("site_recovery_vm_health{of},by=\"Normal\"}} 1"),
    )
    .await;
    until_metric(
        &controller,
        &format!("site_recovery_vm_disk_pending_bytes{of},disk=\"scsi:0:0\"}}"),
    )
    .await;

    world
        .stage
        .kubectl(&["delete", "protectedvm", "web"], b"")
        .await
        .unwrap();
    let text = controller.metrics().await.unwrap();
    assert!(!text.contains(of), "a VM that is gone has metrics: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_is_one_event_of_its_site_and_none_of_its_vms() {
    let world = World::new().await;
    let controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    let vms = ["a", "b", "c"];
    for vm in vms {
        machine(&host, vm, &[("scsi:0:0", 16 * MIB)], MIB).await;
    }
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;
    world.apply(&vms.map(protected_vm)).await;
    let mut before = Vec::new();
    for vm in vms {
        let follows = |status: &ProtectedVMStatus| {
            is(status, "Replicating", ("True", "ChangesFollow"))
                && is(status, "RPOMet", ("True", "WithinTarget"))
        };
        world.until_status(vm, "followed", follows).await;
        before.push(world.until_protected(vm).await);
    }
    let warned = world.warnings().await;

    host.kill_agent();
    world
        .until_site("AgentsConnected", |status, _| status == "False")
        .await;
    let looked = looks(&controller).await;
    until("every VM to be looked at after that", async || {
        (looks(&controller).await >= looked + 6).then_some(())
    })
    .await;

    for (vm, before) in vms.into_iter().zip(before) {
        let after = world.status(vm).await;
        assert_eq!(
            after.conditions, before.conditions,
            "{vm} is said to have changed"
        );
    }
    let mut new = world.warnings().await;
    new.retain(|warning| !warned.contains(warning));
    assert_eq!(new.len(), 1, "{new:?}");
    assert_eq!(new[0].0, "HyperVSite");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_human_is_critical_at_once_and_goes_on_when_one_asks_for_it() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    let web = machine(&host, "web", &[("scsi:0:0", 64 * MIB)], 8 * MIB).await;
    let console = host.console();
    let broken = Fault {
        place: Place::Freeze,
        vm: Some(web.id.clone()),
        disk: None,
        times: 1,
        effect: Effect::Fail {
            kind: Kind::BrokenChain,
            detail: "the parent is missing".to_owned(),
        },
    };
    blocking(move || console.fault(&broken).unwrap()).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;
    world.apply(&[protected_vm("web")]).await;

    let stalled = |status: &ProtectedVMStatus| is(status, "Stalled", ("True", "BrokenDiskChain"));
    let status = world.until_status("web", "stalled", stalled).await;
    assert_eq!(status.health, Some(Health::Critical));
    assert!(
        status.health_reasons[0].starts_with("BrokenDiskChain: "),
        "{:?}",
        status.health_reasons
    );
    let retry = status.retry.unwrap();
    assert_eq!(
        (retry.step.as_deref(), retry.next_retry_time),
        (Some("Replicate"), None)
    );
    assert_eq!(world.until_warned("web", "BrokenDiskChain").await, 1);

    // Its cause has been mended; by itself it would be looked at after half an hour.
    let retry = "siterecovery.dev/retry=1";
    world.annotate("protectedvm", "web", retry).await;
    let status = world.until_protected("web").await;
    assert_eq!(status.last_handled.unwrap().retry.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_finalizer_was_taken_away_by_hand_is_forgotten_all_the_same() {
    let (world, _host, _) = World::with_web(&[("scsi:0:0", 8 * MIB)], MIB).await;
    let controller = world.stage.controller("c0").await.unwrap();
    world.until_protected("web").await;
    let of = "{namespace=\"default\",name=\"web\"";
    until_metric(
        &controller,
        &format!("site_recovery_vm_health{of},by=\"Normal\"}} 1"),
    )
    .await;

    // Given a deletion that waits for its site, and says so once
    let secret = ["delete", "secret", "storage"];
    world.stage.kubectl(&secret, b"").await.unwrap();
    world.annotate("hypervsite", SITE, "looked=at").await;
    world
        .until_site("CredentialsValid", |status, _| status == "False")
        .await;
    let before = looks(&controller).await;
    let delete = ["delete", "protectedvm", "web", "--wait=false"];
    world.stage.kubectl(&delete, b"").await.unwrap();
    until("three more looks", async || {
        (looks(&controller).await >= before + 3).then_some(())
    })
    .await;
    let events = world.events("WaitingForSite").await;
    assert_eq!(events.len(), 1);
    assert!(events[0].series.is_none(), "{:?}", events[0].series);

    // When somebody takes its finalizer away
    let patch = ["patch", "protectedvm", "web", "--type=merge", "--patch"];
    let patch = [patch.as_slice(), &[r#"{"metadata":{"finalizers":null}}"#]].concat();
    world.stage.kubectl(&patch, b"").await.unwrap();

    // Then nothing is shown of it any more.
    until("the end of its metrics", async || {
        let text = controller.metrics().await?;
        (!text.contains(of)).then_some(())
    })
    .await;
}
