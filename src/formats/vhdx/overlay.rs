//! A file as it will be when its log has been replayed, without writing to it.
//!
//! A disk that is opened for reading must be read through its log (`[MS-VHDX]` 2.3.3, note 5), and the file may not be
//! ours to change.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::formats::file::ImageFile;
use crate::units::{to_u64, to_usize};

/// Changes of a file, the later over the earlier, none overlapping another.
#[derive(Debug, Default)]
pub(crate) struct Patches {
    by_start: BTreeMap<u64, Patch>,
    /// The size that the file has at least.
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) len: u64,
    /// Nothing for zeroes; else `len` bytes.
    pub(crate) bytes: Option<Box<[u8]>>,
}

impl Patch {
    /// How much of a patch that starts at `start` lies below `end`.
    pub(crate) const fn below(&self, end: u64, start: u64) -> u64 {
        let room = end.saturating_sub(start);
        if self.len < room { self.len } else { room }
    }
}

impl Patches {
    /// Puts a patch over what is there. Pages are the unit: no patch is ever cut inside of bytes.
    pub(crate) fn put(&mut self, start: u64, patch: Patch) {
        let end = start + patch.len;
        if patch.len == 0 {
            return;
        }
        self.cut(start);
        self.cut(end);
        let covered: Vec<u64> = self.by_start.range(start..end).map(|(&at, _)| at).collect();
        for at in covered {
            self.by_start.remove(&at);
        }
        self.by_start.insert(start, patch);
        self.grow(end);
    }

    /// Splits a run of zeroes that `at` lies in.
    fn cut(&mut self, at: u64) {
        let Some((&start, patch)) = self.by_start.range_mut(..at).next_back() else {
            return;
        };
        let end = start + patch.len;
        if end > at && patch.bytes.is_none() {
            patch.len = at - start;
            let rest = Patch {
                len: end - at,
                bytes: None,
            };
            self.by_start.insert(at, rest);
        }
    }

    pub(crate) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Patch)> {
        self.by_start.iter().map(|(&start, patch)| (start, patch))
    }

    /// Puts what the patches say into `buffer`, which was read from `offset`.
    fn apply(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + to_u64(buffer.len());
        let first = self.by_start.range(..=offset).next_back();
        let first = first.map_or(offset, |(&start, _)| start);
        for (&start, patch) in self.by_start.range(first..end) {
            let from = start.max(offset);
            let to = (start + patch.len).min(end);
            if from >= to {
                continue;
            }
            let target = &mut buffer[to_usize(from - offset)..to_usize(to - offset)];
            match &patch.bytes {
                Some(bytes) => {
                    target.copy_from_slice(&bytes[to_usize(from - start)..to_usize(to - start)]);
                }
                None => target.fill(0),
            }
        }
    }
}

/// A file below its patches, for reading.
pub(crate) struct Overlay {
    file: Arc<dyn ImageFile>,
    patches: Arc<Patches>,
}

impl Overlay {
    pub(crate) const fn new(file: Arc<dyn ImageFile>, patches: Arc<Patches>) -> Self {
        Overlay { file, patches }
    }
}

impl ImageFile for Overlay {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.size()?.max(self.patches.size))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.file.read_at(offset, buffer)?;
        if count == 0 {
            // Behind the end of the file, but perhaps not of what it will be.
            let left = self.patches.size.saturating_sub(offset);
            count = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            buffer[..count].fill(0);
        }
        self.patches.apply(offset, &mut buffer[..count]);
        Ok(count)
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;

    fn zero(len: u64) -> Patch {
        Patch { len, bytes: None }
    }

    fn data(value: u8) -> Patch {
        Patch {
            len: 4,
            bytes: Some(Box::new([value; 4])),
        }
    }

    fn overlaid(patches: Patches) -> Vec<u8> {
        let file = Overlay::new(Arc::new(Memory::new(vec![9; 16])), Arc::new(patches));
        let size = to_usize(file.size().unwrap());
        let mut all = vec![7; size];
        let mut done = 0;
        while done < size {
            done += file.read_at(to_u64(done), &mut all[done..]).unwrap();
        }
        // Every piece read alone is the same.
        for start in 0..size {
            let mut piece = [7; 5];
            let count = file.read_at(to_u64(start), &mut piece).unwrap();
            assert_eq!(piece[..count], all[start..start + count], "{start}");
        }
        all
    }

    #[test]
    fn later_patches_win_and_zeroes_keep_what_lies_beside() {
        let mut patches = Patches::default();
        patches.put(4, data(1));
        patches.put(0, zero(16));
        patches.put(8, data(2));
        patches.put(20, data(3));
        let expected = [vec![0; 8], vec![2; 4], vec![0; 8], vec![3; 4]].concat();
        assert_eq!(overlaid(patches), expected);
    }

    #[test]
    fn the_file_grows_with_zeroes_to_the_size_that_the_log_names() {
        let mut patches = Patches::default();
        patches.put(0, zero(4));
        patches.grow(24);
        assert_eq!(
            overlaid(patches),
            [vec![0; 4], vec![9; 12], vec![0; 8]].concat()
        );
    }
}
