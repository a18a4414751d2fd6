//! What the hypervisor remembers of a machine: the content of `machine.json`. Data only.
//!
//! A freeze, a commit, the end of a merge and a change of power are each one replacement of this record; what else is on
//! disk is made before it, or cleaned up after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::lab::spec::Settings;
use crate::host::{Backing, BootGeneration, FrozenPoint, Kind, PowerState, TrackingCursor};
use crate::ids::{DiskSlot, FrozenPointId, VmId};
use crate::lab::hypervisor::image_state::ImageState;
use crate::lab::hypervisor::tracking::Generations;

/// The version of the record that this build writes.
pub(crate) const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// The machine's folder, which the paths of its own images begin with.
    #[serde(default)]
    pub(crate) folder: Option<PathBuf>,
    pub(crate) id: VmId,
    pub(crate) name: String,
    pub(crate) boot: BootGeneration,
    pub(crate) settings: Settings,
    pub(crate) power: PowerState,
    pub(crate) disks: BTreeMap<DiskSlot, DiskRecord>,
    /// The point of ours that is frozen.
    pub(crate) point: Option<PointRecord>,
    /// Points that were committed, oldest first, until their cursors are forgotten.
    pub(crate) committed: Vec<CommittedRecord>,
    pub(crate) checkpoints: Vec<CheckpointRecord>,
    /// Files that may be there and belong to nobody: made for a freeze that was not recorded, or merged away.
    pub(crate) discard: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiskRecord {
    pub(crate) backing: Backing,
    /// The image that the guest writes, or the name of what is no image.
    pub(crate) path: PathBuf,
    /// Bytes, of what is no image; of an image, its own file says it.
    pub(crate) foreign_size: u64,
    /// What the live image must look like; nothing if it may look as it likes.
    pub(crate) image: Option<ImageState>,
    /// Whether the live image is to be merged into its parent, which then is the live image.
    pub(crate) merging: bool,
    pub(crate) tracking: Option<Generations>,
    /// Why tracking ended last that nobody has stopped. It is known as long as somebody may ask with an older cursor.
    pub(crate) tracking_lost: Option<Lost>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PointRecord {
    pub(crate) point: FrozenPoint,
    /// The frozen image of each disk.
    pub(crate) images: BTreeMap<DiskSlot, PathBuf>,
    /// What it becomes when it is committed, of each disk that was tracked at the barrier.
    pub(crate) cursors: BTreeMap<DiskSlot, TrackingCursor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommittedRecord {
    pub(crate) point: FrozenPointId,
    pub(crate) cursors: BTreeMap<DiskSlot, TrackingCursor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckpointRecord {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) taken_at: Timestamp,
    pub(crate) images: BTreeMap<DiskSlot, PathBuf>,
}

/// Why tracking ended that nobody has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lost {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

impl Lost {
    /// A write may have been missed.
    pub(crate) const fn writes(reason: String) -> Self {
        Lost {
            kind: Kind::TrackingLost,
            reason,
        }
    }

    /// Somebody has changed the image while it was nobody's.
    pub(crate) const fn offline(reason: String) -> Self {
        Lost {
            kind: Kind::DiskChangedOffline,
            reason,
        }
    }
}

impl Record {
    /// Whether a disk is being merged.
    pub(crate) fn is_merging(&self) -> bool {
        self.disks.values().any(|disk| disk.merging)
    }

    /// Changes a disk, if it is there.
    pub(crate) fn change_disk(&mut self, slot: &DiskSlot, change: impl FnOnce(&mut DiskRecord)) {
        if let Some(disk) = self.disks.get_mut(slot) {
            change(disk);
        }
    }

    /// Names its own images in `folder`, where the machine's folder is now.
    pub(crate) fn move_to(&mut self, folder: &Path) {
        let before = self.folder.replace(folder.to_owned());
        let Some(before) = before.filter(|before| before != folder) else {
            return;
        };
        let moved = |path: &Path| match path.strip_prefix(&before) {
            Ok(inside) => folder.join(inside),
            Err(_) => path.to_owned(),
        };
        let points = self.point.iter_mut().map(|point| &mut point.images);
        let checkpoints = self.checkpoints.iter_mut().map(|kept| &mut kept.images);
        let frozen = points.chain(checkpoints).flat_map(BTreeMap::values_mut);
        let live = self.disks.values_mut().map(|disk| &mut disk.path);
        for path in live.chain(frozen) {
            *path = moved(path);
        }
        self.discard = self.discard.iter().map(|path| moved(path)).collect();
    }

    /// All images that somebody needs: live, frozen, or of a checkpoint.
    pub(crate) fn images(&self) -> BTreeSet<&Path> {
        let live = self.disks.values().map(|disk| disk.path.as_path());
        let frozen = self.point.iter().flat_map(|point| point.images.values());
        let kept = self
            .checkpoints
            .iter()
            .flat_map(|kept| kept.images.values());
        live.chain(frozen.chain(kept).map(PathBuf::as_path))
            .collect()
    }
}

impl DiskRecord {
    /// A disk that nobody has written or tracked yet.
    pub(crate) const fn new(backing: Backing, path: PathBuf, foreign_size: u64) -> Self {
        DiskRecord {
            backing,
            path,
            foreign_size,
            image: None,
            merging: false,
            tracking: None,
            tracking_lost: None,
        }
    }

    /// Whether it is an image that guests write through us.
    pub(crate) const fn is_image(&self) -> bool {
        matches!(self.backing, Backing::Vhd | Backing::Vhdx)
    }

    /// Ends tracking because of `lost`.
    pub(crate) fn lose_tracking(&mut self, lost: Lost) {
        if self.tracking.take().is_some() {
            self.tracking_lost = Some(lost);
        }
    }
}
