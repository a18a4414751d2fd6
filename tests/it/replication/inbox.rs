//! What a worker makes of an inbox that somebody filled by hand: seals, logs that nobody named, and what is missing.

use std::io::Cursor;
use std::sync::Arc;

use jiff::Timestamp;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::parameters::{Include, PutOptions};
use site_recovery::blob::walk;
use site_recovery::datapath::Error;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::hrl::{Identity, LogWriter};
use site_recovery::ids::{ChainId, DiskId, random};
use site_recovery::replica::Digest;
use site_recovery::replica::names;
use site_recovery::replica::seal::{
    Barrier, Consistency, DiskCursor, Encoding, Kind, Seal, SealedDisk, SealedLog, Writer,
};
use site_recovery::report::Code;
use site_recovery::units::{ByteRange, Generation, Sequence, to_u64};
use uuid::Uuid;

use super::world::World;

const SIZE: u64 = 4 << 20;
const SECTOR: u64 = 512;

/// An agent's hand: puts seals into an inbox, each with one log of one sector.
struct Hand<'a> {
    world: &'a World,
    chain: ChainId,
    next: Sequence,
    prev: Option<Digest>,
}

impl<'a> Hand<'a> {
    async fn new(world: &'a World) -> Self {
        Hand {
            world,
            chain: world.manifest().await.chain,
            next: Sequence::ZERO.next(),
            prev: None,
        }
    }

    fn disk(&self) -> DiskId {
        self.world.disks.keys().next().unwrap().clone()
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) {
        let (inbox, create) = (&self.world.cloud.inbox, PutOptions::create());
        inbox.put(name, bytes.into(), &create).await.unwrap();
    }

    /// Leaves a sequence out.
    fn skip(&mut self) {
        self.prev = Some(Digest::of(b"the seal that is missing"));
        self.next = self.next.next();
    }

    /// Seals one sector, always the same one: no two seals are one cycle.
    async fn seal(&mut self, disk: DiskId, kind: Kind, barrier: bool) {
        let (id, range) = (Uuid::new_v4(), ByteRange::at(0, SECTOR).unwrap());
        let identity = Identity {
            id,
            previous: None,
            disk_size: SIZE,
            created: Timestamp::UNIX_EPOCH,
        };
        let mut log = LogWriter::new(Cursor::new(Vec::new()), identity).unwrap();
        log.write(0, &[u8::try_from(self.next.value() % 251).unwrap(); 512])
            .unwrap();
        let bytes = log.finish(Timestamp::UNIX_EPOCH).unwrap().into_inner();
        let log = SealedLog {
            log: id,
            range,
            encoding: Encoding::Identity,
            stored: to_u64(bytes.len()),
            length: to_u64(bytes.len()),
            blake3: Digest::of(&bytes),
        };
        let seal = Seal {
            replica: self.world.cloud.id.clone(),
            chain: self.chain.clone(),
            sequence: self.next,
            prev: self.prev,
            writer: Writer {
                host: "hv1".parse().unwrap(),
                generation: Generation::new(1),
            },
            barrier: barrier.then_some(Barrier {
                time: Timestamp::UNIX_EPOCH,
                consistency: Consistency::Crash,
            }),
            disks: vec![SealedDisk {
                disk,
                size: SIZE,
                kind,
                logs: vec![log],
                cursor: DiskCursor::Copied {
                    point: "p".parse().unwrap(),
                },
            }],
        };
        self.put(&names::log(self.next, &id), bytes).await;
        let (bytes, id) = seal.encode().unwrap();
        self.put(&names::seal(self.next), bytes).await;
        (self.next, self.prev) = (self.next.next(), Some(id));
    }

    async fn copy(&mut self) {
        self.seal(self.disk(), Kind::Copy, false).await;
    }
}

async fn names_in_the_inbox(world: &World) -> Vec<String> {
    let listed = walk::blobs(world.cloud.inbox.as_ref(), "", Include::default(), 10_000);
    let items = listed.await.unwrap().items;
    items.into_iter().map(|blob| blob.name).collect()
}

async fn applied(world: &World) -> u64 {
    world.manifest().await.last_applied.sequence.value()
}

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
