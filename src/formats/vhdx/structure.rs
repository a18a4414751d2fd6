//! What stands where in a VHDX: found and checked when it is opened, before anything is believed or written.

use crate::formats::error::{Error, Kind, Result};
use crate::formats::info::{DiskKind, Format, ImageInfo};
use crate::formats::source::Source;
use crate::formats::vhdx::bat::Table;
use crate::formats::vhdx::header::{HEADER_SECTION, Header};
use crate::formats::vhdx::items::Items;
use crate::formats::vhdx::metadata::Metadata;
use crate::formats::vhdx::region::Regions;
use crate::formats::vhdx::space::Space;
use crate::formats::vhdx::survey::survey;
use crate::units::ByteRange;

/// The parts of a file.
pub(super) struct Structure {
    pub(super) table: Table,
    pub(super) items: Items,
    pub(super) metadata: Metadata,
    allocated: u64,
    /// The first MiB behind everything.
    pub(super) end: u64,
}

impl Structure {
    pub(super) fn check(source: &Source, header: &Header) -> Result<Self> {
        let regions = Regions::read(source)?;
        let mut space = Space::of(source)?;
        let log = ByteRange::at(header.log_offset, u64::from(header.log_length));
        let taken = regions
            .all()
            .map(Some)
            .chain([Some(ByteRange::to(HEADER_SECTION)), log]);
        let mut end = space.end();
        for range in taken {
            let range = range
                .filter(|range| range.end() <= space.end())
                .ok_or_else(|| {
                    let detail = format!("the file ends before the structure at {range:?} does");
                    Error::new(Kind::Truncated, source.path(), detail)
                })?;
            space.take(range.start(), range.len()).map_err(|taken| {
                let detail = format!("the structure at {range} overlaps what is at byte {taken}");
                Error::new(Kind::Corrupt, source.path(), detail).at(range.start())
            })?;
        }
        let items = Items::read(source, regions.metadata)?;
        let metadata = Metadata::read(source, &items)?;
        let table = Table::in_region(&metadata, regions.bat)
            .map_err(|flaw| flaw.within(source.path(), regions.bat.start()))?;
        let survey = survey(&table, source, &mut space)?;
        end = end.max(survey.end);
        Ok(Structure {
            allocated: survey.present * table.block_size,
            table,
            items,
            metadata,
            end,
        })
    }

    pub(super) fn describe(&self, source: &Source, header: &Header) -> Result<ImageInfo> {
        let metadata = &self.metadata;
        let parent = metadata.locator.as_ref().map(|locator| {
            let place = self.items.start();
            locator
                .reference()
                .map_err(|flaw| flaw.within(source.path(), place))
        });
        Ok(ImageInfo {
            path: source.path().to_owned(),
            format: Format::Vhdx,
            kind: match (&metadata.locator, metadata.fixed) {
                (Some(_), _) => DiskKind::Differencing,
                (None, true) => DiskKind::Fixed,
                (None, false) => DiskKind::Dynamic,
            },
            virtual_size: metadata.size,
            logical_sector: metadata.logical_sector,
            physical_sector: metadata.physical_sector,
            block_size: Some(metadata.block_size),
            identifier: Some(metadata.identifier),
            data_write: Some(header.data_write),
            parent: parent.transpose()?,
            allocated: self.allocated,
            log_replayed: false,
        })
    }
}
