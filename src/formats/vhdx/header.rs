//! The start of a VHDX: the mark of the file, and two headers of which the newer valid one counts.
//!
//! ```text
//!   0 KiB  `vhdxfile`, creator in UTF-16        never changes
//!  64 KiB  header 1, 4 KiB ┐ 0 `head`           16 FileWriteGuid    64 log version    68 log length
//! 128 KiB  header 2, 4 KiB ┘ 4 CRC-32C          32 DataWriteGuid    66 version        72 log offset
//!                            8 sequence number  48 LogGuid                            80 zeroes
//! 192 KiB, 256 KiB  region table, twice         1 MiB: anything else
//! ```
//! Little-endian; `[MS-VHDX]` 2.2.1, 2.2.2. A header is changed by writing the older slot and syncing: a torn write
//! leaves the newer one.

use uuid::Uuid;

use crate::formats::bytes::{Utf16, field, put};
use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::formats::vhdx::crc::crc32c;
use crate::units::{KIB, MIB};

pub(crate) const SIGNATURE: [u8; 8] = *b"vhdxfile";
/// The section that headers and region tables have to themselves.
pub(crate) const HEADER_SECTION: u64 = MIB;
const HEADER_SIZE: usize = 4096;
const SLOTS: [u64; 2] = [64 * KIB, 128 * KIB];
const VERSION: u16 = 1;
/// Changes of the headers that must still be possible before a file is opened for writing: more than any session makes.
const CHANGES_LEFT: u64 = 1 << 20;
const CREATOR: &str = "site-recovery";

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    /// Changes with the file.
    pub(crate) file_write: Uuid,
    /// Changes with what a guest can see.
    pub(crate) data_write: Uuid,
    /// Marks the valid entries of the log; nil if there are none.
    pub(crate) log_guid: Uuid,
    pub(crate) log_version: u16,
    pub(crate) log_length: u32,
    pub(crate) log_offset: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_SIZE]) -> Parsed<Self> {
        if !bytes.starts_with(b"head") {
            return Err(Flaw::corrupt(0, "this is no VHDX header: it lacks `head`"));
        }
        let (found, expected) = (u32::from_le_bytes(field(bytes, 4)), crc32c(bytes, 4));
        if found != expected {
            let detail =
                format!("checksum of the header is {found:#010x}, expected {expected:#010x}");
            return Err(Flaw::new(Kind::Checksum, 4, detail));
        }
        let version = u16::from_le_bytes(field(bytes, 66));
        if version != VERSION {
            let detail = format!("VHDX version is {version}, expected {VERSION}");
            return Err(Flaw::new(Kind::Unsupported, 66, detail));
        }
        let header = Header {
            sequence: u64::from_le_bytes(field(bytes, 8)),
            file_write: Uuid::from_bytes_le(field(bytes, 16)),
            data_write: Uuid::from_bytes_le(field(bytes, 32)),
            log_guid: Uuid::from_bytes_le(field(bytes, 48)),
            log_version: u16::from_le_bytes(field(bytes, 64)),
            log_length: u32::from_le_bytes(field(bytes, 68)),
            log_offset: u64::from_le_bytes(field(bytes, 72)),
        };
        header.check_log()?;
        Ok(header)
    }

    fn check_log(&self) -> Parsed<()> {
        let (offset, length) = (self.log_offset, u64::from(self.log_length));
        if !length.is_multiple_of(MIB) || length == 0 {
            let detail = format!("log length is {length}, expected whole MiB above zero");
            return Err(Flaw::corrupt(68, detail));
        }
        if !offset.is_multiple_of(MIB) || offset < HEADER_SECTION {
            let detail = format!("log offset is {offset}, expected a multiple of 1 MiB above zero");
            return Err(Flaw::corrupt(72, detail));
        }
        if self.log_version != 0 && !self.log_guid.is_nil() {
            let detail = format!("log version is {}, expected 0", self.log_version);
            return Err(Flaw::new(Kind::Unsupported, 64, detail));
        }
        Ok(())
    }

    fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        put(&mut bytes, 0, b"head");
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write.to_bytes_le());
        put(&mut bytes, 32, &self.data_write.to_bytes_le());
        put(&mut bytes, 48, &self.log_guid.to_bytes_le());
        put(&mut bytes, 64, &self.log_version.to_le_bytes());
        put(&mut bytes, 66, &VERSION.to_le_bytes());
        put(&mut bytes, 68, &self.log_length.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let sum = crc32c(&bytes, 4);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }
}

/// The headers of an open file.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    current: Header,
    /// The slot of the current header.
    slot: usize,
}

