//! Finds what a VHDX's log has to say, and puts it into the file.
//!
//! The log is a ring of entries. The newest complete sequence counts: a run of valid entries with rising numbers whose
//! last one names a tail inside the run; from that tail on its entries are replayed, in order (`[MS-VHDX]` 2.3.2,
//! 2.3.3). A log that is named by the header and has no such sequence is damage, not emptiness.

use std::borrow::Cow;

use uuid::Uuid;

use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::formats::vhdx::header::Header;
use crate::formats::vhdx::log::{self, Change, EntryHeader, SECTOR};
use crate::formats::vhdx::overlay::{Patch, Patches};
use crate::formats::vhdx::space::FILE_SIZE_MAX;
use crate::units::{ByteRange, KIB, MIB, to_u64, to_usize};

/// The largest log that is replayed; it is read whole. Windows makes logs of 1 MiB.
const LOG_MAX: u32 = 64 << 20;
/// Bytes that are checksummed per byte of log. Entries do not overlap, so once is what an honest log needs.
const CHECKED_MAX: u64 = 4;
/// Changes that are kept: four for each page that fits into the largest log.
const PATCHES_MAX: usize = 1 << 16;
/// Zeroes that are written when a log is put into its file: twice the table of the largest disk.
const ZEROES_MAX: u64 = 1024 * MIB;
/// The mark and the headers, which never change through the log.
const HEADERS: ByteRange = ByteRange::to(192 * KIB);

/// What the log of a file would change; nothing if the log is empty.
pub(crate) fn read(source: &Source, header: &Header) -> Result<Option<Patches>> {
    if header.log_guid.is_nil() {
        return Ok(None);
    }
    if header.log_length > LOG_MAX {
        let detail = format!(
            "the log has {} bytes, more than {LOG_MAX}",
            header.log_length
        );
        return Err(Error::new(Kind::TooLarge, source.path(), detail).at(header.log_offset));
    }
    let mut bytes = vec![0; to_usize(u64::from(header.log_length))];
    source.read_exact_at(header.log_offset, &mut bytes)?;
    let mut ring = Ring::new(&bytes, header.log_guid);
    let size = source.size()?;
    let patches = ring.active().and_then(|active| {
        let log = ByteRange::at(header.log_offset, to_u64(bytes.len()));
        ring.collect(&active, size, log.unwrap_or(HEADERS))
    });
    let patches = patches.map_err(|flaw| flaw.within(source.path(), header.log_offset))?;
    Ok(Some(patches))
}

/// Writes the changes into the file. Any part of it may be lost or done again: the log still stands.
pub(crate) fn apply(source: &Source, patches: &Patches) -> Result<()> {
    let size = source.size()?;
    // Growing first makes the new part zero, so that only what was there needs zeroes written.
    if size < patches.size() {
        source.resize(patches.size())?;
    }
    for (start, patch) in patches.iter() {
        match &patch.bytes {
            Some(bytes) => source.write_all_at(start, bytes)?,
            None => source.write_zeroes(start, patch.below(size, start))?,
        }
    }
    source.sync()
}

/// The log in memory.
struct Ring<'a> {
    bytes: &'a [u8],
    guid: Uuid,
    /// By sector: what was found there, once it was looked at.
    known: Vec<Option<Option<EntryHeader>>>,
    /// Sectors from which no valid sequence starts.
    dead: Vec<bool>,
    checked: u64,
}

impl<'a> Ring<'a> {
    fn new(bytes: &'a [u8], guid: Uuid) -> Self {
        let sectors = bytes.len() / SECTOR;
        Ring {
            bytes,
            guid,
            known: vec![None; sectors],
            dead: vec![false; sectors],
            checked: 0,
        }
    }

