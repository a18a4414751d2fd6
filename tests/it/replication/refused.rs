//! What is tampered with, torn, foreign, doubled or too new: refused by its name, and nothing of it is applied.

use std::sync::Arc;

use bytes::Bytes;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure, Rule};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{DeleteSnapshots, Include, PutOptions};
use site_recovery::blob::walk;
use site_recovery::datapath::collect;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::ids::{DiskId, ReplicaId, random};
use site_recovery::replica::document::{self, Document as _};
use site_recovery::replica::manifest::{Head, Manifest};
use site_recovery::replica::names;
use site_recovery::replica::seal::{Kind, LOG_MAX, Seal};
use site_recovery::report::Code;
use site_recovery::units::{Generation, Sequence, to_usize};

use super::hand::{Draft, Hand, SIZE, applied};
use super::world::World;

const MIB: u64 = 1 << 20;

fn page(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

async fn world() -> World {
    World::new(&[usize::try_from(SIZE).unwrap()]).await
}

/// Two recovery points, at sequences 1 and 2: the first chunk holds 1, then 2.
async fn two_points(world: &World, worker: &mut Worker) {
    let mut hand = Hand::new(world).await;
    hand.write(Kind::Delta, true, &[(0, page(1))]).await;
    hand.write(Kind::Delta, true, &[(0, page(2))]).await;
    world.apply_all(worker).await;
}

/// A hand that goes on behind what was applied.
async fn hand(world: &World) -> Hand<'_> {
    let mut hand = Hand::new(world).await;
    hand.follow().await;
    hand
}

async fn head(world: &World, id: &DiskId) -> Bytes {
    let blob = BlobRef::head(names::disk(id));
    let got = world.cloud.replica.get(&blob, None, 2 * SIZE).await;
    got.unwrap().bytes
}

async fn assert_two_points_are_whole(world: &World) {
    let manifest = world.manifest().await;
    let disk = world.disks.keys().next().unwrap();
    assert_eq!(manifest.points.len(), 2);
    for (point, byte) in manifest.points.iter().zip([1, 2]) {
        let found = world.read_point(point, disk).await;
        assert!(found[..4096] == page(byte) && found[4096..].iter().all(|byte| *byte == 0));
    }
}

/// Overwrites whatever stands there.
async fn overwrite(container: &dyn site_recovery::blob::Container, name: &str, bytes: Vec<u8>) {
    let options = PutOptions::default();
    container.put(name, bytes.into(), &options).await.unwrap();
}

