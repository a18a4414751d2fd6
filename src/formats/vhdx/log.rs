//! One entry of a VHDX's log: pages of metadata that are written to the file again after a crash.
//!
//! ```text
//! sector 0     0 `loge`         12 tail                24 descriptor count   48 flushed file offset
//!              4 CRC-32C        16 sequence number     32 LogGuid            56 last file offset
//!              8 entry length   64 descriptors, 32 bytes each, over as many sectors as they need
//! descriptor   0 `desc` │ 4 last 4 bytes │ 8 first 8 bytes │ 16 file offset │ 24 sequence number
//!              0 `zero` │ 4 zero         │ 8 length        │ 16 file offset │ 24 sequence number
//! then, per `desc`, a sector:  0 `data` │ 4 sequence, high half │ 8 bytes 8 to 4091 of the page │ 4092 low half
//! ```
//! Little-endian; `[MS-VHDX]` 2.3.1. The signatures take the place of twelve bytes of each page, which its descriptor
//! keeps. An entry is whole or it is nothing: checksum, sequence numbers and counts must all agree.

use uuid::Uuid;

use crate::formats::bytes::{field, put};
use crate::formats::vhdx::crc::crc32c;
use crate::units::{to_u64, to_usize};

/// The log's sectors, and the pages that it carries.
pub(crate) const SECTOR: usize = 4096;
/// Descriptors that the first sector of an entry holds; the writer never uses more.
pub(crate) const FIRST_DESCRIPTORS: usize = 126;
const DESCRIPTORS: usize = 64;
const DESCRIPTOR: usize = 32;

/// The header of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    /// Bytes of the whole entry.
    pub(crate) length: u32,
    /// Where in the log the oldest entry stands that must be replayed with this one.
    pub(crate) tail: u32,
    pub(crate) sequence: u64,
    descriptors: u32,
    pub(crate) guid: Uuid,
    /// The size that the file had on stable storage.
    pub(crate) flushed: u64,
    /// The size that all structures fit into.
    pub(crate) last: u64,
}

/// A change that an entry makes to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Page { offset: u64, bytes: Box<[u8]> },
    Zero { offset: u64, len: u64 },
}

impl EntryHeader {
    /// The header at the start of `sector`, if it could be one of a log of `ring` bytes. This is cheap; see [`parse`].
    pub(crate) fn parse(sector: &[u8], ring: u64, guid: Uuid) -> Option<Self> {
        let header = EntryHeader {
            length: u32::from_le_bytes(field(sector, 8)),
            tail: u32::from_le_bytes(field(sector, 12)),
            sequence: u64::from_le_bytes(field(sector, 16)),
            descriptors: u32::from_le_bytes(field(sector, 24)),
            guid: Uuid::from_bytes_le(field(sector, 32)),
            flushed: u64::from_le_bytes(field(sector, 48)),
            last: u64::from_le_bytes(field(sector, 56)),
        };
        let (length, tail) = (u64::from(header.length), u64::from(header.tail));
        let legal = sector.starts_with(b"loge")
            && header.guid == guid
            && header.sequence > 0
            && length.is_multiple_of(to_u64(SECTOR))
            && (to_u64(SECTOR)..=ring).contains(&length)
            && tail.is_multiple_of(to_u64(SECTOR))
            && tail < ring
            && header.descriptor_sectors() * to_u64(SECTOR) <= length;
        legal.then_some(header)
    }

    fn descriptor_sectors(&self) -> u64 {
        (to_u64(DESCRIPTORS) + to_u64(DESCRIPTOR) * u64::from(self.descriptors))
            .div_ceil(to_u64(SECTOR))
            .max(1)
    }
}

/// The changes of the entry `bytes`, if every part of it is valid.
pub(crate) fn parse(bytes: &[u8], header: &EntryHeader) -> Option<Vec<Change>> {
    if u32::from_le_bytes(field(bytes, 4)) != crc32c(bytes, 4) {
        return None;
    }
    let (front, data) = bytes.split_at(to_usize(header.descriptor_sectors()) * SECTOR);
    let mut data = data.as_chunks::<SECTOR>().0.iter();
    let descriptors = front[DESCRIPTORS..].as_chunks::<DESCRIPTOR>().0;
    let descriptors = descriptors.iter().zip(0..header.descriptors);
    let changes = descriptors.map(|(descriptor, _)| change(descriptor, &mut data, header.sequence));
    let changes = changes.collect::<Option<Vec<_>>>()?;
    // As many data sectors as there are descriptors for them.
    data.next().is_none().then_some(changes)
}

fn change<'a>(
    descriptor: &[u8; DESCRIPTOR],
    data: &mut impl Iterator<Item = &'a [u8; SECTOR]>,
    sequence: u64,
) -> Option<Change> {
    let offset = u64::from_le_bytes(field(descriptor, 16));
    if u64::from_le_bytes(field(descriptor, 24)) != sequence || !is_page(offset) {
        return None;
    }
    match &field(descriptor, 0) {
        b"zero" => {
            let len = u64::from_le_bytes(field(descriptor, 8));
            is_page(len).then_some(Change::Zero { offset, len })
        }
        b"desc" => {
            let sector = data.next()?;
            let high = u64::from(u32::from_le_bytes(field(sector, 4)));
            let low = u64::from(u32::from_le_bytes(field(sector, SECTOR - 4)));
            if !sector.starts_with(b"data") || high << 32 | low != sequence {
                return None;
            }
            let mut bytes = Box::new(*sector) as Box<[u8]>;
            put(&mut bytes, 0, &descriptor[8..16]);
            put(&mut bytes, SECTOR - 4, &descriptor[4..8]);
            Some(Change::Page { offset, bytes })
        }
        _ => None,
    }
}

