//! What a guest does to its disk.
//!
//! ```text
//! write:  fault? ── lock ── tracked: intent on disk, block in memory ── image (while merging: child, then parent)
//! ```
//! If a change cannot be tracked, tracking is given up, on record, and the guest goes on: production comes before
//! replication. Only if not even that can be recorded the write fails.

use crate::formats::{Merge, Result as ImageResult, WritableImage};
use crate::host::lab::fault::Place;
use crate::host::{Error, Kind, Result};
use crate::lab::hypervisor::disk::{Disk, Live, State, lose_tracking};
use crate::lab::hypervisor::record::Lost;
use crate::report;
use crate::units::{ByteRange, to_u64};

/// What is written.
#[derive(Clone, Copy)]
enum Change<'a> {
    Bytes(u64, &'a [u8]),
    Zeroes(ByteRange),
}

impl Disk {
    /// Fills `buffer` from `offset` of the disk.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        const OPERATION: &str = "read for a guest";
        self.home
            .strike(Place::GuestRead, Some(&self.slot), OPERATION)?;
        let state = self.shared()?;
        let read = match &state.live {
            Live::Closed => return Err(self.off(OPERATION)),
            Live::Open(image) => image.read_at(offset, buffer),
            Live::Merging(merging) => merging.merge.image().read_at(offset, buffer),
        };
        read.map_err(|error| self.failed(OPERATION, &error))
    }

    /// Writes `data` at `offset` of the disk.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = ByteRange::at(offset, to_u64(data.len()));
        self.change(range, Change::Bytes(offset, data))
    }

    /// Makes a range read as zeroes.
    pub(crate) fn write_zeroes(&self, range: ByteRange) -> Result<()> {
        self.change(Some(range), Change::Zeroes(range))
    }

    /// Returns when all that the guest wrote before is durable.
    pub(crate) fn flush(&self) -> Result<()> {
        const OPERATION: &str = "flush for a guest";
        self.home
            .strike(Place::GuestFlush, Some(&self.slot), OPERATION)?;
        let mut state = self.exclusive()?;
        let flushed = match &mut state.live {
            Live::Closed => return Err(self.off(OPERATION)),
            Live::Open(image) => image.flush(),
            Live::Merging(merging) => merging.merge.flush(),
        };
        flushed.map_err(|error| self.failed(OPERATION, &error))
    }

    fn change(&self, range: Option<ByteRange>, change: Change<'_>) -> Result<()> {
        const OPERATION: &str = "write for a guest";
        self.home
            .strike(Place::GuestWrite, Some(&self.slot), OPERATION)?;
        let range = range.ok_or_else(|| {
            Error::new(Kind::Internal, OPERATION, "the range leaves 64 bits").of_disk(&self.slot)
        })?;
        let mut state = self.exclusive()?;
        self.note(&mut state, range)?;
        match &mut state.live {
            Live::Closed => return Err(self.off(OPERATION)),
            Live::Open(image) => return self.apply(image, change),
            Live::Merging(merging) => match change.to_merge(&mut merging.merge) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let (vm, disk, error) = (&self.home.vm, &self.slot, report::chain(&error));
                    tracing::warn!(%vm, %disk, error, "a guest's write ends the merge for now");
                }
            },
        }
        // The parent may be what cannot be written; the guest needs only the child.
        self.leave_merge(&mut state)?;
        match &mut state.live {
            Live::Open(image) => self.apply(image, change),
            Live::Closed | Live::Merging(_) => Err(self.off(OPERATION)),
        }
    }

    fn apply(&self, image: &mut WritableImage, change: Change<'_>) -> Result<()> {
        let written = change.to_image(image);
        written.map_err(|error| self.failed("write for a guest", &error))
    }

    /// Tracks what is about to be written, or gives tracking up.
    fn note(&self, state: &mut State, range: ByteRange) -> Result<()> {
        const OPERATION: &str = "track a guest's write";
        let Some(tracker) = &mut state.tracker else {
            return Ok(());
        };
        let struck = self.home.strike(Place::Track, Some(&self.slot), OPERATION);
        let noted = struck.map_err(|error| error.detail);
        let noted = noted.and_then(|()| tracker.note(range).map_err(|error| report::chain(&error)));
        let Err(reason) = noted else {
            return Ok(());
        };
        lose_tracking(&self.home, &self.slot, OPERATION, Lost::writes(reason))?;
        state.tracker = None;
        Ok(())
    }

    fn off(&self, operation: &'static str) -> Error {
        let detail = "the machine does not run";
        Error::new(Kind::InvalidState, operation, detail).of_disk(&self.slot)
    }
}

impl Change<'_> {
    fn to_image(self, image: &mut WritableImage) -> ImageResult<()> {
        match self {
            Change::Bytes(offset, data) => image.write_at(offset, data),
            Change::Zeroes(range) => image.write_zeroes(range),
        }
    }

    fn to_merge(self, merge: &mut Merge) -> ImageResult<()> {
        match self {
            Change::Bytes(offset, data) => merge.write_at(offset, data),
            Change::Zeroes(range) => merge.write_zeroes(range),
        }
    }
}
