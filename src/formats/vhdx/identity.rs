//! Who a VHDX is, and who its parent may be: what a merge changes besides the blocks.
//!
//! Each change is durable when its function returns, and after a crash is either made or not: the headers are written
//! slot by slot, and what stands in the metadata changes with one log entry.

use uuid::Uuid;

use crate::formats::error::{Error, Flaw, Kind, Result};
use crate::formats::vhdx::Vhdx;
use crate::formats::vhdx::items::Change;
use crate::formats::vhdx::metadata;
use crate::formats::vhdx::write::read_only;
use crate::units::{MIB, to_u64};

/// The largest parent locator that is changed: it must fit into one log entry with its place in the table.
const LOCATOR_MAX: u64 = MIB / 4;

impl Vhdx {
    /// Records, durably, that the parent may have either of two DataWriteGuids.
    pub(crate) fn link(&mut self, linkage: Uuid, while_merging: Uuid) -> Result<()> {
        let refuse = |flaw: Flaw| flaw.within(self.source.path(), 0);
        let mut locator = self.metadata.locator.clone().ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                self.source.path(),
                "it has no parent to link to",
            )
        })?;
        locator.link(linkage, while_merging);
        if to_u64(locator.encode().len()) > LOCATOR_MAX {
            let detail = format!("the parent locator is larger than {LOCATOR_MAX} bytes");
            return Err(Error::new(Kind::TooLarge, self.source.path(), detail));
        }
        let reference = locator.reference().map_err(refuse)?;
        let changes = metadata::replace_locator(&mut self.items, &locator).map_err(refuse)?;
        self.change_metadata(&changes)?;
        self.metadata.locator = Some(locator);
        self.info.parent = Some(reference);
        Ok(())
    }

    /// Gives the disk, durably, the DataWriteGuid that its child expects for what is about to be written.
    pub(crate) fn change_data_write(&mut self, guid: Uuid) -> Result<()> {
        let source = &self.source;
        let session = self.session.as_mut().ok_or_else(|| read_only(source))?;
        session.change_data_to(source, guid)?;
        self.info.data_write = Some(guid);
        Ok(())
    }

    /// Gives the disk another VirtualDiskId, durably.
    pub(crate) fn change_identifier(&mut self, identifier: Uuid) -> Result<()> {
        if self.info.identifier != Some(identifier) {
            let changes = metadata::replace_identifier(&mut self.items, identifier);
            let changes = changes.map_err(|flaw| flaw.within(self.source.path(), 0))?;
            self.change_metadata(&changes)?;
            self.info.identifier = Some(identifier);
        }
        Ok(())
    }

    /// Changes bytes of the metadata region in one log entry.
    fn change_metadata(&mut self, changes: &[Change]) -> Result<()> {
        self.flush()?;
        let source = &self.source;
        let session = self.session.as_mut().ok_or_else(|| read_only(source))?;
        session.change_file(source)?;
        for (offset, bytes) in changes {
            self.cache.write(source, *offset, bytes)?;
        }
        session.commit(source, &self.cache)
    }
}
