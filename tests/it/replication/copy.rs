//! The first copy, from an empty replica to its first recovery point.

use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use site_recovery::datapath::inbox;
use site_recovery::engine::phase::Phase;
use site_recovery::replica::manifest::Head;
use site_recovery::replica::seal::KEPT_MAX;
use site_recovery::units::Sequence;

use super::world::World;

const MIB: usize = 1 << 20;

/// Fills a disk: random megabytes, compressible ones, and holes.
fn fill(world: &World, disk: usize, size: usize, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut data = vec![0; MIB];
    for megabyte in 0..size / MIB {
        match megabyte % 4 {
            0 => random.fill(data.as_mut_slice()),
            1 => data.fill(u8::try_from(megabyte % 251).unwrap()),
            2 => data[..MIB / 2].fill(7),
            _ => continue,
        }
        world.model.write(disk, megabyte * MIB, &data);
    }
}

#[tokio::test]
async fn a_first_copy_publishes_what_was_frozen_although_the_guest_goes_on_writing() {
    // Given a VM with two disks, one of which does not end at a chunk
    let sizes = [24 * MIB, 13 * MIB + 512];
    let world = World::new(&sizes).await;
    fill(&world, 0, sizes[0], 1);
    fill(&world, 1, sizes[1], 2);
    world.model.write(1, 13 * MIB, &[9; 512]);
    // When it is copied while its guest writes, and what was sealed is applied
    let mut engine = world.start().await;
    engine
        .wait_for(|phase| matches!(phase, Phase::Copying { .. }))
        .await;
    for step in 0..50 {
        world
            .model
            .write(0, step * 300_000, &[u8::try_from(step).unwrap(); 5000]);
        world.model.write(1, step * 200_000, &[0; 70_000]);
    }
    engine.wait_until_replicating().await;
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    // Then one point is published, and it is what was frozen last.
    let manifest = world.manifest().await;
    assert_eq!(manifest.points.len(), 1);
    assert!(
        manifest
            .disks
            .values()
            .all(|disk| matches!(disk.head, Head::Consistent { .. }))
    );
    world.assert_point_is_what_was_frozen().await;
    assert!(
        world.model.content(0)
            == **world
                .model
                .last_frozen(&world.witness)
                .values()
                .next()
                .unwrap()
    );
}

#[tokio::test]
async fn the_data_path_can_keep_every_seal_of_a_copy() {
    // Given a disk of which every second window has a hole, so that logs have many lengths
    let size = 96 * MIB;
    let world = World::new(&[size]).await;
    let mut random = vec![0; 4 * MIB];
    StdRng::seed_from_u64(7).fill(random.as_mut_slice());
    for window in 0..size / (4 * MIB) {
        let hole = window % 2 * (window % 3 + 1) * MIB / 2;
        world
            .model
            .write(0, window * 4 * MIB, &random[..4 * MIB - hole]);
    }
    // When it is copied
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    // Then no seal has more than what is read only once.
    let (manifest, first) = (world.manifest().await, Sequence::ZERO.next());
    let ahead = inbox::read_ahead(&world.cloud, &manifest, first).await;
    let lengths: Vec<u64> = ahead
        .unwrap()
        .found()
        .iter()
        .map(|found| found.seal.length())
        .collect();
    assert!(lengths.len() > 4, "{lengths:?}");
    assert!(
        lengths.iter().all(|length| *length <= KEPT_MAX),
        "{lengths:?}"
    );
}

#[tokio::test]
async fn a_copy_that_is_interrupted_goes_on_from_the_last_seal() {
    let size = 64 * MIB;
    let world = World::new(&[size]).await;
    let mut random = vec![0; size];
    StdRng::seed_from_u64(3).fill(random.as_mut_slice());
    world.model.write(0, 0, &random);
    // Given an engine that dies in the middle of its copy, again and again
    let (mut sent, mut lives) = (0, 0);
    loop {
        let mut engine = world.start().await;
        lives += 1;
        let before = engine.observed.borrow().sealed;
        let more = engine
            .observed
            .wait_for(|observed| observed.sealed.value() >= before.value() + 2);
        let done = tokio::time::timeout(super::world::PATIENCE, more)
            .await
            .unwrap()
            .unwrap()
            .clone();
        sent += engine.sent();
        if matches!(done.phase, Phase::Replicating { .. }) || lives > 8 {
            engine.wait_until_replicating().await;
            sent += engine.sent();
            break;
        }
    }
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    // Then one frozen point was copied over all lives, and little was sent twice.
    world.assert_point_is_what_was_frozen().await;
    let freezes = world.model.freezes();
    assert!(
        freezes <= 1 + lives,
        "{freezes} points: one to copy, and a barrier a life"
    );
    let limit = u64::try_from(size + lives * 6 * 5 * MIB).unwrap();
    assert!(sent <= limit, "{sent} bytes were sent in {lives} lives");
}

