//! Writing a VHD with a table of blocks.
//!
//! A new block goes where the closing footer is. In memory it is there at once; in the file, until the next flush, the
//! table does not know it. The order, and what a crash between two steps leaves:
//!
//! ```text
//! 1. the file is cut where the footer starts     no closing footer: the copy at the start is believed
//!    and grown by a block                        the table does not name the block: as before the write
//! 2. the block's bitmap and its data             the same
//! 3. flush: the footer behind the last block     the same, and the footer closes the file again
//! 4. sync                                        all that the table will name is on stable storage
//! 5. the changed sectors of table and bitmaps    each sector is old or new: a block or a sector of it is there or not,
//!                                                whatever the others are
//! 6. sync                                        what was written before the flush stays
//! ```
//! Sectors of a block that the table names are written in place; in a differencing disk their bits follow at 5, so that
//! a bit never comes before its sector. Freed space does not exist: nothing ever leaves the table.

use crate::formats::bitmap::BitOrder;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::payload::Payload;
use crate::formats::source::Source;
use crate::formats::vhd::blocks::{Blocks, PAGE};
use crate::formats::vhd::footer::FOOTER_SIZE;
use crate::formats::vhd::table::ABSENT;
use crate::units::{ByteRange, to_u64, to_usize};

/// Changed sectors that may wait for a flush, a quarter of the cache. One write to one block changes at most 129: its
/// entry's, and all of the bitmap of the largest block.
const DIRTY_MAX: usize = 1024 - 129;

/// What a VHD that is open for writing knows besides.
pub(crate) struct Session {
    /// Where the next block goes, and the footer until then.
    end: u64,
    /// Whether the file does not have its footer at `end`.
    footer_due: bool,
    /// Whether the copy of the footer at the start must be repaired before it is relied upon.
    copy_due: bool,
}

impl Session {
    /// Finds the end of the image: its footer, if it stands behind all blocks, else the end of the file.
    pub(crate) fn begin(
        source: &Source,
        footer: &[u8; FOOTER_SIZE],
        taken: &[ByteRange],
        blocks_end: u64,
    ) -> Result<Self> {
        let structures_end = taken
            .iter()
            .map(|range| range.end())
            .fold(blocks_end, u64::max);
        let file_size = source.size()?;
        let last = file_size.saturating_sub(to_u64(FOOTER_SIZE));
        let closed = last >= structures_end
            && last.is_multiple_of(512)
            && source.read_array::<FOOTER_SIZE>(last)? == *footer;
        let end = if closed {
            last
        } else {
            file_size.max(structures_end)
        };
        Ok(Session {
            end: end.next_multiple_of(512),
            footer_due: !closed,
            copy_due: source.read_array::<FOOTER_SIZE>(0)? != *footer,
        })
    }
}

impl Blocks {
    /// Writes at `offset`, inside the disk. In a differencing disk offset and length are whole sectors.
    pub(super) fn write(
        &mut self,
        source: &Source,
        offset: u64,
        payload: Payload<'_>,
    ) -> Result<()> {
        self.repair_copy(source)?;
        for (block, within, piece) in payload.by_block(offset, self.table.block_size) {
            if self.cache.dirty() > DIRTY_MAX {
                self.flush(source)?;
            }
            self.write_block(source, block, within, piece)?;
        }
        Ok(())
    }

    fn write_block(
        &mut self,
        source: &Source,
        block: u64,
        within: u64,
        payload: Payload<'_>,
    ) -> Result<()> {
        let entry = self.entry(source, block)?;
        if entry != ABSENT {
            let start = 512 * u64::from(entry);
            payload.write_to(source, start + self.table.bitmap_size + within)?;
            if self.differencing {
                self.mark_present(source, start, within, payload.len())?;
            }
            return Ok(());
        }
        if !self.differencing && payload.is_zeroes() {
            return Ok(());
        }
        let entry = self.place_block(source, within, payload)?.to_be_bytes();
        self.cache
            .write(source, self.table.entry_offset(block), &entry)?;
        self.present += 1;
        Ok(())
    }

    /// Steps 1 and 2: a new block at the end of the image, with `payload` in it. Returns its table entry.
    fn place_block(&mut self, source: &Source, within: u64, payload: Payload<'_>) -> Result<u32> {
        let session = self.session.as_mut().ok_or_else(|| read_only(source))?;
        let start = session.end;
        let entry = u32::try_from(start / 512)
            .ok()
            .filter(|&entry| entry != ABSENT);
        let entry = entry.ok_or_else(|| {
            let detail = "the file has reached the 2 TiB that a VHD's table can name";
            Error::new(Kind::TooLarge, source.path(), detail).at(start)
        })?;
        // Sectors of a new block are present as they are written; in a dynamic disk, all of them.
        let (from, to) = if self.differencing {
            (within / 512, (within + payload.len()) / 512)
        } else {
            (0, self.table.block_size / 512)
        };
        let mut bitmap = vec![0; to_usize(self.table.bitmap_size)];
        BitOrder::MostFirst.fill(&mut bitmap, to_usize(from), to_usize(to), true);
        session.footer_due = true;
        let end = start + self.table.block_bytes();
        // Cut first: behind the end there may be the footer, or what a failed attempt left, and new space must be zero.
        source.resize(start)?;
        source.resize(end + to_u64(FOOTER_SIZE))?;
        source.write_all_at(start, &bitmap)?;
        if !payload.is_zeroes() {
            payload.write_to(source, start + self.table.bitmap_size + within)?;
        }
        session.end = end;
        Ok(entry)
    }

    /// Sets the bits of `len` bytes at `within` of the block at `start`; pages that have them already stay clean.
    fn mark_present(&self, source: &Source, start: u64, within: u64, len: u64) -> Result<()> {
        let bits = to_u64(8 * PAGE);
        let sectors = ByteRange::at(within / 512, len / 512).expect("sectors of one block");
        for piece in sectors.split_at_multiples(bits) {
            let page = start + piece.start() / bits * to_u64(PAGE);
            let from = to_usize(piece.start() % bits);
            let to = from + to_usize(piece.len());
            let known = |bytes: &[u8], _| BitOrder::MostFirst.run(bytes, from, to);
            if self.cache.read(source, page, known)? != (true, to - from) {
                let fill = |bytes: &mut [u8], _| BitOrder::MostFirst.fill(bytes, from, to, true);
                self.cache.modify(source, page, fill)?;
            }
        }
        Ok(())
    }

    /// Makes all that was written before durable: steps 3 to 6.
    pub(super) fn flush(&mut self, source: &Source) -> Result<()> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if session.footer_due {
            source.write_all_at(session.end, &self.footer[..])?;
        }
        source.sync()?;
        session.footer_due = false;
        if self.cache.dirty() > 0 {
            for (offset, page) in self.cache.dirty_pages() {
                source.write_all_at(offset, &page)?;
            }
            source.sync()?;
            self.cache.clean();
        }
        Ok(())
    }

    /// Puts the footer's copy back at the start, before a change relies on it.
    fn repair_copy(&mut self, source: &Source) -> Result<()> {
        let session = self.session.as_mut().ok_or_else(|| read_only(source))?;
        if session.copy_due {
            source.write_all_at(0, &self.footer[..])?;
            source.sync()?;
            session.copy_due = false;
        }
        Ok(())
    }
}

fn read_only(source: &Source) -> Error {
    Error::new(
        Kind::OutOfBounds,
        source.path(),
        "it is open for reading only",
    )
}
