//! The VHD block allocation table: one big-endian number per block, the sector where it starts, or all ones.
//!
//! ```text
//! block in the file:  sector bitmap (a bit per sector, highest first, padded to 512) │ data (block size)
//! ```
//! The whole table is checked once when an image is opened, in pieces, so that what follows can believe it.

use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::units::{ByteRange, to_u64, to_usize};

/// The entry of a block that is not in the file.
pub(crate) const ABSENT: u32 = u32::MAX;
/// Bytes of the table that the check reads at once.
const PIECE: usize = 64 << 10;

/// Where the table is, and how blocks lie in the file.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Of the table in the file.
    pub(crate) offset: u64,
    /// Blocks that the disk has.
    pub(crate) blocks: u64,
    pub(crate) block_size: u64,
    /// Bytes before a block's data.
    pub(crate) bitmap_size: u64,
}

/// What the check of a table found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Blocks that are in the file.
    pub(crate) present: u64,
    /// The end of the last of them; zero if there is none.
    pub(crate) end: u64,
}

impl Table {
    pub(crate) fn new(offset: u64, disk_size: u64, block_size: u32) -> Self {
        let block_size = u64::from(block_size);
        Table {
            offset,
            blocks: disk_size.div_ceil(block_size),
            block_size,
            bitmap_size: (block_size / 512).div_ceil(8).next_multiple_of(512),
        }
    }

    /// Bytes of a block in the file, bitmap and data.
    pub(crate) const fn block_bytes(&self) -> u64 {
        self.bitmap_size + self.block_size
    }

    pub(crate) const fn entry_offset(&self, block: u64) -> u64 {
        self.offset + 4 * block
    }

    /// Bytes of the table in the file, up to the end of the sector.
    pub(crate) const fn bytes(&self) -> u64 {
        (4 * self.blocks).next_multiple_of(512)
    }

    /// Checks every entry: inside the file, overlapping neither another block nor any of `taken`.
    pub(crate) fn survey(
        &self,
        source: &Source,
        disk_size: u64,
        taken: &[ByteRange],
    ) -> Result<Survey> {
        let file_size = source.size()?;
        let mut starts = Starts::new(self.block_bytes(), file_size);
        let mut survey = Survey { present: 0, end: 0 };
        let mut piece = vec![0; PIECE];
        let mut block = 0;
        while block < self.blocks {
            let count = (self.blocks - block).min(to_u64(PIECE / 4));
            let bytes = &mut piece[..to_usize(4 * count)];
            source.read_exact_at(self.entry_offset(block), bytes)?;
            for (entry, number) in bytes.as_chunks::<4>().0.iter().zip(block..) {
                let entry = u32::from_be_bytes(*entry);
                if entry == ABSENT {
                    continue;
                }
                let start = 512 * u64::from(entry);
                let data = self.block_size.min(disk_size - number * self.block_size);
                let needed = start + self.bitmap_size + data;
                check(self, start, needed, file_size, taken)
                    .and_then(|()| starts.claim(start))
                    .map_err(|flaw| self.misplaced(source, number, &flaw))?;
                survey.present += 1;
                survey.end = survey.end.max(start + self.block_bytes());
            }
            block += count;
        }
        Ok(survey)
    }

    fn misplaced(&self, source: &Source, block: u64, flaw: &Flaw) -> Error {
        let detail = format!("block {block} {}", flaw.detail);
        Error::new(flaw.kind, source.path(), detail).at(self.entry_offset(block))
    }
}

fn check(
    table: &Table,
    start: u64,
    needed: u64,
    file_size: u64,
    taken: &[ByteRange],
) -> Parsed<()> {
    if needed > file_size {
        let detail = format!("ends at byte {needed}, but the file has {file_size}");
        return Err(Flaw::new(Kind::Truncated, 0, detail));
    }
    let block = ByteRange::at(start, table.block_bytes()).expect("32 bits of sectors fit easily");
    match taken
        .iter()
        .find(|range| !range.intersect(block).is_empty())
    {
        Some(other) => Err(Flaw::corrupt(
            0,
            format!("at {block} overlaps the structure at {other}"),
        )),
        None => Ok(()),
    }
}

/// Where blocks of one length start, to find two that overlap.
///
/// The file is cut into cells of a block's length. Two blocks that start in one cell overlap, and one that starts in a
/// neighbouring cell can be compared: so one number per cell is enough, 16 MiB for the largest disk in the smallest
/// blocks.
struct Starts {
    block_bytes: u64,
    /// The sector in the cell where a block starts, plus one; zero where none does.
    cells: Vec<u32>,
}

impl Starts {
    fn new(block_bytes: u64, file_size: u64) -> Self {
        // An entry cannot say more than 2 TiB, however long the file is.
        let reachable = file_size.min(512 * u64::from(u32::MAX));
        Starts {
            block_bytes,
            cells: vec![0; to_usize(reachable / block_bytes) + 1],
        }
    }

    fn start(&self, cell: u64) -> Option<u64> {
        let sector = *self.cells.get(to_usize(cell))?;
        let within = 512 * u64::from(sector.checked_sub(1)?);
        Some(cell * self.block_bytes + within)
    }

    fn claim(&mut self, start: u64) -> Parsed<()> {
        let cell = start / self.block_bytes;
        let neighbours = [cell.checked_sub(1), Some(cell), cell.checked_add(1)];
        let other = neighbours
            .into_iter()
            .flatten()
            .filter_map(|cell| self.start(cell))
            .find(|other| other.abs_diff(start) < self.block_bytes);
        if let Some(other) = other {
            let detail = format!("at byte {start} overlaps the block at byte {other}");
            return Err(Flaw::corrupt(0, detail));
        }
        let sector = u32::try_from(start % self.block_bytes / 512 + 1)
            .expect("a block has less than 2^32 sectors");
        self.cells[to_usize(cell)] = sector;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;
    use std::sync::Arc;

    /// Surveys a table at byte 512 of a file of `sectors` sectors.
    fn survey(entries: &[u32], sectors: usize) -> Result<Survey> {
        let disk_size = (512 << 10) * to_u64(entries.len());
        let mut bytes = vec![0; 512 * sectors];
        for (index, entry) in entries.iter().enumerate() {
            bytes[512 + 4 * index..][..4].copy_from_slice(&entry.to_be_bytes());
        }
        let source = Source::new("t.vhd", Arc::new(Memory::new(bytes)));
        let taken = [ByteRange::to(1024)];
        Table::new(512, disk_size, 512 << 10).survey(&source, disk_size, &taken)
    }

    #[test]
    fn blocks_side_by_side_in_any_order_are_fine() {
        let found = survey(&[2 + 1025, ABSENT, 2], 2 + 2 * 1025).unwrap();
        let end = 512 * (2 + 2 * 1025);
        assert_eq!(found, Survey { present: 2, end });
    }

    #[test]
    fn blocks_that_share_a_sector_are_found_from_either_side() {
        for entries in [[2, 2 + 1024], [2 + 1024, 2], [2000, 2000]] {
            let error = survey(&entries, 4000).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert_eq!(error.offset(), Some(512 + 4), "{error}");
        }
    }

    #[test]
    fn a_block_over_a_structure_or_behind_the_end_is_found() {
        assert_eq!(survey(&[1], 4000).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(survey(&[2], 2 + 1024).unwrap_err().kind(), Kind::Truncated);
        assert_eq!(
            survey(&[ABSENT - 1], 4000).unwrap_err().kind(),
            Kind::Truncated
        );
    }
}
