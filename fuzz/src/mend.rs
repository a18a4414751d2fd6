//! Makes the checksums of a changed file right again, so that a change gets past the first check and at the second.
//!
//! Written from the specifications, not with the library's own sums: a sum that is wrong there would be right here.

use site_recovery::units::{KIB, MIB, to_u64, to_usize};

use super::sparse::Sparse;

/// The log entries of one VHDX that are mended.
const ENTRIES_MAX: usize = 64;
/// The metadata blocks of one replication log that are mended.
const BLOCKS_MAX: usize = 256;
/// The longest log entry, and the longest metadata block, that is mended.
const STRUCTURE_MAX: usize = 1 << 20;

/// Mends both footers and the dynamic header of a VHD.
pub fn vhd(file: &mut Sparse) {
    let last = file.size().saturating_sub(512);
    for footer in [0, last] {
        mend(file, b"conectix", (footer, 512), 64, byte_sum);
        if file.get(footer, 8) == b"conectix" {
            let header = u64::from_be_bytes(array(&file.get(footer + 16, 8), 0));
            mend(file, b"cxsparse", (header, 1024), 36, byte_sum);
        }
    }
}

/// Mends the headers, the region tables and the log entries of a VHDX.
pub fn vhdx(file: &mut Sparse) {
    for header in [64 * KIB, 128 * KIB] {
        mend(file, b"head", (header, 4096), 4, crc32c);
        if file.get(header, 4) == b"head" {
            let fields = file.get(header + 68, 12);
            let (length, offset) = (u32_at(&fields, 0), u64_at(&fields, 4));
            mend_entries(file, offset, u64::from(length));
        }
    }
    for table in [192 * KIB, 256 * KIB] {
        mend(file, b"regi", (table, to_usize(64 * KIB)), 4, crc32c);
    }
}

/// Mends the entries of the ring of `length` bytes at `offset`.
fn mend_entries(file: &mut Sparse, offset: u64, length: u64) {
    let length = length.min(4 * MIB);
    let mut found = 0;
    for start in (0..length).step_by(4096) {
        let head = file.get(offset.saturating_add(start), 12);
        let entry = usize::try_from(u32_at(&head, 8)).unwrap_or(usize::MAX);
        if !head.starts_with(b"loge") || found == ENTRIES_MAX || entry > STRUCTURE_MAX {
            continue;
        }
        found += 1;
        // An entry may go on at the start of the ring.
        let first = entry.min(to_usize(length - start));
        let mut bytes = file.get(offset + start, first);
        bytes.extend(file.get(offset, entry - first));
        if bytes.len() >= 64 {
            bytes[4..8].fill(0);
            file.put(offset + start + 4, &crc32c(&bytes));
        }
    }
}

/// Mends the sum at `field` of the structure at `place`, if it starts with `mark`.
fn mend(
    file: &mut Sparse,
    mark: &[u8],
    place: (u64, usize),
    field: usize,
    sum: fn(&[u8]) -> [u8; 4],
) {
    let (start, len) = place;
    let mut bytes = file.get(start, len);
    if bytes.starts_with(mark) {
        bytes[field..field + 4].fill(0);
        file.put(start.saturating_add(to_u64(field)), &sum(&bytes));
    }
}

/// Mends the header, the metadata blocks and the records of a replication log.
pub fn hrl(bytes: &mut [u8]) {
    if bytes.len() < 4096 {
        return;
    }
    bytes[40..44].fill(0);
    let sum = little_sum(&bytes[..4096]);
    bytes[40..44].copy_from_slice(&sum);
    let size = usize::try_from(u32_at(bytes, 56)).unwrap_or(usize::MAX);
    let end = usize::try_from(u64_at(bytes, 44)).unwrap_or(usize::MAX);
    if !(64..=STRUCTURE_MAX).contains(&size) || end > bytes.len() {
        return;
    }
    let key = (&bytes[16..20] == b"srec").then(|| array::<16>(bytes, 60));
    // Where the log is open, its blocks are looked for from the start, else they lead from the end to the start.
    let mut at = if end == 0 {
        Some(4096)
    } else {
        end.checked_sub(size)
    };
    for _ in 0..BLOCKS_MAX {
        let Some(block) = at.filter(|at| *at >= 4096 && at + size <= bytes.len()) else {
            return;
        };
        let key = key.map(|uuid| uuid_bytes(&uuid));
        mend_block(&mut bytes[block..block + size], key.as_ref());
        let back = usize::try_from(u64_at(bytes, block)).unwrap_or(usize::MAX);
        at = if end == 0 {
            following(bytes, block, size)
        } else {
            block.checked_sub(back).filter(|before| *before < block)
        };
    }
}

/// The next place that says that it is as far from `block` as it is.
fn following(bytes: &[u8], block: usize, size: usize) -> Option<usize> {
    (block + size..bytes.len().saturating_sub(size) + 1)
        .step_by(512)
        .find(|&at| u64_at(bytes, at) == to_u64(at - block))
}

fn mend_block(block: &mut [u8], key: Option<&[u8; 16]>) {
    let count = usize::try_from(u32_at(block, 8)).unwrap_or(usize::MAX);
    for record in block[32..].chunks_exact_mut(32).take(count) {
        record[8..12].fill(0);
        let sum = little_sum(record);
        record[8..12].copy_from_slice(&sum);
    }
    if let Some(key) = key {
        let mut whole = [0; 32];
        whole[..16].copy_from_slice(key);
        let mut hasher = blake3::Hasher::new_keyed(&whole);
        hasher.update(&block[..12]).update(&block[32..]);
        let hash = hasher.finalize();
        block[16..32].copy_from_slice(&hash.as_bytes()[..16]);
    }
    block[12..16].fill(0);
    let sum = little_sum(&block[..32]);
    block[12..16].copy_from_slice(&sum);
}

/// A GUID as its text reads, from how Windows stores it.
fn uuid_bytes(stored: &[u8; 16]) -> [u8; 16] {
    *uuid::Uuid::from_bytes_le(*stored).as_bytes()
}

fn complement(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().map(|&byte| u32::from(byte));
    !sum.fold(0, u32::wrapping_add)
}

fn byte_sum(bytes: &[u8]) -> [u8; 4] {
    complement(bytes).to_be_bytes()
}

fn little_sum(bytes: &[u8]) -> [u8; 4] {
    complement(bytes).to_le_bytes()
}

/// CRC-32C of the reflected polynomial 0x1EDC6F41, for each byte.
static CRC: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ CRC[usize::from(low ^ byte)]
    });
    (!crc).to_le_bytes()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
