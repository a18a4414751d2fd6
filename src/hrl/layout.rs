//! The structures of a log, byte by byte ([MS-HRL] 2.2 to 2.4), as values.
//!
//! Encoding cannot fail; decoding checks every length, checksum and reserved meaning before a field is believed.

use jiff::Timestamp;
use uuid::Uuid;

use super::CREATOR;
use super::error::Error;
use crate::units::{ByteRange, SECTOR, to_u64};

/// Bytes of the header.
pub const HEADER: usize = 4096;
/// Bytes of the metadata blocks that we write.
pub const BLOCK: usize = 4096;
/// Bytes of a block's header and of each of its entries.
pub const ENTRY: usize = 32;
/// The most data that one record may have. Hyper-V logs single writes, which are smaller by far.
pub const DATA_MAX: u64 = 64 << 20;
/// Records that one of our blocks holds.
pub const RECORDS_PER_BLOCK: usize = BLOCK / ENTRY - 1;
/// The largest metadata block that is read: 32,767 records. Hyper-V writes 4096 bytes.
const BLOCK_MAX: usize = 1 << 20;

const COOKIE: &[u8; 8] = b"msctlog\0";
const VERSION_2: u32 = 0x0002_0000;
/// Seconds from 1970 to 2000, where the format's clock starts.
const EPOCH_2000: i64 = 946_684_800;

/// The first 4096 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub creator: [u8; 4],
    pub created: u32,
    pub modified: u32,
    /// Bytes of the disk.
    pub disk_size: u64,
    /// End of the last metadata block; 0 while the log is open.
    pub end: u64,
    pub block_size: usize,
    pub id: Uuid,
    /// The log before this one; nil if it is the first.
    pub previous: Uuid,
    pub records: u64,
    /// The VHDX DataWriteGuid of the disk, nil if unknown.
    pub data_write: Uuid,
}

impl Header {
    /// Whether the log has our additions to the format.
    pub fn ours(&self) -> bool {
        self.creator == CREATOR
    }

    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..8].copy_from_slice(COOKIE);
        out[8..12].copy_from_slice(&VERSION_2.to_le_bytes());
        out[12..16].copy_from_slice(&self.created.to_le_bytes());
        out[16..20].copy_from_slice(&self.creator);
        out[20..24].copy_from_slice(&1u32.to_le_bytes());
        out[24..32].copy_from_slice(&self.disk_size.to_le_bytes());
        out[32..40].copy_from_slice(&self.disk_size.to_le_bytes());
        out[44..52].copy_from_slice(&self.end.to_le_bytes());
        let block_size = u32::try_from(self.block_size).expect("a block is at most 1 MiB");
        out[56..60].copy_from_slice(&block_size.to_le_bytes());
        out[60..76].copy_from_slice(&self.id.to_bytes_le());
        out[76..92].copy_from_slice(&self.previous.to_bytes_le());
        out[92..96].copy_from_slice(&self.modified.to_le_bytes());
        out[96..104].copy_from_slice(&self.records.to_le_bytes());
        out[110..126].copy_from_slice(&self.data_write.to_bytes_le());
        let sum = byte_sum(&out);
        out[40..44].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, Error> {
        if &bytes[0..8] != COOKIE {
            return Err(Error::NotALog {
                what: "it does not start with `msctlog`",
            });
        }
        if u32_at(bytes, 8) != VERSION_2 {
            return Err(Error::NotALog {
                what: "its version is not 2.0",
            });
        }
        check_sum(bytes, 40, 0, "header checksum")?;
        let block_size = u32_at(bytes, 56) as usize;
        if !block_size.is_multiple_of(512) || block_size == 0 || block_size > BLOCK_MAX {
            return Err(damaged(
                56,
                "metadata block size",
                "a multiple of 512 up to 1 MiB",
                &block_size,
            ));
        }
        Ok(Header {
            creator: array_at(bytes, 16),
            created: u32_at(bytes, 12),
            modified: u32_at(bytes, 92),
            disk_size: u64_at(bytes, 32),
            end: u64_at(bytes, 44),
            block_size,
            id: Uuid::from_bytes_le(array_at(bytes, 60)),
            previous: Uuid::from_bytes_le(array_at(bytes, 76)),
            records: u64_at(bytes, 96),
            data_write: Uuid::from_bytes_le(array_at(bytes, 110)),
        })
    }
}

/// What a record does to its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The range holds the record's data.
    Write,
    /// The range reads as zeroes.
    Zero,
}

/// One entry of a metadata block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub range: ByteRange,
    pub operation: Operation,
    pub time: u32,
    /// Byte sum of the data; 0 where there is none.
    pub data_sum: u32,
}

