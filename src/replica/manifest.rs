//! `replica.json`: how far the data path is with a replica. The data path alone writes it, by ETag.
//!
//! ```text
//! disk head     Copying ──first barrier applied──► Consistent(sequence) ⇄ Applying(target)
//!                                                        └──planned failover──► Sealed(run)
//! ```
//! `Copying` and `Applying` name the highest sequence whose pages may have been written: it is stored before the first
//! of them, and nothing below it is cut. Only `Consistent` heads are snapshotted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Digest;
use super::document::Document;
use super::seal::{Barrier, DISK_MAX, DiskCursor, Seal};
use crate::ids::{ChainId, DiskId, RecoveryPointId, ReplicaId};
use crate::units::{Generation, Sequence};

/// Owners that a replica can have: page blob sequence numbers end at 2⁶³, and half of their bits count cycles.
const OWNERS_MAX: u64 = 1 << 31;

/// The most recovery points that a replica keeps: a year of hours fits, and the manifest stays readable.
pub const POINTS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub replica: ReplicaId,
    pub writer: WriterMark,
    pub chain: ChainId,
    /// The chain takes no seals any more: it is being retired. Whoever seals reads the manifest afterwards, and does not
    /// count on a seal then: of what was sealed before, nothing that can be applied is missed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Up to here sequences are of chains that were retired; zero for the first chain.
    #[serde(default)]
    pub retired_to: Sequence,
    pub last_applied: Applied,
    pub disks: BTreeMap<DiskId, ReplicaDisk>,
    /// By ascending sequence.
    pub points: Vec<Point>,
}

/// Which writer of pages is the last, and how many apply cycles it has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriterMark {
    pub generation: Generation,
    pub cycle: u32,
}

impl WriterMark {
    /// The sequence number that every page write of this cycle demands of its blob: generation · 2³² + cycle.
    ///
    /// # Panics
    /// After 2³¹ owners. A manifest that was read leaves room for one more.
    pub fn fence(self) -> u64 {
        let generation = self.generation.value();
        assert!(generation < OWNERS_MAX, "a replica never has 2^31 owners");
        generation << 32 | u64::from(self.cycle)
    }

    /// The mark of the next owner.
    #[must_use]
    pub fn taken_over(self) -> Self {
        WriterMark {
            generation: self.generation.next(),
            cycle: 0,
        }
    }

    /// The mark of the next cycle of the same owner; of the next owner once an owner's cycles are used up.
    #[must_use]
    pub fn next_cycle(self) -> Self {
        match self.cycle.checked_add(1) {
            Some(cycle) => WriterMark { cycle, ..self },
            None => self.taken_over(),
        }
    }
}

/// The last sequence that is wholly in the disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    pub sequence: Sequence,
    /// Its seal; nothing at the start of a chain.
    pub seal: Option<Digest>,
    /// Where the host side goes on, by disk.
    pub cursors: BTreeMap<DiskId, DiskCursor>,
}

/// A disk of the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaDisk {
    /// Bytes that the guest sees.
    pub size: u64,
    /// The size before, from the moment that the blob may be changing its size until what came with it is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grown_from: Option<u64>,
    pub head: Head,
    /// The chunk table, oldest part first. The first part begins at sequence 0.
    pub tables: Vec<TableRef>,
}

impl Head {
    /// The highest sequence whose pages may have been written, if it is not the one that is exactly in the disk.
    pub const fn target(&self) -> Option<Sequence> {
        match self {
            Head::Copying { target } => *target,
            Head::Applying { target } => Some(*target),
            Head::Consistent { .. } | Head::Sealed { .. } => None,
        }
    }
}

/// What the page blob of a disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Head {
    /// Something between nothing and a frozen point.
    Copying { target: Option<Sequence> },
    /// Something between two barriers.
    Applying { target: Sequence },
    /// Exactly the disk at the barrier of this sequence.
    Consistent { sequence: Sequence },
    /// The last state of a planned failover: nothing is applied any more.
    Sealed { sequence: Sequence, run: String },
}

