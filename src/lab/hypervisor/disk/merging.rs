//! Merges the live image of a disk into its parent while the guest goes on.
//!
//! ```text
//! begin    the image closed, opened again as a merge
//! step     a piece copied; the guest waits for some milliseconds, and goes on between two steps
//! settle   what was copied is written out, nobody waits
//! finish   [lock] parent durable and complete ── record: the parent is the live image ── guests go on in it
//! remove   the child
//! ```
//! Killed at any moment, the record names the child, over a parent that is in any state of the merge, which reads right
//! (see `formats::merge`), and the merge begins again; or it names the parent, which is complete. No guest's write comes
//! between the two: a write after `finish` that only the parent has would be lost if the record still named the child.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::formats::WritableImage;
use crate::host::lab::fault::Place;
use crate::host::{Error, Kind, Result};
use crate::lab::hypervisor::disk::{Disk, Live, Merging, State};
use crate::lab::hypervisor::image_state::ImageState;
use crate::lab::hypervisor::store::of_durable;
use crate::report;
use crate::units::ByteRange;

const OPERATION: &str = "merge a disk";

/// How far a merge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Copied below this.
    Copied(u64),
    /// All is copied.
    Complete,
    /// A guest's write has ended the merge; it is to be begun again.
    Interrupted,
}

impl Disk {
    /// Opens the live image and its parent as a merge. A merge that runs goes on.
    pub(crate) fn begin_merge(&self) -> Result<()> {
        let mut state = self.exclusive()?;
        match std::mem::replace(&mut state.live, Live::Closed) {
            merging @ Live::Merging(_) => {
                state.live = merging;
                return Ok(());
            }
            Live::Closed => {}
            Live::Open(image) => image
                .close()
                .map_err(|error| self.failed(OPERATION, &error))
                .or_else(|error| self.recover(&mut state, error))?,
        }
        match self.open_merge(&mut state) {
            Ok(merging) => {
                state.live = Live::Merging(merging);
                Ok(())
            }
            Err(error) => self.recover(&mut state, error),
        }
    }

    fn open_merge(&self, state: &mut State) -> Result<Merging> {
        let layers = self.examine(state)?;
        let parent = layers.parent().ok_or_else(|| {
            let detail = "the live image has no parent";
            Error::new(Kind::BrokenChain, OPERATION, detail).of_disk(&self.slot)
        })?;
        if let Some(claim) = &mut state.claim {
            let upgraded = claim.upgrade(&parent);
            upgraded.map_err(|error| {
                Error::new(Kind::Busy, OPERATION, report::chain(&error)).of_disk(&self.slot)
            })?;
        }
        let merge = layers
            .open_merge(self.tell())
            .map_err(|error| self.failed(OPERATION, &error))?;
        Ok(Merging {
            merge,
            copied: 0,
            parent,
        })
    }

    /// After a failed attempt: the live image is open again for the guest, if there is one. Passes the error on.
    pub(crate) fn recover<T>(&self, state: &mut State, error: Error) -> Result<T> {
        state.live = Live::Closed;
        if !state.in_use {
            self.let_go(state);
        } else if !self.home.store.is_sure() {
            tracing::error!(vm = %self.home.vm, disk = %self.slot, "it is unknown which image is live; the disk stays closed");
        } else if let Err(again) = self.open_live(state) {
            let error = report::chain(&again);
            tracing::error!(vm = %self.home.vm, disk = %self.slot, error, "the guest has lost its disk");
        }
        Err(error)
    }

    /// Copies the next piece.
    pub(crate) fn merge_step(&self) -> Result<Progress> {
        let mut state = self.exclusive()?;
        let Live::Merging(merging) = &mut state.live else {
            return Ok(Progress::Interrupted);
        };
        let size = merging.merge.image().size();
        let Some(left) = ByteRange::new(merging.copied, size).filter(|left| !left.is_empty())
        else {
            return Ok(Progress::Complete);
        };
        let copied = merging.merge.copy(left);
        merging.copied = copied.map_err(|error| self.failed(OPERATION, &error))?;
        Ok(if merging.copied == size {
            Progress::Complete
        } else {
            Progress::Copied(merging.copied)
        })
    }

    /// Writes out what was copied, so that `finish` has little left to do while the guest waits.
    pub(crate) fn settle_merge(&self) -> Result<()> {
        let parent = match &self.shared()?.live {
            Live::Merging(merging) => merging.parent.clone(),
            Live::Closed | Live::Open(_) => return Ok(()),
        };
        let synced = File::open(&parent).and_then(|file| file.sync_data());
        synced.map_err(|error| self.io(OPERATION, &error))
    }

    /// Makes the parent the live image, if all is copied. Returns the child, which belongs to nobody then.
    pub(crate) fn finish_merge(&self) -> Result<Option<PathBuf>> {
        let mut state = self.exclusive()?;
        self.home
            .strike(Place::MergeCopied, Some(&self.slot), OPERATION)?;
        let merging = match std::mem::replace(&mut state.live, Live::Closed) {
            Live::Merging(merging) if merging.copied == merging.merge.image().size() => merging,
            other => {
                state.live = other;
                return Ok(None);
            }
        };
        let child = merging.merge.image().info().path.clone();
        match self.switch_to_parent(merging, &child) {
            Ok(image) => {
                if let Some(claim) = &mut state.claim
                    && let Err(error) = claim.remove(&child)
                {
                    tracing::warn!(
                        error = report::chain(&error),
                        "a merged image is claimed on"
                    );
                }
                // Nothing can be undone any more.
                let _ = self
                    .home
                    .strike(Place::MergeRecorded, Some(&self.slot), OPERATION);
                if state.in_use {
                    state.live = Live::Open(image);
                } else {
                    self.close_live(&mut state, image)?;
                }
                Ok(Some(child))
            }
            Err(error) => self.recover(&mut state, error),
        }
    }

    fn switch_to_parent(&self, merging: Merging, child: &Path) -> Result<WritableImage> {
        let parent = merging.parent;
        let image = merging
            .merge
            .finish()
            .map_err(|error| self.failed(OPERATION, &error))?;
        self.home
            .strike(Place::MergeComplete, Some(&self.slot), OPERATION)?;
        // It is open for writing, under the id that the merge has given it.
        let data_writes = image.image().info().data_write.into_iter().collect();
        self.home.store.update(OPERATION, |record| {
            record.discard.insert(child.to_owned());
            record.change_disk(&self.slot, |disk| {
                disk.path = parent;
                disk.merging = false;
                disk.image = Some(ImageState::Written { data_writes });
            });
        })?;
        Ok(image)
    }

    /// Removes a child that was merged away.
    pub(crate) fn remove_merged(&self, child: &Path) -> Result<()> {
        durable::remove(child).map_err(|error| of_durable(OPERATION, &error))?;
        self.home.store.update(OPERATION, |record| {
            record.discard.remove(child);
        })
    }

    /// Ends a merge in the middle: the guest goes on in the child, which has all that it wrote.
    pub(crate) fn leave_merge(&self, state: &mut State) -> Result<()> {
        if let Live::Merging(merging) = std::mem::replace(&mut state.live, Live::Closed)
            && let Err(error) = merging.merge.close()
        {
            let (vm, disk, error) = (&self.home.vm, &self.slot, report::chain(&error));
            tracing::warn!(%vm, %disk, error, "a merge was not closed well");
        }
        self.open_live(state)
    }
}