impl Entry {
    /// Bytes of data that stand in the log for this entry.
    pub fn data_len(&self) -> u64 {
        match self.operation {
            Operation::Write => self.range.len(),
            Operation::Zero => 0,
        }
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        out[0..8].copy_from_slice(&self.range.start().to_le_bytes());
        let len = u32::try_from(self.range.len()).expect("the writer splits longer records");
        out[12..16].copy_from_slice(&len.to_le_bytes());
        out[16..20].copy_from_slice(&self.time.to_le_bytes());
        out[20] = match self.operation {
            Operation::Write => 1,
            Operation::Zero => 2,
        };
        out[21..25].copy_from_slice(&self.data_sum.to_le_bytes());
        let sum = byte_sum(&out);
        out[8..12].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], at: u64, header: &Header) -> Result<Self, Error> {
        check_sum(bytes, 8, at, "record checksum")?;
        let operation = match (bytes[20], header.ours()) {
            (1, _) => Operation::Write,
            (2, true) => Operation::Zero,
            (other, _) => return Err(damaged(at + 20, "operation", "1 (write)", &other)),
        };
        let (start, len) = (u64_at(bytes, 0), u64::from(u32_at(bytes, 12)));
        let range = ByteRange::at(start, len)
            .filter(|range| acceptable(*range, header.disk_size))
            .filter(|range| operation == Operation::Zero || range.len() <= DATA_MAX)
            .ok_or_else(|| {
                damaged(
                    at,
                    "range",
                    "whole sectors inside of the disk",
                    &format!("{start}+{len}"),
                )
            })?;
        Ok(Entry {
            range,
            operation,
            time: u32_at(bytes, 16),
            data_sum: u32_at(bytes, 21),
        })
    }
}

/// Whether a record may say something of `range` on a disk of `disk_size` bytes.
pub fn acceptable(range: ByteRange, disk_size: u64) -> bool {
    !range.is_empty()
        && range.end() <= disk_size
        && range.start().is_multiple_of(SECTOR)
        && range.len().is_multiple_of(SECTOR)
}

/// A metadata block of `entries`, `back` bytes after the one before it (0 for the first).
pub fn encode_block(header: &Header, back: u64, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![0; header.block_size];
    out[0..8].copy_from_slice(&back.to_le_bytes());
    let count = u32::try_from(entries.len()).expect("a block holds at most 32,767 entries");
    out[8..12].copy_from_slice(&count.to_le_bytes());
    for (slot, entry) in out[ENTRY..].chunks_exact_mut(ENTRY).zip(entries) {
        slot.copy_from_slice(&entry.encode());
    }
    if header.ours() {
        let seal = block_seal(header, &out);
        out[16..32].copy_from_slice(&seal);
    }
    let sum = byte_sum(&out[..ENTRY]);
    out[12..16].copy_from_slice(&sum.to_le_bytes());
    out
}

/// A decoded metadata block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes back to the block before; 0 for the first.
    pub back: u64,
    pub entries: Vec<Entry>,
}

impl Block {
    /// Bytes of data that stand before this block.
    pub fn data_len(&self) -> u64 {
        self.entries.iter().map(Entry::data_len).sum()
    }
}

/// Decodes the block that stands at `at`; `bytes` is one whole block.
pub fn decode_block(header: &Header, at: u64, bytes: &[u8]) -> Result<Block, Error> {
    check_sum(&bytes[..ENTRY], 12, at, "block checksum")?;
    if header.ours() && bytes[16..32] != block_seal(header, bytes) {
        return Err(damaged(
            at + 16,
            "block",
            "a block of this log",
            &"another hash",
        ));
    }
    let count = u32_at(bytes, 8) as usize;
    let room = bytes.len() / ENTRY - 1;
    if count > room {
        return Err(damaged(
            at + 8,
            "number of records",
            &format!("at most {room}"),
            &count,
        ));
    }
    let entries = bytes[ENTRY..].chunks_exact(ENTRY).take(count).enumerate();
    let entries = entries
        .map(|(index, entry)| Entry::decode(entry, at + to_u64((index + 1) * ENTRY), header))
        .collect::<Result<_, _>>()?;
    Ok(Block {
        back: u64_at(bytes, 0),
        entries,
    })
}

/// Binds a block to its log; leaves out the checksum and itself, which are filled in later.
fn block_seal(header: &Header, block: &[u8]) -> [u8; 16] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(header.id.as_bytes());
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&block[..12]).update(&block[ENTRY..]);
    let mut seal = [0; 16];
    seal.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    seal
}

/// One's complement of the sum of all bytes.
pub fn byte_sum(bytes: &[u8]) -> u32 {
    // Pieces keep the inner sum in 32 bits without a check, which lets it be vectorized.
    let sum = bytes
        .chunks(1 << 16)
        .map(|piece| piece.iter().map(|&b| u32::from(b)).sum::<u32>());
    !sum.fold(0u32, u32::wrapping_add)
}

fn check_sum(bytes: &[u8], field: usize, at: u64, what: &'static str) -> Result<(), Error> {
    let found = u32_at(bytes, field);
    let field_bytes = bytes[field..field + 4]
        .iter()
        .map(|&b| u32::from(b))
        .sum::<u32>();
    let expected = !((!byte_sum(bytes)).wrapping_sub(field_bytes));
    if found == expected {
        return Ok(());
    }
    let said = format!("{expected:#010x}");
    Err(damaged(
        at + to_u64(field),
        what,
        &said,
        &format!("{found:#010x}"),
    ))
}

pub fn damaged(
    offset: u64,
    what: &'static str,
    expected: &str,
    found: &dyn std::fmt::Display,
) -> Error {
    Error::Damaged {
        offset,
        what,
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}

/// Seconds since 2000, as the format counts; saturating.
pub fn seconds_since_2000(time: Timestamp) -> u32 {
    let seconds = time.as_second().saturating_sub(EPOCH_2000).max(0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
