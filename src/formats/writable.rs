//! A disk that is written: into the topmost layer of its chain.

use std::path::Path;

use crate::formats::OpenOptions;
use crate::formats::chain::Chain;
use crate::formats::error::Result;
use crate::formats::image::Image;
use crate::formats::payload::Payload;
use crate::formats::source::Source;
use crate::units::{ByteRange, to_usize};

/// The largest sector, for the one that is written in part.
const SECTOR_MAX: usize = 4096;

/// A disk whose top layer is open for writing. The parents stay as they are.
///
/// Written bytes are durable after [`WritableImage::flush`]; after a crash before it each sector holds its old or its
/// new bytes. Dropping it is like a crash; [`WritableImage::close`] leaves a file without a log to replay.
pub struct WritableImage {
    image: Image,
}

impl WritableImage {
    pub(crate) const fn new(chain: Chain) -> Self {
        WritableImage {
            image: Image::new(chain),
        }
    }

    pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        Self::begin(Chain::open(path, options, 1)?)
    }

    pub(crate) fn of_sources(
        top: Source,
        parents: Vec<Source>,
        options: &OpenOptions,
    ) -> Result<Self> {
        Self::begin(Chain::of_sources(top, parents, options, 1)?)
    }

    /// The chain is whole: from here on its top layer may change.
    fn begin(mut chain: Chain) -> Result<Self> {
        chain.top.begin_writing()?;
        Ok(Self::new(chain))
    }

    /// The disk for reading; what was written is there at once.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// As [`Image::read_at`].
    ///
    /// # Errors
    /// As there.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.image.read_at(offset, buffer)
    }

    /// Writes `data` at `offset` of the disk; any offset and length will do.
    ///
    /// # Errors
    /// [`Kind::OutOfBounds`](crate::formats::Kind) if the range leaves the disk,
    /// [`Kind::DiskFull`](crate::formats::Kind) if the volume does not hold it. A part may have been written.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(offset, Payload::Bytes(data))
    }

    /// Makes `range` of the disk read as zeroes, taking no space where there is none.
    ///
    /// # Errors
    /// As for [`WritableImage::write_at`].
    pub fn write_zeroes(&mut self, range: ByteRange) -> Result<()> {
        self.write(range.start(), Payload::Zeroes(range.len()))
    }

    fn write(&mut self, offset: u64, payload: Payload<'_>) -> Result<()> {
        in_whole_sectors(
            &mut self.image,
            offset,
            payload,
            |chain, offset, payload| chain.top.write(offset, payload),
        )
    }

    /// Returns when all that was written before is durable.
    ///
    /// # Errors
    /// If some of it may not be. After a failed sync the image must be opened again.
    pub fn flush(&mut self) -> Result<()> {
        self.image.chain_mut().top.flush()
    }

    /// Flushes, and leaves the file so that any program opens it without replaying a log.
    ///
    /// # Errors
    /// As for [`WritableImage::flush`].
    pub fn close(mut self) -> Result<()> {
        self.image.chain_mut().top.close()
    }
}

/// Writes into the disk with `write`, which is given whole units of the top layer: where a caller's bytes are a part of
/// a sector, the rest of it is read first, from whichever layer has it.
pub(crate) fn in_whole_sectors(
    image: &mut Image,
    offset: u64,
    payload: Payload<'_>,
    mut write: impl FnMut(&mut Chain, u64, Payload<'_>) -> Result<()>,
) -> Result<()> {
    image.range(offset, payload.len())?;
    let unit = image.chain_mut().top.write_unit();
    let mut sector = [0; SECTOR_MAX];
    let sector = &mut sector[..to_usize(unit)];
    let mut done = 0;
    while done < payload.len() {
        let (at, left) = (offset + done, payload.len() - done);
        let within = at % unit;
        if within == 0 && left >= unit {
            let whole = left - left % unit;
            write(image.chain_mut(), at, payload.part(done, whole))?;
            done += whole;
            continue;
        }
        let len = left.min(unit - within);
        image.read_at(at - within, sector)?;
        let part = &mut sector[to_usize(within)..to_usize(within + len)];
        match payload.part(done, len) {
            Payload::Bytes(bytes) => part.copy_from_slice(bytes),
            Payload::Zeroes(_) => part.fill(0),
        }
        write(image.chain_mut(), at - within, Payload::Bytes(sector))?;
        done += len;
    }
    Ok(())
}
