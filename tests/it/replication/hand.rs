//! An agent's hand: fills an inbox with seals and logs that say what a test wants them to say.

use std::io::Cursor;

use jiff::Timestamp;
use site_recovery::blob::parameters::{Include, PutOptions};
use site_recovery::blob::walk;
use site_recovery::hrl::{Identity, LogWriter};
use site_recovery::ids::{ChainId, DiskId};
use site_recovery::replica::Digest;
use site_recovery::replica::names;
use site_recovery::replica::seal::{
    Barrier, Consistency, DiskCursor, Encoding, Kind, Seal, SealedDisk, SealedLog, Writer,
};
use site_recovery::units::{ByteRange, Generation, Sequence, to_u64};
use uuid::Uuid;

use super::world::World;

/// The disk that a hand seals, unless it says otherwise.
pub(crate) const SIZE: u64 = 4 << 20;
const SECTOR: u64 = 512;

pub(crate) struct Hand<'a> {
    pub(crate) world: &'a World,
    pub(crate) chain: ChainId,
    pub(crate) next: Sequence,
    pub(crate) prev: Option<Digest>,
    /// Bytes of the disk.
    pub(crate) size: u64,
}

/// A seal that is not stored yet, and its logs by their names.
pub(crate) struct Draft {
    pub(crate) seal: Seal,
    pub(crate) logs: Vec<(String, Vec<u8>)>,
}

impl<'a> Hand<'a> {
    pub(crate) async fn new(world: &'a World) -> Self {
        Hand {
            world,
            chain: world.manifest().await.chain,
            next: Sequence::ZERO.next(),
            prev: None,
            size: SIZE,
        }
    }

    /// The same hand after a new chain began.
    pub(crate) async fn follow(&mut self) {
        let manifest = self.world.manifest().await;
        (self.chain, self.prev) = (manifest.chain, manifest.last_applied.seal);
        self.next = manifest.last_applied.sequence.next();
    }

    pub(crate) fn disk(&self) -> DiskId {
        self.world.disks.keys().next().unwrap().clone()
    }

    pub(crate) async fn put(&self, name: &str, bytes: Vec<u8>) {
        let (inbox, create) = (&self.world.cloud.inbox, PutOptions::create());
        inbox.put(name, bytes.into(), &create).await.unwrap();
    }

    /// Leaves a sequence out.
    pub(crate) fn skip(&mut self) {
        self.prev = Some(Digest::of(b"the seal that is missing"));
        self.next = self.next.next();
    }

    /// The next seal: each write is a log.
    pub(crate) fn draft(
        &self,
        disk: DiskId,
        kind: Kind,
        barrier: bool,
        writes: &[(u64, Vec<u8>)],
    ) -> Draft {
        let logs = writes.iter().map(|(offset, data)| self.log(*offset, data));
        let (sealed, logs): (Vec<SealedLog>, Vec<_>) = logs.unzip();
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
                size: self.size,
                kind,
                logs: sealed,
                cursor: DiskCursor::Copied {
                    point: "p".parse().unwrap(),
                },
            }],
        };
        Draft { seal, logs }
    }

    fn log(&self, offset: u64, data: &[u8]) -> (SealedLog, (String, Vec<u8>)) {
        let id = Uuid::new_v4();
        let identity = Identity {
            id,
            previous: None,
            disk_size: self.size,
            created: Timestamp::UNIX_EPOCH,
        };
        let mut log = LogWriter::new(Cursor::new(Vec::new()), identity).unwrap();
        log.write(offset, data).unwrap();
        let bytes = log.finish(Timestamp::UNIX_EPOCH).unwrap().into_inner();
        let sealed = SealedLog {
            log: id,
            range: ByteRange::at(offset, to_u64(data.len())).unwrap(),
            encoding: Encoding::Identity,
            stored: to_u64(bytes.len()),
            length: to_u64(bytes.len()),
            blake3: Digest::of(&bytes),
        };
        (sealed, (names::log(self.next, &id), bytes))
    }

    /// Stores the logs of a draft, and its seal after them.
    pub(crate) async fn store(&mut self, draft: Draft) {
        for (name, bytes) in draft.logs {
            self.put(&name, bytes).await;
        }
        let (bytes, id) = draft.seal.encode().unwrap();
        self.put(&names::seal(self.next), bytes).await;
        self.pass(id);
    }

    /// Goes on behind the seal of this id.
    pub(crate) fn pass(&mut self, id: Digest) {
        (self.next, self.prev) = (self.next.next(), Some(id));
    }

    /// Seals writes to the first disk.
    pub(crate) async fn write(&mut self, kind: Kind, barrier: bool, writes: &[(u64, Vec<u8>)]) {
        let draft = self.draft(self.disk(), kind, barrier, writes);
        self.store(draft).await;
    }

    /// Seals one sector, always the same one: no two seals are one cycle.
    pub(crate) async fn seal(&mut self, disk: DiskId, kind: Kind, barrier: bool) {
        let byte = u8::try_from(self.next.value() % 251).unwrap();
        let sector = vec![byte; usize::try_from(SECTOR).unwrap()];
        let draft = self.draft(disk, kind, barrier, &[(0, sector)]);
        self.store(draft).await;
    }

    pub(crate) async fn copy(&mut self) {
        self.seal(self.disk(), Kind::Copy, false).await;
    }
}

pub(crate) async fn names_in_the_inbox(world: &World) -> Vec<String> {
    let listed = walk::blobs(world.cloud.inbox.as_ref(), "", Include::default(), 10_000);
    let items = listed.await.unwrap().items;
    items.into_iter().map(|blob| blob.name).collect()
}

pub(crate) async fn applied(world: &World) -> u64 {
    world.manifest().await.last_applied.sequence.value()
}
