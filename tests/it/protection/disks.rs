//! Disks that are excluded, included, added and removed while the VM is protected: each as such, without starting over.

use serde_json::json;
use site_recovery::api::vm_status::ProtectedVMStatus;
use site_recovery::host::lab::spec::{DiskContent, DiskSpec};
use site_recovery::lab::stage::Replica;
use site_recovery::lab::stage::host::Host;
use site_recovery::units::MIB;

use super::hands::{copies, while_off, write};
use super::world::{Machine, World};

const SIZE: u64 = 16 * MIB;

/// Our ids of the disks, by their places.
fn ids(status: &ProtectedVMStatus) -> Vec<(String, String)> {
    let disks = status.disks.iter();
    disks
        .map(|disk| (disk.id.clone(), disk.replica_disk_id.clone()))
        .collect()
}

/// A VM with two disks, whose changes follow.
async fn protected() -> (World, Host, Machine, Replica) {
    let (world, host, web) =
        World::with_web(&[("scsi:0:0", SIZE), ("scsi:0:1", SIZE)], 4 * MIB).await;
    let controller = world.stage.controller("c0").await.unwrap();
    world.until_protected("web").await;
    world.until_changes_follow("hv1").await;
    world.synchronize("first").await;
    (world, host, web, controller)
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_come_and_go_are_replicated_as_such_and_the_others_are_not_copied_again() {
    let (world, host, web, _controller) = protected().await;
    let both = ["scsi:0:0", "scsi:0:1"];
    let first = world.until_point_is_source(&host, "web", &both).await;
    let known = ids(&world.status("web").await);
    let copied = copies(&host).len();

    // Excluded: points from then on lack it, those of before keep it, and so does the replica.
    let exclude = |places: &[&str]| json!({ "disks": { "exclude": places } });
    world
        .patch("protectedvm", "web", &exclude(&["scsi:0:1"]))
        .await;
    write(&host, "web/scsi:0:0", (5, 6), 1).await;
    write(&host, "web/scsi:0:1", (5, 6), 2).await;
    let left = |status: &ProtectedVMStatus| status.disks.len() == 1;
    world.until_status("web", "without the disk", left).await;
    world.synchronize("excluded").await;
    let second = world.until_point_is_source(&host, "web", &both[..1]).await;
    assert!(first.disks.keys().eq(second.disks.keys()));

    // Included again: it goes on as what it was, with what it has changed.
    world.patch("protectedvm", "web", &exclude(&[])).await;
    let back = |status: &ProtectedVMStatus| ids(status) == known;
    world
        .until_status("web", "with the disk of before", back)
        .await;
    world.synchronize("included").await;
    world.until_point_is_source(&host, "web", &both).await;
    assert_eq!(copies(&host).len(), copied, "{:?}", copies(&host));

    // Added: it is copied alone, while the others keep their cursors.
    while_off(&host, &web, |console, id| {
        let added = DiskSpec {
            slot: "scsi:0:2".parse().unwrap(),
            content: DiskContent::vhdx(SIZE),
        };
        console.attach(id, &added).is_ok()
    })
    .await;
    write(&host, "web/scsi:0:2", (0, 4), 3).await;
    let three = ["scsi:0:0", "scsi:0:1", "scsi:0:2"];
    let added = |status: &ProtectedVMStatus| status.disks.len() == 3;
    let status = world.until_status("web", "with the new disk", added).await;
    assert!(ids(&status).starts_with(&known));
    world.until_changes_follow("hv1").await;
    world.synchronize("added").await;
    let fourth = world.until_point_is_source(&host, "web", &three).await;
    assert_eq!(fourth.chain, first.chain);
    let copies = copies(&host)[copied..].join("\n");
    for (_, id) in &known {
        assert!(
            copies.contains("kept") && copies.contains(id.as_str()),
            "{copies}"
        );
    }

    // Removed: points from then on lack it.
    while_off(&host, &web, |console, id| {
        console.detach(id, &"scsi:0:1".parse().unwrap()).is_ok()
    })
    .await;
    write(&host, "web/scsi:0:0", (7, 8), 4).await;
    let removed = |status: &ProtectedVMStatus| status.disks.len() == 2;
    world.until_status("web", "without the disk", removed).await;
    world.until_changes_follow("hv1").await;
    world.synchronize("removed").await;
    let last = world
        .until_point_is_source(&host, "web", &["scsi:0:0", "scsi:0:2"])
        .await;
    assert_eq!((last.chain, last.disks.len()), (first.chain, 3));
    world.until_protected("web").await;
}
