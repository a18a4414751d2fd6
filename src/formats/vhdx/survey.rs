//! The check of a VHDX's whole block allocation table: every state legal, every place inside the file and its own.
//!
//! It runs once, when an image is opened, in pieces and in the order of the table.

use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::formats::vhdx::bat::{BITMAP_SIZE, ENTRY, Entry, Slot, State, Table, bitmap_offset};
use crate::formats::vhdx::log::SECTOR;
use crate::formats::vhdx::space::Space;
use crate::units::{to_u64, to_usize};

/// Bytes of the table that are read at once.
const PIECE: usize = 256 << 10;

/// What the check of a table found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Payload blocks that are in the file, whole or in part.
    pub(crate) present: u64,
    /// The end of the last block of either sort; zero if there is none.
    pub(crate) end: u64,
}

/// Checks every entry of `table`, and takes the places of what is present from `space`.
pub(crate) fn survey(table: &Table, source: &Source, space: &mut Space) -> Result<Survey> {
    let file_size = source.size()?;
    // Later, the table is read in pages.
    let length = (ENTRY * table.entries()).next_multiple_of(to_u64(SECTOR));
    let end = table.region().start().saturating_add(length);
    if end > file_size {
        let detail = format!("the block table ends at {end}, the file has {file_size} bytes");
        return Err(Error::new(Kind::Truncated, source.path(), detail).at(file_size));
    }
    let mut checked = Checked {
        table,
        file_size,
        space,
        survey: Survey { present: 0, end: 0 },
        partial: false,
    };
    let mut piece = vec![0; PIECE];
    let mut index = 0;
    while index < table.entries() {
        let count = (table.entries() - index).min(to_u64(PIECE) / ENTRY);
        let bytes = &mut piece[..to_usize(ENTRY * count)];
        let place = table.region().start() + ENTRY * index;
        source.read_exact_at(place, bytes)?;
        for (raw, number) in bytes.as_chunks::<8>().0.iter().zip(0..) {
            let raw = u64::from_le_bytes(*raw);
            checked.entry(index + number, raw).map_err(|flaw| {
                let detail = format!("block table entry {} {}", index + number, flaw.detail);
                Error::new(flaw.kind, source.path(), detail).at(place + ENTRY * number)
            })?;
        }
        index += count;
    }
    Ok(checked.survey)
}

/// The check of a table, entry by entry in their order.
struct Checked<'a> {
    table: &'a Table,
    file_size: u64,
    space: &'a mut Space,
    survey: Survey,
    /// Whether the chunk that is being read has a partial block.
    partial: bool,
}

impl Checked<'_> {
    fn entry(&mut self, index: u64, raw: u64) -> Parsed<()> {
        match self.table.slot(index) {
            Slot::Payload(block) => self.payload(block, raw),
            Slot::Bitmap => self.bitmap(raw),
            Slot::Unused => Ok(()),
        }
    }

    fn payload(&mut self, block: u64, raw: u64) -> Parsed<()> {
        let entry = Entry::parse(raw)?;
        match entry.state {
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => return Ok(()),
            State::Full => {}
            State::Partial if self.table.is_differencing() => self.partial = true,
            State::Partial => {
                let detail = "is partially present, but there is no parent";
                return Err(Flaw::corrupt(0, detail));
            }
        }
        self.survey.present += 1;
        let used = self.table.used(block);
        self.place(entry.offset, self.table.block_size, used)
    }

    fn bitmap(&mut self, raw: u64) -> Parsed<()> {
        let needed = std::mem::take(&mut self.partial);
        match bitmap_offset(raw)? {
            Some(_) if !self.table.is_differencing() => {
                let detail = "is a sector bitmap, but there is no parent";
                Err(Flaw::corrupt(0, detail))
            }
            Some(offset) => self.place(offset, BITMAP_SIZE, BITMAP_SIZE),
            None if needed => {
                let detail = "is no sector bitmap, but a block of its chunk is partially present";
                Err(Flaw::corrupt(0, detail))
            }
            None => Ok(()),
        }
    }

    /// Takes `len` bytes at `offset`, of which `used` must be in the file.
    fn place(&mut self, offset: u64, len: u64, used: u64) -> Parsed<()> {
        let end = offset.checked_add(used);
        if end.is_none_or(|end| end > self.file_size) {
            let size = self.file_size;
            let detail = format!("needs {used} bytes at {offset}, the file has {size}");
            return Err(Flaw::new(Kind::Truncated, 0, detail));
        }
        self.space.take(offset, len).map_err(|taken| {
            let detail = format!("overlaps what is at byte {taken} of the file already");
            Flaw::corrupt(0, detail)
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
    use crate::formats::vhdx::metadata::Metadata;
    use crate::units::MIB;
    use std::sync::Arc;
    use uuid::Uuid;

    /// Surveys a differencing table of four blocks of 1 MiB at byte 1 MiB of a file of `size` bytes.
    fn survey_of(differencing: bool, entries: &[(u64, u64)], size: usize) -> Result<Survey> {
        let metadata = Metadata {
            block_size: 1 << 20,
            fixed: false,
            size: 4 << 20,
            identifier: Uuid::nil(),
            logical_sector: 512,
            physical_sector: 4096,
            locator: differencing.then(|| ParentLocator::new(Uuid::nil(), &[])),
        };
        let table = Table::new(&metadata, MIB);
        let source = Source::new("a.vhdx", Arc::new(Memory::new(vec![0; size])));
        for &(index, raw) in entries {
            source
                .write_all_at(MIB + 8 * index, &raw.to_le_bytes())
                .unwrap();
        }
        let mut space = Space::new(to_u64(size));
        space.take(0, 2 * MIB).unwrap();
        survey(&table, &source, &mut space)
    }

    const BITMAP: u64 = 4096;

    #[test]
    fn what_is_present_is_counted_and_its_end_found() {
        let entries = [(0, 3 << 20 | 6), (2, 2 << 20 | 7), (BITMAP, 4 << 20 | 6)];
        let end = 5 << 20;
        assert_eq!(
            survey_of(true, &entries, 5 << 20).unwrap(),
            Survey { present: 2, end }
        );
    }

    #[test]
    fn illegal_entries_are_refused() {
        let refused = |differencing, entries: &[(u64, u64)]| {
            let error = survey_of(differencing, entries, 5 << 20).unwrap_err();
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
