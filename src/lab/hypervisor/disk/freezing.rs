//! Puts a child in the live image's place, or the live image back, while the barrier holds the disk.

use std::path::Path;

use jiff::Timestamp;
use uuid::Uuid;

use crate::formats::create::ChildOptions;
use crate::formats::{self, WritableImage};
use crate::host::{Error, Kind, Result};
use crate::lab::hypervisor::claims::Use;
use crate::lab::hypervisor::disk::{Disk, Live, State};
use crate::lab::hypervisor::image::Layers;
use crate::lab::hypervisor::image_state::Fingerprint;
use crate::lab::hypervisor::tracking::Next;
use crate::report;

const OPERATION: &str = "freeze a disk";

/// A child that is ready to take a guest's writes.
pub(crate) struct Child {
    pub(crate) image: WritableImage,
    pub(crate) fingerprint: Fingerprint,
}

impl Disk {
    /// Makes the next generation of a tracked disk ready.
    pub(crate) fn prepare(&self) -> Result<Option<Next>> {
        let state = self.shared()?;
        let next = state.tracker.as_ref().map(|tracker| tracker.prepare());
        next.transpose()
            .map_err(|error| self.tracking_failed(OPERATION, &error))
    }

    /// Writes out what can be written before the barrier.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut state = self.exclusive()?;
        match &mut state.live {
            Live::Open(image) => image
                .flush()
                .map_err(|error| self.failed(OPERATION, &error)),
            Live::Closed | Live::Merging(_) => Ok(()),
        }
    }

    /// Closes the live image, durably, and makes a child of it at `path`, durably. The disk is closed then, whatever
    /// the outcome: see [`Disk::go_on_in`] and [`Disk::go_back`].
    pub(crate) fn make_child(
        &self,
        state: &mut State,
        path: &Path,
        now: Timestamp,
    ) -> Result<Child> {
        let parent = match std::mem::replace(&mut state.live, Live::Closed) {
            Live::Open(image) => {
                let parent = image.image().info().path.clone();
                let closed = image.close();
                closed.map_err(|error| self.failed(OPERATION, &error))?;
                parent
            }
            other => {
                state.live = other;
                let detail = "its image is not open";
                let error = Error::new(Kind::InvalidState, OPERATION, detail);
                return Err(error.of_disk(&self.slot));
            }
        };
        self.open_child(state, path, &parent, now)
            .map_err(|error| self.failed(OPERATION, &error))
    }

    fn open_child(
        &self,
        state: &mut State,
        path: &Path,
        parent: &Path,
        now: Timestamp,
    ) -> formats::Result<Child> {
        let options = ChildOptions {
            block_size: None,
            identifier: Uuid::new_v4(),
            created: now,
        };
        drop(formats::create_child(path, parent, &options)?);
        let layers = Layers::of(path)?;
        let fingerprint = Fingerprint::of(path, layers.data_write());
        let fingerprint =
            fingerprint.map_err(|source| formats::Error::io(path, "look at the file", source))?;
        if let Some(claim) = &mut state.claim
            && let Err(error) = claim.add(path, Use::Write)
        {
            // The file is a moment old and has a name that was drawn.
            tracing::warn!(error = report::chain(&error), "a new image is not claimed");
        }
        Ok(Child {
            image: layers.open(self.tell())?,
            fingerprint,
        })
    }

    /// The record names the child: the guest goes on in it.
    pub(crate) fn go_on_in(state: &mut State, child: Child) {
        state.live = Live::Open(child.image);
    }

    /// The record names the old image: the guest goes on in it.
    pub(crate) fn go_back(&self, state: &mut State, child: &Path) {
        if matches!(state.live, Live::Open(_)) {
            return;
        }
        if let Some(claim) = &mut state.claim
            && child.exists()
            && let Err(error) = claim.remove(child)
        {
            tracing::warn!(error = report::chain(&error), "an image is claimed on");
        }
        let why = Error::new(Kind::Internal, OPERATION, "the freeze failed");
        let _: Result<()> = self.recover(state, why);
    }
}
