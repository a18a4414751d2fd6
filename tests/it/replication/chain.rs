//! A new chain: what of the old one counts, and what the host sends again.

use std::sync::Arc;

use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Condition, DeleteSnapshots};
use site_recovery::datapath::runner::{DataPath, Duties, Role};
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::ids::ChainId;
use site_recovery::replica::names::{self, InboxBlob};
use site_recovery::replica::seal::Kind;
use site_recovery::units::{Sequence, SystemClock};

use super::hand::{Hand, SIZE, applied, names_in_the_inbox};
use super::refused::{faulty, rule};
use super::world::{PATIENCE, World};

const MIB: usize = 1 << 20;

async fn remove(world: &World, name: &str) {
    let blob = BlobRef::head(name);
    let deleted = world
        .cloud
        .inbox
        .delete(&blob, &Condition::Always, DeleteSnapshots::None);
    assert!(deleted.await.unwrap());
}

/// Steps until there is nothing to do, with errors that may pass.
async fn until_idle(worker: &mut Worker) {
    for _ in 0..20 {
        if let Ok(Step::Idle) = worker.step().await {
            return;
        }
    }
    panic!("it does not come to an end");
}

/// A VM that was copied, without an engine at work.
async fn protected() -> World {
    let world = World::new(&[4 * MIB]).await;
    world.model.write(0, MIB, &[1; MIB]);
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world
}

#[tokio::test]
async fn a_sealed_but_unapplied_log_around_a_resync_is_neither_lost_nor_applied() {
    let world = protected().await;
    // Given two barriers that are sealed, the first of them lost
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    let before = applied(&world).await;
    world.model.write(0, 0, &[2; 4096]);
    engine.synchronize().await;
    world.model.write(0, 3 * MIB, &[3; 4096]);
    engine.synchronize().await;
    drop(engine);
    remove(&world, &names::seal(Sequence::new(before + 1))).await;
    let mut worker = world.worker();
    let gap = worker.step().await.unwrap_err();
    assert_eq!(gap.refused(), Some(Sequence::new(before + 2)));
    let old = world.manifest().await;
    // When a new chain is asked for
    worker.retire(Some(old.chain.clone()));
    world.apply_all(&mut worker).await;
    // Then it begins behind all that the inbox had, which is empty,
    let new = world.manifest().await;
    assert_ne!(new.chain, old.chain);
    assert_eq!(new.last_applied.sequence.value(), before + 2);
    assert_eq!(
        (new.last_applied.seal, new.last_applied.cursors.len()),
        (None, 0)
    );
    assert_eq!(new.points, old.points);
    assert!(new.is_resyncing());
    assert_eq!(names_in_the_inbox(&world).await, [""; 0]);
    // and the host sends what differs, no more.
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut worker).await;
    assert!(engine.sent() < 300_000, "{} bytes", engine.sent());
    world.assert_point_is_what_was_frozen().await;
    world.assert_all_points_are_what_was_frozen().await;
    assert!(!world.manifest().await.is_resyncing());
}

#[tokio::test]
async fn what_a_cycle_may_have_written_that_never_ended_is_sent_again() {
    for sealed in [true, false] {
        // Given a delta that is in the disk and was not published, and is lost then: its log, or its seal
        let world = protected().await;
        let mut engine = world.start().await;
        engine.wait_until_replicating().await;
        world.apply_all(&mut world.worker()).await;
        world.model.write(0, MIB, &[2; MIB]);
        engine.synchronize().await;
        drop(engine);
        let publish = Effect::Fail(Failure::Unreachable);
        let dies = rule(
            Operation::PutBlob,
            "*/replica.json",
            Calls::From(3),
            publish,
        );
        faulty(&world, vec![dies]).0.step().await.unwrap_err();
        for name in names_in_the_inbox(&world).await {
            match names::inbox_blob(&name) {
                InboxBlob::Log(..) if sealed => remove(&world, &name).await,
                InboxBlob::Seal(_) if !sealed => remove(&world, &name).await,
                _ => {}
            }
        }
        // And a guest that has written again what was there before
        world.model.write(0, MIB, &[1; MIB]);
        // When the chain is retired, by workers that die at every write of theirs
        let chain = world.manifest().await.chain;
        for nth in 1..=4 {
            for effect in [
                Effect::Fail(Failure::Interrupted),
                Effect::FailAfter(Failure::Interrupted),
            ] {
                let dies = rule(Operation::PutBlob, "*-r-*", Calls::Nth(nth), effect);
                let (mut worker, _) = faulty(&world, vec![dies]);
                worker.retire(Some(chain.clone()));
                let _ = worker.step().await;
            }
        }
        let mut worker = world.worker();
        worker.retire(Some(chain.clone()));
        until_idle(&mut worker).await;
        assert_ne!(world.manifest().await.chain, chain);
        // Then the comparison does not believe the table, which knows nothing of that.
        let mut engine = world.start().await;
        engine.wait_until_replicating().await;
        world.apply_all(&mut worker).await;
        world.assert_point_is_what_was_frozen().await;
        world.assert_all_points_are_what_was_frozen().await;
    }
}

#[tokio::test]
async fn a_late_seal_of_a_retired_chain_is_garbage() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut old = Hand::new(&world).await;
    old.write(Kind::Delta, true, &[(0, vec![1; 4096])]).await;
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    worker.retire(Some(old.chain.clone()));
    world.apply_all(&mut worker).await;
    let renewed = world.manifest().await;
    assert_ne!(renewed.chain, old.chain);
    // Given a seal that was on its way
    old.write(Kind::Delta, true, &[(0, vec![2; 4096])]).await;
    world.apply_all(&mut worker).await;
    assert_eq!(world.manifest().await.last_applied, renewed.last_applied);
    // When the new chain goes on behind it
    let mut new = Hand::new(&world).await;
    new.follow().await;
    new.next = old.next;
    new.write(Kind::Copy, false, &[(4096, vec![3; 4096])]).await;
    new.write(Kind::Delta, true, &[(8192, vec![4; 4096])]).await;
    world.apply_all(&mut worker).await;
    // Then nothing of it is in the disk, and it is gone.
    let manifest = world.manifest().await;
    let found = world
        .read_point(manifest.points.last().unwrap(), &new.disk())
        .await;
    for (at, byte) in [(0, 1), (4096, 3), (8192, 4)] {
        assert!(found[at..at + 4096] == vec![byte; 4096], "at {at}");
    }
    assert_eq!(names_in_the_inbox(&world).await, [""; 0]);
}

#[tokio::test]
async fn a_data_path_that_is_told_twice_begins_one_chain() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let (datapath, mut changes) = DataPath::new(Role::Inside, 1, Arc::new(SystemClock));
    datapath.attach(world.cloud.clone(), Duties::default());
    let id = world.cloud.id.clone();
    let chain = world.manifest().await.chain;
    let mut chain_other_than = async |before: ChainId| {
        let seen = async {
            loop {
                changes.recv().await.unwrap();
                let manifest = datapath.observe(&id).unwrap().manifest;
                match manifest.map(|manifest| manifest.chain.clone()) {
                    Some(now) if now != before => return now,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap()
    };
    datapath.start_chain(&id, &chain);
    datapath.start_chain(&id, &chain);
    let second = chain_other_than(chain.clone()).await;
    datapath.start_chain(&id, &chain);
    datapath.wake(&id);
    datapath.start_chain(&id, &second);
    let third = chain_other_than(second).await;
    datapath.end().await;
    assert_eq!(world.manifest().await.chain, third);
}
