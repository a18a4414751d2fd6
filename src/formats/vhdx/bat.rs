//! The block allocation table of a VHDX: for each block a state, and the MiB of the file where it starts.
//!
//! ```text
//! entry   bits 0-2 state │ 3-19 zero │ 20-63 offset in MiB
//! order   payload of chunk 0 … │ bitmap of chunk 0 │ payload of chunk 1 … │ bitmap of chunk 1 │ …
//! ```
//! A chunk is what one bitmap of 1 MiB describes: 2²³ sectors. Little-endian; `[MS-VHDX]` 2.4, 2.5. Only states 6 and 7
//! have contents; in the others the offset says nothing that a reader may rely on.

use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::file::Source;
use crate::formats::vhdx::metadata::Metadata;
use crate::formats::vhdx::space::Space;
use crate::units::{ByteRange, MIB, to_u64, to_usize};

/// Bytes of a sector bitmap, a bit for each sector of a chunk.
pub(crate) const BITMAP_SIZE: u64 = MIB;
const SECTORS_PER_CHUNK: u64 = 1 << 23;
const ENTRY: u64 = 8;
/// Bytes of the table that the check reads at once.
const PIECE: usize = 256 << 10;
const OFFSET_MASK: u64 = !(MIB - 1);
const RESERVED_MASK: u64 = 0xf_fff8;

/// The state of a payload block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Never written: zeroes, or the parent's.
    NotPresent = 0,
    /// Anything; we say zeroes.
    Undefined = 1,
    Zero = 2,
    /// Trimmed by the guest; we say zeroes.
    Unmapped = 3,
    Full = 6,
    /// Each sector here or in the parent, as its bit says.
    Partial = 7,
}

/// An entry for a payload block. The offset of a bitmap's entry is read by [`bitmap_offset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) state: State,
    /// In the file.
    pub(crate) offset: u64,
}

impl Entry {
    pub(crate) fn parse(raw: u64) -> Parsed<Self> {
        let state = match raw & 7 {
            0 => State::NotPresent,
            1 => State::Undefined,
            2 => State::Zero,
            3 => State::Unmapped,
            6 => State::Full,
            7 => State::Partial,
            other => return Err(Flaw::corrupt(0, format!("has the reserved state {other}"))),
        };
        check_reserved(raw)?;
        Ok(Entry {
            state,
            offset: raw & OFFSET_MASK,
        })
    }

    pub(crate) const fn raw(self) -> u64 {
        self.offset | self.state as u64
    }

    /// Whether the block has contents of its own in the file.
    pub(crate) const fn is_present(self) -> bool {
        matches!(self.state, State::Full | State::Partial)
    }
}

/// The place of a chunk's bitmap, if it has one.
pub(crate) fn bitmap_offset(raw: u64) -> Parsed<Option<u64>> {
    check_reserved(raw)?;
    match raw & 7 {
        0 => Ok(None),
        6 => Ok(Some(raw & OFFSET_MASK)),
        other => Err(Flaw::corrupt(
            0,
            format!("is a sector bitmap in state {other}, expected 0 or 6"),
        )),
    }
}

/// The entry of a chunk's bitmap at `offset`.
pub(crate) const fn bitmap_entry(offset: u64) -> u64 {
    offset | State::Full as u64
}

fn check_reserved(raw: u64) -> Parsed<()> {
    if raw & RESERVED_MASK == 0 {
        return Ok(());
    }
    Err(Flaw::corrupt(
        0,
        format!("is {raw:#018x}: reserved bits are set"),
    ))
}

/// Where the table is, and how blocks map to its entries.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    region: ByteRange,
    pub(crate) size: u64,
    pub(crate) block_size: u64,
    pub(crate) sector: u64,
    /// Payload blocks of a chunk.
    ratio: u64,
    blocks: u64,
    differencing: bool,
}

/// What the check of a table found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Payload blocks that are in the file, whole or in part.
    pub(crate) present: u64,
    /// The end of the last block of either sort; zero if there is none.
    pub(crate) end: u64,
}

impl Table {
    /// The table of a disk, in a region that starts at `start` and has the length that is needed for it.
    pub(crate) fn new(metadata: &Metadata, start: u64) -> Self {
        let (block_size, sector) = (
            u64::from(metadata.block_size),
            u64::from(metadata.logical_sector),
        );
        let mut table = Table {
            region: ByteRange::to(0),
            size: metadata.size,
            block_size,
            sector,
            ratio: SECTORS_PER_CHUNK * sector / block_size,
            blocks: metadata.size.div_ceil(block_size),
            differencing: metadata.locator.is_some(),
        };
        let length = (ENTRY * table.entries()).next_multiple_of(MIB);
        table.region = ByteRange::at(start, length).expect("a table has at most 513 MiB");
        table
    }

