//! Whatever is killed in mid-copy, the copy goes on from where it was, and the recovery point is right.

use rustix::process::Signal;
use serde_json::json;
use site_recovery::units::MIB;

use super::world::{World, machine, protected_vm, until};

/// Slow enough that a copy can be met in its middle.
const SLOW: &str = "48Mbit";
const DATA: u64 = 64 * MIB;

fn slowly(spec: &mut serde_json::Value) {
    spec["bandwidth"] = json!({ "perHost": SLOW });
}

/// Waits until a part of the first copy has been applied, and the rest not been sent.
async fn until_mid_copy(world: &World, vm: &str) {
    let status = world.until_status(vm, "recorded", |status| status.replica_id.is_some());
    let replica = status.await.replica_id.unwrap();
    let applied = until("the first part of the copy", async || {
        let manifest = world.manifest(&replica).await?;
        (manifest.last_applied.sequence.value() > 0).then_some(manifest)
    });
    assert_eq!(applied.await.points, [], "the copy is over");
}

/// Seals in an inbox listing.
fn seals(inbox: &[(String, u64)]) -> usize {
    let seals = inbox
        .iter()
        .filter(|(name, _)| name.ends_with("sealed.json"));
    seals.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_again_and_again_sends_little_twice() {
    let world = World::new().await;
    let mut controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    let web = machine(&host, "web", &[("scsi:0:0", 256 * MIB)], DATA).await;
    let observing = world.witness(&host, &web).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], slowly)).await;
    world.apply(&[protected_vm("web")]).await;
    let status = world.until_status("web", "being copied", |status| {
        status.replica_id.is_some() && status.disks.iter().any(|disk| disk.copy.is_some())
    });
    let replica = status.await.replica_id.unwrap();

    // Nobody applies and drops logs any more: all that is sent stays in the inbox, where it can be counted.
    controller.process.kill();
    for kill in 1..=3 {
        until("another seal", async || {
            (seals(&world.inbox(&replica).await) >= kill).then_some(())
        })
        .await;
        host.kill_agent();
        host.start_agent().unwrap();
    }
    let (sent, sealed) = until("the first barrier in the inbox", async || {
        sent_and_sealed(&world, &replica).await
    })
    .await;
    let _controller = world.stage.controller("c1").await.unwrap();
    let status = world.until_protected("web").await;

    world.judge(observing, &status).await;
    // What a kill may cost: the logs of one seal, at most four of about 4 MiB each.
    let again = sent - sealed;
    assert!(
        again <= 3 * 16 * MIB,
        "{again} bytes of {sent} were sent twice"
    );
    // A copy that began anew would have sealed everything twice.
    assert!(
        sealed < DATA * 5 / 4,
        "{sealed} bytes were sealed for {DATA}"
    );
    println!("three kills: {sent} bytes were sent, of which no seal names {again}");
}

/// Bytes of all logs in an inbox, and of those that a seal names; nothing before the first barrier is sealed.
async fn sent_and_sealed(world: &World, replica: &str) -> Option<(u64, u64)> {
    let inbox = world.inbox(replica).await;
    let logs = inbox.iter().filter(|(name, _)| name.ends_with(".hrl"));
    let sent = logs.map(|(_, length)| length).sum();
    let (mut sealed, mut barrier) = (0, false);
    for seal in world.seals(replica, &inbox).await {
        let logs = seal.disks.iter().flat_map(|disk| &disk.logs);
        sealed += logs.map(|log| log.stored).sum::<u64>();
        barrier |= seal.barrier.is_some();
    }
    barrier.then_some((sent, sealed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_takes_over_in_mid_copy() {
    let world = World::new().await;
    let mut leader = world.stage.controller("c0").await.unwrap();
    leader.wait_ready().await.unwrap();
    let mut standby = world.stage.controller("c1").await.unwrap();
    standby.wait_ready().await.unwrap();
    let mut host = world.host("hv1").await;
    let disks = [("ide:0:0", 256 * MIB), ("ide:0:1", 64 * MIB)];
    let old = machine(&host, "legacy", &disks, 32 * MIB).await;
    let observing = world.witness(&host, &old).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], slowly)).await;
    world.apply(&[protected_vm("legacy")]).await;
    until_mid_copy(&world, "legacy").await;

    leader.process.kill();
    let status = world.until_protected("legacy").await;

    assert_eq!(standby.process.ended().unwrap(), None);
    world.judge(observing, &status).await;
    // Who is asked to end gives the lead away: a third need not wait for the lease to run out.
    let mut third = world.stage.controller("c2").await.unwrap();
    third.wait_ready().await.unwrap();
    standby.process.signal(Signal::TERM).unwrap();
    until("the lead of the third", async || {
        let metrics = third.metrics().await?;
        metrics.contains("site_recovery_leader 1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_dies_in_mid_copy_costs_a_retry() {
    let mut world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    let web = machine(&host, "web", &[("scsi:0:0", 256 * MIB)], 64 * MIB).await;
    let observing = world.witness(&host, &web).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], slowly)).await;
    world.apply(&[protected_vm("web")]).await;
    until_mid_copy(&world, "web").await;

    world.stage.azurite.crash().await.unwrap();
    world.stage.azurite.restart().await.unwrap();
    let status = world.until_protected("web").await;

    world.judge(observing, &status).await;
}
