//! A raw image: the file's bytes are the disk's.
//!
//! Raw has no mark by which it could be known. It is opened only where the caller says so.

use crate::formats::error::Result;
use crate::formats::extent::{Place, Run};
use crate::formats::info::{DiskKind, Format, ImageInfo};
use crate::formats::source::Source;

/// An open raw image. Its size never changes.
pub(crate) struct Raw {
    source: Source,
    info: ImageInfo,
}

impl Raw {
    pub(crate) fn open(source: Source) -> Result<Self> {
        let size = source.size()?;
        let info = ImageInfo {
            path: source.path().to_owned(),
            format: Format::Raw,
            kind: DiskKind::Fixed,
            virtual_size: size,
            logical_sector: 512,
            physical_sector: 512,
            block_size: None,
            identifier: None,
            data_write: None,
            parent: None,
            allocated: size,
            log_replayed: false,
        };
        Ok(Raw { source, info })
    }

    pub(crate) const fn info(&self) -> &ImageInfo {
        &self.info
    }

    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// The run at `offset`, at most `limit` bytes.
    pub(crate) const fn run_at(offset: u64, limit: u64) -> Run {
        Run {
            len: limit,
            place: Place::File(offset),
        }
    }
}
