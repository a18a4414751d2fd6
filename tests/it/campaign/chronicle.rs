//! What a replica's manifests have said, one after the other.
//!
//! A point is compared with what was frozen when it is first seen, and counts for ever: retention may let it go. Whoever
//! works on the replica has it looked at before and after each of its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use site_recovery::blob::Container as _;
use site_recovery::blob::memory::MemoryContainer;
use site_recovery::blob::names::{BlobRef, ETag};
use site_recovery::blob::parameters::Include;
use site_recovery::blob::walk;
use site_recovery::host;
use site_recovery::ids::{DiskId, DiskSlot, ReplicaId};
use site_recovery::replica::document;
use site_recovery::replica::manifest::{Manifest, Point};
use site_recovery::replica::names::{self, InboxBlob};
use site_recovery::replica::seal::{self, Seal};
use site_recovery::units::{ByteRange, Sequence};

use crate::replication::model::Witness;

/// More than any document has.
const LIMIT: u64 = 1 << 30;

/// A barrier as a host took it.
#[derive(Clone)]
pub(crate) struct Taken {
    pub(crate) consistency: host::Consistency,
    pub(crate) disks: Vec<DiskSlot>,
}

/// Every barrier that was taken.
pub(crate) type Barriers = Arc<Mutex<BTreeMap<Timestamp, Taken>>>;

pub(crate) struct Chronicle {
    pub(crate) id: ReplicaId,
    pub(crate) disks: BTreeMap<DiskId, DiskSlot>,
    pub(crate) inbox: MemoryContainer,
    pub(crate) replica: MemoryContainer,
    pub(crate) witness: Arc<Witness>,
    pub(crate) barriers: Barriers,
    pub(crate) told: Mutex<Told>,
}

#[derive(Default)]
pub(crate) struct Told {
    last: Option<Manifest>,
    tag: Option<ETag>,
    /// Barriers that there was a point of.
    pub(crate) published: BTreeSet<Timestamp>,
    /// Barriers that were sealed and fell with their chain, as they may: at or behind what was damaged.
    pub(crate) fallen: BTreeSet<Timestamp>,
    damaged: BTreeSet<Sequence>,
    pub(crate) wrong: Vec<String>,
}

impl Chronicle {
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// The seal at `sequence`, or something that it names, is about to be lost.
    pub(crate) async fn damage(&self, sequence: Sequence) {
        let barrier = self.seal(sequence).await.barrier;
        let mut told = self.told();
        told.damaged.insert(sequence);
        // When its chain falls, its seal may not be there any more.
        told.fallen.extend(barrier.map(|barrier| barrier.time));
    }

    /// Whether a barrier was of this disk, too.
    pub(crate) fn has(&self, barrier: Timestamp, slot: &DiskSlot) -> bool {
        self.barriers.lock().unwrap()[&barrier].disks.contains(slot)
    }

    /// Looks at the manifest. It waits for nothing, so that nobody acts meanwhile.
    pub(crate) async fn look(&self) {
        let name = BlobRef::head(names::MANIFEST);
        let tag = Some(self.replica.properties(&name).await.unwrap().etag);
        if self.told().tag == tag {
            return;
        }
        let bytes = self.replica.get(&name, None, LIMIT).await.unwrap().bytes;
        let now: Manifest = document::decode(&bytes).unwrap();
        let before = self.told().last.replace(now.clone());
        self.told().tag = tag;
        let mut wrong = Vec::new();
        for point in &now.points {
            if self.told().published.insert(point.barrier.time) {
                wrong.extend(self.differs(point).await);
            }
        }
        if let Some(before) = before {
            wrong.extend(went_too_early(&before, &now));
            if before.chain != now.chain {
                let fallen = self.fallen(&before).await;
                self.told().fallen.extend(fallen);
            }
        }
        self.told().wrong.extend(wrong);
    }

    /// What is wrong with a point: it is exactly what was frozen at its barrier.
    pub(crate) async fn differs(&self, point: &Point) -> Option<String> {
        let (sequence, time) = (point.sequence, point.barrier.time);
        let Some(taken) = self.barriers.lock().unwrap().get(&time).cloned() else {
            return Some(format!("no barrier of {time} was taken: {sequence}"));
        };
        let consistency = match taken.consistency {
            host::Consistency::Crash => seal::Consistency::Crash,
            host::Consistency::Application => seal::Consistency::Application,
        };
        if point.barrier.consistency != consistency {
            return Some(format!("{sequence} is not {consistency:?}"));
        }
        let frozen = self.witness.at(time);
        for (id, slot) in &self.disks {
            let found = self.read(point, id).await;
            if found.is_some() != taken.disks.contains(slot) {
                return Some(format!("{sequence} has disk {slot}: {}", found.is_some()));
            }
            let Some(found) = found else { continue };
            if found.len() != frozen[slot].len() {
                let length = found.len();
                return Some(format!("disk {slot} of {sequence} has {length} bytes"));
            }
            if let Some(at) = (0..found.len()).find(|at| found[*at] != frozen[slot][*at]) {
                return Some(format!(
                    "byte {at} of disk {slot} is not what was frozen at {sequence}"
                ));
            }
        }
        None
    }

    /// What a disk holds at a point; nothing if the point does not have it.
    pub(crate) async fn read(&self, point: &Point, disk: &DiskId) -> Option<Vec<u8>> {
        let at = point.disks.get(disk)?;
        let blob = BlobRef::at(names::disk(disk), at.snapshot.parse().unwrap());
        let got = self
            .replica
            .get(&blob, Some(ByteRange::to(at.size)), at.size);
        Some(got.await.unwrap().bytes.to_vec())
    }

    async fn seals(&self) -> BTreeSet<Sequence> {
        let listed = walk::blobs(&self.inbox, "", Include::default(), 10_000).await;
        let sequence = |name: &str| match names::inbox_blob(name) {
            InboxBlob::Seal(sequence) => Some(sequence),
            InboxBlob::Log(..) | InboxBlob::Foreign => None,
        };
        let items = listed.unwrap().items;
        items
            .iter()
            .filter_map(|blob| sequence(&blob.name))
            .collect()
    }

    async fn seal(&self, sequence: Sequence) -> Seal {
        let name = BlobRef::head(names::seal(sequence));
        let bytes = self.inbox.get(&name, None, LIMIT).await.unwrap().bytes;
        Seal::decode(&bytes, &self.id, sequence).unwrap().0
    }

    /// The barriers that were sealed in the chain of `before` and may not become points, now that it is retired.
    async fn fallen(&self, before: &Manifest) -> Vec<Timestamp> {
        let next = before.last_applied.sequence.next();
        let mut fallen = Vec::new();
        for sequence in self.seals().await.range(next..) {
            let seal = self.seal(*sequence).await;
            let damaged = self.told().damaged.range(next..=*sequence).next().is_some();
            if seal.chain == before.chain && damaged {
                fallen.extend(seal.barrier.map(|barrier| barrier.time));
            }
        }
        fallen
    }
}

/// A point that went although it is the newest of its consistency, which is always there to go back to.
fn went_too_early(before: &Manifest, now: &Manifest) -> Option<String> {
    let stays = |point: &Point| now.points.iter().any(|other| other.id == point.id);
    let better = |point: &Point| {
        let mut points = now.points.iter();
        points.any(|other| {
            other.sequence > point.sequence
                && other.barrier.consistency == point.barrier.consistency
        })
    };
    let mut points = before.points.iter();
    let gone = points.find(|point| !stays(point) && !better(point))?;
    Some(format!(
        "the point of {} went, the newest of its kind",
        gone.sequence
    ))
}
