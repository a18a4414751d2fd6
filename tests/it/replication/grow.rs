//! A disk that has become larger or smaller.

use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure};
use site_recovery::blob::names::BlobRef;
use site_recovery::datapath::worker::Step;
use site_recovery::replica::names;
use site_recovery::replica::seal::Kind;
use site_recovery::report::Code;
use site_recovery::units::Sequence;

use super::hand::{Hand, applied};
use super::refused::{faulty, rule};
use super::world::{PATIENCE, World};

const MIB: usize = 1 << 20;
/// Neither whole chunks nor whole mebibytes.
const SMALL: usize = 3 * MIB - 5 * 512;
const LARGE: usize = 5 * MIB + 512;

/// A replica with a point of the small disk, whose last sectors are not zero.
async fn small() -> (World, Vec<u8>) {
    let world = World::new(&[SMALL]).await;
    let mut hand = Hand::new(&world).await;
    hand.size = SMALL as u64;
    let end = vec![1; 8192];
    hand.write(Kind::Delta, true, &[(hand.size - 8192, end.clone())])
        .await;
    world.apply_all(&mut world.worker()).await;
    let mut content = vec![0; SMALL];
    content[SMALL - 8192..].copy_from_slice(&end);
    (world, content)
}

/// A hand that seals the disk as the large one.
async fn large(world: &World) -> Hand<'_> {
    let mut hand = Hand::new(world).await;
    hand.follow().await;
    hand.size = LARGE as u64;
    hand
}

async fn assert_grown(world: &World, before: &[u8], after: &[u8]) {
    let manifest = world.manifest().await;
    let disk = world.disks.keys().next().unwrap();
    let [old, new] = &manifest.points[..] else {
        panic!("there are {} points", manifest.points.len());
    };
    assert!(world.read_point(old, disk).await == before);
    assert!(world.read_point(new, disk).await == after);
    let blob = BlobRef::head(names::disk(disk));
    let whole = world
        .cloud
        .replica
        .get(&blob, None, 8 * MIB as u64)
        .await
        .unwrap()
        .bytes;
    assert_eq!(whole.len(), 6 * MIB + 512);
    assert_eq!(&whole[6 * MIB..6 * MIB + 8], b"conectix");
    assert!(whole[LARGE..6 * MIB].iter().all(|byte| *byte == 0));
    assert_eq!(manifest.disks[disk].grown_from, None);
}

#[tokio::test]
async fn a_disk_that_has_grown_has_zeroes_where_its_footer_was_whoever_dies_in_between() {
    let operations = [
        Operation::PutBlob,
        Operation::GetProperties,
        Operation::SetSequenceNumber,
        Operation::Resize,
        Operation::ClearPages,
        Operation::PutPages,
        Operation::Snapshot,
    ];
    for covered in [false, true] {
        let (world, before) = small().await;
        let mut after = before.clone();
        after.resize(LARGE, 0);
        // Given a delta of the larger disk, with something where the old footer is, or not
        let at = if covered { 3 * MIB - 1024 } else { 4 * MIB };
        let mut hand = large(&world).await;
        hand.write(Kind::Delta, true, &[(at as u64, vec![2; 4096])])
            .await;
        after[at..at + 4096].fill(2);
        // When owners die at each of their requests
        for operation in operations {
            for nth in 1..=3 {
                let effect = match nth % 2 {
                    0 => Effect::Fail(Failure::Interrupted),
                    _ => Effect::FailAfter(Failure::Interrupted),
                };
                if applied(&world).await == 1 {
                    let dies = rule(operation, "*-r-*", Calls::Nth(nth), effect);
                    let _ = faulty(&world, vec![dies]).0.step().await;
                }
            }
        }
        world.apply_all(&mut world.worker()).await;
        assert_grown(&world, &before, &after).await;
    }
}

#[tokio::test]
async fn the_chunk_that_was_the_last_is_sent_again_after_a_disk_has_grown() {
    let (world, _) = small().await;
    let mut hand = large(&world).await;
    hand.write(Kind::Delta, true, &[(4 << 20, vec![2; 4096])])
        .await;
    world.apply_all(&mut world.worker()).await;
    // Its hash was of what it had then.
    let manifest = world.manifest().await;
    let part = manifest.disks[&hand.disk()].tables.last().unwrap();
    let blob = BlobRef::head(&part.blob);
    let bytes = world
        .cloud
        .replica
        .get(&blob, None, part.length)
        .await
        .unwrap()
        .bytes;
    let touched = |chunk: u64| {
        let mut run = vec![2, 0, 0, 0, 1, 0, 0, 0];
        run.extend(chunk.to_le_bytes());
        bytes.windows(16).any(|window| window == run)
    };
    assert!(touched((SMALL >> 16) as u64));
    assert!(touched(64));
}

#[tokio::test]
async fn a_disk_that_has_shrunk_is_refused_with_a_remedy() {
    let (world, before) = small().await;
    let mut hand = Hand::new(&world).await;
    hand.follow().await;
    hand.size = 2 << 20;
    hand.write(Kind::Delta, true, &[(0, vec![2; 4096])]).await;
    let mut worker = world.worker();
    for _ in 0..2 {
        let refused = worker.step().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unsupported);
        assert_eq!(refused.refused(), Some(Sequence::new(2)));
        let said = refused.to_string();
        for word in [hand.disk().as_str(), "exclude it", &SMALL.to_string()] {
            assert!(said.contains(word), "{said}");
        }
    }
    let points = world.manifest().await.points;
    assert!(world.read_point(&points[0], &hand.disk()).await == before);
    assert_ne!(worker.step().await.ok(), Some(Step::Applied));
}

/// An agent's life in which it takes a barrier, and all that it sealed: how many points there are then.
async fn points_after_a_barrier(world: &World) -> usize {
    let mut engine = world.start().await;
    let taken = engine
        .observed
        .wait_for(|observed| observed.cycles.completed > 0);
    let taken = tokio::time::timeout(PATIENCE, taken).await;
    drop(taken.expect("a barrier is taken").unwrap());
    drop(engine);
    world.apply_all(&mut world.worker()).await;
    world.manifest().await.points.len()
}

#[tokio::test]
async fn a_disk_that_has_only_grown_has_its_new_size_in_the_next_point() {
    let world = World::new(&[SMALL]).await;
    world.model.write(0, 0, &[1; 8192]);
    let points = points_after_a_barrier(&world).await;
    // When nothing but its size changes until the next barrier
    world.model.grow(0, LARGE - SMALL);
    let grown = points_after_a_barrier(&world).await;
    // Then that is another point, and the one after it is none.
    assert_eq!(grown, points + 1);
    world.assert_point_is_what_was_frozen().await;
    let manifest = world.manifest().await;
    let newest = manifest.points.last().unwrap();
    assert!(newest.disks.values().all(|disk| disk.size == LARGE as u64));
    assert_eq!(points_after_a_barrier(&world).await, grown);
}
