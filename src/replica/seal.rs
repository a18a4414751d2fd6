//! `sealed.json`: the commit mark of a sequence. A log that no seal names does not exist.
//!
//! Seals of a chain are a linked list: each names the BLAKE3 of the bytes of the one before. A seal with a barrier ends
//! at one instant of all disks that it names; one without is a part, and what it brings is consistent only with those
//! that follow, up to the next barrier.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::document::Document;
use super::{Digest, Error, document};
use crate::host::TrackingCursor;
use crate::ids::{ChainId, DiskId, FrozenPointId, HostName, ReplicaId};
use crate::units::{ByteRange, Generation, MIB, SECTOR, Sequence};

/// The longest log, as stored and as captured. Both sides hold a few in memory; DESIGN §4 allows up to 256 MiB.
pub const LOG_MAX: u64 = 32 * MIB;
/// Logs of one seal, as captured, that the data path holds between verifying and applying them; what is more it reads
/// twice. A copy stays below it.
pub const KEPT_MAX: u64 = 24 * MIB;
/// The most logs that one seal names; what needs more is shipped in parts.
pub const LOGS_MAX: usize = 64;
/// The most disks of a VM: Hyper-V's 4 IDE and 4 × 64 SCSI places.
pub const DISKS_MAX: usize = 260;
/// The longest cursor: the manifest repeats one for every disk.
const CURSOR_MAX: usize = 2048;
/// The largest disk that a page blob can hold with its footer.
pub const DISK_MAX: u64 = 8191 * 1024 * MIB;

/// What one sequence brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    pub replica: ReplicaId,
    pub chain: ChainId,
    pub sequence: Sequence,
    /// The seal before; nothing for the first of a chain.
    pub prev: Option<Digest>,
    pub writer: Writer,
    pub barrier: Option<Barrier>,
    pub disks: Vec<SealedDisk>,
}

/// Who sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    pub host: HostName,
    pub generation: Generation,
}

/// The instant that all disks of a seal stand at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Barrier {
    /// By the host's clock.
    pub time: Timestamp,
    pub consistency: Consistency,
}

/// What the guest had done at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    Crash,
    Application,
    /// The machine was off, and nothing followed: the end of a planned failover.
    Final,
}

/// What a sequence brings to one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedDisk {
    pub disk: DiskId,
    /// Bytes of the disk at this sequence.
    pub size: u64,
    pub kind: Kind,
    /// Ranges of different logs do not overlap.
    pub logs: Vec<SealedLog>,
    /// From where the agent goes on after this seal.
    pub cursor: DiskCursor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Content of a frozen point, where it differs from the chunk table.
    Copy,
    /// What changed between two barriers.
    Delta,
}

/// One log of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedLog {
    pub log: Uuid,
    /// All records lie in here.
    pub range: ByteRange,
    pub encoding: Encoding,
    /// Bytes of the blob.
    pub stored: u64,
    /// Bytes of the log as it was captured.
    pub length: u64,
    /// Of the log as it was captured.
    pub blake3: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    Identity,
    Zstd,
}

/// Where replication of a disk stands, as the host side needs it to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DiskCursor {
    /// Everything of the frozen point below `position` bytes is sealed.
    Copying { point: FrozenPointId, position: u64 },
    /// Everything of the frozen point is sealed.
    Copied { point: FrozenPointId },
    /// Everything up to a barrier is sealed; what follows is counted from this cursor.
    Tracking { cursor: TrackingCursor },
}

impl Document for Seal {
    const WHAT: &'static str = "sealed.json";
    const FORMAT: u32 = 1;
    /// All disks that a VM can have with the longest cursors, and every log: a megabyte. Most seals have one KiB.
    const LENGTH_MAX: usize = 2 << 20;

    fn check(&self) -> Result<(), String> {
        let mut disks = BTreeSet::new();
        let mut logs = BTreeSet::new();
        if self.disks.len() > DISKS_MAX {
            return Err(format!(
                "it names {} disks, at most {DISKS_MAX}",
                self.disks.len()
            ));
        }
        for disk in &self.disks {
            if !disks.insert(&disk.disk) {
                return Err(format!("disk {} stands in it twice", disk.disk));
            }
            disk.check()?;
            for log in &disk.logs {
                if !logs.insert(log.log) {
                    return Err(format!("log {} stands in it twice", log.log));
                }
            }
        }
        if logs.len() > LOGS_MAX {
            return Err(format!("it names {} logs, at most {LOGS_MAX}", logs.len()));
        }
        Ok(())
    }
}

impl SealedDisk {
    fn check(&self) -> Result<(), String> {
        let SealedDisk { disk, size, .. } = self;
        if *size == 0 || *size > DISK_MAX || !size.is_multiple_of(SECTOR) {
            return Err(format!("disk {disk} has {size} bytes"));
        }
        if let DiskCursor::Tracking { cursor } = &self.cursor
            && cursor.as_str().len() > CURSOR_MAX
        {
            let length = cursor.as_str().len();
            return Err(format!("the cursor of disk {disk} has {length} bytes"));
        }
        let mut ranges: Vec<_> = self.logs.iter().map(|log| log.range).collect();
        ranges.sort_unstable();
        if let Some(pair) = ranges
            .windows(2)
            .find(|pair| pair[0].end() > pair[1].start())
        {
            return Err(format!(
                "logs of disk {disk} overlap: {} and {}",
                pair[0], pair[1]
            ));
        }
        for log in &self.logs {
            if log.range.end() > *size || log.range.is_empty() {
                return Err(format!(
                    "log {} covers {} of a disk of {size} bytes",
                    log.log, log.range
                ));
            }
            if log.length > LOG_MAX || log.stored > LOG_MAX {
                return Err(format!("log {} is longer than {LOG_MAX} bytes", log.log));
            }
        }
        Ok(())
    }
}

impl Seal {
    /// The bytes to store, and the id that the next seal names.
    ///
    /// # Errors
    /// If a field cannot be said in JSON.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest), Error> {
        let bytes = document::encode(self)?;
        let id = Digest::of(&bytes);
        Ok((bytes, id))
    }

    /// The seal that stands at `sequence` of `replica`, and its id.
    ///
    /// # Errors
    /// If the bytes are no seal, or one of another place.
    pub fn decode(
        bytes: &[u8],
        replica: &ReplicaId,
        sequence: Sequence,
    ) -> Result<(Self, Digest), Error> {
        let seal: Seal = document::decode(bytes)?;
        if seal.replica != *replica || seal.sequence != sequence {
            let why = format!(
                "it says that it is sequence {} of replica {}, and stands at {sequence} of {replica}",
                seal.sequence, seal.replica
            );
            return Err(Error::Inconsistent {
                what: Self::WHAT,
                why,
            });
        }
        Ok((seal, Digest::of(bytes)))
    }

    /// Bytes of all logs as they were captured.
    pub fn length(&self) -> u64 {
        self.disks
            .iter()
            .flat_map(|disk| &disk.logs)
            .map(|log| log.length)
            .sum()
    }
}