fn is_page(offset: u64) -> bool {
    offset.is_multiple_of(to_u64(SECTOR))
}

/// The entry that writes `pages`, of which there are at most [`FIRST_DESCRIPTORS`], each a page at its file offset.
///
/// Its header gives all but its length and count.
pub(crate) fn encode(header: &EntryHeader, pages: &[(u64, Box<[u8]>)]) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR * (1 + pages.len())];
    let length = u32::try_from(bytes.len()).expect("an entry has at most 127 sectors");
    let count = u32::try_from(pages.len()).expect("an entry has at most 126 pages");
    put(&mut bytes, 0, b"loge");
    put(&mut bytes, 8, &length.to_le_bytes());
    put(&mut bytes, 12, &header.tail.to_le_bytes());
    put(&mut bytes, 16, &header.sequence.to_le_bytes());
    put(&mut bytes, 24, &count.to_le_bytes());
    put(&mut bytes, 32, &header.guid.to_bytes_le());
    put(&mut bytes, 48, &header.flushed.to_le_bytes());
    put(&mut bytes, 56, &header.last.to_le_bytes());
    let [low, high] = halves(header.sequence);
    for (index, (offset, page)) in pages.iter().enumerate() {
        let at = DESCRIPTORS + DESCRIPTOR * index;
        put(&mut bytes, at, b"desc");
        put(&mut bytes, at + 4, &page[SECTOR - 4..]);
        put(&mut bytes, at + 8, &page[..8]);
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &header.sequence.to_le_bytes());
        let at = SECTOR * (1 + index);
        put(&mut bytes, at, page);
        put(&mut bytes, at, b"data");
        put(&mut bytes, at + 4, &high);
        put(&mut bytes, at + SECTOR - 4, &low);
    }
    let sum = crc32c(&bytes, 4);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

/// The header of an entry that is about to be encoded.
pub(crate) const fn next_header(
    guid: Uuid,
    sequence: u64,
    tail: u32,
    (flushed, last): (u64, u64),
) -> EntryHeader {
    EntryHeader {
        length: 0,
        tail,
        sequence,
        descriptors: 0,
        guid,
        flushed,
        last,
    }
}

/// The low and the high four bytes.
fn halves(sequence: u64) -> [[u8; 4]; 2] {
    let bytes = sequence.to_le_bytes();
    [field(&bytes, 0), field(&bytes, 4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: Uuid = Uuid::from_u128(6);
    const RING: u64 = 1 << 20;

    fn page(value: u8) -> Box<[u8]> {
        let mut page = vec![value; SECTOR].into_boxed_slice();
        page[..8].copy_from_slice(b"leading.");
        page[SECTOR - 4..].copy_from_slice(b"tail");
        page
    }

    fn entry() -> Vec<u8> {
        let header = next_header(GUID, 0x1_0000_0002, 8192, (1 << 20, 2 << 20));
        encode(&header, &[(3 << 20, page(1)), (5 << 20, page(2))])
    }

    fn read(bytes: &[u8]) -> Option<Vec<Change>> {
        let header = EntryHeader::parse(bytes, RING, GUID)?;
        parse(bytes.get(..to_usize(u64::from(header.length)))?, &header)
    }

    #[test]
    fn pages_come_back_with_the_bytes_that_the_signatures_displaced() {
        let changes = read(&entry()).unwrap();
        let expected = [(3 << 20, page(1)), (5 << 20, page(2))];
        let expected = expected.map(|(offset, bytes)| Change::Page { offset, bytes });
        assert_eq!(changes, expected);
    }

    #[test]
    fn every_flipped_bit_makes_an_entry_nothing() {
        let good = entry();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 0x10;
            assert_eq!(read(&bad), None, "byte {byte}");
        }
    }

    #[test]
    fn an_entry_whose_parts_disagree_is_nothing_even_with_a_right_checksum() {
        let refused = |at: usize, value: &[u8]| {
            let mut bad = entry();
            put(&mut bad, at, value);
            let sum = crc32c(&bad, 4);
            put(&mut bad, 4, &sum.to_le_bytes());
            assert_eq!(read(&bad), None, "byte {at}");
        };
        refused(24, &1_u32.to_le_bytes());
        refused(24, &3_u32.to_le_bytes());
        refused(24, &u32::MAX.to_le_bytes());
        refused(16, &0_u64.to_le_bytes());
        refused(64 + 16, &1_u64.to_le_bytes());
        refused(64 + 24, &9_u64.to_le_bytes());
        refused(SECTOR, b"date");
        refused(SECTOR + 4, &9_u32.to_le_bytes());
        refused(2 * SECTOR - 4, &9_u32.to_le_bytes());
    }
}
