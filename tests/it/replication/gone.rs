//! What an engine or a data path believes is there, and is not any more.

use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Condition, DeleteSnapshots};
use site_recovery::engine::demand;
use site_recovery::ids::{ChainId, random};
use site_recovery::replica::names;
use site_recovery::replica::seal::Kind;
use site_recovery::report::{Code, Fault};

use super::hand::{Hand, SIZE};
use super::world::World;

const MIB: usize = 1 << 20;

async fn remove(world: &World, name: &str) {
    let blob = BlobRef::head(name);
    let replica = &world.cloud.replica;
    let deleted = replica.delete(&blob, &Condition::Always, DeleteSnapshots::Include);
    assert!(deleted.await.unwrap());
}

/// A replica with a point.
async fn with_a_point() -> World {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut hand = Hand::new(&world).await;
    hand.write(Kind::Delta, true, &[(0, vec![1; 4096])]).await;
    world.apply_all(&mut world.worker()).await;
    world
}

#[tokio::test]
async fn a_disk_that_was_written_to_and_is_gone_is_not_begun_from_nothing() {
    let world = with_a_point().await;
    let mut hand = Hand::new(&world).await;
    hand.follow().await;
    remove(&world, &names::disk(&hand.disk())).await;
    // When a delta is to be applied to what is not there
    hand.write(Kind::Delta, true, &[(8192, vec![2; 4096])])
        .await;
    for _ in 0..2 {
        let refused = world.worker().step().await.unwrap_err();
        assert_eq!(refused.code(), Code::ReplicaDamaged);
    }
    // Then no recovery point says that all else is zero, nor does one after a new chain.
    let chain = world.manifest().await.chain;
    let mut worker = world.worker();
    worker.retire(Some(chain.clone()));
    worker.step().await.unwrap_err();
    assert_eq!(world.manifest().await.points.len(), 1);
}

#[tokio::test]
async fn a_manifest_that_is_gone_is_not_made_anew_over_its_disks() {
    let world = with_a_point().await;
    remove(&world, names::MANIFEST).await;
    let chain = ChainId::from_random(random());
    let refused = world.cloud.create(chain).await.unwrap_err();
    assert_eq!(refused.code(), Code::ReplicaDamaged);
    assert!(world.cloud.load().await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_demanded_of_a_disk_that_is_replicated_no_longer_is_over() {
    let world = World::new(&[MIB, MIB]).await;
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    drop(engine);
    // Given a comparison that waits for leave, of a disk that is then excluded
    let excluded = world.disks.keys().next_back().unwrap().clone();
    let mut engine = world
        .start_as(|options| {
            let lost = Fault::new(Code::TrackingLost, "a crash");
            demand::add(&options.folder, [excluded.clone()], lost).unwrap();
            options.disks.remove(&excluded);
        })
        .await;
    // When the other goes on
    world.model.write(0, 0, &[1; 4096]);
    engine.synchronize().await;
    // Then nobody is told that something has to be compared.
    assert_eq!(engine.observed.borrow().demand, None);
}

#[tokio::test]
async fn changes_that_are_counted_from_before_a_new_chain_are_not_brought_to_it() {
    let world = World::new(&[MIB]).await;
    world.model.write(0, 0, &[1; MIB]);
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    // Given an engine that has not heard of a new chain
    worker.retire(Some(world.manifest().await.chain));
    world.apply_all(&mut worker).await;
    // When it takes a barrier
    world.model.write(0, 0, &[2; 4096]);
    engine.synchronize.notify_one();
    engine.wait_for_trouble().await;
    // Then it stands back without any fault of its own, and goes on in the new one.
    let trouble = engine.observed.borrow().trouble.clone().unwrap();
    assert_eq!(trouble.fault.code, Code::Fenced);
    engine.retry.notify_one();
    engine
        .wait_until(|seen| seen.trouble.is_none() && seen.cycles.completed > 1)
        .await;
    world.apply_all(&mut worker).await;
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_machine_is_not_frozen_over_and_over_for_points_that_vanish() {
    let world = World::new(&[MIB]).await;
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    drop(engine);
    // Given another product that takes our points away as they come
    let model = world.model.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thief = std::thread::spawn(move || {
        while stopped.try_recv().is_err() {
            model.lose_points();
            std::thread::yield_now();
        }
    });
    // When a barrier is taken again and again
    let mut engine = world.start().await;
    engine.wait_for_trouble().await;
    // Then that is said, and waited for.
    let trouble = engine.observed.borrow().trouble.clone().unwrap();
    assert_eq!(trouble.fault.code, Code::HostIo);
    assert!(trouble.next_attempt.is_some());
    stop.send(()).unwrap();
    thief.join().unwrap();
}
