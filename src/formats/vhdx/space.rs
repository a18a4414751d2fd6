//! Which MiB of a VHDX file are taken, to find structures and blocks that overlap.
//!
//! A bit for each MiB of the file as it really is: 9 MiB of memory for the largest file, whatever its table claims.

use crate::formats::error::{Error, Kind, Result};
use crate::formats::source::Source;
use crate::units::{MIB, to_usize};

/// No file of a disk of 64 TiB is longer: its blocks, their bitmaps, and an eighth to spare for what others leave unused.
pub(crate) const FILE_SIZE_MAX: u64 = 72 << 40;

/// The MiB of one file.
pub(crate) struct Space {
    words: Vec<u64>,
    /// MiB in the file, the last perhaps not whole.
    units: u64,
}

impl Space {
    pub(crate) fn of(source: &Source) -> Result<Self> {
        let size = source.size()?;
        if size > FILE_SIZE_MAX {
            let detail = format!("the file has {size} bytes, more than {FILE_SIZE_MAX}");
            return Err(Error::new(Kind::TooLarge, source.path(), detail));
        }
        Ok(Space::new(size))
    }

    pub(crate) fn new(file_size: u64) -> Self {
        let units = file_size.div_ceil(MIB);
        Space {
            words: vec![0; to_usize(units.div_ceil(64))],
            units,
        }
    }

    /// Takes `len` bytes from `offset`, a whole MiB; what lies behind the end of the file cannot overlap anything.
    ///
    /// # Errors
    /// The first byte of the first MiB that is taken already; nothing is then taken.
    pub(crate) fn take(&mut self, offset: u64, len: u64) -> std::result::Result<(), u64> {
        let first = offset / MIB;
        let last = offset.saturating_add(len).div_ceil(MIB).min(self.units);
        let bit = |unit: u64| (to_usize(unit / 64), 1_u64 << (unit % 64));
        for unit in first..last {
            let (word, mask) = bit(unit);
            if self.words[word] & mask != 0 {
                return Err(unit * MIB);
            }
        }
        for unit in first..last {
            let (word, mask) = bit(unit);
            self.words[word] |= mask;
        }
        Ok(())
    }

    /// The end of the file in whole MiB.
    pub(crate) const fn end(&self) -> u64 {
        self.units * MIB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_named_and_what_touches_is_fine() {
        let mut space = Space::new(200 * MIB);
        space.take(60 * MIB, 10 * MIB).unwrap();
        space.take(70 * MIB, MIB).unwrap();
        space.take(59 * MIB, MIB).unwrap();
        assert_eq!(space.take(50 * MIB, 10 * MIB), Err(59 * MIB));
        assert_eq!(space.take(69 * MIB, 32 * MIB), Err(69 * MIB));
        space.take(50 * MIB, 9 * MIB).unwrap();
    }

    #[test]
    fn a_block_may_reach_over_the_end_of_the_file() {
        let mut space = Space::new(3 * MIB + 5);
        space.take(3 * MIB, 32 * MIB).unwrap();
        assert_eq!(space.take(3 * MIB, MIB), Err(3 * MIB));
        assert_eq!(space.take(u64::MAX / MIB * MIB, u64::MAX), Ok(()));
        assert_eq!(space.end(), 4 * MIB);
        assert_eq!(space.words.len(), 1);
    }
}
