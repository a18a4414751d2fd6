//! What stands in storage is found again by whoever has lost everything else.

use std::time::Duration;

use bytes::Bytes;
use site_recovery::api::vm_status::{ProtectedVMStatus, ReplicationState};
use site_recovery::blob::names::{BlobRef, SnapshotId};
use site_recovery::blob::parameters::PutOptions;
use site_recovery::controller::documents;
use site_recovery::ids::ObjectName;
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::{Address, Client};
use site_recovery::lab::stage::Replica;
use site_recovery::lab::stage::host::Host;
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::names::{self, Prefix};
use site_recovery::replica::owner::Owner;
use site_recovery::replica::record::Record;
use site_recovery::units::{ByteRange, Generation, MIB, to_usize};

use super::world::{NAMESPACE, SITE, World, blocking, machine, protected_vm, until, values};

async fn protected() -> (World, Host, Replica, String) {
    let (world, host, _) = World::with_web(&[("scsi:0:0", 128 * MIB)], 48 * MIB).await;
    let controller = world.stage.controller("c0").await.unwrap();
    let status = world.until_protected("web").await;
    (world, host, controller, status.replica_id.unwrap())
}

/// Waits until the agent takes barriers again.
async fn until_changes_follow(world: &World) {
    let follow = |status: &ProtectedVMStatus| {
        let mut conditions = status.conditions.iter();
        let replicating = conditions.find(|condition| condition.type_ == "Replicating");
        replicating.is_some_and(|replicating| replicating.reason == "ChangesFollow")
    };
    world
        .until_status("web", "followed by its changes", follow)
        .await;
}