    /// The table of a disk in the region of a file.
    pub(crate) fn in_region(metadata: &Metadata, region: ByteRange) -> Parsed<Self> {
        let table = Table::new(metadata, 0);
        let needed = ENTRY * table.entries();
        if region.len() < needed {
            let detail = format!(
                "the block table has {} bytes, {needed} are needed",
                region.len()
            );
            return Err(Flaw::corrupt(0, detail));
        }
        Ok(Table { region, ..table })
    }

    pub(crate) const fn region(&self) -> ByteRange {
        self.region
    }

    pub(crate) const fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) const fn chunk(&self, block: u64) -> u64 {
        block / self.ratio
    }

    /// Where in the file the entry of a payload block stands.
    pub(crate) const fn payload_entry(&self, block: u64) -> u64 {
        self.region.start() + ENTRY * (block + block / self.ratio)
    }

    /// Where in the file the entry of a chunk's bitmap stands.
    pub(crate) const fn bitmap_entry(&self, chunk: u64) -> u64 {
        self.region.start() + ENTRY * (chunk * (self.ratio + 1) + self.ratio)
    }

    /// The bit of a block's first sector in its chunk's bitmap.
    pub(crate) const fn first_bit(&self, block: u64) -> u64 {
        block % self.ratio * (self.block_size / self.sector)
    }

    /// Bytes of a block that belong to the disk: less than a block only for the last.
    pub(crate) fn used(&self, block: u64) -> u64 {
        self.block_size.min(self.size - block * self.block_size)
    }

    const fn entries(&self) -> u64 {
        if self.differencing {
            self.blocks.div_ceil(self.ratio) * (self.ratio + 1)
        } else {
            self.blocks + (self.blocks - 1) / self.ratio
        }
    }

    /// Checks every entry: a legal state, and for what is present a place of its own inside the file.
    pub(crate) fn survey(&self, source: &Source, space: &mut Space) -> Result<Survey> {
        let mut checked = Checked {
            table: self,
            file_size: source.size()?,
            survey: Survey { present: 0, end: 0 },
            partial: false,
        };
        let mut piece = vec![0; PIECE];
        let mut index = 0;
        while index < self.entries() {
            let count = (self.entries() - index).min(to_u64(PIECE) / ENTRY);
            let bytes = &mut piece[..to_usize(ENTRY * count)];
            source.read_exact_at(self.region.start() + ENTRY * index, bytes)?;
            for (raw, index) in bytes.as_chunks::<8>().0.iter().zip(index..) {
                let raw = u64::from_le_bytes(*raw);
                checked.entry(index, raw, space).map_err(|flaw| {
                    let detail = format!("block table entry {index} {}", flaw.detail);
                    let offset = self.region.start() + ENTRY * index;
                    Error::new(flaw.kind, source.path(), detail).at(offset)
                })?;
            }
            index += count;
        }
        Ok(checked.survey)
    }
}

/// The check of a table, entry by entry in their order.
struct Checked<'a> {
    table: &'a Table,
    file_size: u64,
    survey: Survey,
    /// Whether the chunk that is being read has a partial block.
    partial: bool,
}