#[tokio::test]
async fn a_lost_checkpoint_is_copied_anew_and_what_was_applied_is_not_sent_again() {
    let size = 48 * MIB;
    let world = World::new(&[size]).await;
    let mut random = vec![0; size];
    StdRng::seed_from_u64(4).fill(random.as_mut_slice());
    world.model.write(0, 0, &random);
    // Given a copy whose frozen point is lost in the middle, its seals applied
    let mut engine = world.start().await;
    let half = engine
        .observed
        .wait_for(|observed| observed.sealed.value() >= 2);
    tokio::time::timeout(super::world::PATIENCE, half)
        .await
        .unwrap()
        .unwrap();
    drop(engine);
    world.model.lose_points();
    world.lose_state();
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    let applied = world.manifest().await.last_applied.sequence.value();
    assert!(applied >= 2);
    // When a new engine goes on
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut worker).await;
    // Then the point is right, and what was applied was compared instead of sent.
    world.assert_point_is_what_was_frozen().await;
    let rest = u64::try_from(size).unwrap() - (applied - 1) * 16 * (1 << 20);
    assert!(
        engine.sent() <= rest + (8 << 20),
        "{} bytes were sent, {rest} were missing",
        engine.sent()
    );
}

#[tokio::test]
async fn a_capture_that_failed_is_done_again_with_a_new_point() {
    let size = 8 * MIB;
    let world = World::new(&[size]).await;
    fill(&world, 0, size, 7);
    // Given an engine that dies with a point that it could not capture
    world.model.fail_changes(true);
    let mut engine = world.start().await;
    engine.wait_for_trouble().await;
    drop(engine);
    world.model.fail_changes(false);
    // When another one goes on
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    // Then that point was not in its way.
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    world.assert_point_is_what_was_frozen().await;
    assert_eq!(world.model.freezes(), 3, "one point to copy, two barriers");
}

#[tokio::test]
async fn a_disk_that_lost_track_of_its_changes_is_copied_anew() {
    let size = 8 * MIB;
    let world = World::new(&[size]).await;
    fill(&world, 0, size, 8);
    // Given an engine that finds tracking lost when it captures
    let mut engine = world.start().await;
    engine
        .wait_for(|phase| matches!(phase, Phase::Copying { .. }))
        .await;
    world.model.lose_tracking(0);
    engine
        .wait_for(|phase| matches!(phase, Phase::FreezingCopy { .. }))
        .await;
    // When what it has sealed is applied, so that it can compare
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut worker).await;
    // Then the point is right.
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_data_path_that_dies_in_the_middle_is_taken_over() {
    let size = 24 * MIB;
    let world = World::new(&[size]).await;
    fill(&world, 0, size, 5);
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    // Given a worker that is dropped wherever it stands, many times
    for life in 0..12u64 {
        let mut worker = world.worker();
        let _ = tokio::time::timeout(
            std::time::Duration::from_millis(5 + life * 15),
            worker.step(),
        )
        .await;
    }
    // When another one finishes
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    // Then there is one point, it is right, and nothing is left over.
    let manifest = world.manifest().await;
    assert_eq!(manifest.points.len(), 1);
    world.assert_point_is_what_was_frozen().await;
    let left = world
        .cloud
        .inbox
        .list(
            "",
            site_recovery::blob::parameters::Include::default(),
            None,
        )
        .await
        .unwrap();
    assert!(left.items.is_empty(), "{:?}", left.items);
}

#[tokio::test]
async fn a_worker_that_was_replaced_changes_nothing_any_more() {
    let size = 8 * MIB;
    let world = World::new(&[size]).await;
    fill(&world, 0, size, 6);
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    // Given a worker that has taken the replica over, and another that did so after it
    let mut old = world.worker();
    assert!(old.step().await.is_ok());
    let mut new = world.worker();
    world.apply_all(&mut new).await;
    let published = world.manifest().await;
    // When the first goes on
    let result = old.step().await;
    // Then it finds nothing to do or is fenced, and what was published stays.
    assert!(result.is_ok() || result.unwrap_err().code() == site_recovery::report::Code::Fenced);
    assert_eq!(world.manifest().await.points, published.points);
    world.assert_point_is_what_was_frozen().await;
}
