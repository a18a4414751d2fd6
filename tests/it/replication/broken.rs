//! Engines that die, break, or lose what they count by, in the middle of a delta.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure, Rule};
use site_recovery::datapath::worker::Worker;
use site_recovery::datapath::{inbox, plan};
use site_recovery::engine::ledger::Store;
use site_recovery::engine::phase::Phase;
use site_recovery::replica::manifest::Head;
use site_recovery::report::Code;
use site_recovery::units::{Clock, Sequence, SystemClock, to_u64};

use super::world::{Running, World};
use crate::blob::emulator::noise;

const MIB: usize = 1 << 20;
const SIZE: usize = 84 * MIB;
/// How often a data path looks that nobody wakes.
const LOOK: Duration = Duration::from_millis(100);

/// The containers, of which the inbox takes so many seals and no more.
async fn with_seals(world: &World, seals: u64) -> Store {
    let faults = Faults::new(0);
    faults.add(Rule {
        operations: vec![Operation::PutBlob],
        object: "*/sealed.json".to_owned(),
        calls: Calls::From(seals + 1),
        effect: Effect::Fail(Failure::Unreachable),
    });
    let store = world.by_signature().await;
    Store {
        inbox: Arc::new(FaultyContainer::new(store.inbox, faults)),
        ..store
    }
}

/// A replica with a recovery point, and a source that differs from it in more than one seal can bring.
async fn world_before_a_long_delta(worker: &mut Option<Worker>) -> World {
    let world = World::new(&[SIZE]).await;
    world.model.write(0, 0, &noise(1, SIZE));
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    let worker = worker.insert(world.worker());
    world.apply_all(worker).await;
    world.model.write(0, MIB, &noise(2, 40 * MIB));
    world
}

/// Lets an engine seal `parts` parts of the delta and no barrier, and ends it.
async fn cut_off_after(world: &World, worker: &mut Worker, parts: u64) {
    let before = world.manifest().await.last_applied.sequence;
    let mut engine = world.start_with(with_seals(world, parts).await);
    engine.wait_for_trouble().await;
    drop(engine);
    let manifest = world.manifest().await;
    let ahead = inbox::read_ahead(&world.cloud, &manifest, before.next()).await;
    let ahead = ahead.unwrap();
    assert_eq!(ahead.found().len() as u64, parts);
    let barrier = |found: &plan::Found| found.seal.barrier.is_some();
    assert!(!ahead.found().iter().any(barrier));
    // The data path waits for the barrier, and keeps the point's state meanwhile.
    world.apply_all(worker).await;
    let manifest = world.manifest().await;
    assert_eq!(manifest.last_applied.sequence, before);
    let consistent = |head: &Head| matches!(head, Head::Consistent { .. });
    assert!(manifest.disks.values().all(|disk| consistent(&disk.head)));
}

/// Starts an engine on `store` that finds tracking lost, and may compare.
async fn start_without_tracking(world: &World, store: Store) -> Running {
    world.model.lose_tracking(0);
    let mut engine = world.start_with_leave(store);
    engine
        .wait_for(|phase| matches!(phase, Phase::Copying { .. }))
        .await;
    engine
}