impl Checked<'_> {
    fn entry(&mut self, index: u64, raw: u64, space: &mut Space) -> Parsed<()> {
        let (chunk, within) = (
            index / (self.table.ratio + 1),
            index % (self.table.ratio + 1),
        );
        if within == self.table.ratio {
            return self.bitmap(raw, space);
        }
        let block = chunk * self.table.ratio + within;
        if block >= self.table.blocks {
            // Between the last block and the bitmap of its chunk.
            return Ok(());
        }
        let entry = Entry::parse(raw)?;
        match entry.state {
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => return Ok(()),
            State::Full => {}
            State::Partial if self.table.differencing => self.partial = true,
            State::Partial => {
                return Err(Flaw::corrupt(
                    0,
                    "is partially present, but there is no parent",
                ));
            }
        }
        self.survey.present += 1;
        self.place(
            entry.offset,
            self.table.block_size,
            self.table.used(block),
            space,
        )
    }

    fn bitmap(&mut self, raw: u64, space: &mut Space) -> Parsed<()> {
        let needed = std::mem::take(&mut self.partial);
        match bitmap_offset(raw)? {
            Some(_) if !self.table.differencing => Err(Flaw::corrupt(
                0,
                "is a sector bitmap, but there is no parent",
            )),
            Some(offset) => self.place(offset, BITMAP_SIZE, BITMAP_SIZE, space),
            None if needed => Err(Flaw::corrupt(
                0,
                "is no sector bitmap, but a block of its chunk is partially present",
            )),
            None => Ok(()),
        }
    }

    /// Takes `len` bytes at `offset`, of which `used` must be in the file.
    fn place(&mut self, offset: u64, len: u64, used: u64, space: &mut Space) -> Parsed<()> {
        match offset.checked_add(used) {
            Some(end) if end <= self.file_size => {}
            _ => {
                let detail = format!(
                    "needs {used} bytes at {offset}, the file has {}",
                    self.file_size
                );
                return Err(Flaw::new(Kind::Truncated, 0, detail));
            }
        }
        space.take(offset, len).map_err(|taken| {
            Flaw::corrupt(
                0,
                format!("overlaps what is at byte {taken} of the file already"),
            )
        })?;
        self.survey.end = self.survey.end.max(offset + len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;
    use crate::formats::vhdx::locator::ParentLocator;
    use std::sync::Arc;
    use uuid::Uuid;

    fn table(size: u64, block_size: u32, sector: u32, differencing: bool) -> Table {
        let metadata = Metadata {
            block_size,
            fixed: false,
            size,
            identifier: Uuid::nil(),
            logical_sector: sector,
            physical_sector: 4096,
            locator: differencing.then(|| ParentLocator::new(Uuid::nil(), &[])),
        };
        Table::new(&metadata, MIB)
    }

    #[test]
    fn entries_interleave_as_the_specification_draws_them() {
        // 128 blocks of 32 MiB in a chunk; the disk has 192.
        let table = table(6 << 30, 32 << 20, 512, false);
        assert_eq!(
            (table.ratio, table.blocks, table.entries()),
            (128, 192, 193)
        );
        assert_eq!(table.payload_entry(127), MIB + 8 * 127);
        assert_eq!(table.bitmap_entry(0), MIB + 8 * 128);
        assert_eq!(table.payload_entry(128), MIB + 8 * 129);
        assert_eq!(table.first_bit(129), 65_536);
        let large_sectors = self::table(6 << 30, 32 << 20, 4096, true);
        assert_eq!((large_sectors.ratio, large_sectors.entries()), (1024, 1025));
    }

    /// Surveys a differencing table of four blocks of 1 MiB at byte 1 MiB of a file of `size` bytes.
    fn survey(differencing: bool, entries: &[(u64, u64)], size: usize) -> Result<Survey> {
        let table = table(4 << 20, 1 << 20, 512, differencing);
        let source = Source::new("a.vhdx", Arc::new(Memory::new(vec![0; size])));
        for &(index, raw) in entries {
            source
                .write_all_at(MIB + 8 * index, &raw.to_le_bytes())
                .unwrap();
        }
        let mut space = Space::new(to_u64(size));
        space.take(0, 2 * MIB).unwrap();
        table.survey(&source, &mut space)
    }

    const BITMAP: u64 = 4096;

    #[test]
    fn what_is_present_is_counted_and_its_end_found() {
        let entries = [(0, 3 << 20 | 6), (2, 2 << 20 | 7), (BITMAP, 4 << 20 | 6)];
        let end = 5 << 20;
        assert_eq!(
            survey(true, &entries, 5 << 20).unwrap(),
            Survey { present: 2, end }
        );
    }

    #[test]
    fn the_last_block_may_end_with_the_disk() {
        let table = table((1 << 20) + 512, 1 << 20, 512, false);
        assert_eq!((table.used(0), table.used(1)), (1 << 20, 512));
    }

    #[test]
    fn illegal_entries_are_refused() {
        let refused = |differencing, entries: &[(u64, u64)]| {
            let error = survey(differencing, entries, 5 << 20).unwrap_err();
            assert!(
                error.offset().is_some_and(|offset| offset >= MIB),
                "{error}"
            );
            error.kind()
        };
        assert_eq!(refused(false, &[(0, 4)]), Kind::Corrupt, "a reserved state");
        assert_eq!(refused(false, &[(0, 8)]), Kind::Corrupt, "a reserved bit");
        assert_eq!(
            refused(false, &[(0, 2 << 20 | 7)]),
            Kind::Corrupt,
            "partial without parent"
        );
        assert_eq!(
            refused(true, &[(0, 2 << 20 | 7)]),
            Kind::Corrupt,
            "partial without bitmap"
        );
        assert_eq!(refused(false, &[(0, 6)]), Kind::Corrupt, "over the header");
        assert_eq!(
            refused(false, &[(0, 1 << 20 | 6)]),
            Kind::Corrupt,
            "over the table"
        );
        assert_eq!(refused(false, &[(0, 5 << 20 | 6)]), Kind::Truncated);
        assert_eq!(refused(false, &[(0, u64::MAX << 20 | 6)]), Kind::Truncated);
        let twice = [(0, 2 << 20 | 6), (1, 2 << 20 | 6)];
        assert_eq!(
            refused(false, &twice),
            Kind::Corrupt,
            "two blocks in one place"
        );
        assert_eq!(
            refused(true, &[(BITMAP, 2 << 20 | 5)]),
            Kind::Corrupt,
            "a bitmap's state"
        );
    }
}
