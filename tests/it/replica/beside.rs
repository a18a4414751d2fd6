//! Beside a running data path: what it removes is gone, not damaged; and a restore that is cut short leaves nothing.

use std::sync::Arc;

use jiff::Timestamp;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Rule};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Condition, DeleteSnapshots};
use site_recovery::datapath::content::{Progress, subject};
use site_recovery::datapath::inspect::Error;
use site_recovery::datapath::restore::{Target, restore};
use site_recovery::datapath::store::Store;
use site_recovery::datapath::tables;
use site_recovery::datapath::verify::report::Report;
use site_recovery::datapath::verify::{self, Options};
use site_recovery::formats::info::Format;
use site_recovery::replica::names;
use tokio::task::JoinHandle;

use super::world::{names_in, published, sealed};
use crate::replication::world::World;

/// The replica, of which the first request of this kind waits at a gate.
fn held(world: &World, operation: Operation, object: &str) -> (Store, Gate) {
    let (faults, gate) = (Faults::new(1), Gate::closed());
    faults.add(Rule {
        operations: vec![operation],
        object: object.to_owned(),
        calls: Calls::Nth(1),
        effect: Effect::Hold(gate.clone()),
    });
    let wrap = |container| Arc::new(FaultyContainer::new(container, faults.clone()));
    let store = Store {
        id: world.cloud.id.clone(),
        inbox: wrap(world.cloud.inbox.clone()),
        replica: wrap(world.cloud.replica.clone()),
    };
    (store, gate)
}

fn verifying(store: Store) -> JoinHandle<Result<Report, Error>> {
    tokio::spawn(
        async move { verify::verify(&store, &Options::default(), &Progress::default()).await },
    )
}

#[tokio::test]
async fn a_point_that_is_pruned_while_it_is_compared_is_gone() {
    // Given a verification that is about to list the pages of a point
    let world = published().await;
    let (store, gate) = held(&world, Operation::GetPageRanges, "*");
    let verifying = verifying(store);
    gate.arrived(1).await;
    // When the point is pruned: first from the manifest, then its snapshots
    let held = world.cloud.load().await.unwrap().unwrap();
    let mut manifest = held.manifest.clone();
    let point = manifest.points.pop().unwrap();
    world.cloud.save(&held, manifest).await.unwrap();
    for (disk, cut) in &point.disks {
        let blob = BlobRef::at(names::disk(disk), cut.snapshot.parse().unwrap());
        let delete = world
            .cloud
            .replica
            .delete(&blob, &Condition::Always, DeleteSnapshots::None);
        assert!(delete.await.unwrap());
    }
    gate.open();
    // Then both disks are gone, and nothing is damaged.
    let report = verifying.await.unwrap().unwrap();
    assert!(report.findings.is_sound(), "{:?}", report.findings);
    assert_eq!(report.findings.gone_count, 2, "{:?}", report.findings);
}

#[tokio::test]
async fn a_part_that_is_folded_while_it_is_read_is_gone_and_its_fold_is_compared() {
    // Given a verification that is about to read a chunk table
    let world = published().await;
    let (store, gate) = held(&world, Operation::GetBlob, "*tables*");
    let verifying = verifying(store);
    gate.arrived(1).await;
    // When all tables are folded
    for disk in world.disks.keys() {
        let held = world.cloud.load().await.unwrap().unwrap();
        let mut manifest = held.manifest.clone();
        let replica = manifest.disks.get_mut(disk).unwrap();
        let folded = tables::fold(&world.cloud, disk, replica.size, &replica.tables, 77).await;
        let old = std::mem::replace(&mut replica.tables, vec![folded.unwrap()]);
        world.cloud.save(&held, manifest).await.unwrap();
        for part in old {
            tables::remove(&world.cloud, &part).await.unwrap();
        }
    }
    gate.open();
    // Then their parts are gone, and the content is compared all the same.
    let report = verifying.await.unwrap().unwrap();
    assert!(report.findings.is_sound(), "{:?}", report.findings);
    assert!(report.findings.gone_count > 0);
    assert_eq!(report.disks.len(), 2);
    assert!(report.disks.iter().all(|disk| disk.compared.is_some()));
}

#[tokio::test]
async fn a_log_that_is_applied_while_it_is_read_is_gone() {
    // Given a verification that is about to read a log
    let (world, _engine) = sealed().await;
    let (store, gate) = held(&world, Operation::GetBlob, "*.hrl");
    let verifying = verifying(store);
    gate.arrived(1).await;
    // When all is applied
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    gate.open();
    // Then nothing is damaged.
    let report = verifying.await.unwrap().unwrap();
    assert!(report.findings.is_sound(), "{:?}", report.findings);
    assert!(report.findings.gone_count > 0);
}

#[tokio::test]
async fn a_restore_that_is_cut_short_leaves_no_file() {
    // Given a restore that waits for its first bytes
    let world = published().await;
    let (store, gate) = held(&world, Operation::GetBlob, "*disks*");
    let folder = tempfile::tempdir().unwrap();
    let target = Target {
        path: folder.path().join("disk.vhd"),
        format: Format::Vhd,
        overwrite: false,
        created: Timestamp::UNIX_EPOCH,
    };
    let point = world.manifest().await.points[0].id.clone();
    let disk = world.disks.keys().next().unwrap().clone();
    let restoring = tokio::spawn(async move {
        let (subject, table) = subject(&store, &point, &disk).await.unwrap();
        restore(&store, &subject, Some(table), &target, &Progress::default()).await
    });
    gate.arrived(1).await;
    assert!(names_in(folder.path())[0].starts_with("disk.vhd.tmp-"));
    // When it is cut short
    restoring.abort();
    assert!(restoring.await.unwrap_err().is_cancelled());
    // Then nothing is left.
    assert!(names_in(folder.path()).is_empty());
}
