//! The bytes of disks and snapshots: one sparse file each. Synchronous; called off the runtime where it is long.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::units::{ByteRange, KIB, is_zero, to_u64, to_usize};

/// What is compared, and listed, as one.
const BLOCK: u64 = 4 * KIB;
/// What is read and copied at once.
const PIECE: u64 = 1024 * KIB;

/// A file of `size` zeroes.
pub(crate) fn create(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)?;
    file.set_len(size)?;
    Ok(file)
}

pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

pub(crate) fn read(path: &Path, range: ByteRange) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(range.len())];
    open(path)?.read_exact_at(&mut bytes, range.start())?;
    Ok(bytes)
}

/// Writes in the disk, never beyond it.
pub(crate) fn write(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let file = open(path)?;
    let end = offset.checked_add(to_u64(bytes.len()));
    if end.is_none_or(|end| end > file.metadata().map_or(0, |file| file.len())) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "beyond the end of the disk",
        ));
    }
    file.write_all_at(bytes, offset)?;
    file.sync_data()
}

/// Another file of the same content, holes and all. It stands whole, or not at all.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = open(from)?;
    let size = source.metadata()?.len();
    let partial = to.with_extension("partial");
    let target = create(&partial, size)?;
    for extent in extents(&source, size)? {
        let mut at = extent.start();
        while at < extent.end() {
            let mut bytes = vec![0; to_usize(PIECE.min(extent.end() - at))];
            source.read_exact_at(&mut bytes, at)?;
            target.write_all_at(&bytes, at)?;
            at += to_u64(bytes.len());
        }
    }
    target.sync_all()?;
    std::fs::rename(&partial, to)
}

/// Blocks that hold anything but zeroes.
pub(crate) fn written(path: &Path) -> io::Result<Vec<ByteRange>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let mut ranges = Vec::new();
    for extent in extents(&file, size)? {
        each_block(&file, None, extent, &mut |block, now, _| {
            if !is_zero(now) {
                append(&mut ranges, block);
            }
        })?;
    }
    Ok(ranges)
}

/// Blocks that differ between two files of one length: those that hold something now, and those that are zeroes now.
pub(crate) fn differences(
    before: &Path,
    now: &Path,
) -> io::Result<(Vec<ByteRange>, Vec<ByteRange>)> {
    let (older, newer) = (open(before)?, open(now)?);
    let size = newer.metadata()?.len();
    let (mut written, mut cleared) = (Vec::new(), Vec::new());
    let mut extents_of_both = extents(&older, size)?;
    extents_of_both.extend(extents(&newer, size)?);
    extents_of_both.sort();
    let mut done = 0;
    for extent in extents_of_both {
        let Some(rest) = ByteRange::new(extent.start().max(done), extent.end()) else {
            continue;
        };
        done = rest.end();
        each_block(&newer, Some(&older), rest, &mut |block, now, before| {
            if now == before {
                return;
            }
            append(
                if is_zero(now) {
                    &mut cleared
                } else {
                    &mut written
                },
                block,
            );
        })?;
    }
    Ok((written, cleared))
}

fn append(ranges: &mut Vec<ByteRange>, block: ByteRange) {
    if let Some(last) = ranges.last_mut()
        && last.end() == block.start()
        && let Some(joined) = ByteRange::new(last.start(), block.end())
    {
        *last = joined;
        return;
    }
    ranges.push(block);
}

/// Sees a block: its place, what it holds, and what it holds in the other file.
type See<'a> = dyn FnMut(ByteRange, &[u8], &[u8]) + 'a;

/// Calls `see` with every block of `range`: its place, what it holds, and what it holds in the other file.
fn each_block(
    file: &File,
    other: Option<&File>,
    range: ByteRange,
    see: &mut See<'_>,
) -> io::Result<()> {
    let mut at = range.start();
    while at < range.end() {
        let length = to_usize(PIECE.min(range.end() - at));
        let (mut now, mut before) = (vec![0; length], vec![0; length]);
        file.read_exact_at(&mut now, at)?;
        if let Some(other) = other {
            // A disk that grew has nothing there before.
            let _shorter = other.read_at(&mut before, at)?;
        }
        for start in (0..length).step_by(to_usize(BLOCK)) {
            let end = (start + to_usize(BLOCK)).min(length);
            let place = ByteRange::new(at + to_u64(start), at + to_u64(end));
            if let Some(place) = place {
                see(place, &now[start..end], &before[start..end]);
            }
        }
        at += to_u64(length);
    }
    Ok(())
}

/// What of a file is no hole, in whole blocks.
fn extents(file: &File, size: u64) -> io::Result<Vec<ByteRange>> {
    let mut extents: Vec<ByteRange> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        let whole = ByteRange::new(start / BLOCK * BLOCK, end.next_multiple_of(BLOCK).min(size));
        extents.extend(whole);
        at = end;
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start * BLOCK, end * BLOCK).unwrap()
    }

    #[test]
    fn what_differs_is_what_was_written_and_what_was_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        create(&one, 64 << 20).unwrap();
        write(&one, 8 * BLOCK, &[7; 4096]).unwrap();
        write(&one, 40 << 20, &[7; 8192]).unwrap();
        copy(&one, &two).unwrap();
        assert_eq!(differences(&one, &two).unwrap(), (vec![], vec![]));

        write(&two, 8 * BLOCK, &[0; 4096]).unwrap();
        write(&two, (50 << 20) + 100, &[9; 4096]).unwrap();
        let at = (50 << 20) / BLOCK;
        let expected = (vec![range(at, at + 2)], vec![range(8, 9)]);
        assert_eq!(differences(&one, &two).unwrap(), expected);
        let first = (40 << 20) / BLOCK;
        let expected = [range(first, first + 2), range(at, at + 2)];
        assert_eq!(written(&two).unwrap(), expected);
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        create(&path, 8192).unwrap();
        assert!(write(&path, 8000, &[1; 512]).is_err());
        assert!(write(&path, u64::MAX, &[1; 512]).is_err());
        assert_eq!(open(&path).unwrap().metadata().unwrap().len(), 8192);
    }
}
