//! Writing a VHDX: where the bytes go, and what the tables say then. When they say it is the session's business.
//!
//! | the block is | payload of a whole block | payload of a part |
//! |---|---|---|
//! | full | in place | in place |
//! | partial | in place, then full | in place, bits of its sectors |
//! | in the parent | new block, full | new block, partial, bits of its sectors |
//! | zero, undefined, unmapped | new block, full | new block, full: the rest must stay zero |
//! | not present, no parent | new block, full | new block, full |
//!
//! Zeroes need no new block where zeroes are read already; a whole block in the parent becomes a zero block. New blocks
//! go to the end of the file, which is zero there. Space that is no longer named is not used again.

use crate::formats::bitmap::BitOrder;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::info::DiskKind;
use crate::formats::payload::Payload;
use crate::formats::source::Source;
use crate::formats::vhdx::Vhdx;
use crate::formats::vhdx::bat::{self, BITMAP_SIZE, Entry, State};
use crate::formats::vhdx::log::SECTOR;
use crate::formats::vhdx::session::Session;
use crate::formats::vhdx::space::FILE_SIZE_MAX;
use crate::units::{ByteRange, to_u64, to_usize};

impl Vhdx {
    /// Writes at `offset`, inside the disk. In a differencing disk offset and length are whole logical sectors.
    pub(crate) fn write(&mut self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let source = &self.source;
        let session = self.session.as_mut().ok_or_else(|| read_only(source))?;
        if let Some(guid) = session.change_data(source)? {
            self.info.data_write = Some(guid);
        }
        for (block, within, piece) in payload.by_block(offset, self.table.block_size) {
            self.make_room()?;
            self.write_block(block, within, piece)?;
        }
        Ok(())
    }

    /// Makes all that was written before durable. One that failed before a sync may be tried again.
    pub(crate) fn flush(&mut self) -> Result<()> {
        match &mut self.session {
            Some(session) => session.commit(&self.source, &self.cache),
            None => Ok(()),
        }
    }

    /// Flushes, and leaves a file that other programs open without replaying a log.
    pub(crate) fn close(&mut self) -> Result<()> {
        match &mut self.session {
            Some(session) => session.close(&self.source, &self.cache),
            None => Ok(()),
        }
    }

    /// Commits if the next change might not fit into the log with those that wait.
    fn make_room(&mut self) -> Result<()> {
        if Session::has_room(&self.cache) {
            Ok(())
        } else {
            self.flush()
        }
    }

    fn write_block(&mut self, block: u64, within: u64, payload: Payload<'_>) -> Result<()> {
        let entry = self.entry(block)?;
        let whole = payload.len() >= self.table.used(block);
        let in_parent =
            entry.state == State::NotPresent && self.info.kind == DiskKind::Differencing;
        match entry.state {
            State::Full => payload.write_to(&self.source, entry.offset + within),
            State::Partial => {
                payload.write_to(&self.source, entry.offset + within)?;
                if whole {
                    self.set_entry(block, State::Full, entry.offset)
                } else {
                    self.mark_present(block, within, payload.len())
                }
            }
            State::NotPresent if in_parent && !whole => {
                let bitmap = self.place_bitmap(self.table.chunk(block))?;
                let offset = self.place(self.table.block_size, within, payload)?;
                self.info.allocated += self.table.block_size;
                // Bits of a block that was not partial before mean nothing.
                self.fill_bits(bitmap, block, ByteRange::to(self.table.block_size), false)?;
                self.mark_present(block, within, payload.len())?;
                self.set_entry(block, State::Partial, offset)
            }
            State::NotPresent if in_parent && payload.is_zeroes() => {
                self.set_entry(block, State::Zero, 0)
            }
            _ if payload.is_zeroes() => Ok(()),
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => {
                let offset = self.place(self.table.block_size, within, payload)?;
                self.info.allocated += self.table.block_size;
                self.set_entry(block, State::Full, offset)
            }
        }
    }

    /// Takes `len` bytes at the end of the file, all zero but for `payload` at `within`. No table names them yet.
    fn place(&mut self, len: u64, within: u64, payload: Payload<'_>) -> Result<u64> {
        let source = &self.source;
        let session = self.session.as_mut().ok_or_else(|| read_only(source))?;
        let (start, end) = (session.end, session.end + len);
        if end > FILE_SIZE_MAX {
            let detail = format!("a block would grow the file over {FILE_SIZE_MAX} bytes");
            return Err(Error::new(Kind::TooLarge, source.path(), detail).at(start));
        }
        // What a failed attempt left there must not show.
        if std::mem::replace(&mut session.soiled, true) {
            source.resize(start)?;
        }
        if payload.is_zeroes() || payload.len() < len {
            source.resize(end)?;
        }
        if !payload.is_zeroes() {
            payload.write_to(source, start + within)?;
        }
        session.end = end;
        session.soiled = false;
        Ok(start)
    }

    /// The bitmap of a chunk; a new one if there is none.
    fn place_bitmap(&mut self, chunk: u64) -> Result<u64> {
        if let Some(offset) = self.bitmap(chunk)? {
            return Ok(offset);
        }
        let offset = self.place(BITMAP_SIZE, 0, Payload::Zeroes(0))?;
        let entry = bat::bitmap_entry(offset).to_le_bytes();
        self.cache
            .write(&self.source, self.table.bitmap_entry(chunk), &entry)?;
        Ok(offset)
    }

    fn set_entry(&mut self, block: u64, state: State, offset: u64) -> Result<()> {
        let entry = Entry { state, offset }.raw().to_le_bytes();
        self.cache
            .write(&self.source, self.table.payload_entry(block), &entry)
    }

    /// Sets the bits of `len` bytes at `within` of a partial block.
    fn mark_present(&mut self, block: u64, within: u64, len: u64) -> Result<()> {
        let bitmap = self.place_bitmap(self.table.chunk(block))?;
        let range = ByteRange::at(within, len).expect("inside a block");
        self.fill_bits(bitmap, block, range, true)
    }

    /// Gives the bits of a range of a block one value; pages that have it already stay clean.
    fn fill_bits(&self, bitmap: u64, block: u64, range: ByteRange, value: bool) -> Result<()> {
        let first = self.table.first_bit(block);
        let bit = |within: u64| first + within / self.table.sector;
        let sectors = ByteRange::new(bit(range.start()), bit(range.end()));
        let bits = to_u64(8 * SECTOR);
        for piece in sectors
            .expect("a range is ordered")
            .split_at_multiples(bits)
        {
            let page = bitmap + piece.start() / bits * to_u64(SECTOR);
            let from = to_usize(piece.start() % bits);
            let to = from + to_usize(piece.len());
            let known = |bytes: &[u8], _| BitOrder::LeastFirst.run(bytes, from, to);
            if self.cache.read(&self.source, page, known)? != (value, to - from) {
                let fill = |bytes: &mut [u8], _| BitOrder::LeastFirst.fill(bytes, from, to, value);
                self.cache.modify(&self.source, page, fill)?;
            }
        }
        Ok(())
    }
}

pub(super) fn read_only(source: &Source) -> Error {
    Error::new(
        Kind::OutOfBounds,
        source.path(),
        "it is open for reading only",
    )
}
