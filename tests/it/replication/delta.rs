//! After the first copy: barriers, what they bring, and what is compared when tracking failed.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use site_recovery::engine::phase::Phase;
use site_recovery::replica::seal::Consistency;
use site_recovery::report::Code;

use super::world::{Running, World};

const MIB: usize = 1 << 20;
const SIZES: [usize; 2] = [8 * MIB, 5 * MIB + 512];

/// A VM with two disks that has been copied, its engine, and what was copied.
async fn protected() -> (World, Running) {
    let world = World::new(&SIZES).await;
    let mut random = vec![0; 3 * MIB];
    StdRng::seed_from_u64(1).fill(random.as_mut_slice());
    world.model.write(0, MIB, &random);
    world.model.write(1, 0, &random);
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    (world, engine)
}

/// A few writes of one guest.
fn scribble(world: &World, random: &mut StdRng) {
    for _ in 0..random.random_range(1..12) {
        let disk = random.random_range(0..2);
        let length = random.random_range(1..70_000);
        let offset = random.random_range(0..SIZES[disk] - length);
        let byte = random.random_range(0..3);
        world.model.write(disk, offset, &vec![byte; length]);
    }
}

#[tokio::test]
async fn every_barrier_becomes_a_point_that_is_what_was_frozen() {
    let (world, mut engine) = protected().await;
    let mut random = StdRng::seed_from_u64(2);
    let mut worker = world.worker();
    for round in 0..8 {
        scribble(&world, &mut random);
        engine.synchronize().await;
        // Sometimes several barriers are sealed before the data path comes.
        if round % 3 == 0 {
            world.apply_all(&mut worker).await;
        }
    }
    world.apply_all(&mut worker).await;
    assert_eq!(world.manifest().await.points.len(), 9);
    world.assert_all_points_are_what_was_frozen().await;
}

#[tokio::test]
async fn barriers_are_taken_by_themselves_every_interval() {
    let (world, engine) = protected().await;
    drop(engine);
    let mut engine = world
        .start_as(|options| options.interval = Duration::from_secs(1))
        .await;
    engine
        .wait_until(|observed| observed.cycles.completed >= 3)
        .await;
    let before = engine.observed.borrow().sealed;
    world.model.write(0, 0, &[8; 512]);
    engine.wait_until(|observed| observed.sealed > before).await;
    world.apply_all(&mut world.worker()).await;
    world.assert_all_points_are_what_was_frozen().await;
    assert_eq!(world.manifest().await.points.len(), 2);
}

