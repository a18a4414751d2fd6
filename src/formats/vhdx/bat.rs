//! The block allocation table of a VHDX: for each block a state, and the MiB of the file where it starts.
//!
//! ```text
//! entry   bits 0-2 state │ 3-19 zero │ 20-63 offset in MiB
//! order   payload of chunk 0 … │ bitmap of chunk 0 │ payload of chunk 1 … │ bitmap of chunk 1 │ …
//! ```
//! A chunk is what one bitmap of 1 MiB describes: 2²³ sectors. Little-endian; `[MS-VHDX]` 2.4, 2.5. Only states 6 and 7
//! have contents; in the others the offset says nothing that a reader may rely on.

use crate::formats::error::{Flaw, Parsed};
use crate::formats::vhdx::metadata::Metadata;
use crate::units::{ByteRange, MIB};

/// Bytes of a sector bitmap, a bit for each sector of a chunk.
pub(crate) const BITMAP_SIZE: u64 = MIB;
const SECTORS_PER_CHUNK: u64 = 1 << 23;
/// Bytes of an entry.
pub(super) const ENTRY: u64 = 8;
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

/// What an entry of the table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Payload(u64),
    /// The bitmap of the chunk whose blocks came before.
    Bitmap,
    /// Between the last block and the bitmap of its chunk.
    Unused,
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

    pub(super) const fn is_differencing(&self) -> bool {
        self.differencing
    }

    /// What the entry at `index` of the table is for.
    pub(super) const fn slot(&self, index: u64) -> Slot {
        let (chunk, within) = (index / (self.ratio + 1), index % (self.ratio + 1));
        let block = chunk * self.ratio + within;
        if within == self.ratio {
            Slot::Bitmap
        } else if block < self.blocks {
            Slot::Payload(block)
        } else {
            Slot::Unused
        }
    }

    /// Entries that the table has for its disk.
    pub(super) const fn entries(&self) -> u64 {
        if self.differencing {
            self.blocks.div_ceil(self.ratio) * (self.ratio + 1)
        } else {
            self.blocks + (self.blocks - 1) / self.ratio
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::vhdx::locator::ParentLocator;
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
        let slots = [127, 128, 129, 192].map(|index| table.slot(index));
        let expected = [127, 128, 191].map(Slot::Payload);
        assert_eq!(slots, [expected[0], Slot::Bitmap, expected[1], expected[2]]);
        assert_eq!(table.slot(193), Slot::Unused);
        let large_sectors = self::table(6 << 30, 32 << 20, 4096, true);
        assert_eq!((large_sectors.ratio, large_sectors.entries()), (1024, 1025));
    }

    #[test]
    fn the_last_block_may_end_with_the_disk() {
        let table = table((1 << 20) + 512, 1 << 20, 512, false);
        assert_eq!((table.used(0), table.used(1)), (1 << 20, 512));
    }
}