/// Checks that nothing but barriers followed: a copy would have taken sequences without a point.
fn assert_only_changes_followed(after: &Manifest, before: &Manifest) {
    assert_eq!(after.chain, before.chain);
    assert!(after.points.starts_with(&before.points));
    let value = |manifest: &Manifest| usize::try_from(manifest.last_applied.sequence.value());
    let sequences = value(after).unwrap() - value(before).unwrap();
    assert_eq!(sequences, after.points.len() - before.points.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_cluster_stands_back_until_told_and_then_copies_nothing_again() {
    let (mut world, _host, lost, replica) = protected().await;
    drop(lost);
    let before = world.manifest(&replica).await.unwrap();

    world.stage.rebuild_cluster(&values()).await.unwrap();
    let _controller = world.stage.controller("c1").await.unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;
    world.apply(&[protected_vm("web")]).await;

    // Whether the other cluster is gone nobody can know but a human.
    let said = world
        .until_site("Stalled", |status, said| {
            status == "True" && said.starts_with("ManagedByAnotherCluster")
        })
        .await;
    let stalled = |status: &ProtectedVMStatus| {
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
    until_changes_follow(&world).await;
    let after = world.manifest(&replica).await.unwrap();
    assert_only_changes_followed(&after, &before);
    // Late commands of the lost cluster are refused.
    let fence = world.fence(&replica).await;
    assert_eq!((fence.term, fence.generation), (1, Generation::new(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_died_before_the_fences_is_completed() {
    let (world, _host, mut controller, replica) = protected().await;
    assert_eq!(world.fence(&replica).await.generation, Generation::new(1));
    controller.process.kill();
    // As it stands when the process dies right after it has written that the site is taken over.
    let name = ObjectName::new(NAMESPACE, SITE).unwrap();
    let prefix: Prefix = "sr".parse().unwrap();
    let container = world.account().container(&prefix.site(&name));
    let held = documents::load::<Owner>(container.as_ref(), names::OWNER).await;
    let held = held.unwrap().unwrap();
    let taken = Owner {
        term: held.value.term + 1,
        ..held.value.clone()
    };
    let written = documents::replace(container.as_ref(), names::OWNER, &held, taken).await;
    written.unwrap();

    let _controller = world.stage.controller("c1").await.unwrap();
    let fence = until("the fence of the new term", async || {
        let fence = world.fence(&replica).await;
        (fence.term == 1).then_some(fence)
    })
    .await;

    assert_eq!(fence.generation, Generation::new(2));
    until_changes_follow(&world).await;
    world.until_protected("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_cannot_be_understood_is_said_and_holds_up_no_deletion() {
    let (world, _host, mut controller, replica) = protected().await;
    controller.process.kill();
    let container = world.account().container(&format!("sr-r-{replica}"));
    let blob = BlobRef::head(names::FENCE);
    let got = container.get(&blob, None, MIB).await.unwrap();
    let garbage = Bytes::from_static(b"{ torn");
    let options = PutOptions::replace(got.etag);
    let put = container.put(names::FENCE, garbage.clone(), &options).await;
    put.unwrap();

    let _controller = world.stage.controller("c1").await.unwrap();
    let damaged = |status: &ProtectedVMStatus| {
        let mut stalled = status.conditions.iter();
        stalled.any(|c| c.type_ == "Stalled" && c.reason == "ReplicaDamaged")
    };
    let status = world.until_status("web", "damaged", damaged).await;
    assert_eq!(status.state, Some(ReplicationState::Protected));
    let retry = status.retry.unwrap();
    assert!(retry.last_error.message.contains("fence.json"));

    let delete = ["delete", "protectedvm", "web"];
    world.stage.kubectl(&delete, b"").await.unwrap();
    let left = container.get(&blob, None, MIB).await.unwrap();
    assert_eq!(left.bytes, garbage);
    assert!(world.manifest(&replica).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_lost_its_folder_goes_on_with_the_changes() {
    let (world, mut host, _controller, replica) = protected().await;
    let before = world.manifest(&replica).await.unwrap();

    host.kill_agent();
    std::fs::remove_dir_all(host.agent_state()).unwrap();
    let address = Address::Tcp(host.nbd());
    let changed = ByteRange::new(MIB, 2 * MIB).unwrap();
    blocking(move || guest::fill(&address, "web/scsi:0:0", changed, 7).unwrap()).await;
    host.start_agent().unwrap();

    // It asks the hypervisor by a barrier whether its changes were counted all the time.
    let after = until("the point that follows a restart", async || {
        let manifest = world.manifest(&replica).await?;
        (manifest.points.len() > before.points.len()).then_some(manifest)
    })
    .await;
    assert_only_changes_followed(&after, &before);
    until_changes_follow(&world).await;
    world.until_protected("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_retained_is_compared_before_it_is_believed_again() {
    let (world, host, _controller, replica) = protected().await;
    let before = world.manifest(&replica).await.unwrap();
    let delete = ["delete", "protectedvm", "web"];
    world.stage.kubectl(&delete, b"").await.unwrap();
    // Nobody counts these changes.
    let address = Address::Tcp(host.nbd());
    let changed = ByteRange::new(8 * MIB, 12 * MIB).unwrap();
    blocking(move || guest::fill(&address, "web/scsi:0:0", changed, 99).unwrap()).await;

    world.apply(&[protected_vm("web")]).await;
    let after = until("the point that follows", async || {
        let manifest = world.manifest(&replica).await?;
        (manifest.points.len() > before.points.len()).then_some(manifest)
    })
    .await;

    let status = world.until_protected("web").await;
    assert_eq!(status.replica_id.as_deref(), Some(replica.as_str()));
    assert!(after.points.starts_with(&before.points));
    // What is in the new point is what the guest has: the changes were found by comparison.
    let (disk, point) = after.points.last().unwrap().disks.iter().next().unwrap();
    let container = world.account().container(&format!("sr-r-{replica}"));
    let snapshot: SnapshotId = point.snapshot.parse().unwrap();
    let blob = BlobRef::at(names::disk(disk), snapshot);
    let got = container.get(&blob, Some(changed), changed.len()).await;
    let got = got.unwrap().bytes;
    let address = Address::Tcp(host.nbd());
    let found = blocking(move || {
        let mut client =
            Client::connect(&address, "web/scsi:0:0", Duration::from_secs(60)).unwrap();
        let mut bytes = vec![0; to_usize(changed.len())];
        client.read(changed.start(), &mut bytes).unwrap();
        bytes
    })
    .await;
    assert!(got == found, "the point lacks what was written meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_cluster_wrote_in_its_reign_is_known_to_the_one_that_takes_the_site_back() {
    let (world, _host, _controller, replica) = protected().await;
    let name = ObjectName::new(NAMESPACE, SITE).unwrap();
    let prefix: Prefix = "sr".parse().unwrap();
    let container = world.account().container(&prefix.site(&name));
    let blob = names::record(&ObjectName::new(NAMESPACE, "web").unwrap());

    // Given a site that was another's, which wrote into its records, before anybody has looked
    let held = documents::load::<Record>(container.as_ref(), &blob).await;
    let held = held.unwrap().unwrap();
    let changed = Record {
        vm_name: "shop".to_owned(),
        ..held.value.clone()
    };
    let written = documents::replace(container.as_ref(), &blob, &held, changed).await;
    written.unwrap();
    let held = documents::load::<Owner>(container.as_ref(), names::OWNER).await;
    let held = held.unwrap().unwrap();
    let other = Owner {
        cluster: "other".to_owned(),
        term: 7,
        ..held.value.clone()
    };
    let written = documents::replace(container.as_ref(), names::OWNER, &held, other).await;
    written.unwrap();

    // When it is taken back, and the VM's object is deleted
    let annotation = "siterecovery.dev/take-over-from-cluster=other.7";
    world.annotate("hypervsite", SITE, annotation).await;
    until("the fence of the new term", async || {
        (world.fence(&replica).await.term == 8).then_some(())
    })
    .await;
    let delete = ["delete", "protectedvm", "web"];
    world.stage.kubectl(&delete, b"").await.unwrap();

    // Then the record that was found says that the replica is retained.
    let kept = documents::load::<Record>(container.as_ref(), &blob).await;
    let kept = kept.unwrap().unwrap().value;
    assert_eq!((kept.vm_name.as_str(), kept.retained), ("shop", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_applied_anew_is_not_worked_on_with_the_account_of_the_one_before() {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    machine(&host, "web", &[("scsi:0:0", 8 * MIB)], MIB).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    world
        .until_site("Ready", |status, _| status == "True")
        .await;
    let delete = ["delete", "hypervsite", SITE];
    world.stage.kubectl(&delete, b"").await.unwrap();

    // When a site of the same name has its replicas elsewhere, where nobody answers
    let away = |spec: &mut serde_json::Value| {
        let storage = &mut spec["azure"]["storage"];
        let account = storage["account"].as_str().unwrap().to_owned();
        storage["endpoint"] = format!("http://127.0.0.1:1/{account}").into();
    };
    world.apply(&world.site(&["hv1"], away)).await;
    world.apply(&[protected_vm("web")]).await;
    world
        .until_site("AzureReachable", |status, _| status == "False")
        .await;

    // Then its VM waits for it, and nothing was written where it was before.
    let waits = |status: &ProtectedVMStatus| {
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        ready.is_some_and(|ready| ready.reason == "WaitingForSite")
    };
    world.until_status("web", "waiting", waits).await;
    let name = ObjectName::new(NAMESPACE, SITE).unwrap();
    let prefix: Prefix = "sr".parse().unwrap();
    let container = world.account().container(&prefix.site(&name));
    let blob = names::record(&ObjectName::new(NAMESPACE, "web").unwrap());
    let record = documents::load::<Record>(container.as_ref(), &blob).await;
    assert!(record.unwrap().is_none());
}