    /// The bytes of an entry, which may go on at the start of the ring.
    fn slice(&self, start: usize, len: usize) -> Cow<'a, [u8]> {
        let first = &self.bytes[start..];
        if len <= first.len() {
            Cow::Borrowed(&first[..len])
        } else {
            Cow::Owned([first, &self.bytes[..len - first.len()]].concat())
        }
    }

    /// The valid entry at a sector, if there is one.
    fn entry(&mut self, sector: usize) -> Parsed<Option<EntryHeader>> {
        if let Some(known) = &self.known[sector] {
            return Ok(known.clone());
        }
        let start = sector * SECTOR;
        let ring = to_u64(self.bytes.len());
        let mut found = EntryHeader::parse(&self.bytes[start..start + SECTOR], ring, self.guid);
        if let Some(header) = &found {
            self.checked += u64::from(header.length);
            if self.checked > CHECKED_MAX * ring {
                return Err(Flaw::corrupt(to_u64(start), "the log's entries overlap"));
            }
            let bytes = self.slice(start, to_usize(u64::from(header.length)));
            if log::parse(&bytes, header).is_none() {
                found = None;
            }
        }
        self.known[sector] = Some(found.clone());
        Ok(found)
    }

    /// The longest run of entries with rising numbers from `first`, and the sector behind it.
    fn run(&mut self, first: usize) -> Parsed<(Vec<(usize, EntryHeader)>, usize)> {
        let mut run: Vec<(usize, EntryHeader)> = Vec::new();
        let mut next = first;
        while let Some(entry) = self.entry(next)? {
            let follows = run
                .last()
                .is_none_or(|(_, last)| last.sequence.checked_add(1) == Some(entry.sequence));
            if !follows {
                break;
            }
            let sectors = to_usize(u64::from(entry.length)) / SECTOR;
            run.push((next, entry));
            next = (next + sectors) % self.known.len();
        }
        Ok((run, next))
    }

    /// The sequence to replay, from its tail to its head.
    fn active(&mut self) -> Parsed<Vec<(usize, EntryHeader)>> {
        let mut active: Vec<(usize, EntryHeader)> = Vec::new();
        let mut first = 0;
        while first < self.known.len() {
            let (mut run, end) = if self.dead[first] {
                (Vec::new(), first)
            } else {
                self.run(first)?
            };
            let tail = run
                .last()
                .map(|(_, head)| to_usize(u64::from(head.tail)) / SECTOR);
            let tail = run.iter().position(|&(sector, _)| Some(sector) == tail);
            let Some(tail) = tail else {
                // Its later parts have the same head, and even less of what comes before.
                run.iter().for_each(|&(sector, _)| self.dead[sector] = true);
                first += 1;
                continue;
            };
            let newest = |run: &[(usize, EntryHeader)]| run.last().map_or(0, |(_, e)| e.sequence);
            if newest(&run) > newest(&active) {
                active = run.split_off(tail);
            }
            if end <= first {
                break;
            }
            first = end;
        }
        if active.is_empty() {
            return Err(Flaw::corrupt(
                0,
                "the log should hold entries and holds none that is valid",
            ));
        }
        Ok(active)
    }

    /// The changes of a sequence, for a file of `size` bytes.
    fn collect(
        &self,
        active: &[(usize, EntryHeader)],
        size: u64,
        log: ByteRange,
    ) -> Parsed<Patches> {
        let mut patches = Patches::default();
        for (sector, header) in active {
            let start = sector * SECTOR;
            let flaw = |kind, detail| Flaw::new(kind, to_u64(start), detail);
            let bytes = self.slice(start, to_usize(u64::from(header.length)));
            for change in log::parse(&bytes, header).unwrap_or_default() {
                let (offset, patch) = patch(change);
                let range = ByteRange::at(offset, patch.len).filter(|r| r.end() <= FILE_SIZE_MAX);
                let range = range.ok_or_else(|| {
                    let detail = format!("an entry writes at byte {offset}, behind any file's end");
                    flaw(Kind::Corrupt, detail)
                })?;
                if [HEADERS, log]
                    .iter()
                    .any(|own| !own.intersect(range).is_empty())
                {
                    let detail = format!("an entry writes {range}, over the headers or the log");
                    return Err(flaw(Kind::Corrupt, detail));
                }
                patches.put(offset, patch);
                if patches.len() > PATCHES_MAX {
                    let detail = format!("the log has more than {PATCHES_MAX} changes");
                    return Err(flaw(Kind::TooLarge, detail));
                }
            }
        }
        let Some((_, head)) = active.last() else {
            return Ok(patches);
        };
        if size < head.flushed {
            let detail = format!(
                "the log knows a file of {} bytes, this has {size}",
                head.flushed
            );
            return Err(Flaw::new(Kind::Truncated, 0, detail));
        }
        if head.last > FILE_SIZE_MAX {
            let detail = format!("the log wants a file of {} bytes", head.last);
            return Err(Flaw::corrupt(0, detail));
        }
        patches.grow(head.last);
        let zeroes = patches.iter().filter(|(_, patch)| patch.bytes.is_none());
        let zeroes: u64 = zeroes.map(|(start, patch)| patch.below(size, start)).sum();
        if zeroes > ZEROES_MAX {
            let detail = format!("the log zeroes {zeroes} bytes, more than {ZEROES_MAX}");
            return Err(Flaw::new(Kind::TooLarge, 0, detail));
        }
        Ok(patches)
    }
}

