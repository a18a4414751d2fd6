//! Begins, ends and follows the tracking of one disk.

use std::collections::BTreeSet;
use std::fs;

use crate::host::{Error, Result};
use crate::lab::hypervisor::disk::Disk;
use crate::lab::hypervisor::image::Layers;
use crate::lab::hypervisor::tracking::{self, Tracker};
use crate::report;

impl Disk {
    /// Tracks the disk from now on; one that is tracked is left as it is.
    ///
    /// The record says so before the guest's next write is noted: no cursor is from before the next freeze, and a kill in
    /// between leaves tracking that has counted nothing, of a time for which nobody will ask.
    pub(crate) fn start_tracking(&self) -> Result<()> {
        const OPERATION: &str = "start to track a disk";
        let mut state = self.exclusive()?;
        if state.tracker.is_some() {
            return Ok(());
        }
        let size = match self.shape() {
            Some(shape) => shape.size,
            None => {
                let layers = Layers::of(&self.record()?.path);
                let layers = layers.map_err(|error| self.failed(OPERATION, &error))?;
                layers.top().virtual_size
            }
        };
        let begun = Tracker::begin(&self.home.tracking_folder(&self.slot), size);
        let tracker = begun.map_err(|error| self.tracking_failed(OPERATION, &error))?;
        self.home.store.update(OPERATION, |record| {
            record.change_disk(&self.slot, |disk| {
                disk.tracking = Some(tracker.generations().clone());
            });
        })?;
        state.tracker = Some(tracker);
        Ok(())
    }

    /// Ends tracking that the record does not know any more.
    pub(crate) fn drop_tracking(&self) -> Result<()> {
        self.exclusive()?.tracker = None;
        let folder = self.home.tracking_folder(&self.slot);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.io("end the tracking of a disk", &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Drops the generations that the record does not name any more.
    pub(crate) fn follow_generations(&self, operation: &'static str) -> Result<()> {
        let mut state = self.exclusive()?;
        let (Some(tracker), Some(generations)) = (&mut state.tracker, self.record()?.tracking)
        else {
            return Ok(());
        };
        let kept = tracker.keep(generations);
        kept.map_err(|error| self.tracking_failed(operation, &error))
    }

    /// Makes fewer generations where there are too many. What fails is tried again after the next freeze.
    pub(crate) fn fold_generations(&self, boundaries: &BTreeSet<u64>) -> Result<()> {
        const OPERATION: &str = "fold what is tracked of a disk";
        let mut state = self.exclusive()?;
        let Some(tracker) = &mut state.tracker else {
            return Ok(());
        };
        let folded = tracker.fold(boundaries);
        let Some(folded) = folded.map_err(|error| self.tracking_failed(OPERATION, &error))? else {
            return Ok(());
        };
        self.home.store.update(OPERATION, |record| {
            record.change_disk(&self.slot, |disk| disk.tracking = Some(folded.clone()));
        })?;
        let kept = tracker.keep(folded);
        kept.map_err(|error| self.tracking_failed(OPERATION, &error))
    }

    pub(crate) fn tracking_failed(
        &self,
        operation: &'static str,
        error: &tracking::Error,
    ) -> Error {
        Error::new(error.kind(), operation, report::chain(error)).of_disk(&self.slot)
    }
}