#[tokio::test]
async fn what_has_not_changed_is_up_to_date_and_nothing_is_sealed_of_it() {
    let (world, engine) = protected().await;
    let sealed = engine.observed.borrow().sealed;
    drop(engine);
    let mut engine = world
        .start_as(|options| options.interval = Duration::from_secs(1))
        .await;
    engine
        .wait_until(|observed| observed.cycles.completed >= 3)
        .await;
    engine.wait_until_replicating().await;
    let observed = engine.observed.borrow().clone();
    assert_eq!(observed.sealed, sealed);
    assert!(
        observed
            .synchronized
            .is_some_and(|at| at > world.witness.first())
    );
    // Who asks for a point gets one.
    engine.synchronize().await;
    world.apply_all(&mut world.worker()).await;
    assert_eq!(world.manifest().await.points.len(), 2);
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_guest_that_cannot_be_quiesced_gets_a_crash_consistent_point_and_says_why() {
    let (world, engine) = protected().await;
    drop(engine);
    let hourly = |options: &mut site_recovery::engine::Options| {
        options.application_every = Some(Duration::from_secs(3600));
    };
    let consistency = async || {
        world.apply_all(&mut world.worker()).await;
        let points = world.manifest().await.points;
        points.last().unwrap().barrier.consistency
    };
    world.model.disturb();
    let mut engine = world.start_as(hourly).await;
    engine.wait_until_replicating().await;
    assert_eq!(consistency().await, Consistency::Crash);
    let why = engine.observed.borrow().quiesce.clone().unwrap();
    assert_eq!(why.code, Code::GuestQuiesceFailed);
    drop(engine);
    world.model.calm();
    let mut engine = world.start_as(hourly).await;
    engine.wait_until_replicating().await;
    assert_eq!(consistency().await, Consistency::Application);
    assert_eq!(engine.observed.borrow().quiesce, None);
    // The next one is not due yet.
    world.model.write(0, 0, &[7; 512]);
    engine.synchronize().await;
    assert_eq!(consistency().await, Consistency::Crash);
}

#[tokio::test]
async fn a_disk_that_lost_its_tracking_waits_for_leave_and_is_compared_alone() {
    let (world, mut engine) = protected().await;
    world.model.write(0, 0, &[5; 4096]);
    world.model.write(1, 0, &[6; 4096]);
    world.model.lose_tracking(1);
    // When the next barrier finds it
    engine.synchronize.notify_one();
    engine
        .wait_for(|phase| matches!(phase, Phase::ResyncRequired { .. }))
        .await;
    let demand = engine.observed.borrow().demand.clone().unwrap();
    assert_eq!(demand.reason.code, Code::TrackingLost);
    let slots: Vec<_> = demand.disks.iter().map(|id| &world.disks[id]).collect();
    assert_eq!(slots, [&super::model::slot(1)]);
    // Then a restart waits as well,
    drop(engine);
    let mut engine = world.start().await;
    engine
        .wait_for(|phase| matches!(phase, Phase::ResyncRequired { .. }))
        .await;
    // and with leave what differs is sent, no more.
    drop(engine);
    let mut engine = world.start_as(|options| options.resynchronize = true).await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world.assert_all_points_are_what_was_frozen().await;
    world.assert_point_is_what_was_frozen().await;
    assert!(engine.sent() < 200_000, "{} bytes", engine.sent());
    assert_eq!(engine.observed.borrow().demand, None);
}

#[tokio::test]
async fn disks_that_are_lost_at_the_same_time_are_compared_together() {
    for (first, second) in [
        (Lost::Tracking, Lost::Tracking),
        (Lost::Tracking, Lost::Overgrown),
    ] {
        let (world, mut engine) = protected().await;
        // Given a barrier that can count the changes of no disk
        for (disk, lost) in [first, second].into_iter().enumerate() {
            let before = world.model.content(disk);
            match lost {
                Lost::Tracking => world.model.lose_tracking(disk),
                Lost::Overgrown => world.model.write(disk, 0, &before),
            }
        }
        engine.synchronize.notify_one();
        engine
            .wait_for(|phase| matches!(phase, Phase::ResyncRequired { .. }))
            .await;
        // Then one comparison of both is demanded.
        let demand = engine.observed.borrow().demand.clone().unwrap();
        assert_eq!(demand.disks, world.disks.keys().cloned().collect());
    }
}

#[derive(Clone, Copy)]
enum Lost {
    Tracking,
    Overgrown,
}

#[tokio::test]
async fn a_comparison_that_is_interrupted_at_any_point_comes_to_its_end() {
    let (world, mut engine) = protected().await;
    let mut random = vec![0; 4 * MIB];
    StdRng::seed_from_u64(3).fill(random.as_mut_slice());
    for life in 0..10u64 {
        world
            .model
            .write(1, usize::try_from(life).unwrap() * 4096, &random);
        if life == 0 {
            world.model.lose_tracking(1);
            engine.synchronize.notify_one();
        }
        drop(engine);
        engine = world
            .start_as(|options| options.resynchronize = life % 3 != 1)
            .await;
        // Killed wherever it stands, with the data path at work beside it.
        let _ = tokio::time::timeout(
            Duration::from_millis(20 * life),
            engine.wait_until_replicating(),
        )
        .await;
        world.apply_all(&mut world.worker()).await;
    }
    drop(engine);
    let mut engine = world.start_as(|options| options.resynchronize = true).await;
    // What the killed ones left on its way may arrive late: an attempt that meets it is repeated.
    let retry = engine.retry.clone();
    let done = async {
        engine.wait_until_replicating().await;
    };
    let mut worker = world.worker();
    tokio::select! {
        () = done => {}
        () = async { loop {
            retry.notify_one();
            world.apply_all(&mut worker).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        } } => {}
    }
    engine.synchronize().await;
    world.apply_all(&mut world.worker()).await;
    world.assert_all_points_are_what_was_frozen().await;
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_disk_that_changed_by_half_is_compared_instead_of_sent() {
    let (world, mut engine) = protected().await;
    // Given writes over most of a disk that leave it as it was, but for one block
    let before = world.model.content(0);
    world.model.write(0, 0, &before);
    world.model.write(0, MIB, &[3; 4096]);
    engine.synchronize.notify_one();
    engine
        .wait_for(|phase| matches!(phase, Phase::ResyncRequired { .. }))
        .await;
    let demand = engine.observed.borrow().demand.clone().unwrap();
    assert_eq!(demand.reason.code, Code::TooManyChanges);
    drop(engine);
    let mut engine = world.start_as(|options| options.resynchronize = true).await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world.assert_point_is_what_was_frozen().await;
    assert!(engine.sent() < 200_000, "{} bytes", engine.sent());
}
