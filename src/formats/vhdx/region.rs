//! The region table of a VHDX: where the block allocation table and the metadata are.
//!
//! ```text
//! 0 `regi`    8 entry count    16 + 32·n  GUID, 16 bytes │ file offset, 8 │ length, 4 │ required, 4
//! 4 CRC-32C  12 0              64 KiB in all, twice: at 192 KiB and 256 KiB
//! ```
//! Little-endian; `[MS-VHDX]` 2.2.3. A file with a region that is required and unknown is refused.

use uuid::{Uuid, uuid};

use crate::formats::bytes::{field, put};
use crate::formats::error::{Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::formats::vhdx::crc::crc32c;
use crate::formats::vhdx::header::HEADER_SECTION;
use crate::units::{ByteRange, KIB, MIB};

const TABLE_SIZE: usize = 64 << 10;
const COPIES: [u64; 2] = [192 * KIB, 256 * KIB];
const ENTRIES_MAX: u32 = 2047;
const BAT: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
const METADATA: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");

/// The regions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regions {
    /// Of the block allocation table.
    pub(crate) bat: ByteRange,
    pub(crate) metadata: ByteRange,
    /// Regions that we need not understand, and must not write over.
    pub(crate) others: Vec<ByteRange>,
}

impl Regions {
    /// Reads the table; the second copy counts if the first is damaged.
    pub(crate) fn read(source: &Source) -> Result<Self> {
        let read = |offset: u64| -> Result<Self> {
            let mut bytes = vec![0; TABLE_SIZE];
            source.read_exact_at(offset, &mut bytes)?;
            Self::parse(&bytes).map_err(|flaw| flaw.within(source.path(), offset))
        };
        match read(COPIES[0]) {
            Err(error) if error.kind() == Kind::Checksum => read(COPIES[1]).map_err(|_| error),
            other => other,
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = ByteRange> {
        [self.bat, self.metadata]
            .into_iter()
            .chain(self.others.iter().copied())
    }

    fn parse(bytes: &[u8]) -> Parsed<Self> {
        let (found, expected) = (u32::from_le_bytes(field(bytes, 4)), crc32c(bytes, 4));
        if !bytes.starts_with(b"regi") || found != expected {
            let detail =
                format!("checksum of the region table is {found:#010x}, expected {expected:#010x}");
            return Err(Flaw::new(Kind::Checksum, 4, detail));
        }
        let count = u32::from_le_bytes(field(bytes, 8));
        if count > ENTRIES_MAX {
            let detail = format!("the region table has {count} entries, at most {ENTRIES_MAX} fit");
            return Err(Flaw::corrupt(8, detail));
        }
        let (mut bat, mut metadata, mut others) = (None, None, Vec::new());
        let entries = bytes[16..].as_chunks::<32>().0.iter().zip(0_u64..);
        for (entry, index) in entries.take(usize::try_from(count).unwrap_or(0)) {
            let at = 16 + 32 * index;
            let region = Entry::parse(entry, at)?;
            let place = match region.id {
                BAT => &mut bat,
                METADATA => &mut metadata,
                unknown if region.required => {
                    let detail = format!("region {unknown} is required and unknown here");
                    return Err(Flaw::new(Kind::Unsupported, at, detail));
                }
                _ => {
                    others.push(region.range);
                    continue;
                }
            };
            if place.replace(region.range).is_some() {
                let detail = format!("region {} is listed twice", region.id);
                return Err(Flaw::corrupt(at, detail));
            }
        }
        let missing = |what| Flaw::corrupt(16, format!("the {what} region is missing"));
        Ok(Regions {
            bat: bat.ok_or_else(|| missing("block allocation table"))?,
            metadata: metadata.ok_or_else(|| missing("metadata"))?,
            others,
        })
    }

    /// Writes both copies of the table of a new file.
    pub(crate) fn create(&self, source: &Source) -> Result<()> {
        let mut bytes = vec![0; TABLE_SIZE];
        put(&mut bytes, 0, b"regi");
        put(&mut bytes, 8, &2_u32.to_le_bytes());
        for (index, (id, range)) in [(BAT, self.bat), (METADATA, self.metadata)]
            .iter()
            .enumerate()
        {
            let at = 16 + 32 * index;
            let length = u32::try_from(range.len()).expect("regions of new files are small");
            put(&mut bytes, at, &id.to_bytes_le());
            put(&mut bytes, at + 16, &range.start().to_le_bytes());
            put(&mut bytes, at + 24, &length.to_le_bytes());
            put(&mut bytes, at + 28, &1_u32.to_le_bytes());
        }
        let sum = crc32c(&bytes, 4);
        put(&mut bytes, 4, &sum.to_le_bytes());
        COPIES
            .into_iter()
            .try_for_each(|copy| source.write_all_at(copy, &bytes))
    }
}

struct Entry {
    id: Uuid,
    range: ByteRange,
    required: bool,
}

impl Entry {
    fn parse(bytes: &[u8; 32], at: u64) -> Parsed<Self> {
        let offset = u64::from_le_bytes(field(bytes, 16));
        let length = u64::from(u32::from_le_bytes(field(bytes, 24)));
        let aligned = offset.is_multiple_of(MIB) && length.is_multiple_of(MIB);
        let range = ByteRange::at(offset, length);
        match range {
            Some(range) if aligned && offset >= HEADER_SECTION && length > 0 => Ok(Entry {
                id: Uuid::from_bytes_le(field(bytes, 0)),
                range,
                required: u32::from_le_bytes(field(bytes, 28)) & 1 == 1,
            }),
            _ => {
                let detail = format!(
                    "a region of {length} bytes at byte {offset} is not whole MiB after the first"
                );
                Err(Flaw::corrupt(at + 16, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;
    use std::sync::Arc;

    fn regions() -> Regions {
        Regions {
            bat: ByteRange::at(3 << 20, 1 << 20).unwrap(),
            metadata: ByteRange::at(2 << 20, 1 << 20).unwrap(),
            others: Vec::new(),
        }
    }

    fn file() -> Source {
        let source = Source::new("a.vhdx", Arc::new(Memory::default()));
        regions().create(&source).unwrap();
        source
    }

    /// Changes both copies and makes their checksums right.
    fn changed(change: impl Fn(&mut [u8])) -> Kind {
        let source = file();
        let mut bytes = vec![0; TABLE_SIZE];
        source.read_exact_at(COPIES[0], &mut bytes).unwrap();
        change(&mut bytes);
        let sum = crc32c(&bytes, 4);
        put(&mut bytes, 4, &sum.to_le_bytes());
        for copy in COPIES {
            source.write_all_at(copy, &bytes).unwrap();
        }
        Regions::read(&source).unwrap_err().kind()
    }

    #[test]
    fn a_table_comes_back_as_it_was_written_even_from_its_second_copy() {
        let source = file();
        assert_eq!(Regions::read(&source).unwrap(), regions());
        source.write_all_at(COPIES[0] + 100, b"x").unwrap();
        assert_eq!(Regions::read(&source).unwrap(), regions());
        source.write_all_at(COPIES[1] + 100, b"x").unwrap();
        assert_eq!(Regions::read(&source).unwrap_err().kind(), Kind::Checksum);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let unknown = |bytes: &mut [u8]| {
            bytes[8] = 3;
            let entry: [u8; 32] = field(bytes, 16);
            put(bytes, 80, &entry);
            put(bytes, 80, &[7; 16]);
        };
        assert_eq!(changed(unknown), Kind::Unsupported);
        let twice = |bytes: &mut [u8]| {
            let entry: [u8; 32] = field(bytes, 16);
            put(bytes, 48, &entry);
        };
        assert_eq!(changed(twice), Kind::Corrupt);
        assert_eq!(changed(|bytes| bytes[8] = 1), Kind::Corrupt);
        assert_eq!(
            changed(|bytes| put(bytes, 8, &2048_u32.to_le_bytes())),
            Kind::Corrupt
        );
        assert_eq!(
            changed(|bytes| put(bytes, 32, &1_u64.to_le_bytes())),
            Kind::Corrupt
        );
        assert_eq!(changed(|bytes| put(bytes, 32, &[0xff; 8])), Kind::Corrupt);
    }
}