/// What is wrong with the next delta, and what has to be named.
type Damage = fn(&Hand<'_>, Draft) -> (Vec<(String, Vec<u8>)>, String);

fn seal_name(hand: &Hand<'_>) -> String {
    names::seal(hand.next)
}

fn stored(draft: Draft, hand: &Hand<'_>) -> Vec<(String, Vec<u8>)> {
    let mut blobs = draft.logs;
    blobs.push((seal_name(hand), draft.seal.encode().unwrap().0));
    blobs
}

fn with_log(
    hand: &Hand<'_>,
    draft: Draft,
    change: fn(&mut Vec<u8>),
) -> (Vec<(String, Vec<u8>)>, String) {
    let mut blobs = stored(draft, hand);
    change(&mut blobs[0].1);
    let name = blobs[0].0.clone();
    (blobs, name)
}

fn with_seal(
    hand: &Hand<'_>,
    draft: Draft,
    change: fn(&mut Draft),
) -> (Vec<(String, Vec<u8>)>, String) {
    let mut draft = draft;
    change(&mut draft);
    (stored(draft, hand), hand.next.to_string())
}

const DAMAGES: [(&str, Code, Damage); 12] = [
    ("a tampered log", Code::SealInvalid, |hand, draft| {
        with_log(hand, draft, |log| *log.last_mut().unwrap() ^= 1)
    }),
    ("a truncated log", Code::SealInvalid, |hand, draft| {
        with_log(hand, draft, |log| log.truncate(log.len() - 512))
    }),
    (
        "a log that is longer than its seal says",
        Code::SealInvalid,
        |hand, draft| with_log(hand, draft, |log| log.resize(log.len() + 512, 0)),
    ),
    ("a log longer than any", Code::SealInvalid, |hand, draft| {
        with_log(hand, draft, |log| log.resize(to_usize(LOG_MAX) + 1, 0))
    }),
    (
        "a seal longer than any",
        Code::SealInvalid,
        |hand, draft| {
            let mut blobs = stored(draft, hand);
            let seal = &mut blobs.last_mut().unwrap().1;
            seal.resize(Seal::LENGTH_MAX + 1, b' ');
            (blobs, hand.next.to_string())
        },
    ),
    ("a missing log", Code::SealInvalid, |hand, draft| {
        let mut blobs = stored(draft, hand);
        let (name, _) = blobs.remove(0);
        (blobs, name)
    }),
    (
        "a log of something else",
        Code::SealInvalid,
        |hand, draft| {
            let other = hand.draft(hand.disk(), Kind::Delta, true, &[(8192, page(9))]);
            let mut blobs = stored(draft, hand);
            blobs[0].1.clone_from(&other.logs[0].1);
            let name = blobs[0].0.clone();
            (blobs, name)
        },
    ),
    ("a torn seal", Code::SealInvalid, |hand, draft| {
        let mut blobs = stored(draft, hand);
        let seal = &mut blobs.last_mut().unwrap().1;
        seal.truncate(seal.len() / 2);
        (blobs, hand.next.to_string())
    }),
    (
        "a seal of another replica",
        Code::SealInvalid,
        |hand, draft| {
            with_seal(hand, draft, |draft| {
                draft.seal.replica = ReplicaId::from_random(random());
            })
        },
    ),
    (
        "a seal of another place",
        Code::SealInvalid,
        |hand, draft| with_seal(hand, draft, |draft| draft.seal.sequence = Sequence::new(2)),
    ),
    (
        "a seal of a newer version",
        Code::FormatTooNew,
        |hand, draft| {
            let mut blobs = stored(draft, hand);
            let seal = &mut blobs.last_mut().unwrap().1;
            let text = String::from_utf8(seal.clone()).unwrap();
            *seal = text.replace("\"format\": 1", "\"format\": 2").into_bytes();
            (blobs, hand.next.to_string())
        },
    ),
    (
        "a seal of a disk that the machine has not",
        Code::SealInvalid,
        |hand, draft| {
            with_seal(hand, draft, |draft| {
                draft.seal.disks[0].disk = DiskId::from_random(random());
            })
        },
    ),
];

#[tokio::test]
async fn what_is_damaged_is_refused_by_name_and_nothing_of_it_is_applied() {
    for (what, code, damage) in DAMAGES {
        let world = world().await;
        let mut worker = world.worker();
        two_points(&world, &mut worker).await;
        let hand = hand(&world).await;
        let before = head(&world, &hand.disk()).await;
        // Given a good delta of which one thing is wrong
        let draft = hand.draft(hand.disk(), Kind::Delta, true, &[(0, page(3))]);
        let (blobs, named) = damage(&hand, draft);
        for (name, bytes) in blobs {
            hand.put(&name, bytes).await;
        }
        for attempt in 0..2 {
            // When it is to be applied, once and again
            let refused = worker.step().await.unwrap_err();
            assert_eq!(refused.code(), code, "{what}: {refused}");
            assert!(refused.to_string().contains(&named), "{what}: {refused}");
            assert_eq!(refused.refused(), Some(hand.next), "{what}, {attempt}");
        }
        // Then nothing has changed,
        assert_eq!(head(&world, &hand.disk()).await, before, "{what}");
        let manifest = world.manifest().await;
        let disk = &manifest.disks[&hand.disk()];
        let sequence = Sequence::new(2);
        assert_eq!(disk.head, Head::Consistent { sequence }, "{what}");
        assert_eq!(manifest.disks.len(), 1, "{what}");
        assert_two_points_are_whole(&world).await;
        // and a new chain goes on.
        worker.retire(Some(manifest.chain));
        world.apply_all(&mut worker).await;
        assert!(applied(&world).await >= 3);
        assert_two_points_are_whole(&world).await;
    }
}

#[tokio::test]
async fn what_stands_before_a_refused_log_is_applied_and_no_point_is_cut() {
    let world = world().await;
    let mut worker = world.worker();
    two_points(&world, &mut worker).await;
    // Given a delta in four parts, whose third is damaged
    let mut hand = hand(&world).await;
    for part in 0..4u8 {
        let writes = [(u64::from(part) * MIB, page(3 + part))];
        let mut draft = hand.draft(hand.disk(), Kind::Delta, part == 3, &writes);
        if part == 2 {
            *draft.logs[0].1.last_mut().unwrap() ^= 1;
        }
        hand.store(draft).await;
    }
    assert_eq!(worker.step().await.unwrap(), Step::Applied);
    let refused = worker.step().await.unwrap_err();
    assert_eq!(refused.refused(), Some(Sequence::new(5)));
    assert_eq!(applied(&world).await, 4);
    assert_two_points_are_whole(&world).await;
    let found = head(&world, &hand.disk()).await;
    assert!(found[..4096] == page(3) && found[2 << 20..].iter().take(4096).all(|byte| *byte == 0));
}

#[tokio::test]
async fn a_torn_seal_behind_parts_of_a_delta_is_told_and_not_waited_for() {
    let world = world().await;
    let mut worker = world.worker();
    two_points(&world, &mut worker).await;
    let mut hand = hand(&world).await;
    hand.write(Kind::Delta, false, &[(0, page(3))]).await;
    hand.put(&names::seal(hand.next), b"{ torn".to_vec()).await;
    let refused = worker.step().await.unwrap_err();
    assert_eq!(refused.refused(), Some(hand.next), "{refused}");
    assert_two_points_are_whole(&world).await;
}

#[tokio::test]
async fn a_manifest_that_is_torn_or_too_new_stops_everything_and_loses_nothing() {
    type Change = fn(&str) -> String;
    let damages: [(Code, Change); 2] = [
        (Code::ReplicaDamaged, |text| {
            text[..text.len() / 2].to_owned()
        }),
        (Code::FormatTooNew, |text| {
            text.replace("\"format\": 1", "\"format\": 9")
        }),
    ];
    for (code, damage) in damages {
        let world = world().await;
        two_points(&world, &mut world.worker()).await;
        let mut hand = hand(&world).await;
        hand.write(Kind::Delta, true, &[(0, page(3))]).await;
        let blob = BlobRef::head(names::MANIFEST);
        let good = world
            .cloud
            .replica
            .get(&blob, None, SIZE)
            .await
            .unwrap()
            .bytes;
        let bad = damage(std::str::from_utf8(&good).unwrap());
        let before = head(&world, &hand.disk()).await;
        overwrite(
            world.cloud.replica.as_ref(),
            names::MANIFEST,
            bad.clone().into(),
        )
        .await;
        let refused = world.worker().step().await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        let now = world
            .cloud
            .replica
            .get(&blob, None, SIZE)
            .await
            .unwrap()
            .bytes;
        assert_eq!(now, bad.as_bytes(), "it is left as it is");
        assert_eq!(head(&world, &hand.disk()).await, before);
        // Restored, all goes on.
        overwrite(world.cloud.replica.as_ref(), names::MANIFEST, good.into()).await;
        world.apply_all(&mut world.worker()).await;
        assert_eq!(applied(&world).await, 3);
    }
}

#[tokio::test]
async fn a_chunk_table_that_lies_is_told_by_its_name_and_the_points_stay() {
    let world = world().await;
    let mut worker = world.worker();
    two_points(&world, &mut worker).await;
    // Given a part whose last hash is another
    let mut hand = hand(&world).await;
    hand.copy().await;
    world.apply_all(&mut worker).await;
    let part = world.manifest().await.disks[&hand.disk()].tables[2]
        .blob
        .clone();
    let blob = BlobRef::head(&part);
    let good = world
        .cloud
        .replica
        .get(&blob, None, SIZE)
        .await
        .unwrap()
        .bytes;
    let mut bad = good.to_vec();
    bad[16] ^= 1;
    overwrite(world.cloud.replica.as_ref(), &part, bad).await;
    // When it is to be folded with those after it
    let fault = loop {
        hand.copy().await;
        worker.step().await.unwrap();
        if let Some(trouble) = worker.damage() {
            break trouble.fault.clone();
        }
        assert!(applied(&world).await < 40, "it is folded some day");
    };
    assert_eq!(fault.code, Code::ReplicaDamaged);
    assert!(fault.message.contains(&part), "{}", fault.message);
    let tables = &world.manifest().await.disks[&hand.disk()].tables;
    assert!(
        tables.iter().any(|table| table.blob == part),
        "it is still named"
    );
    assert_two_points_are_whole(&world).await;
    // Then what is sealed is applied all the same,
    let before = applied(&world).await;
    hand.copy().await;
    world.apply_all(&mut worker).await;
    assert_eq!(applied(&world).await, before + 1);
    assert!(worker.damage().is_some());
    // until a new chain does without it.
    worker.retire(Some(world.manifest().await.chain));
    world.apply_all(&mut worker).await;
    assert!(worker.damage().is_none());
    assert_two_points_are_whole(&world).await;
}

#[tokio::test]
async fn the_fence_and_the_manifest_of_another_replica_are_nobodys() {
    let (world, other) = (world().await, ReplicaId::from_random(random()));
    two_points(&world, &mut world.worker()).await;
    let foreign = other.clone();
    world.change_fence(|fence| fence.replica = foreign).await;
    assert_eq!(
        world.cloud.fence().await.unwrap_err().code(),
        Code::ForeignBlob
    );
    let told = async || {
        let mut engine = world.start().await;
        engine.wait_for_trouble().await;
        let fault = engine.observed.borrow().trouble.clone().unwrap().fault;
        assert_eq!(fault.code, Code::ForeignBlob, "{}", fault.message);
        fault.message
    };
    assert!(told().await.contains(names::FENCE));
    let ours = world.cloud.id.clone();
    world.change_fence(|fence| fence.replica = ours).await;
    let mut manifest = world.manifest().await;
    manifest.replica = other;
    let manifest = document::encode(&manifest).unwrap();
    overwrite(world.cloud.replica.as_ref(), names::MANIFEST, manifest).await;
    assert!(told().await.contains(names::MANIFEST));
}

#[tokio::test]
async fn an_engine_says_of_a_torn_seal_what_the_data_path_says() {
    let world = world().await;
    two_points(&world, &mut world.worker()).await;
    let hand = hand(&world).await;
    hand.put(&names::seal(hand.next), b"{ torn".to_vec()).await;
    let mut engine = world.start().await;
    engine.wait_for_trouble().await;
    let fault = engine.observed.borrow().trouble.clone().unwrap().fault;
    assert_eq!(fault.code, Code::SealInvalid, "{}", fault.message);
    assert!(fault.message.contains(&hand.next.to_string()));
}

#[tokio::test]
async fn somebody_elses_blob_where_a_disk_should_be_is_left_as_it_is() {
    let world = world().await;
    let mut hand = Hand::new(&world).await;
    let name = names::disk(&hand.disk());
    overwrite(world.cloud.replica.as_ref(), &name, b"a note".to_vec()).await;
    hand.write(Kind::Delta, true, &[(0, page(1))]).await;
    let mut worker = world.worker();
    for _ in 0..2 {
        let refused = worker.step().await.unwrap_err();
        assert_eq!(refused.code(), Code::ForeignBlob, "{refused}");
        assert!(refused.to_string().contains(&name), "{refused}");
    }
    assert_eq!(head(&world, &hand.disk()).await, &b"a note"[..]);
    assert!(world.manifest().await.disks.is_empty());
    // Moved away, all goes on.
    let blob = BlobRef::head(&name);
    let deleted = world.cloud.replica.delete(
        &blob,
        &site_recovery::blob::parameters::Condition::Always,
        DeleteSnapshots::None,
    );
    assert!(deleted.await.unwrap());
    world.apply_all(&mut worker).await;
    assert_eq!(world.manifest().await.points.len(), 1);
}

/// A worker on the world's replica whose requests meet `rules`.
pub(crate) fn faulty(world: &World, rules: Vec<Rule>) -> (Worker, Arc<Faults>) {
    let faults = Faults::new(1);
    rules.into_iter().for_each(|rule| faults.add(rule));
    let mut cloud = world.cloud.clone();
    cloud.inbox = Arc::new(FaultyContainer::new(cloud.inbox, faults.clone()));
    cloud.replica = Arc::new(FaultyContainer::new(cloud.replica, faults.clone()));
    (Worker::new(cloud), faults)
}

pub(crate) fn rule(operation: Operation, object: &str, calls: Calls, effect: Effect) -> Rule {
    Rule {
        operations: vec![operation],
        object: object.to_owned(),
        calls,
        effect,
    }
}

#[tokio::test]
async fn a_page_write_that_is_delayed_beyond_its_cycle_changes_nothing() {
    let world = world().await;
    two_points(&world, &mut world.worker()).await;
    let mut hand = hand(&world).await;
    hand.write(Kind::Delta, true, &[(0, page(3))]).await;
    // Given a page write that is lost on its way
    let gate = Gate::closed();
    let late = rule(
        Operation::PutPages,
        "*",
        Calls::Nth(1),
        Effect::Late(gate.clone()),
    );
    let (mut worker, _) = faulty(&world, vec![late]);
    worker.step().await.unwrap_err();
    gate.arrived(1).await;
    // And the cycle done again, and the next one
    hand.write(Kind::Delta, true, &[(0, page(4))]).await;
    world.apply_all(&mut worker).await;
    // When it arrives at last
    gate.open();
    gate.finished(1).await;
    // Then it changes nothing.
    assert!(head(&world, &hand.disk()).await[..4096] == page(4));
    let manifest = world.manifest().await;
    for (point, byte) in manifest.points.iter().zip(1..) {
        assert!(world.read_point(point, &hand.disk()).await[..4096] == page(byte));
    }
    assert_eq!(manifest.points.len(), 4);
}

fn targets(manifest: &Manifest) -> Vec<Option<Sequence>> {
    manifest
        .disks
        .values()
        .map(|disk| disk.head.target())
        .collect()
}

#[tokio::test]
async fn a_merged_apply_that_dies_is_taken_over_with_another_bound() {
    let world = world().await;
    two_points(&world, &mut world.worker()).await;
    // Given a delta in four parts that is applied at once, by an owner that dies in it
    let mut hand = hand(&world).await;
    for part in 0..4u8 {
        let writes = [(u64::from(part) * MIB, page(3 + part))];
        hand.write(Kind::Delta, part == 3, &writes).await;
    }
    let dies = rule(
        Operation::PutPages,
        "*",
        Calls::From(4),
        Effect::Fail(Failure::Unreachable),
    );
    let (mut first, _) = faulty(&world, vec![dies]);
    first.step().await.unwrap_err();
    assert_eq!(targets(&world.manifest().await), [Some(Sequence::new(6))]);
    // When the next one goes two parts far
    let hidden = rule(
        Operation::GetBlob,
        &format!("*/{}", names::seal(Sequence::new(5))),
        Calls::First(1),
        Effect::Fail(Failure::NotFound),
    );
    let (mut second, _) = faulty(&world, vec![hidden]);
    assert_eq!(second.step().await.unwrap(), Step::Applied);
    assert_eq!(applied(&world).await, 4);
    // Then it does not forget how far the first may have been,
    assert_eq!(targets(&world.manifest().await), [Some(Sequence::new(6))]);
    assert_two_points_are_whole(&world).await;
    // and comes to the same end.
    world.apply_all(&mut second).await;
    let manifest = world.manifest().await;
    let found = world
        .read_point(manifest.points.last().unwrap(), &hand.disk())
        .await;
    for part in 0..4u8 {
        let at = usize::from(part) << 20;
        assert!(found[at..at + 4096] == page(3 + part), "part {part}");
    }
}

#[tokio::test]
async fn of_two_owners_the_one_that_was_replaced_collects_nothing() {
    let world = world().await;
    two_points(&world, &mut world.worker()).await;
    let mut hand = hand(&world).await;
    hand.write(Kind::Delta, true, &[(0, page(3))]).await;
    // Given a new owner that dies between snapshot and publication
    let publish = rule(
        Operation::PutBlob,
        "*/replica.json",
        Calls::From(3),
        Effect::Fail(Failure::Unreachable),
    );
    let (mut second, _) = faulty(&world, vec![publish]);
    second.step().await.unwrap_err();
    let snapshots = async || {
        let include = Include {
            snapshots: true,
            metadata: true,
        };
        let listed = walk::blobs(world.cloud.replica.as_ref(), "disks/", include, 100).await;
        let items = listed.unwrap().items;
        items.iter().filter(|blob| blob.snapshot.is_some()).count()
    };
    assert_eq!(snapshots().await, 3);
    // When the owner before collects garbage
    let refused = collect::collect(&world.cloud, Generation::new(1)).await;
    // Then it is told that it is none any more, and nothing is gone.
    assert_eq!(refused.unwrap_err().code(), Code::Fenced);
    assert_eq!(snapshots().await, 3);
    // The next owner publishes, and collects what the dead one left.
    world.apply_all(&mut world.worker()).await;
    assert_eq!(world.manifest().await.points.len(), 3);
    assert_eq!(snapshots().await, 3);
}