/// A part of a chunk table: an immutable blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableRef {
    pub blob: String,
    /// The sequences whose changes it tells, both included.
    pub from: Sequence,
    pub to: Sequence,
    /// Bytes.
    pub length: u64,
    pub blake3: Digest,
}

/// A recovery point: one blob snapshot of every disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    pub id: RecoveryPointId,
    pub sequence: Sequence,
    pub barrier: Barrier,
    /// When it was published, by storage's clock: its age counts from here.
    pub published: Timestamp,
    pub disks: BTreeMap<DiskId, PointDisk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PointDisk {
    /// The blob snapshot's id.
    pub snapshot: String,
    /// Bytes that the guest sees.
    pub size: u64,
}

/// What a seal is to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Applied already, or of a chain that was retired.
    Garbage,
    /// The one that follows what was applied last.
    Next,
    /// The chain is broken here: a seal between is missing.
    Gap,
}

impl Manifest {
    /// A replica before anything has been sealed.
    pub fn new(replica: ReplicaId, chain: ChainId) -> Self {
        let last_applied = Applied {
            sequence: Sequence::ZERO,
            seal: None,
            cursors: BTreeMap::new(),
        };
        Manifest {
            replica,
            writer: WriterMark::default(),
            chain,
            closed: false,
            retired_to: Sequence::ZERO,
            last_applied,
            disks: BTreeMap::new(),
            points: Vec::new(),
        }
    }

    /// Whether there are points, and none since the chain began or since a disk began to be copied.
    pub fn is_resyncing(&self) -> bool {
        let Some(newest) = self.points.last().map(|point| point.sequence) else {
            return false;
        };
        let copies = |disk: &ReplicaDisk| match disk.head {
            Head::Copying { target } => target.is_none_or(|target| target > newest),
            Head::Applying { .. } | Head::Consistent { .. } | Head::Sealed { .. } => false,
        };
        self.retired_to >= newest || self.disks.values().any(copies)
    }

    /// The size that a disk had at `sequence`, or somewhat later: but not later than any point since, which must be able to
    /// read what tells of it.
    pub fn size_at(&self, id: &DiskId, sequence: Sequence) -> u64 {
        let since = self.points.iter();
        let sizes = since
            .filter(|point| point.sequence >= sequence)
            .filter_map(|point| point.disks.get(id))
            .map(|disk| disk.size);
        let now = self.disks.get(id).map_or(0, |disk| disk.size);
        sizes.fold(now, u64::min)
    }

    /// Whether a chunk table has this part.
    pub fn names_part(&self, blob: &str) -> bool {
        let mut parts = self.disks.values().flat_map(|disk| &disk.tables);
        parts.any(|part| part.blob == blob)
    }

    /// What `seal` is to this replica, given the seal before it that counts (the last one applied, or planned).
    pub fn judge(&self, seal: &Seal, before: Option<Digest>) -> Verdict {
        if seal.chain != self.chain || seal.sequence <= self.last_applied.sequence {
            Verdict::Garbage
        } else if seal.prev == before {
            Verdict::Next
        } else {
            Verdict::Gap
        }
    }
}

impl Document for Manifest {
    const WHAT: &'static str = "replica.json";
    const FORMAT: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.writer.taken_over().generation.value() >= OWNERS_MAX {
            return Err(format!("it has had {} owners", self.writer.generation));
        }
        if self.points.len() > POINTS_MAX {
            return Err(format!("it has {} recovery points", self.points.len()));
        }
        if self
            .points
            .windows(2)
            .any(|pair| pair[0].sequence >= pair[1].sequence)
        {
            return Err("its recovery points are not in the order of their sequences".to_owned());
        }
        if self
            .points
            .last()
            .is_some_and(|point| point.sequence > self.last_applied.sequence)
        {
            return Err("it has a recovery point newer than what was applied".to_owned());
        }
        for (disk, replica) in &self.disks {
            if replica.size > DISK_MAX {
                return Err(format!("disk {disk} has {} bytes", replica.size));
            }
            let mut next = Sequence::ZERO;
            for table in &replica.tables {
                if table.from < next || table.to < table.from {
                    return Err(format!("the chunk tables of disk {disk} are not in order"));
                }
                next = table.to.next();
            }
        }
        Ok(())
    }
}