fn patch(change: Change) -> (u64, Patch) {
    match change {
        Change::Page { offset, bytes } => (
            offset,
            Patch {
                len: to_u64(bytes.len()),
                bytes: Some(bytes),
            },
        ),
        Change::Zero { offset, len } => (offset, Patch { len, bytes: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: Uuid = Uuid::from_u128(6);
    const SECTORS: usize = 32;

    /// A ring with entries of one page each: (sector, tail sector, sequence, value of the page at 1 MiB).
    fn ring(entries: &[(usize, u32, u64, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; SECTORS * SECTOR];
        for &(sector, tail, sequence, value) in entries {
            let sizes = (MIB, 2 * MIB);
            let header = log::next_header(GUID, sequence, tail * 4096, sizes);
            let page = vec![value; SECTOR].into_boxed_slice();
            let entry = log::encode(&header, &[(MIB, page)]);
            for (index, byte) in entry.into_iter().enumerate() {
                bytes[(sector * SECTOR + index) % (SECTORS * SECTOR)] = byte;
            }
        }
        bytes
    }

    fn active(bytes: &[u8]) -> Vec<u64> {
        let active = Ring::new(bytes, GUID).active().unwrap_or_default();
        active.iter().map(|(_, entry)| entry.sequence).collect()
    }

    #[test]
    fn the_newest_complete_sequence_counts_from_its_tail() {
        let bytes = ring(&[(0, 0, 5, 1), (2, 0, 6, 2), (4, 2, 7, 3), (10, 10, 3, 4)]);
        assert_eq!(active(&bytes), [6, 7]);
        let patches = Ring::new(&bytes, GUID);
        let found = Ring::new(&bytes, GUID).active().unwrap();
        let log = ByteRange::at(8 * MIB, MIB).unwrap();
        let patches = patches.collect(&found, MIB, log).unwrap();
        let values: Vec<_> = patches
            .iter()
            .map(|(at, patch)| (at, patch.bytes.as_ref().unwrap()[0]))
            .collect();
        assert_eq!((values, patches.size()), (vec![(MIB, 3)], 2 * MIB));
    }

    #[test]
    fn a_sequence_goes_on_at_the_start_of_the_ring() {
        assert_eq!(
            active(&ring(&[(28, 28, 5, 1), (30, 28, 6, 2), (0, 28, 7, 3)])),
            [5, 6, 7]
        );
        assert_eq!(
            active(&ring(&[(29, 29, 5, 1), (31, 29, 6, 2), (1, 29, 7, 3)])),
            [5, 6, 7]
        );
    }

    #[test]
    fn a_newer_entry_without_its_tail_does_not_count() {
        assert_eq!(active(&ring(&[(0, 0, 5, 1), (10, 8, 9, 2)])), [5]);
        let mut torn = ring(&[(0, 0, 5, 1), (2, 2, 6, 2)]);
        torn[3 * SECTOR + 100] ^= 1;
        assert_eq!(active(&torn), [5]);
    }

    #[test]
    fn two_single_entries_side_by_side_replay_the_newer_alone() {
        assert_eq!(active(&ring(&[(0, 0, 5, 1), (2, 2, 6, 2)])), [6]);
        assert_eq!(active(&ring(&[(0, 0, 7, 1), (2, 2, 6, 2)])), [7]);
    }

    #[test]
    fn no_sequence_is_damage() {
        let bytes = ring(&[]);
        let flaw = Ring::new(&bytes, GUID).active().unwrap_err();
        assert_eq!(flaw.kind, Kind::Corrupt);
        let foreign = ring(&[(0, 0, 5, 1)]);
        assert!(Ring::new(&foreign, Uuid::from_u128(7)).active().is_err());
    }

    #[test]
    fn a_truncated_file_and_writes_over_the_headers_are_refused() {
        let bytes = ring(&[(0, 0, 5, 1)]);
        let found = Ring::new(&bytes, GUID).active().unwrap();
        let ring = Ring::new(&bytes, GUID);
        let log = ByteRange::at(8 * MIB, MIB).unwrap();
        assert_eq!(
            ring.collect(&found, MIB - 1, log).unwrap_err().kind,
            Kind::Truncated
        );
        let here = ByteRange::at(MIB, MIB).unwrap();
        assert_eq!(
            ring.collect(&found, MIB, here).unwrap_err().kind,
            Kind::Corrupt
        );
    }
}
