//! Virtual Hard Disk, version 1.
//!
//! ```text
//! fixed         the disk's bytes │ footer
//! dynamic,      footer copy │ dynamic header │ block table │ (parent's paths) │ block, block, … │ footer
//! differencing  0             512              usually 1536
//! ```
//! Source: *Virtual Hard Disk Image Format Specification*, Microsoft 2006; where writers differ from it, the comments
//! say so. The size of the disk is the footer's current size, as in Hyper-V and Azure, never the geometry.

mod blocks;
mod create;
mod ends;
mod footer;
mod geometry;
mod header;
mod table;
mod write;

use jiff::Timestamp;
use uuid::Uuid;

use crate::formats::error::{Error, Kind, Result};
use crate::formats::extent::{Place, Run};
use crate::formats::info::{DiskKind, Format, ImageInfo};
use crate::formats::payload::Payload;
use crate::formats::source::{Access, Source};
use crate::formats::vhd::blocks::Blocks;
use crate::formats::vhd::footer::{DiskType, FOOTER_SIZE, Footer};
use crate::units::to_u64;

pub(crate) use create::create;
pub(crate) use ends::{EndMark, end_mark};
pub(crate) use footer::COOKIE;

/// The largest disk with a table: its 32-bit sector numbers end soon after.
const TABLE_DISK_MAX: u64 = 2040 << 30;
/// The largest fixed disk that is served: what VHDX allows, far more than any page blob holds.
const FIXED_DISK_MAX: u64 = 64 << 40;

/// The footer that makes `size` bytes of disk a fixed VHD: the last 512 bytes of the file or page blob.
///
/// Azure takes only sizes of whole MiB; `created` is when the disk was made.
pub fn fixed_footer(size: u64, identifier: Uuid, created: Timestamp) -> [u8; 512] {
    Footer::new(DiskType::Fixed, size, identifier, created).encode()
}

/// An open VHD.
pub(crate) struct Vhd {
    source: Source,
    info: ImageInfo,
    /// What a disk with a table has besides.
    blocks: Option<Blocks>,
}

impl Vhd {
    /// Opens and checks the whole image. Nothing is written before the first change.
    pub(crate) fn open(source: Source, access: Access) -> Result<Self> {
        let (footer, bytes) = ends::choose(&source)?;
        let (kind, max) = match footer.disk_type {
            DiskType::Fixed => (DiskKind::Fixed, FIXED_DISK_MAX),
            DiskType::Dynamic => (DiskKind::Dynamic, TABLE_DISK_MAX),
            DiskType::Differencing => (DiskKind::Differencing, TABLE_DISK_MAX),
        };
        if footer.size > max {
            let detail = format!("the disk has {} bytes, more than {max}", footer.size);
            return Err(Error::new(Kind::TooLarge, source.path(), detail));
        }
        let mut info = describe(&source, &footer, kind);
        let blocks = match kind {
            DiskKind::Fixed => {
                check_fixed(&source, &footer)?;
                None
            }
            DiskKind::Dynamic | DiskKind::Differencing => {
                let (blocks, parent) = Blocks::open(&source, &footer, bytes, access)?;
                info.block_size = u32::try_from(blocks.block_size()).ok();
                info.parent = parent;
                info.allocated = blocks.allocated();
                Some(blocks)
            }
        };
        Ok(Vhd {
            source,
            info,
            blocks,
        })
    }

    pub(crate) const fn info(&self) -> &ImageInfo {
        &self.info
    }

    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// The run at `offset`, at most `limit` bytes; both inside the disk.
    pub(crate) fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        match &self.blocks {
            Some(blocks) => blocks.run_at(&self.source, offset, limit),
            None => Ok(Run {
                len: limit,
                place: Place::File(offset),
            }),
        }
    }

    /// Writes at `offset`, inside the disk. In a differencing disk offset and length are whole sectors.
    pub(crate) fn write(&mut self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Some(blocks) = &mut self.blocks else {
            return payload.write_to(&self.source, offset);
        };
        let written = blocks.write(&self.source, offset, payload);
        self.info.allocated = blocks.allocated();
        written
    }

    /// Makes all that was written before durable. One that failed before a sync may be tried again.
    pub(crate) fn flush(&mut self) -> Result<()> {
        match &mut self.blocks {
            Some(blocks) => blocks.flush(&self.source),
            None => self.source.sync(),
        }
    }
}

fn check_fixed(source: &Source, footer: &Footer) -> Result<()> {
    let (found, expected) = (source.size()?, footer.size + to_u64(FOOTER_SIZE));
    let kind = match found.cmp(&expected) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => Kind::Truncated,
        std::cmp::Ordering::Greater => Kind::Corrupt,
    };
    let detail = format!("the file has {found} bytes, its footer expects {expected}");
    Err(Error::new(kind, source.path(), detail))
}

fn describe(source: &Source, footer: &Footer, kind: DiskKind) -> ImageInfo {
    ImageInfo {
        path: source.path().to_owned(),
        format: Format::Vhd,
        kind,
        virtual_size: footer.size,
        logical_sector: 512,
        physical_sector: 512,
        block_size: None,
        identifier: Some(footer.identifier),
        data_write: None,
        parent: None,
        allocated: footer.size,
        log_replayed: false,
    }
}