impl Headers {
    /// Reads the mark of the file and both headers. One valid header is enough.
    pub(crate) fn read(source: &Source) -> Result<Self> {
        if source.read_array::<8>(0)? != SIGNATURE {
            let detail = "this is no VHDX: it lacks `vhdxfile`";
            return Err(Error::new(Kind::Corrupt, source.path(), detail).at(0));
        }
        let read = |slot: usize| -> Result<Header> {
            let bytes = source.read_array(SLOTS[slot])?;
            Header::parse(&bytes).map_err(|flaw| flaw.within(source.path(), SLOTS[slot]))
        };
        let (slot, current) = match (read(0), read(1)) {
            (Ok(first), Ok(second)) if second.sequence > first.sequence => (1, second),
            (Ok(first), _) => (0, first),
            (Err(_), Ok(second)) => (1, second),
            (Err(first), Err(second)) => return Err(telling(first, second)),
        };
        Ok(Headers { current, slot })
    }

    pub(crate) const fn current(&self) -> &Header {
        &self.current
    }

    /// Whether the headers can be changed as often as a session needs to. Nothing is written yet when it asks.
    pub(crate) fn check_growth(&self, source: &Source) -> Result<()> {
        match self.current.sequence.checked_add(CHANGES_LEFT) {
            Some(_) => Ok(()),
            None => Err(self.ended(source)),
        }
    }

    fn ended(&self, source: &Source) -> Error {
        let detail = "the header's sequence number cannot grow";
        Error::new(Kind::Corrupt, source.path(), detail).at(SLOTS[self.slot] + 8)
    }

    /// Makes `change` the newest header, in one slot and then, durably again, in the other.
    ///
    /// All that the new header says must be on stable storage before. A crash leaves the header before or the new one.
    pub(crate) fn update(
        &mut self,
        source: &Source,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let mut next = self.current.clone();
        change(&mut next);
        for _ in 0..SLOTS.len() {
            let sequence = self.current.sequence.checked_add(1);
            next.sequence = sequence.ok_or_else(|| self.ended(source))?;
            let slot = 1 - self.slot;
            source.write_all_at(SLOTS[slot], &next.encode())?;
            source.sync()?;
            self.current = next.clone();
            self.slot = slot;
        }
        Ok(())
    }

    /// Writes the mark of the file and both headers of a new file; all else must be on stable storage before.
    pub(crate) fn create(source: &Source, header: &Header) -> Result<()> {
        let mut mark = SIGNATURE.to_vec();
        mark.extend(Utf16::Little.encode(CREATOR));
        source.write_all_at(0, &mark)?;
        for (slot, sequence) in SLOTS.into_iter().zip(1..) {
            let header = Header {
                sequence,
                ..header.clone()
            };
            source.write_all_at(slot, &header.encode())?;
        }
        source.sync()
    }
}

/// Of two headers that cannot be used, the error of the one that was a header once.
fn telling(first: Error, second: Error) -> Error {
    match (first.kind(), second.kind()) {
        (Kind::Corrupt | Kind::Truncated, Kind::Checksum | Kind::Unsupported) => second,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;
    use std::sync::Arc;

    fn header() -> Header {
        Header {
            sequence: 5,
            file_write: Uuid::from_u128(1),
            data_write: Uuid::from_u128(2),
            log_guid: Uuid::nil(),
            log_version: 0,
            log_length: 1 << 20,
            log_offset: 1 << 20,
        }
    }

    fn file() -> Source {
        let source = Source::new("a.vhdx", Arc::new(Memory::default()));
        Headers::create(&source, &header()).unwrap();
        source
    }

    #[test]
    fn the_newer_of_two_headers_counts() {
        let source = file();
        let mut headers = Headers::read(&source).unwrap();
        assert_eq!((headers.slot, headers.current.sequence), (1, 2));
        let guid = Uuid::from_u128(9);
        headers
            .update(&source, |next| next.data_write = guid)
            .unwrap();
        let read = Headers::read(&source).unwrap();
        assert_eq!((read.slot, read.current.sequence), (1, 4));
        assert_eq!(read.current.data_write, guid);
    }

    #[test]
    fn a_torn_header_leaves_the_other() {
        for (slot, place) in SLOTS.into_iter().enumerate() {
            let source = file();
            source.write_all_at(place + 40, b"torn").unwrap();
            let read = Headers::read(&source).unwrap();
            assert_eq!(read.slot, 1 - slot);
            assert_eq!(read.current.data_write, Uuid::from_u128(2));
        }
    }

    #[test]
    fn with_both_torn_the_error_names_the_checksum() {
        let source = file();
        for slot in SLOTS {
            source.write_all_at(slot + 40, b"torn").unwrap();
        }
        assert_eq!(Headers::read(&source).unwrap_err().kind(), Kind::Checksum);
    }

    #[test]
    fn an_unaligned_log_is_refused() {
        for (offset, length) in [(0, 1 << 20), (1 << 20, 0), (1 << 20, 4096), (4096, 1 << 20)] {
            let bad = Header {
                log_offset: offset,
                log_length: length,
                ..header()
            };
            assert_eq!(
                Header::parse(&bad.encode()).unwrap_err().kind,
                Kind::Corrupt
            );
        }
    }
}
