//! The record of a capture: which logs belong together, after which seal they come, and what they hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::phase::Cursors;
use crate::ids::{DiskId, FrozenPointId};
use crate::replica::Digest;
use crate::replica::seal::Barrier;
use crate::units::ByteRange;

/// A capture that is whole on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The seal that it comes after.
    pub after: Option<Digest>,
    /// The point whose changes it holds; releasing it gives the cursors that go into the seal.
    pub point: FrozenPointId,
    pub since: Cursors,
    pub barrier: Barrier,
    pub disks: Vec<CapturedDisk>,
    /// What of it is sealed, while its barrier is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<SealedPart>,
}

/// The beginning of a capture, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedPart {
    /// The newest of its seals.
    pub seal: Digest,
    /// Bytes of each disk: all changes before are sealed. Of a disk that is not here none is.
    pub positions: BTreeMap<DiskId, u64>,
}

/// The captured log of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedDisk {
    pub disk: DiskId,
    /// Bytes of the disk at the barrier.
    pub size: u64,
    pub log: Uuid,
    pub path: PathBuf,
    /// Of what was captured, as [`hash_run`] adds it up.
    pub content: Digest,
    /// Bytes that changed.
    #[serde(default)]
    pub changed: u64,
}

impl Record {
    /// Where shipping goes on behind the seal `last`; nothing if that is none of this capture's: another has sealed, and
    /// what it brought may be newer than what was captured here.
    pub fn goes_on_from(&self, last: Option<Digest>) -> Option<BTreeMap<DiskId, u64>> {
        match &self.part {
            Some(part) if Some(part.seal) == last => Some(part.positions.clone()),
            Some(_) | None => (self.after == last).then(BTreeMap::new),
        }
    }

    /// Notes that `positions` are sealed by `seal`, too.
    pub fn add_part(&mut self, seal: Digest, positions: BTreeMap<DiskId, u64>) {
        let mut sealed = self.part.take().map(|part| part.positions);
        sealed.get_or_insert_default().extend(positions);
        self.part = sealed.map(|positions| SealedPart { seal, positions });
    }

    /// Bytes that changed, on all disks.
    pub fn changed(&self) -> u64 {
        self.disks.iter().map(|disk| disk.changed).sum()
    }
}

/// A hash over what a log says, independent of how it is laid out.
pub fn content_hasher() -> blake3::Hasher {
    blake3::Hasher::new()
}

/// Adds one record: its range, and its data; nothing for zeroes.
pub fn hash_run(hasher: &mut blake3::Hasher, range: ByteRange, data: Option<&[u8]>) {
    hasher.update(&range.start().to_le_bytes());
    hasher.update(&range.end().to_le_bytes());
    hasher.update(&[u8::from(data.is_some())]);
    if let Some(data) = data {
        hasher.update(data);
    }
}
