//! One image file of a chain, whatever its format; and how a file's format is found.
//!
//! The content decides, never the name. A guest writes most bytes of its own image, so only marks that it cannot reach
//! are believed: the start of a VHDX or of a VHD with a table, and the end of a fixed VHD, whose start is the guest's.
//! A file that claims to be both is refused: whichever were chosen, a guest could have made us choose it.

use crate::formats::error::{Error, Kind, Result};
use crate::formats::extent::Run;
use crate::formats::info::{DiskKind, Format, ImageInfo};
use crate::formats::payload::Payload;
use crate::formats::raw::Raw;
use crate::formats::source::{Access, Source};
use crate::formats::vhd::{self, Vhd};
use crate::formats::vhdx::{self, Vhdx};

/// An open image file.
pub(crate) enum Layer {
    Raw(Raw),
    Vhd(Box<Vhd>),
    Vhdx(Box<Vhdx>),
}

impl Layer {
    /// Opens and checks an image of the given format; without one, of the format that it is in, raw only if allowed.
    /// Nothing is written.
    pub(crate) fn open(
        source: Source,
        access: Access,
        format: Option<Format>,
        allow_raw: bool,
    ) -> Result<Self> {
        let format = match format {
            Some(format) => format,
            None => detect(&source, allow_raw)?,
        };
        Ok(match format {
            Format::Raw => Layer::Raw(Raw::open(source)?),
            Format::Vhd => Layer::Vhd(Box::new(Vhd::open(source, access)?)),
            Format::Vhdx => Layer::Vhdx(Box::new(Vhdx::open(source, access)?)),
        })
    }

    /// Makes a layer that was opened for writing ready for its first change, once its whole chain is checked.
    pub(crate) fn begin_writing(&mut self) -> Result<()> {
        match self {
            Layer::Raw(_) | Layer::Vhd(_) => Ok(()),
            Layer::Vhdx(vhdx) => vhdx.begin_writing(),
        }
    }

    pub(crate) fn info(&self) -> &ImageInfo {
        match self {
            Layer::Raw(raw) => raw.info(),
            Layer::Vhd(vhd) => vhd.info(),
            Layer::Vhdx(vhdx) => vhdx.info(),
        }
    }

    /// The file that [`Layer::run_at`] speaks of.
    pub(crate) fn source(&self) -> &Source {
        match self {
            Layer::Raw(raw) => raw.source(),
            Layer::Vhd(vhd) => vhd.source(),
            Layer::Vhdx(vhdx) => vhdx.source(),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.info().virtual_size
    }

    /// The run of this layer alone at `offset`, at most `limit` bytes; both inside its disk.
    pub(crate) fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        match self {
            Layer::Raw(_) => Ok(Raw::run_at(offset, limit)),
            Layer::Vhd(vhd) => vhd.run_at(offset, limit),
            Layer::Vhdx(vhdx) => vhdx.run_at(offset, limit),
        }
    }

    /// What offsets and lengths of writes must be multiples of: a sector where sectors may be the parent's.
    pub(crate) fn write_unit(&self) -> u64 {
        match self.info().kind {
            DiskKind::Differencing => u64::from(self.info().logical_sector),
            DiskKind::Fixed | DiskKind::Dynamic => 1,
        }
    }

    /// Writes inside the disk, in whole [`Layer::write_unit`]s.
    pub(crate) fn write(&mut self, offset: u64, payload: Payload<'_>) -> Result<()> {
        match self {
            Layer::Raw(raw) => payload.write_to(raw.source(), offset),
            Layer::Vhd(vhd) => vhd.write(offset, payload),
            Layer::Vhdx(vhdx) => vhdx.write(offset, payload),
        }
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        match self {
            Layer::Raw(raw) => raw.source().sync(),
            Layer::Vhd(vhd) => vhd.flush(),
            Layer::Vhdx(vhdx) => vhdx.flush(),
        }
    }

    /// Flushes, and leaves the file as other programs like to find it.
    pub(crate) fn close(&mut self) -> Result<()> {
        match self {
            Layer::Raw(_) | Layer::Vhd(_) => self.flush(),
            Layer::Vhdx(vhdx) => vhdx.close(),
        }
    }
}

fn detect(source: &Source, allow_raw: bool) -> Result<Format> {
    let mut start = [0; 8];
    if source.size()? >= 8 {
        source.read_exact_at(0, &mut start)?;
    }
    match (start, vhd::end_mark(source)?) {
        (vhdx::SIGNATURE, Some(vhd::EndMark::Fixed)) => {
            let detail = "it starts as a VHDX and ends as a fixed VHD; say which it is";
            Err(Error::new(Kind::Corrupt, source.path(), detail))
        }
        (vhdx::SIGNATURE, _) => Ok(Format::Vhdx),
        (vhd::COOKIE, _) | (_, Some(_)) => Ok(Format::Vhd),
        _ if allow_raw => Ok(Format::Raw),
        _ => {
            let detail = "it is neither VHDX nor VHD";
            Err(Error::new(Kind::Unsupported, source.path(), detail))
        }
    }
}
