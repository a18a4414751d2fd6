//! What a worker makes of an inbox that somebody filled by hand: seals, logs that nobody named, and what is missing.

use std::sync::Arc;

use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::parameters::Include;
use site_recovery::blob::walk;
use site_recovery::datapath::Error;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::ids::{ChainId, DiskId, random};
use site_recovery::replica::names;
use site_recovery::replica::seal::Kind;
use site_recovery::report::Code;
use site_recovery::units::Sequence;
use uuid::Uuid;

use super::hand::{Hand, SIZE, applied, names_in_the_inbox};
use super::world::World;

#[tokio::test]
async fn a_backlog_is_applied_without_listing_the_inbox_for_every_cycle() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let faults = Faults::new(1);
    let mut cloud = world.cloud.clone();
    cloud.inbox = Arc::new(FaultyContainer::new(cloud.inbox, faults.clone()));
    // Given some seals that are a cycle each
    let mut hand = Hand::new(&world).await;
    for _ in 0..5 {
        hand.copy().await;
    }
    // When they are applied
    let mut worker = Worker::new(cloud);
    while worker.step().await.unwrap() == Step::Applied {}
    // Then the inbox was listed before the first, and after the last, and is empty.
    assert_eq!(faults.calls(Operation::ListBlobs), 2);
    assert_eq!(applied(&world).await, 5);
    assert_eq!(names_in_the_inbox(&world).await, [""; 0]);
}

#[tokio::test]
async fn what_no_seal_names_is_swept_over_all_pages_once_its_sequence_is_applied() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut hand = Hand::new(&world).await;
    hand.copy().await;
    // Given more torn logs of that sequence than a page lists, one of the next, and something foreign
    for number in 0..1050 {
        let name = names::log(Sequence::new(1), &Uuid::from_u128(number));
        hand.put(&name, vec![1]).await;
    }
    let next = names::log(hand.next, &Uuid::from_u128(7));
    hand.put(&next, vec![1]).await;
    hand.put("a-note", vec![1]).await;
    // When the sequence is applied
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    // Then only what is to come, and what is not ours, is left.
    let mut left = [next, "a-note".to_owned()];
    left.sort_unstable();
    assert_eq!(names_in_the_inbox(&world).await, left);
}

#[tokio::test]
async fn a_seal_behind_a_missing_one_is_a_gap() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut hand = Hand::new(&world).await;
    hand.copy().await;
    hand.skip();
    hand.copy().await;
    let mut worker = world.worker();
    // What stands before it is applied, then it is told.
    assert_eq!(worker.step().await.unwrap(), Step::Applied);
    let gap = worker.step().await.unwrap_err();
    assert!(
        matches!(&gap, Error::Gap { sequence, .. } if sequence.value() == 3),
        "{gap}"
    );
    assert_eq!(applied(&world).await, 1);
}

#[tokio::test]
async fn a_delta_whose_parts_end_at_a_missing_seal_is_a_gap_and_not_waited_for() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut hand = Hand::new(&world).await;
    // Given a consistent disk, a part of its next delta, and a barrier behind a hole
    hand.seal(hand.disk(), Kind::Delta, true).await;
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    hand.seal(hand.disk(), Kind::Delta, false).await;
    assert_eq!(
        worker.step().await.unwrap(),
        Step::Idle,
        "it waits for its barrier"
    );
    hand.skip();
    hand.seal(hand.disk(), Kind::Delta, true).await;
    let gap = worker.step().await.unwrap_err();
    assert!(
        matches!(&gap, Error::Gap { sequence, .. } if sequence.value() == 4),
        "{gap}"
    );
}

#[tokio::test]
async fn seals_of_a_retired_chain_are_passed_over_with_all_that_is_missing_among_them() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let mut hand = Hand::new(&world).await;
    let chain = std::mem::replace(&mut hand.chain, ChainId::from_random(random()));
    for _ in 0..300 {
        hand.copy().await;
    }
    hand.skip();
    hand.copy().await;
    (hand.chain, hand.prev) = (chain, None);
    hand.copy().await;
    let mut worker = world.worker();
    world.apply_all(&mut worker).await;
    assert_eq!(applied(&world).await, 303);
    assert_eq!(names_in_the_inbox(&world).await, [""; 0]);
}

#[tokio::test]
async fn a_disk_that_the_machine_does_not_have_gets_no_blob() {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let stranger = DiskId::from_random(random());
    let mut hand = Hand::new(&world).await;
    hand.seal(stranger.clone(), Kind::Copy, false).await;
    let refused = world.worker().step().await.unwrap_err();
    assert_eq!(refused.code(), Code::SealInvalid);
    for named in [stranger.as_str(), &Sequence::new(1).to_string()] {
        assert!(refused.to_string().contains(named), "{refused}");
    }
    let disks = walk::blobs(
        world.cloud.replica.as_ref(),
        "disks/",
        Include::default(),
        10,
    );
    assert!(disks.await.unwrap().items.is_empty());
}