/// Applies until `end`, as a data path does beside an engine.
async fn applying(world: &World, worker: &mut Worker, end: impl Future<Output = ()>) {
    let apply = async {
        loop {
            world.apply_all(worker).await;
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = apply => {}
        () = end => {}
    }
}

#[tokio::test]
async fn a_delta_that_was_cut_off_anywhere_does_not_keep_a_replica_from_its_source() {
    for parts in 0..=2 {
        // Given an agent that died after so many parts of a delta, and tracking that was lost with what it had captured
        let mut worker = None;
        let world = world_before_a_long_delta(&mut worker).await;
        let mut worker = worker.unwrap();
        cut_off_after(&world, &mut worker, parts).await;
        world.lose_state();
        let mut engine = start_without_tracking(&world, world.by_signature().await).await;
        // When the copy that compares goes on
        applying(&world, &mut worker, engine.wait_until_replicating()).await;
        world.apply_all(&mut worker).await;
        // Then the newest point is the source.
        world.assert_point_is_what_was_frozen().await;
        let points = world.manifest().await.points.len();
        assert_eq!(points, 2, "after {parts} parts");
    }
}

#[tokio::test]
async fn a_delta_that_was_cut_off_goes_on_behind_what_of_it_is_sealed() {
    // Given an agent that died after a part of a delta, and one that died after one more
    let mut worker = None;
    let world = world_before_a_long_delta(&mut worker).await;
    let mut worker = worker.unwrap();
    cut_off_after(&world, &mut worker, 1).await;
    let mut engine = world.start_with(with_seals(&world, 1).await);
    engine.wait_for_trouble().await;
    drop(engine);
    // When another goes on
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    // Then nothing was shipped twice, and the newest point is the source.
    let manifest = world.manifest().await;
    let first = manifest.last_applied.sequence.next();
    let ahead = inbox::read_ahead(&world.cloud, &manifest, first).await;
    let ahead = ahead.unwrap();
    let disks = ahead.found().iter().flat_map(|found| &found.seal.disks);
    let shipped: u64 = disks
        .flat_map(|disk| &disk.logs)
        .map(|log| log.length)
        .sum();
    assert!(
        (40..41).contains(&(shipped / to_u64(MIB))),
        "{shipped} bytes"
    );
    world.apply_all(&mut worker).await;
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_copy_that_dies_as_soon_as_it_gave_up_a_delta_is_begun_again() {
    for seals in [1, 2] {
        // Given parts of a delta that cannot be gone on with, and a copy after them that died after so many seals
        let mut worker = None;
        let world = world_before_a_long_delta(&mut worker).await;
        let mut worker = worker.unwrap();
        cut_off_after(&world, &mut worker, 2).await;
        world.lose_state();
        let store = with_seals(&world, seals).await;
        let mut engine = start_without_tracking(&world, store).await;
        applying(&world, &mut worker, engine.wait_for_trouble()).await;
        drop(engine);
        // And whose point is gone, or not
        if seals == 1 {
            world.model.lose_points();
        }
        world.model.write(0, 0, &noise(3, 3 * MIB));
        // When another one goes on
        let mut engine = world.start_with_leave(world.by_signature().await);
        applying(&world, &mut worker, engine.wait_until_replicating()).await;
        world.apply_all(&mut worker).await;
        // Then the newest point is the source.
        world.assert_point_is_what_was_frozen().await;
    }
}

/// A clock that panics when it is asked for the so-manieth time.
struct Breaking {
    asked: AtomicU64,
    at: u64,
}

impl Clock for Breaking {
    fn now(&self) -> Timestamp {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        assert_ne!(asked, self.at, "the clock is broken");
        SystemClock.now()
    }
}

#[tokio::test]
async fn an_engine_that_panics_says_so_and_goes_on_from_where_storage_stands() {
    for at in [1, 4, 7] {
        // Given an engine that panics in its first, a middle and a late phase
        let world = World::new(&[8 * MIB]).await;
        world.model.write(0, 0, &noise(at, 8 * MIB));
        let asked = AtomicU64::new(0);
        let store = world.by_signature().await;
        let mut engine = world.start_by(store, Arc::new(Breaking { asked, at }));
        engine.wait_for_trouble().await;
        let trouble = engine.observed.borrow().trouble.clone().unwrap();
        assert_eq!((trouble.fault.code, trouble.attempts), (Code::Internal, 1));
        assert!(trouble.next_attempt.is_some(), "{trouble:?}");
        // When it is told to try again
        engine.retry.notify_one();
        engine.wait_until_replicating().await;
        // Then nothing is missing.
        let mut worker = world.worker();
        world.apply_all(&mut worker).await;
        world.assert_point_is_what_was_frozen().await;
        assert!(world.manifest().await.last_applied.sequence > Sequence::ZERO);
    }
}
