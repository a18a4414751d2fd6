//! Which recovery points go, and that none goes which a run needs, whoever dies in between.

use std::time::Duration;

use jiff::Timestamp;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure};
use site_recovery::blob::parameters::{Include, PutOptions};
use site_recovery::blob::walk;
use site_recovery::datapath::prune;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::ids::RecoveryPointId;
use site_recovery::replica::names;
use site_recovery::replica::retention::{Retention, Tier};
use site_recovery::replica::seal::Kind;

use super::hand::{Hand, SIZE};
use super::refused::{faulty, rule};
use super::world::World;

/// One point of all that a test can make stays, beside the newest.
fn few() -> Retention {
    let ages = Duration::from_secs(100_000 * 86_400);
    Retention {
        tiers: vec![Tier {
            every: ages,
            keep: ages,
        }],
    }
}

/// A replica with so many points, each of another content.
async fn with_points(count: u8) -> World {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut hand = Hand::new(&world).await;
    for byte in 1..=count {
        hand.write(Kind::Delta, true, &[(0, vec![byte; 4096])])
            .await;
    }
    world.apply_all(&mut world.worker()).await;
    assert_eq!(sequences(&world).await.len(), usize::from(count));
    world
}

async fn sequences(world: &World) -> Vec<u64> {
    let points = world.manifest().await.points;
    points.iter().map(|point| point.sequence.value()).collect()
}

async fn snapshots(world: &World) -> usize {
    let include = Include {
        snapshots: true,
        metadata: false,
    };
    let listed = walk::blobs(world.cloud.replica.as_ref(), "disks/", include, 1000).await;
    let items = listed.unwrap().items;
    items.iter().filter(|blob| blob.snapshot.is_some()).count()
}

/// Every point holds what was sealed for it.
async fn assert_points_are_whole(world: &World) {
    let disk = world.disks.keys().next().unwrap();
    for point in &world.manifest().await.points {
        let byte = u8::try_from(point.sequence.value()).unwrap();
        assert!(world.read_point(point, disk).await[..4096] == vec![byte; 4096]);
    }
}

async fn pin(world: &World, pinned: Vec<RecoveryPointId>) {
    world.change_fence(|fence| fence.pinned = pinned).await;
}

fn keeping(mut worker: Worker) -> Worker {
    worker.keep(few());
    worker
}

#[tokio::test]
async fn a_clock_that_is_behind_keeps_no_point_for_ever() {
    let world = with_points(3).await;
    let manifest = world.manifest().await;
    let behind = Timestamp::UNIX_EPOCH;
    assert_eq!(prune::due(&manifest, &few(), behind), 1);
}

#[tokio::test]
async fn points_go_with_nothing_to_apply_and_their_tables_fold() {
    let world = with_points(40).await;
    let parts = async || {
        world
            .manifest()
            .await
            .disks
            .values()
            .next()
            .unwrap()
            .tables
            .len()
    };
    assert_eq!(parts().await, 40);
    let mut worker = keeping(world.worker());
    // A batch at a time.
    assert_eq!(worker.step().await.unwrap(), Step::Applied);
    assert_eq!(sequences(&world).await.len(), 24);
    world.apply_all(&mut worker).await;
    assert_eq!(sequences(&world).await, [1, 40]);
    assert_eq!(snapshots(&world).await, 2);
    assert_points_are_whole(&world).await;
    assert!(parts().await < 16, "{} parts", parts().await);
}

#[tokio::test]
async fn a_pinned_point_stays_until_it_is_pinned_no_more() {
    let world = with_points(4).await;
    let second = world.manifest().await.points[1].id.clone();
    pin(&world, vec![second]).await;
    let mut worker = keeping(world.worker());
    world.apply_all(&mut worker).await;
    assert_eq!(sequences(&world).await, [1, 2, 4]);
    pin(&world, Vec::new()).await;
    world.apply_all(&mut worker).await;
    assert_eq!(sequences(&world).await, [1, 4]);
    assert_eq!(snapshots(&world).await, 2);
}

#[tokio::test]
async fn a_point_that_is_pinned_while_it_goes_comes_back() {
    let world = with_points(4).await;
    let second = world.manifest().await.points[1].id.clone();
    // Given a data path that has dropped points, and not looked again for pins
    let gate = Gate::closed();
    let dropped = rule(
        Operation::PutBlob,
        "*/replica.json",
        Calls::Nth(2),
        Effect::HoldReply(gate.clone()),
    );
    let mut worker = keeping(faulty(&world, vec![dropped]).0);
    let run = async {
        gate.arrived(1).await;
        assert_eq!(sequences(&world).await, [1, 4]);
        // When a run pins one of them
        pin(&world, vec![second]).await;
        gate.open();
    };
    let (step, ()) = tokio::join!(worker.step(), run);
    step.unwrap();
    // Then it is there, and whole.
    assert_eq!(sequences(&world).await, [1, 2, 4]);
    assert_eq!(snapshots(&world).await, 3);
    assert_points_are_whole(&world).await;
}

#[tokio::test]
async fn what_a_data_path_drops_and_dies_is_collected_but_not_while_it_is_pinned() {
    let world = with_points(5).await;
    let points = world.manifest().await.points;
    // Given a data path that dropped three points and died before it deleted anything
    let dies = Effect::Fail(Failure::Unreachable);
    let dies = rule(Operation::DeleteBlob, "*/disks/*", Calls::All, dies);
    keeping(faulty(&world, vec![dies]).0)
        .step()
        .await
        .unwrap_err();
    assert_eq!(
        (sequences(&world).await, snapshots(&world).await),
        (vec![1, 5], 5)
    );
    // And a run that pinned one of them
    pin(&world, vec![points[2].id.clone()]).await;
    // When the next data path applies something, and collects
    let mut hand = Hand::new(&world).await;
    hand.follow().await;
    hand.write(Kind::Delta, true, &[(0, vec![6; 4096])]).await;
    world.apply_all(&mut world.worker()).await;
    assert_eq!(sequences(&world).await, [1, 5, 6]);
    // Then what is pinned is there still.
    assert_eq!(snapshots(&world).await, 4);
    let kept = world
        .read_point(&points[2], points[2].disks.keys().next().unwrap())
        .await;
    assert!(kept[..4096] == vec![3; 4096]);
    assert_points_are_whole(&world).await;
}

#[tokio::test]
async fn nothing_goes_while_the_fence_cannot_be_read() {
    let world = with_points(4).await;
    let put = PutOptions::default();
    let torn = world.cloud.replica.put(names::FENCE, "{".into(), &put);
    torn.await.unwrap();
    keeping(world.worker()).step().await.unwrap_err();
    assert_eq!(
        (sequences(&world).await.len(), snapshots(&world).await),
        (4, 4)
    );
}
